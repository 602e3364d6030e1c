"""Chains of blocks: the function, its factors, and its spectrum by products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks, schemes
from isometry._draws import adjust_seeds


def leaky(params, x):
    return jnp.where(x > 0, x, 0.1 * x) * params


def mix(params, x):
    return params @ x


def blocks():
    """Widths 5 → 5 → 7 → 7 → 3, and parameters."""
    rng = np.random.default_rng(0)
    first, second = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((7, 5), (3, 7)))
    return networks.chain([leaky, mix, leaky, mix]), (jnp.float32(2), first, jnp.float32(0.5), second)


X = jnp.asarray(np.random.default_rng(1).standard_normal(5), jnp.float32)


@pytest.mark.core
def test_a_chain_is_its_blocks_in_turn():
    net, params = blocks()
    expected = params[3] @ leaky(params[2], params[1] @ leaky(params[0], X))
    np.testing.assert_allclose(net(params, X), expected, rtol=1e-5)
    assert net.depth == 4
    assert net.input_shape is None
    assert "leaky" in repr(net)


@pytest.mark.parametrize("span", ["end_to_end", "hidden"])
def test_dense_and_product_agree(span):
    net, params = blocks()
    dense = isometry.spectrum(net, params, X, span=span)
    product = isometry.spectrum(net, params, X, method="product", span=span)
    assert product.size == dense.size
    assert product.structural_zeros == dense.structural_zeros
    np.testing.assert_allclose(product.log_values, dense.log_values, atol=1e-4)


def test_networks_in_a_chain_are_drawn_and_show_their_layers():
    net = networks.chain([networks.mlp([4, 6, 6, 6], "tanh"), networks.mlp([6, 6, 2], "tanh", "gaussian")])
    params = net.init(jax.random.key(0))
    assert [layer.index for layer in net.layers(params)] == list(range(5))
    assert [layer.fan_in for layer in net.plan] == [4, 6, 6, 6, 6]
    back = net.with_layers(params, list(net.layers(params)))
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(a, b)
    xs = jnp.asarray(np.random.default_rng(2).standard_normal((3, 4)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 2)
    dense, product = (isometry.ensemble(net, keys, xs, method=m) for m in ("dense", "product"))
    assert product.log_values.shape == (2, 3, 2)
    np.testing.assert_allclose(product.log_values, dense.log_values, atol=1e-4)


def test_data_driven_blocks_are_adjusted_on_what_comes_to_them():
    """Block after block: every layer of the lsuv blocks has outputs of variance 1, the other block is as drawn."""
    block = functools.partial(networks.mlp, bias=False)
    blocks = [block([4, 6, 6], "tanh", "lsuv"), block([6, 6], scheme="orthogonal"), block([6, 6, 2], "relu", "lsuv")]
    net = networks.chain(blocks)
    random = np.random.default_rng(3)
    xs, shapes = jnp.asarray(random.standard_normal((40, 4)), jnp.float32), jax.eval_shape(net.init, jax.random.key(0))
    drawn = jax.tree.map(lambda a: jnp.asarray(random.standard_normal(a.shape), a.dtype), shapes)
    assert net.data_driven
    assert not networks.chain(blocks[1:2]).data_driven
    params = net.adjust(drawn, xs)
    assert params[1] is drawn[1]
    h = np.asarray(xs)
    for i, layer in enumerate(net.layers(params)):
        z = h @ np.asarray(layer.w)
        assert i == 2 or z.std() == pytest.approx(1, abs=1e-5)
        h = np.tanh(z) if i == 0 else np.maximum(z, 0) if i == 3 else z
    twice = jax.tree.map(lambda a: 2 * a, drawn)
    stacked = adjust_seeds(net, jax.tree.map(lambda *a: jnp.stack(a), drawn, twice), xs)  # as `ensemble` calls it
    for i, seed in enumerate((params, net.adjust(twice, xs))):
        for one, by_hand in zip(jax.tree.leaves(stacked), jax.tree.leaves(seed), strict=True):
            np.testing.assert_array_equal(one[i], by_hand)
    behind = networks.chain([lambda p, x: 2 * x, blocks[0]])  # a plain function before
    doubled, before = behind.adjust((None, drawn[0]), xs)[1], blocks[0].adjust(drawn[0], 2 * xs)
    jax.tree.map(np.testing.assert_array_equal, doubled, before)
    with pytest.raises(ValueError, match="1 entries"):
        net.adjust((drawn[0],), xs)


PAIR = networks.chain([networks.mlp([5, 4, 3]), networks.mlp([3, 4, 2])])
DRAWN = PAIR.init(jax.random.key(0))
LAYERS = list(PAIR.layers(DRAWN))


def test_layers_may_be_taken_out_and_put_back():
    jax.tree.map(np.testing.assert_array_equal, PAIR.with_layers(DRAWN, iter(LAYERS)), DRAWN)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: networks.chain([]), r"chain\(\): blocks is empty; write \[f1, f2, \.\.\.\]"),
        (lambda: networks.chain(3), r"chain\(\): blocks=3 is not a sequence; write \[f1, f2\]"),
        (lambda: networks.chain([mix, 1]), r"chain\(\): blocks\[1\]=1 is not callable; write f\(params, x\)\."),
        (lambda: blocks()[0](jnp.ones(3), X), "tuple of 4"),
        (lambda: blocks()[0]((1, 2), X), r"params is 2 entries; write a tuple of 4, one entry a block"),
        (lambda: blocks()[0].init(jax.random.key(0)), "plain function"),
        (lambda: blocks()[0].plan, "plain function"),
        (lambda: isometry.spectrum(networks.chain([mix, mix]), (1, 1), X, span="hidden"), "needs depth 3"),
        (lambda: PAIR.with_layers(DRAWN, LAYERS[:-1]), r"with_layers\(\): 3 layers for a chain of 4\."),
        (lambda: PAIR.with_layers(DRAWN, [*LAYERS, LAYERS[-1]]), r"with_layers\(\): 5 layers for a chain of 4\."),
        (lambda: PAIR.with_layers(DRAWN[:1], LAYERS), r"params is 1 entries; write a tuple of 2"),
        (lambda: PAIR.layers(DRAWN[:1]), r"params is 1 entries; write a tuple of 2"),
        (
            lambda: schemes.get("lsuv").adjust(PAIR, DRAWN, jnp.ones((3, 5))),
            r"sweep\(\): Chain does not offer its layers one after another, .* write net\.adjust\(params, xs\)",
        ),
        (lambda: isometry.audit(blocks()[0], jax.random.split(jax.random.key(0), 2), X[None]), "networks.mlp"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_block_that_is_no_number_is_no_zero():
    constant = lambda p, x: jnp.full(3, jnp.nan)  # noqa: E731
    for method in ("dense", "product"):
        with pytest.raises(ValueError, match="NaN"):
            isometry.spectrum([constant], (None,), jnp.ones(3), method=method)


def test_a_block_with_a_loop_of_unknown_length_is_taken_forward():
    def doubled(p, x):
        return jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, 2 * s[1]), (0, x))[1]

    for method in ("dense", "product"):
        found = isometry.spectrum([doubled], (None,), jnp.ones(3), method=method)
        np.testing.assert_allclose(found.values, 4, rtol=1e-6)


def test_nobody_knows_the_pairs_of_a_chain():
    inner = networks.mlp([6] * 6, "tanh", "orthogonal")
    net = networks.chain([mix, inner, mix])
    params = (jnp.eye(6), inner.init(jax.random.key(0)), jnp.eye(6))
    assert isometry.spectrum(net, params, jnp.ones(6), span="hidden").pairs is None
