"""method="lanczos": densities of Jacobians that are never formed."""

import functools

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks

KEY = jax.random.key(3)


XS = np.random.default_rng(0).standard_normal((2, 24)).astype(np.float32)
NET = networks.mlp([24, 40, 40, 24], "tanh", "gaussian", sigma_w=1.3, sigma_b=0.1)


@pytest.mark.parametrize("span", ["end_to_end", "hidden"])
def test_moments_and_distribution_within_their_errors(span):
    """32 probes: standard error √(2/(n + 2)/32) of the spread, 5 of them allowed; the KS distance by the same."""
    net = networks.mlp([24, 40, 40, 28], "tanh", "gaussian", sigma_w=1.3, sigma_b=0.1)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    params = jax.tree.map(lambda a: (1.3 * rng.standard_normal(a.shape) / a.shape[1] ** 0.5).astype(np.float32), shapes)
    method = isometry.Lanczos(steps=40, probes=32)
    found = isometry.spectrum(net, params, XS[0], method=method, span=span, key=KEY)
    s = np.linalg.svd(isometry.jacobian(net, params, XS[0], span=span), compute_uv=False).astype(np.float64)
    n = len(s)
    expected = (24, 4, None) if span == "end_to_end" else (40, 0, 1)
    assert (found.size, found.structural_zeros, found.pairs) == expected
    assert float(found.weights.sum()) == pytest.approx(1, abs=1e-5)
    bound = 5 * (2 / (n + 2) / 32) ** 0.5
    assert abs(float(found.moment(1)) - np.mean(s**2)) <= bound * np.std(s**2)
    grid = np.sort(s**2) * 1.0001
    assert np.abs(found.cdf(grid) - np.arange(1, n + 1) / n).max() <= bound


def test_an_isometry_is_found_without_error():
    net = networks.mlp([16, 16, 16], "linear", "orthogonal")
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((16, 16)))[0].astype(np.float32)
    shapes = jax.eval_shape(net.init, KEY)
    params = jax.tree.map(lambda a: np.broadcast_to(turn if a.ndim == 3 else 0 * turn[0], a.shape), shapes)
    found = isometry.spectrum(net, params, np.ones(16, np.float32), method="lanczos", key=KEY)
    np.testing.assert_allclose(found.isometry_deviation(), 0, atol=1e-5)
    assert float(found.zero_fraction()) == 0
    assert found.method == isometry.Lanczos(steps=16)  # of the 64 asked for: there are no more than 16


def test_ensembles_do_not_depend_on_their_chunks():
    keys = jax.random.split(KEY, 2)
    method = isometry.Lanczos(steps=6, probes=2)
    with pytest.raises(isometry.InputError, match="write at least") as refused:
        isometry.ensemble(NET, keys, XS, method=method, key=KEY, max_bytes=1)
    least = int(re.search(r"at least (\d+)", str(refused.value)).group(1))
    whole, parts = (
        isometry.ensemble(NET, keys, XS, method=method, key=KEY, max_bytes=budget) for budget in (None, least)
    )
    assert whole.log_values.shape == (2, 2, 12)
    np.testing.assert_allclose(parts.log_values, whole.log_values, atol=1e-3)
    assert float(jnp.abs(whole.log_values[0, 0] - whole.log_values[0, 1]).max()) > 1e-3


def test_any_function_may_be_probed():
    def f(params, x):
        return jnp.stack([params * x[0], jnp.sin(x[1]), x[0] + x[2]])

    x = np.asarray([0.3, 0.2, 0.1], np.float32)
    exact = (2**2 + np.cos(0.2) ** 2 + 1 + 1) / 3
    found = isometry.spectrum(f, np.float32(2), x, method=isometry.Lanczos(3, 400), key=KEY)
    assert abs(float(found.moment(1)) - exact) <= 5 * (2 / 5 / 400) ** 0.5 * exact


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: isometry.spectrum(NET, None, XS[0], method="lanczos"), r"write key=jax\.random\.key"),
        (lambda: isometry.Lanczos(steps=0), "steps"),
        (lambda: isometry.Lanczos(probes=0), "probes"),
        (lambda: isometry.spectrum(NET, None, XS[0], method="lanzcos"), "lanczos"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_jacobian_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="the Jacobian"):
        isometry.spectrum(lambda p, x: p * x, jnp.float32(jnp.nan), XS[0], method=isometry.Lanczos(2, 1), key=KEY)
