"""Transformers: attention and a two-layer perceptron in residual blocks, scanned."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from isometry import schemes
from isometry._internal import checks, randomness
from isometry._internal.errors import InputError, NotDefined, public
from isometry._internal.types import Initializer, Key, Params
from isometry.activations import Activation
from isometry.networks import _arguments, _norms, _transformer_theory
from isometry.networks._network import Built
from isometry.records import Signals
from isometry.schemes import Scheme
from isometry.theory import Law, Moments

# One vector for each token.
Tokens = Float[Array, "length width"]

# Batch norm is left out, because its statistics would mix later positions of a sequence
# into earlier ones.
_NORMS = ("layer", "rms")

# Initial standard deviation of the learned vectors of positions, as in GPT-2 and BERT.
# At 1 they would be as large as the embeddings of tokens; at 0 a model that is not
# causal could not tell at which position a token stands.
_POSITION_SCALE = 0.02


@dataclasses.dataclass(frozen=True)
class TransformerFunction:
    """The map (params, x) -> output of a transformer.

    Attributes:
        width: The size of the vector of a token.
        blocks: The number of blocks, each with an attention and a perceptron.
        heads: The number of heads of each attention.
        mlp: The hidden width of the perceptrons, divided by `width`.
        activation: The activation of the perceptrons.
        norm: "layer", "rms", or None.
        norm_at: "pre" or "post".
        causal: Whether a token attends to itself and earlier tokens only.
        vocabulary: The number of different tokens; None if x is vectors.
        length: The number of tokens.
        positions: "learned", or None.
        attention: "plain", or "shaped".
    """

    width: int
    blocks: int
    heads: int
    mlp: int
    activation: Activation
    norm: str | None
    norm_at: str
    causal: bool
    vocabulary: int | None
    length: int
    positions: str | None
    attention: str = "plain"

    @property
    def position_scale(self) -> float:
        """The standard deviation of the vectors of positions before training."""
        return _POSITION_SCALE

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one x."""
        if self.vocabulary is None:
            return (self.length, self.width)
        return (self.length,)

    @public("transformer")
    def __call__(
        self,
        params: Params,
        x: Array,
    ) -> Float[Array, "length n_out"]:
        h = self._embedded(params, x)
        # Scanned, so that compile time does not grow with the number of blocks.
        h, _ = jax.lax.scan(self._block, h, params["blocks"])
        if self.norm is not None and self.norm_at == "pre":
            # Pre-norm blocks normalize what branches read, never the stream itself.
            h = _norms.normalize(self.norm, params["norm"], h)
        if self.vocabulary is None:
            return h
        return h @ params["head"]["w"]

    def _embedded(
        self,
        params: Params,
        x: Array,
    ) -> Tokens:
        """Return the stream before the first block.

        It is x, or the embeddings of the tokens x, plus the vectors of the positions.

        Raises:
            InputError: x has another shape than `input_shape`, or is not real; tokens
                are not whole numbers.
        """
        dtype = params["blocks"]["mlp"]["first"]["w"].dtype
        # Tokens keep their dtype: they select rows.
        if self.vocabulary is not None:
            dtype = jnp.result_type(x)
        x = _arguments.one_example(x, self.input_shape, dtype, kind="sequence")
        if self.vocabulary is None:
            h = x
        else:
            if not jnp.issubdtype(x.dtype, jnp.integer):
                raise InputError(
                    f"x is {x.dtype}; this network takes tokens, whole numbers below "
                    f"{self.vocabulary}."
                )
            # JAX clips indices by default, so that a token beyond the vocabulary would
            # silently be the last one. Here it becomes NaN.
            h = params["embedding"]["w"].at[x].get(mode="fill", fill_value=jnp.nan)
        if self.positions is not None:
            h = h + params["positions"]
        return h

    def _block(
        self,
        h: Tokens,
        params: Params,
    ) -> tuple[Tokens, None]:
        """Return the stream behind one block, and None: the body of a scan over blocks.

        The None is what a scan would stack over blocks: nothing.
        """
        h = self._residual(h, params["attention"], self._attention)
        h = self._residual(h, params["mlp"], self._mlp)
        return h, None

    def _residual(
        self,
        h: Tokens,
        params: Params,
        branch: Callable[[Params, Tokens], Tokens],
    ) -> Tokens:
        """Return the stream behind one branch: skip h + branch F(h), and its norm.

        Args:
            h: The stream before the branch.
            params: The parameters of the branch, with "skip", "branch" and "norm".
            branch: The branch F, called with `params` and the normalized stream.
        """
        # Each branch has a norm of its own, with parameters of its own.
        normed = h
        if self.norm is not None and self.norm_at == "pre":
            normed = _norms.normalize(self.norm, params["norm"], h)
        h = params["skip"] * h + params["branch"] * branch(params, normed)
        if self.norm is not None and self.norm_at == "post":
            h = _norms.normalize(self.norm, params["norm"], h)
        return h

    def _attention(self, params: Params, h: Tokens) -> Tokens:
        """Return the result of the attention at h, of the shape of h."""
        query = _to_heads(params["query"], h)
        key = _to_heads(params["key"], h)
        value = _to_heads(params["value"], h)
        # In the products, h counts heads, q and k positions, e the entries of a head,
        # and d those of the stream.
        logits = jnp.einsum("qhe,khe->hqk", query, key)
        # Scaled so that logits are of order one if queries and keys are (Vaswani et
        # al., 2017).
        logits = logits / (self.width // self.heads) ** 0.5
        visible = jnp.ones((self.length, self.length), bool)
        if self.causal:
            # -inf gives a softmax of exactly 0. No row is -inf as a whole, which would
            # give NaN, because a token always sees itself.
            visible = jnp.tril(visible)
            logits = jnp.where(visible[None], logits, -jnp.inf)
        weights = jax.nn.softmax(logits)
        if self.attention == "shaped":
            # C is the softmax at logits of 0: all visible tokens have the same weight.
            ones = visible.astype(h.dtype)
            uniform = ones / ones.sum(1, keepdims=True)
            identity = jnp.eye(self.length, dtype=h.dtype)
            fixed = params["alpha"] * identity - params["gamma"] * uniform
            weights = params["beta"] * weights + fixed[None]
        mixed = jnp.einsum("hqk,khe->qhe", weights, value)
        output = params["output"]
        return jnp.einsum("qhe,hed->qd", mixed, output["w"]) + output["b"][None]

    def _mlp(self, params: Params, h: Tokens) -> Tokens:
        """Return W2 phi(W1 h + b1) + b2 for each token."""
        hidden = h @ params["first"]["w"] + params["first"]["b"][None]
        last = params["last"]
        return self.activation(hidden) @ last["w"] + last["b"][None]


def _to_heads(layer: Params, h: Tokens) -> Float[Array, "length heads size"]:
    """Return the queries, keys or values of all heads at h."""
    return jnp.einsum("td,dhe->the", h, layer["w"]) + layer["b"][None]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Transformer(Built):
    """A transformer: what `transformer` returns.

    Attributes:
        function: The map (params, x) -> output alone.
        branch: The initial multiplier of the two branches of each block.
        dtype: The dtype of the parameters.
    """

    function: TransformerFunction
    branch: tuple[float, ...]
    dtype: np.dtype

    @property
    def layer_activations(self) -> Mapping[str, Activation]:
        """The activation for the two layers of the perceptrons."""
        activation = self.function.activation
        return {"blocks/mlp/first": activation, "blocks/mlp/last": activation}

    @public("mean_field")
    def mean_field(self, xs: ArrayLike) -> Signals:
        """Predict what `isometry.signals` measures, for many features and heads.

        q and c follow from the Gram matrix of all tokens of all inputs, block by block,
        at infinitely many features, heads and entries of a head; apjn, chi and the
        gradient from that of the gradients on their way back, in which the paths
        through queries and keys take part. Attention weights are sampled: 4096 heads in
        each block, so that what a block adds is right to 1 or 2 %. A norm takes one or
        two directions of each token away, which is a share of 2/width of apjn.

        Args:
            xs: Inputs along a first axis: vectors, or tokens if the network has a
                vocabulary.

        Returns:
            The predicted signals, of shape (1, inputs, points): one row for all seeds.

        Raises:
            NotDefined: The scheme has no law, or biases that are random; it is data
                driven; attention="shaped".
            InputError: xs of another shape.

        Example:
            >>> net = networks.transformer(16, 2, heads=4, length=3, scheme="gpt2")
            >>> sig = net.mean_field(jnp.ones((1, 3, 16)).at[:, :, ::2].set(-1.0))
            >>> round(float(sig.at("blocks/mlp/first[0]").q[0, 0]), 6)
            0.0064
        """
        return _transformer_theory.mean_field(self, xs)

    @public("law")
    def law(self, span: str, xs: ArrayLike) -> Law:
        """Refuse: no law is known where attention weights depend on the tokens.

        Args:
            span: "end_to_end" or "hidden".
            xs: Inputs along a first axis.

        Returns:
            Nothing: it always raises.

        Raises:
            NotDefined: Always. The message says which functions to call instead.

        Example:
            The law of four layers of uniform attention, without norms or perceptrons:

            >>> law = theory.uniform_attention_law(8, [0.5] * 4)
            >>> round(law.moment(1), 6)
            1.180176
        """
        raise NotDefined(
            "no law is known of blocks of attention: its weights depend on the tokens, "
            "which adds singular values that grow with the width. "
            "theory.uniform_attention_law has the law of layers of uniform attention, "
            "theory.attention_moments what is known of one attention with its skip, "
            "and isometry.ensemble measures."
        )

    @public("moments")
    def moments(self, span: str, xs: ArrayLike) -> Moments:
        """Refuse: mean and variance over several blocks are not known.

        Args:
            span: "end_to_end" or "hidden".
            xs: Inputs along a first axis.

        Returns:
            Nothing: it always raises.

        Raises:
            NotDefined: Always. The message says which functions to call instead.

        Example:
            >>> import numpy as np
            >>> gram = np.full((3, 3), 0.3) + 0.7 * np.eye(3)
            >>> moments = theory.attention_moments(gram, sigma_q=0.0, skip=0.0)
            >>> round(moments.value, 4)
            0.3333
        """
        raise NotDefined(
            "the variance of lam over blocks of attention is not known: tokens are "
            "mixed by weights that depend on them. The mean is apjn of net.mean_field; "
            "theory.attention_moments has one attention with its skip, "
            "theory.collapse_gradients a block at parallel tokens, "
            "theory.uniform_attention_law layers of uniform attention, and "
            "isometry.ensemble measures."
        )

    def skeleton(self, key: Key) -> Params:
        """Return the parameters before a scheme draws the weights.

        Weights and biases are 0, scales of norms 1, embeddings N(0, 1), positions
        N(0, 0.02**2).
        """
        function = self.function
        width = function.width
        key_embedding, key_positions = randomness.split(key)
        # Embeddings and positions are drawn here: a scheme draws embeddings only if it
        # has a law for them, and never positions.
        params = {"blocks": self._blocks()}
        if function.vocabulary is not None:
            shape = (function.vocabulary, width)
            rows = jax.random.normal(key_embedding, shape, self.dtype)
            params["embedding"] = {"w": rows}
            params["head"] = {"w": jnp.zeros((width, function.vocabulary), self.dtype)}
        if function.positions is not None:
            shape = (function.length, width)
            unit = jax.random.normal(key_positions, shape, self.dtype)
            params["positions"] = _POSITION_SCALE * unit
        if function.norm is not None and function.norm_at == "pre":
            params["norm"] = _norms.initial_leaves(function.norm, width, self.dtype)
        return params

    def _blocks(self) -> Params:
        """Return the parameters of all blocks before a scheme draws the weights.

        Each leaf has a first axis over blocks.
        """
        function = self.function
        width, heads = function.width, function.heads
        size = width // heads
        hidden = function.mlp * width
        shapes = {
            "attention": {
                # Heads have an axis of their own, by which the anatomy recognizes them,
                # and schemes that draw each head by itself.
                "query": {"w": (width, heads, size), "b": (heads, size)},
                "key": {"w": (width, heads, size), "b": (heads, size)},
                "value": {"w": (width, heads, size), "b": (heads, size)},
                "output": {"w": (heads, size, width), "b": (width,)},
            },
            "mlp": {
                "first": {"w": (width, hidden), "b": (hidden,)},
                "last": {"w": (hidden, width), "b": (width,)},
            },
        }
        leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda a: isinstance(a, tuple))
        stacked = tuple((function.blocks, *shape) for shape in leaves)
        blocks = jax.tree.unflatten(tree, _zeros(stacked, self.dtype))
        for name in shapes:
            blocks[name]["branch"] = jnp.asarray(self.branch, self.dtype)
            blocks[name]["skip"] = jnp.ones(function.blocks, self.dtype)
            if function.norm is not None:
                norm = _norms.initial_leaves(function.norm, width, self.dtype)
                blocks[name]["norm"] = jax.tree.map(self._stacked, norm)
        if function.attention == "shaped":
            # These values give the plain softmax, unless the scheme sets others.
            for name, start in (("alpha", 0.0), ("beta", 1.0), ("gamma", 0.0)):
                blocks["attention"][name] = jnp.full(function.blocks, start, self.dtype)
        return blocks

    def _stacked(self, leaf: Array) -> Array:
        """Return a leaf repeated along a new first axis over blocks."""
        return jnp.repeat(leaf[None], self.function.blocks, axis=0)

    def __repr__(self) -> str:
        function = self.function
        return (
            f"transformer({function.width}, {function.blocks}, {function.heads}, "
            f"length={function.length}, activation={function.activation.name!r}, "
            f"norm={function.norm!r}, norm_at={function.norm_at!r}, "
            f"scheme={self.scheme!r})"
        )


# One program, not one for each of the shapes.
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _zeros(shapes: tuple[tuple[int, ...], ...], dtype: np.dtype) -> list[Array]:
    return [jnp.zeros(shape, dtype) for shape in shapes]


@public("networks.transformer")
def transformer(
    width: int,
    blocks: int,
    heads: int,
    *,
    mlp: int = 4,
    activation: str | Activation | Callable[[Array], Array] = "gelu",
    norm: str | None = "layer",
    norm_at: str = "pre",
    causal: bool = True,
    vocabulary: int | None = None,
    length: int,
    positions: str | None = None,
    branch: float | Sequence[float] = 1.0,
    scheme: str | Scheme | Initializer = "gpt2",
    attention: str = "plain",
) -> Transformer:
    """Build a transformer.

    A block computes x' = skip x + branch F(x) twice: first F is the attention, then a
    perceptron W2 phi(W1 x). With norm_at="pre", F reads Norm(x), and the output of the
    last block is normalized once more. With "post", x' is normalized. `skip` and
    `branch` are parameters, one of each for every F. They start at 1 and at the
    argument `branch`, unless the scheme sets them (rezero, deep_norm).

    With attention="shaped" the softmax A of the logits becomes alpha I + beta A - gamma
    C (Noci et al., 2023): I is the identity, and C is A at logits of 0, where all
    visible tokens have the same weight. The three numbers are parameters of each block.
    They start at 0, 1 and 0, unless the scheme sets them (shaped_attention,
    value_skipinit).

    Without `vocabulary`, x and the output are vectors (length, width). With it, x is
    tokens (length,), whole numbers, and the output is logits (length, vocabulary). The
    matrix of the logits is not that of the embedding. A token outside the vocabulary
    makes logits NaN.

    Points are "blocks/attention/query[0]", "blocks/attention/output[0]:sum" (the stream
    after the first attention), "blocks/mlp/first[0]", "blocks/mlp/last[0]:sum", ...,
    "head". A span such as `("input", ("output", -1))` has the Jacobian of the last
    output vector alone; for tokens it is `("embedding", ("output", -1))`.

    Args:
        width: The size of the vector of a token; a multiple of `heads`.
        blocks: The number of blocks.
        heads: The number of heads of each attention.
        mlp: The hidden width of the perceptrons, divided by `width`.
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        norm: "layer", "rms", or None for none.
        norm_at: "pre" or "post".
        causal: Whether a token attends to itself and earlier tokens only.
        vocabulary: The number of different tokens. None: x is vectors.
        length: The number of tokens of x.
        positions: "learned" adds to the vector of each token a learned vector of its
            position. None adds none.
        branch: The initial multiplier of branches: one number, or one per block.
        scheme: A scheme's name, an initializer's that needs no arguments, an
            initializer, or a `Scheme`.
        attention: "plain" or "shaped".

    Returns:
        A network whose parameters are "blocks", with "attention" ("query", "key",
        "value", "output", and if shaped "alpha", "beta", "gamma") and "mlp" ("first",
        "last"), each with "norm", "branch" and "skip", all stacked over blocks; and
        "embedding", "positions", "norm" and "head" where there are such.

    Raises:
        InputError: An argument is not of this form.
        NotDefined: The scheme has no meaning for one of the layers.

    Example:
        >>> net = networks.transformer(16, 2, heads=4, length=5)
        >>> params = net.init(jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (5, 16))
        >>> net(params, x).shape
        (5, 16)
        >>> sp = isometry.spectrum(net, params, x, span=("input", ("output", 0)))
        >>> sp.size
        16
    """
    sizes = {"width": width, "blocks": blocks, "heads": heads, "mlp": mlp}
    for name, size in (sizes | {"length": length}).items():
        checks.integer(name, size, low=1)
    if width % heads:
        raise InputError(
            f"width={width} is no multiple of heads={heads}; write "
            f"width={-(-width // heads) * heads}."
        )
    if vocabulary is not None:
        checks.integer("vocabulary", vocabulary, low=1)
    if norm is not None:
        checks.one_of("norm", norm, _NORMS)
    checks.one_of("norm_at", norm_at, ("pre", "post"))
    if positions is not None:
        checks.one_of("positions", positions, ("learned",))
    checks.one_of("attention", attention, ("plain", "shaped"))
    phi = _arguments.elementwise(activation)
    function = TransformerFunction(
        width=int(width),
        blocks=int(blocks),
        heads=int(heads),
        mlp=int(mlp),
        activation=phi,
        norm=norm,
        norm_at=norm_at,
        causal=_arguments.boolean("causal", causal),
        vocabulary=None if vocabulary is None else int(vocabulary),
        length=int(length),
        positions=positions,
        attention=attention,
    )
    dtype = checks.float_dtype(None)
    of_x = dtype if vocabulary is None else jnp.dtype(jnp.int32)
    net = Transformer(
        function=function,
        example=jax.ShapeDtypeStruct(function.input_shape, of_x),
        scheme=schemes.get(scheme),
        activation=phi,
        branch=_one_per_block(branch, function.blocks),
        dtype=dtype,
    )
    # A scheme that does not fit these layers says so now, and not at the first draw.
    net.require_assignment()
    return net


def _one_per_block(
    branch: float | Sequence[float],
    blocks: int,
) -> tuple[float, ...]:
    """Return the initial multiplier of the branches, one number per block.

    Args:
        branch: The argument of `transformer`.
        blocks: The number of blocks.

    Raises:
        InputError: Another number of entries, or an entry that is not finite.
    """
    if isinstance(branch, Sequence) and not isinstance(branch, str):
        if len(branch) != blocks:
            raise InputError(
                f"branch has {len(branch)} numbers for {blocks} blocks; write one "
                "number, or one per block."
            )
        return tuple(
            float(checks.number(f"branch[{i}]", one)) for i, one in enumerate(branch)
        )
    return (float(checks.number("branch", branch)),) * blocks
