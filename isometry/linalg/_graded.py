"""Products of many matrices in graded form, where no scale is ever lost.

J = B · diag(2^e) · T has a `basis` B with orthonormal columns, whole `exponents` e and
`rows` T of size one. A factor A turns it into A B = Q R and B ← Q, and R diag(2^e) T is
rescaled row by row, exactly, so that rows sort themselves as singular values do.

An elimination would do for that at a third of the cost. But the condition of its L
multiplies that of the factor in the error, which is 30 to 300 times as large at
256 × 256.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
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


class Graded(NamedTuple):
    """The matrix basis · diag(2^exponents) · rows."""

    basis: Float[Array, "n r"]
    exponents: Int[Array, " r"]
    rows: Float[Array, "r r"]


def identity(width: int, dtype: DTypeLike) -> Graded:
    """Return the empty product as Q diag(1) Qᵀ, with one fixed Haar matrix Q.

    Without Q, factors need not be in general position to the coordinates: triangular
    ones leave the span of the leading ones as it is, and rows would never be sorted.
    """
    gaussian = jax.random.normal(jax.random.key(0), (width, width), dtype)
    haar, _ = _factorizations.qr(gaussian)
    return Graded(haar, jnp.zeros(width, jnp.int32), haar.T)


def times(product: Graded, image: Float[Array, "m r"]) -> Graded:
    """Multiply by one more factor.

    Args:
        product: The product so far.
        image: The factor A times `product.basis`, with m >= r.

    Returns:
        The product after A.
    """
    product, image = _sorted(product, image)
    # Rows are taken in the order of an elimination's pivots. In any other, small ones
    # drown in large ones.
    order = _factorizations.row_order(image)
    basis, upper = _factorizations.qr(image[order])
    # What each row of R is made of.
    width = image.shape[1]
    scale = jnp.max(jnp.abs(image), axis=-1)[order[:width]]
    absorbed = _absorbed(upper, scale, product)
    return absorbed._replace(basis=basis[jnp.argsort(order)])


def core(product: Graded) -> Graded:
    """Return diag(2^e) · T alone, which has the same singular values."""
    return product._replace(basis=product.basis[:0])


def flip(product: Graded) -> Graded:
    """Transpose diag(2^e) · T, without a basis: one step of QR iteration.

    Returns:
        A graded form of the transpose whose rows are triangular.
    """
    product, _ = _sorted(product, product.basis)
    _, upper = _factorizations.qr(product.rows.T)
    ones = jnp.ones(len(upper), upper.dtype)
    return _absorbed(upper, ones, _without_rows(product))


def turned(product: Graded) -> Graded:
    """Transpose diag(2^e) · T, with a basis, to be multiplied further."""
    product, _ = _sorted(product, product.basis)
    return times(_without_rows(product), product.rows.T)


def _without_rows(product: Graded) -> Graded:
    identity = jnp.eye(len(product.rows), dtype=product.rows.dtype)
    return product._replace(rows=identity)


def _sorted(
    product: Graded,
    columns: Float[Array, "m r"],
) -> tuple[Graded, Float[Array, "m r"]]:
    """Put the largest of columns · diag(2^e) first; the basis is left out of order.

    Rows sort themselves where the coordinates are in general position to the singular
    vectors of the factors. Otherwise, as with factors made of reflections or of
    Hadamard's matrix, one that started later outgrows those before it, and eliminated
    in its old place would drown them. Tomas et al. (2012) sort so for quantum Monte
    Carlo.
    """
    peak = jnp.ones(len(product.exponents), columns.dtype)
    if columns.size:
        peak = jnp.max(jnp.abs(columns), axis=0)
    size = product.exponents + jnp.where(peak == 0, NOTHING // 2, exponent(peak))
    order = jnp.argsort(-size)
    in_order = product._replace(
        exponents=product.exponents[order],
        rows=product.rows[order],
    )
    return in_order, columns[:, order]


def _absorbed(
    upper: Float[Array, "r r"],
    scale: Float[Array, " r"],
    product: Graded,
) -> Graded:
    """Rescale R · diag(2^e) · T by rows; its basis is that of `product`.

    Where a row of R is rounding of its `scale`, J has lost a direction.
    """
    eps = jnp.finfo(upper.dtype).eps
    rounding = _ROUNDING * len(upper) ** 0.5 * eps * scale
    is_lost = jnp.max(jnp.abs(upper), axis=-1) <= rounding
    upper = jnp.where(is_lost[:, None], 0, upper)
    reach = exponent(upper) + product.exponents[None, :]
    top = jnp.max(jnp.where(upper == 0, NOTHING, reach), axis=-1)
    # Positive powers meet entries as small, so the result is at most 1.
    mixed = scaled(upper, product.exponents[None, :] - top[:, None])
    rows, shift = unit_rows(mixed @ product.rows)
    # Of a zero row both may be NOTHING, and their sum beyond the integers.
    is_zero = (shift == NOTHING) | (top + shift <= NOTHING // 2)
    exponents = jnp.where(is_zero, NOTHING, top + shift)
    return Graded(product.basis, exponents, rows)


def unit_rows(
    rows: Float[Array, "r n"],
) -> tuple[Float[Array, "r n"], Int[Array, " r"]]:
    """Scale rows by powers of two to a largest entry in [1/2, 1).

    Returns:
        The rows, and the exponents that were taken out. A zero row stays, and its
        exponent is `NOTHING`.
    """
    peak = jnp.max(jnp.abs(rows), axis=-1)
    is_zero = peak == 0
    shift = exponent(peak)
    unit = scaled(rows, jnp.where(is_zero, 0, -shift)[:, None])
    return unit, jnp.where(is_zero, NOTHING, shift)


# --- Powers of two


def scaled(x: Float[Array, "*s"], e: Int[Array, "*t"]) -> Float[Array, "*s"]:
    """Return x · 2^e, exact where it is a normal number."""
    # In two halves, since 2^-127 itself is not normal in float32.
    half = e // 2
    return x * power_of_two(half, x.dtype) * power_of_two(e - half, x.dtype)


def exponent(x: Float[Array, "*s"]) -> Int[Array, "*s"]:
    """Return the e with |x| in [2^(e-1), 2^e), the least for subnormals and zero."""
    integers, num_mantissa, bias = _format(x.dtype)
    raw = jax.lax.bitcast_convert_type(x, integers) >> num_mantissa
    return (raw & (2 * bias + 1)).astype(jnp.int32) - (bias - 1)


def power_of_two(e: Int[Array, "*s"], dtype: DTypeLike) -> Float[Array, "*s"]:
    """Return 2^e, or 0 below the normal range and the largest power above it."""
    _, _, bias = _format(dtype)
    power = _normal_power(jnp.clip(e, 1 - bias, bias), dtype)
    return jnp.where(e < 1 - bias, jnp.zeros((), dtype), power)


def _normal_power(e: Int[Array, "*s"], dtype: DTypeLike) -> Float[Array, "*s"]:
    """Return 2^e of an e in the normal range."""
    integers, num_mantissa, bias = _format(dtype)
    bits = (e + bias).astype(integers) << num_mantissa
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
    inverse = _normal_power(-half, x.dtype), _normal_power(half - e, x.dtype)
    return x * inverse[0] * inverse[1], e


def _format(dtype: DTypeLike) -> tuple[DTypeLike, int, int]:
    """Return the integers of the same size, the bits of mantissa, and the bias."""
    if jnp.dtype(dtype) == jnp.float64:
        return jnp.int64, 52, 1023
    return jnp.int32, 23, 127
