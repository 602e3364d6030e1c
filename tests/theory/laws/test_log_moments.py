"""Moments of log s against closed forms."""

import math

import mpmath
import pytest

from isometry import theory


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
    law = theory.fuss_catalan(1)

    def moment(k):
        with mpmath.workdps(30):
            return mpmath.quad(
                lambda t: mpmath.log(2 * mpmath.sin(t)) ** k * mpmath.cos(t) ** 2,
                [0, mpmath.pi / 6, mpmath.pi / 2],
            ) * (4 / mpmath.pi)

    for k in range(1, 7):
        # The moments of logistic numbers that are taken off are 100 times as large.
        assert law.moment(k, "log_s") == pytest.approx(float(moment(k)), rel=1e-9)
