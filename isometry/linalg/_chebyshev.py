"""The smooth distribution behind a quadrature of few nodes."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def smooth_cdf(
    log_s: Float[Array, "*batch nodes"],
    weights: Float[Array, "*batch nodes"],
    steps: int,
    log_points: Float[Array, " points"],
) -> Float[Array, "*batch points"]:
    """P(s ≤ x) at ln x = `log_points`, as a Chebyshev series of all moments that `steps` Golub-Kahan steps know: those
    of their nodes ln s, `log_s`, and `weights`.

    Those are of s² to degree 2·steps − 1: of the measure mirrored to ±s, in units of its edge, the first 4·steps − 2.
    The edge lies as far beyond the largest node as for a density that ends like a square root: the series of a quarter
    circle is exact. For densities without atoms the error falls much faster with `steps` than that of the staircase of
    nodes, about 1/(2·steps); an atom is smeared over edge/(2·steps), with 9 % of its mass of overshoot at each side
    (Gibbs). Clipped to [0, 1]; not forced to be monotone.

    Source: Weiße, Wellein, Alvermann, Fehske (2006), sections II.B and II.C, integrated and without a kernel.
    """
    nearest = math.cos(math.pi / (2 * steps + 1))  # the largest zero of Chebyshev's U of degree 2·steps
    top = log_s[..., :1]
    top = jnp.where(jnp.isneginf(top), 0, top)
    order = 2 * jnp.arange(1, 2 * steps, dtype=log_s.dtype).reshape((1,) * (log_s.ndim - 1) + (-1, 1))
    moments = jnp.sum(weights[..., None, :] * jnp.cos(order * _angle(log_s - top, nearest)[..., None, :]), -1)
    angle = _angle(log_points.reshape((1,) * (log_s.ndim - 1) + (-1,)) - top, nearest)
    waves = jnp.sum((moments[..., None] / order) * jnp.sin(order * angle[..., None, :]), -2)
    return jnp.clip(1 - 2 / math.pi * (angle + 2 * waves), 0, 1)


def _angle(relative: Any, nearest: float) -> Any:
    """arccos of s over the edge, from ln of s over the largest node."""
    return jnp.arccos(jnp.clip(jnp.exp(relative) * nearest, 0, 1))
