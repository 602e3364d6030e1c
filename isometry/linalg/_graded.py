"""Products of many matrices in graded form: every scale is kept apart as a power of two, so none is lost.

J = B · diag(2^e) · T with `B` orthonormal, `e` integers and the rows of `T` of size one. A factor A turns it into
A B = Q R, B ← Q, and R diag(2^e) T is rescaled row by row, exactly, so that the rows sort themselves as singular values
do. An elimination would do for that, at a third of the cost, but the condition of its L multiplies that of the factor
in the error: 30 to 300 times as large at 256 × 256.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from isometry.linalg import _factorizations

NOTHING = -(2**30)
"""Exponent of a row that is zero."""


class Graded(NamedTuple):
    """basis · diag(2^exponents) · rows."""

    basis: Float[Array, "n r"]
    exponents: Int[Array, " r"]
    rows: Float[Array, "r r"]


def identity(width: int, dtype: Any) -> Graded:
    """The empty product on `width` coordinates, Q diag(1) Qᵀ with one fixed Haar matrix.

    In coordinates of their own, factors need not be in general position: those that are upper triangular leave the span
    of the leading ones as it is, and the rows would never sort themselves.
    """
    haar, _ = _factorizations.qr(jax.random.normal(jax.random.key(0), (width, width), dtype))
    return Graded(haar, jnp.zeros(width, jnp.int32), haar.T)


def times(product: Graded, image: Float[Array, "m r"]) -> Graded:
    """The product after a factor A, given its image A · basis; m ≥ r."""
    product, image = _sorted(product, image)
    # rows in the order of an elimination's pivots, lest the small ones drown in the large
    order = _factorizations.row_order(image)
    basis, upper = _factorizations.qr(image[order])
    # what a row of R is made of: below it times eps there is only rounding
    scale = jnp.max(jnp.abs(image), -1)[order[: image.shape[1]]]
    return _absorb(upper, scale, product)._replace(basis=basis[jnp.argsort(order)])


def core(product: Graded) -> Graded:
    """diag(2^e) · T alone, which has the same singular values."""
    return product._replace(basis=product.basis[:0])


def flip(product: Graded) -> Graded:
    """The transpose of diag(2^e) · T in graded form again, rows triangular and no basis: one step of QR iteration."""
    product, _ = _sorted(product, product.basis)
    _, upper = _factorizations.qr(product.rows.T)
    blank = product._replace(rows=jnp.eye(*upper.shape, dtype=upper.dtype))
    return _absorb(upper, jnp.ones(len(upper), upper.dtype), blank)


def turned(product: Graded) -> Graded:
    """The transpose of diag(2^e) · T with its basis, to be multiplied further."""
    product, _ = _sorted(product, product.basis)
    blank = product._replace(rows=jnp.eye(*product.rows.shape, dtype=product.rows.dtype))
    return times(blank, product.rows.T)


def _sorted(product: Graded, columns: Float[Array, "m r"]) -> tuple[Graded, Float[Array, "m r"]]:
    """The product with the largest columns · diag(2^e) first, and `columns` in that order; its basis is out of order.

    Rows sort themselves where the coordinates are in general position to the factors' singular vectors. Otherwise, as
    with factors made of reflections or of Hadamard's matrix, one that started later outgrows those before it, and
    eliminated in its old place would drown them. (Tomas et al., 2012, sort so for quantum Monte Carlo.)
    """
    peak = jnp.max(jnp.abs(columns), 0) if columns.size else jnp.ones(len(product.exponents), columns.dtype)
    order = jnp.argsort(-(product.exponents + jnp.where(peak == 0, NOTHING // 2, exponent(peak))))
    return product._replace(exponents=product.exponents[order], rows=product.rows[order]), columns[:, order]


def _absorb(upper: Float[Array, "r r"], scale: Float[Array, " r"], product: Graded) -> Graded:
    """R · diag(2^e) · T rescaled by rows. Where a row of R is rounding of its `scale`, J has lost a direction."""
    eps = jnp.finfo(upper.dtype).eps
    dead = jnp.max(jnp.abs(upper), -1) <= 8 * len(upper) ** 0.5 * eps * scale
    upper = jnp.where(dead[:, None], 0, upper)
    reach = exponent(upper) + product.exponents[None, :]
    top = jnp.max(jnp.where(upper == 0, NOTHING, reach), -1)
    # positive powers meet entries as small, so the result is at most 1
    mixed = _scaled(upper, product.exponents[None, :] - top[:, None])
    rows, shift = unit_rows(mixed @ product.rows)
    # of a zero row both may be NOTHING, and their sum beyond the integers
    exponents = jnp.where((shift == NOTHING) | (top + shift <= NOTHING // 2), NOTHING, top + shift)
    return Graded(product.basis, exponents, rows)


def unit_rows(rows: Float[Array, "r n"]) -> tuple[Float[Array, "r n"], Int[Array, " r"]]:
    """Rows with their largest entry in [1/2, 1), and the powers of two taken out; zero rows stay, at no exponent."""
    peak = jnp.max(jnp.abs(rows), -1)
    shift = exponent(peak)
    return _scaled(rows, jnp.where(peak == 0, 0, -shift)[:, None]), jnp.where(peak == 0, NOTHING, shift)


def _scaled(x: Any, e: Any) -> Any:
    """x · 2^e, in two halves: 2^-127 itself is not normal in float32."""
    return x * power_of_two(e // 2, x.dtype) * power_of_two(e - e // 2, x.dtype)


def exponent(x: Float[Array, "*s"]) -> Int[Array, "*s"]:
    """The e with |x| in [2^(e-1), 2^e), read off the bits; subnormals and zero come out at the least."""
    bits, mantissa, bias = _format(x.dtype)
    raw = jax.lax.bitcast_convert_type(x, bits) >> mantissa
    return (raw & (2 * bias + 1)).astype(jnp.int32) - (bias - 1)


def power_of_two(e: Int[Array, "*s"], dtype: Any) -> Float[Array, "*s"]:
    """2^e exactly; 0 below the normal range, the largest power above it."""
    bits, mantissa, bias = _format(dtype)
    held = jnp.clip(e, 1 - bias, bias)
    made = jax.lax.bitcast_convert_type((held + bias).astype(bits) << mantissa, dtype)
    return jnp.where(e < 1 - bias, jnp.zeros((), dtype), made)


def _format(dtype: Any) -> tuple[Any, int, int]:
    """(integer of the same size, bits of mantissa, bias of the exponent)."""
    return (jnp.int64, 52, 1023) if jnp.dtype(dtype) == jnp.float64 else (jnp.int32, 23, 127)
