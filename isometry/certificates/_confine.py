"""Subspaces that updates never leave, beyond equal entries: rotations, as evidence."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry.certificates._gradients import Gradients, Space

# A direction counts if it holds more than this part of a gradient. Directions that are
# known to one part in ten, taken in with 1e-12, fill the space with noise; with 1e-3
# directions that learn slowly are missed. The larger is for weights that are orthogonal
# only to the rounding of float32.
KEEPS = (1e-6, 1e-4)

# What is claimed has a residual so far below what counts. With 1e-1 the two are one
# distribution, and where it is cut is chance.
_CLEAN = 1e-2

_PROBES, _QUIET = 4, 2

# Singular value decompositions of larger arrays take minutes.
_MOST_ENTRIES, _LONGEST = 60_000, 256

# Singular values within this part of each other are one value: of orthogonal weights
# in float32 they differ by 1e-6. With 1e-3, Gaussian ones of a few rows are symmetric.
_ALIKE = 1e-5


class Confined(NamedTuple):
    """Where the updates of one leaf stay.

    Attributes:
        spans: For each axis, the dimension of the subspace.
        residual: The largest part of a gradient outside of it.
        keep: The part of a gradient from which a direction counts.
    """

    spans: tuple[int, ...]
    residual: float
    keep: float

    @property
    def is_clean(self) -> bool:
        """Whether what is inside and what is outside are far apart."""
        return self.residual < _CLEAN * self.keep


def asks_for(
    space: Space,
    weights: Collection[int],
) -> bool:
    """Tell whether weights may be locked by a rotation, and are small enough to try.

    Only weights that are zero, or whose singular values are all alike, are left
    unchanged by rotations.

    Args:
        space: The parameters.
        weights: The indices of the leaves that are weights of layers.
    """
    longest = max((max(shape, default=0) for shape in space.shapes), default=0)
    if space.size > _MOST_ENTRIES or longest > _LONGEST:
        return False
    arrays = space.arrays(space.theta)
    return any(arrays[i].ndim >= 2 and _is_symmetric(arrays[i]) for i in weights)


def _is_symmetric(array: np.ndarray) -> bool:
    if not array.size:
        return False
    # Any slice of a stack counts: its last two axes are a matrix.
    matrices = array.reshape(-1, *array.shape[-2:])
    if min(matrices.shape[1:]) < 2:
        return False
    values = np.linalg.svd(matrices, compute_uv=False)
    spread = values.max(1) - values.min(1)
    return bool((spread <= _ALIKE * values.max(1)).any())


def confine(
    gradients: Gradients,
    keep: float,
) -> list[Confined]:
    """Grow subspaces, one for each axis of each leaf, until no gradient leaves them.

    Args:
        gradients: The gradients of f, without relaxation.
        keep: The part of a gradient from which a direction counts.

    Returns:
        The subspaces of each floating leaf. SGD, momentum, Muon and Shampoo stay in
        them; functions of single entries, such as Adam, do not.
    """
    space, rng = gradients.space, gradients.rng
    bases = [[np.zeros((n, 0)) for n in shape] for shape in space.shapes]
    theta = space.arrays(space.theta)
    quiet, residuals = 0, [0.0] * len(theta)
    # Once every subspace is whole, nothing is confined.
    while quiet <= _QUIET and not _are_whole(bases):
        grew, residuals = False, [0.0] * len(theta)
        for _ in range(_PROBES):
            point = []
            for array, basis in zip(theta, bases, strict=True):
                decay = rng.uniform(0.5, 1.25)
                point.append((decay * array + _inside(basis, array.shape, rng)).ravel())
            gradient = gradients.values(np.concatenate(point))
            for i, part in enumerate(space.arrays(gradient)):
                grown, residual = _grow(bases[i], part, keep)
                grew |= grown
                residuals[i] = max(residuals[i], residual)
        quiet = 0 if grew else quiet + 1
    return [
        Confined(tuple(basis.shape[1] for basis in axes), residual, keep)
        for axes, residual in zip(bases, residuals, strict=True)
    ]


def is_claim(
    confined: Confined,
    spans: Sequence[int],
    shape: Sequence[int],
) -> bool:
    """Tell whether an update is confined, beyond doubt of the numbers.

    Args:
        confined: The subspaces of a leaf.
        spans: Their dimensions on the axes of a weight.
        shape: The shape of the weight.
    """
    is_proper = len(shape) >= 2 and tuple(spans) != tuple(shape)
    return is_proper and confined.is_clean and min(spans) > 0


def _are_whole(bases: list[list[Float[np.ndarray, "_ _"]]]) -> bool:
    """Tell whether every direction of every axis has been found."""
    return all(basis.shape[0] == basis.shape[1] for axes in bases for basis in axes)


def _grow(
    bases: list[Float[np.ndarray, "_ _"]],
    gradient: Float[np.ndarray, "..."],
    keep: float,
) -> tuple[bool, float]:
    """Add the directions of a gradient to the bases of its axes, in place."""
    grew, residual = False, 0.0
    for axis, basis in enumerate(bases):
        num_rows = len(basis)
        matrix = np.moveaxis(gradient, axis, 0).reshape(num_rows, -1)
        norm = np.linalg.norm(matrix)
        if basis.shape[0] == basis.shape[1] or norm == 0:
            continue
        outside = matrix - basis @ (basis.T @ matrix)
        directions, sizes, _ = np.linalg.svd(outside, full_matrices=False)
        is_new = sizes > keep * norm
        residual = max(residual, float(sizes[~is_new].max(initial=0.0) / norm))
        if is_new.any():
            grew = True
            both = np.concatenate([basis, directions[:, is_new]], 1)
            bases[axis] = np.linalg.qr(both[:, :num_rows])[0]
    return grew, residual


def _inside(
    bases: list[Float[np.ndarray, "_ _"]],
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> Float[np.ndarray, "..."]:
    """Draw an array from the product of subspaces."""
    member = rng.standard_normal(shape)
    for axis, basis in enumerate(bases):
        turned = np.tensordot(basis @ basis.T, member, (1, axis))
        member = np.moveaxis(turned, 0, axis)
    size = np.sqrt(np.square(member).mean()) if member.size else 0.0
    fan_in = max(math.prod(shape[:-1]), 1)
    return member * 0.5 / np.sqrt(fan_in) / max(size, 1e-300)
