"""Origins: the leaves of the parameters that weights come from, axis by axis.

A weight may be masked, standardized, cast, transposed, reshaped, sliced or stacked
before it is applied to the signal. It still comes from one leaf of the parameters, and
each of its axes from axes of that leaf.

A pick is one slice that is taken from a leaf, such as one layer of a stack. A stretch
is a range of consecutive entries along one axis, such as the queries in a fused weight.
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
    """A stretch: the entries start, ..., stop - 1 along one axis of an array."""

    axis: int
    start: int
    stop: int


class Origin(NamedTuple):
    """Where a value comes from: one leaf, and which axes and entries of it.

    Attributes:
        leaf: Index of the leaf among the program's values.
        axes: For each axis of the value, the axes of the leaf that it comes from.
        picks: The slices of a stacked leaf that were taken.
        parts: The stretches of the leaf to which the value is limited; along other axes
            it has all of the leaf.
        joined: If the value is concatenated from several leaves: the stretch of it that
            comes from this leaf. Otherwise None.
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
        From the index of such a value to its origins: one, or several if leaves were
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
    """Return the origins of a value, from those of its inputs.

    Args:
        program: The program.
        index: Index of the value.
        origins_of: The origins of values that come before it, by index.

    Returns:
        The origins; () if the value comes from none of the values in `origins_of`.
    """
    value = program.values[index]
    if value.operation in ("concatenate", "stack"):
        return _concatenated(program, value, origins_of)
    if value.operation == "scan_stack":
        # What a scan returns in each iteration has one more axis after it.
        (returned,) = value.inputs
        return tuple(
            _stacked(origin, value.scans) for origin in origins_of.get(returned, ())
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
    """Return the index of the input through which a value is traced to a leaf.

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


def _stacked(origin: Origin, scans: Indices) -> Origin:
    """Return the origin of what a scan stacks, from that of the value it stacks.

    If the value comes from the slice of a leaf that the iteration takes, the first axis
    of the stack comes from the axis along which the leaf is sliced.

    Args:
        origin: The origin of the value in one iteration.
        scans: The scans around the result; the one that stacks it is inside them.
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
    """Return the origins of what f concatenated or stacked, one for each leaf."""
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


# The functions below are the rules of operations: each returns the origin of the value
# of a step, from the origin of the input through which it is traced. None says that the
# value holds no entry of the leaf.


def _elementwise(step: _Step, origin: Origin) -> Origin | None:
    """Return the same origin for the same shape; otherwise the leaf without axes."""
    # Operations without a rule of their own are taken to act entry by entry.
    if tuple(step.input_shape) == step.value.shape:
        return origin
    return origin._replace(axes=((),) * len(step.value.shape), joined=None)


def _transpose(step: _Step, origin: Origin) -> Origin:
    """Return the origin with its axes in another order."""
    permutation = step.params["permutation"]
    axes = tuple(origin.axes[axis] for axis in permutation)
    joined = origin.joined
    if joined is not None:
        joined = joined._replace(axis=list(permutation).index(joined.axis))
    return origin._replace(axes=axes, joined=joined)


def _reshape(step: _Step, origin: Origin) -> Origin:
    """Return the origin of a reshape, which splits axes, or merges neighbouring ones.

    A new axis comes from the axes of the leaf from which any axis that it is split or
    merged from comes.
    """
    axes: list[Indices] = [()] * len(step.value.shape)
    for old, new in matched(step.input_shape, step.value.shape):
        sources: set[int] = set()
        for axis in old:
            sources.update(origin.axes[axis])
        for axis in new:
            axes[axis] = tuple(sorted(sources))
    # What comes from one leaf need not be a stretch of an axis after a reshape.
    return origin._replace(axes=tuple(axes), joined=None)


def matched(
    old: Sequence[int],
    new: Sequence[int],
) -> list[tuple[list[int], list[int]]]:
    """Tell which axes of a shape become which axes when it is reshaped.

    Args:
        old: A shape.
        new: A shape with the same number of entries.

    Returns:
        Pairs of neighbouring axes of `old` and neighbouring axes of `new` with as many
        entries, as few axes as possible. Axes of size 1 are in none.

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
    """Return the origin of a broadcast, whose new axes come from none of the leaf."""
    axes: list[Indices] = [()] * len(step.value.shape)
    targets = list(step.params["broadcast_dimensions"])
    for source, target in zip(origin.axes, targets, strict=True):
        axes[target] = source
    joined = origin.joined
    if joined is not None:
        joined = joined._replace(axis=targets[joined.axis])
    return origin._replace(axes=tuple(axes), joined=joined)


def _squeeze(step: _Step, origin: Origin) -> Origin:
    """Return the origin without some axes of size 1."""
    dropped = {int(axis) % len(step.input_shape) for axis in step.params["dimensions"]}
    return _without_ones(origin, dropped)


def _without_ones(origin: Origin, dropped: set[int]) -> Origin:
    """Return the origin of a value after axes of size 1 are dropped."""
    # An axis of size 1 that is dropped is a stack of one, of which the slice is taken.
    leaf_axes = [origin.axes[axis] for axis in sorted(dropped)]
    picks = tuple(Pick(axes[0], index=0) for axes in leaf_axes if len(axes) == 1)
    return _without(origin._replace(picks=(*origin.picks, *picks)), dropped)


def _reduce(step: _Step, origin: Origin) -> Origin:
    """Return the origin of a sum, maximum or product, without the axes it is over."""
    return _without(origin, set(step.params["axes"]))


def _without(origin: Origin, dropped: set[int]) -> Origin:
    """Return the origin of a value without some axes, which are given by number."""
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
    """Return the origin of one of the pieces into which an axis is split."""
    assert step.value.eqn is not None
    axis = step.params["axis"]
    # Variables are unique to their jaxpr, so they are compared by identity.
    results = [var is step.value.var for var in step.value.eqn.outvars]
    number = results.index(True)
    sizes = [int(size) for size in step.params["sizes"]]
    start = sum(sizes[:number])
    cut = Part(axis, start, start + sizes[number])
    return _cut(step.program, origin, cut, size=step.input_shape[axis])


def _unstack(step: _Step, origin: Origin) -> Origin | None:
    """Return the origin of one of the slices along an axis, as JAX 0.12 iterates."""
    assert step.value.eqn is not None
    axis = step.params["axis"]
    results = [var is step.value.var for var in step.value.eqn.outvars]
    number = results.index(True)
    cut = _cut(
        step.program,
        origin,
        Part(axis, number, number + 1),
        size=step.input_shape[axis],
    )
    if cut is None:
        return None
    return _without_ones(cut, {axis})


def _cut(
    program: Program,
    origin: Origin,
    cut: Part,
    *,
    size: int,
) -> Origin | None:
    """Return the origin of a stretch of a value.

    Args:
        program: The program.
        origin: The origin of the value.
        cut: The stretch.
        size: The size of that axis of the value.

    Returns:
        The origin, or None if the stretch holds no entry of this leaf.
    """
    joined = origin.joined
    if joined is not None and joined.axis == cut.axis:
        start = max(cut.start, joined.start)
        stop = min(cut.stop, joined.stop)
        if start >= stop:
            return None
        # What of this leaf lies in the stretch, counted from where the leaf begins.
        of_leaf = Part(cut.axis, start - joined.start, stop - joined.start)
        alone = origin._replace(joined=None)
        taken = _cut(program, alone, of_leaf, size=joined.stop - joined.start)
        # The stretch may hold entries of other leaves too.
        is_alone = (start, stop) == (cut.start, cut.stop)
        if taken is None or is_alone:
            return taken
        share = Part(cut.axis, start - cut.start, stop - cut.start)
        return taken._replace(joined=share)
    if cut.stop - cut.start == size:
        return origin
    source = origin.axes[cut.axis]
    if len(source) != 1:
        return origin
    (axis,) = source
    # The value may be a stretch of the leaf itself. `cut` counts from its start.
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


def _each(step: _Step, origin: Origin) -> Origin:
    """Return the origin of the slice of an array that an iteration of a scan takes."""
    return _picked(origin, axis=0, scan=step.value.scans[-1])


def _innermost(
    program: Program,
    value: Value,
    index: int,
) -> int | None:
    """Return the innermost scan around a value, whose counter may index a slice.

    Args:
        program: The program.
        value: The slice.
        index: Index of the value that is the index of the slice.

    Returns:
        The scan; None if there is none, or if the index of the slice depends on x.
    """
    is_counted = value.scans and index not in program.of_x
    return value.scans[-1] if is_counted else None


def _picked(
    origin: Origin,
    axis: int,
    *,
    scan: int | None,
) -> Origin:
    """Return the origin of one slice along an axis of the value, without that axis.

    Args:
        origin: The origin of the value.
        axis: The axis.
        scan: The scan of which each iteration takes one slice; None if the slice is
            chosen by a value that depends on x.
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
    """Return the origin of a slice at a computed start, such as a loop's counter."""
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
            # Unlike the slice of a scan, this one keeps the axis, with size 1.
            axes = list(cut.axes)
            axes.insert(axis, ())
            cut = cut._replace(axes=tuple(axes))
        if cut is None:
            return None
        origin = cut
    return origin


def _gather(step: _Step, origin: Origin) -> Origin | None:
    """Return the origin of slices at indices: fixed, of a loop, or dependent on x."""
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
    """Return the whole number that a value is, or None if the program fixes none."""
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
    """Return the origin of a product of parameters, as in a low-rank weight U V.

    Its axes come from the axes of the traced factor that are not summed over.
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
    "unstack": _unstack,
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
