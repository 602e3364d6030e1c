"""Single numbers that summarize a spectrum: moments, condition, ranks, deviations."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array

from isometry.measure._evaluating import PerMatrix, compiled
from isometry.measure._nodes import (
    exp,
    nan_unless_finite,
    nan_unless_values,
    relative,
    resolved_measure,
    without_noise,
)

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum


@compiled()
def mean_of_power(sp: "Spectrum", power: float | Array) -> PerMatrix:
    """Return E s^power, in which what is not resolved counts as zero.

    Noise of 1e-8 beside a value of 1 would add 0.08 to the mean of s^0.1.
    """
    powers = exp(power * without_noise(sp))
    return jnp.sum(sp.weights * powers, -1)


@compiled("nonzero")
def ratio_of_extremes(sp: "Spectrum", *, nonzero: bool) -> PerMatrix:
    """Return s_max/s_min, of all values or of those that are resolved."""
    top = sp.log_values[..., 0]
    resolved = sp.resolved
    least = jnp.min(jnp.where(resolved, sp.log_values, jnp.inf), -1)
    # An unresolved value may be zero, so the ratio is unbounded.
    is_known = resolved.all(-1)
    if nonzero:
        is_known = resolved.any(-1)
    # Masked before the exponential, so that gradients stay finite.
    ratio = jnp.exp(jnp.where(is_known, top - least, 0))
    return nan_unless_values(sp, jnp.where(is_known, ratio, jnp.inf))


@compiled()
def effective_rank(sp: "Spectrum") -> PerMatrix:
    """Return the exponential of the entropy of s/Σs."""
    share = sp.weights * relative(sp)
    total = jnp.sum(share, -1, keepdims=True)
    share = share / jnp.where(total > 0, total, 1)
    # A node of a quadrature stands for several singular values of equal share.
    num_values = jnp.where(sp.weights > 0, sp.weights * sp.size, 1)
    share_of_value = share / num_values
    is_positive = share_of_value > 0
    log_share = jnp.log(jnp.where(is_positive, share_of_value, 1))
    terms = jnp.where(is_positive, share * log_share, 0)
    rank = jnp.exp(-jnp.sum(terms, -1))
    is_zero_matrix = total[..., 0] == 0
    return nan_unless_finite(sp, jnp.where(is_zero_matrix, 0, rank))


@compiled()
def stable_rank(sp: "Spectrum") -> PerMatrix:
    """Return Σ s²/s_max²."""
    squares = relative(sp) ** 2
    mean_square = jnp.sum(sp.weights * squares, -1)
    return nan_unless_finite(sp, sp.size * mean_square)


@compiled()
def isometry_deviation(sp: "Spectrum") -> PerMatrix:
    """Return √E (s - 1)²."""
    squares = (sp.values - 1) ** 2
    return jnp.sqrt(jnp.sum(sp.weights * squares, -1))


@compiled()
def log_spread(sp: "Spectrum") -> PerMatrix:
    """Return the variance of ln s over the resolved nodes."""
    mass, logs = resolved_measure(sp)
    # Two passes, because E[x²] - E[x]² would cancel.
    mean = jnp.sum(mass * logs, -1, keepdims=True)
    deviations = (logs - mean) ** 2
    return nan_unless_values(sp, jnp.sum(mass * deviations, -1))
