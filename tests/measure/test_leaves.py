"""Inputs that are trees: derivatives are with respect to the floating leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
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
    profile = isometry.profile(with_dropout, params=PARAMS[None], xs=xs, statistics=())
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


def layered(params, x):
    """Two layers behind the sum of two inputs, and a mask that picks no rows."""
    hidden = jnp.tanh(params["w"] @ x["a"] + params["v"] @ x["b"].ravel())
    outputs = params["u"] @ hidden
    return jnp.where(x["mask"], outputs, 2 * outputs)


@pytest.fixture(scope="module")
def two_inputs():
    """Parameters of one seed, two examples, and their Jacobians in float64."""
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 2), "v": (3, 4), "u": (2, 3)}
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    xs = {
        "a": rng.standard_normal((2, 2)),
        "b": rng.standard_normal((2, 2, 2)),
        "mask": np.array([[True, False], [True, True]]),
    }
    # In the order of `jax.tree.leaves`.
    vectors = np.concatenate([xs["a"], xs["b"].reshape(2, 4)], axis=1)
    first = np.concatenate([params["w"], params["v"]], axis=1)
    slopes = 1 - np.tanh(vectors @ first.T) ** 2
    kept = np.where(xs["mask"], 1, 2)
    whole = np.stack(
        [np.diag(kept[i]) @ params["u"] @ np.diag(slopes[i]) @ first for i in range(2)]
    )
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf[None]), params)
    return stacked, jax.tree.map(jnp.asarray, xs), vectors, first, whole


@pytest.mark.parametrize(
    ("toward", "first_of", "whole_of"),
    [
        ("output", None, "input"),
        ("input", "v:sum", "output"),
        ("next", "input", None),
    ],
)
def test_profiles_begin_at_all_floating_leaves_together(
    two_inputs, toward, first_of, whole_of
):
    params, xs, _, first, whole = two_inputs
    profile = isometry.profile(
        layered, params=params, xs=xs, toward=toward, statistics=()
    )
    expected = {first_of: np.stack([first] * 2), whole_of: whole}
    for name in expected.keys() - {None}:
        values = np.linalg.svd(expected[name], compute_uv=False)
        assert profile.spectra[name].values.shape[1:] == values.shape
        np.testing.assert_allclose(profile.spectra[name].values[0], values, rtol=BOUND)


def test_signals_begin_at_all_floating_leaves_together(two_inputs):
    params, xs, vectors, _, whole = two_inputs
    signals = isometry.signals(layered, params=params, xs=xs)
    assert signals.points[:3] == ("input", "input/a", "input/b")
    at_input = signals.at("input")
    squares = np.sum(vectors**2, axis=1)
    cosine = vectors[0] @ vectors[1] / np.sqrt(squares[0] * squares[1])
    np.testing.assert_allclose(at_input.q[0], squares / 6, rtol=BOUND)
    np.testing.assert_allclose(at_input.c[0, 0, 1], cosine, atol=BOUND)
    apjn = np.sum(whole**2, axis=(1, 2)) / 2
    np.testing.assert_allclose(at_input.apjn[0], apjn, rtol=BOUND)
    # The norms of the leaves add up to that of all of them.
    of_leaves = signals.at("input/a").apjn + signals.at("input/b").apjn
    np.testing.assert_allclose(of_leaves[0], apjn, rtol=BOUND)


def test_replaced_is_the_inverse_of_joined():
    x = {"a": jnp.ones(3), "b": jnp.ones((1, 2)), **X}
    other = _leaves.replaced(x, jnp.arange(11.0))
    np.testing.assert_array_equal(_leaves.joined(other), jnp.arange(11.0))
    assert other["labels"] is x["labels"]
    assert jax.tree.structure(other) == jax.tree.structure(x)
