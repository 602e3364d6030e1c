"""The weights of a network in its tree of parameters, named as certificates name them.

A leaf may hold a stack of weights, or several side by side (a fused QKV). Each weight
layer of the anatomy is read as an array of slices, (slices, *shape of one).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal.types import Params
from isometry.measure import _leaves
from isometry.structure import Anatomy, WeightLayer

# Kinds whose slices are matrices: whose axes are known to be summed over, or not.
_MATRICES = ("dense", "conv")


@dataclass(frozen=True)
class Weight:
    """Where the slices of a weight layer lie.

    Attributes:
        layer: The layer.
        leaf: The index of its leaf among the floating leaves of the parameters.
        cut: For each axis of the leaf, where the layer begins and ends.
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
        """The number of taps of a kernel: pixels of its window. 1 of a matrix."""
        return self._size(self.layer.window_axes)

    def _size(self, axes: Sequence[int]) -> int:
        return math.prod(self.shape[axis] for axis in axes)

    def slices(self, leaf: Array) -> Float[Array, "slices ..."]:
        """Return the slices of the layer in its leaf."""
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
        """Return a copy of the leaf with other slices in it, on the host.

        Args:
            leaf: The leaf.
            slices: What `Weight.slices` would return of the copy.
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
            slices: (..., *shape) entries. Experts, along an axis that weight and signal
                share, are matrices of their own.
        """
        layer = self.layer
        num_leading = slices.ndim - len(self.shape)
        order = list(range(num_leading))
        sizes = list(slices.shape[:num_leading])
        # Axes of one group lie side by side, and become one.
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
        anatomy: Of the network.
        params: The parameters of one seed, or their shapes.
    """
    # An anatomy names leaves by their key paths, as JAX writes them.
    paths, shapes = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if _leaves.is_floating(leaf):
            paths.append(jax.tree_util.keystr(path))
            shapes.append(leaf.shape)
    weights = []
    for layer in anatomy.layers:
        # A table of whole numbers is looked up, and does not move.
        if layer.path not in paths:
            continue
        leaf = paths.index(layer.path)
        # A layer has its leaf to itself or, if fused with others, a stretch of it.
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
    """Return the name of each slice of a stacked weight, or of the weight itself."""
    if layer.stacked is None:
        return (layer.name,)
    bounds = [cut[axis] for axis in layer.stacked_axes]
    num_slices = math.prod(stop - start for start, stop in bounds)
    return tuple(f"{layer.name}[{i}]" for i in range(num_slices))


def names_of(weights: Sequence[Weight]) -> tuple[str, ...]:
    """Return the names of all slices, in order."""
    return tuple(name for weight in weights for name in weight.names)


def input_features(anatomy: Anatomy) -> tuple[int, int]:
    """Return how many numbers of x one output of the first layer depends on.

    It is the N_x of Theorem 1 of the ZerO paper, the dimension of the input of a
    perceptron: of an image that a convolution reads, the channels of a pixel, and the
    entries of a window; of tokens, the number of rows of the embedding.

    Returns:
        Per tap, and of the whole window. Equal without a convolution.
    """
    stems = [layer for layer in anatomy.layers if layer.role == "stem"]
    # The first weight that x meets has no role of its own in a recurrent network.
    stems = stems or list(anatomy.layers[:1])
    of_tap, of_window = 0, 0
    # Of several first layers, as of a stem and its projection, the widest counts.
    for layer in stems:
        num_taps = math.prod(layer.shape[axis] for axis in layer.window_axes)
        of_tap = max(of_tap, layer.fan_in // num_taps)
        of_window = max(of_window, layer.fan_in)
    return of_tap, of_window


def log_norms(
    weights: Sequence[Weight],
    gradient: list[Array],
) -> Float[Array, " layers"]:
    """Return ln of the Frobenius norm of each slice."""
    # Without weights there is nothing to concatenate, which JAX refuses.
    if not weights:
        return jnp.zeros(0)
    parts = []
    for weight in weights:
        slices = weight.slices(gradient[weight.leaf])
        parts.append(_log_norm_of_rows(slices))
    return jnp.concatenate(parts)


def _log_norm_of_rows(rows: Float[Array, "rows ..."]) -> Float[Array, " rows"]:
    """Return ln of the norm of each row; -inf only of zeros.

    It is taken relative to the largest entry, so that no square rounds to zero or
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
