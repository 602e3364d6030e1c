"""Predicted laws against closed forms.

Edges, atoms, densities, limits of great depth.
"""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import expit, ndtr

from isometry import theory

# (linear Gaussian, ReLU Gaussian, ReLU orthogonal) λ_max, six digits as printed
TOPS = {
    1: ("4", "5.82843", "2"),
    2: ("6.75", "11.0902", "4"),
    4: ("12.2070", "21.8582", "9.48148"),
    8: ("23.0921", "43.549", "20.372"),
    16: ("44.8448", "87.0133", "42.1261"),
    32: ("88.3407", "173.984", "85.6223"),
    64: ("175.327", "347.947", "172.609"),
    128: ("349.298", "695.884", "346.58"),
}


@pytest.mark.parametrize("depth", TOPS)
def test_top_of_the_support(depth):
    laws = [
        theory.jacobian_law("linear", depth, q=1.0, weights="gaussian"),
        theory.jacobian_law("relu", depth, q=1.0, weights="gaussian"),
        theory.jacobian_law("relu", depth, q=1.0),
    ]
    for law, printed in zip(laws, TOPS[depth], strict=True):
        assert law.s_max**2 == pytest.approx(float(printed), rel=5.1e-6)
    exact = (depth + 1) * math.log(depth + 1) - depth * math.log(depth)
    assert 2 * math.log(laws[0].s_max) == pytest.approx(exact, rel=1e-12)


def test_marchenko_pastur_density_and_cdf():
    law = theory.fuss_catalan(1)
    lam = np.linspace(1e-6, 4 - 1e-4, 400)
    np.testing.assert_allclose(
        law.density(lam), np.sqrt((4 - lam) / lam) / (2 * np.pi), rtol=1e-10
    )
    angle = np.arccos(1 - lam / 2)  # λ = 2 − 2 cos a: P = (a + sin a)/π
    np.testing.assert_allclose(
        law.cdf(lam), (angle + np.sin(angle)) / np.pi, rtol=1e-12, atol=1e-13
    )
    assert law.density(0.0, "s") == pytest.approx(2 / np.pi, rel=1e-6)  # quarter circle
    assert law.density(0.0) == math.inf
    assert law.density([-1.0, 5.0]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_fuss_catalan_density(depth):
    """Penson and Życzkowski (2011), parametrized.

    Λ = sin^(L+1)((L + 1)a)/(sin a sin^L(La)).
    """
    a = np.linspace(0.02, np.pi / (depth + 1) - 0.02, 50)
    end, middle = np.sin((depth + 1) * a), np.sin(depth * a)
    lam = end ** (depth + 1) / (np.sin(a) * middle**depth)
    density = np.sin(a) ** 2 * middle ** (depth - 1) / (np.pi * end**depth)
    np.testing.assert_allclose(
        theory.fuss_catalan(depth).density(lam), density, rtol=1e-9
    )
    numbers = [math.comb((depth + 1) * k, k) / (depth * k + 1) for k in range(1, 7)]
    assert [theory.fuss_catalan(depth).moment(k) for k in range(1, 7)] == pytest.approx(
        numbers, rel=1e-13
    )


@pytest.mark.parametrize("depth", [1, 4, 32, 5000])
def test_fuss_catalan_powers_of_log_s(depth):
    """E lam^x = Γ((L+1)x + 1)/(Γ(x + 1) Γ(Lx + 2)) for every x > -1/(L+1).

    Its derivatives at 0 are E (ln lam)^k.
    """
    with mpmath.workdps(40):

        def of_lam(x):
            below = mpmath.gamma(x + 1) * mpmath.gamma(depth * x + 2)
            return mpmath.gamma((depth + 1) * x + 1) / below

        want = [
            float(c * mpmath.factorial(k) / 2**k)
            for k, c in enumerate(mpmath.taylor(of_lam, 0, 6))
        ]
    law = theory.fuss_catalan(depth)
    assert [law.moment(k, "log_s") for k in range(1, 7)] == pytest.approx(
        want[1:], rel=1e-9
    )


def test_relu_orthogonal_two_is_an_arcsine():
    law = theory.jacobian_law("relu", 2, q=1.0)
    lam = np.linspace(1e-3, 4 - 1e-3, 100)
    np.testing.assert_allclose(
        law.cdf(lam), 0.5 + np.arcsin(np.sqrt(lam / 4)) / np.pi, rtol=1e-11
    )
    np.testing.assert_allclose(
        law.density(lam), 0.5 / (np.pi * np.sqrt(lam * (4 - lam))), rtol=1e-9
    )
    assert [(a.lam, a.mass) for a in law.atoms] == [
        (0.0, pytest.approx(0.5, rel=1e-14))
    ]
    assert law.cdf(0.0) == 0.5
    assert law.cdf(-1e-9) == 0.0
    assert law.quantile([0.0, 0.3, 0.5]).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_bernoulli_atoms(depth):
    q = 0.25
    p = math.erf(1 / math.sqrt(2 * q))
    law = theory.jacobian_law("hard_tanh", depth, q=q)
    zero, top = law.atoms
    assert zero.mass == pytest.approx(1 - p, rel=1e-12)
    assert top.lam == pytest.approx(p**-depth, rel=1e-12)
    assert top.mass == pytest.approx(1 - depth * (1 - p), rel=1e-12)
    before, at = law.cdf([top.lam * (1 - 1e-9), top.lam])
    assert at == 1
    assert at - before == pytest.approx(top.mass, rel=1e-11)
    assert law.quantile(1 - top.mass / 2) == pytest.approx(top.lam, rel=1e-14)


@pytest.mark.parametrize(
    ("square", "low", "high"),
    [
        (1 / 16, 0.58710650, 1.60007267),
        (1 / 4, 0.32131892, 2.42376260),
        (1, 0.07573933, 4.85717814),
    ],
)
def test_smooth_class_edges(square, low, high):
    law = theory.smooth_class(square)
    assert law.support == (pytest.approx((low, high), abs=1e-7),)
    s = math.sqrt(square)
    for sign, edge in ((1, law.support[0][1]), (-1, law.support[0][0])):
        root = math.sqrt(4 + square)
        exact = math.exp(-s * (s - sign * root) / 2) * (1 + s * (s + sign * root) / 2)
        assert edge == pytest.approx(exact, rel=1e-12)
    assert (law.moment(1), law.variance, law.atoms) == (1, pytest.approx(square), ())


def test_bernoulli_class():
    law = theory.bernoulli_class(0.25)
    assert [tuple(a) for a in law.atoms] == [
        (pytest.approx(math.exp(0.25)), pytest.approx(0.75))
    ]
    assert theory.bernoulli_class(4.0).s_max ** 2 == pytest.approx(
        4 * math.e, rel=1e-12
    )
    assert law.variance == 0.25


def test_bernoulli_class_is_the_limit_of_hard_tanh():
    """At σ0² = L(1 − p)/p held fixed the law approaches its class as 1/L."""
    square, distances = 2.0, []
    limit = theory.bernoulli_class(square)
    grid = np.linspace(0.2, 5, 40)
    for depth in (128, 512):
        p = depth / (depth + square)
        law = theory.jacobian_law(
            "hard_tanh", depth, q=0.5 / float(mpmath.erfinv(p)) ** 2
        )
        distances.append(np.abs(law.cdf(grid) - limit.cdf(grid)).max())
    assert distances[1] == pytest.approx(distances[0] / 4, rel=0.1)


def test_smooth_class_is_the_slow_limit_of_erf():
    """Sup distance 0.056 at depth 64 for σ0² = 1/4, found independently.

    It falls as 1/√L only.
    """
    q = optimize.brentq(
        lambda q: 64 * ((1 + np.pi * q) / np.sqrt(1 + 2 * np.pi * q) - 1) - 0.25,
        1e-4,
        1,
    )
    law = theory.jacobian_law(
        lambda x: jax.scipy.special.erf(math.sqrt(math.pi) / 2 * x), 64, q=q
    )
    assert law.variance == pytest.approx(0.25, rel=1e-9)
    grid = np.linspace(0.1, 2.6, 400)
    assert np.abs(
        law.cdf(grid) - theory.smooth_class(0.25).cdf(grid)
    ).max() == pytest.approx(0.056, abs=0.001)


def test_resnet_law_is_symmetric_in_log_s():
    law = theory.resnet_law(0.25)
    low, high = law.support[0]
    assert low * high == pytest.approx(1, rel=1e-12)
    x = np.linspace(0.05, 0.6, 7)
    np.testing.assert_allclose(
        law.cdf(x, "log_s"), law.survival(-x, "log_s"), rtol=1e-10
    )
    c, n = 0.25, 3
    series = sum(
        (2 * n * c) ** k / math.factorial(k) * math.comb(n, n - 1 - k) for k in range(n)
    )
    assert law.moment(n) == pytest.approx(math.exp(n * c) / n * series, rel=1e-13)


@pytest.mark.parametrize("ratio", [0.25, 4.0])
def test_marchenko_pastur_rectangles(ratio):
    law = theory.marchenko_pastur(ratio)
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    assert law.support == (pytest.approx((low, high), rel=1e-12),)
    lam = np.linspace(low, high, 42)[1:-1]
    want = np.sqrt((high - lam) * (lam - low)) / (2 * np.pi * lam * min(ratio, 1.0))
    np.testing.assert_allclose(law.density(lam), want, rtol=1e-10)
    assert law.structural_zeros == 3.0  # 4n against n


@settings(max_examples=4, deadline=None)
@given(p=st.floats(0.55, 0.99), depth=st.integers(1, 12), gaussian=st.booleans())
def test_bernoulli_products(p, depth, gaussian):
    q = 0.5 / float(mpmath.erfinv(p)) ** 2
    law = theory.jacobian_law(
        "hard_tanh", depth, q=q, weights="gaussian" if gaussian else "orthogonal"
    )
    if gaussian:
        z = (-(depth - 1) + math.sqrt((depth - 1) ** 2 + 4 * depth * p)) / (2 * depth)
        top = (1 + z) / z * (1 + z / p) ** depth
    elif depth * (1 - p) >= 1:
        top = (1 - p) / p * depth**depth / (depth - 1) ** (depth - 1)
    else:
        top = p**-depth
    assert law.s_max**2 == pytest.approx(top, rel=1e-9)
    assert law.cdf(0.0) == pytest.approx(1 - p, rel=1e-9)
    grid = np.linspace(0, 1.1 * top, 60)
    assert np.all(np.diff(law.cdf(grid)) >= -1e-12)


def test_fixed_point_off_criticality():
    law = theory.jacobian_law(
        "tanh", 2, sigma_w=math.sqrt(0.5), sigma_b=math.sqrt(0.05)
    )
    assert law.moment(1) == pytest.approx(
        0.43198738**2, rel=1e-7
    )  # chi_1 of the usual table
    assert theory.jacobian_law("relu", 3, sigma_w=1.0, sigma_b=0.0).moment(
        1
    ) == pytest.approx(0.125, rel=1e-12)


def test_widening_relu_is_a_square_product():
    """Half of twice as many units: 2n × n Gaussian, masked to n × n, twice.

    And isometries stay isometries.
    """
    law, square = (
        theory.jacobian_law("relu", 2, q=1.0, weights="gaussian", widths=[1, 2, 2]),
        theory.fuss_catalan(2),
    )
    assert law.atoms == ()
    x = np.array([1e-8, 0.3, 5.0, 13.0])
    np.testing.assert_allclose(law.cdf(x), square.cdf(x / 2), rtol=1e-9)
    assert law.s_max**2 == pytest.approx(13.5, rel=1e-12)
    for widths in ([1, 2, 2], [1, 2, 3], [3, 2, 1]):
        assert theory.jacobian_law("linear", 2, 1.0, widths=widths).atoms == (
            (1.0, 1.0),
        )


@pytest.mark.parametrize(
    ("phi", "q"),
    [
        ("erf", 4.0),
        ("sin", 1.0),
        ("gelu_tanh", 1.0),
        ("gelu", 5.0),
        ("gelu_tanh", 10.0),
        ("silu", 30.0),
    ],
)
def test_one_layer_is_the_law_of_its_slopes(phi, q):
    """P(phi'² ≤ x) from the slope alone, also where it keeps passing zero.

    Or falls through a hundred decades.
    """
    c = np.sqrt(8 / np.pi)

    def v(u):
        return c * (u + 0.044715 * u**3)

    slope = {
        "erf": lambda u: 2 / np.sqrt(np.pi) * np.exp(-(u**2)),
        "sin": np.cos,
        "gelu_tanh": lambda u: (
            expit(v(u)) * (1 + u * expit(-v(u)) * c * (1 + 0.134145 * u**2))
        ),
        "gelu": lambda u: ndtr(u) + u * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi),
        "silu": lambda u: expit(u) * (1 + u * expit(-u)),
    }[phi]
    law = theory.jacobian_law(phi, 1, q, 1.0)
    z = np.linspace(-9, 9, 2_000_001)
    d = slope(np.sqrt(q) * z) ** 2
    weight = np.exp(-(z**2) / 2) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    for x in (1e-30, 1e-6, 1e-3, 0.1, 0.7, 1.1):
        assert law.cdf(x) == pytest.approx(weight[d <= x].sum(), abs=2e-5)
    if phi == "erf":  # far down its tail
        assert law.cdf(math.exp(-60.0)) == pytest.approx(
            math.erfc(math.sqrt((60 + math.log(4 / math.pi)) / 16)), rel=1e-6
        )


@pytest.mark.parametrize(
    ("low", "high", "q"),
    [(-1.0, 1.05, 1.0), (-3.0, 3.05, 1.0), (-0.5, 0.501, 1.0), (-100.0, 100.0, 1e4)],
)
def test_mass_at_zero_with_kinks_that_nobody_named(low, high, q):
    """All but even, or not to be seen at q of order one.

    The mass beyond the kinks all the same.
    """
    law = theory.jacobian_law(
        lambda x: jnp.clip(x, low, high), 2, q=[q, q], sigma_w=1.0
    )
    beyond = ndtr(low / math.sqrt(q)) + ndtr(-high / math.sqrt(q))
    assert law.atoms[0].lam == 0
    assert law.atoms[0].mass == pytest.approx(beyond, rel=1e-12)


def test_far_kinks_move_the_fixed_point():
    """Clipped at ±100 with sigma_w = 2 the variance grows until the clip holds it.

    The law is not that of linear.
    """
    q = theory.q_fixed_point(lambda x: jnp.clip(x, -100.0, 100.0), 2.0, 0.1).value
    law = theory.jacobian_law(
        lambda x: jnp.clip(x, -100.0, 100.0), 2, sigma_w=2.0, sigma_b=0.1
    )
    assert law.atoms[0].mass == pytest.approx(2 * ndtr(-100 / math.sqrt(q)), rel=1e-12)


@pytest.mark.parametrize("slope", [1e-8, 1e-3, 0.5, 1e6])
def test_two_atoms_have_no_density_however_far_apart(slope):
    law = theory.jacobian_law(lambda x: jnp.where(x > 0, x, slope * x), 1, q=1.0)
    mean = (1 + slope**2) / 2
    assert law.support == ()
    assert [a.lam for a in law.atoms] == pytest.approx(
        sorted([1 / mean, slope**2 / mean]), rel=1e-12
    )
    assert [a.mass for a in law.atoms] == pytest.approx([0.5, 0.5], rel=1e-12)
    low, high = (a.lam for a in law.atoms)
    between = [low * (1 + 1e-9), math.sqrt(low * high), high * (1 - 1e-9)]
    assert law.cdf(between) == pytest.approx([0.5] * 3, rel=1e-12)


@pytest.mark.parametrize("square", [0.25, 4.0])
def test_moments_of_the_bernoulli_class(square):
    """Lagrange inversion by hand: m_2 = 1 + σ0², m_3 = 1 + 2σ0² + 3σ0⁴/2."""
    law = theory.bernoulli_class(square)
    assert law.moment(2) == pytest.approx(1 + square, rel=1e-13)
    assert law.moment(3) == pytest.approx(1 + 2 * square + 1.5 * square**2, rel=1e-13)


def test_density_of_s_is_the_quarter_circle():
    s = np.linspace(0.1, 1.9, 19)
    density = theory.fuss_catalan(1).density(s, "s")
    np.testing.assert_allclose(density, np.sqrt(4 - s**2) / np.pi, rtol=1e-10)


def test_powers_of_log_s_are_over_the_part_off_zero():
    """One orthogonal ReLU layer: s is 0 or sigma_w, each with probability 1/2."""
    law = theory.jacobian_law("relu", 1, q=1.0, sigma_w=3.0)
    for k in (1, 2, 3):
        assert law.moment(k, "log_s") == pytest.approx(math.log(3) ** k, rel=1e-13)
