"""The smallest space that no gradient leaves, grown from random gradients."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int16

from isometry._internal.errors import NotFinite
from isometry.certificates import _members
from isometry.certificates._gradients import Gradient, Gradients, Space
from isometry.certificates._partition import (
    Labels,
    Mask,
    Partition,
    all_zero,
    of_equal,
    split,
)

# How many probes in a row must split nothing: each kind of point once, and one more.
_QUIET = _members.NUM_KINDS + 1

# The number of probes of one step of training: one with little weight decay, and one
# with much.
_PROBES = 2

# After this many rounds only rounding can still split classes, and the search ends.
_MOST_ROUNDS = 200

# Ranges of the factor by which weight decay multiplies an array: little decay, and
# much.
_DECAYS = ((0.5, 1.25), (0.02, 0.5))


@dataclass(frozen=True, eq=False)
class Closure:
    """A space that no gradient leaves.

    Attributes:
        equal: Classes of parameters that stay equal or opposite; None if only the
            updates were searched.
        moves: Classes of entries of the update that stay equal or opposite.
        first: For each entry the first step at which it can get a gradient; 0 if never.
        bitwise: Entries whose gradient was 0.0 bit for bit in every probe until they
            moved; to be read only of entries that never move.
        fragile: Entries whose gradient a single rounding error may change altogether.
    """

    equal: Partition | None
    moves: Partition
    first: Int16[np.ndarray, " n"]
    bitwise: Mask
    fragile: Mask


def exact(
    gradients: Gradients,
    group: Labels,
    start: Gradient,
    *,
    period: int = 1,
) -> Closure:
    """Find the smallest space that holds theta, and every gradient at its points.

    A space is given by entries that are equal up to sign, or zero. Entries of theta
    count as equal if they are so bit for bit. For every probe the magnitudes are drawn
    anew, so that entries that can differ do so by numbers of order 1.

    Args:
        gradients: The gradients of f.
        group: The group of each entry. Entries of different groups may be updated by
            different functions, so they are never equal.
        start: The result of `first_gradient`.
        period: The number of inputs that together show every row of every embedding.

    Returns:
        The space, with `equal`.
    """
    search = _Search(gradients, group, period)
    search.add(start)
    # An entry whose gradient equals no other is alone, whatever theta is. In a generic
    # network few other entries are left, so that theta need not be sorted as a whole.
    moves = search.moves
    among = np.sort(np.concatenate([moves.zeros, moves.members]))
    equal = of_equal(gradients.space.theta, group, among)
    equal = search.split(equal, start)
    search.end_round(equal)
    while search.goes_on(equal):
        gradient = _at_exact_point(gradients, equal, search.num_rounds)
        equal = search.split(equal, gradient)
        search.add(gradient)
        search.end_round(equal)
    return search.closure(equal)


def affine(
    gradients: Gradients,
    group: Labels,
    start: Gradient,
    *,
    decays: bool,
    period: int = 1,
) -> Closure:
    """Find the smallest space V that holds every gradient at points of theta + V.

    This search keeps the numbers of theta. So it sees sums that are equal though their
    terms are not, and at which step each entry first gets a gradient. But it takes
    numbers that differ by rounding only for equal, and a saturated unit for a dead one.

    Args:
        gradients: The gradients of f.
        group: The group of each entry. Entries of different groups may be updated by
            different functions, so they are never equal.
        start: The result of `first_gradient`.
        decays: Whether weight decay may shrink the leaves of theta, each by a factor of
            its own.
        period: The number of inputs that together show every row of every embedding.

    Returns:
        The space V; the field `equal` is None.
    """
    space = gradients.space
    search = _Search(gradients, group, period)
    search.add(start)
    while search.goes_on(None):
        # All probes of a round are gradients of one step of training. What they show
        # to move is added to the points of the next round.
        reachable = search.moves if search.num_rounds else all_zero(space.size)
        for i in range(max(_PROBES, period)):
            if not search.moves.is_open:
                break
            gammas = _gammas(gradients, group, decays, number=search.num_rounds + i)
            point = _members.affine_point(space, reachable, gammas, rng=gradients.rng)
            search.add(gradients(point))
        search.end_round(None)
    return search.closure(None)


def first_gradient(
    gradients: Gradients,
    group: Labels,
    *,
    decays: bool = True,
) -> Gradient:
    """Return the gradient at theta, whose leaves weight decay may have shrunk."""
    space = gradients.space
    gammas = _gammas(gradients, group, decays, number=0)
    nothing = all_zero(space.size)
    point = _members.affine_point(space, nothing, gammas, rng=gradients.rng)
    return gradients(point)


def _gammas(
    gradients: Gradients,
    group: Labels,
    decays: bool,
    *,
    number: int,
) -> Float[np.ndarray, " leaves"]:
    """Draw the factor by which weight decay multiplies each leaf; 1 without decay.

    Probes with even numbers have little decay, and those with odd numbers much.
    """
    space = gradients.space
    if not decays:
        return np.ones(len(space.shapes))
    low, high = _DECAYS[number % len(_DECAYS)]
    # Leaves of one group decay alike.
    by_group = gradients.rng.uniform(low, high, len(space.shapes))
    return by_group[_group_of_leaf(space, group)]


def _group_of_leaf(
    space: Space,
    group: Labels,
) -> Int[np.ndarray, " leaves"]:
    # The group of a leaf is that of its last entry. A leaf without entries may have
    # any group.
    last = np.maximum(space.ends - 1, 0)
    # If each entry is a group by itself, group numbers may exceed the number of leaves.
    return group[last] % len(space.shapes)


def _at_exact_point(
    gradients: Gradients,
    equal: Partition,
    number: int,
) -> Gradient:
    """Return the gradient at a random point of the space that `equal` describes.

    Args:
        gradients: The gradients of f.
        equal: Classes of parameters that are equal or opposite.
        number: How many probes came before, which decides the kind of the point.
    """
    space, rng = gradients.space, gradients.rng
    # The first probe is a fresh point, because it separates most entries.
    kind = (number + _members.FRESH) % _members.NUM_KINDS
    had_tiny = gradients.has_tiny
    try:
        gradient = gradients(_members.exact_point(space, equal, kind, rng=rng))
    except NotFinite:
        # Some parameters, such as a running variance, may have to be positive.
        return gradients(_members.positive_point(space, equal, rng))
    # Tiny gradients are no sign of underflow if the point itself is tiny.
    if kind == _members.TINY:
        gradients.has_tiny = had_tiny
    return gradient


class _Search:
    """What one search has found so far."""

    def __init__(
        self,
        gradients: Gradients,
        group: Labels,
        period: int,
    ) -> None:
        size = gradients.space.size
        self.moves = all_zero(size)
        self.num_rounds = 0
        self._group = group
        self._gradients = gradients
        self._first = np.zeros(size, np.int16)
        self._bitwise = np.ones(size, bool)
        self._fragile = np.zeros(size, bool)
        self._num_quiet, self._quiet = 0, max(_QUIET, period)
        self._state: tuple[int, ...] = ()

    def goes_on(self, equal: Partition | None) -> bool:
        """Tell whether the search should go on.

        It ends when no class can be split further, after enough rounds without a
        change, or after `_MOST_ROUNDS`.
        """
        is_open = self.moves.is_open or (equal is not None and equal.is_open)
        return (
            is_open and self._num_quiet < self._quiet and self.num_rounds < _MOST_ROUNDS
        )

    def add(self, gradient: Gradient) -> None:
        """Extend the space of updates until it holds a gradient."""
        self.moves = self.split(self.moves, gradient)
        zeros = self.moves.zeros
        is_new = self._first == 0
        is_new[zeros] = False
        self._first[is_new] = self.num_rounds + 1
        self._bitwise[zeros] &= gradient.values[zeros] == 0
        if gradient.fragile is not None:
            self._fragile |= gradient.fragile

    def split(
        self,
        partition: Partition,
        gradient: Gradient,
    ) -> Partition:
        """Return a partition with classes split where a gradient differs."""
        return split(
            partition,
            gradient.values,
            gradient.tolerance,
            group=self._group,
        )

    def end_round(self, equal: Partition | None) -> None:
        """Count the round, and how many in a row have changed nothing."""
        partitions = [self.moves] if equal is None else [self.moves, equal]
        state = tuple(len(p.zeros) for p in partitions)
        state += tuple(p.num_classes for p in partitions)
        self._num_quiet = self._num_quiet + 1 if state == self._state else 0
        self._state = state
        self.num_rounds += 1

    def closure(self, equal: Partition | None) -> Closure:
        """Return the record of the search."""
        return Closure(
            equal=equal,
            moves=self.moves,
            first=self._first,
            bitwise=self._bitwise,
            fragile=self._fragile,
        )
