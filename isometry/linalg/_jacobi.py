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
_HALF_BLOCK = _BLOCK // 2


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


class _Couplings(NamedTuple):
    """The largest cosines between two rows.

    Attributes:
        near: Of pairs which `_near_sweep` rotates in any case.
        far: Of all others.
    """

    near: Float[Array, ""]
    far: Float[Array, ""]


class _State(NamedTuple):
    """Rows after some sweeps, and how far they are from orthogonal."""

    num_sweeps: Int[Array, ""]
    rows: _Rows
    couplings: _Couplings


def log_values(product: Graded) -> Float[Array, " r"]:
    """Compute ln of the singular values of diag(2^e) · T, descending.

    Sweeps go on until no two rows are nearer than √eps to a common direction before
    they are rotated: after that the error, its square, is rounding. Where only rows of
    similar size are, as after QR iterations on a steep spectrum, a sweep takes rows
    that are near in order alone.
    """
    rows = _rows_of(product)
    tolerance = _tolerance(rows)

    def is_unfinished(state: _State) -> Bool[Array, ""]:
        near, far = state.couplings
        is_coupled = jnp.maximum(near, far) > tolerance
        has_sweeps_left = state.num_sweeps < _MOST_SWEEPS
        return is_coupled & has_sweeps_left

    def swept(state: _State) -> _State:
        rows = _sweep_as_needed(state, tolerance)
        return _State(
            num_sweeps=state.num_sweeps + 1,
            rows=rows,
            couplings=_couplings(rows),
        )

    start = _State(
        num_sweeps=jnp.int32(0),
        rows=rows,
        couplings=_couplings(rows),
    )
    end = jax.lax.while_loop(is_unfinished, swept, start)
    count = len(product.exponents)
    return _largest_logs(end.rows, count)


def is_local(product: Graded) -> Bool[Array, ""]:
    """Tell whether only rows near in order are coupled.

    Then no sweep need take all pairs.
    """
    rows = _rows_of(product)
    if _is_one_block(rows):
        return jnp.asarray(True)
    couplings = _couplings(rows)
    return couplings.far <= _tolerance(rows)


def _rows_of(product: Graded) -> _Rows:
    rows = _normalized(product.rows, product.exponents)
    return _padded(rows)


def _tolerance(rows: _Rows) -> Float[Array, ""]:
    """Return √eps, the cosine below which one more rotation ends in rounding."""
    eps = jnp.finfo(rows.size.dtype).eps
    return jnp.sqrt(eps)


def _is_one_block(rows: _Rows) -> bool:
    return len(rows.size) <= _BLOCK


def _largest_logs(rows: _Rows, count: int) -> Float[Array, " count"]:
    """Return ln of the lengths of the longest rows, descending, -inf of zero rows."""
    is_zero = rows.size == 0
    exponents = rows.exponent.astype(rows.size.dtype)
    scale = exponents * math.log(2)
    size = jnp.where(is_zero, 1, rows.size)
    logs = jnp.log(size) + scale
    negated = jnp.where(is_zero, jnp.inf, -logs)
    ascending = jnp.sort(negated)
    return -ascending[:count]


def _padded(rows: _Rows) -> _Rows:
    """Sort the rows, largest first, and append zero rows.

    Their number becomes even, or that of whole blocks where there is more than one.
    """
    order = jnp.argsort(-rows.exponent)
    multiple = 2 if _is_one_block(rows) else _BLOCK
    num_lacking = -len(order) % multiple

    def extended(array: Array) -> Array:
        _, *row_shape = array.shape
        shape = (num_lacking, *row_shape)
        zeros = jnp.zeros_like(array, shape=shape)
        ordered = array[order]
        return jnp.concatenate([ordered, zeros])

    return jax.tree.map(extended, rows)


def _normalized(
    rows: Float[Array, "*batch r n"],
    exponents: Int[Array, "*batch r"],
) -> _Rows:
    """Separate the directions of rows from their lengths, norm · 2^exponents."""
    norm = jnp.linalg.norm(rows, axis=-1)
    is_zero = norm == 0
    shift = jnp.where(is_zero, 0, exponent(norm))
    divisor = jnp.where(is_zero, 1, norm)
    unit = rows / divisor[..., None]
    # Between 1/2 and 1, since the shift is the exponent of the norm.
    size = norm * power_of_two(-shift, norm.dtype)
    exponents = jnp.where(is_zero, 0, exponents + shift)
    return _Rows(unit, size, exponents)


def _couplings(rows: _Rows) -> _Couplings:
    """Find the largest cosines between two rows."""
    gram = rows.unit @ rows.unit.T
    cosines = jnp.abs(gram)
    place = np.arange(len(rows.size))
    distance = np.abs(place[:, None] - place)
    is_far = distance >= _HALF_BLOCK
    is_other = distance > 0
    is_near = ~is_far & is_other
    near = jnp.where(is_near, cosines, 0)
    near = jnp.max(near)
    far = jnp.where(is_far, cosines, 0)
    far = jnp.max(far)
    return _Couplings(near, far)


def _sweep_as_needed(state: _State, tolerance: Float[Array, ""]) -> _Rows:
    """Sweep all pairs of rows, or those near in order where no others are coupled."""
    if _is_one_block(state.rows):
        return _sweep(state.rows)
    is_coupled_afar = state.couplings.far > tolerance
    return jax.lax.cond(
        is_coupled_afar,
        _sweep,
        _near_sweep,
        state.rows,
    )


def _near_sweep(rows: _Rows) -> _Rows:
    """Rotate every pair of rows less than half a block apart, once or twice.

    Blocks are swept, and after them the blocks that begin half a block later.
    """
    sweep_blocks = jax.vmap(_sweep)
    for shift in (_HALF_BLOCK, -_HALF_BLOCK):
        blocks = _in_blocks(rows)
        blocks = sweep_blocks(blocks)
        rows = _rolled(blocks, shift)
    return rows


def _in_blocks(rows: _Rows) -> _Rows:
    def in_blocks(array: Array) -> Array:
        _, *row_shape = array.shape
        return array.reshape(-1, _BLOCK, *row_shape)

    return jax.tree.map(in_blocks, rows)


def _rolled(blocks: _Rows, shift: int) -> _Rows:
    """Join blocks of rows, and move each row on by `shift` places."""

    def rolled(array: Array) -> Array:
        _, _, *row_shape = array.shape
        joined = array.reshape(-1, *row_shape)
        return jnp.roll(joined, shift, axis=0)

    return jax.tree.map(rolled, blocks)


def _sweep(rows: _Rows) -> _Rows:
    """Rotate every pair of rows once, half of the rows against the other half."""
    count = len(rows.size)
    num_rounds = count - 1
    half = count // 2
    next_order = jnp.asarray(_round_robin(count))

    def one_round(rows: _Rows, _: None) -> tuple[_Rows, None]:
        first = jax.tree.map(lambda array: array[:half], rows)
        second = jax.tree.map(lambda array: array[half:], rows)
        first, second = _rotated(first, second)
        joined = _joined(first, second)
        rows = jax.tree.map(lambda array: array[next_order], joined)
        return rows, None

    rows, _ = jax.lax.scan(
        one_round,
        rows,
        None,
        length=num_rounds,
    )
    return rows


def _joined(first: _Rows, second: _Rows) -> _Rows:
    def joined(a: Array, b: Array) -> Array:
        return jnp.concatenate([a, b])

    return jax.tree.map(joined, first, second)


def _round_robin(count: int) -> np.ndarray:
    """Return where each row comes from in the next round.

    The first row stays, the others go round: each meets each in count - 1 rounds.
    """
    half = count // 2
    if half == 1:
        return np.arange(2)
    first = np.arange(half)
    second = np.arange(half, count)
    # At each end one row changes sides; the others move on by one place.
    new_first = [first[:1], second[:1], first[1:-1]]
    new_second = [second[1:], first[-1:]]
    return np.concatenate(new_first + new_second)


def _rotated(a: _Rows, b: _Rows) -> tuple[_Rows, _Rows]:
    """Make each row of `a` orthogonal to that of `b`, by a rotation in their plane."""
    is_swapped = _is_longer(b, a)
    long = _chosen(is_swapped, b, a)
    short = _chosen(is_swapped, a, b)
    long, short = _rotated_in_order(long, short)
    new_a = _chosen(is_swapped, short, long)
    new_b = _chosen(is_swapped, long, short)
    return new_a, new_b


def _is_longer(a: _Rows, b: _Rows) -> Bool[Array, " r"]:
    """Tell whether rows of `a` are longer than those of `b`, or those are zero."""
    has_larger_exponent = b.exponent < a.exponent
    has_same_exponent = b.exponent == a.exponent
    has_larger_size = b.size < a.size
    is_longer = has_larger_exponent | (has_same_exponent & has_larger_size)
    # The exponent of a zero row says nothing.
    return (is_longer & (a.size > 0)) | (b.size == 0)


def _rotated_in_order(long: _Rows, short: _Rows) -> tuple[_Rows, _Rows]:
    """Rotate each longer row and its shorter one until they are orthogonal.

    All lengths are in terms of the longer row's.
    """
    ratio = _ratio(short, long)
    products = long.unit * short.unit
    cosine = jnp.sum(products, axis=-1)
    slope = _slope(ratio, cosine)
    tangent = ratio * slope
    secant = jnp.sqrt(1 + tangent**2)
    shrink = 1 / secant
    share = tangent * ratio
    # The new rows are shrink · along and ratio · across. The ratio goes into the length
    # of the second alone, so that a tiny one costs no digits.
    along = long.unit + share[:, None] * short.unit
    across = shrink[:, None] * (short.unit - slope[:, None] * long.unit)
    # Of rows that are parallel to rounding nothing is left but rounding.
    width = across.shape[-1]
    rounding = width * jnp.finfo(across.dtype).eps
    remainder = jnp.linalg.norm(across, axis=-1)
    is_lost = remainder <= rounding
    longer = _turned(long, shrink[:, None] * along)
    across = jnp.where(is_lost[:, None], 0, across)
    shorter = _turned(short, across)
    return longer, shorter


def _ratio(short: _Rows, long: _Rows) -> Float[Array, " r"]:
    """Return the lengths of shorter rows in terms of those of longer ones."""
    difference = short.exponent - long.exponent
    scale = power_of_two(difference, short.size.dtype)
    scaled_size = scale * short.size
    is_zero = long.size == 0
    divisor = jnp.where(is_zero, 1, long.size)
    return scaled_size / divisor


def _slope(
    ratio: Float[Array, " r"],
    cosine: Float[Array, " r"],
) -> Float[Array, " r"]:
    """Return the tangent of the rotation over the ratio r of the lengths.

    The tangent is that of the smaller angle that makes [[1, r c], [r c, r²]] diagonal,
    for rows at cosine c: 0 where there is nothing to do.
    """
    gap = 1 - ratio**2
    gap_squared = gap**2
    coupling = 2 * ratio * cosine
    root = jnp.sqrt(gap_squared + coupling**2)
    numerator = 2 * cosine
    is_orthogonal = cosine == 0
    denominator = jnp.where(is_orthogonal, 1, gap + root)
    return numerator / denominator


def _turned(rows: _Rows, directions: Float[Array, "r n"]) -> _Rows:
    """Give rows new directions, whose norms go into the lengths."""
    new = _normalized(directions, rows.exponent)
    size = rows.size * new.size
    is_zero = size == 0
    shift = jnp.where(is_zero, 0, exponent(size))
    size = size * power_of_two(-shift, size.dtype)
    exponents = jnp.where(is_zero, 0, new.exponent + shift)
    return _Rows(new.unit, size, exponents)


def _chosen(mask: Bool[Array, " r"], yes: _Rows, no: _Rows) -> _Rows:
    """Take the rows of `yes` where the mask holds, and those of `no` elsewhere."""

    def select(a: Array, b: Array) -> Array:
        num_more = a.ndim - 1
        shape = mask.shape + (1,) * num_more
        whole_rows = mask.reshape(shape)
        return jnp.where(whole_rows, a, b)

    return jax.tree.map(select, yes, no)
