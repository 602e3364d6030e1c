"""The part of the zoo with attention, or with experts: 8 tokens, 8 channels."""

import functools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.zoo import _plants
from benchmarks.zoo._case import Weights
from benchmarks.zoo._family import Family
from benchmarks.zoo._plants import Units, view
from isometry import networks
from isometry.networks import Network

_VECTORS, _TOKENS = (8, 8), 12


@functools.cache
def _pre_norm() -> Network:
    """Build two blocks of two heads, layer norm before each branch."""
    return networks.transformer(8, 2, 2, length=8)


@functools.cache
def _post_norm() -> Network:
    """Build the same with layer norm behind each sum."""
    return networks.transformer(8, 2, 2, length=8, norm_at="post")


@functools.cache
def _without_norm() -> Network:
    """Build blocks without a norm, where every token sees all tokens."""
    return networks.transformer(8, 2, 2, length=8, norm=None, causal=False)


@functools.cache
def _tokens() -> Network:
    """Build a model of tokens, with positions and a head of its own."""
    return networks.transformer(
        8, 2, 2, length=8, vocabulary=_TOKENS, positions="learned"
    )


class _Encoder(nn.Module):
    """Two blocks of Flax, pre-norm, and a dense head behind the mean of the tokens."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(2):
            h = nn.LayerNorm(name=f"norm_{i}")(x)
            x = x + nn.MultiHeadDotProductAttention(2, name=f"attention_{i}")(h, h)
            h = nn.LayerNorm(name=f"mlp_norm_{i}")(x)
            h = nn.gelu(nn.Dense(16, name=f"first_{i}")(h))
            x = x + nn.Dense(8, name=f"second_{i}")(h)
        return nn.Dense(4, name="head")(x.mean(-2))


@functools.cache
def _flax() -> Network:
    """Build a Flax transformer."""
    return networks.flax(_Encoder(), jnp.zeros(_VECTORS))


def _apply_experts(params: dict[str, Array], x: Array) -> Array:
    """Mix four experts of six hidden units by a softmax of a gate."""
    gates = jax.nn.softmax(x @ params["gate"])
    hidden = jnp.tanh(jnp.einsum("c,ecd->ed", x, params["first"]))
    outputs = jnp.einsum("ed,edc->ec", hidden, params["second"])
    return (gates @ outputs) @ params["head"]


def _draw_experts(key: Array) -> dict[str, Array]:
    """Draw Gaussian weights of variance 1/fan_in."""
    shapes = {"gate": (8, 4), "first": (4, 8, 6), "second": (4, 6, 8), "head": (8, 4)}
    keys = jax.random.split(key, len(shapes))
    drawn = {}
    for key_one, (name, shape) in zip(keys, shapes.items(), strict=True):
        drawn[name] = jax.random.normal(key_one, shape) / shape[-2] ** 0.5
    return drawn


@functools.cache
def _experts() -> Network:
    """Build a mixture of experts."""
    return networks.function(_apply_experts, _draw_experts, jnp.zeros(8))


def _heads(weights: Weights) -> Units:
    """Return the heads of the first block."""
    prefix = "blocks/attention"
    query, key = f"{prefix}/query", f"{prefix}/key"
    value, output = f"{prefix}/value", f"{prefix}/output"
    gates = []
    for name in (query, key):
        gates += [view(weights[f"{name}/w"][0], -2), weights[f"{name}/b"][0]]
    return Units(
        into=[view(weights[f"{value}/w"][0], -2), weights[f"{value}/b"][0]],
        out=[weights[f"{output}/w"][0]],
        gates=gates,
    )


def _flax_heads(weights: Weights) -> Units:
    """Return the heads of the first block of the Flax transformer."""
    prefix = "params/attention_0"
    gates = []
    for name in (f"{prefix}/query", f"{prefix}/key"):
        gates += [view(weights[f"{name}/kernel"], -2), weights[f"{name}/bias"]]
    value = f"{prefix}/value"
    return Units(
        into=[view(weights[f"{value}/kernel"], -2), weights[f"{value}/bias"]],
        out=[weights[f"{prefix}/out/kernel"]],
        gates=gates,
    )


def _hidden(weights: Weights) -> Units:
    """Return the hidden units of the first perceptron."""
    first, last = "blocks/mlp/first", "blocks/mlp/last"
    return Units(
        into=[view(weights[f"{first}/w"][0], -1), weights[f"{first}/b"][0]],
        out=[view(weights[f"{last}/w"][0], -2)],
    )


def _whole_experts(weights: Weights) -> Units:
    """Return experts, units of the gate: equal ones have equal columns of it."""
    return Units(
        into=[weights["second"]],
        out=[],
        gates=[weights["first"], view(weights["gate"], -1)],
    )


def _dead_experts(weights: Weights) -> None:
    """Set both weights of two experts to zero: each waits for the other."""
    weights["first"][:2] = 0
    weights["second"][:2] = 0


def _unborn_experts(weights: Weights) -> None:
    """Set the last weight of two experts to zero: it learns at the first step."""
    weights["second"][:2] = 0


def _no_skips(weights: Weights) -> None:
    """Leave nothing but attention: no skips around it, and no perceptrons.

    Logits of zero give each token the mean of all, so that one block makes all tokens
    one, to rounding. Queries stay random, so that keys get a gradient where any can.
    """
    weights["blocks/attention/skip"][...] = 0
    weights["blocks/mlp/branch"][...] = 0
    weights["blocks/attention/key/w"][...] *= 1e-3


def _equal_flax_blocks(weights: Weights) -> None:
    """Give the second block the weights of the first, as a key used twice does."""
    for name, array in weights.items():
        parts = name.split("/")
        if parts[1].endswith("_1"):
            parts[1] = f"{parts[1][:-2]}_0"
            array[...] = weights["/".join(parts)]


def _one_embedding(weights: Weights) -> None:
    """Give all tokens the same vector, so that the network cannot tell inputs apart."""
    table = weights["embedding/w"]
    table[...] = table[:1]


def _names(layer: str) -> tuple[str, ...]:
    """Return the weight and the bias of an attention's layer."""
    return (f"blocks/attention/{layer}/w", f"blocks/attention/{layer}/b")


_LOCKED_HEADS = "zero_gradient attention_collapse"

PRE_NORM = Family("attention-pre_norm", _pre_norm, _VECTORS)
POST_NORM = Family("attention-post_norm", _post_norm, _VECTORS)
WITHOUT_NORM = Family("attention-without_norm", _without_norm, _VECTORS)
TOKENS = Family("attention-tokens", _tokens, (8,), tokens=_TOKENS)
FLAX = Family("attention-flax", _flax, _VECTORS)
EXPERTS = Family("experts", _experts, (8,))

_OF_PRE_NORM = (
    PRE_NORM.healthy(),
    # Equal queries, keys, values and readers: one head, counted twice. Opposite values
    # and readers put out the same.
    *PRE_NORM.pairs(_heads, "twin opposite near_twin", of="heads"),
    PRE_NORM.equal_blocks("blocks/"),
    PRE_NORM.near_equal_blocks("blocks/"),
    # Queries and keys at zero: each is the gradient of the other.
    PRE_NORM.zeroed(
        "zero_query_key",
        [*_names("query"), *_names("key")],
        _LOCKED_HEADS,
        unasked="locked_symmetry",
    ),
    # Queries alone: keys have no gradient in one step, and then they do.
    PRE_NORM.zeroed("zero_query", _names("query"), "zero_gradient"),
    # Values and their reader at zero: the whole attention waits for ever.
    PRE_NORM.zeroed(
        "zero_value_output",
        [*_names("value"), *_names("output")],
        "zero_gradient dead_branch",
        unasked="locked_symmetry attention_collapse dead_units",
    ),
    # The reader alone: values have no gradient in one step.
    PRE_NORM.zeroed("zero_output", _names("output"), "zero_gradient"),
    # At -100 gelu is zero, and so is its slope, to the last bit of float32.
    PRE_NORM.broken(
        "dead_units",
        partial(_plants.kill, name="blocks/mlp/first/b", count=16, index=0),
        "dead_units",
        unasked="locked_symmetry",
    ),
    *PRE_NORM.pairs(_hidden, "twin", of="units"),
)

_OF_OTHER_NORMS = (
    POST_NORM.healthy(),
    *POST_NORM.pairs(_heads, "twin", of="heads"),
    POST_NORM.equal_blocks("blocks/"),
    WITHOUT_NORM.healthy(),
    WITHOUT_NORM.broken(
        "no_skips",
        _no_skips,
        "attention_collapse",
        unasked="zero_gradient dead_branch locked_symmetry",
    ),
)

_OF_TOKENS = (
    TOKENS.healthy(),
    *TOKENS.pairs(_heads, "twin near_twin", of="heads"),
    TOKENS.equal_blocks("blocks/"),
    TOKENS.zero_head("head/w"),
    # All inputs are one to the network, though rows of the table part in training.
    TOKENS.broken(
        "one_embedding",
        _one_embedding,
        "rank_collapse",
        unasked="attention_collapse",
    ),
)

_OF_FLAX = (
    FLAX.healthy(),
    *FLAX.pairs(_flax_heads, "twin near_twin", of="heads"),
    # Blocks of Flax have names of their own: "attention_0", "attention_1".
    FLAX.broken("equal_blocks", _equal_flax_blocks, "duplicate_blocks"),
    FLAX.zeroed(
        "zero_query_key",
        ["params/attention_0/query/kernel", "params/attention_0/key/kernel"],
        _LOCKED_HEADS,
        unasked="locked_symmetry",
    ),
    FLAX.zero_head("params/head/kernel"),
)

_OF_EXPERTS = (
    EXPERTS.healthy(),
    EXPERTS.broken(
        "dead",
        _dead_experts,
        "locked_symmetry dead_units",
        unasked="zero_gradient",
    ),
    EXPERTS.broken("unborn", _unborn_experts, unasked="zero_gradient"),
    *EXPERTS.pairs(_whole_experts, "twin near_twin"),
)

CASES = (
    *_OF_PRE_NORM,
    *_OF_OTHER_NORMS,
    *_OF_TOKENS,
    *_OF_FLAX,
    *_OF_EXPERTS,
)
