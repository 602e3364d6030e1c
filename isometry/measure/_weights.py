"""The function `weights`: the spectrum of each weight as an operator."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry import linalg
from isometry._internal import blas, checks, precision, texts
from isometry._internal.errors import FromCall, InputError, public
from isometry._internal.types import Params
from isometry.measure import _arguments
from isometry.measure._record import Spectrum
from isometry.networks import Network
from isometry.structure import Anatomy
from isometry.structure._operands import Convolution, Operand, operands
from isometry.structure._records import stack_sizes
from isometry.structure._tapping import tapped


class Weight(NamedTuple):
    """The weight of one layer, or of one slice of stacked layers.

    Attributes:
        name: The name of the layer; of a slice "blocks/fc1[2]".
        kind: "dense", "conv", "embedding" or "other".
        inputs: How many numbers the operator takes: of a convolution, pixels times
            channels. 0 if the operator cannot be read.
        outputs: How many numbers it returns.
        spectrum: Its singular values; None if they cannot be computed.
        note: Why they cannot be computed, or of which operator they are ("of the
            padded image ..."); otherwise "".

    Example:
        >>> net = networks.mlp([3, 8, 2], "tanh", "orthogonal", sigma_w=1.5)
        >>> weights = isometry.weights(net, net.init(jax.random.key(0)))
        >>> weights.rows[0].name, weights.rows[0].inputs, weights.rows[0].outputs
        ('layers/0', 3, 8)
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    spectrum: Spectrum | None
    note: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Weights:
    """The spectra of all weights of a network. `weights["stem"]` is one of them.

    Attributes:
        rows: One for each weight layer, slices apart, in the order of the anatomy.

    Example:
        >>> net = networks.mlp([3, 8, 8, 2], "tanh", "orthogonal", sigma_w=1.5)
        >>> weights = isometry.weights(net, net.init(jax.random.key(0)))
        >>> weights["layers/0"].values.round(4)
        Array([1.5, 1.5, 1.5], dtype=float32)
    """

    rows: tuple[Weight, ...]

    def __getitem__(self, name: str) -> Spectrum:
        # Names are checked as everywhere, with the nearest one for a misspelled one.
        by_name = {row.name: row for row in self.rows}
        row = by_name[checks.one_of("name", name, by_name)]
        if row.spectrum is None:
            raise InputError(f"{name!r} has no spectrum: {row.note}.")
        return row.spectrum

    def __iter__(self) -> Iterator[Weight]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def table(self) -> str:
        """Return a table with a row for each layer.

        Returns:
            Lines of text: the operator, its largest and smallest singular value, and
            the mean of their squares.

        Example:
            >>> net = networks.mlp([3, 8, 2], "tanh", "orthogonal", sigma_w=1.5)
            >>> print(isometry.weights(net, net.init(jax.random.key(0))).table())
            layer     kind   operator  s_max  s_min  E s²
            layers/0  dense  3 → 8     1.5    1.5    2.25
            layers/1  dense  8 → 2     1.5    1.5    2.25
        """
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        """Return the headings of the columns, and a line for each weight."""
        cells = [("layer", "kind", "operator", "s_max", "s_min", "E s²", "")]
        for row in self.rows:
            # The sizes of an operator that cannot be read are not known.
            is_read = row.inputs > 0
            sizes = f"{row.inputs} → {row.outputs}" if is_read else "?"
            cells.append((row.name, row.kind, sizes, *_figures(row), row.note))
        return texts.aligned(cells)

    def __repr__(self) -> str:
        lines = texts.shortened(self._lines())
        return "\n".join([f"Weights of {len(self.rows)} layers", *lines])


def _figures(row: Weight) -> tuple[str, str, str]:
    """Return the largest and smallest value and the mean square, as text."""
    if row.spectrum is None:
        return "", "", ""
    values = np.asarray(row.spectrum.values)
    mean_square = float(row.spectrum.moment(1))
    return f"{values[0]:.4g}", f"{values[-1]:.4g}", f"{mean_square:.4g}"


@public("weights")
def weights(net: Network, params: Params) -> Weights:
    """Measure the spectrum of each weight, as the operator that it is in the network.

    A weight is taken as it multiplies the signal: masked, standardized or cast if the
    network does so. A convolution is the linear map of its whole image, with the size,
    strides, padding and groups with which it is used; an embedding is the matrix of its
    rows. Axes that weight and signal share are blocks of one operator.

    Args:
        net: A network.
        params: Its parameters.

    Returns:
        A record for each layer.

    Raises:
        InputError: `net` is no network; `params` are not its parameters, or not finite.

    Example:
        >>> net = networks.mlp([16, 16, 4], "tanh", "gaussian", sigma_w=1.0)
        >>> weights = isometry.weights(net, net.init(jax.random.key(0)))
        >>> [row.name for row in weights]
        ['layers/0', 'layers/1']
        >>> weights["layers/1"].size
        4
    """
    # Of a plain function the size of images is not known.
    if not isinstance(net, Network):
        raise InputError(
            f"net={checks.show(net)} is not a Network; write "
            "networks.function(f, init, example)."
        )
    checks.on_host("params", params)
    checks.not_abstract("params", params)
    checks.all_finite("params", params)
    _arguments.require_params(net, params)
    # The program of the anatomy has the weights as they multiply the signal.
    anatomy = net.anatomy
    if jax.tree.structure(params) != anatomy.params_tree:
        raise InputError(
            "params are not those of this network: they are another tree of arrays; "
            "write net.init(key)."
        )
    # Weights as the program applies them, each slice at its first use.
    uses = operands(anatomy)
    shapes = {
        jax.tree_util.keystr(path): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    rows = []
    # One thread of BLAS: factorizations are many and small.
    with precision.full(), blas.single_threaded():
        of_uses = _slices_of(uses, anatomy, params)
        for use, slices in zip(uses, of_uses, strict=True):
            names = _names(use, shapes[use.layer.path])
            for name, weight in zip(names, slices, strict=True):
                rows.append(_measured(use, name, weight))
    return Weights(tuple(rows))


def _names(use: Operand, shape: tuple[int, ...]) -> list[str]:
    """Return the names of the slices of a layer that an operand holds.

    Args:
        use: The operand.
        shape: The shape of the leaf of the layer.
    """
    layer = use.layer
    if layer.stacked is None:
        return [layer.name]
    # Slices of nested stacks have an index for each.
    stack = stack_sizes(layer, shape)
    indices = ["".join(f"[{n}]" for n in index) for index in np.ndindex(stack)]
    names = [layer.name + index for index in indices]
    if use.index is None:
        return names
    return [names[use.index]]


def _slices_of(
    uses: list[Operand], anatomy: Anatomy, params: Params
) -> list[list[Array]]:
    """Return the slices of each operand, in float32 at least."""
    # Several slices may be read at one place, so places are named by number.
    places = {str(i): use.place for i, use in enumerate(uses)}
    leaves = jax.tree.leaves(params)
    shapes = anatomy.closed.in_avals[len(leaves) :]

    # Compiled, because XLA then computes only what the weights depend on.
    @jax.jit
    def program(leaves: list[Array]) -> list[list[Array]]:
        x = [jnp.zeros(aval.shape, aval.dtype) for aval in shapes]
        _, readings = tapped(anatomy.closed, places)([*leaves, *x], {})
        of_uses = []
        for use, name in zip(uses, places, strict=True):
            slices = use.slices(readings[name])
            # Parameters of low precision are exact in float32.
            dtype = precision.measuring_dtype(None, slices)
            of_uses.append(list(slices.astype(dtype)))
        return of_uses

    return program(leaves)


def _measured(use: Operand, name: str, weight: Array) -> Weight:
    """Return the record of one slice of a weight, with its spectrum or why not."""
    kind = use.layer.kind
    if kind == "other":
        note = "how it acts on the signal cannot be read"
        return Weight(name, kind, 0, outputs=0, spectrum=None, note=note)
    if kind != "conv":
        return _of_matrix(use, name, weight)
    if use.convolution is None:
        note = "a convolution that cuts off pixels, or has a stride beside a spread"
        return Weight(name, kind, 0, outputs=0, spectrum=None, note=note)
    return _of_convolution(use, name, weight)


# One program for each shape, not one for each of the operations.
@functools.partial(jax.jit, static_argnames=("axes", "shape"))
def _of_blocks(
    weight: Array, axes: tuple[int, ...], shape: tuple[int, int, int]
) -> tuple[Array, Array]:
    """Return the log singular values of all blocks, descending, and their floor.

    Args:
        weight: The weight.
        axes: The axes of the blocks, of the inputs and of the outputs.
        shape: The number of blocks, of inputs and of outputs.
    """
    others = [axis for axis in range(weight.ndim) if axis not in axes]
    ordered = weight.transpose(*axes, *others)
    # The weight has been repeated along all other axes, so that one entry is enough.
    ordered = ordered[(..., *(0,) * len(others))]
    log_values, log_floor = linalg.log_singular_values(ordered.reshape(shape))
    return jnp.sort(log_values.ravel(), descending=True), jnp.asarray(log_floor)


def _of_matrix(use: Operand, name: str, weight: Array) -> Weight:
    """Return the record of a matrix; axes in `batch_axes` are its diagonal blocks."""
    num_blocks = _size(weight, use.batch_axes)
    num_inputs = _size(weight, use.in_axes)
    num_outputs = _size(weight, use.out_axes)
    log_values, log_floor = _of_blocks(
        weight,
        axes=(*use.batch_axes, *use.in_axes, *use.out_axes),
        shape=(num_blocks, num_inputs, num_outputs),
    )
    spectrum = _spectrum(
        log_values,
        log_floor,
        structural_zeros=num_blocks * abs(num_inputs - num_outputs),
    )
    return Weight(
        name,
        use.layer.kind,
        inputs=num_blocks * num_inputs,
        outputs=num_blocks * num_outputs,
        spectrum=spectrum,
        note="",
    )


def _size(weight: Array, axes: tuple[int, ...]) -> int:
    """Return the number of entries along some axes."""
    return math.prod(weight.shape[axis] for axis in axes)


def _of_convolution(use: Operand, name: str, weight: Array) -> Weight:
    """Return the record of a convolution, as a map from image to image."""
    convolution = use.convolution
    assert convolution is not None, "others have been dealt with"
    kernel = weight.transpose(*use.window_axes, *use.in_axes, *use.out_axes)
    # A dilated window is a wider one with zeros between its taps.
    for axis, step in enumerate(convolution.dilation):
        kernel = _dilated(kernel, axis, step)
    *window, num_inputs, num_outputs = kernel.shape
    axes = range(len(window))
    pixels_out = math.prod(
        _num_outputs(convolution, axis, window[axis]) for axis in axes
    )
    inputs = math.prod(convolution.size) * num_inputs * use.groups
    outputs = pixels_out * num_outputs
    row = Weight(
        name,
        use.layer.kind,
        inputs=inputs,
        outputs=outputs,
        spectrum=None,
        note=convolution.note,
    )
    # A map and its transpose have the same singular values.
    if any(step != 1 for step in convolution.spread):
        kernel, convolution = _adjoint(kernel, convolution, use.groups)
    try:
        values = linalg.convolution_singular_values(
            kernel,
            convolution.size,
            strides=convolution.strides,
            padding=convolution.padding,
            groups=use.groups,
        )
    # One map that does not fit in memory should not hide the others.
    except FromCall as error:
        return row._replace(note=error.message)
    # Pixels that no tap reaches were left out: each adds singular values of 0.
    num_unreached = min(inputs, outputs) - len(values)
    values = jnp.pad(values, (0, num_unreached))
    # The floor of the whole map, which is at least that of the blocks by which the map
    # is factorized.
    log_floor = precision.svd_log_floor(inputs, outputs, values.dtype)
    missing = abs(inputs - outputs)
    spectrum = _spectrum(jnp.log(values), log_floor, structural_zeros=missing)
    return row._replace(spectrum=spectrum)


def _num_outputs(convolution: Convolution, axis: int, taps: int) -> int:
    """Return the number of pixels of the result along an axis."""
    stride = convolution.strides[axis]
    # On a circle every pixel is the start of a window.
    if isinstance(convolution.padding, str):
        return math.ceil(convolution.size[axis] / stride)
    spread_out = (convolution.size[axis] - 1) * convolution.spread[axis] + 1
    return (spread_out + sum(convolution.padding[axis]) - taps) // stride + 1


def _adjoint(
    kernel: Array, convolution: Convolution, groups: int
) -> tuple[Array, Convolution]:
    """Return the strided convolution of which a transposed one is the transpose.

    Pixel o of the result is the sum over taps t of kernel[t] times pixel i of the
    image, wherever spread · i = o + t - before. In the transpose, a window of reversed
    taps goes over the result with stride `spread`, and `taps - 1 - before` zeros before
    it.

    Args:
        kernel: Weights (*window, in/groups, out), without dilation.
        convolution: The transposed convolution.
        groups: Its groups of channels.

    Returns:
        The kernel (*window, out/groups, in), and how it goes over the result.
    """
    *window, num_inputs, num_outputs = kernel.shape
    by_group = kernel.reshape(*window, num_inputs, groups, num_outputs // groups)
    exchanged = jnp.swapaxes(by_group, -3, -1)
    shape = (*window, num_outputs // groups, groups * num_inputs)
    reversed_taps = jnp.flip(exchanged.reshape(shape), range(len(window)))
    assert not isinstance(convolution.padding, str), "spread images do not wrap"
    size = []
    padding = []
    for axis, taps in enumerate(window):
        zeros = [taps - 1 - count for count in convolution.padding[axis]]
        # Where a number of zeros is negative, no tap reaches that many of the first or
        # the last pixels.
        num_unreached = sum(max(-count, 0) for count in zeros)
        num_pixels = _num_outputs(convolution, axis, taps)
        size.append(num_pixels - num_unreached)
        padding.append((max(zeros[0], 0), max(zeros[1], 0)))
    backwards = convolution._replace(
        size=tuple(size),
        strides=convolution.spread,
        spread=(1,) * len(window),
        padding=tuple(padding),
    )
    return reversed_taps, backwards


def _dilated(kernel: Array, axis: int, step: int) -> Array:
    """Return the kernel with step - 1 zeros between its taps along an axis."""
    taps = kernel.shape[axis]
    shape = list(kernel.shape)
    shape[axis] = (taps - 1) * step + 1
    window = [slice(None)] * kernel.ndim
    window[axis] = slice(None, None, step)
    return jnp.zeros(shape, kernel.dtype).at[tuple(window)].set(kernel)


def _spectrum(
    log_values: Float[Array, " values"],
    log_floor: float | Array,
    *,
    structural_zeros: int,
) -> Spectrum:
    """Return the record of all singular values of one operator."""
    size = len(log_values)
    return Spectrum(
        log_values=log_values,
        weights=jnp.full_like(log_values, 1 / size),
        log_floor=jnp.asarray(log_floor, log_values.dtype),
        size=size,
        structural_zeros=structural_zeros,
        span="given",
    )
