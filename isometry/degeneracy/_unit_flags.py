"""Units that no input moves: dead_units."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _precision
from isometry.degeneracy._certify import Certificate
from isometry.degeneracy._flag import CLEAR, RAISED, UNDECIDED, Flag, Thresholds, unsure
from isometry.networks import Network

_DRAWS = 16384  # Gaussian vectors behind each null probability
_REMEDY = "smaller negative biases, a leaky activation, or weights that reach every unit (orthogonal, gaussian)"
_CERTIFIED = "supports of activation and signal over all steps of training: exact"
_SOURCE = "binomial with the Gaussian orthant probability at the measured correlation of the inputs"


@functools.partial(jax.jit, static_argnames=("function",))
def pre_activations(function: Any, params: Any, xs: Any) -> list[Any]:
    """z_1 … z_{depth-1} over seeds × inputs, each (seeds, inputs, units)."""
    with _precision.full():
        one = jax.vmap(jax.vmap(function.pre_activations, (None, 0)), (0, None))
        return one(params, xs)


def dead_units(
    net: Network, params: Any, xs: Any, limits: Thresholds, key: Any, certificates: Sequence[Certificate] = ()
) -> Flag:
    """Units that are certified dead in any seed: neither activation nor signal reaches them at any step. Else

    units whose slope phi' is exactly zero at all M inputs, against how many a healthy layer would show.

    Healthy units are not all alive on few inputs: if the inputs are correlated, the pre-activations of one unit share
    their sign, and as the correlation goes to 1 half of all ReLU units look dead. The null count is therefore binomial
    with the probability that a Gaussian vector with the layer's measured covariance has no slope anywhere, estimated
    by simulation and taken at its 99 % upper bound. Pooled over seeds; the level is shared out over the layers.
    """
    from scipy.stats import beta, binom

    name, seeds = "dead_units", jax.tree.leaves(params)[0].shape[0]
    layers = pre_activations(net.function, params, xs)
    rows, inputs = [], len(xs)
    for i, z in enumerate(layers):
        slope = np.asarray(net.activation.slope(z))
        dead = int((slope == 0).all(1).sum())
        units = slope.shape[0] * slope.shape[2]
        row = {"layer": i + 1, "dead": dead, "units": units, "null_probability": 0.0, "null_quantile": 0}
        if dead:
            hits = _null_hits(net.activation, z, jax.random.fold_in(key, i))
            p = float(beta.ppf(0.99, hits + 1, _DRAWS - hits)) if hits < _DRAWS else 1.0
            row["null_probability"] = p
            row["null_quantile"] = int(binom.ppf(1 - (1 - limits.dead_level) / len(layers), units, p))
        rows.append(row)
    evidence = {"inputs": inputs, "layers": rows, "active_share_bound": 3 / inputs}
    if not rows:
        return Flag(name, CLEAR, "no hidden units", source=_SOURCE, evidence=evidence)
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
        return Flag(name, RAISED, reason, _REMEDY, count / unit.width, None, 0, _CERTIFIED, evidence)
    return Flag(name, state, reason, _REMEDY, share, None, worst["null_quantile"] / worst["units"], _SOURCE, evidence)


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
        noise = np.asarray(jax.random.normal(jax.random.fold_in(key, i), (per_seed, len(root)), jnp.float32))
        slope = np.asarray(activation.slope(jnp.asarray(noise @ root.T, z.dtype)))
        hits += int((slope == 0).all(1).sum())
    return hits * _DRAWS // (per_seed * len(flat))
