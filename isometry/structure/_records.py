"""What an anatomy is made of."""

import dataclasses
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class WeightLayer:
    """A weight that meets the signal.

    A weight is a leaf of the parameters, or a function of leaves alone: masked,
    standardized, cast, transposed, reshaped, sliced, stacked. Axes are those of `shape`
    and say what the operation makes of them, whatever the library calls them.

    Attributes:
        name: The path of the leaf in params, without the collection and the leaf's own
            name: "block_0/attn/query". A stretch of a leaf is "qkv[:, 0:64]".
        path: The key path of the leaf as JAX writes it: "['dense']['kernel']".
        kind: "dense", "conv", "embedding" (rows picked by the signal; one-hot times
            matrix is dense) or "other" (nobody can see how it meets the signal).
        shape: The shape of the leaf; of one slice, if it is stacked.
        in_axes: Axes that are summed over; of an embedding, those that are picked from.
        out_axes: Axes of the result.
        batch_axes: Axes that weight, signal and result share.
        window_axes: Spatial axes of a convolution.
        groups: Groups of channels of a convolution.
        fan_in: The number of entries that make one output. Rows of an embedding.
        fan_out: The number of outputs that one input reaches, counted in its own group:
            9 for a depthwise 3×3 kernel, where JAX and torch count otherwise.
        bias: The key path of the bias, or None.
        index: Its place among the layers.
        depth: The number of weight layers on the longest path up to and including it;
            in a scan, in the first iteration.
        role: "stem", "hidden", "head", "recurrent", "query", "key", "value", "qkv",
            "output" (of an attention).
        branch: The name of the residual branch on which it lies, or None.
        stacked: The number of slices of a stacked leaf, or None.
        tied: Whether it meets the signal more than once: a second use, or a recurrence.

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
    tied: bool


class Branch(NamedTuple):
    """A residual branch: a sum of the stream and of what layers have made of it.

    Attributes:
        name: What the names of its layers have in common: "block_0/attn".
        leaves: The point at which it leaves the stream; None where that has no name.
        joins: The point of the sum.
        layers: The names of the layers on it, in order.
        shortcut: The names of the layers on the skip: a projection, or none.

    Example:
        >>> def block(params, x):
        ...     return x + params["w"] @ jnp.tanh(params["v"] @ x)
        >>> params = {"v": jnp.eye(3), "w": jnp.eye(3)}
        >>> (branch,) = isometry.anatomy(block, params, jnp.ones(3)).branches
        >>> branch.leaves, branch.joins, branch.layers
        ('input', 'w:sum', ('v', 'w'))
    """

    name: str
    leaves: str | None
    joins: str
    layers: tuple[str, ...]
    shortcut: tuple[str, ...]


class Attention(NamedTuple):
    """An attention: softmax(query · key) · value, and the layer that reads it.

    Attributes:
        query: Names of the layers that make the queries; empty if none does.
        key: Of those that make the keys.
        value: Of those that make the values. A fused layer is named three times.
        output: Of those that read what the attention returns.

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
