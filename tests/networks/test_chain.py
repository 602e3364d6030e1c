"""Chains of blocks: the function, its factors, and its spectrum by products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, NotDefined, networks
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
FIRST = RNG.standard_normal((7, 5))
SECOND = RNG.standard_normal((3, 7))
X = jax.device_put(np.asarray(np.random.default_rng(1).standard_normal(5), np.float32))


def blocks(third=leaky, shift=0.0):
    """A chain of widths 5, 5, 7, 7, 3, and its parameters."""
    net = networks.chain([leaky, mix, third, mix])
    params = (
        (jnp.float32(2), jnp.float32(shift)),
        jnp.asarray(FIRST, jnp.float32),
        (jnp.float32(0.5), jnp.float32(0)),
        jnp.asarray(SECOND, jnp.float32),
    )
    return net, params


def log_values_by_hand(span):
    """Multiply the Jacobians of the blocks in float64, with the loop between them."""
    x = np.asarray(X, float)
    first_slopes = np.where(x > 0, 2, 0.2)
    hidden = FIRST @ (first_slopes * x)
    second_slopes = 2 * np.where(hidden > 0, 0.5, 0.05)
    jacobian = second_slopes[:, None] * FIRST
    if span == "end_to_end":
        jacobian = SECOND @ (jacobian * first_slopes)
    return np.log(np.linalg.svd(jacobian, compute_uv=False))


@pytest.mark.core
def test_chain_is_its_blocks_in_turn():
    net, params = blocks()
    expected = params[3] @ leaky(params[2], params[1] @ leaky(params[0], X))
    np.testing.assert_allclose(net(params, X), expected, rtol=1e-5)
    assert net.depth == 4
    assert net.input_shape is None
    assert repr(net) == "chain(leaky, mix, leaky, mix)"


@pytest.mark.parametrize("span", ["end_to_end", "hidden"])
def test_factors_multiply_to_the_jacobian(span):
    """A block that loops until a condition holds has no reverse mode."""
    net, params = blocks(looped)
    product = np.eye(5)
    factors = jax.jit(net.function.factors, static_argnums=2)
    for factor in factors(params, X, span):
        product = np.asarray(factor.matrix[0], float) @ product
    by_hand = log_values_by_hand(span)
    s = np.linalg.svd(product, compute_uv=False)
    np.testing.assert_allclose(np.log(s), by_hand, atol=1e-5)


def test_hidden_span_runs_from_the_first_block_to_the_last():
    net, params = blocks(looped)
    sp = isometry.spectrum(net, params, X, span="hidden")
    np.testing.assert_allclose(sp.log_values, log_values_by_hand("hidden"), atol=1e-5)
    assert (sp.size, sp.structural_zeros) == (5, 2)


def test_products_of_blocks_are_measured_and_nan_is_refused():
    """A shift by NaN does not depend on x, so the Jacobian is finite all the same."""
    net, params = blocks(looped)
    sp = isometry.spectrum(net, params, X, method="product")
    by_hand = log_values_by_hand("end_to_end")
    np.testing.assert_allclose(sp.log_values, by_hand, atol=1e-5)
    _, params = blocks(looped, shift=jnp.nan)
    with pytest.raises(ValueError, match="NaN"):
        isometry.spectrum(net, params, X, method="product")


PAIR = networks.chain(
    [
        networks.mlp([5, 4, 4, 3], "tanh", "gaussian"),
        networks.mlp([3, 4, 2], "tanh", "gaussian"),
    ]
)
DRAWN = jax.tree.map(
    lambda leaf: jax.device_put(
        np.asarray(RNG.standard_normal(leaf.shape), leaf.dtype)
    ),
    PAIR.shapes,
)
LAYERS = list(PAIR.layers(DRAWN))


def test_networks_in_a_chain_show_their_layers():
    assert [layer.index for layer in LAYERS] == list(range(5))
    assert [layer.fan_in for layer in PAIR.plan] == [5, 4, 4, 3, 4]
    names = [phi.name for phi in PAIR.hidden_activations]
    assert names == ["tanh", "tanh", "linear", "tanh"]
    assert [layer.fan_out for layer in PAIR.anatomy.layers] == [4, 4, 3, 4, 2]
    back = PAIR.with_layers(DRAWN, iter(LAYERS))
    jax.tree.map(np.testing.assert_array_equal, back, DRAWN)


def test_networks_in_a_chain_draw_from_keys_of_their_own():
    block = networks.mlp([4, 4], "tanh", "gaussian", bias=False)
    drawn = networks.chain([block, block]).init(jax.random.key(1))
    keys = jax.random.split(jax.random.key(1), 2)
    expected = tuple(block.init(key) for key in keys)
    jax.tree.map(np.testing.assert_array_equal, drawn, expected)


def test_layers_of_networks_are_factors_of_the_chain():
    """W and the derivatives of tanh, in float64; no derivative between the networks."""
    jacobian = np.eye(5)
    h = np.asarray(X, float)
    for layer in LAYERS:
        w = np.asarray(layer.w, float).T
        h = w @ h + np.asarray(layer.b, float)
        jacobian = w @ jacobian
        if layer.index not in (2, 4):
            h = np.tanh(h)
            jacobian = (1 - h**2)[:, None] * jacobian
    product = np.eye(5)
    for stack in PAIR.function.factors(DRAWN, X, "end_to_end"):
        for i, matrix in enumerate(stack.matrix):
            product = np.asarray(matrix, float) @ product
            if stack.scale is not None:
                product = np.asarray(stack.scale[i], float)[:, None] * product
    # Each of five layers rounds by a few eps of float32.
    close = {"rtol": 0, "atol": 50 * 1.2e-7 * np.abs(jacobian).max()}
    np.testing.assert_allclose(product, jacobian, **close)


def test_data_driven_blocks_are_adjusted_on_what_comes_to_them():
    """Layers of lsuv blocks have outputs of variance 1; other blocks are as drawn."""
    fitted = networks.mlp([5, 5, 5], "tanh", "lsuv", bias=False)
    plain = networks.mlp([5, 5], scheme="orthogonal", bias=False)
    net = networks.chain([fitted, plain, fitted])
    random = np.random.default_rng(3)
    xs = jax.device_put(np.asarray(random.standard_normal((40, 5)), np.float32))
    drawn = jax.tree.map(
        lambda leaf: jax.device_put(
            np.asarray(random.standard_normal(leaf.shape), leaf.dtype)
        ),
        net.shapes,
    )
    assert net.data_driven
    assert not networks.chain([plain]).data_driven
    params = net.adjust(drawn, xs)
    assert params[1] is drawn[1]
    h = np.asarray(xs)
    for layer in net.layers(params):
        z = h @ np.asarray(layer.w)
        if layer.index != 2:
            assert z.std() == pytest.approx(1, abs=1e-5)
        h = np.tanh(z) if layer.index in (0, 3) else z
    # As `ensemble` calls it, for parameters that are stacked over seeds.
    stacked = adjust_seeds(net, jax.tree.map(lambda a: a[None], drawn), xs)
    for many, one in zip(
        jax.tree.leaves(stacked), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_array_equal(many[0], one)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: networks.chain([]), r"chain\(\): blocks is empty; write \[f1, f2,"),
        (lambda: networks.chain(3), r"chain\(\): blocks=3 is not a sequence; write"),
        (lambda: networks.chain([mix, 1]), r"chain\(\): blocks\[1\]=1 is not callable"),
        (lambda: blocks()[0](jnp.ones(3), X), "params is a .*; write a tuple of 4"),
        (lambda: blocks()[0]((1, 2), X), r"params is 2 entries; write a tuple of 4"),
        (lambda: blocks()[0].init(jax.random.key(0)), "block 0 .* is a plain function"),
        (lambda: blocks()[0].plan, "block 0 of this chain, .*, is a plain function"),
        (lambda: blocks()[0].anatomy, "begins with a plain function, whose input has"),
        (lambda: networks.chain([PAIR, mix]).anatomy, "block 1 .* is a plain function"),
        (
            lambda: isometry.spectrum(
                networks.chain([mix, mix]), (1, 1), X, span="hidden"
            ),
            "needs depth 3",
        ),
        (lambda: PAIR.with_layers(DRAWN, LAYERS[1:]), "holds 4 layers, and the chain"),
        (lambda: PAIR.with_layers(DRAWN[:1], LAYERS), "params is 1 entries; write a"),
        (lambda: PAIR.layers(DRAWN[:1]), r"params is 1 entries; write a tuple of 2"),
        (lambda: PAIR.law("end_to_end", X[None]), "no law is known of this network"),
        (
            lambda: isometry.audit(
                blocks()[0], jax.random.split(jax.random.key(0), 2), X[None]
            ),
            "networks.mlp",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


class Fixed(networks.Network):
    """A network whose mode is fixed, for a reason that could be taken for another."""

    @property
    def training(self):
        raise NotDefined("nobody knows whether it computes the same in training.")


def test_chain_of_a_block_whose_mode_is_fixed_may_differ_in_training():
    same = networks.mlp([3, 3], "tanh")
    with pytest.raises(NotDefined, match="it computes the same in both"):
        _ = networks.chain([same, leaky]).training
    fixed = Fixed(function=leaky, example=X, scheme=None, activation=None)
    with pytest.raises(NotDefined, match=r"its block 1, .* may differ in training"):
        _ = networks.chain([same, fixed]).training


def test_pairs_of_a_chain_are_unknown():
    inner = networks.mlp([6] * 6, "tanh", "orthogonal")
    net = networks.chain([mix, inner, mix])
    params = (jnp.eye(6), inner.shapes, jnp.eye(6))

    def measure(params):
        return isometry.spectrum(net, params, jnp.ones(6), span="hidden")

    assert jax.eval_shape(measure, params).pairs is None
