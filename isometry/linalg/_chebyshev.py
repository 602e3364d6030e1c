"""The smooth measure behind a quadrature of few nodes."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from isometry._internal import checks, compilation, kinds
from isometry._internal.errors import InputError, public


@public("smooth_cdf")
def smooth_cdf(
    log_s: ArrayLike,
    weights: ArrayLike,
    steps: ArrayLike,
    log_points: ArrayLike,
    *,
    most: int | None = None,
) -> Float[Array, "*batch points"]:
    """Estimate P(s ≤ x) by a smooth function, from the nodes of a Gauss quadrature.

    After k steps the quadrature has the exact moments of s² to degree 2k - 1, and so
    the exact Chebyshev moments to degree 4k - 2 of s, mirrored to ±s and divided by an
    edge. Their series is integrated. The edge is the largest node over cos(π/(2k + 1)),
    which is exact for the quarter circle, whose density ends like a square root.

    A step function of the nodes is wrong by about 1/(2k). For densities without atoms
    this error falls much faster with k. An atom is smeared over edge/(2k), and the
    result overshoots by 9 % of its mass at each side (Gibbs).

    Source: Weiße, Wellein, Alvermann and Fehske (2006), sections II.B and II.C,
    integrated and without a kernel.

    Args:
        log_s: Nodes ln s of Golub-Kahan steps, descending: real floating (..., nodes).
        weights: Their masses, of the same shape.
        steps: k: one whole number, or an array with one for each quadrature of a batch.
        log_points: ln x: real floating (points,).
        most: The largest of an array of `steps`, static under jit. None is the number
            of nodes, which costs more. Not read if `steps` is a number.

    Returns:
        P(s ≤ x), clipped to [0, 1]; not forced to be monotone. Cost: 2 × `most` sines
        for each point, and as many cosines for each node.

    Raises:
        InputError: An array is not real floating, or the shapes do not fit together.

    Example:
        >>> log_s = jnp.log(jnp.array([1.8, 1.2, 0.5]))
        >>> weights = jnp.array([0.2, 0.4, 0.4])
        >>> log_points = jnp.log(jnp.array([1.0, 2.0]))
        >>> share = linalg.smooth_cdf(log_s, weights, 3, log_points)
        >>> print(f"{share[0]:.3f}, {share[1]:.3f}")
        0.486, 1.000
    """
    log_s, weights = _quadrature(log_s, weights)
    return _cdf(
        log_s,
        weights,
        steps=_checked_steps(steps, log_s.shape[:-1]),
        log_points=_floats("log_points", log_points, num_axes=1),
        most=_most_steps(log_s, steps, most),
    )


# As one program, also outside of jit: forty operations one by one would each compile
# anew for every shape, 2 s for the first picture instead of 0.2 s.
@functools.partial(compilation.jit, static_argnames="most")
def _cdf(
    log_s: Float[Array, "*batch nodes"],
    weights: Float[Array, "*batch nodes"],
    *,
    steps: Int[Array, "*#batch"],
    log_points: Float[Array, " points"],
    most: int,
) -> Float[Array, "*batch points"]:
    series = _series(
        log_s,
        weights,
        steps=steps,
        log_points=log_points,
        most=most,
    )
    waves = series.sum(jnp.sin, 1 / series.order)
    above = 2 / jnp.pi * (series.angle + 2 * waves)
    return jnp.clip(1 - above, 0, 1)


@public("smooth_density")
def smooth_density(
    log_s: ArrayLike,
    weights: ArrayLike,
    steps: ArrayLike,
    log_points: ArrayLike,
    *,
    most: int | None = None,
) -> Float[Array, "*batch points"]:
    """Estimate the density of ln s from a Gauss quadrature, by the kernel polynomial.

    The Chebyshev series of `smooth_cdf` is damped by Jackson's kernel, so that the
    density is nowhere negative. The edge is that of `smooth_cdf`. An atom is smeared
    over a standard deviation of edge·π/(4·steps) in s. At s below this width only the
    total mass is resolved, and not the shape of the density.

    Source: Weiße, Wellein, Alvermann and Fehske (2006), section II.C.

    Args:
        log_s: Nodes ln s of Golub-Kahan steps, descending: real floating (..., nodes).
        weights: Their masses, of the same shape.
        steps: As in `smooth_cdf`.
        log_points: ln x: real floating (points,).
        most: As in `smooth_cdf`.

    Returns:
        Density of ln s at each point, 0 beyond the edge. Cost: that of `smooth_cdf`.

    Raises:
        InputError: As in `smooth_cdf`.

    Example:
        >>> log_s = jnp.log(jnp.array([1.8, 1.2, 0.5]))
        >>> weights = jnp.array([0.2, 0.4, 0.4])
        >>> log_points = jnp.log(jnp.array([1.0, 2.5]))
        >>> density = linalg.smooth_density(log_s, weights, 3, log_points)
        >>> print(f"{density[0]:.3f}, {density[1]:.3f}")
        0.544, 0.000
    """
    log_s, weights = _quadrature(log_s, weights)
    return _density(
        log_s,
        weights,
        steps=_checked_steps(steps, log_s.shape[:-1]),
        log_points=_floats("log_points", log_points, num_axes=1),
        most=_most_steps(log_s, steps, most),
    )


@functools.partial(compilation.jit, static_argnames="most")
def _density(
    log_s: Float[Array, "*batch nodes"],
    weights: Float[Array, "*batch nodes"],
    *,
    steps: Int[Array, "*#batch"],
    log_points: Float[Array, " points"],
    most: int,
) -> Float[Array, "*batch points"]:
    series = _series(
        log_s,
        weights,
        steps=steps,
        log_points=log_points,
        most=most,
    )
    # Of Jackson's kernel: it damps the last moment most, and keeps the sum positive.
    terms = 4 * series.steps
    turn = jnp.pi / terms
    phase = turn * series.order
    falling = (terms - series.order) * jnp.cos(phase)
    rising = jnp.sin(phase) / jnp.tan(turn)
    damping = (falling + rising) / terms
    waves = series.sum(jnp.cos, damping)
    # dF/d ln s = x dF/dx = -(x / √(1 - x²)) dF/dθ, with x = cos θ of the edge.
    sine = jnp.sin(series.angle)
    # At the edge itself the sine is zero, and the density below too.
    least = jnp.finfo(sine.dtype).eps
    density = 2 / jnp.pi * jnp.cos(series.angle)
    density = density / jnp.maximum(sine, least)
    density = density * jnp.maximum(1 + 2 * waves, 0)
    is_below_edge = series.angle > 0
    return jnp.where(is_below_edge, density, 0)


class _Series(NamedTuple):
    """A Chebyshev series in the angle arccos(s / edge), for points of a batch.

    Attributes:
        angle: The angle of each point at which the series is summed.
        order: The even orders of the Chebyshev polynomials.
        moments: The moment of each order; 0 where the quadrature does not know it.
        steps: The number of steps of each quadrature.
    """

    angle: Float[Array, "*batch points"]
    order: Float[Array, "*batch orders"]
    moments: Float[Array, "*batch orders"]
    steps: Float[Array, "*batch 1"]

    def sum(
        self,
        wave: Callable[[Array], Array],
        factors: Float[Array, "*batch orders"],
    ) -> Float[Array, "*batch points"]:
        """Sum factor times moment times wave, over the orders."""
        terms = factors * self.moments
        waves = wave(_phases(self.order, self.angle))
        return jnp.sum(terms[..., None] * waves, -2)


def _quadrature(log_s: ArrayLike, weights: ArrayLike) -> tuple[Array, Array]:
    """Require nodes, and a weight for each."""
    log_s = _floats("log_s", log_s)
    weights = _floats("weights", weights)
    if log_s.ndim == 0 or log_s.shape[-1] == 0:
        raise InputError(f"log_s has shape {log_s.shape}; write (..., nodes).")
    if weights.shape != log_s.shape:
        raise InputError(
            f"weights has shape {weights.shape} and log_s {log_s.shape}; write one "
            "weight for each node."
        )
    return log_s, weights


def _floats(name: str, value: ArrayLike, num_axes: int | None = None) -> Array:
    """Require an array of real floating numbers."""
    array = checks.array(name, value)
    if not kinds.is_floating(array):
        raise InputError(
            f"{name} has dtype {array.dtype}; write {name}.astype(jnp.float32)."
        )
    if num_axes is not None and array.ndim != num_axes:
        raise InputError(
            f"{name} has shape {array.shape}; the number of its axes is {num_axes}."
        )
    return array


def _checked_steps(steps: ArrayLike, batch: tuple[int, ...]) -> Int[Array, "*#batch"]:
    """Require a number of steps for all quadratures, or one for each."""
    array = checks.array("steps", steps)
    if not kinds.is_whole(array):
        raise InputError(f"steps={checks.show(steps)} is no whole number.")
    if array.ndim == 0 and not checks.is_traced(array):
        checks.integer("steps", steps, low=1)
    if array.ndim > len(batch) or not _broadcasts(array.shape, batch):
        raise InputError(
            f"steps has shape {array.shape}; write one number, or shape {batch}, one "
            "for each quadrature."
        )
    return array


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Tell whether an array of a shape has a value for each entry of another."""
    sizes = zip(reversed(shape), reversed(to), strict=False)
    return all(size in {1, wanted} for size, wanted in sizes)


def _most_steps(
    log_s: Float[Array, "*batch nodes"],
    steps: ArrayLike,
    most: int | None,
) -> int:
    """Return a bound on the steps, which sets the number of terms of the series."""
    if isinstance(steps, int):
        return steps
    if most is None:
        return log_s.shape[-1]
    return checks.integer("most", most, low=1)


def _series(
    log_s: Float[Array, "*batch nodes"],
    weights: Float[Array, "*batch nodes"],
    *,
    steps: Int[Array, "*#batch"],
    log_points: Float[Array, " points"],
    most: int,
) -> _Series:
    dtype = log_s.dtype
    batch = log_s.shape[:-1]
    count = jnp.broadcast_to(jnp.asarray(steps), batch)
    count = count[..., None].astype(dtype)
    # The largest zero of Chebyshev's U of degree 2·steps: where the largest node of a
    # quarter circle lies, over its edge.
    nearest = jnp.cos(jnp.pi / (2 * count + 1))
    top = log_s[..., :1]
    is_zero = jnp.isneginf(top)
    top = jnp.where(is_zero, 0, top)
    even = 2 * jnp.arange(1, 2 * most, dtype=dtype)
    order = jnp.broadcast_to(even, (*batch, len(even)))
    nodes = _angle(log_s - top, nearest)
    waves = jnp.cos(_phases(order, nodes))
    moments = jnp.sum(weights[..., None, :] * waves, -1)
    # A quadrature of fewer steps knows fewer moments.
    is_known = order <= 4 * count - 2
    moments = jnp.where(is_known, moments, 0)
    shape = (*batch, len(log_points))
    points = jnp.broadcast_to(log_points, shape)
    return _Series(
        angle=_angle(points - top, nearest),
        order=order,
        moments=moments,
        steps=count,
    )


def _phases(
    order: Float[Array, "*batch orders"],
    angle: Float[Array, "*batch points"],
) -> Float[Array, "*batch orders points"]:
    return order[..., None] * angle[..., None, :]


def _angle(
    relative: Float[Array, "*batch points"],
    nearest: Float[Array, "*batch 1"],
) -> Float[Array, "*batch points"]:
    """Return arccos of s over the edge, from ln of s over the largest node."""
    cosine = jnp.exp(relative) * nearest
    return jnp.arccos(jnp.clip(cosine, 0, 1))
