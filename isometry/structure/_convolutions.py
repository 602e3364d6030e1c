"""How convolutions go over their images: size, strides, and what is padded to them.

Frameworks pad zeros by the convolution itself. Circular padding is written before it,
as slices of the image that are put beside the image; here it is read back.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from isometry.structure._reading import Indices, Program
from isometry.structure._walking import reached

# Operations that put copies or parts of one array side by side, or among zeros.
_PADDING = frozenset(("concatenate", "slice", "pad"))

# Operations that only reorder axes, or add and remove axes of size 1, if no other axis
# changes.
_REORDERING = frozenset(
    ("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "transpose")
)


class Convolution(NamedTuple):
    """How a convolution goes over an image.

    Attributes:
        size: The pixels of the image along each axis, before it is padded.
        strides: The stride along each axis.
        dilation: The pixels from one tap of the window to the next, along each axis.
        spread: For each axis, how many pixels the window goes over for each pixel of
            the image: zeros stand between pixels. More than 1 in transposed
            convolutions alone, where it is the stride of their adjoint.
        padding: "circular"; or the zeros before and after each axis.
        note: What the other fields do not say ("of the padded image ..."), or "".
    """

    size: Indices
    strides: Indices
    dilation: Indices
    spread: Indices
    padding: str | tuple[tuple[int, int], ...]
    note: str = ""


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
        return int(np.argmax(self.indices >= 0))

    @property
    def is_among_zeros(self) -> bool:
        """Whether all entries are there once, in order, with zeros around them."""
        inside = self.indices[self.first : self.first + self.size]
        num_inside = int(np.count_nonzero(self.indices >= 0))
        return num_inside == self.size and np.array_equal(inside, np.arange(self.size))

    def is_circle(self, stride: int, width: int) -> bool:
        """Tell whether a window of some width goes over the axis as over a circle."""
        before = -int(self.indices[0]) % self.size
        positions = np.arange(len(self.indices))
        if not np.array_equal(self.indices, (positions - before) % self.size):
            return False
        num_outputs = (len(self.indices) - width) // stride + 1
        if num_outputs != math.ceil(self.size / stride):
            return False
        # If the stride divides the image, another start only permutes the pixels.
        is_centred = before == (width - 1) // 2 % self.size
        return is_centred or self.size % stride == 0


def read(program: Program, index: int) -> Convolution | None:
    """Return how a convolution goes over its image.

    Args:
        program: The program.
        index: Index of the value that the convolution returns.

    Returns:
        The description; None for any other operation, for transposed convolutions with
        a stride beside their spread, and for those that cut pixels off the image.
    """
    value = program.values[index]
    if value.operation != "conv_general_dilated":
        return None
    params = value.params
    zeros = tuple((int(before), int(after)) for before, after in params["padding"])
    strides = tuple(params["window_strides"])
    spread = tuple(params["lhs_dilation"])
    is_transposed = any(step != 1 for step in spread)
    # A negative number of zeros cuts pixels off. Of a transposed convolution it cuts
    # pixels off the result, as the padding of its adjoint does.
    is_cut = any(min(pair) < 0 for pair in zeros) and not is_transposed
    is_mixed = is_transposed and any(step != 1 for step in strides)
    if is_mixed or is_cut or params["batch_group_count"] != 1:
        return None
    image, kernel = value.inputs
    numbers = params["dimension_numbers"]
    # The first two are the axes of examples and channels.
    spatial = numbers.lhs_spec[2:]
    shape = program.values[image].shape
    plain = Convolution(
        size=tuple(shape[axis] for axis in spatial),
        strides=strides,
        dilation=tuple(params["rhs_dilation"]),
        spread=spread,
        padding=zeros,
    )
    sources = _sources(program, image)
    if sources == {image}:
        return plain
    window = program.values[kernel].shape
    taps = [window[axis] for axis in numbers.rhs_spec[2:]]
    unpadded = None
    # Zeros around an image that is spread out later are more than that many zeros.
    if len(sources) == 1 and not is_transposed:
        axes = _read_pixels(program, image, *sources)
        unpadded = _unpadded(plain, axes, spatial, taps=taps)
    pixels = "×".join(map(str, plain.size))
    note = f"of the padded image of {pixels} pixels, without the map that pads it"
    return unpadded or plain._replace(note=note)


def _unpadded(
    plain: Convolution,
    axes: Sequence[_Pixels],
    spatial: Sequence[int],
    *,
    taps: Sequence[int],
) -> Convolution | None:
    """Return a convolution of the image before it was padded, if it is one.

    Args:
        plain: The convolution of the padded image.
        axes: How each axis of the image was padded; empty if axes were mixed.
        spatial: The axes over which the kernel goes.
        taps: The width of the kernel along each of `spatial`.
    """
    others = [pixels for axis, pixels in enumerate(axes) if axis not in spatial]
    # Padded channels would be another kernel.
    if not axes or not all(pixels.is_whole for pixels in others):
        return None
    assert not isinstance(plain.padding, str), "a program pads with zeros alone"
    chosen = [axes[axis] for axis in spatial]
    size = tuple(pixels.size for pixels in chosen)
    zeros = []
    are_circles = []
    for i, pixels in enumerate(chosen):
        before, after = plain.padding[i]
        num_after = len(pixels.indices) - pixels.first - pixels.size
        zeros.append((before + pixels.first, after + num_after))
        width = (taps[i] - 1) * plain.dilation[i] + 1
        is_circle = pixels.is_circle(plain.strides[i], width)
        are_circles.append(is_circle and before == after == 0)
    if all(pixels.is_among_zeros for pixels in chosen):
        return plain._replace(size=size, padding=tuple(zeros))
    if all(are_circles):
        return plain._replace(size=size, padding="circular")
    return None


def _sources(program: Program, image: int) -> set[int]:
    """Return the indices of the values that a padded image is made of.

    Padding itself does not count: of a circularly padded image it is the image before,
    of an image that is not padded the image itself.
    """

    def is_padded(index: int) -> bool:
        value = program.values[index]
        return value.operation in _PADDING or _is_reordered(program, index)

    def inputs(index: int) -> Iterable[int]:
        # What does not depend on x is padding, or a value to pad with.
        of_x = program.of_x.intersection(program.values[index].inputs)
        if is_padded(index):
            return of_x
        return ()

    visited = reached([image], inputs)
    return {index for index in visited if not is_padded(index)}


def _is_reordered(program: Program, index: int) -> bool:
    """Tell whether an operation only reorders axes, or adds or removes unit axes."""
    value = program.values[index]
    if value.operation not in _REORDERING:
        return False
    old = [size for size in value.source_shape if size != 1]
    new = [size for size in value.shape if size != 1]
    # A reshape that splits or joins axes does more, and so does a broadcast.
    return value.operation == "transpose" or old == new


def _read_pixels(program: Program, image: int, source: int) -> list[_Pixels]:
    """Return how each axis of an image was padded.

    The result is empty if axes were mixed, or if something else than zeros was put
    beside the source.
    """
    shape = program.values[source].shape
    # Entries are numbered from 1, and the numbers are padded in the place of the
    # entries.
    numbers = np.arange(1, math.prod(shape) + 1).reshape(shape)
    start = _Moved(numbers, tuple(range(len(shape))))
    try:
        padded = _moved(program, image, {source: start})
    except _NotPadding:
        return []
    coordinates = np.unravel_index(np.maximum(padded.numbers - 1, 0), shape)
    is_zero = padded.numbers == 0
    num_axes = is_zero.ndim
    axes = []
    # What the numbers are if each axis was padded for itself.
    expected = np.ones((), int)
    is_inside = np.ones((), bool)
    for axis, source_axis in enumerate(padded.axes):
        # A new axis of size 1.
        if source_axis is None:
            axes.append(_Pixels(1, np.zeros(1, int)))
            continue
        others = tuple(other for other in range(num_axes) if other != axis)
        # Where all entries across an axis are zeros, it was padded.
        along = np.where(is_zero, -1, coordinates[source_axis]).max(axis=others)
        axes.append(_Pixels(shape[source_axis], along))
        indices = np.expand_dims(along, others)
        step = math.prod(shape[source_axis + 1 :])
        expected = expected + step * np.maximum(indices, 0)
        is_inside = is_inside & (indices >= 0)
    if not np.array_equal(padded.numbers, np.where(is_inside, expected, 0)):
        return []
    return axes


class _NotPadding(Exception):
    """Something other than zeros or parts of the source was put beside it."""


class _Moved(NamedTuple):
    """Where the entries of an image (the source) stand in a value computed from it.

    Attributes:
        numbers: An array of the shape of the value. It holds the number of the entry of
            the source that stands there, counted from 1, or 0 for an added zero.
        axes: For each axis of the value the axis of the source that it is; None for a
            new axis of size 1. Empty for a value of zeros.
    """

    numbers: np.ndarray
    axes: tuple[int | None, ...]


def _moved(program: Program, index: int, cache: dict[int, _Moved]) -> _Moved:
    """Return where the entries of the source stand in a value.

    Args:
        program: The program.
        index: Index of the value.
        cache: The results for the source and for values that were visited before.

    Raises:
        _NotPadding: The value holds something other than entries and zeros.
    """
    if index in cache:
        return cache[index]
    value = program.values[index]
    operands = []
    for read in value.inputs:
        if read in program.of_x:
            operands.append(_moved(program, read, cache))
            continue
        # Anything else beside the image is no padding that can be told.
        if not _is_zero(program, read):
            raise _NotPadding
        zeros = np.zeros(program.values[read].shape, int)
        operands.append(_Moved(zeros, ()))
    move = _MOVES.get(value.operation, _reshaped)
    cache[index] = move(operands, value.params, value.shape)
    return cache[index]


# The functions below return where entries stand in the result of an operation, from
# where they stand in its operands, the parameters of its equation, and its shape.


def _concatenated(operands: list[_Moved], params: dict, shape: Indices) -> _Moved:
    """Concatenate the numbers of the operands."""
    numbers = np.concatenate([part.numbers for part in operands], params["dimension"])
    # Zeros have no axes of the source.
    (axes, *_) = [part.axes for part in operands if part.axes]
    return _Moved(numbers, axes)


def _sliced(operands: list[_Moved], params: dict, shape: Indices) -> _Moved:
    """Slice the numbers of the operand, with strides if there are any."""
    (image,) = operands
    starts = params["start_indices"]
    strides = params["strides"] or (1,) * len(shape)
    bounds = zip(starts, params["limit_indices"], strides, strict=True)
    slices = tuple(slice(*bounds_of_axis) for bounds_of_axis in bounds)
    return image._replace(numbers=image.numbers[slices])


def _among_zeros(operands: list[_Moved], params: dict, shape: Indices) -> _Moved:
    """Pad the numbers with zeros; refuse padding between entries, or a negative one."""
    image, _ = operands
    widths = [(low, high) for low, high, _ in params["padding_config"]]
    is_spread = any(inner for _, _, inner in params["padding_config"])
    if is_spread or min(map(min, widths)) < 0:
        raise _NotPadding
    return image._replace(numbers=np.pad(image.numbers, widths))


def _transposed(operands: list[_Moved], params: dict, shape: Indices) -> _Moved:
    """Transpose the numbers of the operand."""
    (image,) = operands
    order = params["permutation"]
    axes = tuple(image.axes[axis] for axis in order)
    return _Moved(image.numbers.transpose(order), axes)


def _reshaped(operands: list[_Moved], params: dict, shape: Indices) -> _Moved:
    """Reshape the numbers of the operand: axes of size 1 are added or removed."""
    image, *_ = operands
    sizes = image.numbers.shape
    # Only axes of size 1 come and go, so the others keep their order.
    others = [axis for axis, size in zip(image.axes, sizes, strict=True) if size != 1]
    axes: list[int | None] = [None] * len(shape)
    places = [axis for axis, size in enumerate(shape) if size != 1]
    for place, axis in zip(places, others, strict=True):
        axes[place] = axis
    return _Moved(image.numbers.reshape(shape), tuple(axes))


_Move = Callable[[list[_Moved], dict, Indices], _Moved]

# How operations move the entries of an image. `_reshaped` serves all others.
_MOVES: dict[str, _Move] = {
    "concatenate": _concatenated,
    "slice": _sliced,
    "pad": _among_zeros,
    "transpose": _transposed,
}


def _is_zero(program: Program, index: int) -> bool:
    """Tell whether all entries of a value are known to be zero.

    That is known of constants, and of constants that are broadcast or cast. False for
    all other values.
    """
    value = program.values[index]
    if value.number is not None:
        return not np.any(value.number)
    # Zeros of another shape or dtype are zeros.
    if value.operation in ("broadcast_in_dim", "convert_element_type"):
        return _is_zero(program, value.inputs[0])
    return False
