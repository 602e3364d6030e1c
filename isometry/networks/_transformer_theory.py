"""What theory predicts of transformers: how long tokens are, and how parallel.

All is in the Gram matrix of the tokens of all inputs together, C_st = x_s · x_t/width,
at every point. Branches end with a fresh matrix of mean 0, so they add to it: C' =
skip² C + branch² C_F. A norm divides it by its diagonal.
"""

from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined
from isometry._internal.types import Key
from isometry.networks import _norms, _predicted
from isometry.records import Signals
from isometry.theory.mean_field._attention import mixed_gram
from isometry.theory.mean_field._products import activated

if TYPE_CHECKING:
    from isometry.activations import Activation
    from isometry.networks._transformer import Transformer

# Products of all pairs of tokens of all inputs, over the width.
Gram = Float[np.ndarray, "all_tokens all_tokens"]

# Draws of attention weights in each layer. The error is 1 % of what attention adds.
_SAMPLES = 4096

# The multipliers of a branch and of the stream that it joins, by their leaves.
_MULTIPLIERS = ("branch", "skip")

_GRADIENTS = (
    "not predicted of attention: theory.attention_moments has the Jacobian of a layer, "
    "and theory.collapse_gradients the growth at parallel tokens."
)


class _Stream:
    """The stream between blocks, as it is and as norms see it.

    Attributes:
        gram: The Gram matrix.
        centred: That of tokens whose mean over features is taken off. What branches add
            has the mean 0.
    """

    def __init__(self, gram: Gram, centred: Gram):
        self.gram = gram
        self.centred = centred

    def joined(self, skip: float, branch: float, added: Gram) -> "_Stream":
        """Return skip times the stream, plus branch times what a branch returns."""
        added = branch**2 * added
        return _Stream(skip**2 * self.gram + added, skip**2 * self.centred + added)

    def normed(self, norm: str | None) -> Gram:
        """Return the Gram matrix behind a norm; of none that of the stream."""
        if norm is None:
            return self.gram
        gram = self.centred if norm == "layer" else self.gram
        lengths = np.sqrt(np.diag(gram) + _norms.EPSILON)
        return gram / np.outer(lengths, lengths)


def mean_field(net: "Transformer", xs: ArrayLike) -> Signals:
    """Return the predicted signals, for `Transformer.mean_field`."""
    function = net.function
    if function.attention == "shaped":
        raise NotDefined(
            'attention="shaped" is not followed; write attention="plain", or '
            "isometry.signals(net, keys, xs) to measure."
        )
    if net.scheme.data_driven:
        raise NotDefined(f"{net.scheme.name} adjusts the weights to data.")
    checks.on_host("xs", xs)
    squares = _squares(net)
    multipliers = _multipliers(net)
    stream, grams = _embedded(net, np.asarray(xs), squares)
    for block in range(function.blocks):
        for name in ("attention", "mlp"):
            kind = f"blocks/{name}"
            # A norm in front of a branch is not part of the stream.
            read = stream.normed(function.norm if function.norm_at == "pre" else None)
            if name == "attention":
                last = f"{kind}/output[{block}]"
                found = _attention(net, read, squares, block=block)
            else:
                last = f"{kind}/last[{block}]"
                found = _perceptron(function.activation, read, squares, block=block)
            grams |= found
            branch, skip = (float(multipliers[name][m][block]) for m in _MULTIPLIERS)
            grams[f"{last}:out"] = branch**2 * found[last]
            stream = stream.joined(skip, branch, found[last])
            grams[f"{last}:sum"] = stream.gram
            if function.norm is not None and function.norm_at == "post":
                normed = stream.normed(function.norm)
                stream = _Stream(normed, normed)
                grams[f"{last}:sum:out"] = normed
    output = stream.normed(function.norm if function.norm_at == "pre" else None)
    if function.vocabulary is not None:
        if function.norm is not None and function.norm_at == "pre":
            grams[f"blocks/mlp/last[{function.blocks - 1}]:sum:out"] = output
        output = squares["head", 0] * output
    grams["output"] = output
    return _signals(net, grams)


def _squares(net: "Transformer") -> dict[tuple[str, int], float]:
    """Return fan_in · Var W of each layer, by its name and block.

    Raises:
        NotDefined: Theory does not know the weights, or biases are random.
    """
    ensembles = iter(net.require_assignment().drawn())
    squares: dict[tuple[str, int], float] = {}
    for layer in net.anatomy.layers:
        is_embedding = layer.kind == "embedding"
        if is_embedding and not net.scheme.embeddings:
            # As the skeleton draws it.
            squares[layer.name, 0] = 1.0
            continue
        for block in range(layer.stacked or 1):
            ensemble = next(ensembles)
            if ensemble.sigma_b:
                raise NotDefined("random biases are not followed; write sigma_b=0.")
            square = ensemble.drawn.gain(ensemble.layer) ** 2
            if is_embedding:
                # A token selects a row, so there is no sum over the fan_in.
                square = ensemble.drawn.sigma_w**2 / ensemble.layer.fan_in
            squares[layer.name, block] = square
    return squares


def _multipliers(net: "Transformer") -> dict[str, dict[str, Float[np.ndarray, " n"]]]:
    """Return branch and skip of all blocks, for the attention and the perceptron."""

    def drawn(key: Key) -> dict[str, dict[str, Array]]:
        blocks = net.init(key)["blocks"]
        return {
            name: {multiplier: blocks[name][multiplier] for multiplier in _MULTIPLIERS}
            for name in ("attention", "mlp")
        }

    # They do not depend on the key. Compiled, because then no weight is drawn.
    found = jax.jit(drawn)(jax.random.key(0))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)


def _embedded(
    net: "Transformer",
    xs: np.ndarray,
    squares: dict[tuple[str, int], float],
) -> tuple[_Stream, dict[str, Gram]]:
    """Return the stream in front of the first block, and points of it."""
    function = net.function
    if function.vocabulary is not None:
        is_whole = np.issubdtype(xs.dtype, np.integer)
        if not is_whole or xs.ndim != 2 or xs.shape[1] != function.length:
            raise InputError(
                f"xs is {xs.dtype} of shape {xs.shape}; write tokens, whole numbers of "
                f"shape (inputs, {function.length})."
            )
        tokens = xs.ravel()
        # Rows of different tokens are independent.
        gram = squares["embedding", 0] * (tokens[:, None] == tokens).astype(float)
        grams = {"embedding": gram}
        stream = _Stream(gram, gram)
        name = "embedding:out"
    else:
        checks.examples("xs", xs, function.input_shape)
        values = xs.reshape(-1, function.width).astype(float)
        centred = values - values.mean(axis=1, keepdims=True)
        stream = _Stream(
            values @ values.T / function.width,
            centred @ centred.T / function.width,
        )
        grams = {"input": stream.gram}
        name = "input:out"
    if function.positions is not None:
        positions = np.tile(np.eye(function.length), (len(xs), len(xs)))
        stream = stream.joined(1.0, function.position_scale, positions)
        grams[name] = stream.gram
    return stream, grams


def _attention(
    net: "Transformer",
    read: Gram,
    squares: dict[tuple[str, int], float],
    *,
    block: int,
) -> dict[str, Gram]:
    """Return the points of an attention that reads tokens of this Gram matrix."""
    grams, of = {}, {}
    for name in ("query", "key", "value", "output"):
        of[name] = squares[f"blocks/attention/{name}", block]
    for name in ("query", "key", "value"):
        grams[f"blocks/attention/{name}[{block}]"] = of[name] * read
    mixed = mixed_gram(
        read,
        (of["query"] * of["key"]) ** 0.5,
        causal=net.function.causal,
        samples=_SAMPLES,
        rng=np.random.default_rng(block),
        length=net.function.length,
    )
    output = of["value"] * of["output"] * mixed
    grams[f"blocks/attention/output[{block}]"] = output
    return grams


def _perceptron(
    phi: "Activation",
    read: Gram,
    squares: dict[tuple[str, int], float],
    *,
    block: int,
) -> dict[str, Gram]:
    """Return the points of a perceptron that reads tokens of this Gram matrix."""
    hidden = squares["blocks/mlp/first", block] * read
    behind = activated(phi, hidden).gram
    return {
        f"blocks/mlp/first[{block}]": hidden,
        f"blocks/mlp/first[{block}]:out": behind,
        f"blocks/mlp/last[{block}]": squares["blocks/mlp/last", block] * behind,
    }


def _signals(net: "Transformer", grams: dict[str, Gram]) -> Signals:
    """Put the fields together, point by point."""
    function = net.function
    length = function.length
    of_inputs, sizes = {}, {}
    for name, gram in grams.items():
        num_inputs = len(gram) // length
        # Products of tokens at the same position, for each pair of inputs.
        blocks = gram.reshape(num_inputs, length, num_inputs, length)
        of_inputs[name] = np.einsum("atbt->ab", blocks) / length
        width = function.width
        if "mlp/first" in name:
            width = function.mlp * function.width
        if name == "output" and function.vocabulary is not None:
            width = function.vocabulary
        sizes[name] = length * width
    return _predicted.record(
        of_inputs,
        {"output": np.ones(len(of_inputs["output"]))},
        {},
        sizes=sizes,
        reasons=[(field, _GRADIENTS) for field in ("gradient", "apjn", "chi")],
    )
