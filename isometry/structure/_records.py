"""The records of an anatomy: weight layers, branches and attentions."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class WeightLayer:
    """A weight that is multiplied with the signal, or looked up by it.

    A weight is a leaf of the parameters, or computed from leaves alone: masked,
    standardized, cast, transposed, reshaped, sliced or stacked. Axes are those of
    `shape`, and are classified by what the operation does with them.

    Attributes:
        name: The path of the leaf in params, without the collection and the last key:
            "block_0/attn/query" for params/block_0/attn/query/kernel. A stretch of a
            leaf is "qkv[:, 0:64]".
        path: The key path of the leaf as JAX writes it: "['dense']['kernel']".
        kind: "dense", "conv", "embedding" (rows selected by the signal; one-hot times
            matrix is dense) or "other" (the operation on the signal cannot be read).
        shape: The shape of the leaf; of one slice, if it is stacked.
        in_axes: Axes that are summed over; of an embedding, the axis of its rows.
        out_axes: Axes of the result.
        batch_axes: Axes along which it has one matrix for each entry: those that
            weight, signal and result share, and those of experts that read one signal.
        window_axes: Spatial axes of a convolution.
        groups: Groups of channels of a convolution.
        fan_in: The number of entries that are summed to one output; of an embedding,
            the number of rows. Of a transposed convolution it is that of its window:
            one output meets `fan_in / prod(spread)` of them on average.
        fan_out: The number of outputs in its own group that one input contributes to: 9
            for a depthwise 3×3 kernel, where JAX and torch count otherwise.
        bias: The key path of the bias, or None.
        index: Its position among the layers.
        depth: The number of weight layers on the longest path up to and including it;
            in a scan, in the first iteration.
        role: "stem", "hidden", "head", "recurrent", "query", "key", "value", "qkv",
            "output" (of an attention).
        branch: The name of the residual branch on which it lies, or None.
        stacked: The number of slices of a stacked leaf, or None.
        stacked_axes: Axes of the leaf along which it is stacked. They are not in
            `shape`, even if there is only one slice.
        stretches: Of a stretch of a leaf: for each axis of the leaf that is cut, the
            axis, where the stretch begins and where it ends. Else empty.
        tied: Whether it is used more than once: at several places, or in every step of
            a recurrence.
        reads: The point that it reads; None if that value is no point.
        before: What the signal passes between that point and this layer, such as the
            norm at the beginning of a branch.
        then: What follows the layer, step by step: ("batch norm", "relu"). Activations
            are named for what they compute. "product" is one with another branch, as in
            a GLU; "leaky relu variant" has another slope; "unnamed (tanh)" is made of a
            tanh, and no activation of the package.
        spread: Of a transposed convolution, its stride along each axis of the image:
            zeros stand between the pixels that its window goes over. Else empty.
        doubtful_axes: Those of `out_axes` along which it may be several layers that
            read one signal; nothing behind it tells.

    Example:
        >>> net = networks.mlp([3, 8, 8, 2], "tanh")
        >>> params = jax.eval_shape(net.init, jax.random.key(0))
        >>> layer = isometry.anatomy(net, params, jnp.ones(3)).layers[0]
        >>> layer.name, layer.kind, layer.fan_in, layer.fan_out, layer.role
        ('layers/0', 'dense', 3, 8, 'stem')
    """

    name: str
    path: str
    kind: str
    shape: tuple[int, ...]
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    batch_axes: tuple[int, ...]
    window_axes: tuple[int, ...]
    groups: int
    fan_in: int
    fan_out: int
    bias: str | None
    index: int
    depth: int
    role: str
    branch: str | None
    stacked: int | None
    stacked_axes: tuple[int, ...]
    stretches: tuple[tuple[int, int, int], ...]
    tied: bool
    reads: str | None
    before: tuple[str, ...]
    then: tuple[str, ...]
    spread: tuple[int, ...] = ()
    doubtful_axes: tuple[int, ...] = ()


def stack_sizes(layer: WeightLayer, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the number of slices of a layer along each of its `stacked_axes`.

    Args:
        layer: The layer.
        shape: The shape of its leaf, of which it may be a stretch.
    """
    lengths = list(shape)
    for axis, start, stop in layer.stretches:
        lengths[axis] = stop - start
    return tuple(lengths[axis] for axis in layer.stacked_axes)


class Branch(NamedTuple):
    """A residual branch: layers whose result is added to their own input, the stream.

    Attributes:
        name: The common prefix of the names of its layers: "block_0/attn". If the same
            layers make several branches, the second one is "block_0/attn#2".
        leaves: The point at which it leaves the stream; None if that value is no point.
        joins: The point of the sum in which it returns to the stream.
        layers: The names of the layers on it, in order.
        shortcut: The names of the layers on the skip: a projection, or none.
        positions: For each of `layers`, how many layers of the branch come before it on
            the longest path: 0 for query, key and value, 1 for the output after them.
            Of a loop within the branch, the first iterations alone are counted. Those
            of `gating` do not count.
        slice: Which slice of its stacked layers it is made of, or None.
        gates: Key paths of leaves that multiply the branch after its last layer: the
            branch, without what is added to it, is zero where one of them is. A trained
            scalar, a scale per channel, or the scale of a norm.
        skip_gates: Key paths of leaves that multiply the skip.
        skip_factor: The fixed number by which the program multiplies the skip, 1 if it
            does not; None if it does something else to the skip.
        gating: Those of `layers` that only say how much of the branch passes: the
            layers in a sigmoid or softmax that multiplies it, such as those of a
            squeeze-and-excitation. If they are zero, the branch is not. Queries and
            keys in front of another layer are not among them. Empty if no layer makes
            the branch zero.

    Example:
        >>> def block(params, x):
        ...     return x + params["a"] * (params["w"] @ jnp.tanh(params["v"] @ x))
        >>> params = {"v": jnp.eye(3), "w": jnp.eye(3), "a": jnp.zeros(())}
        >>> (branch,) = isometry.anatomy(block, params, jnp.ones(3)).branches
        >>> branch.leaves, branch.joins, branch.layers, branch.positions
        ('input', 'w:sum', ('v', 'w'), (0, 1))
        >>> branch.gates
        ("['a']",)
    """

    name: str
    leaves: str | None
    joins: str
    layers: tuple[str, ...]
    shortcut: tuple[str, ...]
    positions: tuple[int, ...] = ()
    slice: int | None = None
    gates: tuple[str, ...] = ()
    skip_gates: tuple[str, ...] = ()
    skip_factor: float | None = 1.0
    gating: tuple[str, ...] = ()


class Attention(NamedTuple):
    """An attention: softmax(query · key) · value, and the layer that reads it.

    Instead of the softmax A alone it may be alpha I + beta A - gamma C that multiplies
    the values, with the identity I, and C uniform over the visible tokens.

    Attributes:
        query: Names of the layers that compute the queries; empty if none does.
        key: Names of the layers that compute the keys.
        value: Names of the layers that compute the values. A fused layer is in all
            three.
        output: Names of the layers that read the result of the attention.
        head_size: Channels of the queries and keys of one head: how many products are
            summed to one logit.
        shares: If one layer makes queries, keys and values: where along its outputs
            each begins and ends. Empty if several layers make them, or if it cannot be
            read.
        alpha: The key path of the leaf that multiplies I, or the number that the
            program fixes; None if it cannot be read.
        beta: The leaf or the number that multiplies A, likewise.
        gamma: The leaf or the number that multiplies -C, likewise.

    Example:
        >>> def attend(params, x):
        ...     q, k, v = (x @ params[name] for name in ("query", "key", "value"))
        ...     return jax.nn.softmax(q @ k.T) @ v @ params["out"]
        >>> names = ("query", "key", "value", "out")
        >>> params = {name: jnp.eye(4) for name in names}
        >>> an = isometry.anatomy(attend, params, jnp.ones((5, 4)))
        >>> an.attentions[0].query, an.attentions[0].output
        (('query',), ('out',))
    """

    query: tuple[str, ...]
    key: tuple[str, ...]
    value: tuple[str, ...]
    output: tuple[str, ...]
    head_size: int | None = None
    shares: tuple[tuple[int, int], ...] = ()
    alpha: str | float | None = 0.0
    beta: str | float | None = 1.0
    gamma: str | float | None = 0.0
