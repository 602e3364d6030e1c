"""Singular values of a batch of matrices that fit in memory."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from isometry import _checks
from isometry._internal import precision
from isometry.linalg import _factorizations, _graded


def singular_values(a: Float[Array, "*batch m n"]) -> Float[Array, "*batch k"]:
    """All min(m, n) singular values of each matrix, descending.

    bfloat16 and float16 are factorized in float32 and returned in it. Cost: O(m n min(m, n)) a matrix.

    **Raises** `ValueError`: fewer than two axes, an empty matrix, not real floating.
    """
    a = matrices("singular_values", a)
    if _by_eigenproblem(a):
        return _by_eigenvalues(a)
    return _svd(a, vectors=False)


def _by_eigenproblem(a: Float[Array, "*batch m n"]) -> bool:
    m, n = a.shape[-2:]
    return _on_gpu() and max(m, n) <= _NEARLY_SQUARE * min(m, n)


def thin_svd(a: Float[Array, "*batch m n"]) -> tuple[Any, Any, Any]:
    """(U, s, Vᵀ) with min(m, n) columns and rows, s at least as exact as that of `singular_values`."""
    return _svd(a, vectors=True)


def _svd(a: Any, vectors: bool) -> Any:
    """What XLA chooses, but on a GPU by QR: the Jacobi iterations chosen there end at an error of two floors.

    Measured on an H200, jaxlib 0.11: 1.4e-5, 4e-5 and 1.7e-4 of s_max at orders 64, 256 and 1000 in float32; QR 1e-7.
    """
    algorithm = jax.lax.linalg.SvdAlgorithm.QR if _on_gpu() else None
    safe, marked = _finite(a)
    if not vectors:
        return marked(_factorizations.singular_values(safe, algorithm))
    return jax.tree.map(marked, tuple(_factorizations.thin_svd(safe, algorithm)))


def _finite(a: Any) -> tuple[Any, Callable[[Any], Any]]:
    """(a with zeros for a matrix that is not finite, what makes NaN of all that is found of it).

    LAPACK's divide and conquer never returns from [[1, 2, 3], [4, 5, 6], [-inf, 8, 9]] (vectors, OpenBLAS 0.3.30).
    """
    finite = jnp.all(jnp.isfinite(a), (-2, -1))

    def marked(found: Any) -> Any:
        return jnp.where(finite.reshape(finite.shape + (1,) * (found.ndim - finite.ndim)), found, jnp.nan)

    return jnp.where(finite[..., None, None], a, 0), marked


def _on_gpu() -> bool:
    """Of the process: its other devices take the same ways, which are as exact there and only slower."""
    return jax.default_backend() == "gpu"


_NEARLY_SQUARE = 4
"""Sides up to this ratio: beyond it the eigenproblem, of order m + n, is mostly about zeros. Measured only at 1, where
it was 10 to 170 times as fast at orders up to 256 and 2 to 3 times at 1000, and 2, where it was 6 times as fast."""


@jax.custom_jvp
def _by_eigenvalues(a: Any) -> Any:
    """The positive eigenvalues of [[0, A], [Aᵀ, 0]], which are the singular values: off by 0.01 to 0.3 floors there.

    A GPU solves a batch of them at once, where it factorizes one matrix after another: on an H200, in float32, 2.4 ms
    instead of 107 (256 of order 64), 20 instead of 345 (32 of order 256), 225 instead of 508 (8 of order 1000).
    """
    a, marked = _finite(a)
    m, n = a.shape[-2:]
    upper = jnp.concatenate([jnp.zeros_like(a, shape=(*a.shape[:-2], m, m)), a], -1)
    lower = jnp.concatenate([a.mT, jnp.zeros_like(a, shape=(*a.shape[:-2], n, n))], -1)
    eigenvalues = _factorizations.symmetric_eigenvalues(jnp.concatenate([upper, lower], -2))
    # zeros come out as rounding of either sign, which is no exact zero; those of zero rows and columns are exact
    found = -jnp.sort(-jnp.abs(eigenvalues[..., -min(m, n) :]), -1)
    rank = jnp.minimum(*(jnp.sum(jnp.any(a != 0, axis), -1, keepdims=True) for axis in (-2, -1)))
    return marked(jnp.where(jax.lax.broadcasted_iota(int, found.shape, found.ndim - 1) < rank, found, 0))


@_by_eigenvalues.defjvp
def _by_eigenvalues_jvp(primals: Any, tangents: Any) -> Any:
    """ds = diag(Uᵀ dA V), from vectors of A's own: those of a structural zero are not determined by the eigenvalues."""
    u, s, vt = thin_svd(*primals)
    return s, jnp.einsum("...ji,...jk,...ik->...i", u, tangents[0], vt, precision=precision.MATMUL)


def matrices(call: str, a: Any) -> Any:
    """`a` as a non-empty batch of real floating matrices, in float32 at least."""
    a = _checks.array(call, a=a)
    if a.ndim < 2 or 0 in a.shape[-2:]:
        raise _checks.InputError(f"{call}(): a has shape {a.shape}; write (..., m, n) with m, n at least 1.")
    if not jnp.issubdtype(a.dtype, jnp.floating):
        raise _checks.InputError(f"{call}(): a has dtype {a.dtype}; write a.astype(jnp.float32).")
    return a.astype(jnp.float32) if jnp.finfo(a.dtype).bits < 32 else a


def log_singular_values(
    a: Float[Array, "*batch m n"],
) -> tuple[Float[Array, "*batch k"], float]:
    """Compute the logarithms of the singular values of each matrix.

    Matrices are scaled by a power of two to a largest entry near 1 before they are
    factorized, so that neither tiny nor huge ones under- or overflow. Subnormal numbers
    are zeros to XLA.

    Args:
        a: Real floating matrices. bfloat16 and float16 are worked in float32.

    Returns:
        ln of the min(m, n) singular values, descending, -inf for an exact zero and NaN
        for a matrix that is not finite; and the logarithm, relative to the largest
        value, below which they are noise (`precision.svd_log_floor`).

    Raises:
        InputError: Fewer than two axes, an empty matrix, or not real floating.

    Example:
        >>> log_values, _ = linalg.log_singular_values(jnp.diag(jnp.array([1.0, 0.0])))
        >>> log_values
        Array([  0., -inf], dtype=float32)
    """
    a = matrices("log_singular_values", a)
    peak = jnp.max(jnp.abs(a), axis=(-2, -1), keepdims=True)
    # The largest entry tells of every NaN and infinity: looking for them entry by entry
    # would be one more pass over matrices of which each costs 2 % of a factorization.
    is_finite = jnp.isfinite(peak)
    exponent = _graded.exponent(jnp.where(is_finite, peak, 1))
    scaled = jnp.where(is_finite, _graded.scaled(a, -exponent), 0)
    s = _values_of_finite(scaled)
    is_zero = s == 0
    log_s = jnp.where(is_zero, -jnp.inf, jnp.log(jnp.where(is_zero, 1, s)))
    shift = exponent[..., 0].astype(log_s.dtype) * math.log(2)
    log_s = jnp.where(is_finite[..., 0], log_s + shift, jnp.nan)
    return log_s, precision.svd_log_floor(a.shape[-2], a.shape[-1], s.dtype)


def _values_of_finite(a: Float[Array, "*batch m n"]) -> Float[Array, "*batch k"]:
    if _by_eigenproblem(a):
        return _by_eigenvalues(a)
    algorithm = jax.lax.linalg.SvdAlgorithm.QR if _on_gpu() else None
    return _factorizations.singular_values(a, algorithm)


def numerical_rank(s: Float[Array, "*batch k"], tolerance: Any) -> Int[Array, "*batch"]:
    """How many singular values `s` exceed `tolerance` (absolute, broadcast over the batch)."""
    return jnp.sum(s > jnp.asarray(tolerance)[..., None], axis=-1)
