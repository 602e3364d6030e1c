"""Participation and Gram matrices of attention, against samples and dense networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks, theory


def _softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("tokens", "beta", "correlation"),
    [(2, 1.0, 1.0), (6, 0.8, 0.3), (5, 1.2, -0.4), (8, 5.0, 0.9), (40, 2.0, 0.0)],
)
def test_participation_against_samples(tokens, beta, correlation):
    """The mean of 20,000 samples, within four standard errors."""
    rng = np.random.default_rng(0)
    first, second = beta * rng.standard_normal((2, 20_000, tokens))
    second = correlation * first + (1 - correlation**2) ** 0.5 * second
    samples = (_softmax(first) * _softmax(second)).sum(axis=1)
    error = samples.std() / len(samples) ** 0.5
    predicted = theory.participation(tokens, beta, correlation)
    assert abs(samples.mean() - predicted) < 4 * error


def test_participation_of_two_tokens_is_a_single_integral():
    """2 E s(√2 β z)², with s the logistic function."""
    for beta in (0.3, 1.0, 12.0):
        integral = theory.expectation(lambda z: jax.nn.sigmoid(z) ** 2, 2 * beta**2)
        assert theory.participation(2, beta) == pytest.approx(2 * integral, rel=1e-11)


def test_participation_of_uniform_attention_and_of_one_token():
    assert theory.participation(7, 0.0, 0.2) == pytest.approx(1 / 7, rel=1e-11)
    assert theory.participation(1, 2.0) == 1.0
    # For many tokens it is exp(ρ β²)/n.
    many = 100_000 * theory.participation(100_000, 0.5, 0.5)
    assert many == pytest.approx(np.exp(0.125), rel=1e-4)


def test_gram_of_symmetric_tokens_against_sampled_weights():
    """The two ways to the same matrix; a permutation breaks the first by rounding."""
    gram = np.full((5, 5), 0.4) + 0.6 * np.eye(5)
    exact = theory.attention_gram(gram, sigma_q=1.5, skip=0.3, branch=0.7)
    gram[0, 0] += 1e-9
    sampled = theory.attention_gram(
        gram, sigma_q=1.5, skip=0.3, branch=0.7, samples=20_000
    )
    assert sampled == pytest.approx(exact, rel=0.01)
    assert exact[0, 0] > exact[0, 1]


def test_uniform_attention_in_closed_form():
    """With (a sigma_v)² = g the mean grows by 1 + g, and q − p stays."""
    gram = np.full((4, 4), 0.2) + 0.8 * np.eye(4)
    found = theory.attention_gram(gram, sigma_k=0.0, sigma_v=0.5, depth=3)
    mean = (1.0 + 3 * 0.2) / 4
    grown = mean * (1.25**3 - 1)
    assert found == pytest.approx(gram + grown, rel=1e-12)
    # Causal: row t is the mean of the first t tokens.
    rows = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
    found = theory.attention_gram(gram, sigma_k=0.0, causal=True, skip=0.0)
    assert found == pytest.approx(rows @ gram @ rows.T, rel=1e-12)


def test_causal_gram_against_random_heads():
    """The attention of our transformer at width 48, over 100 draws of its weights."""
    net = networks.transformer(48, 1, 1, length=4, norm=None, scheme="gaussian")
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 48))
    attend = net.function._attention

    def gram(key):
        keys = jax.random.split(key, 4)
        weights = dict(zip(("query", "key", "value", "output"), keys, strict=True))
        params = {}
        for name, one in weights.items():
            shape = (1, 48, 48) if name == "output" else (48, 1, 48)
            w = jax.random.normal(one, shape) / 48**0.5
            params[name] = {"w": w, "b": jnp.zeros(48 if name == "output" else (1, 48))}
        y = attend(params, jnp.asarray(x))
        return y @ y.T / 48

    found = jax.jit(jax.vmap(gram))(jax.random.split(jax.random.key(0), 100))
    predicted = theory.attention_gram(x @ x.T / 48, causal=True, skip=0.0)
    error = np.asarray(found).std(axis=0) / 100**0.5
    # The samples of theory add 1/√4096 of each entry's scatter.
    scatter = np.asarray(found).std(axis=0) / 4096**0.5
    off = np.abs(np.asarray(found).mean(axis=0) - predicted)
    assert (off < 4 * (error + scatter)).all()


def test_refusals_name_what_is_wrong():
    with pytest.raises(isometry.InputError, match="shape"):
        theory.attention_gram([[1.0, 0.5]])
    with pytest.raises(isometry.InputError, match="not symmetric"):
        theory.attention_gram([[1.0, 0.5], [0.4, 1.0]])
    with pytest.raises(isometry.InputError, match="negative eigenvalue"):
        theory.attention_gram([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(isometry.InputError, match="beta=25"):
        theory.participation(3, 25.0)
    with pytest.raises(isometry.InputError, match="tokens"):
        theory.participation(0, 1.0)
