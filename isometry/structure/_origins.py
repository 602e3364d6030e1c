"""Origins: the leaves of the parameters that weights come from, axis by axis.

A weight may be masked, standardized, cast, transposed, reshaped, sliced or stacked
before it is applied to the signal. It still comes from one leaf of the parameters, and
each of its axes from axes of that leaf.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from isometry.structure._reading import Indices, Program, Value

# For each axis of a value, the axes of the leaf that it comes from. Empty if there are
# none, or if they are unknown.
Axes = tuple[Indices, ...]


@dataclasses.dataclass(frozen=True)
class Pick:
    """One slice along an axis of a leaf: one layer of a stack of them.

    Attributes:
        axis: The axis of the leaf along which it is stacked.
        index: Which slice is taken, if that is a fixed number; otherwise None.
        scan: The scan whose iterations take one slice each; None if there is none.
        is_routed: Whether the slice is chosen by a value that depends on x.
    """

    axis: int
    index: int | None = None
    scan: int | None = None
    is_routed: bool = False


class Part(NamedTuple):
    """A stretch of one axis of an array.

    Attributes:
        axis: The axis.
        start: Where the stretch begins.
        stop: Where it ends.
    """

    axis: int
    start: int
    stop: int


class Origin(NamedTuple):
    """Where a value comes from: one leaf, and which axes and entries of it.

    Attributes:
        leaf: Index of the leaf among the program's values.
        axes: For each axis of the value, the axes of the leaf that it comes from.
        picks: The slices of a stacked leaf that were taken.
        parts: The stretches of axes of the leaf that were cut out.
        joined: If values of several leaves were concatenated: the axis of the value,
            and where this leaf's share of it begins and ends. Otherwise None.
        position: If f itself stacked several leaves for a scan: the scan, and the
            position of this leaf among those that were stacked. Otherwise None.
    """

    leaf: int
    axes: Axes
    picks: tuple[Pick, ...] = ()
    parts: tuple[Part, ...] = ()
    joined: Part | None = None
    position: tuple[int, int] | None = None

    @property
    def num_traced(self) -> int:
        """The number of axes of the value that come from known axes of the leaf."""
        return sum(bool(axes) for axes in self.axes)


Origins = tuple[Origin, ...]

# Least number of axes of a weight. A slice with fewer is a row of a table.
_AXES_OF_MATRIX = 2

# Operations that only move the entries of a matrix.
_MOVING = frozenset(
    ("squeeze", "reshape", "transpose", "broadcast_in_dim", "convert_element_type"),
)


class _Step(NamedTuple):
    """One operation on the way from a leaf to a weight.

    Attributes:
        program: The program.
        value: The result of the operation.
        input_shape: The shape of the input through which it is traced.
    """

    program: Program
    value: Value
    input_shape: Indices

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of its equation."""
        return self.value.params


def origins(program: Program) -> dict[int, Origins]:
    """Trace every value that depends on parameters and not on x.

    Returns:
        For each such value by index, its origins: one, or several if leaves were
        concatenated. Values that cannot be traced to a leaf are missing.
    """
    of_params = program.reached(program.params)
    of_x = program.of_x
    origins_of: dict[int, Origins] = {}
    for leaf in program.params:
        num_axes = len(program.values[leaf].shape)
        axes = tuple((axis,) for axis in range(num_axes))
        origins_of[leaf] = (Origin(leaf, axes),)
    for index, value in enumerate(program.values):
        if index not in of_params or not value.inputs:
            continue
        is_weight = index not in of_x
        if is_weight or _is_matrix_of_stack(program, index, origins_of):
            origins_of[index] = follow(program, index, origins_of)
    return {index: found for index, found in origins_of.items() if found}


def _is_matrix_of_stack(
    program: Program,
    index: int,
    origins_of: dict[int, Origins],
) -> bool:
    """Tell whether a value is a matrix that the signal selects from a stack of them.

    An example is an expert of a mixture. It is a weight, although its index depends on
    x. A row that is selected from a table is an embedding instead.
    """
    value = program.values[index]
    # What is sliced or moved is the first input; further ones are indices.
    source = value.inputs[0]
    if source not in origins_of or not program.values[source].is_floating:
        return False
    if value.operation in ("gather", "dynamic_slice"):
        num_axes = sum(size > 1 for size in value.params["slice_sizes"])
        return num_axes >= _AXES_OF_MATRIX
    return value.operation in _MOVING and _is_routed(origins_of[source])


def _is_routed(origins_of_value: Origins) -> bool:
    """Tell whether a value was selected from a stack by the signal."""
    return any(pick.is_routed for origin in origins_of_value for pick in origin.picks)


def follow(
    program: Program,
    index: int,
    origins_of: dict[int, Origins],
) -> Origins:
    """Trace one value whose inputs are traced already.

    Args:
        program: The program.
        index: Index of the value.
        origins_of: The origins of values, by index.

    Returns:
        Its origins; empty if it comes from none of the values in `origins_of`.
    """
    value = program.values[index]
    if value.operation in ("concatenate", "stack"):
        return _concatenated(program, value, origins_of)
    if value.operation == "scan_stack":
        # What a scan returns in each iteration has one more axis after it.
        (returned,) = value.inputs
        return tuple(
            _unpicked(origin, value.scans) for origin in origins_of.get(returned, ())
        )
    traced_input = _traced_input(program, value, origins_of)
    if traced_input is None:
        return ()
    rule = _FOLLOWED.get(value.operation, _elementwise)
    step = _Step(program, value, program.values[traced_input].shape)
    followed = [rule(step, origin) for origin in origins_of[traced_input]]
    return tuple(origin for origin in followed if origin is not None)


def _traced_input(
    program: Program,
    value: Value,
    origins_of: dict[int, Origins],
) -> int | None:
    """Return the input through which a value is traced to a leaf.

    This is the input with the most axes that come from known axes of a leaf. So the
    weight w / |w| is traced through w and not through its norm, and mask * w through w.
    None if no input comes from a leaf.
    """
    # Ties go to a floating input, then to the larger leaf, then to the first input.
    best, best_rank = None, (-1, -1)
    for read in value.inputs:
        origins_of_input = origins_of.get(read)
        if not origins_of_input:
            continue
        num_traced = max(origin.num_traced for origin in origins_of_input)
        size = math.prod(program.values[origins_of_input[0].leaf].shape)
        # A weight comes before a mask of whole numbers or booleans of the same shape.
        is_floating = program.values[read].is_floating
        rank = (2 * num_traced + is_floating, size)
        if rank > best_rank:
            best, best_rank = read, rank
    return best


def _unpicked(origin: Origin, scans: Indices) -> Origin:
    """Return the origin of what a scan stacks, from that of one iteration's value.

    If each iteration took a slice of the leaf, the stack has the axis of the slices
    again.

    Args:
        origin: The origin of the value in one iteration.
        scans: The scans around the stack.
    """
    inner = [pick for pick in origin.picks if pick.scan not in (None, *scans)]
    undone = inner[-1:]
    leading = tuple(pick.axis for pick in undone)
    picks = tuple(pick for pick in origin.picks if pick not in undone)
    return origin._replace(axes=(leading, *origin.axes), picks=picks)


def _concatenated(
    program: Program,
    value: Value,
    origins_of: dict[int, Origins],
) -> Origins:
    """Trace a value that f concatenated or stacked from several leaves."""
    is_stack = value.operation == "stack"
    axis = value.params["axis" if is_stack else "dimension"]
    shares: list[Origin] = []
    start = 0
    for read in value.inputs:
        stop = start + 1 if is_stack else start + program.values[read].shape[axis]
        share = Part(axis, start, stop)
        for origin in origins_of.get(read, ()):
            axes = list(origin.axes)
            if is_stack:
                axes.insert(axis, ())
            shares.append(origin._replace(axes=tuple(axes), joined=share))
        start = stop
    # A single leaf has no others to be told apart from.
    if len(shares) == 1:
        return (shares[0]._replace(joined=None),)
    return tuple(shares)


def _elementwise(step: _Step, origin: Origin) -> Origin | None:
    """Keep all axes if the shape stays the same; otherwise keep the leaf alone."""
    # Operations without a rule of their own are taken to act entry by entry.
    if tuple(step.input_shape) == step.value.shape:
        return origin
    return origin._replace(axes=((),) * len(step.value.shape), joined=None)


def _transpose(step: _Step, origin: Origin) -> Origin:
    """Reorder the axes."""
    permutation = step.params["permutation"]
    axes = tuple(origin.axes[axis] for axis in permutation)
    joined = origin.joined
    if joined is not None:
        joined = joined._replace(axis=list(permutation).index(joined.axis))
    return origin._replace(axes=axes, joined=joined)


def _reshape(step: _Step, origin: Origin) -> Origin:
    """Group the axes before and after; each new axis comes from all of its group."""
    axes: list[Indices] = [()] * len(step.value.shape)
    for old, new in matched(step.input_shape, step.value.shape):
        sources = sorted({leaf_axis for axis in old for leaf_axis in origin.axes[axis]})
        for axis in new:
            axes[axis] = tuple(sources)
    # After a reshape, the share of a leaf need not be a stretch of one axis.
    return origin._replace(axes=tuple(axes), joined=None)


def matched(
    old: Sequence[int],
    new: Sequence[int],
) -> list[tuple[list[int], list[int]]]:
    """Group the axes of two shapes, as many entries on both sides of each group.

    Axes of size 1 belong to no group.

    Args:
        old: A shape.
        new: A shape with the same number of entries.

    Returns:
        For each group its axes of `old` and its axes of `new`.

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
    """Move the axes to their places; new axes come from none of the leaf."""
    axes: list[Indices] = [()] * len(step.value.shape)
    targets = list(step.params["broadcast_dimensions"])
    for source, target in zip(origin.axes, targets, strict=True):
        axes[target] = source
    joined = origin.joined
    if joined is not None:
        joined = joined._replace(axis=targets[joined.axis])
    return origin._replace(axes=tuple(axes), joined=joined)


def _squeeze(step: _Step, origin: Origin) -> Origin:
    """Drop axes of size 1."""
    dropped = {int(axis) % len(step.input_shape) for axis in step.params["dimensions"]}
    # An axis of size 1 that is dropped is a stack of one, of which the slice is taken.
    leaf_axes = [origin.axes[axis] for axis in sorted(dropped)]
    picks = tuple(Pick(axes[0], index=0) for axes in leaf_axes if len(axes) == 1)
    return _without(origin._replace(picks=(*origin.picks, *picks)), dropped)


def _reduce(step: _Step, origin: Origin) -> Origin:
    """Drop the axes that are summed over, or whose largest entry is taken."""
    return _without(origin, set(step.params["axes"]))


def _without(origin: Origin, dropped: set[int]) -> Origin:
    """Return the origin of the value without some of its axes."""
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
    """Return the origin of x[a:b], or of x[a:b:s], with fixed numbers.

    None if it holds no entry of this leaf, as of the others that were concatenated.
    """
    starts = step.params["start_indices"]
    strides = step.params["strides"] or (1,) * len(starts)
    for axis, size in enumerate(step.input_shape):
        new_size = step.value.shape[axis]
        if size == new_size:
            continue
        # Every second row is no stretch of a leaf, so only the leaf itself is known.
        if strides[axis] != 1:
            origin = _without_axis(origin, axis)
            continue
        start = int(starts[axis])
        stop = int(step.params["limit_indices"][axis])
        cut = _cut(step.program, origin, Part(axis, start, stop), size=size)
        if cut is None:
            return None
        origin = cut
    return origin


def _without_axis(origin: Origin, axis: int) -> Origin:
    """Return the origin with an axis of the value that comes from none of the leaf."""
    axes = list(origin.axes)
    axes[axis] = ()
    return origin._replace(axes=tuple(axes), joined=None)


def _split(step: _Step, origin: Origin) -> Origin | None:
    """Follow one of the parts into which an axis is split."""
    assert step.value.eqn is not None
    axis = step.params["axis"]
    # Variables are unique to their jaxpr, so they are compared by identity.
    results = [var is step.value.var for var in step.value.eqn.outvars]
    number = results.index(True)
    sizes = [int(size) for size in step.params["sizes"]]
    start = sum(sizes[:number])
    cut = Part(axis, start, start + sizes[number])
    return _cut(step.program, origin, cut, size=step.input_shape[axis])


def _cut(
    program: Program,
    origin: Origin,
    cut: Part,
    *,
    size: int,
) -> Origin | None:
    """Cut a stretch out of one axis of the value; None if none of the leaf is left."""
    joined = origin.joined
    if joined is not None and joined.axis == cut.axis:
        start = max(cut.start, joined.start)
        stop = min(cut.stop, joined.stop)
        if start >= stop:
            return None
        # The whole share of one leaf is that leaf again.
        is_whole = (start, stop) == (cut.start, cut.stop)
        share = Part(cut.axis, start - cut.start, stop - cut.start)
        return origin._replace(joined=None if is_whole else share)
    source = origin.axes[cut.axis]
    if len(source) != 1:
        return origin
    (axis,) = source
    # What is cut out of a stretch is counted from the start of the stretch.
    stretches = {part.axis: part for part in origin.parts}
    whole = Part(axis, 0, program.values[origin.leaf].shape[axis])
    _, offset, end = stretches.pop(axis, whole)
    if end - offset != size:
        return origin
    if cut.stop - cut.start == 1 and size > 1:
        axes = list(origin.axes)
        axes[cut.axis] = ()
        picks = (*origin.picks, Pick(axis, index=cut.start))
        return origin._replace(axes=tuple(axes), picks=picks)
    stretch = Part(axis, offset + cut.start, offset + cut.stop)
    return origin._replace(parts=(*stretches.values(), stretch))


def _each(step: _Step, origin: Origin) -> Origin | None:
    """Follow the slice of an array that each iteration of a scan takes."""
    return _picked(origin, axis=0, scan=step.value.scans[-1])


def _innermost(
    program: Program,
    value: Value,
    index: int,
) -> int | None:
    """Return the scan whose counter is the index of a slice; None if x decides it."""
    is_counted = value.scans and index not in program.of_x
    return value.scans[-1] if is_counted else None


def _picked(
    origin: Origin,
    axis: int,
    *,
    scan: int | None,
) -> Origin | None:
    """Take one slice along an axis of the value, and drop the axis.

    Each iteration of `scan` takes one slice. If that is None, the signal selects it.
    """
    joined = origin.joined
    position = origin.position
    picks = origin.picks
    source = origin.axes[axis]
    if joined is not None and joined.axis == axis and scan is not None:
        if joined.stop - joined.start == 1:
            position = (scan, joined.start)
    elif len(source) == 1:
        picks = (*picks, Pick(source[0], scan=scan, is_routed=scan is None))
    return _without(origin._replace(picks=picks, position=position), {axis})


def _dynamic_slice(step: _Step, origin: Origin) -> Origin | None:
    """Follow a slice whose start is computed: a number, or the counter of a loop."""
    starts = step.value.inputs[1:]
    for axis, size in enumerate(step.input_shape):
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
    """Follow slices taken at indices: fixed, of a loop, or selected by the signal."""
    numbers = step.params["dimension_numbers"]
    sizes = step.params["slice_sizes"]
    # Collapsed axes are indexed away; all others are axes of the result.
    dropped = set(numbers.collapsed_slice_dims) | set(numbers.operand_batching_dims)
    kept = [axis for axis in range(len(step.input_shape)) if axis not in dropped]
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
            # Many slices at fixed indices: the axis remains.
            for target in new:
                axes[target] = source
        elif sizes[axis] == 1 and len(source) == 1:
            number = _number(step.program, indices)
            scan = _innermost(step.program, step.value, indices)
            pick = Pick(source[0], index=number, scan=scan, is_routed=is_routed)
            picks = (*picks, pick)
    return origin._replace(axes=tuple(axes), picks=picks, joined=None)


def _number(program: Program, index: int) -> int | None:
    """Return a value as a number if it is a constant of the program, or None."""
    value = program.values[index]
    while value.operation != "constant":
        # JAX wraps the index of a slice: select(i < 0, i + n, i).
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


# For operations that pass a number on, the position of the number among the inputs.
_PASSING = {
    "convert_element_type": 0,
    "broadcast_in_dim": 0,
    "reshape": 0,
    "squeeze": 0,
    "select_n": 1,
}


def _product(step: _Step, origin: Origin) -> Origin:
    """Follow the traced factor of a product of parameters by its free axes.

    Such products are low-rank factors, orthogonal maps and spectral norms.
    """
    contracted, batch = step.params["dimension_numbers"]
    # The traced input is told by its shape; of two equal shapes it is the first.
    is_left = step.program.values[step.value.inputs[0]].shape == tuple(step.input_shape)
    side = 0 if is_left else 1
    num_batch = len(batch[0])
    bound = set(contracted[side]) | set(batch[side])
    free = [axis for axis in range(len(step.input_shape)) if axis not in bound]
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

# How operations move the axes of their traced input. `_elementwise` serves all others.
_FOLLOWED: dict[str, _Follow] = {
    "transpose": _transpose,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "slice": _slice,
    "split": _split,
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
