"""Numerical ranks of matrices, also of large ones."""

import numpy as np
from jaxtyping import Float, Int

# A larger matrix is projected on so many random directions on both sides, and its rank
# is counted up to their number: 512 × 512 takes 0.1 s, and 4096 × 4096 a minute.
_LARGEST = 512


def rank_above(
    matrices: Float[np.ndarray, "... rows columns"],
    tolerance: Float[np.ndarray, "..."],
) -> Int[np.ndarray, "..."]:
    """Count the singular values above a tolerance; 0 of a matrix that is not finite.

    Args:
        matrices: Stacked matrices.
        tolerance: What rounding can fake, for each matrix.
    """
    is_finite = np.isfinite(matrices).all((-2, -1), keepdims=True)
    # In float64, so that only the matrices themselves are rounded.
    safe = _projected(np.where(is_finite, matrices, 0).astype(float))
    singular_values = np.linalg.svd(safe, compute_uv=False)
    return (singular_values > tolerance[..., None]).sum(-1)


def numerical_rank(
    matrices: Float[np.ndarray, "... rows columns"],
) -> Int[np.ndarray, "..."]:
    """Count the singular values above max(m, n) eps of the largest."""
    is_finite = np.isfinite(matrices).all((-2, -1), keepdims=True)
    safe = np.where(is_finite, matrices, 0).astype(float)
    singular_values = np.linalg.svd(safe, compute_uv=False)
    eps = float(np.finfo(matrices.dtype).eps)
    rounding = max(matrices.shape[-2:]) * eps * singular_values[..., :1]
    return (singular_values > rounding).sum(-1)


def _projected(
    matrices: Float[np.ndarray, "... rows columns"],
) -> Float[np.ndarray, "... rows columns"]:
    """Return matrices of at most so many rows and columns, no value enlarged."""
    # A fixed seed: the same matrix has the same rank every time.
    rng = np.random.default_rng(0)
    for axis in (-2, -1):
        size = matrices.shape[axis]
        if size <= _LARGEST or min(matrices.shape[-2:]) <= _LARGEST:
            continue
        basis = np.linalg.qr(rng.standard_normal((size, _LARGEST)))[0]
        if axis == -1:
            matrices = matrices @ basis
        else:
            matrices = np.swapaxes(basis, 0, 1) @ matrices
    return matrices
