"""Products of layers on live units alone, where derivatives are exactly zero.

J = W_L D_{L-1} ... D_1 W_1, with zeros on half the diagonal of each D, needs of each W
only what lies between live units: a quarter of the operations. Which units are live
depends on the input. How many are is bounded by one `width`, a number that is known
before the program is compiled.

As in `linalg._linear`, vectors are rows, and weights are taken as layers store them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from isometry._internal.errors import public
from isometry.linalg import _factorizations
from isometry.linalg._factors import Factors, require_stacks


class _Live(NamedTuple):
    """The live units behind a factor, for each member of a batch.

    Attributes:
        units: Which they are, padded by unit 0.
        scale: Their scales, padded by 0, so that the padding counts nothing.
    """

    units: Int[Array, "batch k"]
    scale: Float[Array, "batch k"]


class _Rows(NamedTuple):
    """A product of factors so far, transposed, on the live units behind it."""

    rows: Float[Array, "batch r k"]
    units: Int[Array, "batch k"]


@public("live_counts")
def live_counts(
    stacks: Sequence[Factors],
) -> Int[Array, "batch spaces"]:
    """Count the coordinates between factors that no scale of zero switches off.

    Args:
        stacks: The factors in the order in which they act. A scale (batch, count, m)
            multiplies the m outputs of each of `count` factors; all but those of the
            last stack have one.

    Returns:
        For each factor but the last, how many of its scales are not zero.

    Raises:
        InputError: `stacks` is empty, or holds something that is not `Factors`.

    Example:
        >>> scale = jnp.array([[[1.0, 0.0]], [[2.0, 3.0]]])
        >>> first = linalg.Factors(jnp.ones((1, 2, 2)), scale)
        >>> linalg.live_counts([first, linalg.Factors(jnp.ones((1, 2, 2)))])
        Array([[1],
               [2]], dtype=int32)
    """
    require_stacks(stacks)
    by_stack = []
    for stack in stacks:
        if stack.scale is not None:
            is_live = stack.scale != 0
            by_stack.append(jnp.sum(is_live, axis=-1))
    counts = jnp.concatenate(by_stack, axis=-1)
    if stacks[-1].scale is None:
        return counts
    # Behind the last factor no space follows.
    return counts[:, :-1]


def compact_product(
    stacks: Sequence[Factors],
    width: int,
) -> Float[Array, "batch r m"]:
    """Compute matrices with the nonzero singular values of products of factors.

    Args:
        stacks: Factors whose matrices are shared by a batch and whose scales, (batch,
            count, m), are not. The first acts first.
        width: The most scales of a factor that are not zero, the last factor's apart.

    Returns:
        Matrices with m columns, as many as the product has rows, and at most `width`
        rows. Cost: each inner factor takes 2 · rows · width² FLOP a member.

    Example:
        >>> scale = jnp.array([[[2.0, 0.0, 0.0]]])
        >>> first = linalg.Factors(jnp.ones((1, 3, 3)), scale)
        >>> last = linalg.Factors(jnp.ones((1, 3, 3)))
        >>> linalg.compact_product([first, last], width=1).shape
        (1, 1, 3)
    """
    *inner, (matrix, scale) = _last_apart(stacks)
    first = inner[0]
    state = _begun(first, width)
    for stack in inner:
        factors = _by_factor(stack)
        if stack is first:
            factors = jax.tree.map(lambda a: a[1:], factors)
        state = _through(state, factors, width)
    # Behind the last factor every unit counts.
    assert matrix is not None, "the last factor is a weight"
    last = _rows_of(matrix.mT, state.units)
    product = state.rows @ last
    if scale is None:
        return product
    return product * scale[:, None, :]


def _last_apart(stacks: Sequence[Factors]) -> list[Factors]:
    """Take the very last factor off, as one without an axis of factors."""
    *whole, last = stacks
    matrix, scale = last
    assert matrix is not None, "the last factor is a weight"
    end = Factors(matrix[-1])
    if scale is not None:
        end = end._replace(scale=scale[:, -1])
    if len(matrix) > 1:
        assert scale is not None, "scales stand behind every factor but the last"
        before = Factors(matrix[:-1], scale[:, :-1])
        whole.append(before)
    return [*whole, end]


def _scale_of(stack: Factors) -> Array:
    """Return the scales behind factors that are not the last."""
    assert stack.scale is not None, "scales stand behind every factor but the last"
    return stack.scale


def _by_factor(stack: Factors) -> Factors:
    """Put the axis of factors first, and the matrices as layers store them."""
    matrix = stack.matrix
    if matrix is not None:
        matrix = matrix.mT
    scale = jnp.moveaxis(_scale_of(stack), 1, 0)
    return Factors(matrix, scale)


def _begun(stack: Factors, width: int) -> _Rows:
    """Return the first factor on the units that are live behind it."""
    scale = _scale_of(stack)
    live = _live_units(scale[:, 0], width)
    if stack.matrix is None:
        num_units = scale.shape[-1]
        identity = jnp.eye(num_units, dtype=live.scale.dtype)
        choose = jax.vmap(lambda units: identity[:, units])
        columns = choose(live.units)
    else:
        first = stack.matrix[0]
        columns = _rows_of(first, live.units).mT
    rows = columns * live.scale[:, None, :]
    # Singular values do not change under a rotation of the inputs, so a triangular
    # factor stands for rows that are more than the units.
    _, num_rows, num_columns = rows.shape
    if num_rows > num_columns:
        rows = _triangular(rows)
    return _Rows(rows, live.units)


@_factorizations.one_at_a_time
def _triangular(a: Array) -> Array:
    """Return R of A = Q R alone: Q costs as much again."""
    return jnp.linalg.qr(a, mode="r")


def _through(
    state: _Rows,
    factors: Factors,
    width: int,
) -> _Rows:
    """Multiply by factors, whose axis comes first."""
    count = len(_scale_of(factors))
    if count == 0:
        return state
    # Not in a loop, where the number of units could not change.
    if count == 1:
        only = jax.tree.map(lambda a: a[0], factors)
        return _next(state, only, width)
    state, _ = jax.lax.scan(
        lambda state, factor: (_next(state, factor, width), None),
        state,
        factors,
    )
    return state


def _next(
    state: _Rows,
    factor: Factors,
    width: int,
) -> _Rows:
    live = _live_units(_scale_of(factor), width)
    # Behind the first factor all are weights.
    assert factor.matrix is not None
    block = _block(
        factor.matrix,
        rows=state.units,
        columns=live.units,
    )
    rows = (state.rows @ block) * live.scale[:, None, :]
    return _Rows(rows, live.units)


def _live_units(
    scale: Float[Array, "batch n"],
    width: int,
) -> _Live:
    num_units = scale.shape[-1]
    width = min(width, num_units)
    is_live = scale != 0
    # The place of each live unit among them. To sort takes many times as long on a CPU.
    places = jnp.cumsum(is_live, axis=-1) - 1
    places = jnp.where(is_live, places, width)
    every = jnp.arange(num_units, dtype=places.dtype)

    def in_order(
        places: Int[Array, " n"],
    ) -> Int[Array, " k"]:
        none = jnp.zeros(width, places.dtype)
        at_places = none.at[places]
        return at_places.set(every, mode="drop")

    units = jax.vmap(in_order)(places)
    num_live = jnp.sum(is_live, axis=-1, keepdims=True)
    is_unit = jnp.arange(width)[None] < num_live
    scale_of_units = jnp.take_along_axis(scale, units, -1)
    return _Live(
        units=units,
        scale=jnp.where(is_unit, scale_of_units, 0),
    )


# Units are in range, and XLA need not check it.
_IN_BOUNDS = "promise_in_bounds"


def _rows_of(
    matrix: Float[Array, "n m"],
    units: Int[Array, "batch k"],
) -> Float[Array, "batch k m"]:
    return matrix.at[units].get(mode=_IN_BOUNDS)


def _block(
    matrix: Float[Array, "n m"],
    rows: Int[Array, "batch k"],
    columns: Int[Array, "batch l"],
) -> Float[Array, "batch k l"]:
    """Gather what lies between live units before and behind a layer.

    By one index into the flat matrix, which takes half as long as by two. It is a 32
    bit number up to order 46,340, where a matrix has 8 GB.
    """
    num_columns = matrix.shape[1]
    assert matrix.size < 2**31, f"a layer of {matrix.shape} has too many weights"
    starts = rows[:, :, None] * num_columns
    index = starts + columns[:, None, :]
    flat = matrix.ravel()
    return flat.at[index].get(mode=_IN_BOUNDS)
