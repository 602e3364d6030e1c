"""Partition: which entries of a vector are equal up to sign, and which are zero."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

# From so many members on a class is sorted by itself: one sort of a large class takes
# half the time of a sort by two keys. With ten times fewer, the calls of many small
# sorts take longer than they save.
_LARGE = 100_000


@dataclass(frozen=True, eq=False)
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
        """Whether a further vector could split anything."""
        return len(self.zeros) > 0 or len(self.members) > 0

    @property
    def num_classes(self) -> int:
        """The dimension of the space: classes, without that of zeros."""
        alone = self.size - len(self.zeros) - len(self.members)
        return alone + len(self.starts)

    @property
    def sizes(self) -> Int[np.ndarray, " classes"]:
        """The number of entries in each class of two or more."""
        return np.diff(np.append(self.starts, len(self.members)))

    @property
    def first_members(self) -> Int[np.ndarray, " classes"]:
        """One entry of each class of two or more."""
        return self.members[self.starts]

    def labels(self) -> Int[np.ndarray, " n"]:
        """Number the classes in the order of their first entries; 0 is that of zeros.

        Returns:
            The class of each entry.
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
        vector: Float[np.ndarray, " n"],
        of_classes: Float[np.ndarray, " classes"],
    ) -> None:
        """Turn a vector into a member of the space, in place.

        Args:
            vector: Its entries that are alone stay.
            of_classes: The value of each class of two or more.
        """
        signs = self.signs[self.members]
        vector[self.members] = signs * np.repeat(of_classes, self.sizes)
        vector[self.zeros] = 0.0


def all_zero(size: int) -> Partition:
    """Return the partition in which every entry is zero."""
    nothing = np.zeros(0, np.intp)
    return Partition(
        signs=np.zeros(size, np.int8),
        zeros=np.arange(size),
        members=nothing,
        starts=nothing,
    )


def of_equal(
    values: Float[np.ndarray, " n"],
    group: Int[np.ndarray, " n"] | None = None,
) -> Partition:
    """Return the classes of entries whose magnitudes are equal bit for bit.

    Args:
        values: A vector.
        group: Entries of different groups are never in one class.
    """
    if group is None:
        group = np.zeros(len(values), np.int32)
    exactly = np.zeros(len(values))
    return split(all_zero(len(values)), values, exactly, group)


def split(
    partition: Partition,
    values: Float[np.ndarray, " n"],
    tolerance: Float[np.ndarray, " n"],
    group: Int[np.ndarray, " n"],
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
    members, starts = partition.members, partition.starts
    if len(new):
        signs = signs.copy()
        signs[new] = np.sign(values[new])
        new, starts_of_new = _by_group(new, group)
        starts = np.concatenate([starts, len(members) + starts_of_new])
        members = np.concatenate([members, new])
    members, starts = _cut(members, starts, signs, values, tolerance=tolerance)
    return Partition(
        signs=signs,
        zeros=at_zero[~leaves],
        members=members,
        starts=starts,
    )


def _by_group(
    entries: Int[np.ndarray, " k"],
    group: Int[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " groups"]]:
    """Order entries by their groups, and return where each group starts."""
    own = group[entries]
    # Groups are leaves, which follow each other, unless equal leaves are one group.
    if (own[1:] < own[:-1]).any():
        order = np.argsort(own, kind="stable")
        entries, own = entries[order], own[order]
    return entries, _starts(own[1:] != own[:-1])


def _starts(is_cut: Bool[np.ndarray, " gaps"]) -> Int[np.ndarray, " pieces"]:
    """Return where pieces start, from the gaps between entries that are cut."""
    return np.concatenate([[0], 1 + np.flatnonzero(is_cut)])


def _cut(
    members: Int[np.ndarray, " members"],
    starts: Int[np.ndarray, " classes"],
    signs: Int8[np.ndarray, " n"],
    values: Float[np.ndarray, " n"],
    *,
    tolerance: Float[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " pieces"]]:
    """Cut classes at gaps, until none is left; classes of one entry are dropped."""
    done: list[np.ndarray] = []
    sizes_done: list[np.ndarray] = []
    while len(members):
        sizes = np.diff(np.append(starts, len(members)))
        height = signs[members] * values[members]
        width = np.maximum.reduceat(tolerance[members], starts)
        high, low = (best.reduceat(height, starts) for best in (np.maximum, np.minimum))
        # A class without a gap as wide as its tolerance costs no sort.
        is_whole = ~(high - low > width)
        done.append(members[np.repeat(is_whole, sizes)])
        sizes_done.append(sizes[is_whole])
        rest = np.repeat(~is_whole, sizes)
        members, height = members[rest], height[rest]
        sizes, width = sizes[~is_whole], width[~is_whole]
        if not len(members):
            break
        order = _sorted_within(height, sizes)
        members, height = members[order], height[order]
        own = np.repeat(np.arange(len(sizes)), sizes)
        is_border = own[1:] != own[:-1]
        is_cut = is_border | (np.diff(height) > width[own[1:]])
        starts = _starts(is_cut)
        pieces = np.diff(np.append(starts, len(members)))
        # A class that was sorted and has no gap stays as it is.
        num_pieces = np.bincount(own[starts], minlength=len(sizes))
        is_uncut = num_pieces[own[starts]] == 1
        done.append(members[np.repeat(is_uncut, pieces)])
        sizes_done.append(pieces[is_uncut])
        goes_on = ~is_uncut & (pieces > 1)
        members, pieces = members[np.repeat(goes_on, pieces)], pieces[goes_on]
        starts = np.cumsum(pieces) - pieces
    if not done:
        return members, starts
    all_sizes = np.concatenate(sizes_done)
    return np.concatenate(done), np.cumsum(all_sizes) - all_sizes


def _sorted_within(
    height: Float[np.ndarray, " members"],
    sizes: Int[np.ndarray, " classes"],
) -> Int[np.ndarray, " members"]:
    """Return the order that sorts the values of each class."""
    order = np.empty(len(height), np.intp)
    ends = np.cumsum(sizes)
    is_large = sizes >= _LARGE
    for start, end in zip((ends - sizes)[is_large], ends[is_large], strict=True):
        order[start:end] = start + np.argsort(height[start:end])
    small = np.flatnonzero(np.repeat(~is_large, sizes))
    own = np.repeat(np.arange(len(sizes)), sizes)[small]
    order[small] = small[np.lexsort((height[small], own))]
    return order
