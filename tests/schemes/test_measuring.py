"""Schemes that look at data: lsuv on any model, and Admin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, networks, schemes
from isometry.schemes._measuring import Measured
from isometry.structure import anatomy
from tests.schemes import models
from tests.schemes.test_multipliers import post_norm

KEY = jax.random.key(2)
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
    before = net.init(KEY)
    deviations = [z.std() for z in pre_activations(net, before, XS)]
    assert max(abs(deviation - 1) for deviation in deviations) > 0.1
    params = net.scheme.adjust(net, before, XS)
    after = [z.std() for z in pre_activations(net, params, XS)]
    assert after == pytest.approx([1] * 4, abs=tolerance)
    for layer in net.layers(params):
        assert layer.w.dtype == dtype
        s = np.linalg.svd(np.asarray(layer.w, float), compute_uv=False)
        # Still orthogonal, rescaled.
        assert s.max() / s.min() < 1 + 20 * float(jnp.finfo(dtype).eps)


def test_lsuv_adjusts_a_model_of_another_library():
    """Against the outputs of each layer as Flax itself captures them."""
    module = models.Cnn()
    shapes, an = models.read(module, models.images())
    f = lambda params, x: module.apply(params, x)  # noqa: E731
    scheme = schemes.get("lsuv")
    xs = np.random.default_rng(1).normal(size=(8, 6, 6, 2)).astype(np.float32)
    drawn = jax.jit(schemes.assign(scheme, an, shapes).draw)(KEY, models.zeros(shapes))
    params = scheme.adjust(f, drawn, xs)

    @jax.jit
    def outputs(params, xs):
        def one(x):
            _, state = module.apply(params, x, capture_intermediates=True)
            return state["intermediates"]

        return jax.vmap(one)(xs)

    for name, captured in outputs(params, xs).items():
        if name != "__call__":
            (z,) = captured["__call__"]
            assert float(np.std(np.asarray(z, float))) == pytest.approx(1, abs=1e-4)


def test_lsuv_adjusts_the_slices_of_a_stack():
    """By NumPy: each block's two layers have deviation 1 over examples and units."""
    f, shapes, x = models.scanned()
    scheme = schemes.get("lsuv")
    assignment = schemes.assign(scheme, anatomy(f, shapes, x), shapes)
    ones = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), shapes)
    xs = XS[:, :3]
    params = scheme.adjust(f, jax.jit(assignment.draw)(KEY, ones), xs)
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
    np.testing.assert_array_equal(params["gate"], 0.5)


def test_recurrent_layers_are_adjusted_over_all_steps():
    """h = tanh(U h + V x): the deviation of U h is over examples, units and steps."""

    def f(params, x):
        def step(h, x_t):
            return jnp.tanh(x_t @ params["V"] + h @ params["U"]), None

        return jax.lax.scan(step, jnp.zeros(4), x)[0]

    params = {"U": 0.3 * jnp.eye(4), "V": jnp.eye(4)}
    xs = jnp.asarray(np.random.default_rng(2).normal(size=(5, 7, 4)), jnp.float32)
    measured = Measured(f, params, xs)
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


def test_ensemble_adjusts_what_it_draws():
    """Against the Jacobians, by NumPy, of parameters adjusted one by one."""
    net = networks.mlp([6, 12, 5], "relu", "lsuv")
    keys = jax.random.split(KEY, 2)

    def values(params):
        first, last = [np.asarray(layer.w, float) for layer in net.layers(params)]
        slopes = (XS.astype(float) @ first > 0)[:, None, :]
        jacobians = (first * slopes) @ last
        return np.linalg.svd(jacobians, compute_uv=False)

    adjusted = [net.scheme.adjust(net, net.init(key), XS) for key in keys]
    expected = np.stack([values(params) for params in adjusted])
    found = isometry.ensemble(net, keys, XS).values
    # Relative to the largest (Weyl).
    bound = 64 * float(np.finfo(np.float32).eps) * expected.max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_other_schemes_are_left_alone():
    net = networks.mlp([6, 4], "relu", "kaiming")
    params = models.zeros(jax.eval_shape(net.init, KEY))
    assert not net.scheme.data_driven
    assert net.scheme.adjust(net, params, jnp.ones((3, 6))) is params


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
