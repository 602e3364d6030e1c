"""Small models of every kind that schemes are assigned to."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from isometry.structure import anatomy

KEY = jax.random.key(0)


class Cnn(nn.Module):
    """Ordinary, grouped and depthwise convolutions, and a dense head."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="stem")(x))
        x = nn.relu(nn.Conv(8, (3, 3), feature_group_count=2, name="grouped")(x))
        x = nn.tanh(nn.Conv(8, (3, 3), feature_group_count=8, name="depthwise")(x))
        return nn.Dense(3, name="head")(x.mean((0, 1)))


class Block(nn.Module):
    """x + F(x) of two convolutions with norms; a scalar multiplies F if it is gated."""

    is_gated: bool

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.Conv(4, (3, 3), use_bias=False, name="first")(x))
        y = nn.Conv(4, (3, 3), use_bias=False, name="second")(y)
        y = nn.BatchNorm(use_running_average=True, name="norm")(y)
        if self.is_gated:
            y = self.param("gate", nn.initializers.ones, ()) * y
        return x + y


class ResNet(nn.Module):
    """A stem, three residual blocks and a head."""

    is_gated: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="stem")(x)
        for number in range(3):
            x = Block(self.is_gated, name=f"block{number}")(x)
        return nn.Dense(3, name="head")(x.mean((0, 1)))


class Attention(nn.Module):
    """Two heads by `DenseGeneral`; keys and values may be of another sequence."""

    @nn.compact
    def __call__(self, x, other):
        query = nn.DenseGeneral((2, 3), use_bias=False, name="query")(x)
        key = nn.DenseGeneral((2, 3), use_bias=False, name="key")(other)
        value = nn.DenseGeneral((2, 3), use_bias=False, name="value")(other)
        logits = jnp.einsum("qhd,khd->hqk", query, key) / jnp.sqrt(3)
        mixed = jnp.einsum("hqk,khd->qhd", nn.softmax(logits), value)
        return nn.DenseGeneral(6, axis=(-2, -1), use_bias=False, name="out")(mixed)


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(6, name="down")(nn.gelu(nn.Dense(12, name="up")(x)))


class Transformer(nn.Module):
    """An encoder of two layers on tokens, and a decoder of one that attends to it."""

    has_decoder: bool = False

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 6, name="embed")(tokens)
        memory = x
        for number in range(2):
            h = nn.LayerNorm()(x)
            x = x + Attention(name=f"attn{number}")(h, h)
            x = x + Mlp(name=f"mlp{number}")(nn.LayerNorm()(x))
        if self.has_decoder:
            memory, x = nn.LayerNorm()(x), memory
            h = nn.LayerNorm()(x)
            x = x + Attention(name="self")(h, h)
            x = x + Attention(name="cross")(nn.LayerNorm()(x), memory)
            x = x + Mlp(name="mlp")(nn.LayerNorm()(x))
        return nn.Dense(7, name="head")(x)


def read(module, x):
    """Parameters as Flax draws them, as shapes, and the anatomy."""
    params = jax.eval_shape(module.init, KEY, x)
    return params, anatomy(lambda params, x: module.apply(params, x), params, x)


def zeros(shapes):
    return jax.tree.map(
        lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), shapes
    )


def noise(shapes, scale=0.5):
    """Parameters by NumPy, for tests that need no scheme to draw them."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jax.device_put((scale * rng.normal(size=leaf.shape)).astype(leaf.dtype))

    return jax.tree.map(draw, shapes)


def images():
    return jnp.zeros((6, 6, 2))


def tokens():
    return jnp.zeros(5, jnp.int32)


def scanned(depth=3, width=4):
    """x + gate F(x) in a scan over stacked leaves, between a stem and a head."""

    def f(params, x):
        def step(x, layer):
            first, second, gate = layer
            return x + gate * (jnp.tanh(x @ first) @ second), None

        stack = (params["first"], params["second"], params["gate"])
        x, _ = jax.lax.scan(step, x @ params["stem"], stack)
        return x @ params["head"]

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    params = {
        "stem": shape(3, width),
        "first": shape(depth, width, 2 * width),
        "second": shape(depth, 2 * width, width),
        "gate": shape(depth),
        "head": shape(width, 2),
    }
    return f, params, shape(3)
