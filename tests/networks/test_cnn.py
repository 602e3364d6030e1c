"""Convolutional networks against sums over pixels in NumPy, and their spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError
from isometry.networks._cnn import cnn
from tests.networks import plain_images
from tests.networks.drawing import drawn, in_float64, unstacked

EPS = float(jnp.finfo(jnp.float32).eps)

# One and two axes, even windows, uneven strides, groups, both poolings, with and
# without a head; the second to third layers of the first are scanned.
FORWARD = {
    "circle": {
        "channels": [3, 4, 4, 4, 6],
        "size": (7,),
        "kernel": [3, 4, 4, 2],
        "strides": [2, 1, 1, 1],
        "groups": [1, 2, 2, 1],
    },
    "same": {
        "channels": [2, 4, 4, 4],
        "size": (6, 7),
        "kernel": [(3, 2), 3, 3],
        "strides": [(1, 2), 1, 1],
        "padding": "same",
        "pooling": ["average", None],
        "head": 3,
    },
    "valid": {
        "channels": [2, 4, 4],
        "size": (9, 8),
        "padding": "valid",
        "pooling": "max",
        "bias": False,
    },
}


def plain(net, params, x):
    """Layer by layer in float64."""
    runs = zip(net.function.runs, in_float64(params["layers"]), strict=True)
    h = np.asarray(x, np.float64)
    for run, stack in runs:
        for leaves in unstacked(stack, run.length):
            if run.layer.pooling is not None:
                h = plain_images.pooled(h, run.layer.pooling)
            z = plain_images.convolution(
                leaves["w"],
                h,
                strides=run.layer.strides,
                padding=run.layer.padding,
                groups=run.layer.groups,
            )
            z = z + leaves.get("b", 0.0)
            h = np.tanh(z)
    if "head" not in params:
        return z
    head = in_float64(params["head"])
    return h.mean(tuple(range(h.ndim - 1))) @ head["w"] + head["b"]


@pytest.mark.parametrize("case", FORWARD)
def test_output_is_that_of_sums_over_pixels(case):
    net = cnn(**FORWARD[case])
    params = drawn(net)
    x = np.random.default_rng(1).standard_normal(net.input_shape)
    wanted = plain(net, params, x)
    with jax.default_matmul_precision("highest"):
        came = net(params, jnp.asarray(x, jnp.float32))
    assert came.shape == wanted.shape
    # A layer sums at most 37 products, and gains of 3 carry its rounding through four.
    np.testing.assert_allclose(came, wanted, rtol=0, atol=37 * 3**4 * EPS)
