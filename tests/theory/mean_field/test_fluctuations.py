"""Fluctuations of Jacobians at finite width, against draws of tiny networks."""

import jax
import numpy as np
import pytest

from isometry import theory
from isometry._internal.errors import NotDefined

WIDTH, DEPTH, DRAWS = 4, 2, 30_000


def leaky(x):
    return jax.numpy.where(x > 0, x, 0.25 * x)


def jacobians(weights, negative):
    """Draw J of phi(u) = u or negative·u, at one fixed input."""
    rng = np.random.default_rng(1)
    x = np.broadcast_to([1.0, 2.0, -1.0, 0.5], (DRAWS, WIDTH))
    product = np.broadcast_to(np.eye(WIDTH), (DRAWS, WIDTH, WIDTH))
    for _ in range(DEPTH):
        w = rng.normal(size=(DRAWS, WIDTH, WIDTH))
        if weights == "orthogonal":
            q, r = np.linalg.qr(w)
            # QR is Haar once the diagonal of R is positive.
            w = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
        h = np.einsum("sij,sj->si", w, x)
        slope = np.where(h > 0, 1.0, negative)
        product = slope[:, :, None] * (w @ product)
        x = slope * h
    return product


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
@pytest.mark.parametrize(("phi", "negative"), [("relu", 0.0), (leaky, 0.25)])
def test_moments_of_draws(weights, phi, negative):
    """Four standard errors of the ratio, the inputs' direction included."""
    found = jacobians(weights, negative)
    for size, function in (
        ((found**2).sum(axis=(1, 2)), theory.frobenius_fluctuation),
        ((found[:, :, 0] ** 2).sum(axis=1), theory.norm_fluctuation),
    ):
        relative = size / size.mean()
        ratio = (relative**2).mean()
        error = (relative**2 - 2 * ratio * relative).std() / DRAWS**0.5
        predicted = function(phi, WIDTH, DEPTH, weights)
        assert abs(ratio - predicted) < 4 * error


def test_values_and_limits():
    """Orthogonal linear networks do not fluctuate; ReLU has 5L/N at leading order."""
    for function in (theory.frobenius_fluctuation, theory.norm_fluctuation):
        assert function("linear", 7, 30, "orthogonal") == pytest.approx(1, rel=1e-14)
    wide = theory.norm_fluctuation("relu", 10**6, 3, "gaussian")
    assert (wide - 1) * 10**6 == pytest.approx(15, rel=1e-4)
    # (k − 1) L/N of the Frobenius norm, for both ensembles.
    for weights in ("gaussian", "orthogonal"):
        wide = theory.frobenius_fluctuation("relu", 10**6, 3, weights)
        assert (wide - 1) * 10**6 == pytest.approx(3, rel=1e-4)


@pytest.mark.parametrize(("phi", "word"), [("tanh", "size"), (lambda x: 0 * x, "flat")])
def test_other_activations_have_no_formula(phi, word):
    with pytest.raises(NotDefined, match=rf"norm_fluctuation\(\): .*{word}"):
        theory.norm_fluctuation(phi, 50, 10, "gaussian")
