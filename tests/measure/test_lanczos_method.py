"""method="lanczos": densities of Jacobians that are never formed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks

KEY = jax.random.key(3)


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


def test_an_isometry_is_found_without_error():
    net = networks.mlp([16, 16, 16], "linear", "orthogonal")
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((16, 16)))[0].astype(
        np.float32
    )
    shapes = jax.eval_shape(net.init, KEY)
    params = jax.tree.map(
        lambda a: np.broadcast_to(turn if a.ndim == 3 else 0 * turn[0], a.shape), shapes
    )
    found = isometry.spectrum(
        net, params, np.ones(16, np.float32), method="lanczos", key=KEY
    )
    np.testing.assert_allclose(found.isometry_deviation(), 0, atol=1e-5)
    assert float(found.zero_fraction()) == 0
    # Of the steps asked for: there are no more than 16.
    assert found.method == isometry.Lanczos(steps=16)


def test_any_function_may_be_probed():
    def f(params, x):
        return jnp.stack([params * x[0], jnp.sin(x[1]), x[0] + x[2]])

    x, method = np.asarray([0.3, 0.2, 0.1], np.float32), isometry.Lanczos(3, 400)
    exact = (2**2 + np.cos(0.2) ** 2 + 1 + 1) / 3
    found = isometry.spectrum(f, np.float32(2), x, method=method, key=KEY)
    assert abs(float(found.moment(1)) - exact) <= 5 * (2 / 5 / 400) ** 0.5 * exact
    with pytest.raises(ValueError, match="the Jacobian"):
        isometry.spectrum(f, np.float32(np.nan), x, method=method, key=KEY)


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
