"""Predicted signals of residual networks against measured ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import networks
from isometry._internal.errors import NotDefined
from tests.networks.predicted import require_predicted

WIDTH = 64
XS = np.asarray(jax.random.normal(jax.random.key(1), (2, WIDTH))) + np.float32(0.7)
XS[1] += XS[0]
XS = jax.device_put(XS)


def build(**arguments):
    """Two blocks with multipliers of their own."""
    given = {"width": WIDTH, "sigma_w": 1.2, "activation": "tanh", **arguments}
    return networks.resnet(blocks=2, branch=[0.5, 1.0], skip=[0.8, -0.9], **given)


@pytest.mark.parametrize(
    "arguments",
    [
        {"order": "two_layer", "norm": "layer", "n_in": WIDTH, "n_out": 10},
        {"order": "post_activation", "norm": "rms", "norm_at": "post"},
        {"order": "v2", "width": [64, 80], "scheme": "orthogonal"},
    ],
    ids=lambda arguments: arguments["order"],
)
def test_signals_are_measured(arguments):
    """All fields at every point: four standard errors of 24 draws, and 1/width."""
    predicted = require_predicted(build(**arguments), XS, seeds=24, bias=1 / WIDTH)
    assert "path leads" in predicted.why("chi")


def test_signals_of_batches_are_measured():
    """With the statistics of batches of 8, and slopes on the stream."""
    net = build(order="pre_activation", norm="batch", sigma_b=0.3, n_out=3).training
    xs = XS[:, None] + jax.random.normal(jax.random.key(2), (2, 8, WIDTH))
    require_predicted(net, xs, seeds=24, bias=2 / WIDTH)


def test_refusals():
    images = networks.resnet(4, 2, size=(5,))
    with pytest.raises(NotDefined, match="convolutions are not followed"):
        images.mean_field(jnp.ones((1, 5, 4)))
    with pytest.raises(NotDefined, match="no law is known of zer_o"):
        networks.resnet(4, 2, scheme="zer_o").mean_field(jnp.ones((1, 4)))
