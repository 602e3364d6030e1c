"""A sweep over the factors of a product, singly or in groups, as far as it is safe.

Each step multiplies a group of factors into the basis of the graded product and
factorizes what came out. A group costs one factorization instead of several, and its
rounding is eps times the condition of the whole group. So a step estimates that
condition: where it is too large, nothing is kept of it, and the group is halved. A
single factor that is too badly conditioned for the Cholesky factor is multiplied by
Householder's reflections.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from isometry.linalg import _graded
from isometry.linalg._factors import Factors

# Powers of two up to which the condition of a group is safe. The error in ln s is at
# most eps times it: 2e-10 in float64, 3e-5 in float32. Its square times eps, by which
# the basis is not orthonormal, is 2e-4 and 8e-3; with ten times as much in float32 the
# Cholesky factor begins to fail. With a tenth, pairs of Gaussian factors of order 64
# are refused.
_SAFE_BITS = {"float32": 8, "float64": 20}

# Factors that are multiplied by reflections after one that needed it, before another
# way is tried. A try in vain costs less than half of a step with reflections; with ten
# times as many, one bad factor would slow down eighty good ones.
_PAUSE = 8


class _Pace(NamedTuple):
    """How the next step is made.

    Attributes:
        group: The number of factors to multiply at once.
        pause: The number of factors that are still multiplied by reflections, singly.
    """

    group: Int[Array, ""]
    pause: Int[Array, ""]


class _State(NamedTuple):
    done: Int[Array, ""]
    pace: _Pace
    product: _graded.Graded


def through(
    product: _graded.Graded,
    stack: Factors,
    most: int,
    *,
    transposed: bool = False,
) -> _graded.Graded:
    """Multiply a product by all factors of a stack.

    Args:
        product: The product so far.
        stack: The factors. The first acts first.
        most: The most factors that are multiplied before a factorization.
        transposed: To multiply by their transposes, from the last factor to the first.

    Returns:
        The product after them. Its basis need not be orthonormal.
    """
    count = stack.size[0]
    if transposed:
        stack = jax.tree.map(lambda array: array[::-1], stack)

    times = _times_transpose if transposed else _times

    def times_factor(i: Int[Array, ""] | int, vectors: Array) -> Array:
        return times(vectors, jax.tree.map(lambda array: array[i], stack))

    if count == 1:
        # It may change the size of the basis, which nothing in a loop can do.
        return _one_factor(product, times_factor(0, product.basis))

    def multiply_normalized(
        i: Int[Array, ""],
        so_far: tuple[Array, Int[Array, ""]],
    ) -> tuple[Array, Int[Array, ""]]:
        # Several factors may overflow, or underflow, where none of them does.
        vectors, power = so_far
        vectors, shift = _graded.normalized(vectors, jnp.max(jnp.abs(vectors)))
        return times_factor(i, vectors), power + shift

    def one_step(state: _State) -> _State:
        done, pace, product = state
        end = jnp.minimum(done + pace.group, count)
        first = times_factor(done, product.basis), jnp.int32(0)
        image, power = jax.lax.fori_loop(done + 1, end, multiply_normalized, first)
        is_careful = pace.pause > 0
        multiplied, condition = jax.lax.cond(
            is_careful, _by_reflections, _graded.times_by_cholesky, product, image
        )
        multiplied = multiplied._replace(exponents=multiplied.exponents + power)
        is_kept = is_careful | _is_safe(condition)
        product = jax.tree.map(
            lambda new, old: jnp.where(is_kept, new, old), multiplied, product
        )
        done = jnp.where(is_kept, end, done)
        return _State(done, _next_pace(pace, condition, most), product)

    pace = _Pace(group=jnp.int32(1), pause=jnp.int32(0))
    start = _State(done=jnp.int32(0), pace=pace, product=product)
    end = jax.lax.while_loop(lambda state: state.done < count, one_step, start)
    return end.product


def _one_factor(product: _graded.Graded, image: Float[Array, "r m"]) -> _graded.Graded:
    """Multiply by one factor, in the fast way if that is safe."""
    multiplied, condition = _graded.times_by_cholesky(product, image)
    return jax.lax.cond(
        _is_safe(condition),
        lambda: multiplied,
        lambda: _graded.times(product, image),
    )


def _by_reflections(
    product: _graded.Graded,
    image: Float[Array, "r m"],
) -> tuple[_graded.Graded, Float[Array, ""]]:
    """Multiply by reflections. The condition is not needed and counts as infinite."""
    infinite = jnp.asarray(jnp.inf, image.dtype)
    return _graded.times(product, image), infinite


def _is_safe(condition: Float[Array, ""]) -> Bool[Array, ""]:
    # False where it is NaN: there was no Cholesky factor.
    return condition <= 2.0 ** _SAFE_BITS[condition.dtype.name]


def _next_pace(pace: _Pace, condition: Float[Array, ""], most: int) -> _Pace:
    """Choose the next group by the condition of the last one.

    A group twice as long has at most the square of the condition, if the factors to
    come are like those before.
    """
    is_safe = _is_safe(condition)
    longer = jnp.where(_is_safe(condition**2), 2 * pace.group, pace.group)
    shorter = pace.group // 2
    group = jnp.clip(jnp.where(is_safe, longer, shorter), 1, most)
    has_failed_singly = ~is_safe & (pace.group == 1) & (pace.pause == 0)
    pause = jnp.where(has_failed_singly, _PAUSE, jnp.maximum(pace.pause - 1, 0))
    return _Pace(group, pause)


def _times(basis: Float[Array, "r n"], factor: Factors) -> Float[Array, "r m"]:
    """Multiply vectors, which are rows, by a factor."""
    image = basis
    if factor.matrix is not None:
        image = image @ factor.matrix.T
    if factor.scale is not None:
        image = image * factor.scale[None, :]
    return image


def _times_transpose(
    basis: Float[Array, "r m"], factor: Factors
) -> Float[Array, "r n"]:
    """Multiply vectors, which are rows, by the transpose of a factor."""
    image = basis
    if factor.scale is not None:
        image = image * factor.scale[None, :]
    if factor.matrix is not None:
        image = image @ factor.matrix
    return image
