"""Moments of log s against closed forms."""

import math

import mpmath
import numpy as np
import pytest

from isometry import theory
from isometry.theory.laws import _integrals
from isometry.theory.laws._log_moments import log_moments


@pytest.mark.parametrize(("skip", "branch"), [(0.3, 0.99), (1.0, 0.5), (1.0, 1.1)])
def test_of_a_skip_and_a_gaussian_matrix(skip, branch):
    """E log λ / 2 is the mean of log |skip − z| over a disk of radius branch.

    The circular law: E log |det| of a matrix is that of its eigenvalues.
    """
    law = theory.residual_law(
        "linear",
        [branch],
        order="post_activation",
        skip=skip,
        sigma_w=1.0,
    )
    expected = 2 * math.log(skip)
    if skip < branch:
        expected = 2 * math.log(branch) - 1 + (skip / branch) ** 2
    # Rounding of the quadrature, of numbers of order 1.
    assert abs(law.mean_log_lam - expected) < 1e-13


def test_all_powers_of_a_gaussian_matrix():
    """s of a square Gaussian matrix is 2 cos θ, with density 4 sin² θ / π."""
    found = log_moments(theory.fuss_catalan(1).product, 6)

    def moment(k):
        with mpmath.workdps(30):
            return mpmath.quad(
                lambda t: mpmath.log(2 * mpmath.sin(t)) ** k * mpmath.cos(t) ** 2,
                [0, mpmath.pi / 6, mpmath.pi / 2],
            ) * (4 / mpmath.pi)

    for k in range(1, 7):
        # The moments of logistic numbers that are taken off are 100 times as large.
        assert found[k] / 2**k == pytest.approx(float(moment(k)), rel=1e-9)


@pytest.mark.parametrize("depth", [8, 5000])
def test_variance_of_a_leaky_relu(depth):
    """Of its D², 1 or 1e-4, u solves p = E ux/(1 + ux), and log y is known at every p.

    S of a pair (W, D) at ψ = -p is u/p, as that of W is 1/(1 - p), and with as many
    pairs as the depth log y = -depth log(u/p) - t, for log-odds t of p. Over p its
    variance is that of log λ and π²/3. It bends sharply at t = 0.
    """
    small = mpmath.mpf(0.01) ** 2

    def log_y(t):
        p, above = 1 / (1 + mpmath.exp(-t)), 1 / (1 + mpmath.exp(t))
        a, b = small * above, -(1 + small) * mpmath.tanh(t / 2) / 2
        root = mpmath.sqrt(b * b + 4 * a * p)
        u = (root - b) / (2 * a) if b < 0 else 2 * p / (root + b)
        return -depth * mpmath.log(u / p) - t

    def mean(f):
        return mpmath.quad(
            lambda t: f(log_y(t)) / (2 * mpmath.cosh(t / 2)) ** 2,
            [-60, -20, -5, -1, -0.1, 0, 0.1, 1, 5, 20, 60],
        )

    center = mean(lambda y: y)
    variance = mean(lambda y: (y - center) ** 2) - mpmath.pi**2 / 3
    law = theory.jacobian_law(
        "leaky_relu", depth, q=1.0, sigma_w=1.0, weights="gaussian"
    )
    assert law.mean_log_lam == pytest.approx(float(center), rel=1e-9)
    second = law.moment(2, "log_s") - law.moment(1, "log_s") ** 2
    assert 4 * second == pytest.approx(float(variance), rel=1e-9)


def test_of_slopes_that_reach_far_down():
    """E log λ of free factors is the sum of theirs: of erf, log(4/π) - 2q and -1."""
    law = theory.jacobian_law("erf", 100, q=3.0, sigma_w=1.0, weights="gaussian")
    expected = 100 * (math.log(4 / math.pi) - 2 * 3.0 - 1)
    assert law.mean_log_lam == pytest.approx(expected, rel=1e-9)


def test_mass_below_what_can_be_inverted_is_not_passed_over():
    """A mass of 6e-7 below -511 is 2e-5 of a mean of -20, and nothing of E λ."""
    parts = _integrals._Parts(rest=0.0, mass=1.0, lost=6e-7, lowest=-511.0)
    with pytest.raises(theory.NotConverged, match="below log lam = -511"):
        _integrals._require_little_below(lambda t: t, parts, -20.0)
    _integrals._require_little_below(np.exp, parts, 0.1)
