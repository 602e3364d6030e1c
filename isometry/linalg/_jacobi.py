"""One-sided Jacobi on rows that are any number of decades apart in scale.

A rotation works with the ratio of two scales alone, so the singular values of diag(2^e)
· T come out to full relative accuracy (Demmel and Veselić, 1992).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from isometry.linalg._graded import Graded, exponent, power_of_two

# Sweeps after which it ends in any case. Six to ten are what it takes; a hundred would
# only matter to rows that never become orthogonal, as those with a NaN.
_MOST_SWEEPS = 30

# Rows that are rotated among each other where couplings are local. With ten times as
# many a sweep takes nearly all pairs; with a tenth rotations of neighbours come in too
# many small blocks.
_BLOCK = 32


class _Rows(NamedTuple):
    """Rows of unit norm and their lengths, size · 2^exponent.

    Attributes:
        unit: The directions.
        size: In [1/2, 1), or 0 of a zero row.
        exponent: Whole numbers.
    """

    unit: Float[Array, "*batch r n"]
    size: Float[Array, "*batch r"]
    exponent: Int[Array, "*batch r"]


def log_values(product: Graded) -> Float[Array, " r"]:
    """Compute ln of the singular values of diag(2^e) · T, descending.

    Sweeps go on until no two rows are nearer than √eps to a common direction before
    they are rotated: after that the error, its square, is rounding. Where only rows of
    similar size are, as after QR iterations on a steep spectrum, a sweep takes rows
    that are near in order alone.
    """
    rows = _padded(_normalized(product.rows, product.exponents))
    tolerance = jnp.sqrt(jnp.finfo(rows.size.dtype).eps)

    def is_unfinished(state: tuple[Int[Array, ""], _Rows, Array, Array]) -> Array:
        num_sweeps, _, near, far = state
        is_coupled = jnp.maximum(near, far) > tolerance
        return is_coupled & (num_sweeps < _MOST_SWEEPS)

    def swept(
        state: tuple[Int[Array, ""], _Rows, Array, Array],
    ) -> tuple[Int[Array, ""], _Rows, Array, Array]:
        num_sweeps, rows, _, far = state
        if len(rows.size) <= _BLOCK:
            rows = _sweep(rows)
        else:
            rows = jax.lax.cond(far > tolerance, _sweep, _near_sweep, rows)
        return num_sweeps + 1, rows, *_couplings(rows)

    start = jnp.int32(0), rows, *_couplings(rows)
    _, rows, _, _ = jax.lax.while_loop(is_unfinished, swept, start)
    is_zero = rows.size == 0
    scale = rows.exponent.astype(rows.size.dtype) * math.log(2)
    logs = jnp.log(jnp.where(is_zero, 1, rows.size)) + scale
    ascending = jnp.sort(jnp.where(is_zero, jnp.inf, -logs))
    return -ascending[: len(product.exponents)]


def is_local(product: Graded) -> Bool[Array, ""]:
    """Tell whether only rows near in order are coupled.

    Then no sweep need take all pairs.
    """
    rows = _padded(_normalized(product.rows, product.exponents))
    if len(rows.size) <= _BLOCK:
        return jnp.asarray(True)
    _, far = _couplings(rows)
    return far <= jnp.sqrt(jnp.finfo(rows.size.dtype).eps)


def _padded(rows: _Rows) -> _Rows:
    """Sort the rows, largest first, and append zero rows.

    Their number becomes even, or that of whole blocks where there is more than one.
    """
    order = jnp.argsort(-rows.exponent)
    multiple = _BLOCK if len(order) > _BLOCK else 2
    num_lacking = -len(order) % multiple

    def extended(array: Array) -> Array:
        zeros = jnp.zeros_like(array, shape=(num_lacking, *array.shape[1:]))
        return jnp.concatenate([array[order], zeros])

    return jax.tree.map(extended, rows)


def _normalized(
    rows: Float[Array, "*batch r n"],
    exponents: Int[Array, "*batch r"],
) -> _Rows:
    """Separate the directions of rows from their lengths, norm · 2^exponents."""
    norm = jnp.linalg.norm(rows, axis=-1)
    is_zero = norm == 0
    shift = jnp.where(is_zero, 0, exponent(norm))
    return _Rows(
        unit=rows / jnp.where(is_zero, 1, norm)[..., None],
        size=norm * power_of_two(-shift, norm.dtype),
        exponent=jnp.where(is_zero, 0, exponents + shift),
    )


def _couplings(rows: _Rows) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Find the largest cosines between two rows.

    Returns:
        That of pairs which `_near_sweep` rotates in any case, and that of all others.
    """
    cosines = jnp.abs(rows.unit @ rows.unit.T)
    place = np.arange(len(rows.size))
    distance = np.abs(place[:, None] - place)
    is_far = distance >= _BLOCK // 2
    is_near = ~is_far & (distance > 0)
    near = jnp.max(jnp.where(is_near, cosines, 0))
    far = jnp.max(jnp.where(is_far, cosines, 0))
    return near, far


def _near_sweep(rows: _Rows) -> _Rows:
    """Rotate every pair of rows less than half a block apart, once or twice.

    Blocks are swept, and after them the blocks that begin half a block later.
    """
    for shift in (_BLOCK // 2, -(_BLOCK // 2)):
        rows = jax.vmap(_sweep)(_in_blocks(rows))
        rows = _rolled(rows, shift)
    return rows


def _in_blocks(rows: _Rows) -> _Rows:
    def blocks(array: Array) -> Array:
        return array.reshape(-1, _BLOCK, *array.shape[1:])

    return jax.tree.map(blocks, rows)


def _rolled(blocks: _Rows, shift: int) -> _Rows:
    """Join blocks of rows, and move each row on by `shift` places."""

    def rolled(array: Array) -> Array:
        joined = array.reshape(-1, *array.shape[2:])
        return jnp.roll(joined, shift, axis=0)

    return jax.tree.map(rolled, blocks)


def _sweep(rows: _Rows) -> _Rows:
    """Rotate every pair of rows once, half of the rows against the other half."""
    count = len(rows.size)
    half = count // 2
    next_order = jnp.asarray(_round_robin(count))

    def one_round(rows: _Rows, _: None) -> tuple[_Rows, None]:
        first = jax.tree.map(lambda array: array[:half], rows)
        second = jax.tree.map(lambda array: array[half:], rows)
        pair = _rotated(first, second)
        joined = jax.tree.map(lambda *halves: jnp.concatenate(halves), *pair)
        return jax.tree.map(lambda array: array[next_order], joined), None

    rows, _ = jax.lax.scan(one_round, rows, None, length=count - 1)
    return rows


def _round_robin(count: int) -> np.ndarray:
    """Return where each row comes from in the next round.

    The first row stays, the others go round: each meets each in count - 1 rounds.
    """
    half = count // 2
    if half == 1:
        return np.arange(2)
    first, second = np.arange(half), np.arange(half, count)
    return np.concatenate([[0, second[0]], first[1:-1], second[1:], first[-1:]])


def _rotated(a: _Rows, b: _Rows) -> tuple[_Rows, _Rows]:
    """Make each row of `a` orthogonal to that of `b`, by a rotation in their plane."""
    is_shorter = (a.exponent < b.exponent) | (
        (a.exponent == b.exponent) & (a.size < b.size)
    )
    is_swapped = (is_shorter & (b.size > 0)) | (a.size == 0)
    long, short = _chosen(is_swapped, b, a), _chosen(is_swapped, a, b)
    # All lengths are in terms of the longer row's.
    scale = power_of_two(short.exponent - long.exponent, a.size.dtype)
    ratio = scale * short.size / jnp.where(long.size == 0, 1, long.size)
    cosine = jnp.sum(long.unit * short.unit, axis=-1)
    # The tangent over the ratio is the smaller root of the problem [[1, r c], [r c,
    # r²]]; 0 where there is nothing to do.
    gap = 1 - ratio**2
    root = jnp.sqrt(gap**2 + (2 * ratio * cosine) ** 2)
    slope = 2 * cosine / jnp.where(cosine == 0, 1, gap + root)
    tangent = ratio * slope
    shrink = 1 / jnp.sqrt(1 + tangent**2)
    along = long.unit + (tangent * ratio)[:, None] * short.unit
    across = shrink[:, None] * (short.unit - slope[:, None] * long.unit)
    # Of rows that are parallel to rounding nothing is left but rounding.
    rounding = across.shape[-1] * jnp.finfo(across.dtype).eps
    is_lost = jnp.linalg.norm(across, axis=-1) <= rounding
    longer = _turned(long, shrink[:, None] * along)
    shorter = _turned(short, jnp.where(is_lost[:, None], 0, across))
    return (
        _chosen(is_swapped, shorter, longer),
        _chosen(is_swapped, longer, shorter),
    )


def _turned(rows: _Rows, directions: Float[Array, "r n"]) -> _Rows:
    """Give rows new directions, whose norms go into the lengths."""
    new = _normalized(directions, rows.exponent)
    size = rows.size * new.size
    is_zero = size == 0
    shift = jnp.where(is_zero, 0, exponent(size))
    return _Rows(
        unit=new.unit,
        size=size * power_of_two(-shift, size.dtype),
        exponent=jnp.where(is_zero, 0, new.exponent + shift),
    )


def _chosen(mask: Bool[Array, " r"], yes: _Rows, no: _Rows) -> _Rows:
    """Take the rows of `yes` where the mask holds, and those of `no` elsewhere."""

    def select(a: Array, b: Array) -> Array:
        shape = mask.shape + (1,) * (a.ndim - 1)
        return jnp.where(mask.reshape(shape), a, b)

    return jax.tree.map(select, yes, no)
