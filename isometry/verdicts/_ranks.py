"""Numerical ranks of matrices, also of large ones."""

import functools

import numpy as np
from jaxtyping import Float, Int

# A matrix with more rows and more columns than this is projected on as many random
# directions on both sides, and higher ranks are reported as this number: a 512 × 512
# matrix takes 0.1 s, a 4096 × 4096 matrix a minute.
_LARGEST = 512


def rank_above(
    matrices: Float[np.ndarray, "... rows columns"],
    tolerance: Float[np.ndarray, "..."],
) -> Int[np.ndarray, "..."]:
    """Count the singular values above a tolerance; 0 if a matrix is not finite.

    Args:
        matrices: Stacked matrices.
        tolerance: The largest singular value that may be due to rounding, for each
            matrix.
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
    """Return matrices with one side of at most `_LARGEST`, by orthogonal projection.

    A projection enlarges no singular value.
    """
    for axis in (-2, -1):
        size = matrices.shape[axis]
        # If one side is short, the singular values are cheap.
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
