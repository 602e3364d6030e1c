"""The weights of a network as slices of the leaves of its parameters.

A leaf may hold a stack of weights, or several weights side by side, as a fused QKV
does. Each weight layer of the anatomy is read as an array (slices, *shape of one
slice), and slices are named as in certificates: "blocks/fc[2]".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import kinds
from isometry._internal.types import Params
from isometry.structure import Anatomy, WeightLayer

# Kinds of layers whose slices are matrices, or kernels with a matrix at each tap.
_MATRICES = ("dense", "conv")


@dataclass(frozen=True)
class Weight:
    """Where the slices of a weight layer lie.

    Attributes:
        layer: The layer.
        leaf: The index of the leaf that holds the layer, among the floating leaves of
            the parameters.
        cut: Start and stop of the layer within the leaf, for each axis of the leaf.
        names: The name of each slice, as in a certificate.
    """

    layer: WeightLayer
    leaf: int
    cut: tuple[tuple[int, int], ...]
    names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one slice."""
        return self.layer.shape

    @property
    def is_matrix(self) -> bool:
        """Whether a slice is a matrix, or a kernel of matrices."""
        return self.layer.kind in _MATRICES

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """The shape (rows, columns) of a slice as one matrix, taps among its rows."""
        rows, columns = self.tap_shape
        return rows * self.num_taps, columns

    @property
    def tap_shape(self) -> tuple[int, int]:
        """The shape of the matrix of one tap of a kernel, or of the whole weight."""
        return self._size(self.layer.in_axes), self._size(self.layer.out_axes)

    @property
    def num_taps(self) -> int:
        """The number of taps (positions in the window) of a kernel; 1 for a matrix."""
        return self._size(self.layer.window_axes)

    def _size(self, axes: Sequence[int]) -> int:
        return math.prod(self.shape[axis] for axis in axes)

    def slices(self, leaf: Array) -> Float[Array, "slices ..."]:
        """Return the slices of the layer, given the leaf that holds it."""
        part = leaf[self._index]
        # The axes of the stack go first, in the order in which slices are numbered.
        axes = self.layer.stacked_axes
        part = jnp.moveaxis(part, axes, range(len(axes)))
        return part.reshape(len(self.names), *self.shape)

    def replaced(
        self,
        leaf: np.ndarray,
        slices: np.ndarray,
    ) -> np.ndarray:
        """Return a copy of the leaf, on the host, with new values for these slices.

        Args:
            leaf: The leaf that holds the layer.
            slices: The new slices, laid out as `Weight.slices` returns them.
        """
        axes = self.layer.stacked_axes
        bounds = [self.cut[axis] for axis in axes]
        stack = [stop - start for start, stop in bounds]
        part = slices.reshape(*stack, *self.shape)
        new = np.array(leaf)
        new[self._index] = np.moveaxis(part, range(len(axes)), axes)
        return new

    @property
    def _index(self) -> tuple[slice, ...]:
        return tuple(slice(start, stop) for start, stop in self.cut)

    def matrices(self, slices: np.ndarray) -> np.ndarray:
        """Return slices as matrices, (..., batch, taps, rows, columns).

        Args:
            slices: Entries of shape (..., *shape). Experts are matrices of their own,
                counted by the axis "batch".
        """
        layer = self.layer
        num_leading = slices.ndim - len(self.shape)
        order = list(range(num_leading))
        sizes = list(slices.shape[:num_leading])
        # The axes of each group are brought side by side, and become one axis.
        for group in (
            layer.batch_axes,
            layer.window_axes,
            layer.in_axes,
            layer.out_axes,
        ):
            order += [num_leading + axis for axis in group]
            sizes.append(self._size(group))
        return slices.transpose(order).reshape(sizes)


def weights_of(
    anatomy: Anatomy,
    params: Params,
) -> tuple[Weight, ...]:
    """Return the weight layers that can be trained, in the order of the anatomy.

    Args:
        anatomy: The anatomy of the network.
        params: The parameters of one seed, or their shapes.
    """
    # An anatomy names leaves by their key paths, as JAX writes them.
    paths, shapes = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if kinds.is_floating(leaf):
            paths.append(jax.tree_util.keystr(path))
            shapes.append(leaf.shape)
    weights = []
    for layer in anatomy.layers:
        # A weight that is not floating, such as a table of integers, is not trained.
        if layer.path not in paths:
            continue
        leaf = paths.index(layer.path)
        # A layer fills its leaf or, if fused with others, a range along some axes.
        cut = [(0, length) for length in shapes[leaf]]
        for axis, start, stop in layer.stretches:
            cut[axis] = (start, stop)
        weight = Weight(
            layer=layer,
            leaf=leaf,
            cut=tuple(cut),
            names=_names_of_slices(layer, cut),
        )
        weights.append(weight)
    return tuple(weights)


def _names_of_slices(
    layer: WeightLayer,
    cut: Sequence[tuple[int, int]],
) -> tuple[str, ...]:
    """Return the name of each slice of a stacked weight, or of the weight itself.

    Args:
        layer: The layer.
        cut: Start and stop of the layer within its leaf, as in `Weight`. Slices are
            numbered from 0, wherever the layer starts.
    """
    if layer.stacked is None:
        return (layer.name,)
    bounds = [cut[axis] for axis in layer.stacked_axes]
    num_slices = math.prod(stop - start for start, stop in bounds)
    return tuple(f"{layer.name}[{i}]" for i in range(num_slices))


def names_of(weights: Sequence[Weight]) -> tuple[str, ...]:
    """Return the names of all slices, weight by weight."""
    return tuple(name for weight in weights for name in weight.names)


def input_features(anatomy: Anatomy) -> tuple[int, int]:
    """Return how many numbers of x one output of the first layer depends on.

    It is the N_x of Theorem 1 of the ZerO paper. For a perceptron it is the dimension
    of the input, and for an embedding the number of its rows. A convolution has two
    such numbers: the channels that one tap reads, and the entries of a whole window.

    Returns:
        The number for one tap, and that for the whole window. They are equal if the
        first layer is no convolution.
    """
    stems = [layer for layer in anatomy.layers if layer.role == "stem"]
    # A recurrent network has no layer with the role of a stem; its first layer serves.
    stems = stems or list(anatomy.layers[:1])
    of_tap, of_window = 0, 0
    # If there are several first layers, as a stem and a projection beside it, the one
    # that reads most counts.
    for layer in stems:
        num_taps = math.prod(layer.shape[axis] for axis in layer.window_axes)
        of_tap = max(of_tap, layer.fan_in // num_taps)
        of_window = max(of_window, layer.fan_in)
    return of_tap, of_window


def log_norms(
    weights: Sequence[Weight],
    gradient: list[Array],
) -> Float[Array, " layers"]:
    """Return ln of the Frobenius norm of the gradient of each slice."""
    # Without weights there is nothing to concatenate, which JAX refuses.
    if not weights:
        return jnp.zeros(0)
    parts = []
    for weight in weights:
        slices = weight.slices(gradient[weight.leaf])
        parts.append(_log_norm_of_rows(slices))
    return jnp.concatenate(parts)


def _log_norm_of_rows(rows: Float[Array, "rows ..."]) -> Float[Array, " rows"]:
    """Return ln of the norm of each row; -inf only if all its entries are zero.

    Squares are taken relative to the largest entry, so that none underflows or
    overflows.
    """
    flat = rows.reshape(rows.shape[0], -1)
    sizes = jnp.abs(flat)
    peak = jnp.max(sizes, axis=1, initial=0)
    is_zero = peak == 0
    # A row of zeros is divided by one: 0/0 would be NaN.
    safe = jnp.where(is_zero, 1, peak)
    relative = flat / safe[:, None]
    squares = jnp.sum(relative**2, axis=1)
    safe_squares = jnp.where(is_zero, 1, squares)
    log_norms = jnp.log(safe) + jnp.log(safe_squares) / 2
    return jnp.where(is_zero, -jnp.inf, log_norms)
