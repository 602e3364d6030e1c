"""The flag saturated_units: shares against their null, on any network."""

import math

import jax
import jax.numpy as jnp
import pytest

from isometry import networks, theory
from isometry.activations import Activation
from isometry.degeneracy import _unit_flags
from isometry.degeneracy._flag import Thresholds as OldThresholds
from isometry.degeneracy._unit_flags import pre_activations
from tests.degeneracy.drawn import params_of
from tests.verdicts.audited import KEY, changed, gaussian, judged, keys, measured
from tests.verdicts.conftest import IMAGES

XS = jax.random.normal(jax.random.key(1), (4, 6))
WIDTHS = [6, 24, 24, 3]


def of_tanh(sigma_w, *, seeds=6, sigma_b=0.0):
    """Tanh of one hidden layer whose pre-activations are about N(0, sigma_w²)."""
    net = networks.mlp(WIDTHS, "tanh", "gaussian", sigma_b=sigma_b)
    return net, params_of(net, sigma_w=sigma_w, seeds=seeds)


@pytest.mark.parametrize("sigma_w", [1.0, 4.0])
def test_perceptrons_are_judged_as_before(sigma_w):
    net, params = of_tanh(sigma_w)
    flag = judged("saturated_units", measured(net, params, XS, keys=keys(6)))
    layers = pre_activations(net.function, params, XS)
    before = _unit_flags.saturated_units(net, layers, OldThresholds(), KEY)
    assert flag.state == before.state == ("raised" if sigma_w > 1 else "clear")
    assert flag.value == pytest.approx(before.value)
    assert flag.interval == pytest.approx(before.interval)
    assert flag.threshold == pytest.approx(before.threshold)
    for name in ("largest_slope", "null_probability", "null_variance"):
        assert flag.evidence[name] == pytest.approx(before.evidence[name])
    assert flag.evidence["share"] == pytest.approx(before.evidence["share"])
    assert flag.evidence["thresholds"] == pytest.approx(before.evidence["thresholds"])
    assert flag.source == before.source


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
    params = params_of(net, sigma_w=60.0)
    flag = judged("saturated_units", measured(net, params, XS))
    assert flag.evidence["bounded"] == is_bounded
    assert flag.raised == is_bounded


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
