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

# Probes of one step of training: one with little weight decay, and one with much.
_PROBES = 2

# More rounds than this mean that rounding alone goes on splitting.
_MOST_ROUNDS = 200

# Ranges of what weight decay leaves of an array: little decay, and much.
_DECAYS = ((0.5, 1.25), (0.02, 0.5))


@dataclass(frozen=True, eq=False)
class Closure:
    """A space that no gradient leaves, and how it was reached.

    Attributes:
        equal: Classes of the parameters themselves, or None of a search that only
            follows what training adds.
        moves: Classes of what training adds.
        first: For each entry the first step at which it can get a gradient; 0 never.
        bitwise: Entries whose gradient was 0.0 bit for bit in every probe.
        fragile: Entries of which rounding decided.
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
    """Find the smallest space of the lattice that holds theta and every gradient in it.

    Entries of theta count as equal where they are bit for bit; their magnitudes are
    drawn anew for every probe, so that whatever differs makes a difference of order 1.

    Args:
        gradients: The gradients of f.
        group: Entries of different groups may be updated by different functions.
        start: A gradient at theta, each leaf of it scaled: `first_gradient`.
        period: How many inputs show all there is to see.

    Returns:
        The space, with `equal`.
    """
    search = _Search(gradients, group, period)
    search.add(start)
    # An entry whose gradient is like no other is alone, whatever theta is. Of a generic
    # network few are left, and theta need not be sorted.
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
    """Find the smallest space that holds every gradient at theta plus the space.

    It sees sums that are equal where their terms are not, and at which step a gradient
    arrives first. It keeps the numbers of theta, so what differs by rounding is equal,
    and a saturated unit is dead.

    Args:
        gradients: The gradients of f.
        group: Entries of different groups may be updated by different functions.
        start: A gradient at theta, each leaf of it scaled: `first_gradient`.
        decays: Whether weight decay may shrink each leaf of theta.
        period: How many inputs show all there is to see.

    Returns:
        The space, without `equal`.
    """
    space = gradients.space
    search = _Search(gradients, group, period)
    search.add(start)
    while search.goes_on(None):
        # All probes of a round are of one step: what moved in one is used in the next.
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
    """Return the gradient at theta, each leaf of it shrunk as weight decay may."""
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
    """Draw what weight decay leaves of each leaf; much of it in every other probe."""
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
    # A leaf without entries has none that could be asked; it may be of any group.
    last = np.maximum(space.ends - 1, 0)
    # Where each entry is a group by itself, numbers of groups are those of entries.
    return group[last] % len(space.shapes)


def _at_exact_point(
    gradients: Gradients,
    equal: Partition,
    number: int,
) -> Gradient:
    """Return the gradient at a random point of a space that holds theta."""
    space, rng = gradients.space, gradients.rng
    # The first probe is a fresh point: it tells apart whatever is generic.
    kind = (number + _members.FRESH) % _members.NUM_KINDS
    had_tiny = gradients.has_tiny
    try:
        gradient = gradients(_members.exact_point(space, equal, kind, rng=rng))
        # A tiny point is meant to have tiny gradients.
        gradients.has_tiny &= kind != _members.TINY or had_tiny
        return gradient
    except NotFinite:
        # Some parameters must be positive: a running variance, say.
        return gradients(_members.positive_point(space, equal, rng))


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
        """Tell whether anything could still be split."""
        is_open = self.moves.is_open or (equal is not None and equal.is_open)
        return (
            is_open and self._num_quiet < self._quiet and self.num_rounds < _MOST_ROUNDS
        )

    def add(self, gradient: Gradient) -> None:
        """Grow the space of what training adds by one gradient."""
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
        """Split classes by one gradient."""
        return split(
            partition,
            gradient.values,
            gradient.tolerance,
            group=self._group,
        )

    def end_round(self, equal: Partition | None) -> None:
        """Count the rounds, and those in a row without a change."""
        partitions = [self.moves] if equal is None else [self.moves, equal]
        state = tuple(len(p.zeros) for p in partitions)
        state += tuple(p.num_classes for p in partitions)
        self._num_quiet = self._num_quiet + 1 if state == self._state else 0
        self._state = state
        self.num_rounds += 1

    def closure(self, equal: Partition | None) -> Closure:
        """Return what was found."""
        self._bitwise[self._first > 0] = True
        return Closure(
            equal=equal,
            moves=self.moves,
            first=self._first,
            bitwise=self._bitwise,
            fragile=self._fragile,
        )
