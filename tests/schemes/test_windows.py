"""Kernels fitted to their convolution: taps that keep all pixels, and gains."""

import equinox
import flax.linen as nn
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import initializers, schemes
from isometry._internal.errors import NotDefined
from isometry.structure import anatomy

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)

STRIDE = 2
WINDOWS = (2, 3, 4)
CHANNELS = 8


def read(f, shapes, x):
    return anatomy(f, shapes, jax.ShapeDtypeStruct(x.shape, x.dtype))


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def array(*sizes):
    return jax.device_put(np.asarray(RNG.standard_normal(sizes), np.float32))


def zeros(shapes):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


# --- Transposed convolutions


def enlarged(params, x):
    """The same image, enlarged by windows of each size."""
    numbers = ("NHWC", "HWIO", "NHWC")
    outputs = {}
    for name, kernel in params.items():
        y = jax.lax.conv_transpose(
            x[None], kernel, (STRIDE, STRIDE), "SAME", dimension_numbers=numbers
        )
        outputs[name] = y[0]
    return outputs


KERNELS = {f"k{k}": shape(k, k, CHANNELS, CHANNELS) for k in WINDOWS}
IMAGE = (12, 12, CHANNELS)


def phases(y):
    """Means of the inner pixels of each phase, (examples, 2, 2): no border in them."""
    inner = y[:, 4:-4, 4:-4]
    num, height, width, _ = inner.shape
    split = inner.reshape(num, height // 2, 2, width // 2, 2, -1)
    return split.mean((1, 3, 5))


@pytest.fixture(scope="module")
def squares():
    """Squares of outputs by scheme, over 24 draws of weights and inputs."""
    an = read(enlarged, KERNELS, jnp.zeros(IMAGE))
    assignments = {
        "kaiming": schemes.assign("kaiming", an, KERNELS),
        "gaussian": schemes.assign("gaussian", an, KERNELS, sigma_w=1.0),
        "orthogonal": schemes.assign("orthogonal", an, KERNELS, sigma_w=1.0),
    }

    @jax.jit
    def outputs(keys, xs):
        def one(pair):
            key, x = pair
            drawn = [a.draw(key, zeros(KERNELS)) for a in assignments.values()]
            # One convolution for all schemes: kernels side by side along the outputs.
            joined = jax.tree.map(lambda *kernels: jnp.concatenate(kernels, -1), *drawn)
            return jax.tree.map(jnp.square, enlarged(joined, x))

        # Not vmapped: convolutions of many kernels are slow on a CPU.
        return jax.lax.map(one, (keys, xs))

    found = jax.device_get(outputs(jax.random.split(KEY, 24), array(24, *IMAGE)))
    parts = {name: np.split(y, len(assignments), -1) for name, y in found.items()}
    return {
        scheme: {name: part[i] for name, part in parts.items()}
        for i, scheme in enumerate(assignments)
    }


@pytest.mark.parametrize("k", WINDOWS)
@pytest.mark.parametrize(
    ("scheme", "expected"), [("kaiming", 2), ("gaussian", 1), ("orthogonal", 1)]
)
def test_transposed_convolution_keeps_the_mean_variance(squares, scheme, expected, k):
    """E y² = sigma_w² E x², on the mean over phases: in each by its share of taps."""
    measured = phases(squares[scheme][f"k{k}"])
    # How many taps meet a pixel: a window of ones on an image of ones.
    one = enlarged({"k": jnp.ones((k, k, 1, 1))}, jnp.ones((*IMAGE[:2], 1)))["k"]
    taps = phases(np.asarray(one)[None])[0]
    assert taps.mean() == k**2 / STRIDE**2
    by_phase = expected * STRIDE**2 * taps / k**2
    error = measured.std(0) / len(measured) ** 0.5
    # Five standard errors, each below a tenth: without the gain a quarter is left.
    assert np.all(error < 0.1 * by_phase)
    assert np.all(np.abs(measured.mean(0) - by_phase) < 5 * error)


def test_table_says_how_many_taps_meet_an_output():
    an = read(enlarged, KERNELS, jnp.zeros(IMAGE))
    assert [layer.spread for layer in an.layers] == [(STRIDE, STRIDE)] * 3
    assert "72/4 → 72" in an.table()
    table = schemes.assign("kaiming", an, KERNELS).table()
    assert "times √4, as 1 of 4 taps meet an output" in table
    assert "times √4, as 1 to 4 of 9 taps meet an output" in table
    assert "times √4, as 4 of 16 taps meet an output" in table


def test_numbers_of_the_user_get_no_gain():
    """The N(0, 0.02²) of DCGAN stays what it is."""
    an = read(enlarged, KERNELS, jnp.zeros(IMAGE))
    init = initializers.constant(0.02)
    assignment = schemes.assign(init, an, KERNELS)
    drawn = jax.jit(assignment.draw)(KEY, zeros(KERNELS))
    for kernel in drawn.values():
        np.testing.assert_array_equal(kernel, np.float32(0.02))
    assert [row.note for row in assignment.rows] == [
        "1 of 4 taps meet an output",
        "1 to 4 of 9 taps meet an output",
        "4 of 16 taps meet an output",
    ]


ONE_TAP = ("dirac", "zer_o", "idinit", "identity", "delta_orthogonal", "hadamard")


@pytest.mark.parametrize("scheme", ONE_TAP)
def test_one_tap_in_a_transposed_convolution_is_refused(scheme):
    """It would leave three of four outputs at zero."""
    an = read(enlarged, KERNELS, jnp.zeros(IMAGE))
    with pytest.raises(NotDefined, match="one in 4 of its outputs"):
        schemes.assign(scheme, an, KERNELS)


def flax_layer():
    module = nn.ConvTranspose(4, (3, 3), strides=(2, 2), transpose_kernel=True)
    params = jax.eval_shape(module.init, KEY, jnp.zeros((5, 5, 2)))
    return module.apply, params, jnp.zeros((5, 5, 2))


def equinox_layer():
    def build(key):
        return equinox.nn.ConvTranspose2d(2, 4, 3, stride=2, key=key)

    layer = equinox.filter_eval_shape(build, KEY)
    is_shape = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)  # noqa: E731
    params, static = equinox.partition(layer, is_shape)

    def f(params, x):
        return equinox.combine(params, static)(x)

    return f, params, jnp.zeros((2, 5, 5))


def haiku_layer():
    net = haiku.transform(lambda x: haiku.Conv2DTranspose(4, 3, stride=2)(x))
    params = jax.eval_shape(net.init, KEY, jnp.zeros((1, 5, 5, 2)))
    return lambda p, x: net.apply(p, None, x), params, jnp.zeros((1, 5, 5, 2))


@pytest.mark.parametrize("make", [flax_layer, equinox_layer, haiku_layer])
def test_transposed_layers_of_frameworks_are_read(make):
    f, params, x = make()
    (layer,) = read(f, params, x).layers
    assert layer.spread == (2, 2)
    assert (layer.fan_in, layer.fan_out) == (18, 36)


# --- Even windows


def convolve(x, kernel, **options):
    numbers = ("NHC", "HIO", "NHC")
    options = {"window_strides": (1,), "padding": "SAME"} | options
    y = jax.lax.conv_general_dilated(
        x[None], kernel, dimension_numbers=numbers, **options
    )
    return y[0]


# Windows of 2 to 4 taps, with zeros on both sides of the image, or all before it.
SAME = {f"{taps} taps": (taps, "SAME") for taps in WINDOWS}
SAME |= {f"{taps} taps, causal": (taps, [(taps - 1, 0)]) for taps in WINDOWS}


@pytest.mark.parametrize("scheme", ["dirac", "zer_o", "identity", "delta_orthogonal"])
def test_window_under_same_padding_keeps_its_image(scheme):
    """Where the output has the size of the image, each pixel goes to its own place."""

    def f(params, x):
        return {
            name: convolve(x, params[name], padding=padding)
            for name, (_, padding) in SAME.items()
        }

    shapes = {name: shape(taps, 3, 3) for name, (taps, _) in SAME.items()}
    x = array(7, 3)
    assignment = schemes.assign(scheme, read(f, shapes, x), shapes)
    outputs = jax.jit(lambda key: f(assignment.draw(key, zeros(shapes)), x))(KEY)
    x = np.asarray(x)
    for name, output in outputs.items():
        y = np.asarray(output)
        if scheme == "delta_orthogonal":
            # An orthogonal matrix at each pixel: products of 3 terms, and its own
            # rounding.
            gram = x @ x.T
            atol = 16 * np.finfo(np.float32).eps * np.abs(gram).max()
            np.testing.assert_allclose(y @ y.T, gram, rtol=0, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(y, x, err_msg=name)


def test_even_dirac_is_moved_only_where_pixels_are_lost():
    """torch's tap k//2 stays where it reads inside the image alone."""

    def f(params, x):
        same = convolve(x, params["same"])
        valid = convolve(same, params["valid"], padding="VALID")
        strided = convolve(valid, params["strided"], window_strides=(2,))
        return convolve(strided, params["dilated"], rhs_dilation=(2,))

    names = ("same", "valid", "strided", "dilated")
    shapes = {name: shape(2, 3, 3) for name in names}
    assignment = schemes.assign("dirac", read(f, shapes, array(9, 3)), shapes)
    params = assignment.draw(KEY, zeros(shapes))
    taps = {name: int(np.argmax(params[name][:, 0, 0])) for name in names}
    assert taps == {"same": 0, "valid": 1, "strided": 1, "dilated": 1}
    notes = {row.name: row.note for row in assignment.rows}
    assert notes == {
        "same": "at tap (0), which reads the pixel itself",
        "valid": "",
        "strided": "",
        "dilated": "tap (1) loses pixels at the border",
    }


def test_even_window_that_the_program_reverses_is_noted():
    def f(params, x):
        return convolve(x, params["k"][::-1])

    shapes = {"k": shape(2, 3, 3)}
    (row,) = schemes.assign("dirac", read(f, shapes, array(7, 3)), shapes).rows
    assert row.note == "at tap (1), which may shift the image"
