"""The correlation map.

Arcsine and arc-cosine laws, orthant probabilities, Gauss-Hermite, Monte Carlo.
"""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.special import ndtr

from isometry import InputError, activations, theory
from isometry.theory.mean_field._pair import pair

GAPS = (1.0, 0.7, 0.1, 1e-3, 1e-6, 1e-9, 1e-12)


@pytest.mark.parametrize("q", [1e-3, 1.0, 300.0])
def test_erf_is_an_arcsine(q):
    with mpmath.workdps(40):
        k = 2 * mpmath.mpf(q) / (1 + 2 * mpmath.mpf(q))
        for gap in GAPS:
            c = 1 - mpmath.mpf(gap)
            found = pair(activations.erf, q, gap)
            lost = 2 / mpmath.pi * (mpmath.asin(k) - mpmath.asin(k * c))
            slope = (
                4
                / mpmath.pi
                / mpmath.sqrt(
                    (1 + 2 * mpmath.mpf(q)) ** 2 - (2 * mpmath.mpf(q) * c) ** 2
                )
            )
            assert found.gap == pytest.approx(
                float(lost), rel=max(1e-13, 5e-16 / math.sqrt(gap))
            )
            assert found.slopes == pytest.approx(float(slope), rel=1e-13)
            assert pair(activations.erf, q, gap, True).product == pytest.approx(
                -found.product, rel=1e-12, abs=1e-16
            )


def arccos(c):
    return (mpmath.sqrt(1 - c * c) + (mpmath.pi - mpmath.acos(c)) * c) / mpmath.pi


@pytest.mark.parametrize("q", [1e-3, 7.0])
def test_relu_is_an_arc_cosine(q):
    a = 0.01
    with mpmath.workdps(40):
        for gap in GAPS:
            c = 1 - mpmath.mpf(gap)
            relu, leaky = (
                pair(phi, q, gap) for phi in (activations.relu, activations.leaky_relu)
            )
            room = max(1e-13, 5e-15 / math.sqrt(gap) if gap < 1e-3 else 0)
            assert relu.gap == pytest.approx(q / 2 * float(1 - arccos(c)), rel=room)
            assert relu.slopes == pytest.approx(
                float((mpmath.pi - mpmath.acos(c)) / mpmath.pi / 2), rel=1e-13
            )
            want = q * ((1 - a) ** 2 * arccos(c) + 2 * a * c) / 2
            assert leaky.product == pytest.approx(float(want), rel=1e-12)
            back = pair(activations.relu, q, gap, True)
            assert back.product == pytest.approx(
                q / 2 * float(arccos(-c)), rel=1e-11, abs=1e-14 * q
            )


@pytest.mark.parametrize("c", [0.0, 0.5, 0.99, -0.8])
def test_hard_tanh_slopes_are_orthant_probabilities(c):
    """E phi'phi' = P(|u1| < 1, |u2| < 1), one integral over a known conditional."""
    q = 0.8

    def inside(x):
        s = mpmath.sqrt(q * (1 - c * c))
        return mpmath.npdf(x, 0, mpmath.sqrt(q)) * (
            mpmath.ncdf((1 - c * x) / s) - mpmath.ncdf((-1 - c * x) / s)
        )

    want = float(mpmath.quad(inside, [-1, -0.5, 0, 0.5, 1]))
    assert pair(activations.hard_tanh, q, 1 - abs(c), c < 0).slopes == pytest.approx(
        want, rel=1e-12
    )


@pytest.mark.parametrize(
    ("name", "numpy_phi"),
    [("tanh", np.tanh), ("softplus", lambda u: np.logaddexp(0, u))],
)
@pytest.mark.parametrize("c", [0.9, -0.6])
def test_smooth_against_gauss_hermite(name, numpy_phi, c):
    """Poles √(π²/4q) or more from the axis.

    180 nodes leave less than 1e-13 at q = 0.2.
    """
    q, sigma_w, sigma_b = 0.2, 1.3, 0.4
    x, w = np.polynomial.hermite_e.hermegauss(180)
    w = w / w.sum()
    one, two = np.meshgrid(x, x)
    u1, u2 = math.sqrt(q) * one, math.sqrt(q) * (c * one + math.sqrt(1 - c * c) * two)
    both = w @ (numpy_phi(u1) * numpy_phi(u2)) @ w
    alone = w @ numpy_phi(math.sqrt(q) * x) ** 2
    want = (sigma_w**2 * both + sigma_b**2) / (sigma_w**2 * alone + sigma_b**2)
    assert theory.c_map(name, c, q, sigma_w, sigma_b) == pytest.approx(want, rel=1e-10)


def test_monte_carlo():
    """GELU and a user's kinked function, 4 standard errors of 400 000 draws."""
    rng = np.random.default_rng(0)
    c, q, n = 0.6, 1.5, 400_000
    z, w = rng.normal(size=(2, n))
    u1, u2 = math.sqrt(q) * z, math.sqrt(q) * (c * z + 0.8 * w)
    cases = [
        (lambda x: jax.nn.gelu(x, approximate=False), lambda x: x * ndtr(x)),
        (
            lambda x: jnp.maximum(x, 0.3) * jnp.cos(x),
            lambda x: np.maximum(x, 0.3) * np.cos(x),
        ),
    ]
    for phi, by_numpy in cases:
        product = by_numpy(u1) * by_numpy(u2)
        square = theory.q_map(phi, q, 1.0, 0.0)
        error = product.std() / math.sqrt(n) / square
        assert (
            abs(theory.c_map(phi, c, q, 1.0, 0.0) - product.mean() / square) < 4 * error
        )


def test_sign_jumps_and_still_has_a_map():
    for c in (-1.0, -0.3, 0.0, 0.5, 0.999999):
        assert theory.c_map(jnp.sign, c, 2.0, 1.0, 0.0) == pytest.approx(
            2 / math.pi * math.asin(c), abs=1e-13
        )


@pytest.mark.parametrize("name", activations.names())
def test_ends(name):
    """C(1) = 1; C(−1) is E phi(u) phi(−u).

    Odd functions without bias give an odd map; |C| ≤ 1.
    """
    q = 0.9
    assert theory.c_map(name, 1.0, q, 1.2, 0.3) == pytest.approx(1, rel=1e-14)
    phi = activations.get(name)
    mirrored = theory.expectation(
        lambda u: phi(u) * phi(-u), q, (*phi.kinks, *(-k for k in phi.kinks))
    )
    want = mirrored / theory.q_map(name, q, 1.0, 0.0)
    assert theory.c_map(name, -1.0, q, 1.0, 0.0) == pytest.approx(
        want, rel=1e-11, abs=1e-12
    )
    if phi.odd:
        assert theory.c_map(name, -0.4, q, 1.0, 0.0) == pytest.approx(
            -theory.c_map(name, 0.4, q, 1.0, 0.0), rel=1e-11
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.c_map("tanh", 1.5, 1.0, 1.0, 0.0),
            r"c_map\(\): c=1\.5 is not a finite number in \[-1, 1\]",
        ),
        (lambda: theory.c_map("tanh", math.nan, 1.0, 1.0, 0.0), r"c=nan"),
        (
            lambda: theory.c_map("tanh", 0.5, 1.0, 0.0, 0.0),
            r"sigma_w=0\.0 is not a finite number in \(0, 1e\+100\]",
        ),
        (
            lambda: theory.c_map(jnp.zeros_like, 0.5, 1.0, 1.0, 0.0),
            r"at q=1 and sigma_b=0: there is nothing to",
        ),
        # The mass of E phi² lies 3.5 standard deviations out, and falls off as slowly.
        (
            lambda: theory.c_map(lambda x: jnp.exp(0.23 * x**2), 0.5, 1.0, 1.0, 0.1),
            r"c_map\(\): E phi\(u1\) phi\(u2\) of <lambda> at q=1, 1-\|c\|=0\.5 is",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
