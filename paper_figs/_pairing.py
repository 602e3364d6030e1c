"""Every initializer paired with the Jacobian spectra of deep networks that it draws."""

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

import jax
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

import isometry
from isometry import (
    InputError,
    Spectrum,
    ZeroJacobianWarning,
    data,
    networks,
    theory,
)
from isometry._internal.errors import NotDefined
from isometry._internal.types import Key, Params
from isometry.initializers import Entry, Initializer
from isometry.initializers._critical import critical_point
from isometry.plots import COLOURS
from paper_figs import _densities
from paper_figs._ensembles import largest_excess

# Arguments of a factory by name.
Arguments: TypeAlias = Mapping[str, str | float]
# The law of the weights and σ_w; or in words, why there is no such law.
Drawn: TypeAlias = tuple[str, float] | str
LawOf: TypeAlias = Callable[[str, tuple[str, float]], theory.Law | str]

ACTIVATIONS = ("linear", "tanh", "relu")
# Where densities of log₁₀ s are kept. Beyond, mass is drawn as an arrow.
GRID = np.linspace(-4, 2, 601)
# Bins of a tenth. A bin has s = 1 in its middle, so that rounding moves no isometry to
# the next one.
_EDGES = np.linspace(GRID[0], GRID[-1], 61) - 0.05

# Arguments for factories that need some, or that have variants worth a panel.
_GIVEN: dict[str, tuple[Arguments, ...]] = {
    "constant": ({"value": 0.01},),
    "critical": ({"weights": "gaussian"}, {"weights": "orthogonal"}),
    "sparse": ({"sparsity": 0.9},),
    "sparse_orthogonal": ({"density": 0.125},),
    "variance_scaling": ({"scale": 1.0, "mode": "fan_in", "distribution": "normal"},),
}
# Entries that are not weights of a dense layer, and why.
_OTHERWISE = {
    "torch_default_bias": "torch_default_bias(): a law of biases, not of weights",
    "dirac": "dirac(): a kernel of a convolution; of a dense layer it is "
    "partial_identity()",
}
# fan_in · Var(W) of a square layer, by the first word of the name.
_VARIANCES = {
    "xavier": 1.0,
    "glorot": 1.0,
    "lecun": 1.0,
    "variance": 1.0,
    "kaiming": 2.0,
    "he": 2.0,
    "torch": 1 / 3,
}
_NO_LAW = {
    "uniform": "the weights have a mean",
    "sparse": "entries of a column depend on each other",
}


class Pairing(NamedTuple):
    """One initializer and one activation, end to end.

    Attributes:
        initializer: The initializer as a user would write it.
        activation: The activation.
        log_s: ln s, the largest first; −inf for zeros and for what float64 does not
            resolve.
        deviation: √E(s − 1)² of each network.
        density: That of log₁₀ s by the law at `GRID`; NaN where there is no law.
        atom: The topmost point mass of the law off zero as (lam, mass), of mass 0 if
            there is none; NaN where there is no law.
        law: The name of the law, or why networks are compared with none.
        excess: The largest gap between networks and law over its band; up to 1 they are
            consistent. NaN where they are not compared.
    """

    initializer: str
    activation: str
    log_s: Float[np.ndarray, "seeds n"]
    deviation: Float[np.ndarray, " seeds"]
    density: Float[np.ndarray, " grid"]
    atom: tuple[float, float]
    law: str
    excess: float


class Pairings(NamedTuple):
    """Initializers with their spectra.

    Attributes:
        rows: Three for each initializer, nearest to isometry first.
        left_out: The names of entries that cannot be weights of a square layer, with
            the reason.
    """

    rows: list[Pairing]
    left_out: dict[str, str]


class _Setup(NamedTuple):
    """What the networks of all initializers share.

    Attributes:
        keys: The key of each seed.
        xs: One input.
        widths: The width of each layer.
        law_of: From an activation and its weights to the law.
    """

    keys: Key
    xs: Float[Array, "1 width"]
    widths: list[int]
    law_of: LawOf


def pairings(
    key: Key,
    *,
    width: int,
    depth: int,
    seeds: int,
    entries: Sequence[Entry],
) -> Pairings:
    """Measure networks of equal widths without biases, at one input with |x|²/n = 1.

    Each initializer draws linear, tanh and ReLU networks, in float64. Initializers are
    sorted by the median over the three of the median √E(s − 1)² over seeds. A Jacobian
    that vanished deviates by 1.

    Args:
        key: The key of the input and of all weights.
        width: The number of units of every layer.
        depth: The number of layers with weights, at least 3.
        seeds: The number of networks of each kind, at least 5.
        entries: Entries of the catalogue. For arguments without a default, values are
            chosen here and shown.

    Returns:
        The pairings.
    """
    of_initializers = []
    left_out = {}
    # float64, and laws and input alike for all.
    with jax.enable_x64(True):
        key_x, key_w = jax.random.split(key)
        drawn = jax.random.normal(key_x, (1, width))
        setup = _Setup(
            keys=jax.random.split(key_w, seeds),
            xs=data.normalize(drawn, 1.0),
            widths=[width] * (depth + 1),
            law_of=functools.cache(functools.partial(_law, length=depth)),
        )
        for entry in entries:
            try:
                of_initializers += [
                    _of(entry, arguments, setup)
                    for arguments in _GIVEN.get(entry.name, ({},))
                ]
            except InputError as error:
                left_out[entry.name] = str(error)
    of_initializers.sort(key=_typical_deviation)
    rows = [row for of_initializer in of_initializers for row in of_initializer]
    return Pairings(rows=rows, left_out=left_out)


def _typical_deviation(rows: Sequence[Pairing]) -> float:
    """Return the median over networks of the median √E(s − 1)² over seeds."""
    medians = sorted(float(np.median(row.deviation)) for row in rows)
    return medians[1]


def _of(entry: Entry, arguments: Arguments, setup: _Setup) -> list[Pairing]:
    """Return the three pairings of an initializer; refuse what is no square layer's."""
    if entry.name in _OTHERWISE:
        raise InputError(_OTHERWISE[entry.name])
    written = ", ".join(_written(name, value) for name, value in arguments.items())
    # Critical weights are solved for an activation; others are the same for each, and
    # need not be drawn again.
    is_solved = entry.name == "critical"
    params = None
    rows = []
    for activation in ACTIVATIONS:
        init = _initializer(entry, arguments, activation)
        net = networks.mlp(setup.widths, activation, init, bias=False, dtype=np.float64)
        if params is None or is_solved:
            params = jax.vmap(net.init)(setup.keys)
        sp = _spectrum(net, params, setup.xs)
        law = _drawn(
            entry.name, arguments, init, activation=activation, n=setup.widths[0]
        )
        # Otherwise it says why there is none.
        if not isinstance(law, str):
            law = setup.law_of(activation, law)
        rows.append(_row(f"{entry.name}({written})", activation, sp, law=law))
    return rows


def _written(name: str, value: str | float) -> str:
    """Return an argument as the title of a panel says it."""
    # Names such as "fan_in" speak for themselves.
    if isinstance(value, str):
        return value
    return f"{name}={value}"


def _initializer(entry: Entry, arguments: Arguments, activation: str) -> Initializer:
    """Return an entry's initializer for networks of this activation."""
    if entry.name == "critical":
        arguments = {"activation": activation, **arguments}
    return cast(Initializer, entry.factory(**arguments))


def _spectrum(
    net: networks.Network,
    params: Params,
    xs: Float[Array, "1 width"],
) -> Spectrum:
    """Return the spectra of networks."""
    with warnings.catch_warnings():
        # The catalogue has initializers that are zero, and here they are compared with
        # all others.
        warnings.simplefilter("ignore", ZeroJacobianWarning)
        return isometry.ensemble(net, params=params, xs=xs, method="dense")


def _row(
    label: str,
    activation: str,
    sp: Spectrum,
    *,
    law: theory.Law | str,
) -> Pairing:
    """Return a pairing, compared with its law where there is one."""
    is_resolved = np.asarray(sp.resolved)
    log_s = np.where(is_resolved, np.asarray(sp.log_values), -np.inf)
    without_law = Pairing(
        initializer=label,
        activation=activation,
        log_s=log_s[:, 0],
        deviation=np.asarray(sp.isometry_deviation())[:, 0],
        density=np.full(GRID.shape, np.nan),
        atom=(math.nan, math.nan),
        law=str(law),
        excess=math.nan,
    )
    if isinstance(law, str):
        return without_law
    per_decade = math.log(10)
    density = np.asarray(law.density(GRID * per_decade, "log_s")) * per_decade
    with_law = without_law._replace(density=density, atom=_top_atom(law), law=law.name)
    try:
        comparison = isometry.compare(sp, law)
    except InputError as error:
        # Hardly a value is resolved, so that there is nothing to compare.
        return with_law._replace(law=str(error))
    return with_law._replace(excess=largest_excess(comparison))


def _top_atom(law: theory.Law) -> tuple[float, float]:
    """Return the topmost point mass off zero as (lam, mass), or one of mass 0."""
    atoms = [(atom.lam, atom.mass) for atom in law.atoms if atom.lam > 0]
    return max(atoms, default=(1.0, 0.0))


def _drawn(
    name: str,
    arguments: Arguments,
    init: Initializer,
    activation: str,
    n: int,
) -> Drawn:
    """Return the ensemble whose law at infinite width square layers have.

    Weights that are independent, centred and of one variance have the law of Gaussian
    ones, because singular values are universal.

    Args:
        name: The name of the entry.
        arguments: The arguments of its factory.
        init: The initializer.
        activation: What critical weights are solved for.
        n: The width.

    Returns:
        The law of the weights and σ_w, or why there is no such law.
    """
    if name == "critical":
        return str(arguments["weights"]), critical_point(activation).sigma_w
    if name == "orthogonal":
        return "orthogonal", 1.0
    if name == "normal":
        return "gaussian", math.sqrt(n)
    if name == "truncated_normal":
        return "gaussian", math.sqrt(n) * _truncated_std()
    family = name.split("_")[0]
    if family in _VARIANCES:
        return "gaussian", math.sqrt(_VARIANCES[family])
    if name in _NO_LAW:
        return _NO_LAW[name]
    if init.random:
        return "weights with a structure"
    return "the weights are not random"


def _truncated_std() -> float:
    """Return the standard deviation of a standard normal number between −2 and 2."""
    return float(stats.truncnorm.std(-2, 2))


def _law(activation: str, drawn: tuple[str, float], length: int) -> theory.Law | str:
    """Return the law end to end, from |x|²/n = 1; or why there is none."""
    weights, sigma_w = drawn
    # The variance of the pre-activations of each hidden layer.
    q = theory.q_trajectory(
        activation,
        q0=sigma_w**2,
        sigma_w=sigma_w,
        sigma_b=0.0,
        depth=length - 2,
    )
    num_pairs = length - 1
    try:
        return theory.jacobian_law(
            activation,
            num_pairs,
            q=q.tolist(),
            sigma_w=[sigma_w] * num_pairs,
            weights=weights,
            head=sigma_w,
        )
    except (NotDefined, ArithmeticError) as error:
        return str(error)


def picture(rows: Sequence[Pairing]) -> Figure:
    """Draw a small panel for each initializer, and a colour for each activation.

    Marks are densities of log₁₀ s with two standard errors over seeds, lines are laws,
    and a triangle is the topmost point mass of a law, at the height that it has in the
    histogram. Arrows give the mass beyond the axis, on the left with the zeros. Under
    each name stands √E(s − 1)² of the three networks, the median over seeds.

    Args:
        rows: Pairings, whose order is that of the panels.

    Returns:
        The figure.
    """
    names = list(dict.fromkeys(row.initializer for row in rows))
    columns = 4
    num_rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(7.2, 1.15 * num_rows + 0.9), layout="constrained")
    axes = figure.subplots(num_rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = axes.ravel()
    for ax, name in zip(panels, names, strict=False):
        shown = [row for row in rows if row.initializer == name]
        _draw_initializer(ax, shown)
    panels[0].set(yscale="log", ylim=(0.01, 30), xlim=(GRID[0], GRID[-1]))
    for ax in panels[len(names) :]:
        ax.remove()
    # The last panel of each column has the label of the axis.
    for ax in panels[: len(names)][-columns:]:
        ax.set_xlabel("log$_{10}$ s", fontsize=7)
        ax.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("density", fontsize=7)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title="density of log₁₀ s, and under each name √E(s − 1)², for",
        loc="outside upper center",
        ncols=len(ACTIVATIONS),
        fontsize=7,
        title_fontsize=7,
    )
    return figure


def _draw_initializer(ax: Axes, rows: Sequence[Pairing]) -> None:
    """Draw the panel of an initializer."""
    for i, row in enumerate(rows):
        _draw_row(ax, row, i)
    deviations = ", ".join(f"{np.median(row.deviation):.2g}" for row in rows)
    ax.set_title(f"{rows[0].initializer}\n{deviations}", fontsize=5.5)
    ax.tick_params(labelsize=6)


def _draw_row(ax: Axes, row: Pairing, i: int) -> None:
    """Draw one activation of a panel."""
    log10_s = row.log_s / math.log(10)
    # Activations may coincide, so that earlier ones have larger marks.
    size = (3.2, 2.4, 1.6)[i]
    _densities.draw_values(ax, log10_s, _EDGES, i=i, label=row.activation, size=size)
    _densities.draw_law(ax, GRID, row.density, i=i)
    lam, mass = row.atom
    if mass > 0:
        place = math.log10(lam) / 2
        _densities.draw_atom(ax, place, mass, edges=_EDGES, i=i, size=5)
    below = np.mean(log10_s < _EDGES[0])
    above = np.mean(log10_s > _EDGES[-1])
    # Less than half a per cent is not worth an arrow.
    if below >= 0.005:
        _write(ax, f"◂ {below:.0%}", i=i, side="left")
    if above >= 0.005:
        _write(ax, f"{above:.0%} ▸", i=i, side="right")


def _write(ax: Axes, text: str, *, i: int, side: str) -> None:
    """Write the mass beyond one side of the axis."""
    place = {"left": 0.02, "right": 0.98}
    ax.text(
        place[side],
        0.9 - 0.13 * i,
        text,
        ha=side,
        va="center",
        fontsize=4.5,
        color=COLOURS[i],
        transform=ax.transAxes,
    )
