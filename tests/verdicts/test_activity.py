"""Activity of nonlinearities: against the network's own, and against NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import networks
from isometry.verdicts import Thresholds, _activity
from tests.verdicts.audited import KEY, changed, measured, pre_activations, spread
from tests.verdicts.conftest import IMAGES
from tests.verdicts.measuring import EPS, drawn, rounding

XS = jax.random.normal(jax.random.key(1), (8, 6))

# Sums of squares of 8 inputs × 16 units, behind six layers: twice their errors, and one
# for each term.
OF_SUMS = 2 * rounding(6, 16) + 8 * 16 * EPS


@pytest.fixture(scope="module")
def relu():
    """(network, what is measured, its pre-activations)."""
    net = networks.mlp([6, *[16] * 6, 3], "relu", "gaussian")
    params = drawn(net, sigma_w=2**0.5, seeds=5)
    result = measured(net, params, XS)
    return net, result, pre_activations(params, XS, lambda z: np.maximum(z, 0))


def test_units_of_a_perceptron_are_its_pre_activations(relu):
    _, result, layers = relu
    found = list(result.activity.values())
    assert len(found) == len(layers)
    for one, z in zip(found, layers, strict=True):
        np.testing.assert_array_equal(one.is_dead, (z <= 0).all(1))
        np.testing.assert_array_equal(one.is_mirrored, (z >= 0).all(1))
        np.testing.assert_array_equal(one.num_live, (z > 0).sum(2))
        np.testing.assert_allclose(one.samples, z, rtol=1e-5, atol=1e-6)
        assert one.nonlinearity == "relu"
        assert one.largest_slope is None


def test_the_signal_from_layer_to_layer_is_that_of_the_pre_activations(relu):
    """Medians over seeds, against those of NumPy in float64."""
    _, result, layers = relu
    found = _activity.forward(result.subject, Thresholds(), KEY)
    largest = [np.linalg.norm(z, 2, (1, 2)) for z in layers]
    wanted = {
        "log_norm": [np.log((z**2).mean((1, 2))) / 2 for z in layers],
        "correlation": [1 - spread(z) * 8 / 7 for z in layers],
        "stable_rank": [
            (z**2).sum((1, 2)) / s**2 for z, s in zip(layers, largest, strict=True)
        ],
    }
    for name, by_layer in wanted.items():
        medians = np.median(by_layer, axis=1)
        np.testing.assert_allclose(found[name], medians, rtol=OF_SUMS, atol=OF_SUMS)
    # Neither ordered nor chaotic: correlations of a critical relu network grow slowly.
    assert found["points"][-1] == "layers/1[4]"


def test_rank_is_bound_by_live_units(relu):
    """End to end all slopes count; the last ones are outside of the hidden span."""
    _, result, layers = relu
    live = np.stack([(z > 0).sum(-1) for z in layers])
    bounds = result.rank_bounds
    np.testing.assert_array_equal(bounds["end_to_end"], np.minimum(live.min(0), 3))
    np.testing.assert_array_equal(bounds["hidden"], live[:-1].min(0))


def test_numbers_that_are_not_finite_are_named(relu):
    net, result, _ = relu
    assert _activity.first_not_finite(result.subject) == ""
    params = result.subject.params

    def break_(leaf):
        leaf[1, 0, 2, 3] = np.nan

    broken = changed(params, "['layers'][0]['w']", break_)
    text = _activity.first_not_finite(measured(net, broken, XS).subject)
    assert text == "['layers'][0]['w'] is nan at (0, 2, 3) in seed 1"
    large = jax.tree.map(lambda leaf: leaf * np.float32(1e9), params)
    text = _activity.first_not_finite(measured(net, large, XS).subject)
    assert text.startswith("layers/1[")
    assert "overflows float32 in seed 0, at input 0" in text


def test_units_that_underflow_have_the_slopes_of_larger_ones(relu):
    """A relu network without biases is homogeneous: 2^-25 a layer changes no sign."""
    net, result, _ = relu
    small = jax.tree.map(lambda leaf: leaf * 2.0**-25, result.subject.params)
    again = measured(net, small, XS)
    assert _activity.lost(again.subject) == ""
    pairs = zip(result.activity.values(), again.activity.values(), strict=True)
    for healthy, one in pairs:
        np.testing.assert_array_equal(one.is_dead, healthy.is_dead)
        np.testing.assert_array_equal(one.num_live, healthy.num_live)
    plain = _activity.forward(result.subject, Thresholds(), KEY)
    found = _activity.forward(again.subject, Thresholds(), KEY)
    shift = -25 * np.log(2) * np.arange(1, 7)
    np.testing.assert_allclose(
        found["log_norm"], plain["log_norm"] + shift, rtol=0, atol=OF_SUMS
    )
    np.testing.assert_allclose(found["correlation"], plain["correlation"], atol=OF_SUMS)


def test_what_float64_does_not_hold_is_said():
    """Twelve layers of 2^-100: the eleventh is below the smallest double, 2^-1074."""
    net = networks.mlp([6, *[8] * 11, 3], "relu", "gaussian")
    params = drawn(net, sigma_w=2**0.5, seeds=5)
    small = jax.tree.map(lambda leaf: leaf * np.float32(2.0**-100), params)
    text = _activity.lost(measured(net, small, XS).subject)
    assert text == "layers/1[9] underflows float64 too, so its zeros say nothing"


def test_channels_count_over_positions(cnn):
    """Channel 2 of Conv_0 is below zero everywhere, behind its norm."""
    net, params, healthy = cnn

    def kill(leaf):
        leaf[:, 2] = -1e3

    result = measured(
        net, changed(params, "['params']['BatchNorm_0']['bias']", kill), IMAGES
    )
    names = list(result.activity)
    assert names == ["Conv_0", "Conv_1", "Conv_3"]
    one = result.activity["Conv_0"]
    assert one.shape == (1, 6, 6, 8)
    assert one.num_positions == 36
    np.testing.assert_array_equal(one.is_dead.sum(0), [0, 0, 5, 0, 0, 0, 0, 0])
    assert not healthy.activity["Conv_0"].is_dead.any()
    assert healthy.activity["Conv_0"].is_cut
    assert not healthy.activity["Conv_1"].is_cut
    alive = healthy.activity["Conv_0"].num_live - one.num_live
    assert (alive > 0).all()
    assert result.activity["Conv_3"].largest_slope == pytest.approx(1)


def test_a_stream_with_a_way_around_has_no_dead_units():
    """Before a branch of W φ(x) the skip goes on, whatever the slope of φ."""
    net = networks.resnet(6, 2, order="pre_activation")
    params = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), jax.jit(net.init)(KEY))
    result = measured(net, params, -jnp.abs(XS))
    assert not any(one.is_dead.any() for one in result.activity.values())


def test_a_batch_norm_is_judged_as_it_is_trained(cnn):
    """A bias of -1e3 in front of it is taken away again, and inputs may be large."""
    net, params, healthy = cnn
    planted = jax.tree.map(np.array, params)
    planted["params"]["Conv_1"]["bias"] -= 1e3
    result = measured(net, planted, 100 * IMAGES)
    for name in ("Conv_0", "Conv_1"):
        one, wanted = result.activity[name], healthy.activity[name]
        # Values of unit variance, of density 0.4 at zero, are moved by the rounding of
        # 1e3, their own and that of the mean of the batch.
        difference = np.abs(one.num_live - wanted.num_live)
        num_values = math.prod(one.shape)
        assert difference.mean() < 2 * 0.4 * 1e3 * EPS * num_values
        assert not one.is_dead.any()


def test_channels_may_come_first():
    """A convolution of channels × height × width, of 3 channels and 4 columns."""

    def f(params, x):
        z = jax.lax.conv_general_dilated(x[None], params["w"], (1, 1), "SAME")[0]
        z = z + params["b"][:, None, None]
        return jax.nn.relu(z).mean((1, 2)) @ params["head"]

    rng = np.random.default_rng(0)
    params = {
        "w": rng.normal(size=(5, 3, 1, 3, 3)).astype(np.float32),
        "b": np.zeros((5, 3), np.float32),
        "head": rng.normal(size=(5, 3, 2)).astype(np.float32),
    }
    params["b"][:, 1] = -1e3
    xs = jnp.asarray(rng.normal(size=(4, 1, 4, 4)), jnp.float32)
    (one,) = measured(f, params, xs).activity.values()
    np.testing.assert_array_equal(one.is_dead, [[False, True, False]] * 5)
    assert one.num_positions == 16


def test_experts_have_units_of_their_own():
    """An expert that its biases switch off is no position of units that are on."""

    def f(params, x):
        z = jnp.einsum("td,edh->teh", x, params["a"]) + params["bias"][None]
        mixed = jnp.einsum("te,teh->th", x @ params["gate"], jax.nn.relu(z))
        return mixed.mean(0) @ params["head"]

    rng = np.random.default_rng(0)
    shapes = {"a": (3, 2, 4), "gate": (2, 3), "head": (4, 2)}
    params = {
        name: rng.normal(size=(5, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    params["bias"] = np.zeros((5, 3, 4), np.float32)
    params["bias"][:, 1] = -1e3
    xs = jnp.asarray(rng.normal(size=(4, 6, 2)), jnp.float32)
    (one,) = measured(f, params, xs).activity.values()
    np.testing.assert_array_equal(
        one.is_dead, [[False] * 4 + [True] * 4 + [False] * 4] * 5
    )
    assert one.num_positions == 6
