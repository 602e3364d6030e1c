"""Convolutional isometric initializers, judged by the matrix of their convolution."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from isometry import initializers
from tests.dense_convolution import convolution_matrix, rounding, singular_values
from tests.initializers.drawing import draw_together

KEY = jax.random.key(21)
GAIN = 1.5
KERNELS = {  # window, in, out, image
    "odd, widening": ((3,), 3, 5, (6,)),
    "odd, larger than the image": ((3,), 3, 5, (2,)),
    "even, narrowing": ((4,), 5, 3, (5,)),
    "odd and even, widening": ((3, 2), 2, 4, (3, 4)),
    "three axes, square": ((2, 3, 2), 3, 3, (3, 3, 2)),
    "one tap": ((1, 1), 2, 3, (2, 2)),
}
EVERY_KERNEL = pytest.mark.parametrize("case", KERNELS)


@pytest.fixture(scope="module")
def drawn():
    """Every factory in every kernel shape, in float64, as one program."""
    factories = {
        "delta_orthogonal": initializers.delta_orthogonal(GAIN),
        "block_orthogonal": initializers.block_orthogonal(GAIN),
        "dirac": initializers.dirac(1, GAIN),
        "zer_o": initializers.zer_o(),
        "zer_o paper": initializers.zer_o("paper"),
    }
    cases = {}
    for name, init in factories.items():
        for case, (window, n_in, n_out, _) in KERNELS.items():
            if case != "odd, larger than the image":
                cases[name, case] = (init, (*window, n_in, n_out))
    kernels = draw_together(cases, KEY, "float64")
    for name in factories:
        same_kernel = kernels[name, "odd, widening"]
        kernels[name, "odd, larger than the image"] = same_kernel
    return kernels


@pytest.mark.parametrize("groups", [1, 2])
def test_matrix_is_the_jacobian_of_xlas_convolution(groups):
    """SAME padding and a window that is even on one axis, where the offset shows."""
    kernel = np.random.default_rng(0).normal(size=(4, 3, 2, 6))
    image = (5, 3)

    def convolve(x):
        return jax.lax.conv_general_dilated(
            x[None],
            jnp.asarray(kernel),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )[0]

    with jax.enable_x64(True):
        x = jnp.zeros((*image, 2 * groups))
        jacobian = jax.jit(jax.jacobian(convolve))(x)
    matrix = convolution_matrix(kernel, image, "same", groups)
    np.testing.assert_allclose(jacobian.reshape(matrix.shape), matrix, atol=1e-14)


def test_circular_matrix_has_the_singular_values_of_the_symbol():
    """A circular convolution is one matrix a frequency, the sum over its taps."""
    kernel = np.random.default_rng(1).normal(size=(3, 2, 2, 3))
    symbol = np.fft.fftn(kernel, s=(4, 5), axes=(0, 1))
    expected = np.sort(np.linalg.svd(symbol, compute_uv=False).ravel())
    matrix = convolution_matrix(kernel, (4, 5), "circular")
    s = singular_values(matrix)
    np.testing.assert_allclose(s[::-1], expected, rtol=rounding(matrix))


# --- delta_orthogonal -----------------------------------------------------------------


@EVERY_KERNEL
def test_delta_orthogonal_convolution_is_an_isometry(case, drawn):
    """Circular and SAME; co-isometric where channels are lost."""
    kernel = drawn["delta_orthogonal", case]
    _, n_in, n_out, image = KERNELS[case]
    assert np.count_nonzero(np.abs(kernel).sum((-2, -1))) == 1
    for padding in ("circular", "same"):
        matrix = convolution_matrix(kernel, image, padding)
        s = singular_values(matrix)
        assert s.size == math.prod(image) * min(n_in, n_out)
        np.testing.assert_allclose(s, GAIN, rtol=rounding(matrix))


# --- block_orthogonal -----------------------------------------------------------------


@EVERY_KERNEL
def test_block_orthogonal_convolution_is_an_isometry(case, drawn):
    """Circular: all singular values are gain. Zero padding cuts the operator."""
    kernel = drawn["block_orthogonal", case]
    window, n_in, n_out, image = KERNELS[case]
    factors = 1 + sum(k - 1 for k in window)
    circular = convolution_matrix(kernel, image, "circular")
    tolerance = rounding(circular, factors)
    np.testing.assert_allclose(singular_values(circular), GAIN, rtol=tolerance)
    same = singular_values(convolution_matrix(kernel, image, "same"))
    assert same.max() <= GAIN * (1 + tolerance)
    if n_in <= n_out:
        full = singular_values(convolution_matrix(kernel, image, "full"))
        np.testing.assert_allclose(full, GAIN, rtol=tolerance)
    fits = all(n >= k for n, k in zip(image, window, strict=True))
    if n_in >= n_out and fits:
        valid = singular_values(convolution_matrix(kernel, image, "valid"))
        np.testing.assert_allclose(valid, GAIN, rtol=tolerance)


def test_block_orthogonal_uses_its_whole_window(drawn):
    """Each factor has a fresh P: (P + (I - P)x)² has nothing at the middle tap.

    SAME padding does not keep an isometry.
    """
    case = "even, narrowing"
    kernel = drawn["block_orthogonal", case]
    _, _, _, image = KERNELS[case]
    squares = (kernel**2).sum((-2, -1))
    assert squares.min() > rounding(kernel, factors=6)
    same = singular_values(convolution_matrix(kernel, image, "same"))
    assert same.min() < 0.9 * GAIN


# --- dirac and ZerO -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((4, 4, 3), 1),
        ((6, 2, 3, 3), 1),
        ((2, 6, 4, 3), 1),
        ((6, 4, 2, 2), 2),
        ((8, 1, 3, 3), 8),
        ((4, 2, 3, 2, 1), 2),
    ],
)
def test_dirac_passes_inputs_on_at_tap_k_half_of_every_group(shape, groups):
    """torch's dirac_ by its definition, in torch's layout (out, in/groups, *window)."""
    n_out, n_in, *window = shape
    outputs = n_out // groups
    expected = np.zeros(shape)
    for group in range(groups):
        for channel in range(min(outputs, n_in)):
            tap = [k // 2 for k in window]
            expected[(group * outputs + channel, channel, *tap)] = 1
    in_torch_layout = initializers.dirac(groups, in_axis=1, out_axis=0)(None, shape)
    np.testing.assert_array_equal(in_torch_layout, expected)
    ours = initializers.dirac(groups, 0.5)(None, (*window, n_in, n_out))
    np.testing.assert_array_equal(ours, 0.5 * np.moveaxis(expected, (0, 1), (-1, -2)))


@EVERY_KERNEL
def test_tap_k_half_shifts_by_one_pixel_where_the_window_is_even(case, drawn):
    """Circular: an isometry. SAME: each even side of the window loses one pixel."""
    window, n_in, n_out, image = KERNELS[case]
    pixels_left = [n - (k % 2 == 0) for n, k in zip(image, window, strict=True)]
    num_alive = min(n_in, n_out) * math.prod(pixels_left)
    kernels = [drawn["dirac", case]]
    if n_out <= n_in or n_out == power_of_two_above(n_out):
        kernels.append(GAIN * drawn["zer_o", case])
    for kernel in kernels:
        circular = convolution_matrix(kernel, image, "circular")
        tolerance = rounding(circular)
        np.testing.assert_allclose(singular_values(circular), GAIN, rtol=tolerance)
        s = singular_values(convolution_matrix(kernel, image, "same"))
        np.testing.assert_allclose(s[:num_alive], GAIN, rtol=tolerance)
        np.testing.assert_allclose(s[num_alive:], 0, atol=tolerance)


def power_of_two_above(n):
    return 2 ** math.ceil(math.log2(n))


@EVERY_KERNEL
@pytest.mark.parametrize(("name", "factor"), [("zer_o", 1), ("zer_o paper", 2)])
def test_zer_o_kernel_is_its_matrix_at_tap_k_half(case, name, factor, drawn):
    """Algorithm 2 of ZerO: the identity, or a scaled Hadamard block where it widens."""
    window, n_in, n_out, _ = KERNELS[case]
    expected = np.zeros((*window, n_in, n_out))
    matrix = np.eye(n_in, n_out)
    if n_out > n_in:
        order = power_of_two_above(n_out)
        matrix = scipy.linalg.hadamard(order)[:n_in, :n_out] * (factor / order) ** 0.5
    expected[tuple(k // 2 for k in window)] = matrix
    np.testing.assert_allclose(drawn[name, case], expected, rtol=1e-15)


def test_widening_zer_o_convolution_has_the_singular_values_of_its_matrix(drawn):
    """One tap of an odd window: every pixel has the singular values of the matrix."""
    kernel = drawn["zer_o", "odd, widening"]
    expected = np.sort(np.repeat(singular_values(kernel[1]), 6))[::-1]
    assert expected.min() < 1
    for padding in ("circular", "same"):
        matrix = convolution_matrix(kernel, (6,), padding)
        s = singular_values(matrix)
        np.testing.assert_allclose(s, expected, rtol=rounding(matrix))


def test_flattened_orthogonality_is_not_isometry():
    """`orthogonal` warns of it: flattened orthogonal kernels are no isometries."""
    shape = (3, 3, 6, 6)
    cases = {
        "orthogonal": (initializers.orthogonal(), shape),
        "idinit": (initializers.idinit(), shape),
    }
    for kernel in draw_together(cases, KEY).values():
        s = singular_values(convolution_matrix(kernel, (5, 5), "circular"))
        assert s.min() < 0.5
        assert s.max() > 1.5


# --- layouts and refusals -------------------------------------------------------------


def test_torch_layout_is_the_same_kernel_transposed():
    factories = {
        "delta_orthogonal": initializers.delta_orthogonal,
        "zer_o": initializers.zer_o,
        "idinit": initializers.idinit,
    }
    cases = {}
    for name, make in factories.items():
        cases[name, "ours"] = (make(), (4, 3, 3, 5))
        cases[name, "theirs"] = (make(in_axis=1, out_axis=0), (5, 3, 4, 3))
    drawn = draw_together(cases, KEY)
    for name in factories:
        moved = np.moveaxis(drawn[name, "ours"], (-1, -2), (0, 1))
        np.testing.assert_array_equal(drawn[name, "theirs"], moved)


@pytest.mark.parametrize(
    ("initializer", "shape", "words"),
    [
        (
            initializers.delta_orthogonal(),
            (3, 4),
            r"delta_orthogonal\(\): shape=\(3, 4\) has 2 axes.*orthogonal\(\)",
        ),
        (
            initializers.block_orthogonal(),
            (4,),
            r"block_orthogonal\(\): .*\(4,\).* one axis",
        ),
        (initializers.dirac(), (4, 4), r"dirac\(\): .*\(4, 4\).*partial_identity\(\)"),
        (initializers.dirac(), (1,) * 6, r"dirac\(\): .* 6 axes.*three to five"),
        (initializers.dirac(3), (3, 4, 8), r"dirac\(\): groups=3.* 8 outputs"),
        (
            initializers.delta_orthogonal(in_axis=0, out_axis=-3),
            (3, 4, 4),
            r"in_axis=0, out_axis=-3.*share an axis",
        ),
        (
            initializers.delta_orthogonal(in_axis=(0, 1)),
            (3, 4, 4),
            r"shape=\(3, 4, 4\) has 2 axes",
        ),
        (
            initializers.delta_orthogonal(batch_axis=0),
            (3, 4, 4),
            r"2 axes beside batch_axis=0",
        ),
    ],
)
def test_kernel_of_the_wrong_shape_is_refused(initializer, shape, words):
    with pytest.raises(ValueError, match=words):
        initializer(KEY, shape)


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match=r"block_orthogonal\(\): gain=inf.*finite"):
        initializers.block_orthogonal(float("inf"))
    with pytest.raises(ValueError, match=r"dirac\(\): groups=0.*at least 1"):
        initializers.dirac(0)
