"""Confidence intervals of the statistics that a quadrature estimates."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from isometry.linalg import Quadrature
from isometry.linalg._lanczos import norm_excess
from isometry.measure._nodes import exp

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum

# The share of the error probability of a stable rank that is spent on s_max. The bound
# on s_max depends on its logarithm: with a tenth of it the interval is wider by a
# thousandth, with ten times more the other bound has a fifth less of the error
# probability.
_SHARE = 0.02

Statistic: TypeAlias = "Callable[[Spectrum], Array]"
Ends: TypeAlias = tuple[Array, Array]


def of_statistic(sp: "Spectrum", statistic: Statistic, level: float) -> Ends:
    """Return bounds on a statistic that does not depend on the largest value.

    Args:
        sp: A spectrum whose nodes are those of quadratures.
        statistic: Computes the statistic of any spectrum.
        level: Probability that the interval holds the value of the Jacobian.

    Returns:
        The lower and the upper end.
    """
    value = statistic(sp)
    rules = rules_of(sp)
    gauss = _joined(sp, rules.log_values, rules.weights)
    radau = _joined(sp, rules.radau_log_values, rules.radau_weights)
    # The two rules err to opposite sides for powers of s.
    by_gauss = statistic(gauss)
    by_radau = statistic(radau)
    reach = _t_quantile(level, _num_probes(sp)) * _standard_error(sp, statistic)
    low = jnp.maximum(jnp.minimum(by_gauss, by_radau) - reach, 0)
    high = jnp.maximum(by_gauss, by_radau) + reach
    # A statistic that is NaN for the quadrature has no interval.
    is_unknown = jnp.isnan(value)
    return jnp.where(is_unknown, jnp.nan, low), jnp.where(is_unknown, jnp.nan, high)


def of_largest(sp: "Spectrum", level: float) -> Ends:
    """Return bounds on s_max: the largest node, and what the steps may have missed."""
    log_low, log_high = _log_largest(sp, level)
    return exp(log_low), exp(log_high)


def of_stable_rank(sp: "Spectrum", level: float) -> Ends:
    """Return bounds on the stable rank, size · E s²/s_max², from those of its parts."""
    log_top = sp.log_values[..., :1]
    is_zero = jnp.isneginf(log_top)
    log_top = jnp.where(is_zero, 0, log_top)

    def mean_square(sp: "Spectrum") -> Array:
        squares = exp(2 * (sp.log_values - log_top))
        return sp.size * jnp.sum(sp.weights * squares, -1)

    error = 1 - level
    low, high = of_statistic(sp, mean_square, 1 - (1 - _SHARE) * error)
    log_low, log_high = _log_largest(sp, 1 - _SHARE * error)
    # The rank of a zero matrix is 0, whatever bounds its largest value.
    log_low = jnp.where(is_zero[..., 0], 0, log_low - log_top[..., 0])
    log_high = jnp.where(is_zero[..., 0], 0, log_high - log_top[..., 0])
    return low * exp(-2 * log_high), high * exp(-2 * log_low)


def _log_largest(sp: "Spectrum", level: float) -> Ends:
    """Return bounds on ln s_max that hold with probability `level`."""
    log_top = sp.log_values[..., 0]
    rules = rules_of(sp)
    # Rounding of products with J, as in `linalg.extreme_singular_values`.
    longest = sp.size + sp.structural_zeros
    rounding = 4 * math.sqrt(longest) * float(jnp.finfo(log_top.dtype).eps)
    factor = norm_excess(sp.size, rules.steps, probes=_num_probes(sp), level=level)
    excess = jnp.log(factor).astype(log_top.dtype)
    return log_top - rounding, log_top + excess + rounding


def _standard_error(sp: "Spectrum", statistic: Statistic) -> Array:
    """Return the jackknife standard error of a statistic over the probes.

    The jackknife leaves out one probe at a time. For a moment it is the standard error
    of a mean; it is valid for functions of moments too. NaN for a single probe.
    """
    rules = rules_of(sp)
    probes = _num_probes(sp)
    if probes < 2:
        return jnp.asarray(jnp.nan, rules.weights.dtype)

    def without(probe: Array) -> Array:
        is_kept = jnp.arange(probes) != probe
        factor = jnp.where(is_kept, probes / (probes - 1), 0)
        num_batch_axes = rules.weights.ndim - 2
        factor = factor.reshape((1,) * num_batch_axes + (probes, 1))
        weights = rules.weights * factor.astype(rules.weights.dtype)
        return statistic(_joined(sp, rules.log_values, weights))

    values = jax.vmap(without)(jnp.arange(probes))
    deviations = values - jnp.mean(values, 0, keepdims=True)
    return jnp.sqrt((probes - 1) / probes * jnp.sum(deviations**2, 0))


def _joined(sp: "Spectrum", log_values: Array, weights: Array) -> "Spectrum":
    """Return a spectrum whose nodes are those of all probes, each of the same mass.

    The nodes are not sorted, and `quadrature` is None.
    """
    batch = log_values.shape[:-2]
    return replace(
        sp,
        log_values=log_values.reshape(*batch, -1),
        weights=weights.reshape(*batch, -1) / _num_probes(sp),
        quadrature=None,
    )


def rules_of(sp: "Spectrum") -> Quadrature:
    """Return the quadrature rules of a spectrum that has them."""
    assert sp.quadrature is not None, "of singular values every interval is a point"
    return sp.quadrature


def _num_probes(sp: "Spectrum") -> int:
    """Return the number of random vectors, each of which gave one quadrature."""
    return rules_of(sp).log_values.shape[-2]


def _t_quantile(level: float, probes: int) -> float:
    """Return how many standard errors a two-sided t interval reaches to each side."""
    # Not scipy.stats, which takes longer to load than the rest of the package.
    from scipy import special

    if probes < 2:
        return math.nan
    return float(special.stdtrit(probes - 1, (1 + level) / 2))
