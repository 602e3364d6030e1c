"""Networks whose drawn weights are multiplied by gains, and the record of the gains.

A gain is one number for each weight layer, or for each slice of stacked layers.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from isometry._internal import texts
from isometry._internal.types import Key, Params
from isometry.networks import Network
from isometry.networks._network import Wrapper
from isometry.structure import Anatomy, WeightLayer
from isometry.structure._records import stack_sizes

# The gains of each layer by name, one for each slice.
Factors: TypeAlias = dict[str, np.ndarray]


class Gain(NamedTuple):
    """The number that multiplies the weights of one layer, or of one slice.

    Attributes:
        name: The name of the layer; of a slice "blocks/fc1[2]".
        value: The gain.
        note: Why the gain is 1, if the layer has been left alone; otherwise "".
    """

    name: str
    value: float
    note: str


@dataclasses.dataclass(frozen=True, repr=False)
class Gains:
    """The gains of a calibrated network.

    Attributes:
        rows: One for each weight layer, slices apart, in the order of the anatomy.
        span: The first and last point of the span.
        before: E s² over the span without the gains.
        after: E s² with them.
        error: The standard error of `after` over seeds.
        warnings: Why the gains may not hold for other seeds, in sentences.

    Example:
        >>> net = networks.mlp([8, 8, 8], "linear", "orthogonal", sigma_w=0.5)
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> gains = net.calibrated(keys, jnp.ones((1, 8))).gains
        >>> [round(row.value, 3) for row in gains.rows]
        [2.0, 2.0]
    """

    rows: tuple[Gain, ...]
    span: tuple[str, str]
    before: float
    after: float
    error: float
    warnings: tuple[str, ...] = ()

    def table(self) -> str:
        """Return a table with a row for each layer.

        Returns:
            Lines of text.

        Example:
            >>> net = networks.mlp([8, 8, 8], "linear", "orthogonal", sigma_w=0.5)
            >>> keys = jax.random.split(jax.random.key(0), 2)
            >>> print(net.calibrated(keys, jnp.ones((1, 8))).gains.table())
            E s² from input to output: 0.0625 before, 1.0000 ± 0.0000 after
            layer     gain
            layers/0  2
            layers/1  2
        """
        return "\n".join([self._heading(), *self.warnings, *self._lines()])

    def _heading(self) -> str:
        """Return E s² over the span, before and after, in a line."""
        first, last = self.span
        return (
            f"E s² from {first} to {last}: {self.before:.4g} before, {self.after:.4f} "
            f"± {self.error:.4f} after"
        )

    def _lines(self) -> list[str]:
        """Return the headings of the columns, and a line for each gain."""
        rows = [(row.name, f"{row.value:.6g}", row.note) for row in self.rows]
        return texts.aligned([("layer", "gain", ""), *rows])

    def __repr__(self) -> str:
        lines = texts.shortened(self._lines())
        return "\n".join([self._heading(), *self.warnings, *lines])


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Calibrated(Wrapper):
    """A network whose drawn weights are multiplied by gains, one for each layer.

    Attributes:
        gains: The gains, and what they change.
        factors: From the name of a layer to the gains of its slices.
    """

    gains: Gains
    factors: Factors

    def init(self, key: Key) -> Params:
        """Draw the parameters of the network, its weights multiplied by the gains.

        The weights of a data-driven network are multiplied by `adjust` instead.
        """
        drawn = self.base.init(key)
        # `adjust` multiplies them, after it has adjusted what the scheme drew.
        if self.base.data_driven:
            return drawn
        return scaled(drawn, self.base.anatomy, self.factors)

    @property
    def data_driven(self) -> bool:
        """Whether `adjust` changes anything."""
        return self.base.data_driven

    def adjust(self, params: Params, xs: PyTree[Array]) -> Params:
        """Adjust parameters as the network's scheme does, and multiply the weights."""
        adjusted = self.base.adjust(params, xs)
        # `init` has multiplied the weights, unless the scheme is data-driven.
        if not self.base.data_driven:
            return adjusted
        return scaled(adjusted, self.base.anatomy, self.factors)

    @property
    def training(self) -> Network:
        """The network as it is trained, with the same gains."""
        # Gains multiply leaves of params, which both modes share.
        return self._with_base(self.base.training)

    def __repr__(self) -> str:
        first, last = self.gains.span
        return f"{self.base!r}.calibrated(span=({first!r}, {last!r}))"


def scaled(
    params: Params,
    anatomy: Anatomy,
    factors: Mapping[str, Float[Array | np.ndarray, " slices"]],
) -> Params:
    """Return parameters with the weights of layers multiplied by gains.

    Args:
        params: Parameters.
        anatomy: The anatomy that names the layers.
        factors: From the name of a layer to a gain for each slice; 1 for the others.

    Returns:
        Parameters of the same shapes and dtypes.
    """
    # Layers know their leaves by key path.
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    values = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    for layer in anatomy.layers:
        if layer.name in factors:
            values[layer.path] = _multiplied(
                values[layer.path], layer, factors[layer.name]
            )
    return jax.tree.unflatten(tree, list(values.values()))


def _multiplied(
    leaf: Array,
    layer: WeightLayer,
    gains: Float[Array | np.ndarray, " slices"],
) -> Array:
    """Return a leaf with the slices of one layer multiplied by their gains."""
    # One gain for each slice, and the same along all other axes.
    shape = [1] * leaf.ndim
    stack = stack_sizes(layer, leaf.shape)
    for axis, number in zip(layer.stacked_axes, stack, strict=True):
        shape[axis] = number
    factor = jnp.asarray(gains, leaf.dtype).reshape(shape)
    if not layer.stretches:
        return leaf * factor
    # Other stretches of the leaf are other layers.
    window = [slice(None)] * leaf.ndim
    for axis, start, stop in layer.stretches:
        window[axis] = slice(start, stop)
    return leaf.at[tuple(window)].multiply(factor)
