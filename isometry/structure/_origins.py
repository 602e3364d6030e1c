"""Values that depend on parameters alone, traced back to the leaves that they show.

A weight may be masked, standardized, cast, transposed, reshaped, sliced or stacked
before it meets the signal. What it is then still shows one leaf of the parameters, and
each of its axes comes from axes of that leaf.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from isometry.structure._reading import Indices, Program, Value

# For each axis of a value, the axes of the leaf from which it comes. Empty: of none.
Axes = tuple[Indices, ...]


@dataclasses.dataclass(frozen=True)
class Pick:
    """One slice of a stacked leaf.

    Attributes:
        axis: The axis of the leaf along which it is stacked.
        index: Which slice is taken, where that is a number.
        scan: The scan whose iterations take one slice each; None if there is none.
        is_routed: Whether the signal says which slice is taken.
    """

    axis: int
    index: int | None = None
    scan: int | None = None
    is_routed: bool = False


class Part(NamedTuple):
    """A stretch of one axis of a leaf.

    Attributes:
        axis: The axis of the leaf.
        start: Where the stretch begins.
        stop: Where it ends.
    """

    axis: int
    start: int
    stop: int


class Origin(NamedTuple):
    """What a value shows of a leaf.

    Attributes:
        leaf: Index of the leaf among the program's values.
        axes: For each axis of the value, the axes of the leaf from which it comes.
        picks: The slices of a stacked leaf that were taken.
        parts: The stretches of axes that were cut out.
        joined: Where values of several leaves were concatenated: the axis of the value,
            and where this leaf's share begins and ends.
        turn: The iteration of a scan in which the value is this leaf's: (scan, turn),
            where leaves were stacked inside the program; None if in all.
    """

    leaf: int
    axes: Axes
    picks: tuple[Pick, ...] = ()
    parts: tuple[Part, ...] = ()
    joined: Part | None = None
    turn: tuple[int, int] | None = None

    @property
    def num_shown(self) -> int:
        """How many axes come from the leaf."""
        return sum(bool(axes) for axes in self.axes)


Origins = tuple[Origin, ...]

# Axes of what is a weight by itself, not a row of a table.
_AXES_OF_MATRIX = 2

# Operations that leave a matrix what it is.
_MOVING = frozenset(
    ("squeeze", "reshape", "transpose", "broadcast_in_dim", "convert_element_type"),
)


class _Step(NamedTuple):
    """One operation on the way from a leaf to a weight.

    Attributes:
        program: The program.
        value: What the operation makes.
        shape: The shape of its main input, of which the origin is known.
    """

    program: Program
    value: Value
    shape: Indices

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of its equation."""
        return self.value.params


def origins(program: Program) -> dict[int, Origins]:
    """Trace every value that depends on parameters and not on x.

    Returns:
        The origins by index of the value: one, or several where leaves were
        concatenated. Values of which nothing is known are missing.
    """
    of_params = program.reached(program.params)
    of_x = program.of_x
    traced: dict[int, Origins] = {}
    for leaf in program.params:
        num_axes = len(program.values[leaf].shape)
        axes = tuple((axis,) for axis in range(num_axes))
        traced[leaf] = (Origin(leaf, axes),)
    for index, value in enumerate(program.values):
        if index not in of_params or not value.inputs:
            continue
        if index not in of_x or _is_expert(program, index, traced):
            traced[index] = follow(program, index, traced)
    return {index: found for index, found in traced.items() if found}


def _is_expert(
    program: Program,
    index: int,
    traced: dict[int, Origins],
) -> bool:
    """Tell whether a value is a matrix that the signal picks from a stack of them.

    It meets the signal where it is multiplied, as the experts of a mixture do. A row of
    a table is no matrix: that is an embedding.
    """
    value = program.values[index]
    main = value.inputs[0]
    if main not in traced or not program.values[main].is_floating:
        return False
    if value.operation in ("gather", "dynamic_slice"):
        num_axes = sum(size > 1 for size in value.params["slice_sizes"])
        return num_axes >= _AXES_OF_MATRIX
    return value.operation in _MOVING and is_expert(traced[main])


def is_expert(found: Origins) -> bool:
    """Tell whether a value was picked from a stack by the signal."""
    return any(pick.is_routed for origin in found for pick in origin.picks)


def follow(
    program: Program,
    index: int,
    traced: dict[int, Origins],
) -> Origins:
    """Trace one value whose inputs are traced already."""
    value = program.values[index]
    if value.operation in ("concatenate", "stack"):
        return _concatenated(program, value, traced)
    if value.operation == "scan_stack":
        # An array made by a scan over parameters is stacked anew.
        (returned,) = value.inputs
        return tuple(
            _unpicked(origin, value.scans) for origin in traced.get(returned, ())
        )
    main = _main_input(program, value, traced)
    if main is None:
        return ()
    rule = _FOLLOWED.get(value.operation, _elementwise)
    step = _Step(program, value, program.values[main].shape)
    followed = [rule(step, origin) for origin in traced[main]]
    return tuple(origin for origin in followed if origin is not None)


def _main_input(
    program: Program,
    value: Value,
    traced: dict[int, Origins],
) -> int | None:
    """Return the input that a value shows: the one of which most axes are known.

    A normalized weight w / |w| shows w, not its norm; a masked one w, not the mask,
    unless the mask is what comes from a leaf.
    """
    # More axes known, then floating, then the larger leaf; the first of equals.
    best, best_rank = None, (-1, -1)
    for read in value.inputs:
        found = traced.get(read)
        if not found:
            continue
        num_shown = max(origin.num_shown for origin in found)
        size = math.prod(program.values[found[0].leaf].shape)
        # A float leaf before a mask of whole numbers or booleans of the same shape.
        is_floating = program.values[read].is_floating
        rank = (2 * num_shown + is_floating, size)
        if rank > best_rank:
            best, best_rank = read, rank
    return best


def _unpicked(origin: Origin, scans: Indices) -> Origin:
    """Return the origin of the stack of what iterations have returned."""
    inner = [pick for pick in origin.picks if pick.scan not in (None, *scans)]
    leading = tuple(pick.axis for pick in inner[-1:])
    kept = tuple(pick for pick in origin.picks if pick not in inner[-1:])
    return origin._replace(axes=(leading, *origin.axes), picks=kept)


def _concatenated(
    program: Program,
    value: Value,
    traced: dict[int, Origins],
) -> Origins:
    """Trace leaves that were concatenated, or stacked, inside the program."""
    is_stack = value.operation == "stack"
    axis = value.params["axis" if is_stack else "dimension"]
    found: list[Origin] = []
    start = 0
    for read in value.inputs:
        stop = start + 1 if is_stack else start + program.values[read].shape[axis]
        share = Part(axis, start, stop)
        for origin in traced.get(read, ()):
            axes = list(origin.axes)
            if is_stack:
                axes.insert(axis, ())
            found.append(origin._replace(axes=tuple(axes), joined=share))
        start = stop
    if len(found) == 1:
        return (found[0]._replace(joined=None),)
    return tuple(found)


def _elementwise(step: _Step, origin: Origin) -> Origin | None:
    """Follow what leaves the shape as it is; of all else only the leaf is known."""
    # Entry by entry, the leaf is still seen through whatever was done to it.
    if tuple(step.shape) == step.value.shape:
        return origin
    return origin._replace(axes=((),) * len(step.value.shape), joined=None)


def _transpose(step: _Step, origin: Origin) -> Origin:
    permutation = step.params["permutation"]
    axes = tuple(origin.axes[axis] for axis in permutation)
    joined = origin.joined
    if joined is not None:
        joined = joined._replace(axis=list(permutation).index(joined.axis))
    return origin._replace(axes=axes, joined=joined)


def _reshape(step: _Step, origin: Origin) -> Origin:
    axes: list[Indices] = [()] * len(step.value.shape)
    # Axes that were merged or split come from all axes of their group.
    for old, new in matched(step.shape, step.value.shape):
        sources = sorted({leaf_axis for axis in old for leaf_axis in origin.axes[axis]})
        for axis in new:
            axes[axis] = tuple(sources)
    return origin._replace(axes=tuple(axes), joined=None)


def matched(
    old: Sequence[int],
    new: Sequence[int],
) -> list[tuple[list[int], list[int]]]:
    """Group the axes of two shapes of one size such that each group holds the same.

    Axes of size 1 come from nowhere and belong to no group.

    Example:
        >>> matched((6, 4), (2, 3, 1, 4))
        [([0], [0, 1]), ([1], [3])]
    """
    groups = []
    olds = [axis for axis, size in enumerate(old) if size != 1]
    news = [axis for axis, size in enumerate(new) if size != 1]
    while olds and news:
        left, right = [olds.pop(0)], [news.pop(0)]
        while True:
            num_left = math.prod(old[axis] for axis in left)
            num_right = math.prod(new[axis] for axis in right)
            if num_left == num_right:
                break
            if num_left < num_right:
                left.append(olds.pop(0))
            else:
                right.append(news.pop(0))
        groups.append((left, right))
    return groups


def _broadcast(step: _Step, origin: Origin) -> Origin:
    axes: list[Indices] = [()] * len(step.value.shape)
    targets = list(step.params["broadcast_dimensions"])
    for source, target in zip(origin.axes, targets, strict=True):
        axes[target] = source
    joined = origin.joined
    if joined is not None:
        joined = joined._replace(axis=targets[joined.axis])
    return origin._replace(axes=tuple(axes), joined=joined)


def _squeeze(step: _Step, origin: Origin) -> Origin:
    dropped = {int(axis) % len(step.shape) for axis in step.params["dimensions"]}
    # A stack of one: its only slice is taken.
    leaf_axes = [origin.axes[axis] for axis in sorted(dropped)]
    picks = tuple(Pick(axes[0], index=0) for axes in leaf_axes if len(axes) == 1)
    return _without(origin._replace(picks=(*origin.picks, *picks)), dropped)


def _reduce(step: _Step, origin: Origin) -> Origin:
    return _without(origin, set(step.params["axes"]))


def _without(origin: Origin, dropped: set[int]) -> Origin:
    """Drop axes of the value."""
    kept = [axis for axis in range(len(origin.axes)) if axis not in dropped]
    joined = origin.joined
    if joined is not None:
        if joined.axis in dropped:
            joined = None
        else:
            joined = joined._replace(axis=kept.index(joined.axis))
    return origin._replace(
        axes=tuple(origin.axes[axis] for axis in kept), joined=joined
    )


def _slice(step: _Step, origin: Origin) -> Origin | None:
    """Follow a slice with fixed ends."""
    starts = step.params["start_indices"]
    for axis, size in enumerate(step.shape):
        new_size = step.value.shape[axis]
        if size != new_size:
            start = int(starts[axis])
            stop = int(step.params["limit_indices"][axis])
            cut = _cut(step.program, origin, Part(axis, start, stop), size=size)
            if cut is None:
                return None
            origin = cut
    return origin


def _cut(
    program: Program,
    origin: Origin,
    cut: Part,
    *,
    size: int,
) -> Origin | None:
    """Cut a stretch out of one axis; None if nothing of the leaf is left."""
    joined = origin.joined
    if joined is not None and joined.axis == cut.axis:
        start = max(cut.start, joined.start)
        stop = min(cut.stop, joined.stop)
        if start >= stop:
            return None
        # A whole share of what was concatenated is the leaf again.
        is_whole = (start, stop) == (cut.start, cut.stop)
        share = Part(cut.axis, start - cut.start, stop - cut.start)
        return origin._replace(joined=None if is_whole else share)
    source = origin.axes[cut.axis]
    if len(source) != 1 or program.values[origin.leaf].shape[source[0]] != size:
        return origin
    (axis,) = source
    if cut.stop - cut.start == 1 and size > 1:
        axes = list(origin.axes)
        axes[cut.axis] = ()
        picks = (*origin.picks, Pick(axis, index=cut.start))
        return origin._replace(axes=tuple(axes), picks=picks)
    return origin._replace(parts=(*origin.parts, Part(axis, cut.start, cut.stop)))


def _each(step: _Step, origin: Origin) -> Origin | None:
    """Follow the slice of an array that each iteration of a scan takes."""
    return _picked(origin, axis=0, scan=step.value.scans[-1])


def _innermost(
    program: Program,
    value: Value,
    index: int,
) -> int | None:
    """Return the scan whose counter says which slice is taken; None if x says so."""
    is_counted = value.scans and index not in program.of_x
    return value.scans[-1] if is_counted else None


def _picked(
    origin: Origin,
    axis: int,
    *,
    scan: int | None,
) -> Origin | None:
    """Take one slice along an axis of the value.

    Each iteration of `scan` takes one. Without a scan the signal says which.
    """
    joined = origin.joined
    turn = origin.turn
    picks = origin.picks
    source = origin.axes[axis]
    if joined is not None and joined.axis == axis and scan is not None:
        if joined.stop - joined.start == 1:
            turn = (scan, joined.start)
    elif len(source) == 1:
        picks = (*picks, Pick(source[0], scan=scan, is_routed=scan is None))
    return _without(origin._replace(picks=picks, turn=turn), {axis})


def _dynamic_slice(step: _Step, origin: Origin) -> Origin | None:
    """Follow a slice whose start is computed: a number, or the counter of a loop."""
    starts = step.value.inputs[1:]
    for axis, size in enumerate(step.shape):
        new_size = step.value.shape[axis]
        if size == new_size or new_size != 1 or not origin.axes[axis]:
            continue
        number = _number(step.program, starts[axis])
        if number is not None:
            one = Part(axis, number, number + 1)
            cut = _cut(step.program, origin, one, size=size)
        else:
            scan = _innermost(step.program, step.value, starts[axis])
            cut = _picked(origin, axis, scan=scan)
            if cut is not None:
                axes = list(cut.axes)
                axes.insert(axis, ())
                cut = cut._replace(axes=tuple(axes))
        if cut is None:
            return None
        origin = cut
    return origin


def _gather(step: _Step, origin: Origin) -> Origin | None:
    """Follow rows taken at indices that do not depend on x."""
    numbers = step.params["dimension_numbers"]
    sizes = step.params["slice_sizes"]
    # Collapsed axes are indexed away; all others are axes of the result.
    dropped = set(numbers.collapsed_slice_dims) | set(numbers.operand_batching_dims)
    kept = [axis for axis in range(len(step.shape)) if axis not in dropped]
    axes: list[Indices] = [()] * len(step.value.shape)
    for axis, target in zip(kept, numbers.offset_dims, strict=True):
        axes[target] = origin.axes[axis]
    new = [axis for axis in range(len(axes)) if axis not in numbers.offset_dims]
    indices = step.value.inputs[1]
    is_routed = indices in step.program.of_x
    picks = origin.picks
    for axis in numbers.collapsed_slice_dims:
        source = origin.axes[axis]
        if new and not is_routed:
            # Many rows at fixed places: the axis is still there.
            for target in new:
                axes[target] = source
        elif sizes[axis] == 1 and len(source) == 1:
            number = _number(step.program, indices)
            scan = _innermost(step.program, step.value, indices)
            pick = Pick(source[0], index=number, scan=scan, is_routed=is_routed)
            picks = (*picks, pick)
    return origin._replace(axes=tuple(axes), picks=picks, joined=None)


def _number(program: Program, index: int) -> int | None:
    """Return a value's number where it is the same in every run."""
    value = program.values[index]
    while value.operation != "constant":
        # JAX wraps the indices of what it slices: select(i < 0, i + n, i).
        if value.operation not in _PASSING or not value.inputs:
            return None
        value = program.values[value.inputs[_PASSING[value.operation]]]
    number = value.number
    if (
        number is None
        or np.size(number) != 1
        or not np.isscalar(np.asarray(number).item())
    ):
        return None
    return int(np.asarray(number).item())


# Where the number itself stands among the inputs of an operation that passes it on.
_PASSING = {
    "convert_element_type": 0,
    "broadcast_in_dim": 0,
    "reshape": 0,
    "squeeze": 0,
    "select_n": 1,
}


def _product(step: _Step, origin: Origin) -> Origin:
    """Follow the factor of a product of parameters: its free axes are still there."""
    # Low-rank factors, orthogonal maps, spectral norms: the larger factor is meant.
    contracted, batch = step.params["dimension_numbers"]
    # The main input is known by its shape; of two of one shape the first is meant.
    is_left = step.program.values[step.value.inputs[0]].shape == tuple(step.shape)
    side = 0 if is_left else 1
    num_batch = len(batch[0])
    bound = set(contracted[side]) | set(batch[side])
    free = [axis for axis in range(len(step.shape)) if axis not in bound]
    axes: list[Indices] = [()] * len(step.value.shape)
    for target, axis in enumerate(batch[side]):
        axes[target] = origin.axes[axis]
    first = num_batch
    if side == 1:
        first = len(step.value.shape) - len(free)
    for target, axis in enumerate(free, start=first):
        axes[target] = origin.axes[axis]
    return origin._replace(axes=tuple(axes), joined=None)


_Follow = Callable[[_Step, Origin], Origin | None]

# How an operation moves the axes of its main input. All others are elementwise, or
# known by their leaf alone.
_FOLLOWED: dict[str, _Follow] = {
    "transpose": _transpose,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "scan_each": _each,
    "dot_general": _product,
    "reduce_sum": _reduce,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
    "reduce_prod": _reduce,
    "argmax": _reduce,
    "argmin": _reduce,
}
