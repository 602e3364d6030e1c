"""Dense isometric initializers: singular values, the Haar law, exact arrays."""

import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry import initializers
from tests.dense_convolution import rounding, singular_values
from tests.initializers.drawing import draw_many, draw_together

KEY = jax.random.key(20)
EPS = float(np.finfo("float32").eps)
Z = 5  # standard errors; by chance once in 2e6
P_VALUE = 1e-3


# --- orthogonal -----------------------------------------------------------------------


def test_orthogonal_to_rounding_at_1024():
    q = np.asarray(initializers.orthogonal()(KEY, (1024, 1024)), np.float64)
    error = np.abs(q.T @ q - np.eye(1024)).max()
    assert error <= 10 * EPS * np.sqrt(1024)


def test_orthogonal_singular_values_are_the_gain():
    shapes = [(6, 6), (4, 9), (3, 3, 2, 8), (2, 2, 2, 10), (1, 1)]
    cases = {shape: (initializers.orthogonal(0.7), shape) for shape in shapes}
    for shape, weight in draw_together(cases, KEY).items():
        matrix = weight.reshape(-1, shape[-1])
        tolerance = rounding(matrix, dtype="float32")
        np.testing.assert_allclose(singular_values(matrix), 0.7, rtol=tolerance)


def test_orthogonal_flattens_all_axes_but_the_outputs_and_the_batch():
    """torch's layout, attention heads, and a batch of independent matrices."""
    heads = initializers.orthogonal(in_axis=0, out_axis=(1, 2))
    cases = {
        "torch": (initializers.orthogonal(out_axis=0), (6, 2, 3, 3)),
        "heads": (heads, (8, 2, 3)),
        "batch": (initializers.orthogonal(in_axis=0, batch_axis=1), (5, 3, 4)),
    }
    drawn = draw_together(cases, KEY)
    matrices = [drawn["torch"].reshape(6, -1), drawn["heads"].reshape(8, 6)]
    batch = drawn["batch"].swapaxes(0, 1)
    for matrix in (*matrices, *batch):
        tolerance = rounding(matrix, dtype="float32")
        np.testing.assert_allclose(singular_values(matrix), 1, rtol=tolerance)
    assert np.all(batch[0] != batch[1])


def test_orthogonal_does_not_depend_on_in_axis():
    """The law is invariant under the order of the flattened inputs."""
    axes = (-2, 0, 1, (0, 1))
    shape = (2, 3, 4)
    cases = {str(a): (initializers.orthogonal(in_axis=a), shape) for a in axes}
    drawn = draw_together(cases, KEY)
    for weight in drawn.values():
        np.testing.assert_array_equal(weight, drawn["-2"])


@pytest.mark.parametrize("shape", [(4, 4), (3, 5)])
def test_orthogonal_is_haar(shape):
    """A squared coordinate of a uniform unit vector is Beta(1/2, (N - 1)/2).

    Its mean is 0. Without the signs of R the mean of q[0, 0] is -0.43 at N = 4, which
    is sixty standard errors.
    """
    num_draws, n = 8000, max(shape)
    q = draw_many(initializers.orthogonal(), shape, jax.random.split(KEY, num_draws))
    standard_error = 1 / np.sqrt(n * num_draws)
    assert np.abs(q.mean(0)).max() < Z * standard_error
    law = scipy.stats.beta(0.5, (n - 1) / 2)
    for i, j in ((0, 0), (shape[0] - 1, shape[1] - 1)):
        squares = q[:, i, j].astype(np.float64) ** 2
        assert scipy.stats.kstest(squares, law.cdf).pvalue > P_VALUE
    if shape[0] == shape[1]:
        # Both components of O(n) are drawn, and equally often.
        is_rotation = np.linalg.det(q.astype(np.float64)) > 0
        assert abs(is_rotation.mean() - 0.5) < Z * 0.5 / np.sqrt(num_draws)


# --- identity and Hadamard ------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5)])
def test_partial_identity_is_eye(shape):
    weight = initializers.partial_identity(2.5)(None, shape)
    np.testing.assert_array_equal(weight, 2.5 * np.eye(*shape))
    assert initializers.eye is initializers.partial_identity


def test_identity_is_eye():
    weight = initializers.identity(-0.5)(None, (6, 6))
    np.testing.assert_array_equal(weight, -0.5 * np.eye(6))


def power_of_two_above(n):
    return 2 ** int(np.ceil(np.log2(n)))


def sylvester(order):
    """The Hadamard matrix of Sylvester's construction, by scipy."""
    return scipy.linalg.hadamard(order).astype(float)


def test_hadamard_is_a_block_of_sylvesters_matrix():
    shapes = [(8, 8), (5, 8), (8, 5), (5, 6), (6, 6), (1, 3), (1, 1)]
    cases = {shape: (initializers.hadamard(3.0), shape) for shape in shapes}
    for (rows, columns), weight in draw_together(cases, KEY).items():
        order = power_of_two_above(max(rows, columns))
        expected = 3 * order**-0.5 * sylvester(order)[:rows, :columns]
        np.testing.assert_allclose(weight, expected, rtol=EPS)


@pytest.mark.parametrize("order", [2, 4, 8, 16, 32])
def test_singular_values_of_every_leading_hadamard_block(order):
    """What `hadamard` and `zer_o` state, for every block that they can make."""
    matrix = sylvester(order) / np.sqrt(order)
    for long in range(order // 2 + 1, order + 1):
        for short in range(1, long + 1):
            check_hadamard_block(singular_values(matrix[:short, :long]), long, order)


def check_hadamard_block(s, long, order):
    """Hold the singular values of a block (short, long) to the statements."""
    short, tolerance = s.size, 8 * order * np.finfo(float).eps
    num_ones = max(0, short + long - order)
    assert np.all(np.abs(s[:num_ones] - 1) < tolerance)
    # s² = 1 - sigma²/order, with a non-zero sigma >= 1 of the missing columns.
    assert np.all(s[num_ones:] < 1 - 1 / (4 * order))
    least = (1 if short == long else 2) / order
    if short <= order / 2:
        least = 0.5
    assert s[-1] >= np.sqrt(least) - tolerance
    if short & (short - 1) == 0:
        tiles, num_longer = divmod(long, short)
        expected = np.full(short, short * tiles / order)
        expected[:num_longer] = short * (tiles + 1) / order
        np.testing.assert_allclose(s**2, expected, atol=tolerance)


# --- ZerO and IDInit ------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "factor"), [("code", 1), ("paper", 2)])
def test_zer_o_is_a_hadamard_block_where_it_widens(scale, factor):
    """Algorithm 1 ("paper") and the authors' notebook ("code") differ by sqrt(2)."""
    shapes = [(3, 5), (3, 4), (64, 100), (1, 2), (784, 2048)]
    cases = {shape: (initializers.zer_o(scale), shape) for shape in shapes}
    for (n_in, n_out), weight in draw_together(cases, KEY).items():
        order = power_of_two_above(n_out)
        expected = np.sqrt(factor / order) * sylvester(order)[:n_in, :n_out]
        np.testing.assert_allclose(weight, expected, rtol=EPS)
    powers = singular_values(draw_together(cases, KEY)[3, 4])
    np.testing.assert_allclose(powers, np.sqrt(factor), rtol=8 * 4 * EPS)


@pytest.mark.parametrize("scale", ["code", "paper"])
def test_zer_o_is_the_identity_where_it_does_not_widen(scale):
    shapes = [(5, 5), (7, 3), (8, 1)]
    cases = {shape: (initializers.zer_o(scale), shape) for shape in shapes}
    for shape, weight in draw_together(cases, KEY).items():
        np.testing.assert_array_equal(weight, np.eye(*shape))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1.0, 0.5, 1e-6]))
def test_idinit_tiles_the_identity_along_the_longer_side(m, n, tau):
    weight = np.asarray(initializers.idinit(tau)(None, (m, n)))
    short, long = min(m, n), max(m, n)
    i, j = np.indices((m, n))
    expected = np.where((i - j) % short == 0, np.float32(tau), 0)
    np.testing.assert_array_equal(weight, expected)
    tiles, num_longer = divmod(long, short)
    multiplicities = [tiles + 1] * num_longer + [tiles] * (short - num_longer)
    tolerance = rounding(weight, dtype="float32")
    s = singular_values(weight)
    np.testing.assert_allclose(s, tau * np.sqrt(multiplicities), rtol=tolerance)


def test_idinit_of_a_kernel_tiles_torchs_reshape():
    """The patch is flattened as torch's reshape does, (in, *window)."""
    shapes = [(3, 3, 3, 8), (3, 4, 4), (3, 3, 2, 40), (2, 1, 2, 3, 5)]
    cases = {shape: (initializers.idinit(), shape) for shape in shapes}
    for weight in draw_together(cases, KEY).values():
        in_torch_layout = np.moveaxis(weight, (-1, -2), (0, 1))
        flat = in_torch_layout.reshape(weight.shape[-1], -1)
        i, j = np.indices(flat.shape)
        np.testing.assert_array_equal(flat, (i - j) % min(flat.shape) == 0)


def test_matrices_stand_at_the_centre_tap_of_a_kernel():
    """Its convolution with SAME padding is the matrix on every pixel, as JAX aligns."""
    image = np.arange(80, dtype=np.float32).reshape(2, 5, 4, 2)
    eye = np.eye(2, dtype=np.float32)
    sylvester = np.array([[1, 1, 1, 1], [1, -1, 1, -1]]) / 2
    cases = {
        "identity": (initializers.identity(), eye),
        "partial_identity": (initializers.partial_identity(), np.eye(2, 3)),
        "hadamard": (initializers.hadamard(), sylvester),
    }
    for init, matrix in cases.values():
        kernel = init(None, (3, 2, *matrix.shape))
        result = jax.lax.conv_general_dilated(
            image,
            kernel,
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        np.testing.assert_array_equal(result, image @ matrix)


# --- what they refuse -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("initializer", "shape", "words"),
    [
        (
            initializers.orthogonal(),
            (128,),
            r"orthogonal\(\): .*one axis.*bias.*zeros\(\)",
        ),
        (
            initializers.orthogonal(batch_axis=-1),
            (2, 2),
            r"orthogonal\(\): .*out_axis=-1, batch_axis=-1 share an axis",
        ),
        (
            initializers.identity(),
            (3, 4),
            r"identity\(\): .*3 inputs and 4 outputs. .*partial_identity",
        ),
        (
            initializers.partial_identity(),
            (3,),
            r"partial_identity\(\): .*one axis.* two",
        ),
        (initializers.hadamard(), (8,), r"hadamard\(\): .*one axis.* two"),
        (initializers.zer_o(), (8,), r"zer_o\(\): .*one axis.*at least two"),
        (initializers.zer_o(in_axis=2), (8, 8), r"zer_o\(\): in_axis=2.*2 axes"),
        (initializers.idinit(), (8,), r"idinit\(\): .*one axis.*at least two"),
    ],
)
def test_weight_of_the_wrong_shape_is_refused(initializer, shape, words):
    with pytest.raises(ValueError, match=words):
        initializer(KEY, shape)
    with pytest.raises(ValueError, match=words):
        jax.jit(initializer, static_argnums=1)(KEY, shape)


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match=r"orthogonal\(\): gain=nan.*finite"):
        initializers.orthogonal(float("nan"))
    with pytest.raises(ValueError, match=r"idinit\(\): tau=inf.*finite"):
        initializers.idinit(float("inf"))
    with pytest.raises(
        ValueError, match=r"zer_o\(\): scale='papers'.*Did you mean 'paper'"
    ):
        initializers.zer_o("papers")
