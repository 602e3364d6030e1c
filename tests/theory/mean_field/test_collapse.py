"""Factors near rank collapse, against Gram matrices and a dense transformer block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import theory

BLOCK = {
    "sigma_w": (1.2, 0.9),
    "sigma_v": 0.8,
    "branch": (0.7, 1.1),
    "skip": (0.9, 1.0),
}


def _normed(gram):
    lengths = np.sqrt(np.diag(gram))
    return gram / np.outer(lengths, lengths)


def _after_block(gram, norm_at):
    """The Gram matrix behind one block, from the maps of one layer each."""
    read = _normed(gram) if norm_at == "pre" else gram
    attended = theory.attention_gram(read, sigma_v=0.8, skip=0.0)
    gram = 0.81 * gram + 0.49 * attended
    if norm_at == "post":
        gram = _normed(gram)
    cosine = gram[0, 1] / gram[0, 0]
    square = 0.81 * theory.q_map("gelu", 1.44, 1.0, 0.0)
    product = square * theory.c_map("gelu", cosine, 1.44, 1.0, 0.0)
    of_mlp = np.full_like(gram, product) + (square - product) * np.eye(len(gram))
    return gram + 1.21 * of_mlp


@pytest.mark.parametrize(("norm_at", "q"), [("pre", 1.0), ("pre", 3.0), ("post", 1.0)])
def test_factor_is_that_of_the_gram_matrix(norm_at, q):
    """1 − cosine from 1e-7: its square is the error."""
    distance = 1e-7
    gram = q * (np.full((3, 3), 1 - distance) + distance * np.eye(3))
    behind = _after_block(gram, norm_at)
    factor = (1 - behind[0, 1] / behind[0, 0]) / distance
    predicted = theory.collapse_factor("gelu", **BLOCK, q=q, norm_at=norm_at)
    assert predicted == pytest.approx(factor, rel=1e-6)


def test_gradients_against_dense_blocks():
    """Perturbations of parallel tokens in 24 blocks of width 96, norms in front."""

    def norm(x):
        return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True))

    def growth(key):
        keys = jax.random.split(key, 9)
        draws = [jax.random.normal(one, (96, 96)) / 96**0.5 for one in keys[:6]]
        query, to_key, value, output, first, last = draws

        def block(x):
            read = norm(x)
            weights = jax.nn.softmax(read @ query @ (read @ to_key).T / 96**0.5)
            x = 0.9 * x + 0.7 * weights @ read @ (0.8 * value) @ output
            hidden = jax.nn.gelu(1.2 * norm(x) @ first, False)
            return x + 1.1 * hidden @ (0.9 * last)

        x = jnp.tile(3.0**0.5 * norm(jax.random.normal(keys[6], (96,))), (3, 1))
        common = jnp.tile(jax.random.normal(keys[7], (96,)), (3, 1))
        free = jax.random.normal(keys[8], (3, 96))
        free = free - free.mean(axis=0, keepdims=True)
        grown = [jax.jvp(block, (x,), (v,))[1] for v in (common, free)]
        ratios = zip(grown, (common, free), strict=True)
        return jnp.stack([jnp.sum(a**2) / jnp.sum(b**2) for a, b in ratios])

    found = jax.jit(jax.vmap(growth))(jax.random.split(jax.random.key(0), 24))
    predicted = theory.collapse_gradients("gelu", **BLOCK, q=3.0)
    error = found.std(axis=0) / 24**0.5
    # A norm takes one of 96 directions away.
    assert (jnp.abs(found.mean(axis=0) - jnp.array(predicted)) < 4 * error + 0.01).all()


def test_norms_behind_divide_gradients_by_the_sizes_in_front_of_them():
    """From a stream of mean square 1: by q' and by q'', which the Gram matrix has."""
    before = theory.collapse_gradients("gelu", **BLOCK, norm_at="pre")
    # Both read mean square 1 in front of the attention; the perceptron reads q' or 1.
    behind = theory.collapse_gradients("gelu", **BLOCK, norm_at="post")
    size = 0.81 + 0.49 * 0.64
    chi = 1.21 * 1.44 * 0.81 * theory.chi("gelu", 1.44, 1.0)
    square = 1.21 * 0.81 * theory.q_map("gelu", 1.44, 1.0, 0.0)
    assert before.free == pytest.approx(0.81 * (1 + chi / size), rel=1e-12)
    expected = 0.81 / size * (1 + chi) / (1 + square)
    assert behind.free == pytest.approx(expected, rel=1e-12)
    assert behind.common == pytest.approx(expected * size / 0.81, rel=1e-12)


def test_published_examples():
    """By another implementation of the two integrals: one parts, the other collapses.

    tanh with (α_A, α_M, σ_w, σ_v²) = (0.3, 1, 2.5, 1.5) and (0.6, 0.8, 1.5, 1).
    """
    parting = theory.collapse_factor(
        "tanh", sigma_w=2.5, sigma_v=1.5**0.5, branch=[0.3, 1.0]
    )
    assert np.log(parting) == pytest.approx(0.391138, abs=1e-6)
    collapsing = theory.collapse_factor("tanh", sigma_w=1.5, branch=[0.6, 0.8])
    assert np.log(collapsing) == pytest.approx(-0.177365, abs=1e-6)


def test_refusals_name_what_is_wrong():
    with pytest.raises(
        isometry.InputError, match=r"branch=.* is not one number or two"
    ):
        theory.collapse_factor("tanh", branch=[1.0, 1.0, 1.0])
    with pytest.raises(isometry.InputError, match="norm_at"):
        theory.collapse_factor("tanh", norm_at="middle")
    with pytest.raises(isometry.InputError, match="both zero"):
        theory.collapse_factor("tanh", branch=0.0, skip=0.0)
