"""Rows of a certificate: what a partition of the entries says of each weight layer."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Int

from isometry.certificates._closure import Closure
from isometry.certificates._confine import Piece
from isometry.certificates._gradients import Space
from isometry.certificates._partition import Mask, Partition
from isometry.structure import Anatomy, WeightLayer

BIT_FOR_BIT = "bit for bit"
IN_EXACT_ARITHMETIC = "in exact arithmetic"
EVIDENCE = "evidence"

# Matrices with more distinct rows and columns than this get the bound of their shape,
# unless each pair of them has a class of its own: the rank of a 512 × 512 matrix takes
# 0.1 s, that of a 4096 × 4096 matrix a minute.
_LARGEST_RANK = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerLock:
    """What no training undoes in one weight layer.

    Attributes:
        name: The name of the layer in the anatomy; a slice of a stacked layer has its
            number behind it: "blocks/fc[2]".
        shape: The shape of the weight, or of the slice.
        distinct: For each axis, how many slices of the update can ever differ, up to
            their signs. Slices that never move are not counted.
        never_moves: The share of the entries that never get a gradient.
        rank_bound: The highest rank that an update can have, as a matrix of all axes
            but the last by the last.
        first_gradient: The first step at which a gradient can arrive, from 1 on; None
            for never.
        grade: "bit for bit", "in exact arithmetic" or "evidence"; None if nothing is
            locked.
        is_product: Whether the update may be any matrix that is constant on blocks, up
            to signs. Then optimizers of whole matrices, such as Muon, keep the lock.
        equal_to: The names of the other weights, such as experts, to which this one
            stays equal or opposite as a whole.
        is_on_kinks: Whether units sit on kinks, so that the lock holds in exact
            arithmetic and the first rounding error breaks it.

    Example:
        >>> net = networks.mlp([3, 4, 2], "tanh", jax.nn.initializers.ones)
        >>> cert = isometry.certify(net, net.init(jax.random.key(0)))
        >>> cert.layers[0].shape, cert.layers[0].distinct
        ((3, 4), (3, 1))
    """

    name: str
    shape: tuple[int, ...]
    distinct: tuple[int, ...]
    never_moves: float
    rank_bound: int
    first_gradient: int | None
    grade: str | None
    is_product: bool = True
    equal_to: tuple[str, ...] = ()
    is_on_kinks: bool = False

    @property
    def is_locked(self) -> bool:
        """Whether slices stay equal, entries never move, or the rank is bounded.

        Example:
            >>> net = networks.mlp([3, 4, 2], "tanh", jax.nn.initializers.ones)
            >>> cert = isometry.certify(net, net.init(jax.random.key(0)))
            >>> cert.layers[0].is_locked
            True
        """
        is_full = self.distinct == self.shape and self.never_moves == 0
        return not (is_full and self.rank_bound == full_rank(self.shape))


def full_rank(shape: Sequence[int]) -> int:
    """Return the rank of a generic matrix: of all axes but the last, by the last."""
    if not shape:
        return 1
    return min(math.prod(shape[:-1]), shape[-1])


class Slice(NamedTuple):
    """A weight of a layer, or one slice of a stacked layer.

    Attributes:
        name: The name in a certificate.
        layer: The layer.
        leaf: The index of the leaf that holds it, among the floating leaves.
        within: The index of the weight within the leaf.
    """

    name: str
    layer: WeightLayer
    leaf: int
    within: tuple[int | slice, ...]

    @property
    def piece(self) -> Piece:
        """The array with subspaces of its own; only of layers that are whole leaves."""
        axes = self.layer.stacked_axes
        # Of a stacked axis one index is taken, never a range.
        position = tuple(cast(int, self.within[axis]) for axis in axes)
        return Piece(self.leaf, axes, position)


def slices(
    anatomy: Anatomy,
    space: Space,
) -> list[Slice]:
    """Return the weights of an anatomy, each slice of a stacked leaf by itself."""
    rows = []
    for layer in anatomy.layers:
        # A weight that is not floating is not trained.
        if layer.path not in space.names:
            continue
        leaf = space.names.index(layer.path)
        # Start and stop of the layer on each axis; it may fill its leaf only in part.
        bounds = [(0, length) for length in space.shapes[leaf]]
        for axis, start, stop in layer.stretches:
            bounds[axis] = (start, stop)
        stretch: list[int | slice] = [slice(start, stop) for start, stop in bounds]
        # A layer that is not stacked has one position, ().
        along_stack = [range(*bounds[axis]) for axis in layer.stacked_axes]
        for number, position in enumerate(itertools.product(*along_stack)):
            within = list(stretch)
            for axis, i in zip(layer.stacked_axes, position, strict=True):
                within[axis] = i
            name = layer.name
            # A stack of one slice is numbered too.
            if layer.stacked is not None:
                name = f"{layer.name}[{number}]"
            row = Slice(name, layer, leaf=leaf, within=tuple(within))
            rows.append(row)
    return rows


class View:
    """The result of a search, leaf by leaf, in the shapes of the leaves."""

    def __init__(
        self,
        space: Space,
        closure: Closure,
    ) -> None:
        self.closure = closure
        self._space = space
        self._shared = space.arrays(shared_entries(closure.moves))
        self._first = space.arrays(closure.first)
        exact_zero = closure.bitwise & (closure.first == 0)
        self._is_exact_zero = space.arrays(exact_zero)
        self._fragile = space.arrays(closure.fragile)
        self._counts: dict[str, Counts] = {}

    @functools.cached_property
    def _codes(self) -> list[Int[np.ndarray, "..."]]:
        # Computed only when first used, because it takes three vectors of the size of
        # the parameters, and is not used if no entries share a class.
        return self._space.arrays(codes(self.closure.moves))

    def is_free(self, row: Slice) -> bool:
        """Tell whether every entry is alone in its class."""
        return not self._shared[row.leaf][row.within].any()

    def is_fragile(self, row: Slice) -> bool:
        """Tell whether any entry is fragile: see `Gradient`."""
        return bool(self._fragile[row.leaf][row.within].any())

    def code(self, row: Slice) -> Int[np.ndarray, "..."]:
        """Return the class of each entry times its sign; 0 where it never moves."""
        return self._codes[row.leaf][row.within]

    def whole(self, leaf: int) -> Int[np.ndarray, "..."]:
        """Return the class of each entry of a leaf times its sign."""
        return self._codes[leaf]

    def num_still(self, leaf: int) -> int:
        """Count the entries of a leaf that never get a gradient."""
        return int((self._first[leaf] == 0).sum())

    def is_exact_zero(self, leaf: int) -> bool:
        """Tell whether entries that never move had a gradient of 0.0 in every probe."""
        is_still = self._first[leaf] == 0
        return bool(self._is_exact_zero[leaf][is_still].all())

    def counts(self, row: Slice) -> "Counts":
        """Return the counts of a weight, counted once: see `LayerLock`."""
        if row.name not in self._counts:
            self._counts[row.name] = self._counted(row)
        return self._counts[row.name]

    def _counted(self, row: Slice) -> "Counts":
        if self.is_free(row):
            shape = self._first[row.leaf][row.within].shape
            return free_counts(shape)
        return counts(self.code(row))

    def first_gradient(self, row: Slice) -> int | None:
        """Return the first step at which any entry gets a gradient; None for never."""
        return _first_of(self._first[row.leaf][row.within])

    def first_of_leaf(self, leaf: int) -> int | None:
        """Return `first_gradient` of a whole leaf."""
        return _first_of(self._first[leaf])

    def is_bit_for_bit(self, row: Slice) -> bool:
        """Tell whether a lock holds bit for bit.

        It does if no entries are equal, and those that never move had a gradient of 0.0
        in every probe.
        """
        code = self.code(row)
        is_zero = code == 0
        sizes = np.bincount(np.abs(code).ravel(), minlength=1)
        is_alone = bool((sizes[1:] <= 1).all())
        is_exact = self._is_exact_zero[row.leaf][row.within][is_zero]
        return is_alone and bool(is_exact.all())


def _first_of(steps: Int[np.ndarray, "..."]) -> int | None:
    """Return the first of some steps, of which 0 means never; None if all do."""
    moving = steps[steps > 0]
    return int(moving.min()) if moving.size else None


def codes(partition: Partition) -> Int[np.ndarray, " n"]:
    """Return the label of each entry times its sign."""
    labels = partition.labels()
    # An entry that is alone in its class may have any sign.
    return np.where(partition.signs < 0, -labels, labels)


class Counts(NamedTuple):
    """What a partition of its entries says of one weight: see `LayerLock`."""

    distinct: tuple[int, ...]
    never_moves: float
    rank_bound: int
    is_product: bool


def free_counts(shape: tuple[int, ...]) -> Counts:
    """Return the counts of a weight in which every entry is alone."""
    return Counts(
        distinct=shape,
        never_moves=0.0,
        rank_bound=full_rank(shape),
        is_product=True,
    )


def counts(code: Int[np.ndarray, "..."]) -> Counts:
    """Count the distinct slices of a weight, its entries that never move, its rank.

    Args:
        code: The class of each entry times its sign; 0 for entries that never move.
    """
    sizes = np.bincount(np.abs(code).ravel(), minlength=1)
    num_zeros = int(sizes[0])
    num_classes = np.count_nonzero(sizes[1:])
    if num_classes == code.size:
        return free_counts(code.shape)
    distinct = tuple(_num_distinct(code, axis) for axis in range(code.ndim))
    # In a product, every combination of distinct slices has a class of its own.
    is_product = num_classes == math.prod(distinct)
    return Counts(
        distinct=distinct,
        never_moves=num_zeros / max(code.size, 1),
        rank_bound=_rank_bound(code),
        is_product=is_product,
    )


def _num_distinct(
    code: Int[np.ndarray, "..."],
    axis: int,
) -> int:
    """Count the slices along an axis that differ, without those that never move."""
    ids = slice_ids(code, axis)
    return int(ids.max(initial=-1)) + 1


def slice_ids(
    code: Int[np.ndarray, "..."],
    axis: int,
) -> Int[np.ndarray, " n"]:
    """Return a number for each slice along an axis, the same for equal ones.

    Args:
        code: Classes times signs.
        axis: The axis.

    Returns:
        Numbers in the order of the first of each; -1 for slices that never move.
    """
    rows = np.moveaxis(code, axis, 0)
    rows = rows.reshape(rows.shape[0], -1)
    if not rows.size:
        return np.full(len(rows), -1)
    # Times the sign of their first entry that moves, opposite slices are equal.
    is_moving = rows != 0
    first = is_moving.argmax(1)[:, None]
    lead = np.take_along_axis(rows, first, axis=1)
    normal = rows * np.sign(lead)
    ids = np.full(len(rows), -1)
    known: dict[bytes, int] = {}
    for i in np.flatnonzero(is_moving.any(1)):
        content = normal[i].tobytes()
        ids[i] = known.setdefault(content, len(known))
    return ids


def _rank_bound(code: Int[np.ndarray, "..."]) -> int:
    """Return the highest rank of a matrix with equal entries in these classes."""
    if code.ndim == 0:
        return int(code != 0)
    matrix = code.reshape(-1, code.shape[-1])
    # Equal rows and columns add nothing to the rank.
    for axis in (0, 1):
        ids = slice_ids(matrix, axis)
        representatives = np.unique(ids, return_index=True)[1]
        kept = representatives[ids[representatives] >= 0]
        matrix = matrix.take(kept, axis)
    size = min(matrix.shape)
    classes, inverse = np.unique(np.abs(matrix), return_inverse=True)
    # If every entry is alone and none is zero, the matrix has full rank.
    is_generic = len(classes) == matrix.size and bool(classes.all())
    if is_generic or size > _LARGEST_RANK or size == 0:
        return size
    # A random matrix with these classes has the highest rank with probability one.
    values = np.random.default_rng(0).standard_normal(len(classes))
    magnitudes = values[inverse].reshape(matrix.shape)
    member = np.sign(matrix) * magnitudes
    return int(np.linalg.matrix_rank(member))


def lock(
    row: Slice,
    view: View,
    *,
    step: int | None,
    grade: str | None,
) -> LayerLock:
    """Return the row of a weight that the result of one search gives.

    Args:
        row: The weight.
        view: The result of the search.
        step: The first step at which a gradient can arrive.
        grade: The grade of the lock; None if the result decides between "bit for bit"
            and "in exact arithmetic".
    """
    found = view.counts(row)
    result = LayerLock(
        name=row.name,
        shape=tuple(row.layer.shape),
        distinct=found.distinct,
        never_moves=found.never_moves,
        rank_bound=found.rank_bound,
        first_gradient=step,
        grade=grade,
        is_product=found.is_product,
    )
    if not result.is_locked:
        return dataclasses.replace(result, grade=None)
    if grade is None:
        is_exact = view.is_bit_for_bit(row)
        grade = BIT_FOR_BIT if is_exact else IN_EXACT_ARITHMETIC
    return dataclasses.replace(result, grade=grade)


def shared_entries(partition: Partition) -> Mask:
    """Return which entries share a class, or are zero."""
    shared = np.zeros(partition.size, bool)
    shared[partition.members] = True
    shared[partition.zeros] = True
    return shared
