"""The distribution of singular values: zeros, distribution function, density."""

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from isometry import linalg
from isometry.measure import _intervals
from isometry.measure._evaluating import PerMatrix, PerPoint, compiled
from isometry.measure._nodes import (
    POWER,
    column,
    exp,
    masked_logs,
    nan_unless_finite,
    nan_unless_values,
    without_noise,
)

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum


@compiled("exact")
def mass_of_zeros(sp: "Spectrum", *, exact: bool) -> PerMatrix:
    """Return the mass of the zeros: of exact ones, or of all that are not resolved."""
    # A value below the floor is rounding noise, and cannot be told from zero.
    is_zero = ~sp.resolved
    if exact:
        is_zero = jnp.isneginf(sp.log_values)
    mass = jnp.where(is_zero, sp.weights, 0)
    total = _capped(jnp.sum(mass, -1), is_all=is_zero.all(-1))
    return nan_unless_values(sp, total)


@compiled("variable")
def mass_below(
    sp: "Spectrum", points: Float[Array, " points"], *, variable: str
) -> PerPoint:
    """Return the mass at or below each point."""
    level = _log_points(points, variable)
    logs = without_noise(sp)
    is_below = logs[..., None, :] <= column(sp, level)
    weights = sp.weights[..., None, :]
    mass = jnp.where(is_below, weights, 0)
    total = _capped(jnp.sum(mass, -1), is_all=is_below.all(-1))
    return nan_unless_values(sp, total)


@compiled("variable")
def smooth_mass_below(
    sp: "Spectrum", points: Float[Array, " points"], *, variable: str
) -> PerPoint:
    """Estimate the mass at or below each point, from the moments of a quadrature."""
    rules = _intervals.rules_of(sp)
    share = linalg.smooth_cdf(
        sp.log_values,
        sp.weights,
        steps=jnp.asarray(rules.steps),
        log_points=_log_points(points, variable),
        most=rules.log_values.shape[-1],
    )
    # Points below zero are NaN by now, and have no mass below them.
    return nan_unless_finite(sp, jnp.where(jnp.isnan(share), 0, share))


@compiled("variable")
def smooth_density(
    sp: "Spectrum", points: Float[Array, " points"], *, variable: str
) -> PerPoint:
    """Estimate the density at each point, from the moments of a quadrature."""
    level = _log_points(points, variable)
    rules = _intervals.rules_of(sp)
    density = linalg.smooth_density(
        sp.log_values,
        sp.weights,
        steps=jnp.asarray(rules.steps),
        log_points=level,
        most=rules.log_values.shape[-1],
    )
    if variable != "log_s":
        # d ln s / d s^p = 1 / (p s^p).
        power = POWER[variable]
        width = column(sp, power * jnp.exp(power * level))[..., 0]
        density = density / width
    return nan_unless_finite(sp, jnp.where(jnp.isnan(density), 0, density))


@compiled("variable")
def quantiles(
    sp: "Spectrum", levels: Float[Array, " points"], *, variable: str
) -> PerPoint:
    """Return, for each level, the smallest value with that much mass at or below it."""
    ascending = without_noise(sp)[..., ::-1]
    mass = jnp.cumsum(sp.weights[..., ::-1], -1)
    # Tolerance for the rounding of cumulated weights. It is at most half a node, so
    # that no node is skipped.
    num_nodes = ascending.shape[-1]
    rounding = 4 * math.log2(2 * num_nodes) * float(jnp.finfo(mass.dtype).eps)
    slack = jnp.minimum(rounding, sp.weights[..., ::-1] / 2)[..., None, :]
    is_below = mass[..., None, :] < column(sp, levels) - slack
    index = jnp.minimum(jnp.sum(is_below, -1), num_nodes - 1)
    value = jnp.take_along_axis(ascending, index, -1)
    # Of quadratures the largest node estimates the largest value, which is the quantile
    # at 1. The other nodes estimate no quantile.
    if not sp.knows_values:
        is_largest = jnp.broadcast_to(column(sp, levels)[..., 0], value.shape) == 1
        largest = jnp.broadcast_to(sp.log_values[..., :1], value.shape)
        value = jnp.where(is_largest, largest, jnp.nan)
    if variable != "log_s":
        value = exp(POWER[variable] * value)
    return value


@compiled("variable")
def kernel_density(
    sp: "Spectrum",
    points: Float[Array, " points"],
    bandwidth: float | Array,
    *,
    variable: str,
) -> PerPoint:
    """Return the Gaussian kernel density at each point."""
    if variable == "log_s":
        nodes = masked_logs(sp)
        mass = jnp.where(sp.resolved, sp.weights, 0)
    else:
        nodes = jnp.exp(POWER[variable] * sp.log_values)
        mass = sp.weights
    width = jnp.asarray(bandwidth, nodes.dtype)
    z = (column(sp, points) - nodes[..., None, :]) / width
    height = 1 / (width * math.sqrt(2 * math.pi))
    kernel = height * jnp.exp(-(z**2) / 2)
    terms = mass[..., None, :] * kernel
    return nan_unless_values(sp, jnp.sum(terms, -1))


def _log_points(
    points: Float[Array, " points"], variable: str
) -> Float[Array, " points"]:
    """Return the ln s of points of a variable.

    There is no mass below zero: such points become NaN, which compares as false.
    """
    if variable == "log_s":
        return points
    is_positive = points > 0
    logs = jnp.log(jnp.where(is_positive, points, 1)) / POWER[variable]
    logs = jnp.where(is_positive, logs, -jnp.inf)
    return jnp.where(points < 0, jnp.nan, logs)


def _capped(total: Array, is_all: Bool[Array, "..."]) -> Array:
    """Return a sum of weights, capped at 1; exactly 1 if it is the sum of all.

    Rounding would make it a little more or less.
    """
    return jnp.where(is_all, 1, jnp.minimum(total, 1))
