"""Units that no input moves, and units that hardly any does: dead_units, saturated_units."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from isometry import _checks, theory
from isometry._internal import compilation, precision, randomness
from isometry.activations import Activation
from isometry.degeneracy._certify import Certificate
from isometry.degeneracy._flag import CLEAR, RAISED, UNDECIDED, Flag, Thresholds, above, interval, unsure
from isometry.networks._mlp import Mlp as Network

_DRAWS = 16384  # Gaussian vectors behind each null probability: a standard error of at most 1/(2·128) = 0.4 %
_CERTIFIED = "supports of activation and signal over all steps of training: exact"
_SOURCE = "binomial with the Gaussian orthant probability at the measured correlation, or of dead among one-sided units"
_DEAD_REMEDY = "smaller negative biases, a leaky activation, or weights that reach every unit (orthogonal, gaussian)"
_MIDPOINTS = 1 << 16  # of the normal distribution, behind the null share of saturated units: exact to 1 in 65536
_FAR = np.array([-1e30, 1e30], np.float32)  # where a bounded phi is flat
_SATURATION = "below {share:g} of the largest slope (convention); binomial null at pre-activations of {basis}"
_SATURATION_REMEDY = "smaller sigma_w and sigma_b, or inputs scaled to unit variance"


@functools.partial(compilation.jit, static_argnames=("function",))
def pre_activations(function: Any, params: Any, xs: Any) -> list[Any]:
    """z_1 … z_{depth-1} over seeds × inputs, each (seeds, inputs, units)."""
    with precision.full():
        one = jax.vmap(jax.vmap(function.pre_activations, (None, 0)), (0, None))
        return one(params, xs)


@functools.partial(compilation.jit, static_argnames=("function",))
def all_layers(function: Any, params: Any, xs: Any) -> list[Any]:
    """z_1 … z_depth over seeds × inputs."""
    one = lambda p, x: [*function.pre_activations(p, x), function(p, x)]  # noqa: E731
    with precision.full():
        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(params, xs)


@functools.partial(compilation.jit, static_argnames=("activation",))
def slopes(activation: Activation, z: Any) -> Any:
    """phi' at every entry of z, as one program."""
    return activation.slope(z)


def overflowing(layers: list[Any]) -> str:
    """The first pre-activation of `layers` that is not finite, in words; empty if there is none."""
    for i, z in enumerate(layers):
        if not np.isfinite(z).all():
            seed, example, unit = (int(n) for n in np.argwhere(~np.isfinite(z))[0])
            return f"z_{i + 1} overflows {z.dtype} in seed {seed}, at input {example} and unit {unit}"
    return ""


def dead_units(
    net: Network, layers: list[Any], limits: Thresholds, key: Any, certificates: Sequence[Certificate] = ()
) -> Flag:
    """Units that no training can revive, by certificate; else those without slope at all M inputs, if too many.

    Healthy units are not all alive on few inputs: if the inputs are correlated, the pre-activations of one unit share
    their sign, and as the correlation goes to 1 half of all ReLU units look dead. The null count is therefore binomial
    with the probability that a Gaussian vector with the layer's measured covariance has no slope anywhere, estimated
    by simulation and taken at its 99 % upper bound. Many dead units spoil that covariance, so there is a second null:
    where z and −z are alike in law, as they are of weights and biases without a mean, a unit dead at one sign of z is
    dead at the other as often: binomial ½ among both. Half the level each. Pooled over seeds; the level is shared out
    over the layers.

    `layers`: what `pre_activations` returns.
    """
    from scipy.stats import beta, binom

    name = "dead_units"
    if not layers:
        return Flag(name, CLEAR, "no hidden units", _DEAD_REMEDY, source=_SOURCE, evidence={"layers": []})
    rows, (seeds, inputs) = [], layers[0].shape[:2]
    for i, z in enumerate(layers):
        slope = np.asarray(slopes(net.activation, z))
        dead = int((slope == 0).all(1).sum())
        units = slope.shape[0] * slope.shape[2]
        row = {"layer": i + 1, "dead": dead, "units": units, "null_probability": 0.0, "null_quantile": 0}
        if dead:
            hits = _null_hits(net.activation, z, jax.random.fold_in(key, i))
            p = float(beta.ppf(0.99, hits + 1, _DRAWS - hits)) if hits < _DRAWS else 1.0
            mirrored = int((np.asarray(slopes(net.activation, -np.asarray(z))) == 0).all(1).sum())
            level = 1 - (1 - limits.dead_level) / len(layers) / 2
            row |= {"mirrored": mirrored, "null_probability": p}
            row["null_quantile"] = int(min(binom.ppf(level, units, p), binom.ppf(level, dead + mirrored, 0.5)))
        rows.append(row)
    evidence = {"inputs": inputs, "layers": rows, "active_share_bound": 3 / inputs}
    worst = max(rows, key=lambda r: (r["dead"] - r["null_quantile"]) / r["units"])
    excess = worst["dead"] > worst["null_quantile"]
    share = worst["dead"] / worst["units"]
    state = (RAISED if excess else CLEAR) if seeds >= limits.least_seeds else UNDECIDED
    reason = f"{worst['dead']} of {worst['units']} units of z_{worst['layer']} have no slope at any of {inputs} inputs"
    if state == UNDECIDED:
        reason += f"; {unsure(seeds, limits)}"
    elif state == CLEAR and worst["dead"]:
        reason += f"; chance alone gives up to {worst['null_quantile']}"
    gone = [(int(u.dead.sum()), u) for c in certificates for u in c.units if u.dead.any()]
    if gone:
        count, unit = max(gone, key=lambda g: g[0] / g[1].width)
        reason = f"{count} of {unit.width} units of z_{unit.layer} are dead at every step: no weight reaches them"
        evidence["certified"] = [[int(u.dead.sum()) for u in c.units] for c in certificates]
        return Flag(name, RAISED, reason, _DEAD_REMEDY, count / unit.width, None, 0, _CERTIFIED, evidence)
    threshold = worst["null_quantile"] / worst["units"]
    return Flag(name, state, reason, _DEAD_REMEDY, share, None, threshold, _SOURCE, evidence)


def _null_hits(activation: Any, z: Any, key: Any) -> int:
    """How many of `_DRAWS` Gaussian vectors with the covariance of z over inputs have no slope at any input."""
    flat = np.asarray(z, float).transpose(0, 2, 1)  # seeds, units, inputs
    hits, per_seed = 0, _DRAWS // len(flat)
    for i, units in enumerate(flat):
        covariance = units.T @ units / len(units)
        if not covariance.any():  # every unit sits on exact zero: no scale to compare with, so the unit one
            covariance = np.eye(len(covariance))
        value, vector = np.linalg.eigh(covariance)
        root = vector * np.sqrt(np.maximum(value, 0))
        noise = np.asarray(randomness.normal(jax.random.fold_in(key, i), (per_seed, len(root)), np.dtype("float32")))
        slope = np.asarray(slopes(activation, (noise @ root.T).astype(z.dtype)))
        hits += int((slope == 0).all(1).sum())
    return hits * _DRAWS // (per_seed * len(flat))


def saturated_units(net: Network, layers: list[Any], limits: Thresholds, key: Any) -> Flag:
    """Units of a bounded phi in its flat part: |phi'| < 0.01 sup |phi'|, as a share over units and inputs.

    Compared with Gaussian pre-activations of the variance q* that criticality needs for this phi and sigma_b (45.6 for
    a sigmoid), where there is one; never below unit variance, the scale that gains and normalized inputs aim at and
    from which the variance comes down to a small q* slowly. (At the network's own q* the null would excuse whatever its
    weights do.) The null count takes the inputs of a unit for one, the widest it can be if they are correlated; the
    level is shared out over the layers. The worst layer is judged.
    """
    from scipy.stats import binom

    name = "saturated_units"
    largest = _largest_slope(net.activation)
    q, basis = (1.0, "unit variance") if largest is None else _healthy_variance(net)
    source = _SATURATION.format(share=limits.saturated_slope, basis=basis)
    if not layers or largest is None:
        why = "no hidden units" if not layers else f"{net.activation.name} is not bounded: it does not saturate"
        evidence = {"bounded": largest is not None, "layers": []}
        return Flag(name, CLEAR, why, _SATURATION_REMEDY, source=source, evidence=evidence)
    line = limits.saturated_slope * largest
    flat = [np.abs(np.asarray(slopes(net.activation, z))) < line for z in layers]
    level = 1 - (1 - limits.dead_level) / len(layers)
    null = _null_share(net.activation, line, q)
    shares = [f.mean((1, 2)) for f in flat]
    # half a unit above the quantile: a share of exactly that quantile is not in doubt
    lines = [(binom.ppf(level, f.shape[0] * f.shape[2], null) + 0.5) / (f.shape[0] * f.shape[2]) for f in flat]
    worst = int(np.argmax([share.mean() - top for share, top in zip(shares, lines, strict=True)]))
    value, bounds = float(shares[worst].mean()), interval(shares[worst], key, limits.confidence, np.mean)
    state = above(value, bounds, lines[worst], len(shares[worst]), limits)
    reason = f"{100 * value:.2g} % of the units of z_{worst + 1} are saturated"
    reason += f"; {unsure(len(shares[worst]), limits)}" if state == UNDECIDED else ""
    if state == CLEAR and value:
        reason += f"; {basis} alone gives up to {100 * lines[worst]:.2g} %"
    evidence = {
        "bounded": True,
        "largest_slope": largest,
        "null_probability": null,
        "null_variance": q,
        "share": [float(share.mean()) for share in shares],
        "thresholds": lines,
    }
    return Flag(name, state, reason, _SATURATION_REMEDY, value, bounds, float(lines[worst]), source, evidence)


def _healthy_variance(net: Network) -> tuple[float, str]:
    """Variance of the pre-activations of a network that is well, and what it is in words."""
    try:
        points = theory.critical_points(net.activation, net.scheme.sigma_b)
    except _checks.InputError:  # phi jumps
        points = []
    q = max((p.q for p in points if p.stable), default=0.0)
    return (q, f"the critical variance, q* = {q:.3g},") if q > 1 else (1.0, "unit variance")


def _largest_slope(activation: Any) -> float | None:
    """sup |phi'| of a bounded activation, on a grid; None for one that is not bounded."""
    one_side = np.logspace(-4, 4, 2001)
    near = np.concatenate([-one_side, [0.0], one_side]).astype(np.float32)
    value, slope = (np.abs(np.asarray(a)) for a in _values_and_slopes(activation, np.append(near, _FAR)))
    inner, far = value[:-2][np.abs(near) < 10], value[-2:]
    if not (far <= 10 * (1 + inner.max())).all():  # false for NaN as well
        return None
    return float(slope[:-2].max())


@functools.partial(compilation.jit, static_argnames=("activation",))
def _values_and_slopes(activation: Activation, z: Any) -> tuple[Any, Any]:
    return activation(z), activation.slope(z)


def _null_share(activation: Any, line: float, q: float) -> float:
    """P(|phi'(z)| < line) of a normal z of variance q, from above by one of the midpoints it is counted at."""
    from scipy.special import ndtri

    z = (math.sqrt(q) * ndtri((np.arange(_MIDPOINTS) + 0.5) / _MIDPOINTS)).astype(np.float32)
    return float((int((np.abs(np.asarray(slopes(activation, z))) < line).sum()) + 1) / _MIDPOINTS)
