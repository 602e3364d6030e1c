"""Chains of blocks: the function, its factors, and its spectrum by products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks, schemes
from isometry.measure._draws import adjust_seeds


def leaky(params, x):
    scale, shift = params
    return jnp.where(x > 0, x, 0.1 * x) * scale + shift


def mix(params, x):
    return params @ x


def looped(params, x):
    """Double x in a loop whose length is not known to the tracer."""

    def step(state):
        count, x = state
        return count + 1, 2 * x

    _, x = jax.lax.while_loop(lambda state: state[0] < 1, step, (0, x))
    return leaky(params, x)


RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.standard_normal((7, 5)), RNG.standard_normal((3, 7))
X = jnp.asarray(np.random.default_rng(1).standard_normal(5), jnp.float32)
SPANS = {"end_to_end": looped, "hidden": leaky}


def blocks(third=leaky, shift=0.0):
    """Widths 5 → 5 → 7 → 7 → 3, and parameters."""
    matrices = [jnp.asarray(w, jnp.float32) for w in (FIRST, SECOND)]
    scales = [(jnp.float32(2), jnp.float32(shift)), (jnp.float32(0.5), jnp.float32(0))]
    net = networks.chain([leaky, mix, third, mix])
    return net, (scales[0], matrices[0], scales[1], matrices[1])


def log_values_by_hand(span):
    """Multiply the Jacobians of the blocks in float64."""
    x = np.asarray(X, float)
    first_slopes = np.where(x > 0, 2, 0.2)
    hidden = FIRST @ (first_slopes * x)
    second_slopes = np.where(hidden > 0, 0.5, 0.05)
    middle = second_slopes[:, None] * FIRST
    jacobian = middle if span == "hidden" else 2 * SECOND @ (middle * first_slopes)
    return np.log(np.linalg.svd(jacobian, compute_uv=False))


@pytest.mark.core
def test_a_chain_is_its_blocks_in_turn():
    net, params = blocks()
    expected = params[3] @ leaky(params[2], params[1] @ leaky(params[0], X))
    np.testing.assert_allclose(net(params, X), expected, rtol=1e-5)
    assert net.depth == 4
    assert net.input_shape is None
    assert "leaky" in repr(net)


@pytest.mark.parametrize("span", SPANS)
def test_dense_and_product_agree(span):
    """Also end to end, where a block loops until a condition holds, and no reverse mode exists."""
    net, params = blocks(SPANS[span])
    dense, product = (isometry.spectrum(net, params, X, method=m, span=span) for m in ("dense", "product"))
    assert product.size == dense.size == (5 if span == "hidden" else 3)
    assert product.structural_zeros == dense.structural_zeros == 2
    for found in (dense, product):
        np.testing.assert_allclose(found.log_values, log_values_by_hand(span), atol=1e-4)


def test_a_block_that_returns_nan_is_refused():
    """Its Jacobian is finite all the same, for a shift of NaN does not depend on x."""
    net, params = blocks(looped, shift=jnp.nan)
    for method in ("dense", "product"):
        with pytest.raises(ValueError, match="NaN"):
            isometry.spectrum(net, params, X, method=method)


def test_networks_in_a_chain_are_drawn_and_show_their_layers():
    first = networks.mlp([4, 6, 6, 6], "tanh", "gaussian")
    net = networks.chain([first, networks.mlp([6, 6, 2], "tanh", "gaussian")])
    keys = jax.random.split(jax.random.key(1), 2)
    params = jax.vmap(net.init)(keys)
    seeds = [jax.tree.map(lambda a, i=i: np.asarray(a[i]), params) for i in range(2)]
    assert [layer.index for layer in net.layers(seeds[0])] == list(range(5))
    assert [layer.fan_in for layer in net.plan] == [4, 6, 6, 6, 6]
    back = net.with_layers(seeds[0], list(net.layers(seeds[0])))
    jax.tree.map(np.testing.assert_array_equal, seeds[0], back)
    xs = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
    product = isometry.ensemble(net, keys, xs, method="product")
    want = [[log_values_of_layers(net.layers(seed), x) for x in xs] for seed in seeds]
    np.testing.assert_allclose(product.log_values, want, atol=1e-4)


def log_values_of_layers(layers, x):
    """Multiply W and the derivatives of tanh in float64; the last layer of either network has none."""
    jacobian, h = np.eye(4), np.asarray(x, float)
    for layer in layers:
        w = np.asarray(layer.w, float).T
        h, jacobian = w @ h + np.asarray(layer.b, float), w @ jacobian
        if layer.index not in (2, 4):
            h = np.tanh(h)
            jacobian = (1 - h**2)[:, None] * jacobian
    return np.log(np.linalg.svd(jacobian, compute_uv=False))


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
DRAWN = jax.tree.map(
    lambda a: jnp.asarray(RNG.standard_normal(a.shape), a.dtype), jax.eval_shape(PAIR.init, jax.random.key(0))
)
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


def test_nobody_knows_the_pairs_of_a_chain():
    inner = networks.mlp([6] * 6, "tanh", "orthogonal")
    net = networks.chain([mix, inner, mix])
    params = (jnp.eye(6), jax.eval_shape(inner.init, jax.random.key(0)), jnp.eye(6))
    found = jax.eval_shape(lambda p: isometry.spectrum(net, p, jnp.ones(6), span="hidden"), params)
    assert found.pairs is None
