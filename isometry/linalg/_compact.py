"""Products of layers on the coordinates that live: where slopes are exactly zero, rows and columns are left out.

J = W_L D_{L-1} … D_1 W_1 with D of zeros on half its diagonal needs of each W the rows and columns between live units
alone: a quarter of the operations. Which units live depends on the input, how many is bounded by one `width`, a number
known before the program is compiled.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from isometry.linalg import _factorizations
from isometry.linalg._product import Factors, require_stacks


def live_counts(stacks: Sequence[Any]) -> Int[Array, "batch spaces"]:
    """How many scales of each factor but the last are not zero: of every space between two factors."""
    require_stacks("live_counts", stacks)
    between = jnp.concatenate([jnp.sum(s.scale != 0, -1) for s in stacks if s.scale is not None], -1)
    return between if stacks[-1].scale is None else between[:, :-1]


def compact_product(stacks: Sequence[Any], width: int) -> Float[Array, "batch m r"]:
    """Matrices with the nonzero singular values of the products; r = min(n, width).

    The matrices are shared; scales are (batch, count, m), and all but the last have at most `width` that are not zero.
    """
    *inner, (matrix, scale) = _last_apart(stacks)
    state = _begun(inner[0], width)
    for i, stack in enumerate(inner):
        if i > 0:
            state = _next(state, (stack.matrix[0], stack.scale[:, 0]), width)  # its width may be a new one
        if stack.scale.shape[1] > 1:
            rest = stack.matrix[1:], jnp.moveaxis(stack.scale, 1, 0)[1:]
            state = jax.lax.scan(lambda a, factor: (_next(a, factor, width), None), state, rest)[0]
    product, live = state
    product = jax.vmap(lambda i: matrix.T[i])(live).mT @ product
    return product if scale is None else scale[..., None] * product


def _last_apart(stacks: Sequence[Any]) -> list[Any]:
    """The stacks, the very last factor taken off as one of its own, without an axis of factors."""
    whole, last = list(stacks[:-1]), stacks[-1]
    matrix, scale = last.matrix, last.scale
    end = Factors(matrix[-1], None if scale is None else scale[:, -1])
    if len(matrix) > 1:
        assert scale is not None, "scales stand behind every factor but the last"
        whole.append(Factors(matrix[:-1], scale[:, :-1]))
    return [*whole, end]


def _live(scale: Any, width: int) -> tuple[Any, Any]:
    """Which units are not zero, padded by unit 0 to `width`, and their scales, padded by 0: (batch, k) each."""
    alive = scale != 0
    width = min(width, scale.shape[-1])
    places = jnp.where(alive, jnp.cumsum(alive, -1) - 1, width)  # a sort is many times slower on a CPU
    units = jnp.arange(scale.shape[-1], dtype=places.dtype)
    index = jax.vmap(lambda place: jnp.zeros(width, places.dtype).at[place].set(units, mode="drop"))(places)
    there = jnp.arange(width)[None] < jnp.sum(alive, -1, keepdims=True)
    return index, jnp.where(there, jnp.take_along_axis(scale, index, -1), 0)


def _begun(stack: Any, width: int) -> tuple[Any, Any]:
    """(product, live units) after the first factor: its rows that live, turned so that it is square."""
    index, scale = _live(stack.scale[:, 0], width)
    if stack.matrix is None:
        return scale[..., None] * jnp.eye(scale.shape[-1], dtype=scale.dtype)[None], index
    rows = scale[..., None] * stack.matrix[0][index]
    if rows.shape[1] < rows.shape[2]:  # values do not change under a rotation of the inputs
        rows = _factorizations.qr(rows.mT)[1].mT
    return rows, index


def _next(state: tuple[Any, Any], factor: tuple[Any, Any], width: int) -> tuple[Any, Any]:
    product, live = state
    matrix, scale = factor
    index, scale = _live(scale, width)
    block = jax.vmap(lambda rows, columns: matrix[rows][:, columns])(index, live)
    return scale[..., None] * (block @ product), index
