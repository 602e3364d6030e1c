"""Uniform attention against its matrices."""

import numpy as np
import pytest

from isometry import InputError, theory

TOKENS, WIDTH = 3, 60
BRANCH = [0.7, 0.9]


def test_law_of_drawn_matrices():
    """Six draws of Π (0.8 I + branch 11ᵀ/T ⊗ W_O W_V): within 1/width, atom apart."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(6):
        j = np.eye(TOKENS * WIDTH)
        for a in BRANCH:
            v, o = rng.standard_normal((2, WIDTH, WIDTH)) / WIDTH**0.5
            mean = np.full((TOKENS, TOKENS), 1 / TOKENS)
            j = (0.8 * np.eye(len(j)) + a * np.kron(mean, 1.5 * o @ v)) @ j
        found.append(np.linalg.svd(j, compute_uv=False) ** 2)
    lam = np.sort(np.concatenate(found))
    places = np.linspace(0.05, 8.0, 12)
    below = np.searchsorted(lam, places) / len(lam)

    def distance(branch):
        law = theory.uniform_attention_law(TOKENS, branch, skip=0.8, sigma_v=1.5)
        assert law.positions == TOKENS
        return np.abs(law.cdf(places) - below).max()

    assert distance(BRANCH) < 0.3 / WIDTH < distance([1.0, 0.9])


def test_moments_and_atom():
    """E λ = (1 − 1/T) s^(2L) + Π (s² + branch² σ²)/T; one token has no atom."""
    law = theory.uniform_attention_law(TOKENS, BRANCH, skip=-0.8, sigma_o=1.5)
    mean = np.prod([0.64 + (1.5 * a) ** 2 for a in BRANCH])
    assert law.moment(1) == pytest.approx(2 / 3 * 0.64**2 + mean / 3, rel=1e-9)
    (atom,) = law.atoms
    assert atom == pytest.approx((0.64**2, 2 / 3), rel=1e-12)
    assert not theory.uniform_attention_law(1, BRANCH).atoms
    # Its mean and variance are those of the bulk of one attention.
    one = theory.uniform_attention_law(TOKENS, [0.7])
    gram = np.eye(TOKENS)
    bulk = theory.attention_moments(gram, sigma_q=0.0, branch=0.7, heads=1).bulk
    assert (one.moment(1), one.variance) == pytest.approx(bulk, rel=1e-9)
    with pytest.raises(InputError, match="skip is 0"):
        theory.uniform_attention_law(TOKENS, BRANCH, skip=0)
