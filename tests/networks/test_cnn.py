"""Convolutional networks against sums over pixels in NumPy, and their spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError
from isometry.networks import cnn
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": "33"}, r"channels='33' is not a sequence; write \[c_in, "),
        ({"channels": [3]}, r"channels=\[3\] has 1; write \[c_in, "),
        ({"channels": [3, 0, 2]}, r"channels\[1\]=0 must be a whole number"),
        ({"size": 5}, r"size=5 is not the size of an image; write \(n,\) or \(h, w\)"),
        ({"size": (5, 5, 5)}, r"size=\(5, 5, 5\) is not the size of an image"),
        ({"size": (5, 0)}, r"size\[1\]=0 must be"),
        ({"kernel": 0}, "kernel=0 must be"),
        ({"kernel": [3]}, r"kernel=\[3\] has 1 entries; .* one a layer, 2 of them"),
        ({"kernel": [3, (3,)]}, r"kernel\[1\]=\(3,\) has 1 entries for 2 axes"),
        ({"padding": "reflect"}, "padding='reflect' is not known. Known: circular"),
        ({"strides": [1, 2, 1]}, r"strides=\[1, 2, 1\] has 3 entries"),
        ({"groups": 2}, "groups=2 does not divide the 3 channels that layer 0 reads"),
        ({"groups": [1, 2]}, "groups=2 does not divide the 5 channels that layer 1 w"),
        ({"pooling": "mean"}, "pooling='mean' is not known. Known: average, max"),
        (
            {"size": (1, 4), "pooling": "max"},
            r"pooling='max' before layer 1 would halve an image of size \(1, 4\)",
        ),
        (
            {"size": (4, 4), "padding": "valid"},
            r"size=\(2, 2\) of the image that layer 1 reads is smaller than its window",
        ),
        ({"head": 0}, "head=0 must be a whole number, at least 1"),
        ({"activation": jnp.sort}, "activation=sort at a point changes with the other"),
        ({"bias": False, "sigma_b": 0.1}, "sigma_b=0.1 with bias=False; drop one"),
        ({"scheme": "gausian"}, "'gausian' is not known.* Did you mean 'gaussian'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        cnn(**({"channels": [3, 4, 5], "size": (8, 8)} | arguments))
    assert str(caught.value).startswith("cnn(): ")


def test_a_batch_is_refused():
    net = cnn([3, 4], (8, 8))
    with pytest.raises(InputError, match=r"takes one image of shape \(8, 8, 3\)"):
        net(drawn(net), jnp.ones((2, 8, 8, 3)))
