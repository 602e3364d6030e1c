"""Convolutional isometric initializers, judged by the dense operator of the convolution they define."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import initializers

KEY = jax.random.key(21)
KERNELS = [  # window, in, out, image
    ((3,), 3, 5, (6,)),
    ((4,), 5, 3, (5,)),
    ((3, 2), 4, 2, (3, 4)),
    ((2, 3), 3, 3, (4, 5)),
    ((2, 3, 2), 2, 3, (3, 3, 2)),
    ((1, 1), 2, 3, (2, 2)),
    ((5,), 2, 2, (2,)),  # a window larger than the image
]


def operator(kernel, image: tuple[int, ...], padding: str) -> np.ndarray:
    """The matrix of the convolution with a kernel (*window, in, out), in float64: its values at every unit input.

    Padding is "circular", or zeros: "same" (as XLA centres it), "full" (k - 1 on both sides) or "valid" (none).
    """
    window, n_in = kernel.shape[:-2], kernel.shape[-2]
    size, letters = math.prod(image) * n_in, "DHW"[-len(window) :]
    around = {
        "full": [(k - 1, k - 1) for k in window],
        "valid": [(0, 0) for _ in window],
    }.get(padding, [((k - 1) // 2, k // 2) for k in window])
    mode = "wrap" if padding == "circular" else "constant"
    units = np.pad(np.eye(size).reshape(size, *image, n_in), [(0, 0), *around, (0, 0)], mode=mode)
    layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    with jax.enable_x64(True):
        values = jax.lax.conv_general_dilated(
            jnp.asarray(units), jnp.asarray(kernel, "float64"), (1,) * len(window), "VALID", dimension_numbers=layout
        )
        return np.asarray(values).reshape(size, -1).T


def svd(a) -> np.ndarray:
    return np.linalg.svd(a, compute_uv=False)


def draw(init, *shape, dtype="float64") -> np.ndarray:
    """One kernel, compiled as a whole: quicker than one compilation for each operation."""
    with jax.enable_x64(dtype == "float64"):
        return np.array(jax.jit(lambda: init(KEY, shape, dtype))())


def rounding(a: np.ndarray, factors: int = 1) -> float:
    return 8 * factors * max(a.shape) * float(np.finfo(np.float64).eps)


def test_the_operator_is_what_the_convolution_computes():
    """out[t] = Σ_s x[t + s - (k - 1)//2] K[s], with indices modulo the image or zeros outside; SAME is XLA's own."""
    kernel, size = np.random.default_rng(0).normal(size=(4, 2, 3)), 5
    for padding in ("circular", "same"):
        expected = np.zeros((size, 3, size, 2))
        for t in range(size):
            for s in range(4):
                source = t + s - 1
                if padding == "circular" or 0 <= source < size:
                    expected[t, :, source % size, :] += kernel[s].T
        np.testing.assert_allclose(operator(kernel, (size,), padding), expected.reshape(size * 3, size * 2), atol=1e-15)

    def convolve(x):
        return jax.lax.conv_general_dilated(x[None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))[0]

    with jax.enable_x64(True):
        jacobian = jax.jacfwd(convolve)(jnp.zeros((size, 2))).reshape(size * 3, size * 2)
    np.testing.assert_allclose(operator(kernel, (size,), "same"), jacobian, atol=1e-15)


# --- delta_orthogonal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "n_in", "n_out", "image"), KERNELS)
def test_delta_orthogonal_convolution_is_an_isometry(window, n_in, n_out, image):
    """For odd and even windows, circular and SAME; co-isometric where channels are lost."""
    w = draw(initializers.delta_orthogonal(1.5), *window, n_in, n_out)
    assert np.count_nonzero(np.abs(w).sum((-2, -1))) == 1
    for padding in ("circular", "same"):
        a = operator(w, image, padding)
        s = svd(a)
        assert s.shape == (math.prod(image) * min(n_in, n_out),)
        np.testing.assert_allclose(s, 1.5, rtol=rounding(a))


@pytest.mark.parametrize("shape", [(4, 3, 5), (2, 3, 3, 3), (3, 2, 3, 2, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_delta_orthogonal_is_jax_bit_for_bit(shape, dtype):
    with jax.enable_x64(dtype == "float64"):
        ours = initializers.delta_orthogonal(1.3)(KEY, shape, dtype)
        np.testing.assert_array_equal(ours, jax.nn.initializers.delta_orthogonal(1.3)(KEY, shape, dtype))


# --- block_orthogonal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "n_in", "n_out", "image"), KERNELS)
def test_block_orthogonal_convolution_is_an_isometry(window, n_in, n_out, image):
    """Circular: all singular values gain. Zero padding: a cut of the operator on the infinite lattice."""
    w = draw(initializers.block_orthogonal(1.5), *window, n_in, n_out)
    factors = 1 + sum(k - 1 for k in window)
    circular = operator(w, image, "circular")
    np.testing.assert_allclose(svd(circular), 1.5, rtol=rounding(circular, factors))
    same = svd(operator(w, image, "same"))
    assert same.max() <= 1.5 * (1 + rounding(circular, factors))
    if n_in <= n_out:
        np.testing.assert_allclose(svd(operator(w, image, "full")), 1.5, rtol=rounding(circular, factors))
    if n_in >= n_out and all(n >= k for n, k in zip(image, window, strict=True)):
        np.testing.assert_allclose(svd(operator(w, image, "valid")), 1.5, rtol=rounding(circular, factors))


def test_block_orthogonal_uses_its_whole_window():
    """A fresh projection for each factor: with one used again, (P + (I - P)x)² has nothing at the middle tap.

    In float32, orthogonal to its rounding as measured in float64; SAME is not an isometry, as the docstring says.
    """
    w = draw(initializers.block_orthogonal(), 4, 3, 8, 8, dtype="float32")
    tolerance = 8 * 6 * 8 * float(jnp.finfo(jnp.float32).eps)
    assert (w**2).sum((-2, -1)).min() > tolerance
    np.testing.assert_allclose(svd(operator(w, (4, 3), "circular")), 1, atol=tolerance)
    assert svd(operator(w, (4, 3), "same")).min() < 0.9


# --- dirac, ZerO ------------------------------------------------------------------------------------------------------


def torchs_dirac(shape, groups) -> np.ndarray:
    """torch's dirac_ in torch's layout, by its definition."""
    w = np.zeros(shape)
    outputs = shape[0] // groups
    for g in range(groups):
        for d in range(min(outputs, shape[1])):
            w[(g * outputs + d, d, *(k // 2 for k in shape[2:]))] = 1
    return w


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
def test_dirac_is_torchs(shape, groups):
    expected = torchs_dirac(shape, groups)
    np.testing.assert_array_equal(draw(initializers.dirac(groups, in_axis=1, out_axis=0), *shape), expected)
    ours = draw(initializers.dirac(groups, 0.5), *shape[2:], shape[1], shape[0])
    np.testing.assert_array_equal(ours, 0.5 * np.moveaxis(expected, (0, 1), (-1, -2)))


@pytest.mark.parametrize(("window", "n_in", "n_out", "image"), KERNELS)
def test_one_tap_kernels_shift_by_one_pixel_where_the_window_is_even(window, n_in, n_out, image):
    """The tap k//2: circular, all singular values gain; SAME, each even side of the window loses one pixel."""
    alive = min(n_in, n_out) * math.prod(n - (k % 2 == 0) for n, k in zip(image, window, strict=True))
    power = 2 ** math.ceil(math.log2(n_out))
    kernels = [draw(initializers.dirac(1, 2.0), *window, n_in, n_out)]
    if n_out <= n_in or n_out == power:
        kernels.append(2 * draw(initializers.zer_o(), *window, n_in, n_out))
    for w in kernels:
        circular, same = operator(w, image, "circular"), operator(w, image, "same")
        np.testing.assert_allclose(svd(circular), 2, rtol=rounding(circular))
        s = svd(same)
        np.testing.assert_allclose(s[:alive], 2, rtol=rounding(same))
        np.testing.assert_allclose(s[alive:], 0, atol=rounding(same))


def test_dirac_of_a_grouped_convolution_is_an_isometry_of_its_groups():
    w = draw(initializers.dirac(2), 3, 3, 6)  # two groups of three inputs and three outputs

    def convolve(x):
        return jax.lax.conv_general_dilated(
            x[None], jnp.asarray(w), (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2
        )[0]

    with jax.enable_x64(True):
        a = np.asarray(jax.jacfwd(convolve)(jnp.zeros((5, 6)))).reshape(30, 30)
    np.testing.assert_array_equal(a, np.eye(30))


@pytest.mark.parametrize("scale", ["code", "paper"])
@pytest.mark.parametrize("window", [(3,), (2, 5), (1, 2, 3)])
@pytest.mark.parametrize(("n_in", "n_out"), [(3, 5), (4, 4), (6, 2)])
def test_zer_o_kernel_is_its_matrix_at_tap_k_half(window, n_in, n_out, scale):
    w = draw(initializers.zer_o(scale), *window, n_in, n_out)
    torch_layout = draw(initializers.zer_o(scale, in_axis=1, out_axis=0), n_out, n_in, *window)
    np.testing.assert_array_equal(torch_layout, np.moveaxis(w, (-1, -2), (0, 1)))
    tap = tuple(k // 2 for k in window)
    np.testing.assert_array_equal(w[tap], draw(initializers.zer_o(scale), n_in, n_out))
    w[tap] = 0
    assert not w.any()


@pytest.mark.parametrize(("n_in", "n_out"), [(4, 6), (3, 5)])
def test_widening_zer_o_convolution_has_the_singular_values_of_its_matrix(n_in, n_out):
    w = draw(initializers.zer_o(), 3, n_in, n_out)
    expected = np.sort(np.repeat(svd(w[1]), 5))[::-1]
    for padding in ("circular", "same"):
        a = operator(w, (5,), padding)
        np.testing.assert_allclose(svd(a), expected, rtol=rounding(a))


def test_flattened_orthogonality_is_not_isometry():
    """What `orthogonal` warns of: a flattened orthogonal kernel is no isometry; nor is idinit's."""
    for init in (initializers.orthogonal(), initializers.idinit()):
        s = svd(operator(draw(init, 3, 3, 6, 6), (5, 5), "circular"))
        assert s.min() < 0.5
        assert s.max() > 1.5


# --- layouts and refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [initializers.delta_orthogonal, initializers.block_orthogonal])
@pytest.mark.parametrize("shape", [(3, 3, 5), (4, 5, 3)])
def test_torch_layout_is_the_same_kernel_transposed(factory, shape):
    ours = draw(factory(), *shape)
    torch_shape = (shape[-1], shape[-2], *shape[:-2])
    theirs = draw(factory(in_axis=1, out_axis=0), *torch_shape)
    np.testing.assert_array_equal(theirs, np.moveaxis(ours, (-1, -2), (0, 1)))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: initializers.delta_orthogonal()(KEY, (3, 4)),
            r"delta_orthogonal\(\): shape=\(3, 4\) has 2 axes; a convolution kernel, \(\*window, in.* dense",
        ),
        (lambda: initializers.block_orthogonal()(KEY, (4,)), r"block_orthogonal\(\): shape=\(4,\) has one axis"),
        (lambda: initializers.block_orthogonal(float("inf")), r"block_orthogonal\(\): gain=inf is not a finite number"),
        (lambda: initializers.dirac()(None, (4, 4)), r"dirac\(\): shape=\(4, 4\) has 2 axes.*partial_identity\(\)"),
        (lambda: initializers.dirac()(None, (1,) * 6), r"dirac\(\): .*has 6 axes; torch's dirac_ has three to five"),
        (lambda: initializers.dirac(3)(None, (3, 4, 8)), r"dirac\(\): groups=3 does not divide the 8 outputs"),
        (lambda: initializers.dirac(0), r"dirac\(\): groups=0 must be a whole number, at least 1"),
        (lambda: initializers.delta_orthogonal(in_axis=0, out_axis=-3)(KEY, (3, 4, 4)), r"share an axis of shape"),
        (lambda: initializers.delta_orthogonal(in_axis=(0, 1))(KEY, (3, 4, 4)), r"2 axes, inputs and outputs counted"),
        (
            lambda: initializers.delta_orthogonal(batch_axis=0)(KEY, (3, 4, 4)),
            r"2 axes beside batch_axis=0; a convolution",
        ),
        (lambda: initializers.delta_orthogonal()(None, (3, 4, 4)), r"delta_orthogonal\(\): key is None"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()
