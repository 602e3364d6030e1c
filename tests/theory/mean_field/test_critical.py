"""The critical line against tabulated points, closed forms and mpmath."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from isometry import InputError, activations, theory


def stretched_erf(x):
    return jax.scipy.special.erf(math.sqrt(math.pi) / 2 * x)


# quadrature to 1e-12, independent of this package; digits as printed
CRITICAL = [
    ("tanh", 1 / 64, "1.03055751080", "4.65133e-6"),
    ("tanh", 0.025, "1.048281566", "1.812380e-5"),
    ("tanh", 1 / 16, "1.115380624", "2.368768e-4"),
    ("tanh", 0.25, "1.393961628", "8.125154e-3"),
    ("tanh", 0.5, "1.687975121", "3.804120e-2"),
    ("tanh", 1, "2.153302649", "1.509646e-1"),
    ("tanh", 1.5, "2.532481719", "3.140687e-1"),
    (stretched_erf, 1 / 16, "1.093777647", "1.670352e-4"),
    (stretched_erf, 0.25, "1.336187922", "6.846404e-3"),
    (stretched_erf, 1, "2.035090331", "1.483607e-1"),
    ("erf", 1, "1.756203683", "1.841397e-1"),
    ("hard_tanh", 1 / 16, "1.0000633465", "3.572856e-6"),
    ("hard_tanh", 0.25, "1.0476692263", "8.895448e-3"),
    ("hard_tanh", 0.5, "1.186660803", "5.963509e-2"),
    ("hard_tanh", 1, "1.4647947735", "2.440801e-1"),
    ("arctan", 0.25, "1.358894479", "5.957315e-3"),
    ("arctan", 1, "2.0000000000", "1.005982e-1"),
    ("softsign", 0.25, "2.653808963", "2.234084e-2"),
    ("elu", 1, "1.496777435", "3.466025e-2"),
    ("selu", 1, "0.9332058018", "6.679420e-2"),
    ("gelu", 1, "2.193699904", "6.719167e-2"),
    ("silu", 1, "2.635168660", "6.247150e-2"),
]


def printed(text):
    """Value, and 1e-8 of it or half a unit of its last digit, whichever is more."""
    mantissa, _, exponent = text.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.split(".")[1]))
    return pytest.approx(float(text), abs=max(0.5001 * unit, 1e-8 * float(text)))


@pytest.mark.parametrize(("phi", "q", "square_w", "square_b"), CRITICAL)
def test_critical_at_table(phi, q, square_w, square_b):
    point = theory.critical_at(phi, q)
    assert point.q == q
    assert point.sigma_w**2 == printed(square_w)
    assert point.sigma_b**2 == printed(square_b)
    assert theory.chi(phi, q, point.sigma_w) == pytest.approx(1, rel=1e-12)
    assert theory.q_map(phi, q, point.sigma_w, point.sigma_b) == pytest.approx(
        q, rel=1e-12
    )


@pytest.mark.parametrize(
    ("name", "square_w"),
    [("relu", 2), ("leaky_relu", 2 / (1 + 0.01**2)), ("linear", 1)],
)
@pytest.mark.parametrize("q", [1e-3, 1.0, 50.0])
def test_homogeneous(name, square_w, q):
    point = theory.critical_at(name, q)
    assert point.sigma_w**2 == pytest.approx(square_w, rel=1e-12)
    assert point.sigma_b**2 <= 1e-12 * q
    (only,) = theory.critical_points(name, 0.0)
    assert (only.q, only.sigma_b, only.stable) == (1.0, 0.0, True)
    assert only.sigma_w**2 == pytest.approx(square_w, rel=1e-12)


def test_tanh_at_the_usual_bias():
    (point,) = theory.critical_points("tanh", math.sqrt(0.05))
    assert point.sigma_w**2 == printed("1.7609546396")
    assert point.q == printed(".5700478816")
    assert point.sigma_b == math.sqrt(0.05)
    assert point.stable


def test_tanh_without_bias_is_the_edge_at_zero():
    (point,) = theory.critical_points("tanh", 0.0)
    assert (point.sigma_w, point.q, point.stable) == (
        pytest.approx(1, rel=1e-12),
        0.0,
        True,
    )


def test_gelu_without_bias_is_only_unstable():
    points = theory.critical_points("gelu", 0.0)
    assert points
    assert not any(point.stable for point in points)
    for point in points:
        # iterating from either side leaves q
        for start in (0.9, 1.1):
            q = max(point.q, 1e-3) * start
            moved = theory.q_map("gelu", q, point.sigma_w, 0.0)
            assert abs(moved - point.q) > abs(q - point.q) or moved > q


@pytest.mark.parametrize("size", [1e-3, 1e6])
def test_stability_at_zero_does_not_depend_on_the_scale(size):
    """V(q)/q = (e^{2q/size²} − 1) size²/(2q) rises from 1, however slowly.

    0 repels, as `q_fixed_points` says.
    """
    phi = activations.Activation(lambda x: size * jnp.sinh(x / size))
    (point,) = [p for p in theory.critical_points(phi, 0.0) if p.q == 0]
    assert (point.stable, theory.q_fixed_points(phi, 1.0, 0.0)[0].stable) == (
        False,
        False,
    )


@pytest.mark.parametrize("sigma_b", [0.0, 0.2])
def test_softplus_has_none(sigma_b):
    assert theory.critical_points("softplus", sigma_b) == []


def test_relu_with_bias_has_none():
    assert theory.critical_points("relu", 0.1) == []


def test_no_critical_point_says_what_it_would_take():
    message = r"critical_at\(\): softplus at q=1 has chi_1 = 1 only with sigma_b²"
    with pytest.raises(theory.NoCriticalPoint, match=message):
        theory.critical_at("softplus", 1.0)
    with pytest.raises(
        theory.NoCriticalPoint, match=r"sigmoid at q=0\.025 .* sigma_b² = -4\.05"
    ):
        theory.critical_at("sigmoid", 0.025)
    with pytest.raises(theory.NoCriticalPoint, match=r"is flat at q=1; chi_1 is 0"):
        theory.critical_at(jnp.ones_like, 1.0)
    assert issubclass(theory.NoCriticalPoint, InputError)


SPREADS = [  # mu_2/mu_1² − 1 at q, digits as printed
    ("tanh", 1 / 64, "0.00168937"),
    ("tanh", 0.25, "0.13697673"),
    ("tanh", 1.5, "0.82608209"),
    (stretched_erf, 0.25, "0.11352827"),
    ("hard_tanh", 0.25, "0.04766923"),
    ("arctan", 1, "0.43711969"),
    ("softsign", 0.25, "0.46408991"),
    ("elu", 1, "0.33168354"),
    ("selu", 1, "0.31619654"),
    ("gelu", 1, "1.08833404"),
    ("silu", 1, "0.99004816"),
]


@pytest.mark.parametrize(("phi", "q", "spread"), SPREADS)
def test_variance_coefficient_table(phi, q, spread):
    assert theory.variance_coefficient(phi, q) == pytest.approx(
        float(spread), abs=0.51e-8
    )


@pytest.mark.parametrize("q", [1e-6, 1e-3, 0.3, 1.0, 40.0])
def test_variance_coefficient_closed_forms(q):
    """erf: mu_k = (4/π)^k / √(1 + 4kq).

    Its spread is O(q²), so plain subtraction would leave 1e-4 of it at 1e-6.
    """
    x = mpmath.mpf(q)
    with mpmath.workdps(30):
        want = float((1 + 4 * x) / mpmath.sqrt(1 + 8 * x) - 1)
    assert theory.variance_coefficient("erf", q) == pytest.approx(want, rel=1e-9)
    assert theory.variance_coefficient("relu", q) == pytest.approx(1, rel=1e-13)
    a = 0.01
    assert theory.variance_coefficient("leaky_relu", q) == pytest.approx(
        2 * (1 + a**4) / (1 + a**2) ** 2 - 1, rel=1e-12
    )
    assert theory.variance_coefficient("linear", q) < 1e-30


def test_erf_is_two_thirds_at_one():
    assert theory.variance_coefficient("erf", 1.0) == pytest.approx(2 / 3, rel=1e-13)


@pytest.mark.parametrize("q", [1e-5, 1e-2, 2.0])
def test_critical_sigma_b_without_cancellation(q):
    """sigma_b² = q − E phi²/E phi'² is (4/3)q³ for small q.

    Compared at 40 digits with erf's closed forms.
    """
    with mpmath.workdps(40):
        x = mpmath.mpf(q)
        square = 2 / mpmath.pi * mpmath.asin(2 * x / (1 + 2 * x))
        slope = 4 / mpmath.pi / mpmath.sqrt(1 + 4 * x)
        sigma_w, sigma_b = (
            float(1 / mpmath.sqrt(slope)),
            float(mpmath.sqrt(x - square / slope)),
        )
    point = theory.critical_at("erf", q)
    assert point.sigma_w == pytest.approx(sigma_w, rel=1e-13)
    assert point.sigma_b == pytest.approx(sigma_b, rel=1e-9)
    (again,) = theory.critical_points("erf", sigma_b)
    assert again.sigma_w == pytest.approx(sigma_w, rel=1e-9)
    assert again.q == pytest.approx(q, rel=1e-8)


@pytest.mark.parametrize(
    ("name", "sigma_b"), [("gelu", 0.1), ("silu", 0.3), ("gelu", 1.0), ("sigmoid", 0.0)]
)
def test_chi_is_one_and_stability_is_what_iteration_does(name, sigma_b):
    """GELU and SiLU at small sigma_b.

    Critical only at a fixed point that iteration leaves; GELU at 1: a stable one.
    """
    points = theory.critical_points(name, sigma_b)
    assert points
    for p in points:
        assert theory.chi(name, p.q, p.sigma_w) == pytest.approx(1, rel=1e-12)
        assert theory.q_map(name, p.q, p.sigma_w, sigma_b) == pytest.approx(
            p.q, rel=1e-12
        )
        path = theory.q_trajectory(name, p.q * 1.001, p.sigma_w, sigma_b, 40)
        assert (abs(path[-1] - p.q) < abs(path[0] - p.q)) == p.stable
        assert p.stable == (name == "sigmoid" or sigma_b == 1.0)


def test_sigmoid_without_bias_is_critical_at_large_q():
    """phi(0) ≠ 0: even sigma_b = 0 has a critical point, at sigma_w near 10."""
    (point,) = theory.critical_points("sigmoid", 0.0)
    with mpmath.workdps(20):

        def sigmoid(u):
            return 1 / (1 + mpmath.exp(-u))

        def mean(f):
            root = mpmath.sqrt(point.q)
            panels = [x / root for x in (-60, -30, -10, -3, 0, 3, 10, 30, 60)]
            return mpmath.quad(lambda z: f(root * z) * mpmath.npdf(z), panels)

        square, slope = (
            mean(lambda u: sigmoid(u) ** 2),
            mean(lambda u: (sigmoid(u) * (1 - sigmoid(u))) ** 2),
        )
    assert point.sigma_w == pytest.approx(float(slope) ** -0.5, rel=1e-9)
    assert point.q == pytest.approx(float(square / slope), rel=1e-9)


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        ("softplus", "softplus has none for any sigma_b"),
        ("relu", "relu has them for sigma_b = 0 only"),
        ("tanh", "tanh has them for sigma_b from 0"),
        ("sigmoid", "sigmoid has them for sigma_b from 0"),
    ],
)
def test_range_in_words(phi, message):
    assert theory.sigma_b_range(phi) == message


def test_jump_has_no_critical_point():
    with pytest.raises(
        InputError, match=r"critical_at\(\): sign jumps at u=0, so E phi'² is infinite"
    ):
        theory.critical_at(jnp.sign, 1.0)
    with pytest.raises(
        InputError,
        match=r"critical_at\(\): ones_like is flat at q=1; chi_1 is 0 for every",
    ):
        theory.critical_at(jnp.ones_like, 1.0)
    assert theory.critical_points(jnp.ones_like, 1.0) == []


def test_limit_of_small_q():
    for name, sigma_w in (("tanh", 1.0), ("gelu", 2.0), ("relu", math.sqrt(2))):
        point = theory.critical_at(name, 0.0)
        assert (point.sigma_w, point.sigma_b) == (
            pytest.approx(sigma_w, rel=1e-13),
            0.0,
        )
    assert (
        theory.critical_points(lambda x: x**3, 0.0) == []
    )  # phi'(0) = 0: nothing is critical at zero
    (point,) = theory.critical_points(
        lambda x: x**2, 0.1
    )  # q − 3q²/4q = sigma_b², sigma_w² = 1/4q
    assert (point.q, point.sigma_w) == (
        pytest.approx(0.04, rel=1e-10),
        pytest.approx(2.5, rel=1e-10),
    )


def test_parametric_activation():
    """The critical sigma_w of tanh(a x) is that of tanh over a, at q/a²."""
    a = 1.7
    plain = theory.critical_at("tanh", 0.5)
    scaled = theory.critical_at(
        activations.Activation(lambda x: jnp.tanh(a * x)), 0.5 / a**2
    )
    assert scaled.sigma_w == pytest.approx(plain.sigma_w / a, rel=1e-12)
    assert np.isclose(scaled.sigma_b * a, plain.sigma_b, rtol=1e-10, atol=0)
