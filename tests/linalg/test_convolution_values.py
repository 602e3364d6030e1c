"""Singular values of convolutions against the matrix of the map, summed by NumPy.

By Weyl's inequality each value may be off by the error of the matrix in the spectral
norm, so every tolerance is absolute, in units of the largest value.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, linalg
from isometry._internal import memory
from isometry.linalg import _factorizations
from tests.dense_convolution import convolution_matrix, rounding, singular_values

# window, inputs of a group, outputs, groups, image
CONVOLUTIONS = {
    "narrowing": ((3,), 3, 2, 1, (7,)),
    "widening, even size": ((3,), 2, 3, 1, (6,)),
    "even windows": ((4, 2), 2, 2, 1, (5, 4)),
    "groups": ((3, 2), 2, 6, 2, (4, 3)),
    "depthwise": ((3, 3), 1, 4, 4, (4, 5)),
    "depthwise, two outputs a channel": ((2, 3), 1, 4, 2, (3, 4)),
    "three axes": ((2, 1, 3), 2, 1, 1, (2, 3, 4)),
}
# image, strides; the kernel is (3, 2, 2, 4) with two groups
STRIDES = {
    "that divide": ((4, 6), (2, 3)),
    "that do not": ((5, 4), (2, 3)),
    "beyond the window": ((4, 4), (4, 1)),
}


def draw(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_same_values(values, matrix):
    expected = singular_values(matrix)
    assert values.shape == expected.shape
    # A Fourier transform of a few taps and one SVD: two factors.
    tolerance = rounding(matrix, factors=2, dtype="float32") * expected[0]
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)


# Every kernel by frequency; the matrix of zero padding, which is built by one rule of
# any kernel, for some of each padding.
CASES = [
    *((name, "circular") for name in CONVOLUTIONS),
    *((name, "same") for name in ("widening, even size", "even windows", "groups")),
    ("depthwise, two outputs a channel", "same"),
    *((name, "valid") for name in ("narrowing", "even windows", "groups")),
    ("three axes", "valid"),
]


@pytest.mark.parametrize(("name", "padding"), CASES)
def test_values_are_those_of_the_matrix(name, padding):
    window, n_in, n_out, groups, image = CONVOLUTIONS[name]
    kernel = draw(*window, n_in, n_out)
    matrix = convolution_matrix(kernel, image, padding, groups)
    values = linalg.convolution_singular_values(
        kernel, image, padding=padding, groups=groups
    )
    assert_same_values(values, matrix)
    assert np.all(np.diff(values) <= 0)


@pytest.mark.parametrize("padding", ["circular", "valid"])
@pytest.mark.parametrize("name", STRIDES)
def test_strides_keep_every_other_output(name, padding):
    """A strided convolution is the one of stride 1 with outputs left out."""
    image, strides = STRIDES[name]
    kernel = draw(3, 2, 2, 4)
    whole = convolution_matrix(kernel, image, padding, groups=2)
    height, width = image
    if padding == "valid":
        height, width = height - 2, width - 1
    rows = whole.reshape(height, width, 4, -1)[:: strides[0], :: strides[1]]
    values = linalg.convolution_singular_values(
        kernel, image, strides, padding=padding, groups=2
    )
    assert_same_values(values, rows.reshape(-1, whole.shape[1]))


def test_strides_with_zero_padding_are_aligned_as_in_xla():
    """SAME padding depends on the stride there, so XLA itself is the reference."""
    kernel = draw(4, 2, 2, 3)

    def convolve(x):
        return jax.lax.conv_general_dilated(
            x.reshape(1, 5, 4, 2),
            kernel,
            window_strides=(2, 3),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).ravel()

    matrix = np.asarray(jax.jit(jax.jacobian(convolve))(jnp.zeros(40)))
    values = linalg.convolution_singular_values(kernel, (5, 4), (2, 3), "same")
    assert_same_values(values, matrix)


def test_circular_window_wider_than_the_image_wraps_around():
    kernel = draw(7, 2, 2)
    values = linalg.convolution_singular_values(kernel, (3,))
    assert_same_values(values, convolution_matrix(kernel, (3,), "circular"))
    # Of a size that the stride does not divide, the whole matrix is factorized.
    strided = linalg.convolution_singular_values(kernel, (3,), 2)
    rows = convolution_matrix(kernel, (3,), "circular").reshape(3, 2, 6)[::2]
    assert_same_values(strided, rows.reshape(4, 6))


def test_values_by_frequency_hold_in_double_precision():
    """Those of the discrete Laplacian are 2 - 2 cos(2 pi f / n), f = 0 ... n - 1."""
    with jax.enable_x64(True):
        laplacian = jnp.asarray([-1.0, 2.0, -1.0]).reshape(3, 1, 1)
        values = linalg.convolution_singular_values(laplacian, (12,))
        assert values.dtype == np.float64
    frequencies = 2 * np.pi * np.arange(12) / 12
    expected = np.sort(2 - 2 * np.cos(frequencies))[::-1]
    # The transform and the length of a few numbers of size 4.
    np.testing.assert_allclose(values, expected, rtol=0, atol=40 * np.finfo(float).eps)


def test_huge_and_tiny_kernels_are_scaled():
    """Squares of 1e30 and 1e-30 leave float32; powers of two leave no rounding."""
    kernel = draw(3, 1, 4)
    values = linalg.convolution_singular_values(kernel, (5,))
    for power in (2.0**100, 2.0**-100):
        scaled = linalg.convolution_singular_values(kernel * np.float32(power), (5,))
        np.testing.assert_array_equal(scaled, values * np.float32(power))


def test_bfloat16_is_worked_in_single_precision():
    kernel = jnp.asarray(draw(3, 2, 2), jnp.bfloat16)
    values = linalg.convolution_singular_values(kernel, (4,))
    single = linalg.convolution_singular_values(kernel.astype(jnp.float32), (4,))
    np.testing.assert_array_equal(values, single)


@pytest.mark.parametrize("padding", ["circular", "same"])
def test_kernel_that_is_not_finite_has_no_values(padding):
    kernel = draw(3, 2, 2)
    kernel[1, 0, 1] = np.inf
    values = linalg.convolution_singular_values(kernel, (4,), padding=padding)
    assert values.shape == (8,)
    assert np.all(np.isnan(values))


def test_zero_kernel_has_zero_values_and_a_finite_gradient():
    depthwise = jnp.zeros((3, 1, 2))

    def total(kernel):
        return linalg.convolution_singular_values(kernel, (4,), groups=2).sum()

    values, gradient = jax.jit(jax.value_and_grad(total))(depthwise)
    assert values == 0
    assert np.all(np.isfinite(gradient))


def test_gradients_under_jit_and_vmap_are_those_of_the_matrix():
    """Sums of powers of all values have derivatives where values coincide as well.

    The reference is tr (MᵀM)² by plain matrix products: sum s⁴.
    """
    kernels = jnp.asarray(draw(2, 3, 2, 2, 3))

    def by_frequency(kernel):
        return jnp.sum(linalg.convolution_singular_values(kernel, (3, 4)) ** 4)

    def by_products(kernel):
        padded = ((1, 1), (0, 1), (0, 0))

        def convolve(x):
            image = jnp.pad(x.reshape(3, 4, 2), padded, mode="wrap")
            return jax.lax.conv_general_dilated(
                image[None],
                kernel,
                window_strides=(1, 1),
                padding="VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            ).ravel()

        matrix = jax.jacobian(convolve)(jnp.zeros(24))
        return jnp.sum((matrix.T @ matrix) ** 2)

    with jax.default_matmul_precision("highest"):
        gradients = jax.jit(jax.vmap(jax.grad(by_frequency)))(kernels)
        expected = jax.jit(jax.vmap(jax.grad(by_products)))(kernels)
    # Each entry is a sum over 36 values, each with the rounding of s⁴ and of a vector.
    tolerance = 36 * 8 * np.finfo(np.float32).eps * np.abs(expected).max()
    np.testing.assert_allclose(gradients, expected, rtol=0, atol=tolerance)


def test_second_derivatives_are_those_of_finite_differences():
    """Of values that are not zero: sum s³, whose gradient turns with the vectors.

    Central differences at a step h are off by h² and by rounding over h: 1e-10 and
    1e-11 of the derivative at h = 1e-5.
    """
    with jax.enable_x64(True):
        kernel = jnp.asarray(draw(3, 2, 3, dtype=float))
        direction = jnp.asarray(draw(3, 2, 3, seed=1, dtype=float))

        @jax.grad
        def gradient(kernel):
            return jnp.sum(linalg.convolution_singular_values(kernel, (5,)) ** 3)

        @jax.jit
        def both(kernel):
            return jax.jvp(gradient, (kernel,), (direction,))

        step = 1e-5
        _, second = both(kernel)
        after, _ = both(kernel + step * direction)
        before, _ = both(kernel - step * direction)
    expected = (np.asarray(after) - np.asarray(before)) / (2 * step)
    np.testing.assert_allclose(second, expected, rtol=0, atol=1e-8 * np.ptp(expected))


def test_way_of_a_gpu_to_complex_matrices_finds_the_same_values():
    """By eigenvalues of the Hermitian [[0, A], [A*, 0]]; one row is zero."""
    blocks = (draw(3, 4, 3) + 1j * draw(3, 4, 3, seed=1)).astype(np.complex64)
    blocks[2, 1] = 0
    values = jax.jit(_factorizations._values_on_gpu)(blocks)
    expected = np.linalg.svd(blocks.astype(complex), compute_uv=False)
    tolerance = rounding(blocks, factors=2, dtype="float32") * expected.max()
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)


def test_map_beyond_memory_is_refused_with_its_size(monkeypatch):
    """40,000 numbers in, as many out, 4 bytes each: 6.4 GB."""
    monkeypatch.setattr(memory, "budget", lambda max_bytes: 10**9)
    kernel = jnp.ones((3, 3, 4, 4))
    with pytest.raises(InputError, match=r"would take 6.4 GB, and 1 GB are free"):
        linalg.convolution_singular_values(kernel, (100, 100), padding="same")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": jnp.ones((3, 3))}, r"write \(\*window, in/groups, out\)"),
        ({"kernel": jnp.ones((3, 2, 2), int)}, "write kernel.astype"),
        ({"size": (4, 4)}, r"size=\(4, 4\) must be 1 positive whole numbers"),
        ({"size": 4}, "size=4 must be"),
        ({"strides": 0}, "strides=0 must be a whole number, at least 1"),
        ({"strides": (1, 2)}, r"strides=\(1, 2\) must be"),
        ({"padding": "reflect"}, "padding='reflect' is not known"),
        ({"groups": 3}, "groups=3 does not divide the 2 outputs"),
        ({"size": (2,), "padding": "valid"}, "leaves no output"),
    ],
)
def test_arguments_that_make_no_map_are_refused(arguments, message):
    given = {"kernel": jnp.ones((3, 2, 2)), "size": (4,)} | arguments
    with pytest.raises(InputError, match=message) as refusal:
        linalg.convolution_singular_values(**given)
    assert str(refusal.value).startswith("convolution_singular_values(): ")
