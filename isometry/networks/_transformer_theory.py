"""What theory predicts of transformers: tokens on their way, and gradients back.

Forward, all is in the Gram matrix of the tokens of all inputs together, C_st = x_s ·
x_t/width, at every point. Branches end with a fresh matrix of mean 0, so they add to
it: C' = skip² C + branch² C_F. A norm divides it by its diagonal.

Backward, it is in the Gram matrix of the gradients at the tokens of one input. Branches
begin with fresh matrices, so they add likewise, and norms divide by the same numbers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

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
from isometry.theory.mean_field._attention_gradients import pulled_back
from isometry.theory.mean_field._products import activated, products

if TYPE_CHECKING:
    from isometry.activations import Activation
    from isometry.networks._transformer import Transformer

# Products of all pairs of tokens of all inputs, over the width.
Gram = Float[np.ndarray, "all_tokens all_tokens"]

# Products of gradients at all pairs of tokens of one input, summed over features.
Gradient = Float[np.ndarray, "inputs tokens tokens"]

# Draws of attention weights in each layer. The error is 1 % of what attention adds.
_SAMPLES = 4096

# The multipliers of a branch and of the stream that it joins, by their leaves.
_MULTIPLIERS = ("branch", "skip")

# The last layers of branches.
_LAST = {"attention": "output", "mlp": "last"}


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

    def joined(
        self,
        skip: float,
        branch: float,
        added: Gram,
    ) -> "_Stream":
        """Return skip times the stream, plus branch times what a branch returns."""
        added = branch**2 * added
        gram = skip**2 * self.gram + added
        centred = skip**2 * self.centred + added
        return _Stream(gram, centred)

    def normed(self, norm: str | None) -> Gram:
        """Return the Gram matrix behind a norm; of none that of the stream."""
        if norm is None:
            return self.gram
        gram = self.centred if norm == "layer" else self.gram
        lengths = np.sqrt(self.squares(norm))
        return gram / np.outer(lengths, lengths)

    def squares(self, norm: str | None) -> Float[np.ndarray, " all_tokens"]:
        """Return by what a norm divides the squares of tokens; 1 of none."""
        if norm is None:
            return np.ones(len(self.gram))
        gram = self.centred if norm == "layer" else self.gram
        return np.diag(gram) + _norms.EPSILON


class _Branch(NamedTuple):
    """A branch on the way forward, as the way back needs it.

    Attributes:
        name: "attention" or "mlp".
        block: The block in which it is.
        read: The Gram matrix of the tokens that it reads.
        skip: The multiplier of the stream.
        branch: The multiplier of what it returns.
        norm_before: By what the norm in front of it divides squares.
        norm_behind: By what the norm behind the join divides squares.
    """

    name: str
    block: int
    read: Gram
    skip: float
    branch: float
    norm_before: Float[np.ndarray, " all_tokens"]
    norm_behind: Float[np.ndarray, " all_tokens"]

    @property
    def last(self) -> str:
        """The point behind the last layer of the branch."""
        return self.point(_LAST[self.name])

    def point(self, layer: str) -> str:
        """Return the point behind a layer of the branch."""
        return f"blocks/{self.name}/{layer}[{self.block}]"


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
    norm_before = function.norm if function.norm_at == "pre" else None
    norm_behind = function.norm if function.norm_at == "post" else None
    branches = []
    for block in range(function.blocks):
        for name in ("attention", "mlp"):
            # A norm in front of a branch is not part of the stream.
            read = stream.normed(norm_before)
            branch, skip = (multipliers[name][m][block] for m in _MULTIPLIERS)
            if name == "attention":
                found = _attention(net, read, squares, block=block)
            else:
                found = _perceptron(function.activation, read, squares, block=block)
            last = f"blocks/{name}/{_LAST[name]}[{block}]"
            before = stream.squares(norm_before)
            grams |= found
            grams[f"{last}:out"] = branch**2 * found[last]
            stream = stream.joined(skip, branch, found[last])
            grams[f"{last}:sum"] = stream.gram
            behind = stream.squares(norm_behind)
            if norm_behind is not None:
                normed = stream.normed(norm_behind)
                stream = _Stream(normed, normed)
                grams[f"{last}:sum:out"] = normed
            step = _Branch(
                name=name,
                block=block,
                read=read,
                skip=skip,
                branch=branch,
                norm_before=before,
                norm_behind=behind,
            )
            branches.append(step)
    output = stream.normed(norm_before)
    if function.vocabulary is not None:
        if norm_before is not None:
            grams[f"{branches[-1].last}:sum:out"] = output
        output = squares["head", 0] * output
    grams["output"] = output
    of_output = stream.squares(norm_before)
    apjn = _partial_jacobians(net, branches, squares, of_output=of_output)
    return _signals(net, grams, apjn)


def _partial_jacobians(
    net: "Transformer",
    branches: Sequence[_Branch],
    squares: dict[tuple[str, int], float],
    *,
    of_output: Float[np.ndarray, " all_tokens"],
) -> dict[str, Float[np.ndarray, " inputs"]]:
    """Return |d output/d point|² over the number of outputs, at every point.

    It is the mean square of a gradient whose end at the output is N(0, 1/outputs).

    Args:
        net: The network.
        branches: All branches, first to last.
        squares: fan_in · Var W of each layer.
        of_output: By what the norm in front of the output divides squares.
    """
    function = net.function
    length = function.length
    num_inputs = len(of_output) // length
    apjn = {}

    def at(point: str, gradient: Gradient) -> None:
        apjn[point] = np.trace(gradient, axis1=1, axis2=2)

    # Gradients of different tokens of the output are independent.
    at_output = np.eye(length) / length
    gradient = np.tile(at_output, (num_inputs, 1, 1))
    at("output", gradient)
    if function.vocabulary is not None:
        gradient = squares["head", 0] * gradient
    if function.norm_at == "pre":
        at(f"{branches[-1].last}:sum:out", gradient)
    gradient = _through_norm(gradient, of_output)
    for branch in reversed(branches):
        if function.norm_at == "post":
            at(f"{branch.last}:sum:out", gradient)
        gradient = _through_norm(gradient, branch.norm_behind)
        at(f"{branch.last}:sum", gradient)
        at(f"{branch.last}:out", gradient)
        of_branch = branch.branch**2 * gradient
        at(branch.last, of_branch)
        way_back = _WAYS_BACK[branch.name]
        inside, read = way_back(net, branch, of_branch, squares=squares)
        for point, of_point in inside.items():
            at(point, of_point)
        read = _through_norm(read, branch.norm_before)
        # The stream and the branch have no matrix in common, so their squares add.
        gradient = branch.skip**2 * gradient + read
    # Positions are added to the stream, and the gradient does not see them.
    for name in ("input", "embedding"):
        at(name, gradient)
        at(f"{name}:out", gradient)
    return apjn


def _own(
    gram: Gram,
    length: int,
) -> Float[np.ndarray, "inputs tokens tokens"]:
    """Return the products of tokens of the same input."""
    num_inputs = len(gram) // length
    blocks = gram.reshape(num_inputs, length, num_inputs, length)
    return np.einsum("asat->ast", blocks)


def _through_norm(
    gradient: Gradient,
    squares: Float[np.ndarray, " all_tokens"],
) -> Gradient:
    """Divide gradients by the lengths by which a norm divides its tokens.

    It also takes away one direction of each token, or two: few among many features, and
    the same ones again at the next norm.
    """
    lengths = np.sqrt(squares).reshape(len(gradient), -1)
    return gradient / (lengths[:, :, None] * lengths[:, None, :])


def _through_attention(
    net: "Transformer",
    branch: _Branch,
    gradient: Gradient,
    *,
    squares: dict[tuple[str, int], float],
) -> tuple[dict[str, Gradient], Gradient]:
    """Return gradients at the points of an attention, and at what it reads."""
    of = {}
    for name in ("query", "key", "value", "output"):
        of[name] = squares[f"blocks/attention/{name}", branch.block]
    parts = []
    reads = _own(branch.read, net.function.length)
    for gram, of_input in zip(reads, gradient, strict=True):
        part = pulled_back(
            gram,
            of_input,
            (of["query"] * of["key"]) ** 0.5,
            causal=net.function.causal,
            samples=_SAMPLES,
            rng=np.random.default_rng(branch.block),
        )
        parts.append(np.stack(part))
    by_value, by_query, by_key = of["output"] * np.stack(parts, axis=1)
    # A gradient comes to a query through a key, and the other way round.
    inside = {
        branch.point("value"): by_value,
        branch.point("query"): of["value"] * of["key"] * by_query,
        branch.point("key"): of["value"] * of["query"] * by_key,
    }
    through_logits = of["query"] * of["key"] * (by_query + by_key)
    return inside, of["value"] * (by_value + through_logits)


def _through_perceptron(
    net: "Transformer",
    branch: _Branch,
    gradient: Gradient,
    *,
    squares: dict[tuple[str, int], float],
) -> tuple[dict[str, Gradient], Gradient]:
    """Return gradients at the points of a perceptron, and at what it reads."""
    first = squares["blocks/mlp/first", branch.block]
    last = squares["blocks/mlp/last", branch.block]
    hidden = first * _own(branch.read, net.function.length)
    rows, columns = np.triu_indices(hidden.shape[1])
    own = hidden.diagonal(axis1=1, axis2=2)
    means = products(
        net.function.activation,
        first=own[:, rows].ravel(),
        second=own[:, columns].ravel(),
        covariance=hidden[:, rows, columns].ravel(),
        of_slopes=True,
    ).reshape(len(hidden), -1)
    slopes = np.empty_like(hidden)
    slopes[:, rows, columns] = means
    slopes[:, columns, rows] = means
    behind = last * gradient
    # The slopes of two tokens are correlated, as their pre-activations are.
    before = slopes * behind
    point = branch.point("first")
    return {point: before, f"{point}:out": behind}, first * before


_WAYS_BACK = {"attention": _through_attention, "mlp": _through_perceptron}


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
    """Return the stream in front of the first block, and its Gram matrices by point.

    Args:
        net: The network.
        xs: Tokens (inputs, length), or vectors (inputs, length, width).
        squares: fan_in · Var W of each layer, by its name and block.
    """
    function = net.function
    if function.vocabulary is not None:
        point = "embedding"
        stream = _of_tokens(xs, function.length, squares["embedding", 0])
    else:
        point = "input"
        checks.examples("xs", xs, function.input_shape)
        stream = _of_vectors(xs.reshape(-1, function.width).astype(float))
    grams = {point: stream.gram}
    if function.positions is not None:
        # The vectors of two positions are orthogonal, and those of one position are
        # the same in all inputs: products are 1 where the positions are equal.
        positions = np.tile(np.eye(function.length), (len(xs), len(xs)))
        stream = stream.joined(1.0, function.position_scale, positions)
        grams[f"{point}:out"] = stream.gram
    return stream, grams


def _of_tokens(xs: np.ndarray, length: int, square: float) -> _Stream:
    """Return the stream of embedded tokens, of mean square `square`."""
    is_whole = np.issubdtype(xs.dtype, np.integer)
    if not is_whole or xs.ndim != 2 or xs.shape[1] != length:
        raise InputError(
            f"xs is {xs.dtype} of shape {xs.shape}; write tokens, whole numbers of "
            f"shape (inputs, {length})."
        )
    tokens = xs.ravel()
    # The rows of the embedding are independent, so only equal tokens have a product.
    is_same_token = tokens[:, None] == tokens
    gram = square * is_same_token.astype(float)
    # Entries have mean 0, so that to centre a row changes nothing.
    return _Stream(gram, gram)


def _of_vectors(values: Float[np.ndarray, "all_tokens features"]) -> _Stream:
    """Return the stream of vectors that are read as they are."""
    width = values.shape[1]
    centred = values - values.mean(axis=1, keepdims=True)
    return _Stream(values @ values.T / width, centred @ centred.T / width)


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
    # The layer mixes features and not tokens, so it multiplies the matrix by a number.
    hidden = squares["blocks/mlp/first", block] * read
    behind = activated(phi, hidden).gram
    return {
        f"blocks/mlp/first[{block}]": hidden,
        f"blocks/mlp/first[{block}]:out": behind,
        f"blocks/mlp/last[{block}]": squares["blocks/mlp/last", block] * behind,
    }


def _signals(
    net: "Transformer",
    grams: dict[str, Gram],
    apjn: dict[str, Float[np.ndarray, " inputs"]],
) -> Signals:
    """Put the fields together, point by point."""
    length = net.function.length
    of_inputs = {}
    for name, gram in grams.items():
        num_inputs = len(gram) // length
        # Products of tokens at the same position, for each pair of inputs.
        blocks = gram.reshape(num_inputs, length, num_inputs, length)
        of_inputs[name] = np.einsum("atbt->ab", blocks) / length
    return _predicted.signals(net.anatomy, of_inputs, apjn)
