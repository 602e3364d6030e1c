"""Norms: closed forms, Gaussian samples, and the zeros of their Jacobians."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, theory
from isometry._internal.errors import NotDefined


def relu_growth(batch):
    """E φφ and E φ'φ' of the arc-cosine kernels, at correlation −1/(B − 1)."""
    c = -1 / (batch - 1)
    kappa = (math.sqrt(1 - c**2) + (math.pi - math.acos(c)) * c) / math.pi
    both = 0.25 + math.asin(c) / (2 * math.pi)
    centred = (batch - 1) / 2
    centred -= 0.5 - 1 / (2 * batch) - (batch - 1) * both / batch
    centred -= 0.5 - (1 + (batch - 1) * kappa) / (2 * batch)
    kept = (batch - 1) * (1 - kappa) / 2
    return batch / (batch - 3) * centred / kept


@pytest.mark.parametrize("batch", [4, 64, 10**4])
def test_growth_of_relu_and_linear_in_closed_form(batch):
    found = theory.batch_norm_growth("relu", batch)
    assert found == pytest.approx(relu_growth(batch), rel=1e-11)
    found = theory.batch_norm_growth("linear", batch)
    assert found == pytest.approx((batch - 2) / (batch - 3), rel=1e-12)


def test_growth_in_the_limit():
    """π/(π − 1) for ReLU (Yang et al., 2019), and it is approached."""
    limit = math.pi / (math.pi - 1)
    assert theory.batch_norm_growth("relu") == pytest.approx(limit, rel=1e-12)
    assert theory.batch_norm_growth("relu", 10**7) == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("name", ["tanh", "hard_tanh"])
def test_growth_of_a_small_batch_is_that_of_samples(name):
    """E tr[(P − ûûᵀ) D P D]/E |P phi|² B/(B − 3), four standard errors."""
    batch, count = 6, 100_000
    phi = np.tanh if name == "tanh" else lambda u: np.clip(u, -1, 1)
    u = np.random.default_rng(0).normal(size=(count, batch))
    u -= u.mean(axis=1, keepdims=True)
    u *= math.sqrt(batch) / np.linalg.norm(u, axis=1, keepdims=True)
    slope = np.cosh(u) ** -2.0 if name == "tanh" else (np.abs(u) < 1) * 1.0
    projection = np.eye(batch) - 1 / batch
    middle = slope[:, :, None] * projection * slope[:, None, :]
    unit = u / math.sqrt(batch)
    above = np.einsum("sij,ij->s", middle, projection)
    above -= np.einsum("si,sij,sj->s", unit, middle, unit)
    below = batch * phi(u).var(axis=1)
    ratio = above.mean() / below.mean()
    spread = (above - ratio * below).std() / below.mean()
    error = batch / (batch - 3) * spread / math.sqrt(count)
    found = theory.batch_norm_growth(name, batch)
    assert abs(found - batch / (batch - 3) * ratio) < 4 * error


def expectation(f, variance):
    """E f(z) of z ~ N(0, variance), by the trapezoidal rule."""
    z, step = np.linspace(-12, 12, 2001, retstep=True)
    density = np.exp(-(z**2) / 2) * step / math.sqrt(2 * math.pi)
    return float(density @ f(math.sqrt(variance) * z))


def test_chi_and_gain_of_both_orders():
    def square(z):
        return (1 + np.tanh(z)) ** 2

    def phi(x):
        return 1 + jnp.tanh(x)

    w, b = 1.5, 0.4
    slope = expectation(lambda z: np.cosh(z) ** -4.0, 1.0)
    first = w**2 * slope / (w**2 * expectation(square, 1.0) + b**2)
    assert theory.norm_chi(phi, w, b) == pytest.approx(first, rel=1e-11)
    q = w**2 + b**2
    slope = expectation(lambda z: np.cosh(z) ** -4.0, q)
    for norm, divided_by in (
        ("layer", expectation(lambda z: np.tanh(z) ** 2, q)),
        ("rms", expectation(square, q)),
    ):
        gain = theory.norm_gain(phi, w, b, "activation_norm", norm)
        assert gain.chi == pytest.approx(w**2 * slope / divided_by, rel=1e-11)
        assert gain.sigma_w == pytest.approx(w / math.sqrt(divided_by), rel=1e-11)
        assert gain.q == q


def test_zeros_of_norms_are_counted():
    """Ranks of the Jacobians of the norms themselves, at one random input."""
    x = jax.random.normal(jax.random.key(0), (7,))

    def rms(x):
        return x / jnp.sqrt(jnp.mean(x**2))

    def layer(x):
        return rms(x - x.mean())

    for name, norm in (("layer", layer), ("rms", rms), ("batch", layer)):
        jacobian = jax.jit(jax.jacfwd(norm))(x)
        rank = np.linalg.matrix_rank(jacobian, tol=1e-4)
        assert theory.norm_zeros(name, 7) == pytest.approx(1 - rank / 7)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: theory.batch_norm_growth("relu", 3), NotDefined, "infinite mean"),
        (lambda: theory.batch_norm_growth("relu", 8.0), InputError, "batch=8.0"),
        (lambda: theory.batch_norm_growth(lambda x: 0 * x + 2), NotDefined, "constant"),
        (lambda: theory.norm_chi("relu", 1.0, order="pre"), InputError, "order='pre'"),
        (lambda: theory.norm_zeros("group", 8), InputError, "norm='group'"),
    ],
)
def test_what_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
