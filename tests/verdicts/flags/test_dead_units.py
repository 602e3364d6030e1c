"""The flag dead_units: planted and healthy, on perceptrons as before and on others."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy.stats import binom

import isometry
from isometry import networks
from tests.verdicts.audited import (
    again,
    certificate,
    changed,
    judged,
    keys,
    measured,
    pre_activations,
)
from tests.verdicts.conftest import IMAGES, TOKENS
from tests.verdicts.measuring import drawn

WIDTHS = [6, 32, 32, 3]


def inputs_around(spread):
    """Inputs x_0 + spread · noise."""
    first, noise = np.random.default_rng(1).normal(size=(2, 8, 6))
    return (first[:1] + spread * noise).astype(np.float32)


@pytest.fixture(scope="module")
def relu():
    net = networks.mlp(WIDTHS, "relu", "gaussian")
    return net, drawn(net, sigma_w=2**0.5, seeds=5)


def with_biases(params, biases):
    """Biases of the first hidden layer that are these numbers."""
    first, *others = params["layers"]
    b = np.broadcast_to(np.float32(biases), first["b"].shape)
    return {"layers": ({**first, "b": b}, *others)}


# Biases of the first layer, the spread of the inputs, and the state.
PLANTED = {
    "healthy": (0.0, 1.0, "clear"),
    # As the inputs become one, half of all units look dead, and the null knows.
    "nearly equal inputs": (0.0, 1e-3, "clear"),
    "all": (-10.0, 1.0, "raised"),
    # They spoil the covariance; of one-sided units half should live.
    "half": (np.where(np.arange(32) < 16, -100.0, 0.0), 1.0, "raised"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_dead_units_of_a_perceptron_are_counted_against_chance(relu, name):
    net, params = relu
    biases, spread, state = PLANTED[name]
    params, xs = with_biases(params, biases), inputs_around(spread)
    flag = judged("dead_units", measured(net, params, xs, keys=keys(5)))
    assert flag.state == state
    layers = pre_activations(params, xs, lambda z: np.maximum(z, 0))
    rows = flag.evidence["layers"]
    for row, z in zip(rows, layers, strict=True):
        num_dead = int((z <= 0).all(1).sum())
        num_mirrored = int((z >= 0).all(1).sum())
        assert row["dead"] == num_dead
        assert row["units"] == 160
        if num_dead:
            assert row["mirrored"] == num_mirrored
            # Two hidden layers and two nulls share the level.
            most = binom.ppf(1 - 0.01 / 4, num_dead + num_mirrored, 0.5)
            assert row["null_quantile"] <= most
    assert flag.value in [row["dead"] / 160 for row in rows]
    assert flag.evidence["active_share_bound"] == 3 / 8
    if name == "nearly equal inputs":
        # 160 units, each dead with probability ½.
        assert abs(flag.value - 0.5) < 5 * 0.5 / 160**0.5
        # The Gaussian vectors are one-sided, too, of either sign. Their probability is
        # taken from above, by 2.3 standard errors of the 16384 that are drawn, and the
        # inputs are apart by an angle of 1e-3.
        standard_error = 0.5 / 16384**0.5
        probability = max(row["null_probability"] for row in rows)
        assert abs(probability - 0.5 - 2.3 * standard_error) < 4 * standard_error + 1e-3
    assert ("layers/0" in flag.where) == flag.raised


def test_few_seeds_of_an_initialization_are_undecided(relu):
    net, params = relu
    planted = with_biases(params, -10.0)
    xs = inputs_around(1.0)
    few = measured(net, planted, xs, keys=keys(5), least_seeds=6)
    flag = judged("dead_units", few)
    assert flag.state == "undecided"
    assert "5 seeds, 6 are needed" in flag.reason
    # Parameters that are given are what they are.
    assert judged("dead_units", measured(net, planted, xs, least_seeds=6)).raised


def test_a_checkpoint_is_judged_and_its_channels_named(cnn):
    """Three of eight. Biases of -1e3 do not spoil the covariance of the others."""
    net, params, _ = cnn
    one = jax.tree.map(lambda leaf: leaf[:1], params)

    def kill(leaf):
        leaf[:, [1, 3, 6]] = -1e3

    result = measured(
        net, changed(one, "['params']['BatchNorm_1']['bias']", kill), IMAGES
    )
    flag = judged("dead_units", result)
    assert flag.raised
    assert flag.where == ("Conv_1",)
    assert flag.reason == (
        "3 of 8 channels of Conv_1 have no slope at any of 8 inputs (in training "
        "mode): 1, 3, 6"
    )
    assert judged("dead_units", measured(net, one, IMAGES)).state == "clear"


def test_channels_of_many_seeds_are_counted_together(cnn):
    """3 channels of 8, in 5 seeds: 15 of 40 that are dead, and none mirrored."""
    net, params, healthy = cnn

    def kill(leaf):
        leaf[:, :3] = -1e3

    planted = changed(params, "['params']['BatchNorm_1']['bias']", kill)
    flag = judged("dead_units", measured(net, planted, IMAGES))
    assert flag.raised
    assert flag.value == 15 / 40
    assert "15 of 40 channels of Conv_1 in 5 seeds have no slope" in flag.reason
    assert flag.evidence["layers"][1]["channels"] == [[0, 1, 2]] * 5
    assert judged("dead_units", healthy).state == "clear"


def test_a_dead_mlp_inside_a_transformer_is_found(transformer):
    """Biases of -1e3 in front of a relu, in the second block alone."""
    net, params, healthy = transformer
    assert judged("dead_units", healthy).state == "clear"

    def kill(leaf):
        leaf[:, 1] = -1e3

    planted = changed(params, "['blocks']['mlp']['first']['b']", kill)
    flag = judged("dead_units", measured(net, planted, TOKENS))
    assert flag.raised
    assert flag.where == ("blocks/mlp/first[1]",)
    assert flag.value == 1


def test_units_that_no_weight_ever_reaches_are_certified(relu):
    """Whatever their number: two of 32 are too few for the null of chance."""
    net, params = relu
    result = measured(net, params, inputs_around(1.0))
    proof = certificate(result.subject, **{"layers/0": None})
    ids = np.where(np.arange(32) < 2, 0, 1)
    proof.units = {"layers/0:out": SimpleNamespace(ids=ids)}.__getitem__
    flag = judged("dead_units", again(result.subject, [proof], least_seeds=6))
    assert flag.raised
    assert flag.value == 2 / 32
    assert flag.threshold == 0
    assert flag.where == ("layers/0",)
    assert flag.reason == (
        "2 of 32 units of layers/0 are dead at every step: no weight reaches them"
    )


def test_a_zero_head_is_no_dead_unit(relu):
    """It takes the gradient of the loss away, and not the slope of a unit."""
    net, params = relu
    *hidden, head = params["layers"]
    headless = {"layers": (*hidden, {**head, "w": np.zeros_like(head["w"])})}
    flag = judged("dead_units", measured(net, headless, inputs_around(1.0)))
    assert flag.state == "clear"


def test_a_network_without_nonlinearity_has_no_units():
    net = networks.mlp([6, 8, 3], "linear", "gaussian")
    params = drawn(net, sigma_w=1.0, seeds=5)
    flag = judged("dead_units", measured(net, params, inputs_around(1.0)))
    assert flag.state == "clear"
    assert flag.reason == "no hidden units"


def test_unit_of_a_recurrence_that_no_weight_reaches_is_dead():
    """It is at zero in every step, and tanh keeps its slope there."""
    net = networks.rnn(4, 2, 3, length=3)
    params = jax.tree.map(np.array, jax.jit(net.init)(jax.random.key(0)))
    state = params["state"]
    for part in (state["input"][:, 0], state["recurrent"][:, 0], state["recurrent"][0]):
        part[:] = 0
    params["head"]["w"][0] = 0
    certified = isometry.certify(net, params)
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    xs = np.random.default_rng(0).normal(size=(3, 3, 2)).astype(np.float32)
    flag = judged("dead_units", measured(net, stacked, xs, certificates=[certified]))
    assert flag.raised
    assert flag.value == 1 / 4
    assert flag.where == ("state/recurrent",)
