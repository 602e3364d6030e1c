"""One interval with a density, against the semicircle's relatives in closed form."""

import math

import numpy as np
import pytest

from isometry import activations
from isometry.theory.laws import _closed, _integrals
from isometry.theory.laws._bands import Band
from isometry.theory.laws._diagonal import Diagonal
from isometry.theory.laws._product import product_of
from isometry.theory.laws._slope_measure import slope_measure

GAUSSIAN = _closed.gaussian(0.0, 1, 1, size=1)


@pytest.fixture(scope="module")
def band():
    """Marchenko-Pastur at ratio one: λ = 4 cos² a, P(λ ≤ x) from its angle."""
    product = product_of({GAUSSIAN: 1})
    return Band(product, -math.inf, math.log(4), above_low=1.0, above_high=0.0)


def cdf(lam):
    angle = np.arccos(1 - lam / 2)
    return (angle + np.sin(angle)) / np.pi


def test_density_and_masses(band):
    lam = np.array([1e-12, 1e-3, 0.5, 3.0, 4 - 1e-6])
    density = np.sqrt((4 - lam) / lam) / (2 * np.pi) * lam
    np.testing.assert_allclose(band.density(np.log(lam)), density, rtol=1e-7)
    above, below = band.masses(np.log(lam))
    # At 1e-12 the angle of the closed form is rounding.
    np.testing.assert_allclose(below[1:], cdf(lam[1:]), rtol=1e-12)
    assert below[0] == pytest.approx(2e-6 / np.pi, rel=1e-9)
    # The integral of √δ/(4π) from 0 to δ.
    assert above[-1] == pytest.approx(1e-6**1.5 / (6 * math.pi), rel=1e-5)


def test_quantiles_invert_masses(band):
    """Also at an edge, and far below the nodes of the table."""
    p = np.array([1e-11, 1e-4, 0.37, 1 - 1e-6, 1.0])
    t = band.invert(p)
    assert t[-1] == math.log(4)
    np.testing.assert_allclose(cdf(np.exp(t[1:-1])), p[1:-1], rtol=1e-9)
    # P(λ ≤ x) = 2√x/π to leading order.
    assert t[0] == pytest.approx(2 * math.log(math.pi * 1e-11 / 2), rel=1e-9)


def test_integrals_over_the_band(band):
    """E λ^x = Γ(2x + 1)/(Γ(x + 1) Γ(x + 2)); E log λ = −1."""
    power = math.gamma(4) / (math.gamma(2.5) * math.gamma(3.5))
    found = _integrals.integral(band, lambda t: np.exp(1.5 * t))
    assert found == pytest.approx(power, rel=1e-10)
    assert _integrals.integral(band, lambda t: t) == pytest.approx(-1, rel=1e-9)


def test_reach_ends_where_the_mass_does(band):
    """P(log λ < t) = (2/π) e^{t/2}: 1e-8 of it lies 36 below zero, and no more."""
    depth, left = band.reach(1e-8)
    mass = 2 / math.pi * math.exp((math.log(4) - depth) / 2)
    assert left == pytest.approx(mass, rel=1e-6)
    assert left <= 1e-8
    assert 2 / math.pi * math.exp((math.log(4) - depth / 2) / 2) > 1e-8


def test_far_below_what_is_resolved_nothing_is_made_up():
    """gelu' has a zero: where the contour ends the density is 0, and mass is kept."""
    slopes = Diagonal(slope_measure(activations.gelu, 1.0))
    product = product_of({slopes: 2})
    top = 0.04
    band = Band(product, -math.inf, top, above_low=1.0, above_high=0.0)
    above, below = band.masses(np.array([-300.0]))
    assert above[0] == pytest.approx(1, abs=1e-6)
    assert below[0] < 1e-6
    assert band.density(np.array([-300.0]))[0] < 1e-6
