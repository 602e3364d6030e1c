"""The flag rank_collapse: inputs and tokens that become one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import networks
from tests.verdicts.audited import (
    changed,
    judged,
    keys,
    measured,
    pre_activations,
    spread,
)
from tests.verdicts.conftest import IMAGES, TOKENS
from tests.verdicts.measuring import drawn, rounding

XS = jax.random.normal(jax.random.key(1), (4, 6))
DEEP = [6, *[16] * 9, 3]
ORDERED = {"sigma_w": 0.5, "sigma_b": 0.5}


@pytest.fixture(scope="module")
def tanh():
    """What is measured of an ordered, and of a critical network."""
    net = networks.mlp(DEEP, "tanh", "gaussian")
    laws = {"ordered": ORDERED, "critical": {"sigma_w": 1.0, "orthogonal": True}}
    return {name: (net, drawn(net, **law)) for name, law in laws.items()}


@pytest.mark.parametrize(
    ("name", "state"), [("ordered", "raised"), ("critical", "clear")]
)
def test_collapse_is_the_ratio_of_spreads(tanh, name, state):
    """Against float64; R is as small as 1e-4."""
    net, params = tanh[name]
    flag = judged("rank_collapse", measured(net, params, XS, keys=keys(6)))
    assert flag.state == state
    before = spread(np.asarray(XS, float)[None])
    layers = pre_activations(params, XS, np.tanh)
    spreads = [spread(z) for z in layers]
    wanted = [np.median(np.log(of_layer / before)) for of_layer in spreads]
    gaps = np.abs(np.subtract(flag.evidence["log_ratio"], wanted))
    # R is the square of differences that are √R of the values, whose rounding is that
    # of the layers so far.
    for number, (gap, of_layer) in enumerate(zip(gaps, spreads, strict=True), 1):
        assert gap < 2 * rounding(number, 16) / np.sqrt(of_layer.min())
    assert flag.value == flag.evidence["log_ratio"][-1]
    assert flag.evidence["spread_of_inputs"] == pytest.approx(before[0])
    assert flag.threshold == -6
    assert "at 'layers/1[7]'" in flag.reason


def test_inputs_that_become_one_to_rounding(tanh):
    """Weights of 1e-6 beside biases of 1."""
    net, params = tanh["ordered"]
    small = {
        "layers": tuple(
            {"w": 1e-6 * run["w"], "b": run["b"] + 1} for run in params["layers"]
        )
    }
    flag = judged("rank_collapse", measured(net, small, XS))
    assert flag.raised
    assert np.isneginf(flag.value)
    assert flag.reason == "all inputs are one at 'layers/1[7]', to rounding"


def test_collapse_needs_inputs_that_differ(tanh):
    net, params = tanh["critical"]
    equal = jnp.tile(XS[:1], (4, 1))
    flag = judged("rank_collapse", measured(net, params, equal))
    assert flag.state == "undecided"
    assert flag.reason == "the inputs do not differ"
    flag = judged("rank_collapse", measured(net, params, XS[:1]))
    assert flag.reason == "one input alone cannot come nearer to another"


def test_few_seeds_are_undecided(tanh):
    net, params = tanh["ordered"]
    few = measured(net, params, XS, least_seeds=7)
    assert judged("rank_collapse", few).state == "undecided"


def test_no_hidden_layer_no_collapse():
    net = networks.mlp([6, 3], "tanh", "gaussian")
    params = drawn(net, sigma_w=1.0)
    flag = judged("rank_collapse", measured(net, params, XS))
    assert flag.state == "clear"
    assert flag.reason == "no hidden layers"


def test_a_convolution_with_small_weights_and_biases_collapses(cnn):
    net, params, healthy = cnn

    def shrink(leaf):
        leaf *= 1e-3

    def shift(leaf):
        leaf += 1

    planted = changed(params, "['params']['Conv_3']['kernel']", shrink)
    planted = changed(planted, "['params']['Conv_3']['bias']", shift)
    flag = judged("rank_collapse", measured(net, planted, IMAGES))
    assert flag.raised
    assert "at 'Conv_3'" in flag.reason
    assert judged("rank_collapse", healthy).state == "clear"


def test_tokens_that_become_one_are_a_collapse(transformer):
    """A norm of scale zero behind the embedding would be one; here, a huge stream."""
    net, params, healthy = transformer

    def add(leaf):
        leaf += 1e4

    planted = changed(params, "['blocks']['mlp']['last']['b']", add)
    flag = judged("rank_collapse", measured(net, planted, TOKENS))
    assert flag.raised
    assert set(flag.evidence["states"].values()) == {"raised"}
    flag = judged("rank_collapse", healthy)
    assert flag.state == "clear"
    assert set(flag.evidence["states"]) == {"inputs", "tokens"}


def test_embedding_that_makes_all_tokens_one_has_collapsed_them(transformer):
    """The inputs differ, and the network cannot tell them apart."""
    net, params, _ = transformer
    table = np.array(params["embedding"]["w"])
    table[...] = table[:, :1]
    flag = judged(
        "rank_collapse", measured(net, params | {"embedding": {"w": table}}, TOKENS)
    )
    assert flag.raised
    assert flag.value == -np.inf
