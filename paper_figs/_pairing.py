"""Every initializer of the catalogue paired with the Jacobian spectrum of one deep network that starts from it."""

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from isometry import InputError, Spectrum, ZeroJacobianWarning, compare, data, ensemble, networks, theory
from isometry._checks import NotDefined
from isometry.initializers import Entry
from isometry.initializers._critical import critical_point
from isometry.plots import COLOURS, MARKS

ACTIVATIONS = ("linear", "tanh", "relu")
GRID = np.linspace(-4, 2, 601)
"""log10 s at which the laws' densities are kept."""
_GIVEN = {
    "constant": ({"value": 0.01},),
    "critical": ({"weights": "gaussian"}, {"weights": "orthogonal"}),
    "sparse": ({"sparsity": 0.9},),
    "sparse_orthogonal": ({"density": 0.125},),
    "variance_scaling": ({"scale": 1.0, "mode": "fan_in", "distribution": "normal"},),
}
_OTHERWISE = {
    "torch_default_bias": "torch_default_bias(): a law of biases, not of weights",
    "dirac": "dirac(): a kernel of a convolution; of a dense layer it is partial_identity()",
}
_VARIANCES = {"xavier": 1.0, "glorot": 1.0, "lecun": 1.0, "variance": 1.0, "kaiming": 2.0, "he": 2.0, "torch": 1 / 3}
"""fan_in · Var(W) of a square layer, by the first word of the name."""
_NO_LAW = {"uniform": "the weights have a mean", "sparse": "entries of a column depend on each other"}


class Pairing(NamedTuple):
    """One initializer, one activation: end to end, over seeds.

    - `log_s`: (seeds, n) ln s descending, −inf for zeros and for what float64 does not resolve; `deviation`: (seeds,),
      √E(s − 1)².
    - `density`: of log10 s at `GRID`, the law's, and `atom` its topmost atom (lam, mass), mass 0 for none; NaN where
      there is no law.
    - `excess`: the largest gap between the two over its band, by `isometry.compare`: consistent up to 1; NaN where they
      cannot be compared, and `law` says why; otherwise it is the law's name.
    """

    initializer: str
    activation: str
    log_s: np.ndarray
    deviation: np.ndarray
    density: np.ndarray
    atom: tuple[float, float]
    law: str
    excess: float


class Pairings(NamedTuple):
    """`rows`: a list of `Pairing`, three an initializer, nearest to isometry first; `left_out`: name → why."""

    rows: list[Pairing]
    left_out: dict[str, str]


def pairings(key: Any, *, width: int, depth: int, seeds: int, entries: Sequence[Entry]) -> Pairings:
    """Measure linear, tanh and ReLU networks of equal widths, without biases, at one input with |x|²/n = 1.

    Initializers are sorted by the median over the three networks of the median √E(s − 1)² over seeds; a Jacobian that
    vanished deviates by 1. Arguments without a default are chosen here and shown. In float64.

    Args:
        key: Of the input and of all weights.
        width: Units of every layer.
        depth: Weight layers, at least 3.
        seeds: Networks of each kind, at least 5.
        entries: Of the catalogue.

    Returns:
        A row for each initializer and activation, and the entries that cannot be the weight of a square layer.
    """
    found, left_out = [], {}
    law_of = functools.cache(functools.partial(_law, length=depth))
    with jax.enable_x64(True):
        key_x, key_w = jax.random.split(key)
        xs = data.normalize(jax.random.normal(key_x, (1, width)), 1.0)
        keys, widths = jax.random.split(key_w, seeds), [width] * (depth + 1)
        for entry in entries:
            try:
                found += [_of(entry, given, keys, xs, widths, law_of) for given in _GIVEN.get(entry.name, ({},))]
            except InputError as error:
                left_out[entry.name] = str(error)
    found.sort(key=lambda rows: sorted(float(np.median(row.deviation)) for row in rows)[1])
    return Pairings([row for rows in found for row in rows], left_out)


def _of(entry: Entry, given: dict, keys: Any, xs: Any, widths: list[int], law_of: Any) -> list[Pairing]:
    """The three pairings of one initializer.

    **Raises** `ValueError`: it cannot be the weight of a square layer.
    """
    if entry.name in _OTHERWISE:
        raise InputError(_OTHERWISE[entry.name])
    params, rows = None, []
    for activation in ACTIVATIONS:
        solved = {"activation": activation} if entry.name == "critical" else {}
        init = entry.factory(**solved, **given)
        net = networks.mlp(widths, activation, init, bias=False, dtype=np.float64)
        if params is None or solved:  # otherwise every activation has the same weights
            params = jax.vmap(net.init)(keys)
        with warnings.catch_warnings():
            # The catalogue has initializers that are zero, and here they are compared with all others.
            warnings.simplefilter("ignore", ZeroJacobianWarning)
            sp = ensemble(net, params=params, xs=xs, method="dense")
        drawn = _drawn(entry.name, given, init, activation, widths[0])
        law = drawn if isinstance(drawn, str) else law_of(activation, drawn)
        written = ", ".join(value if isinstance(value, str) else f"{name}={value}" for name, value in given.items())
        rows.append(_row(f"{entry.name}({written})", activation, sp, law))
    return rows


def _row(label: str, activation: str, sp: Spectrum, law: theory.Law | str) -> Pairing:
    log_s = np.where(np.asarray(sp.resolved), np.asarray(sp.log_values), -np.inf)[:, 0]
    measured = (label, activation, log_s, np.asarray(sp.isometry_deviation())[:, 0])
    if isinstance(law, str):
        return Pairing(*measured, np.full(GRID.shape, np.nan), (math.nan, math.nan), law, math.nan)
    atom = max(((a.lam, a.mass) for a in law.atoms if a.lam > 0), default=(1.0, 0.0))
    density = law.density(GRID * np.log(10), "log_s") * np.log(10)
    try:
        found = compare(sp, law)
    except InputError as error:  # hardly a value is resolved
        return Pairing(*measured, density, atom, str(error), math.nan)
    return Pairing(*measured, density, atom, law.name, max(found.band[k].excess(gap) for k, gap in found.gaps.items()))


def _drawn(name: str, given: dict, init: Any, activation: str, n: int) -> tuple[str, float] | str:
    """(weights, sigma_w) of the ensemble whose law at infinite width a square layer of this initializer has, or why
    there is none.

    Entries that are independent, centred and of one variance have that of Gaussian ones: singular values are universal.
    """
    if name == "critical":
        return given["weights"], critical_point(activation).sigma_w
    if name == "orthogonal":
        return "orthogonal", 1.0
    if name in ("normal", "truncated_normal"):
        return "gaussian", math.sqrt(n) * (_truncated_std() if name != "normal" else 1.0)
    variance = _VARIANCES.get(name.split("_")[0])
    if variance is not None:
        return "gaussian", math.sqrt(variance)
    return _NO_LAW.get(name, "weights with a structure" if init.random else "the weights are not random")


def _truncated_std() -> float:
    """Of the standard normal distribution between −2 and 2."""
    from scipy import stats

    return float(stats.truncnorm.std(-2, 2))


def _law(activation: str, drawn: tuple[str, float], length: int) -> theory.Law | str:
    """End to end, from |x|²/n = 1, or why there is none."""
    weights, sigma_w = drawn
    q = theory.q_trajectory(activation, sigma_w**2, sigma_w, 0.0, length - 2).tolist()
    try:
        return theory.jacobian_law(activation, length - 1, q, [sigma_w] * (length - 1), weights=weights, head=sigma_w)
    except (NotDefined, ArithmeticError) as error:
        return str(error)


def picture(rows: Sequence[Pairing]) -> Any:
    """Draw a small panel an initializer, in the order given, a colour an activation.

    Marks: densities of log10 s, mean over seeds with two standard errors; lines: the law, where there is one, a
    triangle its atom at the height it has in the histogram. Arrows: mass beyond the axis, on the left with the zeros.
    Under each name √E(s − 1)² of the three networks, median over seeds.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.initializer for row in rows))
    high = -(-len(names) // 4)
    figure = Figure(figsize=(7.2, 1.15 * high + 0.9), layout="constrained")
    axes = figure.subplots(high, 4, sharex=True, sharey=True, squeeze=False)
    for ax, name in zip(axes.ravel(), names, strict=False):
        shown = [row for row in rows if row.initializer == name]
        for i, row in enumerate(shown):
            _paired(ax, row, i)
        deviations = ", ".join(f"{np.median(row.deviation):.2g}" for row in shown)
        ax.set_title(f"{name}\n{deviations}", fontsize=5.5)
        ax.tick_params(labelsize=6)
    axes[0, 0].set(yscale="log", ylim=(0.01, 30), xlim=(GRID[0], GRID[-1]))
    for ax in axes.ravel()[len(names) :]:
        ax.remove()
    for i in range(min(4, len(names))):
        last = axes[(len(names) - 1 - i) // 4, i]
        last.set_xlabel("log$_{10}$ s", fontsize=7)
        last.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("density", fontsize=7)
    handles = list(axes[0, 0].containers)
    title = "density of log₁₀ s, and under each name √E(s − 1)², for"
    names = [h.get_label() for h in handles]
    figure.legend(handles, names, title=title, loc="outside upper center", ncols=3, fontsize=7, title_fontsize=7)
    return figure


def _paired(ax: Any, row: Pairing, i: int) -> None:
    """One activation of one panel."""
    edges = np.linspace(GRID[0], GRID[-1], 61) - 0.05  # s = 1 lies inside a bin
    step, logs = edges[1] - edges[0], row.log_s / math.log(10)
    heights = np.array([np.histogram(seed, edges)[0] for seed in logs]) / logs.shape[1] / step
    mean, error = heights.mean(0), 2 * heights.std(0, ddof=1) / math.sqrt(len(heights))
    some, middle = mean > 0, (edges[1:] + edges[:-1]) / 2
    style = {"color": COLOURS[i], "marker": MARKS[i], "ls": "none", "ms": 1.8, "lw": 0.5, "label": row.activation}
    ax.errorbar(middle[some], mean[some], error[some], **style)
    ax.plot(GRID, np.where(row.density > 0, row.density, np.nan), color=COLOURS[i], lw=0.9, zorder=3)
    lam, mass = row.atom
    if mass > 0:
        ax.plot(math.log10(lam) / 2, mass / step, "v", color=COLOURS[i], ms=5, mfc="none", zorder=4)
    beyond = {"left": f"◂ {(logs < edges[0]).mean():.0%}", "right": f"{(logs > edges[-1]).mean():.0%} ▸"}
    for side, text in beyond.items():
        if " 0%" not in f" {text}":
            at = (0.02 if side == "left" else 0.98, 0.9 - 0.13 * i)
            ax.text(*at, text, ha=side, va="center", fontsize=4.5, color=COLOURS[i], transform=ax.transAxes)
