"""Meetings: the equations that combine a weight with the signal.

The signal is every value that depends on x; a weight depends on parameters alone.
Meetings are products, convolutions and look-ups. The axes of a meeting are axes of the
weight as the equation reads it; `_layers` maps them back to the leaf of the parameters.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from isometry.structure._origins import Origin, Origins
from isometry.structure._reading import Indices, Program, Value, is_opaque

# Operations that combine a weight with the signal, but not axis by axis, so that no
# axis of the weight is an input or an output.
_MIXING = frozenset(("triangular_solve", "tridiagonal_solve"))


# The weight of a ragged product has three axes: group, input, output.
_AXES_OF_RAGGED = 3


class Meeting(NamedTuple):
    """One equation that combines a weight with the signal.

    Attributes:
        value: Index of the value that the equation returns.
        weight: Index of the operand that is the weight.
        origin: The leaf of the parameters that the weight comes from.
        kind: "dense", "conv", "embedding" or "other".
        in_axes: Axes of the weight that are summed over, or looked up.
        out_axes: Axes of the weight that are axes of the result.
        batch_axes: Axes that weight, signal and result share.
        window_axes: Spatial axes of a convolution's kernel.
        groups: Groups of channels of a convolution.
        spread: Of a transposed convolution, its stride along each axis of the image;
            else empty.
        doubtful_axes: Those of `out_axes` along which it may have copies of a layer.
    """

    value: int
    weight: int
    origin: Origin
    kind: str
    in_axes: Indices = ()
    out_axes: Indices = ()
    batch_axes: Indices = ()
    window_axes: Indices = ()
    groups: int = 1
    spread: Indices = ()
    doubtful_axes: Indices = ()


class _Axes(NamedTuple):
    """How an equation reads the axes of a weight; `Meeting` has the same fields."""

    kind: str
    in_axes: Indices = ()
    out_axes: Indices = ()
    batch_axes: Indices = ()
    window_axes: Indices = ()
    groups: int = 1
    spread: Indices = ()


def meetings(
    program: Program,
    origins: dict[int, Origins],
) -> list[Meeting]:
    """Find every equation that combines a weight with the signal, in program order."""
    met = []
    for index, value in enumerate(program.values):
        # Values that are computed from parameters alone are still weights.
        if index in origins or index not in program.of_x:
            continue
        if _is_first_result(value):
            met += _meetings(program, origins, index)
    return met


def _meetings(
    program: Program,
    origins: dict[int, Origins],
    index: int,
) -> list[Meeting]:
    """Return the meetings of one equation: one for each leaf of each of its weights.

    A weight that is concatenated from several leaves has several origins.
    """
    value = program.values[index]
    inputs = [program.values[read] for read in value.inputs]
    summed = _summed_axes(program, index)
    # A table is looked up if its indices depend on x.
    is_looked_up = any(read in program.of_x for read in value.inputs[1:])
    met = []
    for position, weight in enumerate(value.inputs):
        if weight not in origins or not program.values[weight].is_floating:
            continue
        axes = _axes(value, inputs, position, is_looked_up=is_looked_up, summed=summed)
        if axes is None:
            continue
        # A matrix product written as (w * x).sum() returns its sum.
        result = program.readers[index][0] if value.operation == "mul" else index
        met += [
            Meeting(result, weight, origin, **axes._asdict())
            for origin in origins[weight]
        ]
    return met


def _is_first_result(value: Value) -> bool:
    """Tell whether a value is the first that its equation returns."""
    # An equation with several results is one meeting. States and slices in the body of
    # a scan refer to its equation too, but are not results of it.
    return value.eqn is not None and value.var is value.eqn.outvars[0]


def _summed_axes(program: Program, index: int) -> Indices:
    """Return the axes over which its only reader sums a value; () for other readers."""
    readers = program.readers[index]
    if len(readers) != 1:
        return ()
    reader = program.values[readers[0]]
    if reader.operation != "reduce_sum":
        return ()
    return tuple(reader.params["axes"])


def _axes(
    value: Value,
    inputs: Sequence[Value],
    position: int,
    *,
    is_looked_up: bool,
    summed: Indices,
) -> _Axes | None:
    """Return how an equation reads a weight; None if it only scales or shifts by it.

    Args:
        value: The result of the equation.
        inputs: Its operands.
        position: Which of them is the weight.
        is_looked_up: Whether an operand after the first depends on x, as an index does.
        summed: The axes over which the result is summed afterwards.
    """
    weight = inputs[position]
    name = value.operation
    if name == "dot_general":
        return _dense(value, position, weight)
    if name.startswith("ragged_dot"):
        # One matrix for each group of rows: the experts of a mixture.
        if position == 1 and len(weight.shape) == _AXES_OF_RAGGED:
            return _Axes("dense", (1,), (2,), batch_axes=(0,))
        return None
    if name == "conv_general_dilated":
        # Here the kernel depends on x, and the parameters are what it is applied to.
        if position == 0:
            return None
        return _convolution(value)
    if name in ("gather", "dynamic_slice"):
        is_table = position == 0 and is_looked_up
        return _embedding(value, weight) if is_table else None
    if name == "mul":
        return _multiplied_and_summed(weight, inputs[1 - position], summed)
    # Vectors that enter a loop are biases and scales more often than weights.
    is_matrix = len(weight.shape) >= 2
    if is_matrix and (name in _MIXING or is_opaque(value)):
        return _Axes("other")
    return None


def _dense(
    value: Value,
    position: int,
    weight: Value,
) -> _Axes | None:
    """Return how a matrix product reads a weight; None if it only scales by it."""
    contracted, batch = value.params["dimension_numbers"]
    in_axes = tuple(contracted[position])
    batch_axes = tuple(batch[position])
    bound = {*in_axes, *batch_axes}
    free = tuple(axis for axis in range(len(weight.shape)) if axis not in bound)
    # Such as a scale: einsum("...d,d->...d").
    if not in_axes and not free:
        return None
    return _Axes("dense", in_axes, free, batch_axes=batch_axes)


def _convolution(value: Value) -> _Axes:
    """Return how a convolution reads its kernel."""
    # JAX names the axes of a kernel in the order of its own layout.
    out_axis, in_axis, *window = value.params["dimension_numbers"].rhs_spec
    spread = tuple(value.params["lhs_dilation"])
    is_transposed = any(step != 1 for step in spread)
    return _Axes(
        "conv",
        (in_axis,),
        (out_axis,),
        window_axes=tuple(sorted(window)),
        groups=value.params["feature_group_count"],
        spread=spread if is_transposed else (),
    )


def _embedding(value: Value, weight: Value) -> _Axes:
    """Return how a look-up reads its table; `in_axes` are those of the index."""
    all_axes = range(len(weight.shape))
    sizes = value.params["slice_sizes"]
    # Under vmap JAX writes an index for every axis. It selects along those of which the
    # slice has fewer entries than the table.
    looked_up = tuple(axis for axis in all_axes if sizes[axis] != weight.shape[axis])
    others = tuple(axis for axis in all_axes if axis not in looked_up)
    return _Axes("embedding", looked_up, others)


def _multiplied_and_summed(
    weight: Value,
    other: Value,
    summed: Indices,
) -> _Axes | None:
    """Return how (w * x).sum(summed), a matrix product in effect, reads w.

    Args:
        weight: The factor w, broadcast to the shape of the product.
        other: The factor x, likewise.
        summed: The axes of the product over which it is summed.

    Returns:
        The axes; None if no axis of w is summed over, so that w only scales x.
    """
    weight_axes = _not_broadcast(weight)
    in_axes = tuple(axis for axis in weight_axes if axis in summed)
    if not in_axes:
        return None
    # An axis of both factors is shared; the signal was broadcast along the others.
    result_axes = [axis for axis in weight_axes if axis not in summed]
    signal_axes = _not_broadcast(other)
    out_axes = tuple(axis for axis in result_axes if axis not in signal_axes)
    batch_axes = tuple(axis for axis in result_axes if axis in signal_axes)
    return _Axes("dense", in_axes, out_axes, batch_axes=batch_axes)


def _not_broadcast(value: Value) -> list[int]:
    """Return the axes along which a value may vary: longer than 1 and not broadcast."""
    axes = range(len(value.shape))
    if value.operation != "broadcast_in_dim":
        return [axis for axis in axes if value.shape[axis] > 1]
    dimensions = value.params["broadcast_dimensions"]
    source = value.source_shape
    varying = [
        target for target, size in zip(dimensions, source, strict=True) if size > 1
    ]
    return [axis for axis in axes if axis in varying]


def size_of(
    program: Program,
    meeting: Meeting,
    axes: Sequence[int],
) -> int:
    """Return the product of the sizes of some axes of the weight of a meeting.

    If the weight is concatenated from several leaves, only the share of the meeting's
    own leaf counts.
    """
    shape = list(program.values[meeting.weight].shape)
    share = meeting.origin.joined
    if share is not None:
        shape[share.axis] = share.stop - share.start
    return math.prod(shape[axis] for axis in axes)
