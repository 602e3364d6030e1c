"""Coefficients of attention matrices, of models written down by hand."""

import jax
import jax.numpy as jnp
import pytest

from isometry.structure import anatomy

LENGTH = 5


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def uniform(causal):
    visible = jnp.ones((LENGTH, LENGTH))
    visible = jnp.tril(visible) if causal else visible
    return visible / visible.sum(1, keepdims=True)


def read(matrix, **coefficients):
    """Read the attention whose values are multiplied by matrix(p, softmax)."""

    def f(p, x):
        heads = [(x @ p[name]).reshape(LENGTH, 2, 2) for name in "qkv"]
        logits = jnp.einsum("qhe,khe->hqk", *heads[:2])
        weights = matrix(p, jax.nn.softmax(logits))
        mixed = jnp.einsum("hqk,khe->qhe", weights, heads[2])
        return mixed.reshape(LENGTH, 4) @ p["o"]

    params = {name: shape(4, 4) for name in "qkvo"} | coefficients
    (attention,) = anatomy(f, params, shape(LENGTH, 4)).attentions
    assert attention.query == ("q",)
    return attention.alpha, attention.beta, attention.gamma


@pytest.mark.parametrize("causal", [True, False])
def test_leaves_are_found_by_what_they_multiply(causal):
    """Their names say nothing, and the sum may be written in any order."""

    def matrix(p, weights):
        fixed = jnp.eye(LENGTH) * p["c"][0] - p["a"] * uniform(causal)
        return fixed + p["b"] * weights

    found = read(matrix, a=shape(), b=shape(), c=shape(1))
    assert found == ("['c']", "['b']", "['a']")


def test_leaves_may_be_one_a_head():
    def matrix(p, weights):
        beta, gamma = p["b"][:, None, None], p["g"][:, None, None]
        return beta * weights - gamma * uniform(causal=False) + jnp.eye(LENGTH)

    assert read(matrix, b=shape(2), g=shape(2)) == (1.0, "['b']", "['g']")


def test_numbers_of_the_program_are_read():
    def matrix(p, weights):
        return weights / 2 + jnp.eye(LENGTH) - uniform(causal=True)

    assert read(lambda p, weights: weights) == (0.0, 1.0, 0.0)
    assert read(lambda p, weights: weights * 0.5) == (0.0, 0.5, 0.0)
    assert read(lambda p, weights: -weights) == (0.0, -1.0, 0.0)
    assert read(matrix) == (1.0, 0.5, 1.0)


def test_a_scan_has_one_leaf_for_all_its_blocks():
    def f(p, x):
        def block(h, p):
            weights = jax.nn.softmax((h @ p["q"]) @ (h @ p["k"]).T)
            matrix = p["a"] * jnp.eye(LENGTH) + weights
            return h + matrix @ (h @ p["v"]) @ p["o"], None

        return jax.lax.scan(block, x, p)[0]

    params = {name: shape(3, 4, 4) for name in "qkvo"} | {"a": shape(3)}
    (attention,) = anatomy(f, params, shape(LENGTH, 4)).attentions
    assert (attention.alpha, attention.beta) == ("['a']", 1.0)


@pytest.mark.parametrize(
    "matrix",
    [
        # A decay with distance is not uniform, and half of the identity not the whole.
        lambda p, w: w - p["a"] * jnp.exp(-jnp.arange(5.0))[None] * jnp.ones((5, 1)),
        lambda p, w: w + p["a"] * (jnp.eye(LENGTH) / 2),
        # One number an entry, or for a row, is no coefficient.
        lambda p, w: p["per_entry"] * w + jnp.eye(LENGTH),
        lambda p, w: p["row"] * w + jnp.eye(LENGTH),
        # The uniform matrix is subtracted, and the identity is not.
        lambda p, w: w + p["a"] * jnp.ones((LENGTH, LENGTH)) / LENGTH,
        lambda p, w: w - p["a"] * jnp.eye(LENGTH),
        # The same matrix twice.
        lambda p, w: w + p["a"] * jnp.eye(LENGTH) + jnp.eye(LENGTH),
        # What multiplies it is not known.
        lambda p, w: w + p["per_entry"],
    ],
)
def test_other_matrices_are_not_read(matrix):
    leaves = {"a": shape(), "per_entry": shape(LENGTH, LENGTH), "row": shape(LENGTH)}
    assert read(matrix, **leaves) == (None, None, None)


def test_twice_a_leaf_is_no_coefficient():
    def matrix(p, weights):
        return 2 * (p["b"] * weights) + p["a"] * jnp.eye(LENGTH)

    assert read(matrix, a=shape(), b=shape()) == ("['a']", None, 0.0)
