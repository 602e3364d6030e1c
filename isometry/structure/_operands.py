"""Operands: the arrays that weight layers multiply the signal with, as they do it."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int

from isometry.structure._anatomy import Anatomy
from isometry.structure._layers import Use
from isometry.structure._meetings import Meeting
from isometry.structure._origins import Part
from isometry.structure._place import Place
from isometry.structure._reading import Indices, Program
from isometry.structure._records import WeightLayer

# Operations that put copies or parts of one array side by side, or among zeros; and
# those that only add or remove axes of size 1, or change the order of axes.
_PADDING = frozenset(("concatenate", "slice", "pad"))
_REORDERING = frozenset(
    ("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "transpose")
)


class Convolution(NamedTuple):
    """How a convolution goes over an image.

    Attributes:
        size: The pixels of the image along each axis, before it is padded.
        strides: The stride along each axis.
        dilation: The pixels from one tap of the window to the next, along each axis.
        padding: "circular"; or the zeros before and behind each axis.
        note: What the other fields do not say ("of the image as it was padded"), or "".
    """

    size: Indices
    strides: Indices
    dilation: Indices
    padding: str | tuple[tuple[int, int], ...]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Operand:
    """The operand that is the weight, at one use of a layer.

    Attributes:
        layer: The layer.
        place: Where the operand arises: one value in each iteration of a scan.
        takes_slices: For each scan around it, whether each iteration uses a slice of
            its own. If not, the operand is the same in all of them.
        entries: For each scan around it, which entry of the values stacked by the scan
            is meant; None for all.
        index: Which slice of the layer it is; None for all of them, in order.
        share: If values of several leaves are joined in it: the axis, and where the
            share of this layer begins and ends. Otherwise None.
        in_axes: Axes of the operand that are summed over, or looked up.
        out_axes: Axes of the result.
        batch_axes: Axes that weight, signal and result share.
        window_axes: Spatial axes of a convolution, in the order of those of the image.
        groups: Groups of channels of a convolution.
        convolution: How it goes over the image; None of a dense layer, and of a
            convolution that is more than that.
    """

    layer: WeightLayer
    place: Place
    takes_slices: tuple[bool, ...]
    entries: tuple[int | None, ...]
    index: int | None
    share: Part | None
    in_axes: Indices
    out_axes: Indices
    batch_axes: Indices
    window_axes: Indices
    groups: int
    convolution: Convolution | None

    def slices(self, reading: Array) -> Array:
        """Return the slices of the layer, from what is read at the place.

        Args:
            reading: The operand in all iterations of the scans around it.

        Returns:
            An array (slices, ...): one slice, or all, with those of the innermost scan
            fastest.
        """
        stacked = reading
        # From the innermost scan outwards, so that the axes before stay where they are.
        for axis in range(len(self.takes_slices) - 1, -1, -1):
            entry = self.entries[axis]
            # All entries are the same one.
            if entry is None and not self.takes_slices[axis]:
                entry = 0
            if entry is not None:
                stacked = stacked.take(entry, axis)
        num_axes = reading.ndim - len(self.takes_slices)
        shape = stacked.shape[stacked.ndim - num_axes :]
        slices = stacked.reshape(-1, *shape)
        if self.share is None:
            return slices
        axis, start, stop = self.share
        return slices.take(np.arange(start, stop), axis + 1)


def operands(anatomy: Anatomy) -> list[Operand]:
    """Return the operands of all layers, at the first use of each slice."""
    program = anatomy._flow.program
    in_order = []
    for layer, row in zip(anatomy.layers, anatomy._rows, strict=True):
        # A second use of a slice has the same weight.
        first_uses = {use.index: use for use in reversed(row.uses) if use.number == 0}
        in_order += [
            _operand(program, layer, use)
            for use in sorted(first_uses.values(), key=lambda use: use.index or 0)
        ]
    return in_order


def _operand(program: Program, layer: WeightLayer, use: Use) -> Operand:
    """Return the operand of one use of a layer."""
    meeting = use.meeting
    weight = program.values[meeting.weight]
    around = program.values[meeting.value].scans
    styles = dict(zip(around, use.styles, strict=True))
    entry_of: dict[int, int] = {}
    if use.single_iteration is not None:
        position, iteration = use.single_iteration
        scan = around[position]
        # A scan stacks what its iterations return in the order of the slices.
        entry_of[scan] = program.scans[scan].index_of(iteration)
    assert weight.var is not None, "a weight is computed from leaves"
    return Operand(
        layer=layer,
        place=Place(weight.path, weight.var, ()),
        takes_slices=tuple(styles.get(scan, False) for scan in weight.scans),
        entries=tuple(entry_of.get(scan) for scan in weight.scans),
        index=use.index,
        share=meeting.origin.joined,
        in_axes=meeting.in_axes,
        out_axes=meeting.out_axes,
        batch_axes=meeting.batch_axes,
        window_axes=_window_axes(program, meeting),
        groups=meeting.groups,
        convolution=_convolution(program, meeting.value),
    )


def _window_axes(program: Program, meeting: Meeting) -> Indices:
    """Return the spatial axes of a kernel, in the order of those of the image."""
    if not meeting.window_axes:
        return ()
    numbers = program.values[meeting.value].params["dimension_numbers"]
    return tuple(numbers.rhs_spec[2:])


def _convolution(program: Program, index: int) -> Convolution | None:
    """Return how a convolution goes over its image, if that can be said."""
    value = program.values[index]
    if value.operation != "conv_general_dilated":
        return None
    params = value.params
    is_transposed = any(step != 1 for step in params["lhs_dilation"])
    zeros = tuple((int(before), int(after)) for before, after in params["padding"])
    # A negative number of zeros cuts pixels off.
    is_cut = any(min(pair) < 0 for pair in zeros)
    if is_transposed or is_cut or params["batch_group_count"] != 1:
        return None
    image, kernel = value.inputs
    numbers = params["dimension_numbers"]
    spatial = numbers.lhs_spec[2:]
    shape = program.values[image].shape
    window = program.values[kernel].shape
    plain = Convolution(
        size=tuple(shape[axis] for axis in spatial),
        strides=tuple(params["window_strides"]),
        dilation=tuple(params["rhs_dilation"]),
        padding=zeros,
    )
    sources = _sources(program, image)
    if sources == {image}:
        return plain
    other = plain._replace(note="of the image as it was padded")
    if len(sources) > 1:
        return other
    # Circular padding is written as slices of the image beside it.
    (before_padding,) = sources
    axes = _read_pixels(program, image, before_padding)
    if axes is None:
        return other
    spatial_axes = [axes[axis] for axis in spatial]
    other_axes = [pixels for axis, pixels in enumerate(axes) if axis not in spatial]
    if any(not pixels.is_whole for pixels in other_axes):
        return other
    taps = [window[axis] for axis in numbers.rhs_spec[2:]]
    return _of_unpadded(plain, spatial_axes, taps) or other


class _Pixels(NamedTuple):
    """One axis of a padded image.

    Attributes:
        size: The size of the axis before it was padded.
        indices: For each entry its position before padding; -1 for an added zero.
    """

    size: int
    indices: Int[np.ndarray, " pixels"]

    @property
    def is_whole(self) -> bool:
        """Whether the axis was not padded."""
        return np.array_equal(self.indices, np.arange(self.size))

    @property
    def first(self) -> int:
        """The position of the first entry that is no zero."""
        return int(np.flatnonzero(self.indices >= 0)[0])

    @property
    def is_among_zeros(self) -> bool:
        """Whether all entries are there once, in order, with zeros around them."""
        inside = self.indices[self.first : self.first + self.size]
        num_inside = int(np.count_nonzero(self.indices >= 0))
        return num_inside == self.size and np.array_equal(inside, np.arange(self.size))


def _of_unpadded(
    plain: Convolution,
    axes: Sequence[_Pixels],
    taps: Sequence[int],
) -> Convolution | None:
    """Return a convolution of the image before it was padded, if it is one.

    Args:
        plain: The convolution of the padded image.
        axes: The axes of the image, and how they were padded.
        taps: Width of the window along each axis.
    """
    size = tuple(axis.size for axis in axes)
    assert not isinstance(plain.padding, str), "a program pads with zeros alone"
    zeros = []
    are_circles = []
    for i, axis in enumerate(axes):
        before, after = plain.padding[i]
        last = len(axis.indices) - axis.first - axis.size
        zeros.append((before + axis.first, after + last))
        width = (taps[i] - 1) * plain.dilation[i] + 1
        is_circle = _is_circle(axis, plain.strides[i], width)
        are_circles.append(is_circle and before == after == 0)
    if all(axis.is_among_zeros for axis in axes):
        return plain._replace(size=size, padding=tuple(zeros))
    if all(are_circles):
        return plain._replace(size=size, padding="circular")
    return None


def _is_circle(axis: _Pixels, stride: int, width: int) -> bool:
    """Tell whether a window of some width goes around the axis as on a circle."""
    before = -int(axis.indices[0]) % axis.size
    around = (np.arange(len(axis.indices)) - before) % axis.size
    if not np.array_equal(axis.indices, around):
        return False
    num_outputs = (len(axis.indices) - width) // stride + 1
    # If the stride divides the image, a shift only permutes the pixels.
    is_centred = before == (width - 1) // 2 % axis.size
    has_any_start = axis.size % stride == 0
    is_whole = num_outputs == math.ceil(axis.size / stride)
    return is_whole and (is_centred or has_any_start)


def _sources(program: Program, image: int) -> set[int]:
    """Return the values that were put side by side in an image, or the image itself."""
    sources = set()
    pending = [image]
    while pending:
        index = pending.pop()
        value = program.values[index]
        if value.operation in _PADDING or _is_reordered(program, index):
            pending += [read for read in value.inputs if read in program.of_x]
        else:
            sources.add(index)
    return sources


def _is_reordered(program: Program, index: int) -> bool:
    """Tell whether a value is another with its axes in another order, or unit axes."""
    value = program.values[index]
    if value.operation not in _REORDERING:
        return False
    old = [size for size in value.source_shape if size != 1]
    new = [size for size in value.shape if size != 1]
    if value.operation == "transpose":
        return True
    return old == new


def _read_pixels(program: Program, image: int, source: int) -> list[_Pixels] | None:
    """Return how each axis of an image was padded.

    The result is None if the axes were mixed, or if something else than zeros was put
    beside the source.
    """
    shape = program.values[source].shape
    # Entries are numbered, and the numbers are padded in the place of the entries.
    numbers = np.arange(1, math.prod(shape) + 1).reshape(shape)
    all_axes = tuple(range(len(shape)))
    try:
        padded = _moved(program, image, {source: _Moved(numbers, all_axes)})
    except _NotPadding:
        return None
    coordinates = np.unravel_index(np.maximum(padded.numbers - 1, 0), shape)
    is_zero = padded.numbers == 0
    axes = []
    expected = np.ones((), int)
    has_pixel = np.ones((), bool)
    for axis, source_axis in enumerate(padded.axes):
        pixels = _Pixels(1, np.zeros(1, int))
        stride = 0
        if source_axis is not None:
            others = tuple(other for other in range(is_zero.ndim) if other != axis)
            # Where all entries across an axis are zeros, it was padded.
            along = np.where(is_zero, -1, coordinates[source_axis]).max(axis=others)
            pixels = _Pixels(shape[source_axis], along)
            stride = math.prod(shape[source_axis + 1 :])
        axes.append(pixels)
        place = [-1 if other == axis else 1 for other in range(is_zero.ndim)]
        indices = pixels.indices.reshape(place)
        expected = expected + stride * np.maximum(indices, 0)
        has_pixel = has_pixel & (indices >= 0)
    if not np.array_equal(padded.numbers, np.where(has_pixel, expected, 0)):
        return None
    return axes


class _NotPadding(Exception):
    """Something other than zeros or parts of the source was put beside it."""


class _Moved(NamedTuple):
    """The entries of a source, as they stand in another value.

    Attributes:
        numbers: The number of each entry, 0 for zeros.
        axes: For each axis the one of the source; None for a new one of size 1.
    """

    numbers: np.ndarray
    axes: tuple[int | None, ...]


def _moved(program: Program, index: int, cache: dict[int, _Moved]) -> _Moved:
    """Return where the entries of the source stand in a value.

    Args:
        program: The program.
        index: Index of the value.
        cache: What is known already: of the source, and of values that were visited.
    """
    if index in cache:
        return cache[index]
    value = program.values[index]
    params = value.params
    sources = [read for read in value.inputs if read in program.of_x]
    numbers, axes = _moved(program, sources[0], cache)
    if value.operation == "concatenate":
        parts = []
        for read in value.inputs:
            if read in program.of_x:
                parts.append(_moved(program, read, cache).numbers)
            elif _is_zero(program, read):
                parts.append(np.zeros(program.values[read].shape, int))
            else:
                raise _NotPadding
        numbers = np.concatenate(parts, params["dimension"])
    elif value.operation == "slice":
        steps = params["strides"] or (1,) * numbers.ndim
        stretches = zip(
            params["start_indices"], params["limit_indices"], steps, strict=True
        )
        numbers = numbers[tuple(slice(*stretch) for stretch in stretches)]
    elif value.operation == "pad":
        low, high, inner = zip(*params["padding_config"], strict=True)
        is_zero = _is_zero(program, value.inputs[1])
        if any(inner) or min(*low, *high) < 0 or not is_zero:
            raise _NotPadding
        numbers = np.pad(numbers, list(zip(low, high, strict=True)))
    elif value.operation == "transpose":
        numbers = numbers.transpose(params["permutation"])
        axes = tuple(axes[axis] for axis in params["permutation"])
    else:
        # Only axes of size 1 come and go, so the others keep their order.
        remaining = iter(
            axis for axis, size in zip(axes, numbers.shape, strict=True) if size != 1
        )
        axes = tuple(_next(remaining, size) for size in value.shape)
        numbers = numbers.reshape(value.shape)
    cache[index] = _Moved(numbers, axes)
    return cache[index]


def _next(axes: Iterator[int | None], size: int) -> int | None:
    """Return the next of the axes; None for an axis of size 1, which is new."""
    if size == 1:
        return None
    return next(axes)


def _is_zero(program: Program, index: int) -> bool:
    """Tell whether a value that does not depend on x is zero."""
    value = program.values[index]
    if value.number is not None:
        return not np.any(value.number)
    moving = ("broadcast_in_dim", "convert_element_type")
    if value.operation in moving:
        return _is_zero(program, value.inputs[0])
    return False
