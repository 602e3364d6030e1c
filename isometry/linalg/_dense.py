"""Singular values of a batch of matrices that fit in memory."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from isometry._internal import checks, kinds, precision
from isometry._internal.errors import InputError, public
from isometry.linalg import _factorizations, _graded

_Pair = tuple[Array, Array]


@public("singular_values")
def singular_values(a: ArrayLike) -> Float[Array, "*batch k"]:
    """Compute all singular values of each matrix, descending.

    Args:
        a: Real floating matrices (..., m, n). bfloat16 and float16 are factorized in
            float32.

    Returns:
        The k = min(m, n) singular values, in float32 at least. NaN for a matrix that
        is not finite. Values outside of the dtype's normal range are not known, nor
        those beside them: `log_singular_values` has no such range. Cost: O(m n min(m,
        n)) a matrix.

    Raises:
        InputError: `a` has fewer than two axes, is empty or not real floating.

    Example:
        >>> linalg.singular_values(jnp.diag(jnp.array([1.0, 3.0, 2.0])))
        Array([3., 2., 1.], dtype=float32)
    """
    return _on_finite(_factorizations.singular_values, matrices(a))


def thin_svd(a: Float[Array, "*batch m n"]) -> _factorizations.ThinSvd:
    """Factorize A = U diag(s) Vᵀ, s at least as exact as that of `singular_values`."""
    return _on_finite(_factorizations.thin_svd, a)


def _on_finite(
    factorization: Callable[[Array], PyTree[Array]],
    a: Array,
) -> PyTree[Array]:
    """Factorize, with NaN as the result of every matrix that is not finite."""
    # LAPACK's divide and conquer never returns from [[1, 2, 3], [4, 5, 6], [-inf, 8,
    # 9]] with vectors (OpenBLAS 0.3.30), so such matrices are zeros during the call.
    is_finite = jnp.all(jnp.isfinite(a), (-2, -1))
    of_matrix = is_finite[..., None, None]
    finite = jnp.where(of_matrix, a, 0)
    results = factorization(finite)

    def marked(result: Array) -> Array:
        num_axes = result.ndim - is_finite.ndim
        shape = is_finite.shape + (1,) * num_axes
        of_result = is_finite.reshape(shape)
        return jnp.where(of_result, result, jnp.nan)

    return jax.tree.map(marked, results)


def matrices(a: ArrayLike) -> Float[Array, "*batch m n"]:
    """Require a non-empty batch of real floating matrices; return float32 at least."""
    a = checks.array("a", a)
    is_empty = 0 in a.shape[-2:]
    if a.ndim < 2 or is_empty:
        raise InputError(
            f"a has shape {a.shape}; write (..., m, n) with m, n at least 1."
        )
    if not kinds.is_floating(a):
        raise InputError(f"a has dtype {a.dtype}; write a.astype(jnp.float32).")
    if jnp.finfo(a.dtype).bits < 32:
        return a.astype(jnp.float32)
    return a


@public("log_singular_values")
def log_singular_values(
    a: ArrayLike,
) -> tuple[Float[Array, "*batch k"], float]:
    """Compute the logarithms of the singular values of each matrix.

    Matrices are scaled by a power of two to a largest entry near 1 before they are
    factorized, so that neither tiny nor huge ones under- or overflow. Subnormal numbers
    are zeros to XLA.

    Args:
        a: Real floating matrices (..., m, n). bfloat16 and float16 are worked in
            float32.

    Returns:
        ln of the min(m, n) singular values, descending, -inf for an exact zero and NaN
        for a matrix that is not finite; and the logarithm, relative to the largest
        value, below which they are noise: ln of max(m, n) eps (Golub and Van Loan,
        Matrix Computations, 4th ed., section 5.4.1). Cost: that of `singular_values`.

    Raises:
        InputError: Fewer than two axes, an empty matrix, or not real floating.

    Example:
        >>> log_values, _ = linalg.log_singular_values(jnp.diag(jnp.array([1.0, 0.0])))
        >>> log_values
        Array([  0., -inf], dtype=float32)
    """
    a = matrices(a)
    log_values = _log_values(a)
    m, n = a.shape[-2:]
    log_floor = precision.svd_log_floor(m, n, log_values.dtype)
    return log_values, log_floor


# One program for each shape, not one for each of the thirty operations.
@functools.partial(jax.jit, inline=True)
def _log_values(a: Float[Array, "*batch m n"]) -> Float[Array, "*batch k"]:
    """Return the logarithms of the singular values of each matrix."""
    peak = largest_entry(a)
    # The largest entry tells of every NaN and infinity: looking for them entry by entry
    # would be one more pass over matrices of which each costs 2 % of a factorization.
    is_finite = jnp.isfinite(peak)
    # Of what is not finite the exponent is that of the range's end, and not used.
    scaled, exponent = _graded.normalized(a, peak)
    finite = jnp.where(is_finite, scaled, 0)
    s = _factorizations.singular_values(finite)
    is_zero = s == 0
    positive = jnp.where(is_zero, 1, s)
    log_s = jnp.where(is_zero, -jnp.inf, jnp.log(positive))
    exponent = exponent[..., 0].astype(log_s.dtype)
    shift = exponent * math.log(2)
    # The NaN is added: of one that is selected, the float32 exponential in the same
    # program may be whatever lies in memory (`measure._nodes.exp`).
    shift = jnp.where(is_finite[..., 0], shift, jnp.nan)
    return log_s + shift


def largest_entry(
    a: Float[Array, "*batch m n"],
) -> Float[Array, "*batch 1 1"]:
    """Return max |a| of each matrix, NaN if an entry is; its derivative is zero."""
    # As a pair of reductions in one pass. Of a single one XLA makes three kernels on a
    # CPU, which take 35 ms more to compile and 1 to 10 times as long to run.
    a = jax.lax.stop_gradient(a)
    zero = jnp.zeros((), a.dtype)
    axes = (a.ndim - 2, a.ndim - 1)
    highest, lowest = jax.lax.reduce(
        operands=(a, a),
        init_values=(zero, zero),
        computation=_extremes,
        dimensions=axes,
    )
    largest = jnp.maximum(highest, -lowest)
    return jnp.expand_dims(largest, axes)


def _extremes(one: _Pair, other: _Pair) -> _Pair:
    """Return the higher of two maxima, and the lower of two minima."""
    highest = jnp.maximum(one[0], other[0])
    lowest = jnp.minimum(one[1], other[1])
    return highest, lowest


@public("numerical_rank")
def numerical_rank(
    s: ArrayLike,
    tolerance: ArrayLike,
) -> Int[Array, "*batch"]:
    """Count the singular values above a tolerance.

    Args:
        s: Singular values (..., k).
        tolerance: Absolute; a number, or one a matrix.

    Returns:
        The number of values s > tolerance of each matrix; NaN is no such value.

    Raises:
        InputError: `s` is not real or has no axis; `tolerance` is not real, or its
            shape is not that of the matrices.

    Example:
        >>> int(linalg.numerical_rank(jnp.array([3.0, 1e-9]), 1e-6))
        1
    """
    values = checks.real("s", checks.array("s", s))
    levels = checks.real("tolerance", checks.array("tolerance", tolerance))
    if values.ndim == 0:
        raise InputError(f"s={checks.show(s)} is one number; write an array (..., k).")
    batch = values.shape[:-1]
    if levels.shape not in {(), batch}:
        raise InputError(
            f"tolerance has shape {levels.shape}; write one number, or shape {batch}, "
            "one for each matrix."
        )
    is_above = values > levels[..., None]
    return jnp.sum(is_above, axis=-1)
