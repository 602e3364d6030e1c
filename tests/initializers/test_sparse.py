"""Sparse weights: how many zeros, where, and exact orthogonality at a given density."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from isometry import initializers
from isometry.initializers._sparse import givens_product

KEY = jax.random.key(22)


# --- sparse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sparsity", "zeros"), [(0.0, 0), (0.1, 3), (0.5, 15), (0.51, 16), (0.98, 30)])
def test_sparse_zeros_leave_every_input_alike(sparsity, zeros):
    """⌈sparsity·out⌉ of the weights that leave each input: a column of torch's (out, in) matrix."""
    w = np.asarray(initializers.sparse(sparsity)(KEY, (11, 30)))
    np.testing.assert_array_equal((w == 0).sum(1), zeros)
    torch_layout = np.asarray(initializers.sparse(sparsity, in_axis=1, out_axis=0)(KEY, (30, 11)))
    np.testing.assert_array_equal(torch_layout, w.T)


def test_sparse_zeros_are_uniform_and_the_rest_gaussian():
    draws, shape, std = 4000, (2, 5), 0.3
    w = np.asarray(jax.jit(jax.vmap(lambda k: initializers.sparse(0.4, std)(k, shape)))(jax.random.split(KEY, draws)))
    zero = w == 0  # 2 of 5 for each input
    standard_error = np.sqrt(0.4 * 0.6 / draws)
    assert np.abs(zero.mean(0) - 0.4).max() < 5 * standard_error
    together = (zero[:, 0, 0] & zero[:, 0, 1]).mean()  # within an input without replacement: 2/5 · 1/4
    assert abs(together - 0.1) < 5 * np.sqrt(0.1 * 0.9 / draws)
    across = (zero[:, 0, 0] & zero[:, 1, 0]).mean()  # between inputs independent: (2/5)²
    assert abs(across - 0.16) < 5 * np.sqrt(0.16 * 0.84 / draws)
    assert scipy.stats.kstest(w[~zero], scipy.stats.norm(0, std).cdf).pvalue > 1e-3


# --- sparse_orthogonal ------------------------------------------------------------------------------------------------

SHAPES = [(9, 6, 1.0), (1, 7, 0.6), (1, 1, 1.0), (12, 30, 0.2)]


@pytest.mark.parametrize(("n_in", "n_out", "density"), SHAPES)
def test_sparse_orthogonal_is_orthogonal_and_as_dense_as_it_can_be(n_in, n_out, density):
    """A rotation adds at most min(m, n) non-zeros; the nearer of the last two counts is at most half of that away."""
    few, many = sorted((n_in, n_out))
    w = jax.jit(jax.vmap(lambda k: initializers.sparse_orthogonal(density, 2.0)(k, (n_in, n_out))))(
        jax.random.split(KEY, 32)
    )
    w = np.asarray(w, np.float64)
    # each entry is a product of at most `limit` rotations; the error of one is 4 roundings (Golub and Van Loan, 5.1.9)
    tolerance = 4 * few * 10 * math.log(many + 1) * float(jnp.finfo(jnp.float32).eps)
    np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False), 2, rtol=tolerance)
    counts = (w != 0).sum((1, 2))
    assert np.all(np.abs(counts - density * few * many) <= few / 2)
    if density == 1:
        assert np.all(counts == few * many)


def test_the_least_density_is_the_partial_identity():
    np.testing.assert_array_equal(initializers.sparse_orthogonal(1 / 49)(KEY, (49, 20)), np.eye(49, 20))


def test_sparse_orthogonal_in_float64_and_with_a_window():
    with jax.enable_x64(True):
        w = np.asarray(initializers.sparse_orthogonal(0.4)(KEY, (4, 12, 20), "float64"))
        torch_layout = initializers.sparse_orthogonal(0.4, in_axis=1, out_axis=0)(KEY, (20, 12, 4), "float64")
    np.testing.assert_allclose(w[1] @ w[1].T, np.eye(12), atol=4 * 12 * 30 * np.finfo(float).eps)
    assert abs((w[1] != 0).sum() - 0.4 * 240) <= 6
    assert not w[[0, 2, 3]].any()
    np.testing.assert_array_equal(torch_layout, np.moveaxis(w, (-1, -2), (0, 1)))


def rotations_of_the_reference(n: int, density: float, rng) -> int:
    """Rotations until an n×n matrix of this density: supports merge, i != j uniform. The authors' loop."""
    support, steps = np.eye(n, dtype=bool), 0
    while support.sum() < density * n * n:
        i, j = rng.choice(n, 2, replace=False)
        support[:, i] = support[:, j] = support[:, i] | support[:, j]
        steps += 1
    return steps


@pytest.mark.parametrize(("density", "published"), [(0.14, 156), (0.5, 249), (0.99, 510)])
def test_how_many_rotations_a_density_takes(density, published):
    """100×100: the published counts are single draws of our law, and an independent simulation has our mean."""
    n, draws = 100, 48
    keys, goal = jax.random.split(KEY, draws), math.ceil(density * n * n)
    steps = np.asarray(jax.vmap(lambda k: givens_product(k, goal, 2 * goal, few=n, many=n, dtype=jnp.dtype("float32"))[1])(keys))
    assert abs(published - steps.mean()) < 4 * steps.std()
    rng = np.random.default_rng(0)
    reference = np.array([rotations_of_the_reference(n, density, rng) for _ in range(draws)])
    standard_error = np.hypot(steps.std(), reference.std()) / np.sqrt(draws)
    assert abs(steps.mean() - reference.mean()) < 4 * standard_error


def test_rotations_are_uniform():
    """One rotation of the plane, from density 1/2 to 1: its angle is uniform, so it is Haar on SO(2)."""
    draws = 2000
    w = jax.jit(jax.vmap(lambda k: initializers.sparse_orthogonal(1.0)(k, (2, 2))))(jax.random.split(KEY, draws))
    angle = np.arctan2(np.asarray(w)[:, 0, 1], np.asarray(w)[:, 0, 0])
    assert scipy.stats.kstest(angle, scipy.stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


# --- what they refuse -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: initializers.sparse(1.1), r"sparse\(\): sparsity=1.1 is not a finite number in \[0, 1\]"),
        (lambda: initializers.sparse(-0.1), r"sparse\(\): sparsity=-0.1 is not a finite number in"),
        (lambda: initializers.sparse(float("nan")), r"sparse\(\): sparsity=nan is not a finite number"),
        (lambda: initializers.sparse(0.5, -1.0), r"sparse\(\): std=-1.0 is not a finite number in"),
        (
            lambda: initializers.sparse(0.5)(KEY, (3, 4, 5)),
            r"sparse\(\): shape=\(3, 4, 5\) has 3 axes; a sparse matrix has two",
        ),
        (lambda: initializers.sparse(0.5)(KEY, (3,)), r"sparse\(\): shape=\(3,\) has one axis"),
        (lambda: initializers.sparse_orthogonal(0.0), r"sparse_orthogonal\(\): density=0.0 is not a finite number in"),
        (lambda: initializers.sparse_orthogonal(1.5), r"sparse_orthogonal\(\): density=1.5 is not a finite number in"),
        (
            lambda: initializers.sparse_orthogonal(0.1)(KEY, (4, 9)),
            r"density=0.1 is below 1/9, .* 4 inputs and 9 outputs",
        ),
        (
            lambda: initializers.sparse_orthogonal(0.5)(KEY, (9,)),
            r"shape=\(9,\) has one axis; an orthogonal matrix needs at least two\. For a bias use",
        ),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize("factory", [initializers.sparse, initializers.sparse_orthogonal])
def test_a_traced_fraction_is_refused(factory):
    with pytest.raises(TypeError, match=f"{factory.__name__}.*is traced"):
        jax.jit(lambda fraction: factory(fraction)(KEY, (4, 4)))(0.5)


def test_sparse_orthogonal_runs_under_shard_map():
    mesh, spec = jax.make_mesh((1,), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,)), jax.sharding.PartitionSpec
    init, keys = initializers.sparse_orthogonal(0.5), jax.random.split(jax.random.key(0), 1)
    drawn = jax.shard_map(
        lambda k: init(k[0], (8, 8))[None], mesh=mesh, in_specs=spec("seeds"), out_specs=spec("seeds")
    )
    assert np.array_equal(jax.jit(drawn)(keys)[0], init(keys[0], (8, 8)))
