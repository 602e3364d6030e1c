"""Underflow is not zero: weights divided by a power of two make the same relu network, of smaller numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks
from isometry.degeneracy import _audit, _task, _underflow
from isometry.degeneracy._gradient_flags import zero_gradient
from isometry.degeneracy._symmetry_flag import certified
from isometry.degeneracy._unit_flags import dead_units, pre_activations

# A network loses 2^-POWER a layer.
DEPTH, POWER, KEY = 12, 25, jax.random.key(0)
NET = networks.mlp([6, *[12] * (DEPTH - 1), 3], "relu", "gaussian")
XS = jax.random.normal(jax.random.key(1), (4, 6))


def total(output, target):
    return output.sum()


def scaled(power):
    """Critical relu networks with every weight divided by 2^power, which rounds nothing.

    Of five seeds in every test: another number of them would compile every program anew.
    """
    drawn = jax.jit(jax.vmap(NET.init))(jax.random.split(KEY, 5))
    return jax.tree.map(lambda a: a * 2.0**-power, drawn)


def flags_of(params):
    """(signals, dead units, zero gradient), of a loss that is linear."""
    signals, units, lost = _underflow.signals(NET, params, XS, pre_activations(NET.function, params, XS))
    task = _task.Task(total, None, XS, jnp.zeros((4, 3)), None)
    few = jax.tree.map(lambda a: a[:2], params)
    certificates = certified(NET, few)
    dead = dead_units(NET, units, isometry.Thresholds(), KEY)
    return signals, lost, dead, zero_gradient(NET, task, few, 4, None, certificates)


@pytest.fixture(scope="module")
def plain():
    return flags_of(scaled(0))


@pytest.mark.core
def test_what_underflows_float32_has_slopes_and_gradients(plain):
    """2^-275 = 1e-83: ln of signals and gradients shift by what homogeneity says, and the same units are dead."""
    signals, lost, dead, gradient = flags_of(scaled(POWER))
    assert not lost
    np.testing.assert_allclose(np.ldexp(signals[-1], POWER * (DEPTH - 1)), plain[0][-1], rtol=1e-2, atol=1e-4)
    assert [row["dead"] for row in dead.evidence["layers"]] == [row["dead"] for row in plain[2].evidence["layers"]]
    assert dead.state == plain[2].state
    assert plain[3].state == gradient.state == "clear"
    assert plain[3].evidence["underflows"].tolist() == []
    assert gradient.evidence["underflows"].tolist() == list(range(DEPTH))
    assert "W_1 to W_12 underflows float32: see vanishing" in gradient.reason
    shift = POWER * (DEPTH - 1) * math.log(2)
    np.testing.assert_allclose(
        gradient.evidence["log_gradient_norm"], plain[3].evidence["log_gradient_norm"] - shift, atol=1e-3
    )


def test_what_underflows_float64_too_is_undecided():
    """2^-1200."""
    _, lost, _, gradient = flags_of(scaled(4 * POWER))
    assert lost.endswith("underflows float64 too, so its zeros say nothing")
    assert gradient.state == "undecided"
    assert "underflows float64 too" in gradient.reason


def test_dead_units_are_no_underflow():
    """All biases of a layer at −1000: no unit has a slope, whatever the scale, and nothing is brought back."""
    params = jax.tree.map(np.array, scaled(0))
    params["layers"][1]["b"][:, 5] = -1e3
    *_, gradient = flags_of(params)
    assert gradient.raised
    assert gradient.evidence["kind"] == "unknown"
    assert gradient.evidence["underflows"].tolist() == []


def test_a_jacobian_that_underflows_is_a_product():
    few, small = scaled(0), scaled(POWER)
    plain = isometry.ensemble(NET, params=few, xs=XS)
    shown = _underflow.signals(NET, small, XS, pre_activations(NET.function, small, XS))[1]
    found = _audit._spectra(NET, small, XS, "end_to_end", shown)
    assert str(found.log_values.dtype) == "float32"
    shift = POWER * DEPTH * math.log(2)
    np.testing.assert_allclose(found.log_values[..., 0], plain.log_values[..., 0] - shift, atol=1e-3)


@pytest.mark.slow
def test_an_audit_of_signals_that_underflow():
    net = networks.mlp([6, *[8] * 24, 3], "relu", "gaussian", sigma_w=0.01)
    report = isometry.audit(net, jax.random.split(KEY, 5), XS, train_steps=0, inputs=2)
    states = {name: flag.state for name, flag in report.flags.items()}
    assert states["vanishing"] == "raised"
    assert np.isfinite(report.flags["vanishing"].value)
    assert states["zero_gradient"] == "clear"
    assert states["dead_units"] == "clear"
    report.to_json()
