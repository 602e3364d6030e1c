"""Moments of products of gated steps, against dense matrices."""

import numpy as np
import pytest

import isometry
from isometry import theory
from isometry.theory.laws._gated_moments import of_one_step
from isometry.theory.mean_field._population import OneStep


def test_one_step_in_closed_form():
    """m_2 = E a⁴ + 2σ²(E a²s² + E a² E s²) + σ⁴(E s⁴ + (E s²)²)."""
    rng = np.random.default_rng(0)
    a, s = rng.uniform(0, 1, (2, 50))
    moments = theory.gated_moments(a, s, 1.3, 1)
    w = 1.3**2
    mean = np.mean(a**2) + w * np.mean(s**2)
    mixed = np.mean(a**2 * s**2) + np.mean(a**2) * np.mean(s**2)
    fourth = np.mean(s**4) + np.mean(s**2) ** 2
    second = np.mean(a**4) + 2 * w * mixed + w**2 * fourth
    assert moments.mean == pytest.approx(mean, rel=1e-13)
    assert moments.variance == pytest.approx(second - mean**2, rel=1e-12)
    # The gates of a single step are those of a step with given gates.
    assert theory.gated_moments(a[None], s[None], 1.3, 1) == pytest.approx(moments)


def test_small_and_many_steps_in_closed_form():
    """1 + eps W has the variance 2 eps² + eps⁴; n factors W have n (Fuss-Catalan)."""
    variance = theory.gated_moments([1.0], [1e-9], 1.0, steps=1).variance
    assert variance == pytest.approx(2e-18, rel=1e-12)
    assert theory.gated_moments([0.0], [1.0], 1.0, steps=1000) == (1.0, 1000.0)


@pytest.mark.parametrize("gates", [[0.9], [[0.9]] * 1000], ids=["fresh", "given"])
def test_moments_beyond_float64_are_refused(gates):
    with pytest.raises(isometry.NotDefined, match="1000 steps are beyond float64"):
        theory.gated_moments(gates, gates, 2.0, steps=1000)


def test_given_gates_of_the_same_sites_against_dense_matrices():
    """Ten draws of W at N = 200; the bias from finite width is of order 1/N."""
    rng = np.random.default_rng(1)
    a, s = rng.uniform(0.2, 1, (2, 4, 200))
    a[1], a[3] = a[0], a[0] ** 2
    moments = theory.gated_moments(a, s, 0.8, 4)
    found = []
    for _ in range(10):
        jac = np.eye(200)
        for t in range(4):
            w = 0.8 * rng.standard_normal((200, 200)) / 200**0.5
            jac = a[t][:, None] * jac + s[t][:, None] * (w @ jac)
        square = jac @ jac.T
        found.append([np.trace(square) / 200, np.sum(square**2) / 200])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / 10**0.5
    second = moments.variance + moments.mean**2
    assert abs(mean[0] - moments.mean) < 4 * error[0] + 0.01 * moments.mean
    assert abs(mean[1] - second) < 4 * error[1] + 0.02 * second


def test_fresh_gates_are_given_gates_of_many_sites():
    """With every combination of a and s at some site, site averages factorize."""
    values = np.array([0.2, 0.5, 0.9])
    # Six independent coordinates: (a, s) of three steps.
    grid = np.stack(np.meshgrid(*[values] * 6, indexing="ij")).reshape(6, -1)
    given = theory.gated_moments(grid[:3], grid[3:], 1.1, 3)
    pairs = np.stack(np.meshgrid(values, values)).reshape(2, -1)
    fresh = theory.gated_moments(pairs[0], pairs[1], 1.1, 3)
    assert fresh == pytest.approx(given, rel=1e-12)


def test_one_step_with_a_reset_against_dense_matrices():
    """diag(a) + diag(s) W + diag(t) W_g (diag(r) + diag(p) W_r), six draws at 300."""
    rng = np.random.default_rng(2)
    squares = rng.uniform(0.1, 1, (5, 300))
    # What a site keeps and what its other factors are is correlated.
    squares[1:] *= squares[0]
    moments = of_one_step(OneStep(*squares))
    a, s, t, r, p = np.sqrt(squares)[:, :, None]
    found = []
    for _ in range(6):
        w, of_product, of_reset = rng.standard_normal((3, 300, 300)) / 300**0.5
        product = t * (of_product @ (np.diag(r[:, 0]) + p * of_reset))
        jac = np.diag(a[:, 0]) + s * w + product
        square = jac @ jac.T
        found.append([np.trace(square) / 300, np.sum(square**2) / 300])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / 6**0.5
    wanted = np.array([moments.mean, moments.variance + moments.mean**2])
    assert (np.abs(mean - wanted) < 4 * error + 0.005 * wanted).all()


def test_refusals_name_what_is_wrong():
    with pytest.raises(isometry.InputError, match="of one shape"):
        theory.gated_moments([1.0], [1.0, 2.0], 1.0, 1)
    with pytest.raises(isometry.InputError, match="steps=3"):
        theory.gated_moments([[1.0]], [[1.0]], 1.0, 3)
    with pytest.raises(isometry.InputError, match="not finite"):
        theory.gated_moments([np.nan], [1.0], 1.0, 1)
