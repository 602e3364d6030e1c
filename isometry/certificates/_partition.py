"""Partition: which entries of a vector are equal up to sign, and which are zero."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

# Arrays with an entry for each parameter: numbers, a choice of entries, group numbers.
Vector: TypeAlias = Float[np.ndarray, " n"]
Mask: TypeAlias = Bool[np.ndarray, " n"]
Labels: TypeAlias = Int[np.ndarray, " n"]

# In a class with at least this many members, entries that are close to another are
# found first, and only these are ordered: among generic numbers there are hardly any.
# With 1,000, the calls for many small classes would take longer than they save.
_LARGE = 10_000

# Groups of entries are cut together until they have as many entries as this. With
# 1,000, thousands of small groups would take as many calls; with 10,000,000 the lists
# of a call would take as much memory as the parameters of a large network.
_TOGETHER = 100_000

# If the share of close entries is larger than this, all entries are ordered.
_MANY = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
    """Classes of the entries of a vector, up to signs, and the class of zeros.

    It stands for a linear space: the vectors whose entries are zero on the class of
    zeros, and equal within every other class once multiplied by their signs.

    Attributes:
        signs: The sign of each entry relative to its class; 0 in the class of zeros.
        zeros: The entries in the class of zeros.
        members: The entries in classes of two or more, class after class. Entries that
            are alone are in none of the lists, and so cost nothing from then on.
        starts: Where each class begins in `members`.

    Example:
        >>> from isometry.certificates import _partition
        >>> entries = _partition.of_equal(np.array([2.0, -2.0, 0.0, 5.0]))
        >>> entries.labels()
        array([1, 1, 0, 2])
    """

    signs: Int8[np.ndarray, " n"]
    zeros: Int[np.ndarray, " zeros"]
    members: Int[np.ndarray, " members"]
    starts: Int[np.ndarray, " classes"]

    @property
    def size(self) -> int:
        """The number of entries."""
        return len(self.signs)

    @property
    def is_open(self) -> bool:
        """Whether any class can still be split."""
        return len(self.zeros) > 0 or len(self.members) > 0

    @property
    def num_classes(self) -> int:
        """The number of classes without that of zeros: the dimension of the space."""
        num_alone = self.size - len(self.zeros) - len(self.members)
        return num_alone + len(self.starts)

    @property
    def sizes(self) -> Int[np.ndarray, " classes"]:
        """The number of entries in each class of two or more."""
        return np.diff(np.append(self.starts, len(self.members)))

    @property
    def first_members(self) -> Int[np.ndarray, " classes"]:
        """One entry of each class of two or more."""
        return self.members[self.starts]

    def labels(self) -> Labels:
        """Return the number of each entry's class, from 1 in the order of appearance.

        Returns:
            For each entry the number of its class; 0 in the class of zeros.
        """
        # Each entry is represented by the first entry of its class.
        first = np.arange(self.size)
        if len(self.members):
            lowest = np.minimum.reduceat(self.members, self.starts)
            first[self.members] = np.repeat(lowest, self.sizes)
        is_first = first == np.arange(self.size)
        is_first[self.zeros] = False
        labels = np.cumsum(is_first)[first]
        labels[self.zeros] = 0
        return labels

    def spread(
        self,
        vector: Vector,
        of_classes: Float[np.ndarray, " classes"],
    ) -> None:
        """Turn a vector into a member of the space, in place.

        Args:
            vector: The vector. Entries that are alone in their class are kept.
            of_classes: The value of each class of two or more.
        """
        signs = self.signs[self.members]
        vector[self.members] = signs * np.repeat(of_classes, self.sizes)
        vector[self.zeros] = 0.0


def all_zero(size: int) -> Partition:
    """Return the partition in which every entry is zero."""
    # Half of what intp takes; more entries than 2^31 fit into no memory in float64.
    nothing = np.zeros(0, np.int32)
    return Partition(
        signs=np.zeros(size, np.int8),
        zeros=np.arange(size, dtype=np.int32),
        members=nothing,
        starts=nothing,
    )


def of_equal(
    values: Vector,
    group: Labels | None = None,
    among: Int[np.ndarray, " k"] | None = None,
) -> Partition:
    """Return the classes of entries whose magnitudes are equal bit for bit.

    Args:
        values: A vector.
        group: Entries of different groups are never in one class.
        among: The entries that are compared. All others are alone.
    """
    everything = all_zero(len(values))
    if group is None:
        group = np.zeros(len(values), np.int32)
    if among is not None:
        # An entry that is alone has no class, and so its sign has no meaning.
        everything = dataclasses.replace(everything, zeros=among)
    exactly = np.zeros(len(values))
    return split(everything, values, exactly, group=group)


def split(
    partition: Partition,
    values: Vector,
    tolerance: Vector,
    *,
    group: Labels,
) -> Partition:
    """Split classes so that a vector is in the space, as far as tolerance demands.

    An entry leaves the class of zeros if its value is above its tolerance. A class is
    cut in two where its values, times the signs, leave a gap wider than the largest
    tolerance in the class; again and again, since parts have smaller tolerances.

    Args:
        partition: The classes before.
        values: The vector.
        tolerance: What counts as equal, or as zero, at each entry.
        group: Entries of different groups that leave the class of zeros are not equal.

    Returns:
        The coarsest such partition: the smallest space that holds the one before and
        the vector.
    """
    at_zero = partition.zeros
    leaves = np.abs(values[at_zero]) > tolerance[at_zero]
    signs, new = partition.signs, at_zero[leaves]
    kept = _cut(
        partition.members,
        partition.starts,
        signs=signs,
        values=values,
        tolerance=tolerance,
    )
    parts = [kept]
    if len(new):
        signs = signs.copy()
        signs[new] = np.sign(values[new])
        # Not all groups at once, so that memory is that of the largest group.
        for members, starts in _by_group(new, group):
            cut = _cut(
                members,
                starts,
                signs=signs,
                values=values,
                tolerance=tolerance,
            )
            parts.append(cut)
    sizes = np.concatenate([part.sizes for part in parts])
    return Partition(
        signs=signs,
        zeros=at_zero[~leaves],
        members=np.concatenate([part.members for part in parts]),
        starts=np.cumsum(sizes) - sizes,
    )


def _by_group(
    entries: Int[np.ndarray, " k"],
    group: Labels,
) -> Iterator[tuple[Int[np.ndarray, " members"], Int[np.ndarray, " groups"]]]:
    """Return the entries of some groups at a time, and where each group begins.

    Args:
        entries: Some entries; at least one.
        group: The number of each entry's group.

    Yields:
        As many groups as have `_TOGETHER` entries between them, and at least one.
    """
    own = group[entries]
    # Groups are in rising order, unless equal leaves share a group.
    if (np.diff(own) < 0).any():
        order = np.argsort(own, kind="stable")
        entries = entries[order]
        own = own[order]
    starts = np.append(0, 1 + np.flatnonzero(np.diff(own)))
    ends = np.append(starts[1:], len(entries))
    first = 0
    while first < len(starts):
        begin = starts[first]
        until = np.searchsorted(ends, begin + _TOGETHER, side="right")
        until = max(int(until), first + 1)
        yield entries[begin : ends[until - 1]], starts[first:until] - begin
        first = until


class _Classes(NamedTuple):
    """Classes of two entries or more, one after the other."""

    members: Int[np.ndarray, " members"]
    sizes: Int[np.ndarray, " classes"]


def _cut(
    members: Int[np.ndarray, " members"],
    starts: Int[np.ndarray, " classes"],
    *,
    signs: Int8[np.ndarray, " n"],
    values: Vector,
    tolerance: Vector,
) -> _Classes:
    """Cut classes at gaps, until none is left; classes of one entry are dropped."""
    done = [_Classes(members[:0], starts[:0])]
    while len(members):
        sizes = np.diff(np.append(starts, len(members)))
        height = signs[members] * values[members]
        # A gap counts if it is wider than the largest tolerance in the class.
        width = np.maximum.reduceat(tolerance[members], starts)
        highest = np.maximum.reduceat(height, starts)
        lowest = np.minimum.reduceat(height, starts)
        # A class that spans less than its tolerance is not sorted. NaN cuts no class.
        is_whole = ~(highest - lowest > width)
        of_whole = np.repeat(is_whole, sizes)
        done.append(_Classes(members[of_whole], sizes[is_whole]))
        sizes, width = sizes[~is_whole], width[~is_whole]
        members, height = members[~of_whole], height[~of_whole]
        # The number of the class of each entry.
        own = np.repeat(np.arange(len(sizes)), sizes)
        kept = np.flatnonzero(_near_another(height, sizes, width))
        # By class, and within a class by height.
        order = kept[np.lexsort((height[kept], own[kept]))]
        members, height, own = members[order], height[order], own[order]
        is_other_class = np.diff(own) > 0
        is_gap = np.diff(height) > width[own[1:]]
        pieces, number = _pieces(is_other_class | is_gap, own)
        # A class without a gap that lost no entry is done. A part of a class may have a
        # smaller tolerance, and so gaps, and is cut again.
        is_shared = pieces > 1
        is_done = is_shared & (pieces == sizes[number])
        of_done = np.repeat(is_done, pieces)
        done.append(_Classes(members[of_done], pieces[is_done]))
        goes_on = is_shared & ~is_done
        members = members[np.repeat(goes_on, pieces)]
        pieces = pieces[goes_on]
        starts = np.cumsum(pieces) - pieces
    return _Classes(
        members=np.concatenate([classes.members for classes in done]),
        sizes=np.concatenate([classes.sizes for classes in done]),
    )


def _pieces(
    is_cut: Bool[np.ndarray, " gaps"],
    own: Int[np.ndarray, " members"],
) -> tuple[Int[np.ndarray, " pieces"], Int[np.ndarray, " pieces"]]:
    """Return the sizes of the pieces between cuts, and the class of each."""
    if not len(own):
        return own, own
    ends = 1 + np.flatnonzero(is_cut)
    starts = np.append(0, ends)
    sizes = np.diff(np.append(starts, len(own)))
    return sizes, own[starts]


def _near_another(
    height: Float[np.ndarray, " members"],
    sizes: Int[np.ndarray, " classes"],
    width: Float[np.ndarray, " classes"],
) -> Bool[np.ndarray, " members"]:
    """Tell which entries of a class are within its width of another entry.

    Only classes of at least `_LARGE` entries are searched; all other entries are True.
    """
    is_near = np.ones(len(height), bool)
    ends = np.cumsum(sizes)
    for i in np.flatnonzero(sizes >= _LARGE):
        of_class = slice(ends[i] - sizes[i], ends[i])
        own = height[of_class]
        # Values alone are sorted in a fifth of the time of their order.
        ranked = np.sort(own)
        is_close = np.diff(ranked) <= width[i]
        if is_close.mean() > _MANY:
            continue
        # Runs of close values: +1 where one begins, and -1 where it ends.
        steps = np.diff(is_close.astype(np.int8), prepend=0, append=0)
        lows, highs = ranked[steps == 1], ranked[steps == -1]
        # The first run that does not end below a value holds it, or begins above it.
        run = np.searchsorted(highs, own)
        lows = np.append(lows, np.inf)
        is_near[of_class] = own >= lows[run]
    return is_near
