"""Residual networks against a loop over their blocks in NumPy, and their spectra."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError
from isometry.networks import resnet
from tests.networks import plain_images
from tests.networks.drawing import drawn, in_float64, unstacked

EPS = float(jnp.finfo(jnp.float32).eps)


def layer(leaves, h, strides=1, padding="same"):
    """A dense layer of vectors, or a convolution of images along their first axis."""
    w = leaves["w"]
    if w.ndim == 2:
        z = h @ w
    else:
        steps = (strides,) * (w.ndim - 2)
        z = np.stack(
            [
                plain_images.convolution(w, image, strides=steps, padding=padding)
                for image in h
            ]
        )
    return z + leaves.get("b", 0.0)


def normalized(function, leaves, h, state):
    """The norm of a batch of examples; `state` is None for the batch's own."""
    scale = leaves["scale"]
    if function.norm == "rms":
        return scale * h / np.sqrt(np.mean(h**2, -1, keepdims=True) + 1e-5)
    if function.norm == "layer":
        mean, var = h.mean(-1, keepdims=True), h.var(-1, keepdims=True)
    elif state is None:
        axes = tuple(range(h.ndim - 1))
        mean, var = h.mean(axes), h.var(axes)
    else:
        mean, var = state["mean"], state["var"]
    return scale * (h - mean) / np.sqrt(var + 1e-5) + leaves["bias"]


def branch(order, leaves, h, phi, **convolution):
    """F(h), as the documentation of `resnet` writes it."""
    first, padding = leaves["first"], {"padding": convolution["padding"]}
    if order == "two_layer":
        return layer(leaves["second"], phi(layer(first, h, **convolution)), **padding)
    if order == "post_activation":
        return phi(layer(first, h, **convolution))
    if order == "pre_activation":
        return layer(first, phi(h), **convolution)
    return layer(leaves["second"], phi(layer(first, phi(h), **convolution)), **padding)


def plain(net, params, xs, skips):
    """A batch through all blocks in float64."""
    function = net.function
    params = in_float64(params)
    states = None
    if function.norm == "batch":
        states = params["batch_stats"]["blocks"]
        params = params["params"]
    x = np.asarray(xs, np.float64)
    if "stem" in params:
        x = layer(params["stem"], x, padding=function.runs[0].block.padding)
    blocks = blocks_of(function, params["blocks"])
    if states is None or net.mode == "training":
        states_of_blocks = itertools.repeat({"norm": None})
    else:
        states_of_blocks = blocks_of(function, states)
    geometry = [run.block for run in function.runs for _ in range(run.length)]
    for block, leaves, state, skip in zip(
        geometry, blocks, states_of_blocks, skips, strict=False
    ):
        x = one_block(function, block, leaves, x, state=state["norm"], skip=skip)
    if "head" not in params:
        return x
    return layer(params["head"], x.mean(tuple(range(1, x.ndim - 1))))


def one_block(function, block, leaves, x, *, state, skip):
    stride = max(block.strides, default=1)
    read = x
    if function.norm is not None and function.norm_at == "pre":
        read = normalized(function, leaves["norm"], x, state)
    added = branch(
        function.order,
        leaves,
        read,
        lambda h: np.maximum(h, 0),
        strides=stride,
        padding=block.padding,
    )
    if "shortcut" in leaves:
        x = layer(leaves["shortcut"], x, strides=stride)
    y = skip * x + leaves["branch"] * added
    if function.norm is not None and function.norm_at == "post":
        y = normalized(function, leaves["norm"], y, state)
    return y


def blocks_of(function, stacks):
    """The leaves of each block; a single run is no tuple."""
    stacks = stacks if isinstance(stacks, tuple) else (stacks,)
    runs = zip(stacks, function.runs, strict=True)
    return [leaves for stack, run in runs for leaves in unstacked(stack, run.length)]


# Every order, norm, and place of the norm; scanned and single blocks; projections.
FORWARD = {
    "plain": {"width": 5, "blocks": 1, "n_in": 3, "n_out": 2, "branch": 0.5},
    "post": {
        "width": 5,
        "blocks": 3,
        "order": "post_activation",
        "norm": "layer",
        "norm_at": "post",
        "skip": [0.5, 1.0, 2.0],
    },
    "pre": {
        "width": [5, 5, 7],
        "blocks": 3,
        "order": "pre_activation",
        "norm": "rms",
        "bias": False,
    },
    "v2": {"width": 5, "blocks": 2, "order": "v2", "norm": "batch", "skip": 0.7},
    "images": {
        "width": [3, 3, 4],
        "blocks": 3,
        "n_in": 2,
        "n_out": 2,
        "size": (4, 6),
        "strides": [1, 1, 2],
        "norm": "batch",
        "norm_at": "post",
    },
    "circle": {
        "width": 3,
        "blocks": 2,
        "size": (5,),
        "kernel": 2,
        "padding": "circular",
        "order": "v2",
        "norm": "layer",
    },
}


def tolerance(wanted):
    """Rounding of up to three blocks of four sums, relative to the largest value."""
    return 256 * EPS * max(1.0, float(np.abs(wanted).max()))


def inputs(net, examples):
    return np.random.default_rng(1).standard_normal((examples, *net.input_shape))


@pytest.mark.parametrize("case", FORWARD)
def test_output_is_that_of_a_loop_over_blocks(case):
    net = resnet(**FORWARD[case])
    params = drawn(net)
    xs = inputs(net, 1)
    skips = np.broadcast_to(FORWARD[case].get("skip", 1.0), FORWARD[case]["blocks"])
    wanted = plain(net, params, xs, skips)[0]
    with jax.default_matmul_precision("highest"):
        came = net(params, jnp.asarray(xs[0], jnp.float32))
    assert came.shape == wanted.shape
    np.testing.assert_allclose(came, wanted, rtol=0, atol=tolerance(wanted))


@pytest.mark.parametrize("case", ["v2", "images"])
def test_training_uses_the_statistics_of_the_batch(case):
    net = resnet(**FORWARD[case])
    params = drawn(net)
    xs = inputs(net, 6)
    skips = np.broadcast_to(FORWARD[case].get("skip", 1.0), FORWARD[case]["blocks"])
    wanted = plain(net.training, params, xs, skips)
    with jax.default_matmul_precision("highest"):
        came = net.training(params, jnp.asarray(xs, jnp.float32))
    assert (net.mode, net.training.mode) == ("inference", "training")
    np.testing.assert_allclose(came, wanted, rtol=0, atol=tolerance(wanted))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width=0 must be a whole number, at least 1"),
        ({"width": [4, 4, 4]}, r"width=\[4, 4, 4\] has 3 entries; .* a block, 2 of"),
        ({"blocks": 0}, "blocks=0 must be"),
        ({"order": "v1"}, "order='v1' is not known. Known: two_layer, post_activation"),
        ({"norm": "group"}, "norm='group' is not known. Known: layer, rms, batch"),
        ({"norm_at": "mid"}, "norm_at='mid' is not known. Known: pre, post"),
        ({"branch": "1"}, "branch='1' is not a number"),
        ({"branch": [1.0, np.inf]}, r"branch\[1\]=inf is not a finite number"),
        ({"skip": np.ones(3)}, r"skip=\[1.0, 1.0, 1.0\] has 3 entries"),
        ({"n_in": 0}, "n_in=0 must be"),
        ({"n_out": 2.5}, "n_out=2.5 is not a whole number"),
        ({"kernel": 3}, "size=None with a kernel or strides; write the size"),
        ({"strides": [1, 2]}, "size=None with a kernel or strides"),
        ({"size": 8}, "size=8 is not the size of an image"),
        ({"size": (8,), "kernel": (3, 3)}, r"kernel=\(3, 3\) has 2 entries for 1 axes"),
        ({"size": (8,), "padding": "valid"}, "padding='valid' is not known. Known: "),
        ({"activation": jnp.sort}, "activation=sort at a point changes"),
        ({"bias": False, "sigma_b": 0.1}, "sigma_b=0.1 with bias=False"),
        ({"scheme": "fixap"}, "'fixap' is not known.* Did you mean 'fixup'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        resnet(**({"width": 4, "blocks": 2} | arguments))
    assert str(caught.value).startswith("resnet(): ")


def test_a_batch_is_refused_and_in_training_wanted():
    net = resnet(4, 2, norm="batch")
    params = drawn(net)
    with pytest.raises(InputError, match=r"takes one example of shape \(4,\)"):
        net(params, jnp.ones((8, 4)))
    with pytest.raises(InputError, match=r"takes a batch \(examples, ...\) of ex"):
        net.training(params, jnp.ones(4))
