"""Convolutional networks against sums over pixels in NumPy, and their spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, networks
from tests.networks import plain_images
from tests.networks.drawing import drawn, in_float64, unstacked

KEY = jax.random.key(3)
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
    net = networks.cnn(**FORWARD[case])
    params = drawn(net)
    x = np.random.default_rng(1).standard_normal(net.input_shape)
    wanted = plain(net, params, x)
    with jax.default_matmul_precision("highest"):
        came = net(params, jnp.asarray(x, jnp.float32))
    assert came.shape == wanted.shape
    # A layer sums at most 37 products, and gains of 3 carry its rounding through four.
    np.testing.assert_allclose(came, wanted, rtol=0, atol=37 * 3**4 * EPS)


def test_program_does_not_grow_with_depth():
    sizes = []
    for depth in (6, 60):
        net = networks.cnn([3] * depth, (5,))
        program = jax.make_jaxpr(net)(net.shapes, net.example)
        sizes.append(len(str(program)))
    # Numbers of two digits are a few characters longer.
    assert sizes[1] < 1.02 * sizes[0]


def test_anatomy_names_every_layer():
    net = networks.cnn([3, 4, 4, 4], (8, 8), groups=[1, 2, 4], strides=2, head=5)
    layers = net.anatomy.layers
    assert [layer.name for layer in layers] == [f"layers/{i}" for i in range(3)] + [
        "head"
    ]
    assert [layer.role for layer in layers] == ["stem", "hidden", "hidden", "head"]
    assert [layer.groups for layer in layers] == [1, 2, 4, 1]
    # 9 pixels of the channels of one group, and the outputs of that group.
    assert [layer.fan_in for layer in layers] == [27, 18, 9, 4]
    assert [layer.fan_out for layer in layers] == [36, 18, 9, 5]
    assert net.depth == 4
    assert net.anatomy.unread == ()


def test_equal_layers_are_slices_of_one():
    net = networks.cnn([3, 4, 4, 4, 4, 2], (8,))
    layers = net.anatomy.layers
    assert [layer.stacked for layer in layers] == [None, 3, None]
    assert [layer.role for layer in layers] == ["stem", "hidden", "head"]
    points = [name for name in net.anatomy.points if not name.endswith(":out")]
    inner = [f"layers/1[{i}]" for i in range(3)]
    assert points == ["input", "layers/0", *inner, "layers/2", "output"]
    assert all(map(net.anatomy.cuts, points))


def test_last_layer_is_the_head_though_it_equals_those_before():
    net = networks.cnn([4] * 5, (8,))
    assert [layer.role for layer in net.anatomy.layers] == ["stem", "hidden", "head"]
    with_dense_head = networks.cnn([4] * 5, (8,), head=4)
    assert [layer.stacked for layer in with_dense_head.anatomy.layers] == [
        None,
        3,
        None,
    ]


@pytest.mark.parametrize(
    ("size", "padding", "method"),
    [
        ((9,), "circular", "product"),
        ((3, 3), "same", "dense"),
        ((9,), "valid", "dense"),
    ],
)
def test_delta_orthogonal_kernels_scale_every_singular_value(size, padding, method):
    """J is block diagonal over pixels, of products of orthogonal matrices.

    Xiao et al. (2018), Algorithm 2.
    """
    net = networks.cnn([3] * 4, size, activation="linear", padding=padding, sigma_w=1.3)
    x = jnp.ones(net.input_shape)
    sp = isometry.spectrum(net, net.init(KEY), x, method=method)
    # "valid" leaves three pixels of nine behind three layers.
    assert sp.size == (9 if padding == "valid" else 27)
    np.testing.assert_allclose(sp.values, 1.3**3, rtol=64 * EPS)


def test_block_orthogonal_kernels_are_isometries_on_a_circle():
    net = networks.cnn(
        [3] * 4, (9,), activation="linear", scheme="block_orthogonal", sigma_w=1.3
    )
    sp = isometry.spectrum(net, net.init(KEY), jnp.ones((9, 3)))
    np.testing.assert_allclose(sp.values, 1.3**3, rtol=64 * EPS)


def test_zeros_around_the_image_lose_mean_square_at_every_layer():
    """E s² = chi^3 sigma_w² 1ᵀ A^4 1/n, where A averages over the window.

    Rows of A sum to less than 1 at the edges. It holds at any width, because weights
    of random sign are independent of the slopes of relu.
    """
    size, depth, num_seeds = 6, 4, 512
    net = networks.cnn(
        [4] * (depth + 1),
        (size,),
        activation="relu",
        scheme="gaussian",
        padding="same",
        bias=False,
    )
    averaging = (np.eye(size) + np.eye(size, k=1) + np.eye(size, k=-1)) / 3
    # He's scale: chi = sigma_w²/2 = 1, and the last layer has no slope behind it.
    wanted = 2 * np.linalg.matrix_power(averaging, depth).sum() / size
    assert wanted == pytest.approx(2 * 0.69959, abs=1e-5)
    keys = jax.random.split(KEY, num_seeds)
    xs = jax.random.normal(jax.random.key(7), (1, size, 4))
    mean_squares = isometry.ensemble(net, keys, xs).moment(1)[:, 0]
    error = float(mean_squares.std()) / num_seeds**0.5
    assert abs(float(mean_squares.mean()) - wanted) < 4 * error
    # Without the zeros it would be 2.
    assert wanted + 4 * error < 1.8


def test_hidden_span_and_single_layers_are_measured_by_their_points():
    """z_1 to z_3 of four layers, and the third layer alone."""
    net = networks.cnn([3] * 5, (9,), activation="linear", sigma_w=1.3)
    params = net.init(KEY)
    x = jnp.ones((9, 3))
    hidden = isometry.spectrum(net, params, x, span="hidden")
    np.testing.assert_allclose(hidden.values, 1.3**2, rtol=64 * EPS)
    third = isometry.spectrum(net, params, x, span=("layers/1[0]", "layers/1[1]"))
    np.testing.assert_allclose(third.values, 1.3, rtol=64 * EPS)


def test_any_scheme_draws_its_kernels():
    """Kaiming's variance is 2/fan_in; the pixels of the window count."""
    net = networks.cnn([16, 16, 16], (4, 4), head=8).with_scheme("kaiming")
    params = net.init(KEY)
    weights = [layer["w"] for layer in (*params["layers"], params["head"])]
    for layer, w in zip(net.anatomy.layers, weights, strict=True):
        variance = layer.fan_in * float(jnp.mean(w**2))
        # The mean of n squares of normal numbers of variance 2 has a standard error of
        # 2 sqrt(2/n).
        assert variance == pytest.approx(2, abs=4 * 2 * (2 / w.size) ** 0.5)


def test_scale_is_critical_for_an_activation_of_the_users_own():
    """phi(x) = tanh(2 x) has slope 2 at zero, so its kernels have gain 1/2."""
    net = networks.cnn([3, 3, 3], (9,), activation=lambda x: jnp.tanh(2 * x))
    written = {row.initializer for row in net.assignment.rows if row.role != "bias"}
    assert written == {"delta_orthogonal(gain=0.5)"}


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
        ({"kernel": [3]}, r"kernel=\[3\] has 1 entries; .* one per layer, 2 of them"),
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
        networks.cnn(**({"channels": [3, 4, 5], "size": (8, 8)} | arguments))
    assert str(caught.value).startswith("networks.cnn(): ")


def test_a_batch_is_refused():
    net = networks.cnn([3, 4], (8, 8))
    with pytest.raises(InputError, match=r"takes one image of shape \(8, 8, 3\)"):
        net(drawn(net), jnp.ones((2, 8, 8, 3)))
