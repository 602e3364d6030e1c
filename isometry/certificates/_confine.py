"""Subspaces that updates never leave, found numerically: evidence, not proof.

They arise if f commutes with rotations, as orthogonal weights do with those of units.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from isometry.certificates._gradients import Gradients, Space
from isometry.certificates._partition import Vector
from isometry.structure import Anatomy

# A direction counts if it holds more than this share of the norm of a gradient. With
# 1e-12, noise of rounding counts too and fills the space; with 1e-2, directions that
# learn slowly are missed. The larger values are for weights that are orthogonal only to
# the rounding of float32, which adds up over layers: 4 layers leave a residual of 1e-5,
# too close to 1e-4.
KEEPS = (1e-6, 1e-4, 3e-3)

# A claim needs a residual below this share of the smallest direction that counts. With
# 1e-1 the two may belong to one distribution, whose limit is drawn by chance.
_CLEAN = 1e-2

# The number of gradients in a round, and of rounds in a row that must find no new
# direction. One round more costs four gradients; with one less a direction that few
# inputs show may be missed.
_PROBES = 4
_QUIET_ROUNDS = 3

# Singular value decompositions of larger arrays take minutes.
_MOST_ENTRIES = 60_000
_LONGEST = 256

# Singular values that differ by less than this share count as equal: those of
# orthogonal weights in float32 differ by 1e-6. With 1e-3, some Gaussian weights with
# few rows would count as orthogonal.
_ALIKE = 1e-5

# The range of the factor by which weight decay multiplies a leaf; above 1 a leaf grows.
_DECAYS = (0.5, 1.25)

# The gain of what is added to theta, as at the points of the other searches.
_GAIN = 0.5


# The directions that were found on one axis, as orthonormal columns.
Basis: TypeAlias = Float[np.ndarray, "_ _"]


class Piece(NamedTuple):
    """An array with subspaces of its own: a leaf, or one slice of a stacked leaf.

    Attributes:
        leaf: The index of the leaf.
        axes: The axes along which the leaf is stacked.
        position: The index of the slice on each of these axes; () for a whole leaf.
    """

    leaf: int
    axes: tuple[int, ...] = ()
    position: tuple[int, ...] = ()

    def of(
        self,
        array: Float[np.ndarray, "..."],
    ) -> Float[np.ndarray, "..."]:
        """Return the piece of an array of the leaf's shape, as a view."""
        first = range(len(self.axes))
        return np.moveaxis(array, self.axes, first)[self.position]


class Confined(NamedTuple):
    """The subspaces in which the updates of one piece stay, one for each axis.

    Attributes:
        spans: The dimension of the subspace of each axis.
        residual: The largest share of a gradient outside of the subspaces.
        keep: The share of a gradient from which a direction counts.
    """

    spans: tuple[int, ...]
    residual: float
    keep: float

    @property
    def is_clean(self) -> bool:
        """Whether the residual is far below the smallest direction that counts."""
        return self.residual < _CLEAN * self.keep


def pieces(
    anatomy: Anatomy,
    space: Space,
) -> list[Piece]:
    """Return the arrays that have subspaces of their own.

    Layers of equal shape are often slices of one leaf. Each slice has subspaces of its
    own, because one for all slices would hold the directions of all.
    """
    stacked: dict[str, tuple[int, ...]] = {}
    cut = {layer.path for layer in anatomy.layers if layer.stretches}
    for layer in anatomy.layers:
        # If several layers share a leaf, no claim is made, and the leaf is one piece.
        if layer.path in cut:
            continue
        stacked[layer.path] = layer.stacked_axes
        # The biases of stacked layers are stacked along the first axes of their leaf.
        if layer.bias is not None:
            stacked[layer.bias] = tuple(range(len(layer.stacked_axes)))
    found = []
    for leaf, (name, shape) in enumerate(zip(space.names, space.shapes, strict=True)):
        axes = stacked.get(name, ())
        # A slice of a bias may be a single number, which has no subspaces.
        if len(axes) >= len(shape):
            axes = ()
        positions = itertools.product(*(range(shape[axis]) for axis in axes))
        found += [Piece(leaf, axes, position) for position in positions]
    return found


def asks_for(
    space: Space,
    weights: Collection[int],
) -> bool:
    """Tell whether subspaces may exist, and the weights are small enough to try.

    Subspaces are expected only if some weight commutes with rotations: it is zero, or
    all its singular values are equal.

    Args:
        space: The parameters.
        weights: The indices of the leaves that are weights of layers.
    """
    lengths = [length for shape in space.shapes for length in shape]
    if space.size > _MOST_ENTRIES or max(lengths, default=0) > _LONGEST:
        return False
    arrays = space.arrays(space.theta)
    return any(_is_symmetric(arrays[i]) for i in weights)


def _is_symmetric(array: Float[np.ndarray, "..."]) -> bool:
    """Tell whether all singular values of an array, or of some slice, are equal."""
    if array.ndim < 2 or not array.size:
        return False
    # The last two axes of a stack or a kernel are a matrix.
    *_, num_rows, num_columns = array.shape
    if min(num_rows, num_columns) < 2:
        return False
    matrices = array.reshape(-1, num_rows, num_columns)
    singular_values = np.linalg.svd(matrices, compute_uv=False)
    largest = singular_values.max(1)
    spread = largest - singular_values.min(1)
    # A matrix of zeros is symmetric too: 0 <= 0.
    is_alike = spread <= _ALIKE * largest
    return bool(is_alike.any())


def confine(
    gradients: Gradients,
    pieces: Sequence[Piece],
    keep: float,
) -> dict[Piece, Confined]:
    """Grow subspaces, one for each axis of each piece, until no gradient leaves them.

    Args:
        gradients: The gradients of f itself, kinks included.
        pieces: The leaves, or their slices, that have subspaces of their own.
        keep: The share of a gradient from which a direction counts.

    Returns:
        The subspaces of each piece. SGD, momentum, Muon and Shampoo stay in them;
        functions of single entries, such as Adam, do not.
    """
    theta = gradients.space.arrays(gradients.space.theta)
    bases: dict[Piece, list[Basis]] = {}
    for piece in pieces:
        shape = piece.of(theta[piece.leaf]).shape
        bases[piece] = [np.zeros((length, 0)) for length in shape]
    residuals = dict.fromkeys(pieces, 0.0)
    num_quiet = 0
    # Once every subspace holds all directions, no update is confined.
    while num_quiet < _QUIET_ROUNDS and not _are_whole(bases.values()):
        has_grown = False
        # Only residuals of the last round count: earlier ones may lie in directions
        # that were added since.
        residuals = dict.fromkeys(pieces, 0.0)
        for _ in range(_PROBES):
            gradient = gradients.values(_point(gradients, bases))
            parts = gradients.space.arrays(gradient)
            for piece in pieces:
                growth = _grow(bases[piece], piece.of(parts[piece.leaf]), keep)
                has_grown |= growth.has_grown
                residuals[piece] = max(residuals[piece], growth.residual)
        num_quiet += 1
        if has_grown:
            num_quiet = 0
    confined = {}
    for piece, axes in bases.items():
        spans = tuple(basis.shape[1] for basis in axes)
        confined[piece] = Confined(spans, residuals[piece], keep)
    return confined


def _point(
    gradients: Gradients,
    bases: Mapping[Piece, Sequence[Basis]],
) -> Vector:
    """Draw a point that training may reach.

    It is theta, shrunk by weight decay, plus random vectors of the subspaces so far.
    """
    space, rng = gradients.space, gradients.rng
    decayed = [rng.uniform(*_DECAYS) * array for array in space.arrays(space.theta)]
    for piece, of_piece in bases.items():
        moved = piece.of(decayed[piece.leaf])
        # In place: the piece is a view of its leaf.
        moved += _inside(of_piece, moved.shape, rng)
    return np.concatenate([array.ravel() for array in decayed])


def is_claim(
    confined: Confined,
    shape: Sequence[int],
) -> bool:
    """Tell whether subspaces confine the updates of a weight, with a clean residual.

    Args:
        confined: The subspaces of a weight, or of one slice of a stacked one.
        shape: The shape of the weight, or of the slice.
    """
    spans = confined.spans
    is_proper = len(shape) >= 2 and spans != tuple(shape)
    return is_proper and confined.is_clean and min(spans) > 0


def _are_whole(bases: Iterable[Sequence[Basis]]) -> bool:
    """Tell whether every direction of every axis has been found."""
    return all(_is_whole(basis) for of_piece in bases for basis in of_piece)


def _is_whole(basis: Basis) -> bool:
    """Tell whether an orthonormal basis spans the whole axis."""
    length, span = basis.shape
    return length == span


class _Growth(NamedTuple):
    """What one gradient added to the subspaces of a piece.

    Attributes:
        has_grown: Whether a new direction was added.
        residual: The largest share of the gradient outside of the subspaces that was
            too small to be added.
    """

    has_grown: bool
    residual: float


def _grow(
    bases: list[Basis],
    gradient: Float[np.ndarray, "..."],
    keep: float,
) -> _Growth:
    """Add the directions of a gradient to the bases of its axes, in place."""
    has_grown, residual = False, 0.0
    for axis, basis in enumerate(bases):
        length = len(basis)
        matrix = np.moveaxis(gradient, axis, 0).reshape(length, -1)
        norm = float(np.linalg.norm(matrix))
        if _is_whole(basis) or norm == 0:
            continue
        outside = matrix - basis @ (basis.T @ matrix)
        directions, sizes, _ = np.linalg.svd(outside, full_matrices=False)
        is_new = sizes > keep * norm
        largest_old = float(sizes[~is_new].max(initial=0.0))
        residual = max(residual, largest_old / norm)
        if not is_new.any():
            continue
        has_grown = True
        both = np.concatenate([basis, directions[:, is_new]], axis=1)
        # By rounding there may be more directions than the axis has dimensions.
        bases[axis], _ = np.linalg.qr(both[:, :length])
    return _Growth(has_grown, residual)


def _inside(
    bases: Sequence[Basis],
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> Float[np.ndarray, "..."]:
    """Draw an array from the product of subspaces; zeros, if one has no direction."""
    member = rng.standard_normal(shape)
    for axis, basis in enumerate(bases):
        projection = basis @ basis.T
        turned = np.tensordot(projection, member, axes=(1, axis))
        member = np.moveaxis(turned, 0, axis)
    if not member.any():
        return member
    size = np.sqrt(np.square(member).mean())
    fan_in = max(math.prod(shape[:-1]), 1)
    scale = _GAIN / np.sqrt(fan_in)
    return member * (scale / size)
