"""Numerical ranks of matrices, also of large ones."""

import functools

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
    safe = np.where(is_finite, matrices, 0).astype(float)
    projected = _projected(safe)
    singular_values = np.linalg.svd(projected, compute_uv=False)
    is_above = singular_values > tolerance[..., None]
    return np.asarray(is_above.sum(-1))


def _projected(
    matrices: Float[np.ndarray, "... rows columns"],
) -> Float[np.ndarray, "... fewer_rows fewer_columns"]:
    """Return matrices of at most so many rows and columns, no value enlarged."""
    for axis in (-2, -1):
        size = matrices.shape[axis]
        # One short side alone makes the singular values cheap.
        shorter = min(matrices.shape[-2:])
        if size <= _LARGEST or shorter <= _LARGEST:
            continue
        basis = _basis(size)
        if axis == -1:
            matrices = matrices @ basis
        else:
            matrices = np.swapaxes(basis, 0, 1) @ matrices
    return matrices


@functools.lru_cache(maxsize=4)
def _basis(size: int) -> Float[np.ndarray, "size directions"]:
    """Return random orthonormal directions, the same ones every time."""
    rng = np.random.default_rng(size)
    noise = rng.standard_normal((size, _LARGEST))
    basis, _ = np.linalg.qr(noise)
    return basis
