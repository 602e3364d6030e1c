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
from isometry.linalg._graded import Attempt, Graded

# Numbers of factors, and exponents, that change from step to step.
Integer = Int[Array, ""]

# Powers of two up to which the condition of a group is safe. The error in ln s is at
# most eps times it: 2e-10 in float64, 3e-5 in float32. Its square times eps, by which
# the basis is not orthonormal, is 2e-4 and 8e-3; with ten times as much in float32 the
# Cholesky factor begins to fail. With a tenth, pairs of Gaussian factors of order 64
# are refused.
_SAFE_BITS = {
    "float32": 8,
    "float64": 20,
}

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

    group: Integer
    pause: Integer


class _State(NamedTuple):
    """The product after `done` factors, and how the sweep goes on."""

    done: Integer
    pace: _Pace
    product: Graded


class _Image(NamedTuple):
    """What the factors of a group make of the basis, vectors · 2^power."""

    vectors: Float[Array, "r m"]
    power: Integer


class _Path(NamedTuple):
    """Factors in the order in which they are multiplied, themselves or transposed."""

    stack: Factors
    is_transposed: bool

    @property
    def num_factors(self) -> int:
        num_factors, _, _ = self.stack.size
        return num_factors

    def times(
        self,
        i: Integer | int,
        vectors: Float[Array, "r n"],
    ) -> Float[Array, "r m"]:
        """Multiply vectors, which are rows, by factor i."""
        factor = jax.tree.map(lambda array: array[i], self.stack)
        if self.is_transposed:
            return _times_transpose(vectors, factor)
        return _times(vectors, factor)


def through(
    product: Graded,
    stack: Factors,
    most: int,
    *,
    transposed: bool = False,
) -> Graded:
    """Multiply a product by all factors of a stack.

    Args:
        product: The product so far.
        stack: The factors. The first acts first.
        most: The most factors that are multiplied before a factorization.
        transposed: To multiply by their transposes, from the last factor to the first.

    Returns:
        The product after them. Its basis need not be orthonormal.
    """
    path = _path(stack, transposed)
    if path.num_factors == 1:
        # It may change the size of the basis, which nothing in a loop can do.
        image = path.times(0, product.basis)
        return _one_factor(product, image)

    def is_unfinished(state: _State) -> Bool[Array, ""]:
        return state.done < path.num_factors

    def one_step(state: _State) -> _State:
        return _step(path, state, most)

    # The first step is a single factor, whose condition shows how groups may grow.
    pace = _Pace(
        group=jnp.int32(1),
        pause=jnp.int32(0),
    )
    start = _State(
        done=jnp.int32(0),
        pace=pace,
        product=product,
    )
    end = jax.lax.while_loop(is_unfinished, one_step, start)
    return end.product


def _path(stack: Factors, is_transposed: bool) -> _Path:
    """Order the factors: transposed, the last comes first."""
    if is_transposed:
        stack = jax.tree.map(lambda array: array[::-1], stack)
    return _Path(stack, is_transposed)


def _one_factor(product: Graded, image: Float[Array, "r m"]) -> Graded:
    """Multiply by one factor, in the fast way if that is safe."""
    attempt = _graded.times_by_cholesky(product, image)

    def by_cholesky() -> Graded:
        return attempt.product

    def by_reflections() -> Graded:
        return _graded.times(product, image)

    is_safe = _is_safe(attempt.condition)
    return jax.lax.cond(is_safe, by_cholesky, by_reflections)


def _step(path: _Path, state: _State, most: int) -> _State:
    """Multiply by the next group, and keep the result if that is safe."""
    done, pace, product = state
    end = jnp.minimum(done + pace.group, path.num_factors)
    image = _image_of_group(path, state, end)
    is_careful = pace.pause > 0
    multiplied, condition = jax.lax.cond(
        is_careful,
        _by_reflections,
        _graded.times_by_cholesky,
        product,
        image.vectors,
    )
    exponents = multiplied.exponents + image.power
    multiplied = multiplied._replace(exponents=exponents)
    is_kept = is_careful | _is_safe(condition)

    def kept(new: Array, old: Array) -> Array:
        return jnp.where(is_kept, new, old)

    product = jax.tree.map(kept, multiplied, product)
    done = kept(end, done)
    pace = _next_pace(pace, condition, most)
    return _State(done, pace, product)


def _image_of_group(path: _Path, state: _State, end: Integer) -> _Image:
    """Multiply the basis by the group: factors `state.done` to `end` - 1, one at least.

    The product is `vectors` times 2 to the `power`.
    """

    def multiplied(i: Integer, image: _Image) -> _Image:
        # A product of several factors may over- or underflow though none of them does,
        # so the vectors are scaled to entries near 1 before each.
        moduli = jnp.abs(image.vectors)
        peak = jnp.max(moduli)
        vectors, shift = _graded.normalized(image.vectors, peak)
        return _Image(
            vectors=path.times(i, vectors),
            power=image.power + shift,
        )

    # The basis needs no scaling: its entries are about 1 at most.
    first = path.times(state.done, state.product.basis)
    return jax.lax.fori_loop(
        state.done + 1,
        end,
        body_fun=multiplied,
        init_val=_Image(first, jnp.int32(0)),
    )


def _by_reflections(product: Graded, image: Float[Array, "r m"]) -> Attempt:
    """Multiply by reflections. The condition is not needed and counts as infinite."""
    infinite = jnp.asarray(jnp.inf, image.dtype)
    multiplied = _graded.times(product, image)
    return Attempt(multiplied, infinite)


def _is_safe(condition: Float[Array, ""]) -> Bool[Array, ""]:
    # False where it is NaN: there was no Cholesky factor.
    return condition <= 2.0 ** _SAFE_BITS[condition.dtype.name]


def _next_pace(pace: _Pace, condition: Float[Array, ""], most: int) -> _Pace:
    """Choose the next group by the condition of the last one.

    A group twice as long has at most the square of the condition, if the factors to
    come are like those before.
    """
    is_safe = _is_safe(condition)
    is_twice_safe = _is_safe(condition**2)
    longer = jnp.where(is_twice_safe, 2 * pace.group, pace.group)
    shorter = pace.group // 2
    group = jnp.where(is_safe, longer, shorter)
    group = jnp.clip(group, 1, most)
    has_failed_singly = ~is_safe & (pace.group == 1)
    was_an_attempt = pace.pause == 0
    begins_pause = has_failed_singly & was_an_attempt
    remaining = jnp.maximum(pace.pause - 1, 0)
    pause = jnp.where(begins_pause, _PAUSE, remaining)
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
    basis: Float[Array, "r m"],
    factor: Factors,
) -> Float[Array, "r n"]:
    """Multiply vectors, which are rows, by the transpose of a factor."""
    image = basis
    if factor.scale is not None:
        image = image * factor.scale[None, :]
    if factor.matrix is not None:
        image = image @ factor.matrix
    return image
