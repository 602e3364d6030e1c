"""What the nodes of a spectrum determine, and where statistics are NaN instead."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry.measure._evaluating import PerNode, compiled

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum

# Which power of s a variable is.
POWER = {"lam": 2.0, "s": 1.0}


# One program for each shape, not one for each of the operations.
@jax.jit
def exp(logs: Array) -> Array:
    """Return e^x; of a NaN always NaN.

    The program of `jnp.exp(jnp.where(is_finite, x, nan))` for CPUs may leave float32
    results unwritten where `is_finite` is one value for a whole row: whatever lies in
    memory is returned (https://github.com/jax-ml/jax/issues/29537; seen in jaxlib
    0.10.0 to 0.10.2, with the optimizations that users have). The node of a matrix that
    is not finite is such a NaN.
    """
    return jnp.where(jnp.isnan(logs), logs, jnp.exp(logs))


def nan_unless_finite(sp: "Spectrum", numbers: Array) -> Array:
    """Return statistics, with NaN for matrices that are not finite.

    A NaN node counts as neither resolved nor zero, so a statistic may ignore it.
    """
    is_bad = jnp.isnan(sp.log_values).any(-1)
    num_trailing = numbers.ndim - is_bad.ndim
    is_bad = is_bad.reshape(is_bad.shape + (1,) * num_trailing)
    return jnp.where(is_bad, jnp.nan, numbers)


def nan_unless_values(sp: "Spectrum", numbers: Array) -> Array:
    """Return statistics that singular values alone determine.

    They are NaN if the nodes are those of quadratures, and for matrices that are not
    finite.
    """
    if not sp.knows_values:
        return jnp.full_like(numbers, jnp.nan)
    return nan_unless_finite(sp, numbers)


def column(
    sp: "Spectrum", points: Float[Array, " points"]
) -> Float[Array, "... points 1"]:
    """Reshape points so that they broadcast against (..., 1, nodes).

    All axes are explicit, for users who make implicit rank promotion an error.
    """
    num_batch_axes = sp.log_values.ndim - 1
    return points.reshape((1,) * num_batch_axes + (len(points), 1))


def relative(sp: "Spectrum") -> PerNode:
    """Return s/s_max, 0 for a zero matrix."""
    top = jnp.max(sp.log_values, -1, keepdims=True)
    is_finite = jnp.isfinite(top)
    ratios = jnp.exp(sp.log_values - jnp.where(is_finite, top, 0))
    return jnp.where(is_finite, ratios, 0)


def without_noise(sp: "Spectrum") -> PerNode:
    """Return ln s, -inf of what is not resolved: noise cannot be told from zero."""
    # NaN stays NaN: it says that the Jacobian was not finite.
    is_kept = sp.resolved | jnp.isnan(sp.log_values)
    return jnp.where(is_kept, sp.log_values, -jnp.inf)


def masked_logs(sp: "Spectrum") -> PerNode:
    """Return ln s where resolved, 0 elsewhere.

    The mask comes before any other operation, so that gradients stay finite.
    """
    return jnp.where(sp.resolved, sp.log_values, 0)


@compiled()
def resolved_measure(sp: "Spectrum") -> tuple[PerNode, PerNode]:
    """Return the masses of resolved nodes, summing to 1, and their ln s.

    The masses are NaN where statistics of ln s are not defined, so that a sum over
    nodes is NaN there too.
    """
    mass = jnp.where(sp.resolved, sp.weights, 0)
    total = jnp.sum(mass, -1, keepdims=True)
    mass = mass / jnp.where(total > 0, total, 1)
    return nan_unless_values(sp, mass), masked_logs(sp)
