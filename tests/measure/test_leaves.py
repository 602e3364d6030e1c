"""Inputs that are trees: derivatives are with respect to the floating leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError
from isometry.measure import _leaves

EPS = float(jnp.finfo(jnp.float32).eps)
PARAMS = jnp.asarray([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])

# A batch of two rows, labels, and a random key.
X = {
    "batch": jnp.asarray([[0.1, 0.2, -0.3], [0.4, 0.0, 0.5]]),
    "labels": jnp.asarray([1, 0]),
    "key": jax.random.key(3),
}


def with_dropout(params, x):
    """Normalize each feature over the batch, drop some, and pick by label."""
    batch = x["batch"] - x["batch"].mean(0, keepdims=True)
    kept = jax.random.bernoulli(x["key"], 0.5, batch.shape)
    logits = jnp.where(kept, 2 * batch, 0.0) @ params.T
    return jnp.take_along_axis(logits, x["labels"][:, None], 1)


def by_hand(x):
    """The Jacobian (2, 6) of `with_dropout`, a product of linear maps."""
    centred = np.kron(np.eye(2) - 0.5, np.eye(3))
    kept = jax.random.bernoulli(x["key"], 0.5, (2, 3))
    scales = np.diag(2.0 * np.asarray(kept).ravel())
    rows = np.asarray(PARAMS)[np.asarray(x["labels"])]
    weights = np.zeros((2, 6))
    weights[0, :3] = rows[0]
    weights[1, 3:] = rows[1]
    return weights @ scales @ centred


# A product of three matrices with entries below 4 and inner sizes of at most 6.
BOUND = 64 * EPS


def test_keys_and_whole_numbers_stay_beside_the_floating_leaf():
    matrix = isometry.jacobian(with_dropout, PARAMS, X)
    np.testing.assert_allclose(matrix, by_hand(X), rtol=0, atol=BOUND)


def test_a_spectrum_is_that_of_the_jacobian_at_this_key():
    sp = isometry.spectrum(with_dropout, PARAMS, X)
    expected = np.linalg.svd(by_hand(X), compute_uv=False)
    np.testing.assert_allclose(sp.values, expected, rtol=0, atol=BOUND)


def test_an_ensemble_takes_a_key_for_each_input():
    keys = jax.random.split(jax.random.key(4), 3)
    xs = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), X | {"key": X["key"]})
    xs["key"] = keys
    sp = isometry.ensemble(with_dropout, params=PARAMS[None], xs=xs)
    for i in range(3):
        expected = np.linalg.svd(by_hand(X | {"key": keys[i]}), compute_uv=False)
        np.testing.assert_allclose(sp.values[0, i], expected, rtol=0, atol=BOUND)


def test_the_input_of_a_profile_is_the_floating_leaf():
    xs = jax.tree.map(lambda leaf: leaf[None], X)
    profile = isometry.profile(with_dropout, params=PARAMS[None], xs=xs)
    (name,) = [name for name in profile.spectra if name.startswith("input")]
    assert name == "input/batch"
    expected = np.linalg.svd(by_hand(X), compute_uv=False)
    values = profile.spectra[name].values[0, 0]
    np.testing.assert_allclose(values, expected, rtol=0, atol=BOUND)


def two_leaves(params, x):
    return params @ x["a"] * x["b"].sum()


def test_several_floating_leaves_are_flattened_in_their_order():
    x = {"a": jnp.asarray([1.0, -2.0, 0.5]), "b": jnp.asarray([[0.25, 0.5]])}
    matrix = isometry.jacobian(two_leaves, PARAMS, x)
    of_b = np.tile(PARAMS @ x["a"], (2, 1)).T
    expected = np.concatenate([0.75 * PARAMS, of_b], axis=1)
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=BOUND)


def test_a_named_input_must_be_one_leaf():
    x = {"a": jnp.ones(3), "b": jnp.ones((1, 2))}
    with pytest.raises(InputError, match=r'tree of 2 arrays.*span=\("input/a"'):
        isometry.spectrum(two_leaves, PARAMS, x, span=("input", "output"))


def test_replaced_is_the_inverse_of_joined():
    x = {"a": jnp.ones(3), "b": jnp.ones((1, 2)), **X}
    other = _leaves.replaced(x, jnp.arange(11.0))
    np.testing.assert_array_equal(_leaves.joined(other), jnp.arange(11.0))
    assert other["labels"] is x["labels"]
    assert jax.tree.structure(other) == jax.tree.structure(x)
