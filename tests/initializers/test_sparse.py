"""Sparse weights: how many zeros, where, and exact orthogonality at a given density."""

import math

import jax
import numpy as np
import pytest
import scipy.stats

from isometry import initializers
from isometry.initializers._sparse import givens_product
from tests.dense_convolution import singular_values
from tests.initializers.drawing import draw_many, draw_together

KEY = jax.random.key(22)
Z = 5  # standard errors; by chance once in 2e6
P_VALUE = 1e-3
FLOAT32_EPS = float(np.finfo("float32").eps)


# --- sparse ---------------------------------------------------------------------------


def test_sparse_zeros_leave_every_input_alike():
    """ceil(sparsity * out) of an input's weights: a column of torch's matrix."""
    num_zeros = {0.0: 0, 0.1: 3, 0.5: 15, 0.51: 16, 0.98: 30}
    for sparsity, count in num_zeros.items():
        weight = np.asarray(initializers.sparse(sparsity)(KEY, (11, 30)))
        np.testing.assert_array_equal((weight == 0).sum(1), count)
        of_torch = initializers.sparse(sparsity, in_axis=1, out_axis=0)
        np.testing.assert_array_equal(of_torch(KEY, (30, 11)), weight.T)


def test_sparsity_one_is_all_zeros():
    """As torch.nn.init.sparse_(w, 1.0), which zeroes ceil(out) of out weights."""
    weight = initializers.sparse(1.0)(KEY, (4, 6))
    np.testing.assert_array_equal(weight, np.zeros((4, 6)))


def test_sparse_zeros_are_uniform_and_the_rest_gaussian():
    num_draws, std = 4000, 0.3
    keys = jax.random.split(KEY, num_draws)
    weights = draw_many(initializers.sparse(0.4, std), (2, 5), keys)
    is_zero = weights == 0  # two of five for each input

    def check_frequency(events, probability):
        standard_error = np.sqrt(probability * (1 - probability) / num_draws)
        assert np.abs(events.mean(0) - probability).max() < Z * standard_error

    check_frequency(is_zero, 0.4)
    # Within an input they are drawn without replacement: 2/5 times 1/4.
    check_frequency(is_zero[:, 0, 0] & is_zero[:, 0, 1], 0.1)
    # Between inputs they are independent: (2/5)².
    check_frequency(is_zero[:, 0, 0] & is_zero[:, 1, 0], 0.16)
    law = scipy.stats.norm(0, std)
    assert scipy.stats.kstest(weights[~is_zero], law.cdf).pvalue > P_VALUE


# --- sparse_orthogonal ----------------------------------------------------------------


def rotated(initializer, shape):
    """32 draws; without an outer jit the rotations are compiled once a shape."""
    keys = jax.random.split(KEY, 32)
    return np.asarray(jax.vmap(lambda key: initializer(key, shape))(keys))


@pytest.mark.parametrize(
    ("n_in", "n_out", "density"), [(9, 6, 1.0), (9, 6, 0.4), (6, 9, 0.2)]
)
def test_sparse_orthogonal_is_orthogonal_and_as_dense_as_it_can_be(
    n_in, n_out, density
):
    """A rotation adds at most min(m, n) non-zeros; the nearer count wins.

    Each entry is a product of at most `limit` rotations, and the error of one is 4
    roundings (Golub and Van Loan, section 5.1.9).
    """
    few, many = sorted((n_in, n_out))
    weights = rotated(initializers.sparse_orthogonal(density, 2.0), (n_in, n_out))
    tolerance = 4 * few * 10 * math.log(many + 1) * FLOAT32_EPS
    np.testing.assert_allclose(singular_values(weights), 2, rtol=tolerance)
    counts = (weights != 0).sum((1, 2))
    assert np.all(np.abs(counts - density * few * many) <= few / 2)
    if density == 1:
        assert np.all(counts == few * many)


def test_the_least_density_is_the_partial_identity():
    for weight in rotated(initializers.sparse_orthogonal(1 / 9), (9, 6)):
        np.testing.assert_array_equal(weight, np.eye(9, 6))


def test_sparse_orthogonal_in_float64_and_with_a_window():
    """The matrix is the tap (k - 1)//2, as of `delta_orthogonal`."""
    in_torch_layout = initializers.sparse_orthogonal(0.4, in_axis=1, out_axis=0)
    cases = {
        "ours": (initializers.sparse_orthogonal(0.4), (4, 12, 20)),
        "torch": (in_torch_layout, (20, 12, 4)),
    }
    drawn = draw_together(cases, KEY, "float64")
    kernel = drawn["ours"]
    tolerance = 4 * 12 * 30 * np.finfo(float).eps
    np.testing.assert_allclose(kernel[1] @ kernel[1].T, np.eye(12), atol=tolerance)
    assert abs((kernel[1] != 0).sum() - 0.4 * 240) <= 6
    assert not kernel[[0, 2, 3]].any()
    np.testing.assert_array_equal(drawn["torch"], np.moveaxis(kernel, (-1, -2), (0, 1)))


def count_rotations(n, density, rng):
    """Rotate random pairs of an n×n matrix up to this density: the authors' loop."""
    support, num_steps = np.eye(n, dtype=bool), 0
    while support.sum() < density * n * n:
        i, j = rng.choice(n, 2, replace=False)
        support[:, i] = support[:, j] = support[:, i] | support[:, j]
        num_steps += 1
    return num_steps


def test_how_many_rotations_a_density_takes():
    """The published counts at 100×100 are single draws of our law."""
    published = {0.14: 156, 0.5: 249, 0.99: 510}
    n, num_draws = 100, 32
    goals = np.array([math.ceil(density * n * n) for density in published])

    def rotations(goal, key):
        shape = {"few": n, "many": n, "dtype": np.dtype("float32")}
        return givens_product(key, goal, 2 * goal, **shape)[1]

    # One density after another, as the loop of a batch runs until the last has ended.
    @jax.jit
    def program(keys):
        of_all_keys = jax.vmap(rotations, (None, 0))
        return jax.lax.map(lambda goal: of_all_keys(goal, keys), goals)

    counts = np.asarray(program(jax.random.split(KEY, num_draws)))
    rng = np.random.default_rng(0)
    for steps, (density, single) in zip(counts, published.items(), strict=True):
        assert abs(single - steps.mean()) < 4 * steps.std()
        simulated = [count_rotations(n, density, rng) for _ in range(num_draws)]
        spread = np.hypot(steps.std(), np.std(simulated))
        standard_error = spread / np.sqrt(num_draws)
        assert abs(steps.mean() - np.mean(simulated)) < 4 * standard_error


def test_rotations_are_uniform():
    """One rotation of the plane, from density 1/2 to 1, is uniform on SO(2)."""
    keys = jax.random.split(KEY, 2000)
    weights = draw_many(initializers.sparse_orthogonal(1.0), (2, 2), keys)
    angles = np.arctan2(weights[:, 0, 1], weights[:, 0, 0])
    law = scipy.stats.uniform(-np.pi, 2 * np.pi)
    assert scipy.stats.kstest(angles, law.cdf).pvalue > P_VALUE


def test_sparse_orthogonal_runs_under_shard_map():
    """The state of its loop varies over the mesh, as shard_map requires."""
    mesh = jax.make_mesh((1,), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("seeds")
    init, keys = initializers.sparse_orthogonal(0.5), jax.random.split(KEY, 1)
    mapped = jax.shard_map(
        lambda k: init(k[0], (9, 6))[None], mesh=mesh, in_specs=spec, out_specs=spec
    )
    weight = np.asarray(jax.jit(mapped)(keys)[0], np.float64)
    np.testing.assert_allclose(weight.T @ weight, np.eye(6), atol=100 * FLOAT32_EPS)


# --- what they refuse -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "arguments", "words"),
    [
        (initializers.sparse, (-0.1,), r"sparse\(\): sparsity=-0.1"),
        (initializers.sparse, (1.1,), r"sparse\(\): sparsity=1.1"),
        (initializers.sparse, (float("nan"),), r"sparse\(\): sparsity=nan.*finite"),
        (initializers.sparse, (0.5, -1.0), r"sparse\(\): std=-1.0"),
        (initializers.sparse_orthogonal, (0.0,), r"sparse_orthogonal\(\): density=0.0"),
        (initializers.sparse_orthogonal, (1.5,), r"sparse_orthogonal\(\): density=1.5"),
    ],
)
def test_impossible_arguments_are_refused(factory, arguments, words):
    with pytest.raises(ValueError, match=words):
        factory(*arguments)


@pytest.mark.parametrize(
    ("initializer", "shape", "words"),
    [
        (
            initializers.sparse(0.5),
            (3, 4, 5),
            r"sparse\(\): .*\(3, 4, 5\).*3 axes.* two",
        ),
        (initializers.sparse(0.5), (3,), r"sparse\(\): .*one axis"),
        (
            initializers.sparse_orthogonal(0.1),
            (4, 9),
            r"sparse_orthogonal\(\): density=0.1.* 1/9.* 4 inputs and 9 outputs",
        ),
        (
            initializers.sparse_orthogonal(0.5),
            (9,),
            r"sparse_orthogonal\(\): .*one axis",
        ),
    ],
)
def test_weight_of_the_wrong_shape_is_refused(initializer, shape, words):
    with pytest.raises(ValueError, match=words):
        initializer(KEY, shape)


@pytest.mark.parametrize(
    "factory", [initializers.sparse, initializers.sparse_orthogonal]
)
def test_a_traced_fraction_is_refused(factory):
    with pytest.raises(TypeError, match=f"{factory.__name__}.*is traced"):
        jax.jit(lambda fraction: factory(fraction)(KEY, (4, 4)))(0.5)
