"""Mirrored networks are linear at the start."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, networks, schemes
from isometry._internal.errors import NotDefined
from tests.schemes import models

KEY = jax.random.key(2)


def blocks_of(net, params):
    """The B of each layer: its top-left block."""
    blocks = []
    for layer in net.layers(params):
        rows, columns = layer.w.shape
        reads, writes = layer.index > 0, layer.role != "head"
        block = np.asarray(layer.w, float)
        blocks.append(block[: rows // (1 + reads), : columns // (1 + writes)])
    return blocks


@pytest.mark.parametrize(
    ("name", "activation", "widths"),
    [
        ("looks_linear", "relu", [6, 12, 12, 12, 5]),
        ("mirrored", "gelu", [4, 16, 24, 24, 40]),
    ],
)
def test_network_is_the_product_of_its_blocks(name, activation, widths):
    """phi(u) - phi(-u) = u. 1e-5 is 10 eps for each of 5 products of size O(1)."""
    net = networks.mlp(widths, activation, name)
    xs = np.random.default_rng(0).normal(size=(8, widths[0])).astype(np.float32)

    @jax.jit
    def compute(key):
        params = net.init(key)
        return params, jax.vmap(net, (None, 0))(params, xs)

    with jax.default_matmul_precision("highest"):
        params, ys = jax.device_get(compute(KEY))
    blocks = blocks_of(net, params)
    product = np.linalg.multi_dot([*blocks, np.eye(widths[-1])])
    atol = 1e-5 * np.abs(ys).max()
    np.testing.assert_allclose(ys, np.asarray(xs, float) @ product, rtol=0, atol=atol)
    if name == "looks_linear":
        s = np.linalg.svd(product, compute_uv=False)
        np.testing.assert_allclose(s, 1, atol=1e-5)
        return
    # Units keep their variance: B_ij ~ N(0, 1/rows of B).
    for block, rows in zip(blocks, (4, 8, 12, 12), strict=True):
        assert block.shape[0] == rows
        error = 5 * (2 / block.size) ** 0.5
        assert (block**2).mean() * rows == pytest.approx(1, abs=error)


class Chain(nn.Module):
    """Convolutions and ReLUs, an average over pixels, and a head."""

    pools: bool = False

    @nn.compact
    def __call__(self, x):
        for number in range(3):
            x = nn.relu(nn.Conv(8, (3, 3), name=f"conv{number}")(x))
            if self.pools:
                x = nn.max_pool(x, (2, 2))
        return nn.Dense(2, name="head")(x.mean((0, 1)))


def test_convolutional_network_looks_linear():
    """f(2 a - 3 b) = 2 f(a) - 3 f(b)."""
    shapes, an = models.read(Chain(), models.images())
    assignment = schemes.assign("looks_linear", an, shapes)

    @jax.jit
    def compute(key):
        params = assignment.draw(key, models.zeros(shapes))
        a, b = jax.random.normal(key, (2, 6, 6, 2))
        outputs = [Chain().apply(params, x) for x in (a, b, 2 * a - 3 * b)]
        return jnp.stack(outputs)

    a, b, both = np.asarray(compute(KEY), float)
    np.testing.assert_allclose(both, 2 * a - 3 * b, atol=1e-5)
    assert np.abs(a).max() > 1e-2


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Chain(pools=True), r"layer 'conv1': .* before it comes max pool"),
        (models.Cnn(), r"layer 'grouped': .* are in different groups"),
        (models.ResNet(), r"layer 'block0/first': .* this one reads no activation"),
    ],
)
def test_what_is_no_pair_is_refused(module, message):
    shapes, an = models.read(module, jnp.zeros((16, 16, 2)))
    with pytest.raises(NotDefined, match=message):
        schemes.assign("looks_linear", an, shapes)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: networks.mlp([4, 6, 7, 6, 2], "relu", "looks_linear"),
            r"hidden of shape=\(6, 7\) has 7 outputs; hidden widths must be even",
        ),
        (
            lambda: networks.mlp([4, 5, 2], "relu", "mirrored"),
            r"stem of shape=\(4, 5\) has 5 outputs.*even",
        ),
        (
            lambda: schemes.get("mirrored").initializer(
                schemes.Layer("value", 0, 2, 4, 4, schemes.Branch(0, 4, 0, 2))
            ),
            r"is no layer between activations",
        ),
    ],
)
def test_shapes_and_roles_without_pairs_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
