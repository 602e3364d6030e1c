"""The flag saturated_units: shares against their null, on any network."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from isometry import networks, theory
from isometry.activations import Activation
from isometry.verdicts import _nulls
from tests.verdicts.audited import (
    changed,
    gaussian,
    judged,
    keys,
    measured,
    pre_activations,
)
from tests.verdicts.conftest import IMAGES
from tests.verdicts.measuring import drawn

XS = jax.random.normal(jax.random.key(1), (4, 6))
WIDTHS = [6, 24, 24, 3]


def of_tanh(sigma_w, *, seeds=6, sigma_b=0.0):
    """Tanh of one hidden layer whose pre-activations are about N(0, sigma_w²)."""
    net = networks.mlp(WIDTHS, "tanh", "gaussian", sigma_b=sigma_b)
    return net, drawn(net, sigma_w=sigma_w, seeds=seeds)


@pytest.mark.parametrize("sigma_w", [1.0, 4.0])
def test_saturation_is_a_share_against_its_null(sigma_w):
    """|tanh'| < 0.01 where |z| > 2.993, P = 0.00276 of a unit normal."""
    net, params = of_tanh(sigma_w)
    flag = judged("saturated_units", measured(net, params, XS, keys=keys(6)))
    assert flag.state == ("raised" if sigma_w > 1 else "clear")
    layers = pre_activations(params, XS, np.tanh)
    shares = [(np.cosh(z) ** -2 < 0.01).mean() for z in layers]
    np.testing.assert_allclose(flag.evidence["share"], shares)
    edge = math.atanh(math.sqrt(0.99))
    probability = math.erfc(edge / math.sqrt(2))
    assert flag.evidence["null_probability"] == pytest.approx(
        probability, abs=4 / 65536
    )
    # 6 seeds × 24 units; two layers share the level.
    most = binom.ppf(1 - 0.01 / 2, 144, probability)
    np.testing.assert_allclose(flag.evidence["thresholds"], (most + 0.5) / 144)
    worst = int(np.argmax(np.subtract(shares, (most + 0.5) / 144)))
    assert flag.value == pytest.approx(shares[worst])
    assert "unit variance" in flag.source


def test_a_critical_network_is_as_saturated_as_it_must_be():
    """The null of tanh at sigma_b = 1 is q* = 3.04: P(|z| > 2.993) = 8.6 %."""
    net, params = of_tanh(1.0, sigma_b=1.0)
    flag = judged("saturated_units", measured(net, params, XS))
    q = theory.critical_points("tanh", 1.0)[0].q
    edge = math.atanh(math.sqrt(0.99))
    assert flag.evidence["null_variance"] == pytest.approx(q)
    assert flag.evidence["null_probability"] == pytest.approx(
        math.erfc(edge / math.sqrt(2 * q)), abs=4 / 65536
    )
    assert "q* = 3.04" in flag.source


def test_few_seeds_of_an_initialization_are_undecided():
    net, params = of_tanh(4.0)
    assert judged("saturated_units", measured(net, params, XS, least_seeds=7)).raised
    few = measured(net, params, XS, keys=keys(6), least_seeds=7)
    assert judged("saturated_units", few).state == "undecided"


@pytest.mark.parametrize(
    ("activation", "is_bounded"),
    [
        ("sigmoid", True),
        ("gelu", False),
        (Activation(jnp.arcsinh, name="arcsinh"), False),
        (Activation(lambda z: jnp.clip(z, -0.3, 0.7), name="clip"), True),
    ],
)
def test_only_bounded_activations_saturate(activation, is_bounded):
    net = networks.mlp([6, 8, 3], activation, "xavier")
    params = drawn(net, sigma_w=60.0)
    flag = judged("saturated_units", measured(net, params, XS))
    assert flag.evidence["bounded"] == is_bounded
    assert flag.raised == is_bounded
    # Two digits of a hundred would be 1e+02.
    assert "e+" not in flag.reason


def test_a_saturated_convolution_is_named(cnn):
    net, params, healthy = cnn

    def enlarge(leaf):
        leaf *= 30

    planted = changed(params, "['params']['Conv_3']['kernel']", enlarge)
    flag = judged("saturated_units", measured(net, planted, IMAGES))
    assert flag.raised
    assert flag.where == ("Conv_3",)
    assert "of the units of Conv_3 are saturated" in flag.reason
    assert judged("saturated_units", healthy).state == "clear"


def test_gates_are_to_open_and_close():
    """A forget gate with a bias of 20 is flat, and meant to be."""
    net = networks.rnn(4, 2, 3, "lstm")
    params = gaussian(net, x=jax.ShapeDtypeStruct((3, 2), jnp.float32))

    def open_(leaf):
        leaf += 20

    planted = changed(params, "['forget']['b']", open_)
    xs = jax.random.normal(jax.random.key(1), (4, 3, 2))
    assert judged("saturated_units", measured(net, planted, xs)).state == "clear"


def test_a_share_that_chance_alone_explains_is_below_its_line():
    """The slope of so steep an activation is flat at every quantile of a Gaussian."""
    steep = networks.mlp(WIDTHS, lambda x: jnp.tanh(1e6 * x)).activation
    probability = _nulls.saturated_probability(steep, line=1e4, variance=1.0)
    assert probability == 1
    assert _nulls.saturated_quantile(24, probability, level=0.99) > 1


@pytest.mark.parametrize("level", [0.9, 0.99, 1 - 1e-6])
@pytest.mark.parametrize("probability", [0.0, 1e-4, 0.3, 1.0])
def test_quantiles_are_those_of_the_binomial_law(level, probability):
    for num_trials in (0, 1, 7, 300):
        found = _nulls._binomial_quantile(level, num_trials, probability)
        assert found == binom.ppf(level, num_trials, probability)
