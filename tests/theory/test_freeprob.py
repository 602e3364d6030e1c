"""S-transforms multiply; M and its inverse agree; outside libraries agree."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry import theory
from isometry.theory import freeprob

masses = st.floats(0.05, 0.95)


@settings(max_examples=8, deadline=None)
@given(
    p=masses,
    a=st.floats(0.1, 3.0),
    psi=st.floats(0.05, 0.95),
    ratio=st.floats(0.2, 1.0),
)
def test_s_transforms_multiply(p, a, psi, ratio):
    two, gauss = (
        freeprob.point_masses([a, 2.0], [p, 1 - p]),
        theory.marchenko_pastur(ratio),
    )
    at = np.array([-psi])
    both = freeprob.multiply(two, gauss)
    of_gauss = freeprob.S(gauss, at)
    np.testing.assert_allclose(
        freeprob.S(both, at), freeprob.S(two, at) * of_gauss, rtol=1e-9
    )
    np.testing.assert_allclose(of_gauss, 1 / (1 - ratio * psi), rtol=1e-10)
    z = np.array([-0.7, 3 + 2j, 50.0])
    want = p * a / (z - a) + (1 - p) * 2 / (z - 2)
    np.testing.assert_allclose(freeprob.M(two, z), want, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        freeprob.inverse_M(both, freeprob.M(both, z[:2])), z[:2], rtol=1e-8
    )
    assert both.moment(1) == pytest.approx(two.moment(1), rel=1e-12)


def _slope_of_gelu(u):
    return mpmath.ncdf(u) + u * mpmath.npdf(u)


@pytest.mark.parametrize(
    ("phi", "slope"),
    [("tanh", lambda u: mpmath.sech(u) ** 2), ("gelu", _slope_of_gelu)],
    ids=["tanh", "gelu"],
)
def test_measures_against_mpmath(phi, slope):
    """M and moments of phi'(√q z)² by quadrature at thirty digits on the real axis."""
    q, z = 0.5, 0.4 + 0.2j
    law = freeprob.squared_slope(phi, q)
    with mpmath.workdps(30):
        nodes = [-12, -4, 0, 4, 12]

        def mean(f):
            return mpmath.quad(
                lambda x: mpmath.npdf(x) * f(slope(mpmath.sqrt(q) * x) ** 2), nodes
            )

        want = complex(mean(lambda d: d / (z - d)))
        sixth = float(mean(lambda d: d**6))
    assert freeprob.M(law, z) == pytest.approx(want, rel=1e-12)
    assert law.moment(6) == pytest.approx(sixth, rel=1e-13)


def test_against_scikit_rmt():
    ensemble = pytest.importorskip(
        "skrmt.ensemble.spectral_law", exc_type=ImportError
    )  # 2.1.1 needs scipy 1.12
    lam = np.linspace(0.26, 2.2, 9)
    other = ensemble.MarchenkoPasturDistribution(ratio=0.25)
    np.testing.assert_allclose(
        theory.marchenko_pastur(0.25).density(lam), other.pdf(lam), rtol=1e-10
    )
    np.testing.assert_allclose(
        theory.marchenko_pastur(0.25).cdf(lam), other.cdf(lam), rtol=1e-10
    )


def test_against_freealg():
    """Its polynomial has our transform among its roots.

    Which one is physical it misjudges at some points (0.12.2).
    """
    distributions = pytest.importorskip("freealg.distributions", exc_type=ImportError)
    law, z = theory.fuss_catalan(3), np.linspace(0.1, 9.0, 9)
    resolvent = -(1 + freeprob.M(law, z)) / z
    roots = np.array([distributions.FussCatalan(3).roots(complex(at)) for at in z])
    assert np.abs(roots - resolvent[:, None]).min(1).max() < 1e-9
