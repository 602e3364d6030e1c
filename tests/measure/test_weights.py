"""Weights as operators, against the matrices that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, networks
from isometry.measure._weights import weights
from tests.networks.plain import plain

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
EPS = float(np.finfo(np.float32).eps)


def array(*shape):
    return jax.device_put(RNG.standard_normal(shape).astype(np.float32))


def matrix_of(function, kernel, shape):
    """The Jacobian with respect to an image of this shape, with rows of all pixels."""
    jacobian = jax.jit(jax.jacobian(function, 1))(kernel, np.zeros(shape, np.float32))
    return np.asarray(jacobian).reshape(-1, np.prod(shape))


def values_of(*matrices):
    """All singular values of the blocks of an operator, by NumPy in float64."""
    each = [np.linalg.svd(np.asarray(a, float), compute_uv=False) for a in matrices]
    return np.sort(np.concatenate(each))[::-1]


def check(spectrum, expected, terms):
    """Relative to the largest value, a dense SVD is off by eps times the order."""
    close = {"rtol": 0, "atol": 4 * terms * EPS * expected[0]}
    np.testing.assert_allclose(spectrum.values, expected, **close)


def convolve(x, kernel, strides=(1, 1), padding="SAME", **options):
    """Convolve one image (h, w, channels)."""
    y = jax.lax.conv_general_dilated(
        x[None],
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **options,
    )
    return y[0]


def wrapped(x, mode="wrap"):
    return jnp.pad(x, [(1, 1), (1, 1), (0, 0)], mode=mode)


TORCH = [(1, 1), (1, 1)]
CONVOLUTIONS = {
    "same": lambda k, x: convolve(x, k),
    "valid": lambda k, x: convolve(x, k, padding="VALID"),
    "zeros of torch": lambda k, x: convolve(x, k, (2, 2), TORCH),
    "zeros by hand": lambda k, x: convolve(jnp.pad(x, [(1, 0), (0, 1), (0, 0)]), k),
    "circular": lambda k, x: convolve(wrapped(x), k, padding="VALID"),
    "circular, stride": lambda k, x: convolve(wrapped(x), k, (2, 2), "VALID"),
    "dilated": lambda k, x: convolve(x, k, rhs_dilation=(2, 1)),
    "groups": lambda k, x: convolve(x, k, feature_group_count=2),
}


@pytest.mark.parametrize("how", CONVOLUTIONS)
def test_convolution_is_the_map_of_its_image(how):
    """Its Jacobian with respect to the image, which is 6×4, before it was padded."""
    function = CONVOLUTIONS[how]
    num_inputs = 1 if how == "groups" else 2
    kernel = array(3, 3, num_inputs, 2)
    net = plain(function, lambda key: kernel, (6, 4, 2))
    (row,) = weights(net, kernel)
    matrix = matrix_of(function, kernel, (6, 4, 2))
    assert (row.inputs, row.outputs) == matrix.shape[::-1]
    assert row.spectrum.structural_zeros == abs(48 - len(matrix))
    check(row.spectrum, values_of(matrix), terms=48)


def test_padding_that_is_no_convolution_is_said_to_be_part_of_the_image():
    kernel = array(3, 3, 2, 2)

    def reflected(k, x):
        return convolve(wrapped(x, "reflect"), k, padding="VALID")

    (row,) = weights(plain(reflected, lambda key: kernel, (6, 4, 2)), kernel)
    note = "of the padded image of 8×6 pixels, without the map that pads it"
    assert row.note == note
    assert row.inputs == 8 * 6 * 2


# Kernel, padding and options of transposed convolutions of 3×4 images: taps that the
# stride divides or not, cut results, pixels that no tap reaches, groups and dilation.
TRANSPOSED = {
    "zeros of torch": (3, TORCH, {"lhs_dilation": (2, 2)}),
    "even": (4, [(2, 2), (2, 2)], {"lhs_dilation": (2, 2)}),
    "cut": (3, [(-1, 2), (2, 0)], {"lhs_dilation": (2, 3)}),
    "unreached": (2, [(1, 2), (3, 1)], {"lhs_dilation": (3, 3)}),
    "dilated": (2, [(2, 2), (1, 1)], {"lhs_dilation": (2, 1), "rhs_dilation": (2, 1)}),
    "groups": (2, TORCH, {"lhs_dilation": (2, 2), "feature_group_count": 2}),
}


@pytest.mark.parametrize("how", TRANSPOSED)
def test_transposed_convolution_is_the_map_of_its_image(how):
    """Its Jacobian with respect to the image: found through the adjoint instead."""
    taps, padding, options = TRANSPOSED[how]
    num_inputs = 2 // options.get("feature_group_count", 1)
    kernel = array(taps, taps, num_inputs, 4)

    def enlarged(k, x):
        return convolve(x, k, padding=padding, **options)

    (row,) = weights(plain(enlarged, lambda key: kernel, (3, 4, 2)), kernel)
    matrix = matrix_of(enlarged, kernel, (3, 4, 2))
    assert (row.inputs, row.outputs) == matrix.shape[::-1]
    assert row.spectrum.structural_zeros == len(matrix) - 24
    check(row.spectrum, values_of(matrix), terms=len(matrix))


def test_stride_beside_spread_has_no_spectrum_and_says_why():
    kernel = array(3, 3, 2, 2)

    def both(k, x):
        return convolve(x, k, (2, 1), TORCH, lhs_dilation=(2, 2))

    record = weights(plain(both, lambda key: kernel, (4, 4, 2)), kernel)
    (row,) = record
    assert row.spectrum is None
    with pytest.raises(InputError, match="has no spectrum: a convolution that cuts"):
        record[row.name]
    (_, line) = record.table().splitlines()
    assert line.split("  ", maxsplit=2)[2].startswith("?")
    assert "a stride beside a spread" in line


def mixed(params, tokens):
    """Embedding, heads, masked stacked layers in a scan, one matrix a channel."""
    h = params["embed"][tokens]
    query = jnp.einsum("td,dhk->thk", h, params["query"])

    def step(h, layer):
        return jnp.tanh(h @ jnp.tril(layer)), None

    h, _ = jax.lax.scan(step, h, params["blocks"], reverse=True)
    heads = jnp.einsum("thk,hkd->thd", query, params["heads"])
    return h @ params["head"], heads


MIXED = {
    "embed": array(9, 6),
    "query": array(6, 2, 3),
    "blocks": array(3, 6, 6),
    "heads": array(2, 3, 7),
    "head": array(6, 4),
}
TOKENS = jax.ShapeDtypeStruct((5,), jnp.int32)


def test_weights_are_matrices_as_they_multiply_the_signal():
    record = weights(plain(mixed, lambda key: MIXED, TOKENS), MIXED)
    check(record["embed"], values_of(MIXED["embed"]), terms=9)
    check(record["query"], values_of(MIXED["query"].reshape(6, 6)), terms=6)
    check(record["heads"], values_of(*MIXED["heads"]), terms=7)
    check(record["head"], values_of(MIXED["head"]), terms=6)
    assert record["heads"].structural_zeros == 2 * (7 - 3)
    for i in range(3):
        masked = np.tril(np.asarray(MIXED["blocks"][i]))
        check(record[f"blocks[{i}]"], values_of(masked), terms=6)
    kinds = [row.kind for row in record]
    assert kinds == ["embedding", *["dense"] * 6]


def gates(params, x):
    """Two matrices that are joined before they are applied, as in recurrences."""
    both = jnp.concatenate([params["update"], params["reset"]], axis=1)
    return jnp.tanh(x @ both)


def test_joined_weights_are_told_apart():
    params = {"reset": array(4, 3), "update": array(4, 5)}
    record = weights(plain(gates, lambda key: params, (4,)), params)
    for name, matrix in params.items():
        check(record[name], values_of(matrix), terms=5)


def test_low_precision_weights_are_exact_in_float32():
    net = networks.mlp([4, 6, 6, 6, 3], "tanh", "gaussian", 1.0, dtype=jnp.bfloat16)
    params = jax.tree.map(lambda a: array(*a.shape).astype(a.dtype), net.shapes)
    record = weights(net, params)
    assert len(record) == 4
    for row, layer in zip(record, net.layers(params), strict=True):
        check(row.spectrum, values_of(layer.w.astype(jnp.float32)), terms=6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, p: weights(gates, p), r"weights\(\): net=.* is not a Network; w"),
        (
            lambda net, p: weights(net, {"other": p}),
            "is of shape .* in this network, and params lacks it",
        ),
        (lambda net, p: weights(net, net.shapes), "a shape without numbers"),
        (lambda net, p: weights(net, p)["layer/0"], "name='layer/0' .* 'layers/0'"),
    ],
)
def test_refusals(call, message):
    net = networks.mlp([4, 3])
    with pytest.raises(InputError, match=message):
        call(net, jax.tree.map(jnp.ones_like, net.shapes))
