"""Products of many matrices in graded form, where no scale is ever lost.

J = B · diag(2^e) · T has a basis B with independent columns, whole exponents e and rows
T of size one. A factor A turns it into A B = Q R and B ← Q, and R diag(2^e) T is
rescaled row by row, exactly, so that rows sort themselves as singular values do.

Two ways lead from A B to Q R. By Householder's reflections Q is orthonormal to
rounding, whatever the scales of the rows of A B; this is the slow one. By the Cholesky
factor of its Gram matrix Q R = A B holds as exactly, in products of matrices mostly,
but Q is only orthonormal to eps times the square of the condition of A B. That does no
harm as long as it is well conditioned, since the next factor meets A Q instead, and so
this way is taken wherever the condition allows.

An elimination would do at a third of the cost of the reflections. But the condition of
its L multiplies that of the factor in the error, which is 30 to 300 times as large at
256 × 256.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from isometry.linalg import _factorizations

# Exponent of a row that is zero: below any that arises, and far enough from the end of
# the integers that half of it can be added.
NOTHING = -(2**30)

# A row of R that is smaller than so many √n eps of what it was made of is rounding, and
# zero. Ten times as many would take true values for rounding; with a tenth a rank that
# was lost is often missed.
_ROUNDING = 8

# Powers of two by which a row may be larger than one before it. The error grows with
# such a disorder, by 2^4 at most. Without any slack rows of almost equal size would be
# gathered anew at every layer, for two tenths of the time; with ten times as much small
# ones drown.
_SLACK = 2

# Random vectors from which the condition is estimated. The estimate is a third too low
# at worst with four; with one it is now and then ten times too low; forty would cost as
# much as a product.
_STARTS = 4


class Graded(NamedTuple):
    """The matrix B · diag(2^exponents) · rows.

    Attributes:
        basis: The transpose of B, because XLA multiplies rows by a matrix or by its
            transpose twice as fast as it multiplies a transpose by columns. Independent
            vectors, orthonormal after `times`.
        exponents: Of the scales of rows, descending but for `_SLACK`.
        rows: Numbers of at most one.
    """

    basis: Float[Array, "r n"]
    exponents: Int[Array, " r"]
    rows: Float[Array, "r r"]


class Attempt(NamedTuple):
    """A product that may have to be thrown away.

    Attributes:
        product: After one more factor.
        condition: An estimate of the condition of the factor's image, NaN or infinite
            where that has no Cholesky factor.
    """

    product: Graded
    condition: Float[Array, ""]


def identity(width: int, dtype: DTypeLike) -> Graded:
    """Return the empty product as Q diag(1) Qᵀ, with one fixed Haar matrix Q.

    Without Q, factors need not be in general position to the coordinates: triangular
    ones leave the span of the leading ones as it is, and rows would never be sorted.
    """
    key = jax.random.key(0)
    gaussian = jax.random.normal(key, (width, width), dtype)
    haar, _ = _factorizations.qr(gaussian)
    return Graded(
        basis=haar.T,
        exponents=jnp.zeros(width, jnp.int32),
        rows=haar.T,
    )


def times(product: Graded, image: Float[Array, "r m"]) -> Graded:
    """Multiply by one more factor, by Householder's reflections.

    Args:
        product: The product so far.
        image: The transpose of A B, `product.basis` times Aᵀ, with m >= r.

    Returns:
        The product after A.
    """
    product, image = _sorted(product, image)
    columns = image.T
    # Rows are taken in the order of an elimination's pivots. In any other, small ones
    # drown in large ones.
    order = _factorizations.row_order(columns)
    ordered = columns[order]
    basis, upper = _factorizations.qr(ordered)
    # What each row of R is made of.
    peaks = _largest_moduli(columns)
    width = len(image)
    pivots = order[:width]
    scale = peaks[pivots]
    absorbed = _absorbed(upper, scale, product)
    # The basis has the rows of A B in their own order again.
    inverse_order = jnp.argsort(order)
    basis = basis[inverse_order]
    return absorbed._replace(basis=basis.T)


def times_by_cholesky(product: Graded, image: Float[Array, "r m"]) -> Attempt:
    """Multiply by one more factor, if its image is well conditioned.

    Args:
        product: The product so far.
        image: The transpose of A B, `product.basis` times Aᵀ, with m >= r.

    Returns:
        The product after A, and the condition, which beyond 1/√eps is of no use as an
        estimate. Whoever finds it too large throws the product away and calls `times`.
    """
    product, image = _sorted(product, image)
    moduli = jnp.abs(image)
    peak = jnp.max(moduli)
    # Squares of a number beyond 2^±511 are not in the range of float64.
    image, power = normalized(image, peak)
    gram = image @ image.T
    lower = _factorizations.cholesky(gram)
    basis = _factorizations.solved_lower(lower, image)
    upper = lower.T
    absorbed = _absorbed_in_order(upper, product)
    multiplied = Graded(
        basis=basis,
        exponents=absorbed.exponents + power,
        rows=absorbed.rows,
    )
    condition = _condition(gram, lower)
    return Attempt(multiplied, condition)


def _condition(
    gram: Float[Array, "r r"],
    lower: Float[Array, "r r"],
) -> Float[Array, ""]:
    """Estimate s_max / s_min of a matrix A from AᵀA = G = L Lᵀ.

    The root of the largest row sum of |G| stands for s_max, and is never below it. One
    step of inverse iteration with G from random vectors estimates s_min. That is never
    too small, and rarely too large by more than √n (Dixon, 1983).

    Args:
        gram: G, of n columns of A.
        lower: L, its Cholesky factor.
    """
    row_sums = jnp.sum(jnp.abs(gram), axis=-1)
    largest_sum = jnp.max(row_sums)
    norm = jnp.sqrt(largest_sum)
    # Constants: in a loop even a few random numbers would cost as much as a product.
    generator = np.random.default_rng(0)
    width = len(lower)
    draws = generator.standard_normal((width, _STARTS))
    start = jnp.asarray(draws, lower.dtype)
    half_step = _factorizations.solved_lower(lower, start)
    step = _factorizations.solved_lower_transposed(lower, half_step)
    length = jnp.linalg.norm(step, axis=0)
    half_length = jnp.linalg.norm(half_step, axis=0)
    # No vector grows by more than 1/s_min in half a step.
    growth = length / half_length
    return norm * jnp.max(growth)


def orthonormalized(product: Graded) -> Graded:
    """Give the product a basis that is orthonormal to rounding."""
    return times(product, product.basis)


def core(product: Graded) -> Graded:
    """Return diag(2^e) · T alone, with the same singular values if B is orthonormal."""
    no_columns = product.basis[:, :0]
    return product._replace(basis=no_columns)


def flip(product: Graded) -> Graded:
    """Transpose diag(2^e) · T, without a basis: one step of QR iteration.

    Returns:
        A graded form of the transpose whose rows are triangular.
    """
    product, _ = _sorted(product, product.basis)
    columns = product.rows.T
    _, upper = _factorizations.qr(columns)
    width = len(upper)
    scale = jnp.ones(width, upper.dtype)
    scales_alone = _without_rows(product)
    return _absorbed(upper, scale, scales_alone)


def turned(product: Graded) -> Graded:
    """Transpose diag(2^e) · T, with a basis, to be multiplied further."""
    product, _ = _sorted(product, product.basis)
    scales_alone = _without_rows(product)
    return times(scales_alone, product.rows)


def _without_rows(product: Graded) -> Graded:
    width = len(product.rows)
    identity = jnp.eye(width, dtype=product.rows.dtype)
    return product._replace(rows=identity)


def _sorted(
    product: Graded,
    image: Float[Array, "r m"],
) -> tuple[Graded, Float[Array, "r m"]]:
    """Put the largest of diag(2^e) · image first; the basis is left out of order.

    Rows sort themselves where the coordinates are in general position to the singular
    vectors of the factors. Otherwise, as with factors made of reflections or of
    Hadamard's matrix, one that started later outgrows those before it, and eliminated
    in its old place would drown them. Tomas et al. (2012) sort so for quantum Monte
    Carlo.
    """
    size = product.exponents + _row_exponents(image)
    unsorted = (product.exponents, product.rows, image)

    def gathered() -> tuple[Array, Array, Array]:
        order = jnp.argsort(-size)
        return jax.tree.map(lambda array: array[order], unsorted)

    def as_they_are() -> tuple[Array, Array, Array]:
        return unsorted

    # Each is within the slack of what belongs in its place, so of two in the wrong
    # order the later is larger by twice the slack at most.
    # In order, the largest first, with the sign reversed.
    negated = jnp.sort(-size)
    distances = jnp.abs(size + negated)
    is_disordered = jnp.max(distances) > _SLACK
    exponents, rows, image = jax.lax.cond(
        is_disordered,
        gathered,
        as_they_are,
    )
    product = product._replace(exponents=exponents, rows=rows)
    return product, image


def _row_exponents(rows: Float[Array, "r n"]) -> Int[Array, " r"]:
    """Return the exponent of the largest entry of each row, a low one of a zero row."""
    # An image of no columns says nothing of sizes: all are alike.
    count = len(rows)
    peaks = jnp.ones(count, rows.dtype)
    if rows.size:
        peaks = _largest_moduli(rows)
    is_zero = peaks == 0
    return jnp.where(is_zero, NOTHING // 2, exponent(peaks))


def _largest_moduli(rows: Float[Array, "r n"]) -> Float[Array, " r"]:
    """Return the largest modulus of each row."""
    moduli = jnp.abs(rows)
    return jnp.max(moduli, axis=-1)


def _absorbed(
    upper: Float[Array, "r r"],
    scale: Float[Array, " r"],
    product: Graded,
) -> Graded:
    """Rescale R · diag(2^e) · T by rows; its basis is that of `product`.

    Where a row of R is rounding of its `scale`, J has lost a direction.
    """
    eps = jnp.finfo(upper.dtype).eps
    root_width = len(upper) ** 0.5
    share = _ROUNDING * root_width * eps
    rounding = share * scale
    is_lost = _largest_moduli(upper) <= rounding
    upper = jnp.where(is_lost[:, None], 0, upper)
    # Entry (i, j) of R diag(2^e) is of size 2^reach.
    reach = exponent(upper) + product.exponents[None, :]
    is_zero = upper == 0
    reach = jnp.where(is_zero, NOTHING, reach)
    top = jnp.max(reach, axis=-1)
    # Positive powers meet entries as small, so the result is at most 1.
    relative = _differences(product.exponents, top)
    mixed = scaled(upper, relative)
    rows = mixed @ product.rows
    return _with_rows(product, rows, top)


def _absorbed_in_order(upper: Float[Array, "r r"], product: Graded) -> Graded:
    """Rescale R · diag(2^e) · T by rows, where e descends and R is well conditioned.

    Its largest entry in a row then lies near the diagonal, so that no row need be
    searched for it, nor be suspected of rounding: half of the time of `_absorbed`.
    """
    top = product.exponents
    # At most 2^(2 slack). What is not in the range of the numbers is zero: it is as far
    # below the diagonal's share.
    relative = _differences(top, top)
    power = power_of_two(relative, upper.dtype)
    mixed = upper * power
    rows = mixed @ product.rows
    return _with_rows(product, rows, top)


def _differences(
    exponents: Int[Array, " r"],
    top: Int[Array, " r"],
) -> Int[Array, "r r"]:
    """Return e_j of each column j, relative to the top of each row i."""
    return exponents[None, :] - top[:, None]


def _with_rows(
    product: Graded,
    rows: Float[Array, "r r"],
    top: Int[Array, " r"],
) -> Graded:
    """Give a product rows of any size that are to be multiplied by 2^top."""
    rows, shift = unit_rows(rows)
    # Of a zero row both may be NOTHING, and their sum beyond the integers.
    has_no_entry = shift == NOTHING
    is_far_below = top + shift <= NOTHING // 2
    is_zero = has_no_entry | is_far_below
    exponents = jnp.where(is_zero, NOTHING, top + shift)
    return product._replace(exponents=exponents, rows=rows)


def unit_rows(
    rows: Float[Array, "r n"],
) -> tuple[Float[Array, "r n"], Int[Array, " r"]]:
    """Scale rows by powers of two to a largest entry in [1/2, 1).

    Returns:
        The rows, and the exponents that were taken out. A zero row stays, and its
        exponent is `NOTHING`.
    """
    peaks = _largest_moduli(rows)
    is_zero = peaks == 0
    taken_out = exponent(peaks)
    shift = jnp.where(is_zero, 0, -taken_out)
    unit = scaled(rows, shift[:, None])
    exponents = jnp.where(is_zero, NOTHING, taken_out)
    return unit, exponents


# --- Powers of two


class _Format(NamedTuple):
    """How a floating-point number is laid out in memory.

    Attributes:
        integers: The integers of the same size.
        num_mantissa: The bits of the mantissa.
        bias: What is added to an exponent to store it.
    """

    integers: DTypeLike
    num_mantissa: int
    bias: int


_FLOAT32 = _Format(
    integers=jnp.int32,
    num_mantissa=23,
    bias=127,
)
_FLOAT64 = _Format(
    integers=jnp.int64,
    num_mantissa=52,
    bias=1023,
)


def _format(dtype: DTypeLike) -> _Format:
    if jnp.dtype(dtype) == jnp.float64:
        return _FLOAT64
    return _FLOAT32


def scaled(x: Float[Array, "*s"], e: Int[Array, "*t"]) -> Float[Array, "*s"]:
    """Return x · 2^e, exact where it is a normal number."""
    # In two halves, since 2^-127 itself is not normal in float32.
    half = e // 2
    first = power_of_two(half, x.dtype)
    halfway = x * first
    second = power_of_two(e - half, x.dtype)
    return halfway * second


def exponent(x: Float[Array, "*s"]) -> Int[Array, "*s"]:
    """Return the e with |x| in [2^(e-1), 2^e), the least for subnormals and zero."""
    integers, num_mantissa, bias = _format(x.dtype)
    bits = jax.lax.bitcast_convert_type(x, integers)
    # Sign and exponent; the exponent has all bits of the mask.
    leading = bits >> num_mantissa
    mask = 2 * bias + 1
    biased = leading & mask
    # The format gives numbers in [1, 2) the exponent 0, this function 1.
    return biased.astype(jnp.int32) - (bias - 1)


def power_of_two(e: Int[Array, "*s"], dtype: DTypeLike) -> Float[Array, "*s"]:
    """Return 2^e, or 0 below the normal range and the largest power above it."""
    largest = _format(dtype).bias
    least = 1 - largest
    normal = jnp.clip(e, least, largest)
    power = _normal_power(normal, dtype)
    is_below = e < least
    zero = jnp.zeros((), dtype)
    return jnp.where(is_below, zero, power)


def _normal_power(e: Int[Array, "*s"], dtype: DTypeLike) -> Float[Array, "*s"]:
    """Return 2^e of an e in the normal range."""
    integers, num_mantissa, bias = _format(dtype)
    biased = (e + bias).astype(integers)
    bits = biased << num_mantissa
    return jax.lax.bitcast_convert_type(bits, dtype)


def normalized(
    x: Float[Array, "*s"],
    peak: Float[Array, "*t"],
) -> tuple[Float[Array, "*s"], Int[Array, "*t"]]:
    """Divide by the power of two next above a peak.

    Args:
        x: Numbers of any size.
        peak: Numbers that are broadcast against x.

    Returns:
        The quotient, and the exponent e of the power 2^e: the one beyond all numbers
        where the peak is not finite.
    """
    e = exponent(peak)
    # Halves of an exponent that a number has are in the normal range: unlike those of
    # `scaled`, they need no bounds.
    half = e >> 1
    first = _normal_power(-half, x.dtype)
    second = _normal_power(half - e, x.dtype)
    halfway = x * first
    return halfway * second, e
