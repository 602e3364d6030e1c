"""The dtype of a measurement, and what it resolves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError
from isometry._internal import precision


def test_products_run_at_full_precision_inside():
    with precision.full():
        jaxpr = jax.make_jaxpr(jnp.dot)(jnp.ones(2), jnp.ones(2))
    (product,) = jaxpr.eqns
    names = [str(factor) for factor in product.params["precision"]]
    assert names == ["HIGHEST", "HIGHEST"]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int32])
def test_measurements_run_in_float32_at_least(dtype):
    assert precision.measuring_dtype(None, {"w": jnp.ones(2, dtype)}, 3) == np.float32


def test_one_leaf_in_float64_is_enough_for_float64():
    trees = ([jnp.ones(2)], {"x": np.ones(2)})
    with jax.enable_x64(True):
        assert precision.measuring_dtype(None, *trees) == np.float64
        assert precision.measuring_dtype("float32", *trees) == np.float32


def test_coarse_dtype_is_refused():
    with pytest.raises(InputError, match="dtype=bfloat16 is too coarse to measure in"):
        precision.measuring_dtype(jnp.bfloat16)


def test_cast_changes_floating_leaves_alone():
    key = jax.random.key(0)
    tree = {"w": jnp.ones(2, jnp.bfloat16), "n": jnp.arange(2), "k": key}
    cast = precision.cast(tree, jnp.float32)
    assert (cast["w"].dtype, cast["n"].dtype) == (jnp.float32, jnp.int32)
    assert cast["k"] is key


@pytest.mark.parametrize("leaf", [jnp.ones((2, 3), jnp.bfloat16), np.arange(3), 1.0])
def test_shape_is_known_before_the_cast(leaf):
    cast = precision.cast(leaf, jnp.float32)
    shape = precision.shape_of(leaf, jnp.float32)
    assert (shape.shape, shape.dtype) == (jnp.shape(cast), jnp.result_type(cast))


def test_rounded_entries_move_values_less_than_the_coarse_floor():
    """At sizes beyond 1/eps too: independent errors have a norm below 2 eps s_max."""
    rng = np.random.default_rng(0)
    for m, n in ((4, 4), (300, 200), (1, 2000)):
        jacobian = rng.standard_normal((m, n))
        error = jacobian - jacobian.astype(jnp.bfloat16).astype(float)
        ratio = np.linalg.norm(error, 2) / np.linalg.norm(jacobian, 2)
        eps = float(jnp.finfo(jnp.bfloat16).eps)
        assert ratio < 2 * eps
        assert ratio < np.exp(precision.coarse_log_floor(m, n, eps)) <= np.sqrt(eps)


def test_svd_resolves_what_numpy_counts_as_rank():
    """numpy.linalg.matrix_rank calls zero what is below max(m, n) eps s_max."""
    floor = np.exp(precision.svd_log_floor(3, 5, np.float64))
    for ratio, rank in ((0.9, 1), (1.1, 2)):
        diagonal = np.zeros((3, 5))
        diagonal[0, 0] = 1.0
        diagonal[1, 1] = ratio * floor
        assert np.linalg.matrix_rank(diagonal) == rank
