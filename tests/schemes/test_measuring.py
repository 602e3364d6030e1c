"""Schemes that look at data: lsuv on any model, and Admin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, networks, schemes
from isometry.schemes._measuring import Measured
from isometry.structure import anatomy
from tests.schemes import models
from tests.schemes.test_multipliers import post_norm

KEY = jax.random.key(2)
EPS = float(np.finfo(np.float32).eps)
XS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


def pre_activations(net, params, xs):
    """z_1 … z_depth of every example, in float64, by NumPy."""
    phi = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}[net.activation.name]
    h = np.asarray(xs, float)
    found = []
    for layer in net.layers(params):
        found.append(h @ np.asarray(layer.w, float))
        h = phi(found[-1])
    return found


@pytest.mark.parametrize(
    ("activation", "dtype", "tolerance"),
    # bfloat16 rounds weights and values to 2^-8.
    [("tanh", jnp.float32, 1e-5), ("relu", jnp.bfloat16, 2e-2)],
)
def test_lsuv_gives_every_layer_unit_deviation(activation, dtype, tolerance):
    net = networks.mlp([6, 12, 12, 12, 5], activation, "lsuv", dtype=dtype)
    before = models.noise(jax.eval_shape(net.init, KEY))
    for run in before["layers"]:
        run["b"] = jnp.zeros_like(run["b"])
    params = net.scheme.adjust(net, before, XS)
    after = [z.std() for z in pre_activations(net, params, XS)]
    assert after == pytest.approx([1] * 4, abs=tolerance)
    for new, old in zip(net.layers(params), net.layers(before), strict=True):
        assert new.w.dtype == dtype
        ratio = np.asarray(new.w, float) / np.asarray(old.w, float)
        # Rescaled and nothing else; two divisions may have rounded.
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(ratio, ratio.flat[0], rtol=4 * eps)
        np.testing.assert_array_equal(new.b, old.b)


def test_lsuv_adjusts_a_model_of_another_library():
    """Against the outputs of each layer as Flax itself captures them."""
    module = models.Cnn()
    shapes, _ = models.read(module, models.images())
    f = lambda params, x: module.apply(params, x)  # noqa: E731
    scheme = schemes.get("lsuv")
    xs = np.random.default_rng(1).normal(size=(8, 6, 6, 2)).astype(np.float32)
    before = models.noise(shapes, scale=0.1)
    for layer in before["params"].values():
        layer["bias"] = jnp.zeros_like(layer["bias"])
    params = scheme.adjust(f, before, xs)

    @jax.jit
    def outputs(params, xs):
        def one(x):
            _, state = module.apply(params, x, capture_intermediates=True)
            return state["intermediates"]

        return jax.vmap(one)(xs)

    for name, captured in outputs(params, xs).items():
        if name != "__call__":
            (z,) = captured["__call__"]
            # Outputs are sums of at most 18 terms in float32, here and where the
            # deviation is measured.
            deviation = float(np.std(np.asarray(z, float)))
            assert deviation == pytest.approx(1, abs=2 * 18 * EPS)


def test_lsuv_adjusts_the_slices_of_a_stack():
    """By NumPy: each block's two layers have deviation 1 over examples and units."""
    f, shapes, _ = models.scanned()
    before = models.noise(shapes)
    xs = XS[:, :3]
    params = schemes.get("lsuv").adjust(f, before, xs)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    stream = xs @ p["stem"]
    deviations = [stream.std()]
    for first, second, gate in zip(p["first"], p["second"], p["gate"], strict=True):
        z = stream @ first
        y = np.tanh(z) @ second
        deviations += [z.std(), y.std()]
        stream = stream + gate * y
    deviations.append((stream @ p["head"]).std())
    assert deviations == pytest.approx([1] * 8, abs=1e-5)
    np.testing.assert_array_equal(params["gate"], before["gate"])


def test_recurrent_layers_are_adjusted_over_all_steps():
    """h = tanh(U h + V x): the deviation of U h is over examples, units and steps.

    Beside the sequence, x holds what the training modes of networks take: a random key.
    """

    def f(params, x):
        x, _ = x

        def step(h, x_t):
            return jnp.tanh(x_t @ params["V"] + h @ params["U"]), None

        return jax.lax.scan(step, jnp.zeros(4), x)[0]

    params = {"U": 0.3 * jnp.eye(4), "V": jnp.eye(4)}
    xs = jnp.asarray(np.random.default_rng(2).normal(size=(5, 7, 4)), jnp.float32)
    measured = Measured(f, params, (xs, jax.random.split(jax.random.key(0), 5)))
    slices, taps = measured.slices()
    by_name = {one.name: i for i, one in enumerate(slices)}
    compute = measured.variances(
        taps, lambda readings: [readings[one.tap][one.entries] for one in slices]
    )
    variances = compute(params)
    values = []
    for x in np.asarray(xs, float):
        h = np.zeros(4)
        for x_t in x:
            values.append(0.3 * h)
            h = np.tanh(x_t + 0.3 * h)
    assert variances[by_name["U"]] == pytest.approx(np.var(values), rel=1e-5)


def test_admin_adds_up_the_variances_of_branches():
    """ω_1 = 1 and ω_2² = 1 + Var F_1/Var x_1, by NumPy."""
    f, shapes, x = post_norm(lambda block, x: block["skip"] * x)
    scheme = schemes.get("admin")
    assignment = schemes.assign(scheme, anatomy(f, shapes, x), shapes)
    drawn = jax.jit(assignment.draw)(KEY, models.zeros(shapes))
    assert [float(block["skip"]) for block in drawn["blocks"]] == [1, 1]
    xs = XS[:, :4]
    params = scheme.adjust(f, drawn, xs)
    first = {name: np.asarray(leaf, float) for name, leaf in drawn["blocks"][0].items()}
    branch = np.maximum(xs @ first["w"], 0) @ first["v"]
    expected = (1 + branch.var() / xs.astype(float).var()) ** 0.5
    found = [float(block["skip"]) for block in params["blocks"]]
    assert found == pytest.approx([1, expected], rel=1e-5)
    np.testing.assert_array_equal(params["blocks"][1]["w"], drawn["blocks"][1]["w"])


def test_other_schemes_are_left_alone():
    net = networks.mlp([6, 4], "relu", "kaiming")
    params = models.zeros(jax.eval_shape(net.init, KEY))
    assert not net.scheme.data_driven
    assert net.scheme.adjust(net, params, jnp.ones((3, 6))) is params
    # Admin adjusts branches, of which this network has none.
    assert schemes.get("admin").adjust(net, params, jnp.ones((3, 6))) is params


@pytest.mark.parametrize(
    ("xs", "message"),
    [
        (
            jnp.ones((3, 5)),
            r"adjust\(\): xs is float32 of shape \(3, 5\); write floating rows of "
            r"shape \(6,\)",
        ),
        (jnp.ones(6), r"shape \(6,\); write floating rows"),
        (jnp.ones((0, 6)), r"at least one"),
        (jnp.ones((3, 6), jnp.int32), r"int32"),
        (None, r"xs is None"),
        (jnp.full((3, 6), jnp.nan), r"NaN or infinite"),
        (jnp.zeros((3, 6)), r"outputs of layer 'layers/0' have standard deviation 0\."),
    ],
)
def test_adjust_refuses(xs, message):
    net = networks.mlp([6, 12, 5], "relu", "lsuv")
    params = models.zeros(jax.eval_shape(net.init, KEY))
    with pytest.raises(InputError, match=message):
        net.scheme.adjust(net, params, xs)


def test_adjust_says_when_it_does_not_converge_and_where_it_cannot_run():
    net = networks.mlp([6, 12, 5], "relu", "lsuv")
    params = models.zeros(jax.eval_shape(net.init, KEY))
    params["layers"][0]["w"] = jnp.ones((1, 6, 12))
    # The spread of the biases alone is beyond 1.
    params["layers"][0]["b"] = 5 * jax.random.normal(KEY, (1, 12))
    with pytest.raises(InputError, match=r"after 10 divisions the outputs of layer"):
        net.scheme.adjust(net, params, XS)
    with pytest.raises(TypeError, match=r"adjust\(\): xs is traced"):
        jax.jit(lambda x: net.scheme.adjust(net, params, x))(XS)


def test_slices_of_a_stack_scanned_in_two_stretches_are_drawn_and_scaled():
    """Two slices and three of one leaf, with another layer between them."""

    def step(h, w):
        return h + jnp.tanh(h @ w), None

    def f(params, x):
        h, _ = jax.lax.scan(step, x, params["w"][:2])
        h, _ = jax.lax.scan(step, h @ params["middle"], params["w"][2:])
        return h

    shapes = {
        "w": jax.ShapeDtypeStruct((5, 6, 6), jnp.float32),
        "middle": jax.ShapeDtypeStruct((6, 6), jnp.float32),
    }
    an = anatomy(f, shapes, jax.ShapeDtypeStruct((6,), jnp.float32))
    assert [layer.stacked for layer in an.layers] == [2, None, 3]
    assignment = schemes.assign("orthogonal", an, shapes, sigma_w=1.0)
    drawn = assignment.draw(KEY, models.noise(shapes))
    stack = np.asarray(drawn["w"], float)
    grams = np.einsum("kij,kil->kjl", stack, stack)
    # Rounding of QR factors of order 6, with a margin of 4.
    identities = np.broadcast_to(np.eye(6), grams.shape)
    np.testing.assert_allclose(grams, identities, atol=3e-6)

    adjusted = schemes.get("lsuv").adjust(f, drawn, XS)
    h = XS.astype(float)
    spreads = []
    for number, weight in enumerate(np.asarray(adjusted["w"], float)):
        if number == 2:
            h = h @ np.asarray(adjusted["middle"], float)
        spreads.append((h @ weight).std())
        h = h + np.tanh(h @ weight)
    np.testing.assert_allclose(spreads, 1, rtol=1e-5)


def standardized(params, x):
    """A weight of zero mean and unit variance, whatever its scale."""
    w = params["w"] - params["w"].mean(axis=0)
    return jnp.tanh(x @ (w / jnp.sqrt(w.var(axis=0) + 1e-5)))


def chosen(params, x):
    arms = [lambda h: h @ params["w"], lambda h: 2 * h]
    return jax.lax.cond(x[0] > 0, *arms, x)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (standardized, r"divides the weight of layer 'w' by its own norm"),
        (chosen, r"layer 'w' is in an arm of a cond that not all of xs take"),
        (
            lambda params, x: x @ (params["w"] + 3),
            r"this one is used as a function of w, entry by entry",
        ),
    ],
)
def test_lsuv_says_why_a_weight_cannot_be_scaled(f, message):
    params = {"w": jnp.asarray(models.noise(jax.ShapeDtypeStruct((6, 6), jnp.float32)))}
    with pytest.raises(InputError, match=message):
        schemes.get("lsuv").adjust(f, params, XS)
