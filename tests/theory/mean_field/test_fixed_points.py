"""Fixed points and depth scales.

The published slice, closed forms at 30 digits, and iteration itself.
"""

import math

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from isometry import InputError, theory

# Schoenholz et al. (2017): tanh at sigma_b² = 0.05. sigma_w², q*, chi_1, xi_q, c*,
# xi_c; digits as printed
SLICE = [
    (0.5, 0.08757987, 0.43198738, 1.008853, 1, 1.191385),
    (1.0, 0.19359252, 0.75903165, 1.747626, 1, 3.626976),
    (1.3, 0.31531648, 0.88016351, 1.785237, 1, 7.834069),
    (1.5, 0.41803720, 0.93863627, 1.682828, 1, 15.790994),
    (1.7, 0.53307563, 0.98674081, 1.558254, 1, 74.918271),
    (1.8, 0.59413217, 1.00822314, 1.497884, 0.95041055, 125.7841),
    (2.0, 0.72176187, 1.04766600, 1.387976, 0.74408242, 25.213415),
    (2.5, 1.06395838, 1.13351570, 1.179873, 0.44680423, 11.795598),
    (3.0, 1.42800846, 1.20893442, 1.041461, 0.29931764, 9.051456),
    (4.0, 2.19549393, 1.34240241, 0.873293, 0.16506496, 6.9802735),
]


@pytest.mark.parametrize(("square_w", "q", "chi", "xi_q", "c", "xi_c"), SLICE)
def test_slice(square_w, q, chi, xi_q, c, xi_c):
    sigma_w, sigma_b = math.sqrt(square_w), math.sqrt(0.05)
    point = theory.q_fixed_point("tanh", sigma_w, sigma_b)
    scales = theory.depth_scales("tanh", sigma_w, sigma_b)
    assert point.value == pytest.approx(q, abs=1e-8)
    assert theory.chi("tanh", point.value, sigma_w) == pytest.approx(chi, abs=1e-8)
    assert theory.c_fixed_point("tanh", sigma_w, sigma_b).value == pytest.approx(
        c, abs=1e-8
    )
    assert scales.xi_q == pytest.approx(xi_q, abs=1e-6)
    assert scales.xi_c == pytest.approx(xi_c, rel=5e-7 if xi_c < 2 else 1.2e-7)
    assert scales.xi_grad == pytest.approx(1 / abs(math.log(chi)), rel=1e-6)
    assert 0 < scales.error < 1e-9 * max(scales.xi_q, scales.xi_c, scales.xi_grad)


def erf_fixed_points(square_w, square_b):
    """q*, V', c*, 1 − c*, C'(c*) of erf at 40 digits, from the arcsine law."""

    def arcsine(x):
        return square_w * 2 / mpmath.pi * mpmath.asin(x) + square_b

    q = mpmath.findroot(lambda q: arcsine(2 * q / (1 + 2 * q)) - q, 1.0)
    slope = mpmath.diff(lambda q: arcsine(2 * q / (1 + 2 * q)), q)
    k = 2 * q / (1 + 2 * q)
    # (C − 1)/(c − 1) − 1 in t = ln(1 − c)
    excess = lambda t: (1 - arcsine(k * (1 - mpmath.exp(t))) / q) / mpmath.exp(t) - 1  # noqa: E731
    t = mpmath.findroot(
        excess, (mpmath.mpf(-40), mpmath.mpf(0)), solver="anderson", tol=1e-30
    )
    gap = mpmath.exp(t)
    c_slope = square_w * 2 / mpmath.pi / q * k / mpmath.sqrt(1 - (k * (1 - gap)) ** 2)
    return tuple(float(x) for x in (q, slope, gap, c_slope))


@pytest.mark.parametrize("square_w", [4.0, 1.6, 1.450001])
def test_erf_at_forty_digits(square_w):
    """Down to 1 − c* ~ 1e-5.

    Forward errors stay within what is reported, and that within 1e-9/|1 − slope|.
    """
    square_b = 0.05
    with mpmath.workdps(40):
        q, slope, gap, c_slope = erf_fixed_points(
            mpmath.mpf(math.sqrt(square_w)) ** 2, mpmath.mpf(math.sqrt(0.05)) ** 2
        )
    sigma_w, sigma_b = math.sqrt(square_w), math.sqrt(square_b)
    point, c = (
        theory.q_fixed_point("erf", sigma_w, sigma_b),
        theory.c_fixed_point("erf", sigma_w, sigma_b),
    )
    assert abs(point.value - q) <= point.error + 4e-16 * q
    assert point.error < 1e-9 / abs(1 - slope)
    assert point.slope == pytest.approx(slope, rel=1e-12)
    assert abs(c.gap - gap) <= 1e-9 * gap / (1 - c_slope)
    assert c.slope == pytest.approx(c_slope, rel=1e-10)
    assert theory.depth_scales("erf", sigma_w, sigma_b).xi_c == pytest.approx(
        -1 / math.log(c_slope), rel=1e-9 / (1 - c_slope)
    )


@pytest.mark.parametrize(
    "name",
    ["tanh", "hard_tanh", "gelu", "sigmoid", "elu", "sin", "softplus", "squareplus"],
)
@pytest.mark.parametrize(("sigma_w", "sigma_b"), [(0.9, 0.0), (1.1, 0.2), (1.5, 0.1)])
def test_residuals_and_stability_by_iteration(name, sigma_w, sigma_b):
    for p in theory.q_fixed_points(name, sigma_w, sigma_b):
        assert theory.q_map(name, p.value, sigma_w, sigma_b) == pytest.approx(
            p.value, rel=1e-12, abs=1e-300
        )
        if p.value == 0 or abs(p.slope - 1) < 1e-3:
            continue
        path = (
            theory.q_trajectory(name, p.value * 1.0001, sigma_w, sigma_b, 3) - p.value
        )
        assert (abs(path[-1]) < abs(path[0])) == p.stable
        assert path[1] / path[0] == pytest.approx(p.slope, rel=2e-3, abs=1e-6)


def test_gelu_has_two_one_unstable_or_none():
    low, high = theory.q_fixed_points("gelu", 1.5, 0.1)
    assert (low.stable, high.stable) == (True, False)
    assert low.slope < 1 < high.slope
    assert (
        theory.q_fixed_point("gelu", 1.5, 0.1) == low
    )  # 1 lies below the unstable one
    assert theory.q_fixed_points("gelu", 1.5, 0.3) == []
    with pytest.raises(
        theory.NoFixedPoint,
        match=r"the variance of every layer exceeds the last.* A smaller sigma_w",
    ):
        theory.q_fixed_point("gelu", 1.5, 0.3)
    with pytest.raises(
        theory.NoFixedPoint,
        match=r"the fixed point at q=0\.05465\d+ is not reached from 1",
    ):
        theory.q_fixed_point("gelu", 1.7270782753, 0.1)


def test_two_fixed_points_closer_than_the_grid():
    """Just below the fold of GELU two roots lie within a thousandth.

    Just above there is none. Bisection finds the fold at 1.52270072056.
    """
    sigma_b = 0.25
    assert theory.q_fixed_points("gelu", 1.5227007206, sigma_b) == []
    a, b = theory.q_fixed_points("gelu", 1.5227007205, sigma_b)
    assert 0 < b.value - a.value < 1e-3 * a.value
    assert a.slope < 1 < b.slope
    # at the fold V = q and V' = 1 together; off by δ in sigma_w the roots part as √δ
    assert a.slope == pytest.approx(1, abs=1e-3)


def test_homogeneous():
    (only,) = theory.q_fixed_points("relu", math.sqrt(2), 0.0)
    assert (only.value, only.slope, only.stable) == (1.0, 1.0, True)
    assert theory.q_fixed_point("linear", 1.0, 0.0).value == 1.0
    scales = theory.depth_scales("relu", math.sqrt(2), 0.0)
    assert (scales.xi_q, scales.xi_c, scales.xi_grad) == (math.inf, math.inf, math.inf)
    assert theory.q_fixed_points("relu", 1.5, 0.1) == []
    # q = sigma_b²/(1 − sigma_w²/2), as far as 1e9
    for short in (0.3, 1e-4, 1e-9):
        sigma_w = math.sqrt(2 * (1 - short))
        (point,) = theory.q_fixed_points("relu", sigma_w, 1.0)
        assert abs(point.value * (1 - sigma_w**2 / 2) - 1) < 1e-15 / short + 1e-12


def test_zero_is_a_fixed_point_where_nothing_drives():
    (point,) = theory.q_fixed_points("tanh", 0.9, 0.0)
    assert (point.value, point.stable) == (0.0, True)
    assert point.slope == pytest.approx(0.81, rel=1e-14)
    zero, other = theory.q_fixed_points("tanh", 1.2, 0.0)
    assert (zero.value, zero.stable, other.stable) == (0.0, False, True)
    assert theory.q_fixed_points("tanh", 1.0, 0.0)[
        0
    ].stable  # neutral, shrinks at the next order
    assert not theory.q_fixed_points("gelu", 2.0, 0.0)[0].stable  # neutral, grows
    (tiny,) = theory.q_fixed_points("tanh", 0.5, 1e-20)
    assert tiny.value == pytest.approx(1e-40 / 0.75, rel=1e-12)


def test_correlation_near_one():
    """chi_1 = 1 + δ with a kink.

    1 − c* ~ δ², from the arc-cosine law 1 − C = chi ε − (2√2/3π) sigma_w² ε^{3/2} + …
    """
    sigma_b = 0.1
    (critical,) = [p for p in theory.critical_points("hard_tanh", sigma_b) if p.stable]
    gaps = []
    for excess in (1e-2, 1e-3, 1e-4):
        point = theory.c_fixed_point(
            "hard_tanh", critical.sigma_w * (1 + excess), sigma_b
        )
        assert point.slope < 1
        assert 0 < point.gap < 1
        q = theory.q_fixed_point(
            "hard_tanh", critical.sigma_w * (1 + excess), sigma_b
        ).value
        c = theory.c_map(
            "hard_tanh", point.value, q, critical.sigma_w * (1 + excess), sigma_b
        )
        assert c == pytest.approx(point.value, abs=1e-12)
        gaps.append(point.gap)
    assert gaps[1] / gaps[2] == pytest.approx(100, rel=0.05)
    below = theory.c_fixed_point("hard_tanh", critical.sigma_w * (1 - 1e-6), sigma_b)
    assert (below.value, below.gap) == (1.0, 0.0)


def test_odd_without_bias_decorrelates():
    point = theory.c_fixed_point("tanh", 1.5, 0.0)
    assert (point.value, point.gap, point.stable) == (0.0, 1.0, True)
    assert 0 < point.slope < 1


def test_iterating_the_correlation_map_gives_xi_c():
    sigma_w, sigma_b = 1.6, 0.2
    q, point = (
        theory.q_fixed_point("elu", 1.3, sigma_b).value,
        theory.c_fixed_point("tanh", sigma_w, sigma_b),
    )
    q = theory.q_fixed_point("tanh", sigma_w, sigma_b).value
    start = point.value + 1e-5
    moved = theory.c_map("tanh", start, q, sigma_w, sigma_b) - point.value
    xi_c = theory.depth_scales("tanh", sigma_w, sigma_b).xi_c
    assert moved / 1e-5 == pytest.approx(math.exp(-1 / xi_c), rel=1e-4)


def test_falling_variance_map_is_iterated():
    """cos: E phi² = (1 + e^{−2q})/2 falls with q.

    So the sign of V(1) − 1 decides nothing.
    """
    sigma_w, sigma_b = 1.5, 0.1
    point = theory.q_fixed_point(jnp.cos, sigma_w, sigma_b)
    want = mpmath.findroot(
        lambda q: sigma_w**2 * (1 + mpmath.exp(-2 * q)) / 2 + sigma_b**2 - q, 1.2
    )
    assert point.value == pytest.approx(float(want), rel=1e-12)
    assert point.slope < 0


def test_flat_activation():
    scales = theory.depth_scales(jnp.ones_like, 1.0, 1.0)
    assert (scales.xi_q, scales.xi_c, scales.xi_grad) == (0.0, 0.0, 0.0)
    with pytest.raises(theory.NoFixedPoint, match="nothing to correlate"):
        theory.c_fixed_point(jnp.zeros_like, 1.0, 0.0)


def test_trajectory():
    dying = theory.q_trajectory("relu", 1e-200, 1.0, 0.0, 100)[-1]
    assert dying == pytest.approx(1e-200 * 0.5**100, rel=1e-12)
    path = theory.q_trajectory("relu", 1.0, 1.0, 0.0, 5)
    np.testing.assert_allclose(path, 0.5 ** np.arange(6), rtol=1e-13)
    growing = theory.q_trajectory("relu", 1e270, 1e3, 0.0, 20)
    assert np.isinf(growing[-1])
    assert not np.isnan(growing).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.q_trajectory("tanh", 1.0, 1.0, 0.0, 0),
            r"q_trajectory\(\): depth=0 must be .* between 1 and 1000000",
        ),
        (lambda: theory.q_trajectory("tanh", -1.0, 1.0, 0.0, 2), r"q0=-1\.0"),
        (
            lambda: theory.q_fixed_points("tanh", 0.0, 0.1),
            r"sigma_w=0\.0 is not a finite number in \(0, 1e\+100\]",
        ),
        (
            lambda: theory.q_fixed_point("tanh", math.nan, 0.1),
            r"q_fixed_point\(\): sigma_w=nan",
        ),
        (
            lambda: theory.c_fixed_point("tanh", 1.0, -0.1),
            r"c_fixed_point\(\): sigma_b=-0\.1",
        ),
        (
            lambda: theory.depth_scales("tanhh", 1.0, 0.1),
            r"activation='tanhh' is not known",
        ),
        (
            lambda: theory.depth_scales("relu", 1.5, 0.1),
            r"depth_scales\(\): relu with sigma_w=1\.5, sigma_b=0\.1",
        ),
        (lambda: theory.depth_scales(jnp.sign, 1.5, 0.1), r"sign jumps at u=0"),
        (  # V falls, then grows as 2.25 q
            lambda: theory.q_fixed_point(lambda x: x + 3 * jnp.exp(-(x**2)), 1.5, 0.1),
            r"iterating the variance map from q=1 does not settle; it stands at",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_where_a_variance_leaves_float64_there_is_no_fixed_point():
    # V(q) = 1e-90 e^(2q) + 1/4, whose expectation overflows from q = 87 on: a jump, and
    # no
    # root. The root of 1e-90 e^(2q) = q - 1/4 is at 106, out of reach.
    (point,) = theory.q_fixed_points(jnp.exp, 1e-45, 0.5)
    assert point.value == pytest.approx(0.25, rel=1e-12)
    assert point.stable


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        # E exp(2 rate q z²) diverges from 4 rate q = 1 on; the grid has 16 q a decade.
        (1 / 8, r"from q=1 to q=2\.\d+, where E phi² diverges"),
        (1 / 3, r"q=1 is beyond q=0\.7\d*, where E phi² diverges"),
    ],
)
def test_the_variance_where_phi_has_no_second_moment_is_named(rate, words):
    with pytest.raises(theory.NoFixedPoint, match=words):
        theory.q_fixed_point(lambda u: jnp.exp(rate * u**2), 1.0, 0.1)
