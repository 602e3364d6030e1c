"""Rows of a certificate: what a partition of the entries says of each weight layer."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

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

# Larger matrices that are no products of distinct slices get the bound of their shape:
# a rank of 512 × 512 takes 0.1 s, of 4096 × 4096 a minute.
_LARGEST_RANK = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerLock:
    """What no training undoes in one weight layer.

    Attributes:
        name: The name of the layer in the anatomy; "blocks/fc[2]" of a stacked one.
        shape: Its shape.
        distinct: For each axis, how many slices of the update can ever differ, up to
            their signs. Slices that never move are not counted.
        never_moves: The share of its entries that never get a gradient.
        rank_bound: No update has a higher rank, as a matrix of all axes but the last,
            by the last.
        first_gradient: The first step at which a gradient can arrive; 1 at once, None
            never.
        grade: "bit for bit", "in exact arithmetic" or "evidence"; None where nothing
            is claimed.
        is_product: Whether the update may be any matrix that is constant on blocks, up
            to signs. Then optimizers of whole matrices keep the lock too.
        equal_to: The names of the other weights, experts say, that it stays equal or
            opposite to as a whole.
        is_on_kinks: Whether it holds in exact arithmetic alone: units sit on kinks, and
            the first rounding parts them.

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
        """Whether slices are equal for ever, or never move, or the rank is bound.

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


def percent(share: float) -> str:
    """Return a share as a percentage; "<1%" and ">99%" stand for almost 0 and 1."""
    text = f"{share:.0%}"
    if text == "0%" and share > 0:
        return "<1%"
    if text == "100%" and share < 1:
        return ">99%"
    return text


class Slice(NamedTuple):
    """A weight of a layer, or one slice of a stacked layer.

    Attributes:
        name: Its name in a certificate.
        layer: The layer.
        leaf: The index of its leaf among the floating leaves.
        within: What to index the leaf with.
    """

    name: str
    layer: WeightLayer
    leaf: int
    within: tuple[int | slice, ...]

    @property
    def piece(self) -> Piece:
        """What has subspaces of its own, of a layer that is no stretch of a leaf."""
        axes = self.layer.stacked_axes
        position = tuple(self.within[axis] for axis in axes)
        return Piece(self.leaf, axes, position)


def slices(
    anatomy: Anatomy,
    space: Space,
) -> list[Slice]:
    """Return the weights of an anatomy, each slice of a stacked leaf by itself."""
    rows = []
    for layer in anatomy.layers:
        # A weight that is no floating number does not move.
        if layer.path not in space.names:
            continue
        leaf = space.names.index(layer.path)
        # Of each axis, where the layer begins and ends: it may be a stretch of a leaf.
        bounds = [(0, length) for length in space.shapes[leaf]]
        for axis, start, stop in layer.stretches:
            bounds[axis] = (start, stop)
        stretch: list[int | slice] = [slice(start, stop) for start, stop in bounds]
        # Without an axis of a stack there is one position, ().
        along_stack = [range(*bounds[axis]) for axis in layer.stacked_axes]
        for number, position in enumerate(itertools.product(*along_stack)):
            within = list(stretch)
            for axis, i in zip(layer.stacked_axes, position, strict=True):
                within[axis] = i
            name = layer.name
            # Even a stack of one slice has an axis that the layer has not.
            if layer.stacked is not None:
                name = f"{layer.name}[{number}]"
            row = Slice(name, layer, leaf=leaf, within=tuple(within))
            rows.append(row)
    return rows


class View:
    """What a closure says of each leaf, in the leaf's shape."""

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
        # Cached, and not made before it is asked for: where nothing is shared, nobody
        # asks, and it takes three vectors of the size of the parameters.
        return self._space.arrays(codes(self.closure.moves))

    def is_free(self, row: Slice) -> bool:
        """Tell whether every entry is alone in its class."""
        return not self._shared[row.leaf][row.within].any()

    def is_fragile(self, row: Slice) -> bool:
        """Tell whether rounding decided of an entry."""
        return bool(self._fragile[row.leaf][row.within].any())

    def code(self, row: Slice) -> Int[np.ndarray, "..."]:
        """Return the class of each entry times its sign; 0 never moves."""
        return self._codes[row.leaf][row.within]

    def whole(self, leaf: int) -> Int[np.ndarray, "..."]:
        """Return the classes of a whole leaf."""
        return self._codes[leaf]

    def num_still(self, leaf: int) -> int:
        """Count the entries of a leaf that never get a gradient."""
        return int((self._first[leaf] == 0).sum())

    def is_exact_zero(self, leaf: int) -> bool:
        """Tell whether the gradients of these were 0.0 in every probe."""
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
        """Return the first step at which any entry gets a gradient."""
        return _first_of(self._first[row.leaf][row.within])

    def first_of_leaf(self, leaf: int) -> int | None:
        """Return the same of a whole leaf."""
        return _first_of(self._first[leaf])

    def is_bit_for_bit(self, row: Slice) -> bool:
        """Tell whether only zeros are claimed, which were 0.0 in every probe."""
        code = self.code(row)
        is_zero = code == 0
        sizes = np.bincount(np.abs(code).ravel(), minlength=1)
        is_alone = bool((sizes[1:] <= 1).all())
        is_exact = self._is_exact_zero[row.leaf][row.within][is_zero]
        return is_alone and bool(is_exact.all())


def _first_of(steps: Int[np.ndarray, "..."]) -> int | None:
    """Return the first of some steps; 0 stands for never."""
    moving = steps[steps > 0]
    return int(moving.min()) if moving.size else None


def codes(partition: Partition) -> Int[np.ndarray, " n"]:
    """Return the label of each entry times its sign."""
    labels = partition.labels()
    # The sign of an entry that is alone says nothing.
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
        code: The class of each entry times its sign; class 0 never moves.
    """
    sizes = np.bincount(np.abs(code).ravel(), minlength=1)
    num_zeros = int(sizes[0])
    num_classes = np.count_nonzero(sizes[1:])
    if num_classes == code.size:
        return free_counts(code.shape)
    distinct = tuple(_num_distinct(code, axis) for axis in range(code.ndim))
    # Every combination of distinct slices has a class of its own.
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
    # The sign of the first entry that moves makes equal what is opposite.
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
    """Return the generic rank of a matrix of these classes."""
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
    # Every entry is alone, and none is zero.
    is_generic = len(classes) == matrix.size and bool(classes.all())
    if is_generic or size > _LARGEST_RANK or size == 0:
        return size
    # One member drawn at random has the largest rank, with probability one.
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
    """Return what one closure says of a weight.

    Args:
        row: The weight.
        view: What the closure says.
        step: The first step at which a gradient can arrive.
        grade: The grade of its claims; None if it is to be read off the closure, "bit
            for bit" or "in exact arithmetic".
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
