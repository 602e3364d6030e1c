"""Products by factors as an operator, and the smooth distribution behind a few steps."""

import jax
import numpy as np
import pytest

import isometry
from isometry import linalg
from isometry.linalg import Factors, Operator

RNG = np.random.default_rng(0)


def stacks():
    """3 ← 5 ← 5 ← 5 ← 4, with scales alone in front and a factor without scales at the end."""
    draw = lambda *shape: RNG.standard_normal(shape)  # noqa: E731
    return [
        Factors(None, draw(1, 4)),
        Factors(draw(1, 5, 4), draw(1, 5)),
        Factors(draw(2, 5, 5)),
        Factors(draw(1, 3, 5)),
    ]


@pytest.mark.core
def test_products_of_factors():
    with jax.enable_x64(True):
        parts = stacks()
        operator = linalg.factored(parts)
        dense = np.eye(4)
        for stack in parts:
            for i in range(stack.size[0]):
                dense = dense if stack.matrix is None else np.asarray(stack.matrix[i]) @ dense
                dense = dense if stack.scale is None else np.asarray(stack.scale[i])[:, None] * dense
        assert operator.shape == (3, 4)
        both_ways = jax.jit(lambda v, u: (jax.vmap(operator.matvec)(v), jax.vmap(operator.rmatvec)(u)))
        columns, rows = both_ways(np.eye(4), np.eye(3))
    np.testing.assert_allclose(columns.T, dense, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(rows, dense, rtol=1e-12, atol=1e-14)


def ks(smooth, s):
    """Largest distance to the staircase of the values s, on both sides of each stair."""
    n = len(s)
    found = np.asarray(smooth(np.sort(s)), float)
    return max(abs(found - np.arange(1, n + 1) / n).max(), abs(found - np.arange(n) / n).max())


smooth_cdf = jax.jit(linalg.smooth_cdf, static_argnums=2)


def semicircle(steps):
    """Gauss quadrature of the quarter circle on [0, 2]: positive zeros of Chebyshev's U of degree 2·steps."""
    angle = np.pi * np.arange(1, steps + 1) / (2 * steps + 1)
    return 2 * np.cos(angle), 4 / (2 * steps + 1) * np.sin(angle) ** 2


@pytest.mark.parametrize("steps", [1, 4])
def test_the_quarter_circle_is_exact(steps):
    s, weights = semicircle(steps)
    points = np.linspace(0.01, 1.99, 60)
    exact = (points * np.sqrt(4 - points**2) / 2 + 2 * np.arcsin(points / 2)) / np.pi
    with jax.enable_x64(True):
        found = smooth_cdf(np.log(s), weights, steps, np.log(points))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)


def test_any_scale_zero_and_all_batches():
    rng = np.random.default_rng(1)
    logs = np.sort(rng.standard_normal((2, 3, 4)))[..., ::-1].astype(np.float32)
    logs[..., -1] = -np.inf
    weights = np.full(logs.shape, 0.25, np.float32)
    points = np.linspace(-2, 2, 5, dtype=np.float32)
    found = smooth_cdf(logs, weights, 3, points)
    assert found.shape == (2, 3, 5)
    np.testing.assert_allclose(smooth_cdf(logs + 40, weights, 3, points + 40), found, atol=1e-4)
    zero = smooth_cdf(np.full_like(logs, -np.inf), weights, 3, np.r_[-np.inf, points[1:]].astype(np.float32))
    assert np.isfinite(zero).all()
    np.testing.assert_array_equal(zero[..., -1], 1)


def test_four_steps_have_the_density_of_a_deep_tanh_network():
    """4 seeds, 32 probes each: of the spread √(1/(n + 2)/probes/2), 4 of them; two in a hundred are the series'."""
    turns = np.linalg.qr(RNG.standard_normal((4, 21, 64, 64)))[0]
    x, jacobians = RNG.standard_normal(64), []
    for layers in turns:
        product, z = layers[0].T, x @ layers[0]
        for w in layers[1:]:
            product, z = w.T @ ((1 - np.tanh(z) ** 2)[:, None] * product), np.tanh(z) @ w
        jacobians.append(product)
    s = np.linalg.svd(jacobians, compute_uv=False).ravel()
    quadrature = jax.vmap(lambda j, key: linalg.spectral_quadrature(Operator.of(j), key=key, steps=4, probes=32))
    keys = jax.random.split(jax.random.key(2), 4)
    rules = jax.device_get(jax.jit(quadrature)(np.asarray(jacobians, np.float32), keys))
    pooled = rules.log_values.reshape(4, -1), rules.weights.reshape(4, -1) / 32
    found = isometry.Spectrum(*pooled, rules.log_floor, size=64, quadrature=rules)
    smooth = lambda grid: np.asarray(found.smooth_cdf(grid, "s")).mean(0)  # noqa: E731
    assert ks(smooth, s) <= 0.02 + 4 * (1 / 66 / 128 / 2) ** 0.5
    nodes, masses = np.exp(found.log_values), np.asarray(found.weights)

    def staircase(grid):
        is_below = nodes[..., None, :] <= grid[:, None]
        return np.sum(is_below * masses[..., None, :], -1).mean(0)

    assert ks(staircase, s) > 0.1
    below_zero = np.r_[-1.0, np.sort(s)[1:]]
    np.testing.assert_array_equal(found.smooth_cdf(below_zero, "s")[..., 0], 0)
    np.testing.assert_allclose(found.smooth_cdf(np.sort(s) ** 2), found.smooth_cdf(np.sort(s), "s"), atol=1e-5)


def test_of_known_values_the_cdf_is_exact():
    sp = isometry.Spectrum(np.zeros(3, np.float32), np.full(3, 1 / 3, np.float32), np.float32(-np.inf), size=3)
    with pytest.raises(isometry.InputError, match=r"smooth_cdf\(\): of .* every value is known; write cdf\(grid\)"):
        sp.smooth_cdf([1.0])


def test_no_factors_are_refused():
    for call in (linalg.factored, linalg.live_counts):
        name = call.__name__
        with pytest.raises(
            isometry.InputError, match=rf"{name}\(\): stacks is empty; write \[Factors\(matrix, scale\)"
        ):
            call([])
        with pytest.raises(isometry.InputError, match=rf"{name}\(\): stacks\[0\]=3 is not a Factors"):
            call([3])
