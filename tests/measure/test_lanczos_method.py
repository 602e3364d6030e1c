"""method="lanczos": densities of Jacobians that are never formed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks

KEY = jax.random.key(3)
EPS = float(np.finfo(np.float32).eps)

X = np.random.default_rng(0).standard_normal(24).astype(np.float32)
NET = networks.mlp([24, 40, 40, 28], "tanh")


def test_moments_and_distribution_within_their_errors():
    """Of 32 probes √(2/(n + 2)/32) of the spread, 5 times; 12 steps smear by 1/24."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(NET.init, jax.random.key(0))

    def draw(leaf):
        weights = 1.3 * rng.standard_normal(leaf.shape) / leaf.shape[1] ** 0.5
        return weights.astype(np.float32)

    params = jax.tree.map(draw, shapes)
    method = isometry.Lanczos(steps=12, probes=32)
    found = isometry.spectrum(NET, params, X, method=method, key=KEY)
    jacobian = np.asarray(isometry.jacobian(NET, params, X), np.float64)
    s = np.linalg.svd(jacobian, compute_uv=False)
    n = len(s)
    assert (found.size, found.structural_zeros, found.pairs) == (24, 4, None)
    assert float(found.weights.sum()) == pytest.approx(1, abs=1e-5)
    bound = 5 * (2 / (n + 2) / 32) ** 0.5
    assert abs(float(found.moment(1)) - np.mean(s**2)) <= bound * np.std(s**2)
    grid = np.sort(s**2) * 1.0001
    below = np.arange(1, n + 1) / n
    # At a value the smooth distribution is in the middle of its step.
    middle = below - 1 / (2 * n)
    smear = 1 / (2 * 12)
    assert np.abs(found.smooth_cdf(grid) - middle).max() <= bound + smear


def bent(params, x):
    """A plain function, linear where the bend is zero."""
    return params["linear"] @ x + params["bend"] * jnp.sin(x)


def by_lanczos(matrix, bend):
    """Measured with more steps than there are values, so that all are found."""
    params = {"linear": np.float32(matrix), "bend": np.float32(bend)}
    x = np.linspace(0.1, 1.6, 16, dtype=np.float32)
    return isometry.spectrum(bent, params, x, method="lanczos", key=KEY)


ROTATION, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((16, 16)))


def test_an_isometry_is_found_without_error():
    found = by_lanczos(ROTATION, bend=0.0)
    # All of its values are found by restarts, each right to some eps.
    np.testing.assert_allclose(found.isometry_deviation(), 0, atol=16 * EPS)
    assert float(found.zero_fraction()) == 0
    # Of the steps asked for: there are no more than 16.
    assert found.method == isometry.Lanczos(steps=16)


def test_any_function_may_be_probed():
    found = by_lanczos(ROTATION, bend=0.5)
    slopes = 0.5 * np.cos(np.linspace(0.1, 1.6, 16))
    s = np.linalg.svd(ROTATION + np.diag(slopes), compute_uv=False)
    # As of a factorization: a few eps of s_max for each of 16 steps.
    np.testing.assert_allclose(found.values, s, rtol=0, atol=4 * 16 * EPS * s[0])
    with pytest.raises(ValueError, match="the Jacobian"):
        by_lanczos(np.nan * ROTATION, bend=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: isometry.spectrum(NET, None, X, method="lanczos"),
            r"write key=jax\.random\.key",
        ),
        (lambda: isometry.Lanczos(steps=0), "steps"),
        (lambda: isometry.Lanczos(probes=0), "probes"),
        (lambda: isometry.spectrum(NET, None, X, method="lanzcos"), "lanczos"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
