"""Every initializer of the catalogue paired with the Jacobian spectrum of one deep network that starts from it."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from isometry import _checks, data, initializers, networks, theory
from isometry._compare import compare
from isometry._ensemble import ensemble
from isometry._spectrum import Spectrum
from isometry.initializers import Entry
from isometry.initializers._critical import critical_point

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
_OTHERWISE = {"torch_default_bias": "torch_default_bias(): a law of biases, not of weights"}
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

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers; quantiles for the values, None for what does not exist."""
        shares = (0.05, 0.25, 0.5, 0.75, 0.95)
        quantiles = np.quantile(self.log_s, shares, method="lower")
        known = not math.isnan(self.excess)
        return {
            "initializer": self.initializer, "activation": self.activation,
            "isometry_deviation": np.median(self.deviation), "deviations": self.deviation,
            "zero_fraction": np.isneginf(self.log_s).mean(),
            "log_s_quantiles": dict(zip(map(str, shares), quantiles, strict=True)),
            "law": self.law if known else None, "no_law": None if known else self.law,
            "excess": self.excess if known else None,
        }  # fmt: skip


class Pairings(NamedTuple):
    """`rows`: a list of `Pairing`, three an initializer, nearest to isometry first; `left_out`: name → why."""

    rows: list[Pairing]
    left_out: dict[str, str]


def pairings(
    key: Any,
    *,
    width: int = 128,
    depth: int = 32,
    seeds: int = 6,
    entries: tuple[Entry, ...] | None = None,
    tell: Callable[[str], None] = lambda stage: None,
) -> Pairings:
    """Spectra of linear, tanh and ReLU networks of equal widths, without biases, at one input with |x|²/n = 1.

    Initializers are sorted by the median over the three networks of the median √E(s − 1)² over seeds; a Jacobian that
    vanished deviates by 1. Arguments without a default are chosen here and shown. `entries`: of the catalogue, None for
    all; `tell` is called before each. In float64. Cost: about two minutes at the defaults.

    **Raises** `ValueError`: fewer than five seeds, a width below 2 or depth below 3, not a key.
    """
    call = "pairings"
    _checks.key(call, key)
    _checks.integer(call, low=2, width=width)
    _checks.integer(call, low=3, depth=depth)
    _checks.integer(call, low=5, seeds=seeds)
    found, left_out = [], {}
    law_of = functools.cache(functools.partial(_law, length=depth))
    with jax.enable_x64(True):
        key_x, key_w = jax.random.split(key)
        xs = data.normalize(jax.random.normal(key_x, (1, width)), 1.0)
        keys, widths = jax.random.split(key_w, seeds), [width] * (depth + 1)
        for entry in initializers.catalogue() if entries is None else entries:
            tell(entry.name)
            try:
                found += [_of(entry, given, keys, xs, widths, law_of) for given in _GIVEN.get(entry.name, ({},))]
            except _checks.InputError as error:
                left_out[entry.name] = str(error)
    found.sort(key=lambda rows: sorted(float(np.median(row.deviation)) for row in rows)[1])
    return Pairings([row for rows in found for row in rows], left_out)


def _of(entry: Entry, given: dict, keys: Any, xs: Any, widths: list[int], law_of: Any) -> list[Pairing]:
    """The three pairings of one initializer.

    **Raises** `ValueError`: it cannot be the weight of a square layer.
    """
    if entry.name in _OTHERWISE:
        raise _checks.InputError(_OTHERWISE[entry.name])
    params, rows = None, []
    for activation in ACTIVATIONS:
        solved = {"activation": activation} if entry.name == "critical" else {}
        init = entry.factory(**solved, **given)
        net = networks.mlp(widths, activation, init, bias=False, dtype=np.float64)
        if params is None or solved:  # otherwise every activation has the same weights
            params = jax.vmap(net.init)(keys)
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
    except _checks.InputError as error:  # hardly a value is resolved
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
    except (_checks.NotDefined, ArithmeticError) as error:
        return str(error)
