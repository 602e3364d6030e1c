"""Products by factors as an operator, and the smooth distribution behind a few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import linalg, networks
from isometry.linalg import Factors

RNG = np.random.default_rng(0)


def stacks():
    """3 ← 5 ← 5 ← 5 ← 4, with scales alone in front and a factor without scales at the end."""
    draw = lambda *shape: jnp.asarray(RNG.standard_normal(shape))  # noqa: E731
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
        np.testing.assert_allclose(jax.vmap(operator.matvec)(jnp.eye(4)).T, dense, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(jax.vmap(operator.rmatvec)(jnp.eye(3)), dense, rtol=1e-12, atol=1e-14)


def ks(smooth, s):
    """Largest distance to the staircase of the values s, on both sides of each stair."""
    n = len(s)
    found = np.asarray(smooth(np.sort(s)), float)
    return max(abs(found - np.arange(1, n + 1) / n).max(), abs(found - np.arange(n) / n).max())


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
        found = linalg.smooth_cdf(*(jnp.asarray(a) for a in (np.log(s), weights)), steps, jnp.asarray(np.log(points)))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
def test_any_scale_zero_and_all_batches(steps):
    rng = np.random.default_rng(1)
    logs = jnp.asarray(np.sort(rng.standard_normal((2, 3, 4)))[..., ::-1], jnp.float32)
    logs = logs.at[..., -1].set(-jnp.inf)
    weights = jnp.full(logs.shape, 0.25)
    points = jnp.linspace(-2, 2, 5)
    found = linalg.smooth_cdf(logs, weights, steps, points)
    assert found.shape == (2, 3, 5)
    np.testing.assert_allclose(linalg.smooth_cdf(logs + 40, weights, steps, points + 40), found, atol=1e-4)
    zero = linalg.smooth_cdf(jnp.full(4, -jnp.inf), weights[0, 0], steps, jnp.asarray([-jnp.inf, 1.0]))
    assert np.isfinite(zero).all()
    assert float(zero[1]) == 1


def test_four_steps_have_the_density_of_a_deep_tanh_network():
    """4 seeds, 32 probes each: of the spread √(1/(n + 2)/probes/2), 4 of them; two in a hundred are the series'."""
    net = networks.mlp([64] * 21, "tanh", "orthogonal", sigma_w=1.0, bias=False)
    keys, xs = jax.random.split(jax.random.key(1), 4), jnp.asarray(RNG.standard_normal((1, 64)), jnp.float32)
    s = np.asarray(isometry.ensemble(net, keys, xs).values).ravel()
    found = isometry.ensemble(net, keys, xs, method=isometry.Lanczos(4, 32), key=jax.random.key(2))
    smooth = lambda grid: np.asarray(found.smooth_cdf(grid, "s")).mean((0, 1))  # noqa: E731
    assert ks(smooth, s) <= 0.02 + 4 * (1 / 66 / 128 / 2) ** 0.5
    assert ks(lambda grid: np.asarray(found.cdf(grid, "s")).mean((0, 1)), s) > 0.1  # the staircase of nodes is not
    np.testing.assert_array_equal(found.smooth_cdf(jnp.asarray([-1.0]), "s"), 0)
    np.testing.assert_allclose(found.smooth_cdf(s**2), found.smooth_cdf(s, "s"), atol=1e-5)


def test_of_known_values_the_cdf_is_exact():
    sp = isometry.spectrum(lambda p, x: p * x, jnp.float32(2), jnp.ones(3))
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
