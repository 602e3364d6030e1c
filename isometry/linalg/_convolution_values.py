"""Singular values of a convolution as a linear map of images.

On a circle, a convolution commutes with shifts, so the Fourier transform makes it block
diagonal: one matrix of inputs and outputs at each frequency (Sedghi, Gupta and Long,
2019, arXiv:1805.10408). Zero padding, and strides that do not divide the image, break
the circle, and then the matrix of the whole map is factorized.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

from isometry._internal import checks, compilation, kinds, memory, precision
from isometry._internal.errors import InputError, public
from isometry.linalg import _factorizations
from isometry.linalg._dense import singular_values

PADDINGS = ("circular", "same", "valid")

# Fourier transforms in XLA go over three axes at most, so a higher number would fail
# inside XLA.
_MOST_AXES = 3


class _Axis(NamedTuple):
    """One axis of the image.

    Attributes:
        taps: Width of the window.
        pixels: Width of the image.
        stride: Pixels from one window to the next.
        zeros: Zeros before and behind the image; None if it continues around a circle.
    """

    taps: int
    pixels: int
    stride: int
    zeros: tuple[int, int] | None

    @property
    def num_outputs(self) -> int:
        """The number of output pixels."""
        if self.zeros is None:
            return math.ceil(self.pixels / self.stride)
        return (self.pixels + sum(self.zeros) - self.taps) // self.stride + 1


_Axes: TypeAlias = tuple[_Axis, ...]

Padding: TypeAlias = str | Sequence[tuple[int, int]]


@public("convolution_singular_values")
def convolution_singular_values(
    kernel: ArrayLike,
    size: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "circular",
    groups: int = 1,
) -> Float[Array, " k"]:
    """Compute all singular values of a convolution as a linear map of images.

    The map takes size · in numbers to (output pixels) · out numbers. Output pixel t is
    the sum over taps s of kernel[s] times input pixel stride · t + s - before, where
    `before` is (k - 1)//2 for "circular", as in Flax, and XLA's choice for "same". The
    kernel is not flipped.

    With circular padding and strides that divide the size, the values are found by
    frequency: at each one, of a matrix of out by in · (product of strides) numbers,
    since a stride folds so many frequencies into one (Sedghi, Gupta and Long, 2019,
    arXiv:1805.10408, section 3). A real kernel has the same values at opposite
    frequencies, so half of them are computed. Else nothing diagonalizes the map, and
    its matrix is formed whole. Groups are independent blocks either way.

    Values below eps · max(m, n) · s_max are rounding, of blocks or matrices of m by n
    numbers.

    Cost: by frequency, one factorization for every other output pixel; of the whole
    map, (pixels · channels)³ operations in memory of (pixels · channels)² numbers.

    Args:
        kernel: Weights in JAX's layout, real floating, with one to three axes of the
            window; `n_in` is the inputs of one group. bfloat16 and float16 are worked
            in float32.
        size: Size of the image, (n,), (h, w) or (d, h, w).
        strides: One for all axes, or one an axis.
        padding: "circular", or zeros: "same", "valid", or as many as are written before
            and behind each axis, [(1, 1), (1, 1)]. A window wider than the image wraps
            around it with "circular", and is refused if no zeros make up for it.
        groups: The feature_group_count of the convolution. Depthwise: the number of
            channels.

    Returns:
        The min(inputs, outputs) values of the map, descending. NaN if the kernel is not
        finite. Differentiable where values differ or are equal by symmetry.

    Raises:
        InputError: An argument is not of this form, or the map, or all of its blocks,
            would take more than a quarter of the free memory.

    Example:
        >>> init = initializers.delta_orthogonal()
        >>> kernel = init(jax.random.key(0), (3, 3, 4, 4))
        >>> s = linalg.convolution_singular_values(kernel, (8, 8))
        >>> s.shape, bool(jnp.allclose(s, 1.0))
        ((256,), True)
        >>> blur = jnp.ones((3, 1, 1)) / 3
        >>> linalg.convolution_singular_values(blur, (4,)).round(4)
        Array([1.    , 0.3333, 0.3333, 0.3333], dtype=float32)
    """
    weights = _checked_kernel(kernel)
    num_axes = weights.ndim - 2
    if isinstance(strides, Sequence):
        steps = _per_axis("strides", strides, num_axes)
    else:
        step = checks.integer("strides", strides, low=1)
        steps = (step,) * num_axes
    image = _per_axis("size", size, num_axes)
    axes = _padded_axes(weights.shape, image, steps, padding=padding)
    if any(axis.num_outputs < 1 for axis in axes):
        raise InputError(
            f"size={image} is smaller than the kernel's window, "
            f"{weights.shape[:-2]}, and padding={padding!r} leaves no output."
        )
    checks.integer("groups", groups, low=1)
    n_out = weights.shape[-1]
    if n_out % groups:
        raise InputError(f"groups={groups} does not divide the {n_out} outputs.")

    # If strides do not, the circle closes on another pixel of the stride, and shifts of
    # the output are no shifts of the input.
    divides = all(axis.pixels % axis.stride == 0 for axis in axes)
    by_frequency = padding == "circular" and divides
    _refuse_beyond_memory(weights, axes, whole=not by_frequency)
    with precision.full():
        if by_frequency:
            return _values_by_frequency(weights, axes, groups)
        return _values_of_map(weights, axes, groups)


def _padded_axes(
    window: Sequence[int],
    image: Sequence[int],
    steps: Sequence[int],
    *,
    padding: Padding,
) -> _Axes:
    """Return the axes of the image, each with the zeros around it."""
    bare = [
        _Axis(taps, pixels, stride, zeros=(0, 0))
        for taps, pixels, stride in zip(window, image, steps, strict=False)
    ]
    if not isinstance(padding, str):
        pairs = _pairs(padding, len(bare))
        return tuple(
            axis._replace(zeros=pair) for axis, pair in zip(bare, pairs, strict=True)
        )
    checks.one_of("padding", padding, PADDINGS)
    if padding == "valid":
        return tuple(bare)
    if padding == "circular":
        return tuple(axis._replace(zeros=None) for axis in bare)
    axes = []
    for axis in bare:
        # XLA's rule: as few zeros as reach, the odd one behind.
        last_read = axis.stride * (math.ceil(axis.pixels / axis.stride) - 1)
        num_zeros = max(last_read + axis.taps - axis.pixels, 0)
        before = num_zeros // 2
        axes.append(axis._replace(zeros=(before, num_zeros - before)))
    return tuple(axes)


def _pairs(
    padding: Sequence[tuple[int, int]],
    num_axes: int,
) -> list[tuple[int, int]]:
    """Return the numbers of zeros before and behind each axis."""
    try:
        pairs = [(operator.index(a), operator.index(b)) for a, b in padding]
    except (TypeError, ValueError):
        pairs = []
    if len(pairs) != num_axes or min(map(min, pairs)) < 0:
        raise InputError(
            f"padding={checks.show(padding)} is neither of {', '.join(PADDINGS)} nor "
            "a pair of numbers of zeros for each axis of the kernel's window."
        )
    return pairs


def _checked_kernel(kernel: ArrayLike) -> Float[Array, "*window n_in n_out"]:
    """Return a kernel of one to three window axes, in float32 at least."""
    kernel = checks.array("kernel", kernel)
    num_axes = kernel.ndim - 2
    if not 1 <= num_axes <= _MOST_AXES or 0 in kernel.shape:
        raise InputError(
            f"kernel has shape {kernel.shape}; write (*window, in/groups, out), with "
            "one to three axes of the window and none empty."
        )
    if not kinds.is_floating(kernel):
        raise InputError(
            f"kernel has dtype {kernel.dtype}; write kernel.astype(jnp.float32)."
        )
    if jnp.finfo(kernel.dtype).bits < 32:
        return kernel.astype(jnp.float32)
    return kernel


def _per_axis(
    name: str,
    value: Sequence[int],
    num_axes: int,
) -> tuple[int, ...]:
    """Return one positive whole number for each axis of the window."""
    try:
        numbers = tuple(map(operator.index, value))
    except TypeError:
        numbers = ()
    if len(numbers) != num_axes or min(numbers) < 1:
        raise InputError(
            f"{name}={checks.show(value)} must be {num_axes} positive whole numbers, "
            "one for each axis of the kernel's window."
        )
    return numbers


def _refuse_beyond_memory(
    kernel: Array,
    axes: _Axes,
    *,
    whole: bool,
) -> None:
    """Refuse a map whose blocks, or whose whole matrix, exceed the free memory."""
    # The blocks are of complex numbers, but of half of the frequencies.
    what = "the blocks of all frequencies"
    n_in, n_out = kernel.shape[-2:]
    num_entries = n_in * n_out * math.prod(axis.pixels for axis in axes)
    if whole:
        what = "the matrix of the map"
        num_entries *= math.prod(axis.num_outputs for axis in axes)
    num_bytes = num_entries * kernel.dtype.itemsize
    budget = memory.budget(None)
    if num_bytes > budget:
        size = tuple(axis.pixels for axis in axes)
        raise InputError(
            f"size={size} is too large: {what} would take {num_bytes / 1e9:.3g} GB, "
            f"and {budget / 1e9:.3g} GB are free to it. Write a smaller size, or for "
            "the largest value alone linalg.extreme_singular_values."
        )


def _normalized(
    kernel: Array,
    groups: int,
) -> tuple[Array, Callable[[Array], Array]]:
    """Return finite kernels (groups, *window, in, out) with entries up to 1.

    They have no channel in common. XLA's factorizations may not return from an
    infinity, and sums of squares neither overflow nor vanish if the largest entry is
    near 1.

    Returns:
        The kernels, and the function that makes of their values, in any order, those of
        the kernel as it came.
    """
    is_finite = jnp.all(jnp.isfinite(kernel))
    finite = jnp.where(is_finite, kernel, 0)
    peak = jnp.max(jnp.abs(jax.lax.stop_gradient(finite)))
    _, exponent = jnp.frexp(jnp.where(peak > 0, peak, 1))
    scaled = jnp.ldexp(finite, -exponent)
    split = scaled.reshape(*kernel.shape[:-1], groups, -1)

    def restored(values: Array) -> Array:
        descending = jnp.sort(jnp.ravel(values), descending=True)
        return jnp.where(is_finite, jnp.ldexp(descending, exponent), jnp.nan)

    return jnp.moveaxis(split, -2, 0), restored


def _padded(
    kernel: Array,
    axis: int,
    count: int,
) -> Array:
    """Append zeros to an axis."""
    widths = [(0, 0)] * kernel.ndim
    widths[axis] = (0, count)
    return jnp.pad(kernel, widths)


# --- By frequency


@functools.partial(compilation.jit, static_argnames=("axes", "groups"))
def _values_by_frequency(
    kernel: Float[Array, "*window n_in n_out"],
    axes: _Axes,
    groups: int,
) -> Float[Array, " k"]:
    """Return the values of a convolution that shifts by whole periods."""
    by_group, restored = _normalized(kernel, groups)
    by_phase = _by_phase(by_group, axes)
    grid = [axis.num_outputs for axis in axes]
    folded = by_phase
    for i, num_outputs in enumerate(grid, start=1):
        folded = _folded(folded, i, num_outputs)
    spatial = range(1, 1 + len(axes))
    blocks = jnp.fft.rfftn(folded, grid, spatial)
    values = _complex_singular_values(blocks)
    # The transform of real numbers keeps frequencies 0 to w/2 of the last axis. Those
    # strictly between have an opposite one that it leaves out, with the same values.
    end = (grid[-1] + 1) // 2
    with_opposite = values[..., 1:end, :]
    all_values = [jnp.ravel(values), jnp.ravel(with_opposite)]
    return restored(jnp.concatenate(all_values))


def _by_phase(
    kernel: Array,
    axes: _Axes,
) -> Array:
    """Write a strided convolution as one of stride 1 with more inputs.

    Input pixels p = stride · u + r with the same r are a channel: each output reads
    from u onward in all of them.
    """
    by_phase = kernel
    for i, axis in enumerate(axes, start=1):
        missing = -axis.taps % axis.stride
        whole_periods = _padded(by_phase, i, missing)
        before = whole_periods.shape[:i]
        after = whole_periods.shape[i + 1 :]
        by_phase = whole_periods.reshape(*before, -1, axis.stride, *after)
        # The phase goes to the inputs, which stand before the outputs.
        by_phase = jnp.moveaxis(by_phase, i + 1, -2)
        *rest, n_in, stride, n_out = by_phase.shape
        by_phase = by_phase.reshape(*rest, n_in * stride, n_out)
    return by_phase


def _folded(
    kernel: Array,
    axis: int,
    width: int,
) -> Array:
    """Add up the taps of a wide window that meet on a circle of this width."""
    taps = kernel.shape[axis]
    if taps <= width:
        return kernel
    padded = _padded(kernel, axis, -taps % width)
    before = kernel.shape[:axis]
    after = kernel.shape[axis + 1 :]
    turns = padded.reshape(*before, -1, width, *after)
    return turns.sum(axis)


def _complex_singular_values(
    blocks: Complex[Array, "*batch m n"],
) -> Float[Array, "*batch k"]:
    """Return the singular values of complex matrices."""
    if 1 in blocks.shape[-2:]:
        # Of a single row or column (depthwise) it is the length, for which a million
        # calls of LAPACK would be a waste.
        return _lengths(blocks)
    return _factorizations.singular_values(blocks)


def _lengths(blocks: Complex[Array, "*batch m n"]) -> Float[Array, "*batch 1"]:
    """Return the length of single rows or columns, with derivative 0 at 0."""
    # Entries are at most the number of taps, so the squares are in range.
    squares = jnp.square(blocks.real) + jnp.square(blocks.imag)
    total = jnp.sum(squares, (-2, -1))[..., None]
    is_zero = total == 0
    lengths = jnp.sqrt(jnp.where(is_zero, 1, total))
    return jnp.where(is_zero, 0, lengths)


# --- The whole map


@functools.partial(compilation.jit, static_argnames=("axes", "groups"))
def _values_of_map(
    kernel: Float[Array, "*window n_in n_out"],
    axes: _Axes,
    groups: int,
) -> Float[Array, " k"]:
    """Return the values of the matrices of all groups."""
    matrix, restored = _normalized(kernel, groups)
    for i, axis in enumerate(axes):
        # Of each axis before this one, there are two by now: output and input pixels.
        place = 1 + 2 * i
        if axis.zeros is None:
            matrix = _folded(matrix, place, axis.pixels)
        # One more tap, of zeros, for pixels that no tap reaches.
        matrix = _padded(matrix, place, 1)
        matrix = jnp.take(matrix, _taps(axis), axis=place)
    end = 1 + 2 * len(axes)
    output_axes = (*range(1, end, 2), end + 1)
    input_axes = (*range(2, end, 2), end)
    matrix = matrix.transpose(0, *output_axes, *input_axes)
    num_inputs = math.prod(axis.pixels for axis in axes) * kernel.shape[-2]
    return restored(singular_values(matrix.reshape(groups, -1, num_inputs)))


def _taps(axis: _Axis) -> np.ndarray:
    """Return the tap by which each output pixel reads each input pixel.

    Returns:
        An array (output pixels, input pixels) of indices; the number of taps, one more
        than the last index, says that there is none.
    """
    first_read = axis.stride * np.arange(axis.num_outputs)
    taps = np.arange(axis.pixels) - first_read[:, None]
    num_taps = axis.taps
    if axis.zeros is not None:
        before, _ = axis.zeros
        taps = taps + before
    else:
        before = (axis.taps - 1) // 2
        taps = (taps + before) % axis.pixels
        # A wider window has been folded.
        num_taps = min(axis.taps, axis.pixels)
    is_tap = (taps >= 0) & (taps < num_taps)
    return np.where(is_tap, taps, num_taps)
