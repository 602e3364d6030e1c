"""Predicted signals of an MLP against measured ones, and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, networks
from isometry._internal.errors import NotDefined
from tests.networks.predicted import require_predicted

XS = np.array(jax.random.normal(jax.random.key(1), (3, 20)))
# Two inputs that are alike, of lengths that are not.
XS[1] = 1.5 * XS[0] + 0.5 * XS[1]
XS = jax.device_put(XS)


def test_signals_are_measured():
    """Unequal widths, and biases: four standard errors of 24 draws and 1/width."""
    net = networks.mlp([20, 60, 60, 60, 10], "tanh", "orthogonal", 1.4, 0.3)
    require_predicted(net, XS, seeds=24, bias=1 / 60)


def test_relu_in_closed_form():
    """He weights keep q and |J|²; cosines follow the arc-cosine kernel (Cho, Saul)."""
    predicted = networks.mlp([20, 8, 8, 8], "relu", "kaiming").mean_field(XS)
    x = np.asarray(XS, float)
    q = (x**2).mean(axis=1)
    unit = x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    cosine = np.clip(unit @ unit.T, -1, 1)
    for layer in ("layers/0", "layers/1", "output"):
        found = predicted.at(layer)
        np.testing.assert_allclose(found.q[0], 2 * q, rtol=1e-7)
        np.testing.assert_allclose(found.c[0], cosine, atol=1e-7)
        np.testing.assert_allclose(found.apjn[0], 1.0, rtol=1e-12)
        angle = np.arccos(cosine)
        cosine = (np.sin(angle) + (np.pi - angle) * cosine) / np.pi
    assert np.asarray(predicted.at("input").gradient) == pytest.approx(2 / 20)


def test_refusals():
    net = networks.mlp([20, 8, 8, 2], "tanh", "zer_o")
    with pytest.raises(NotDefined, match=r"mean_field\(\): no law is known of zer_o"):
        net.mean_field(XS)
    jumping = networks.mlp([20, 8, 2], jnp.sign, "gaussian", 1.0)
    with pytest.raises(NotDefined, match="jumps"):
        jumping.mean_field(XS)
    with pytest.raises(InputError, match=r"write floating rows of shape \(20,\)"):
        jumping.mean_field(XS[:, :3])
