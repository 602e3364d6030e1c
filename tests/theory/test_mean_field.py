"""Mean field theory against mpmath, closed forms and tabulated critical points."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from isometry import InputError, activations, networks, theory


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
    assert theory.q_map(phi, q, point.sigma_w, point.sigma_b) == pytest.approx(q, rel=1e-12)


@pytest.mark.parametrize(("name", "square_w"), [("relu", 2), ("leaky_relu", 2 / (1 + 0.01**2)), ("linear", 1)])
@pytest.mark.parametrize("q", [1e-3, 1.0, 50.0])
def test_homogeneous(name, square_w, q):
    point = theory.critical_at(name, q)
    assert point.sigma_w**2 == pytest.approx(square_w, rel=1e-12)
    assert point.sigma_b**2 <= 1e-12 * q
    (only,) = theory.critical_points(name, 0.0)
    assert (only.q, only.sigma_b, only.stable) == (1.0, 0.0, True)
    assert only.sigma_w**2 == pytest.approx(square_w, rel=1e-12)


@pytest.mark.parametrize("q", [1 / 16, 1.0, 9.0])
def test_closed_forms(q):
    assert theory.expectation(lambda u: jax.nn.relu(u) ** 2, q, (0.0,)) == pytest.approx(q / 2, rel=1e-13)
    mean = math.sqrt(q / (2 * math.pi))
    assert theory.expectation(jax.nn.relu, q, (0.0,)) == pytest.approx(mean, rel=1e-13)
    want = 2 / math.pi * math.asin(math.pi * q / (2 + math.pi * q))
    assert theory.expectation(lambda u: stretched_erf(u) ** 2, q) == pytest.approx(want, rel=1e-12)
    assert theory.chi(stretched_erf, q, 1.3) == pytest.approx(1.69 / math.sqrt(1 + math.pi * q), rel=1e-12)
    p = math.erf(1 / math.sqrt(2 * q))
    want = q * (p - math.sqrt(2 / (math.pi * q)) * math.exp(-1 / (2 * q))) + 1 - p
    assert theory.q_map("hard_tanh", q, 1.0, 0.0) == pytest.approx(want, rel=1e-12)
    assert theory.chi("hard_tanh", q, 1.0) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize(
    ("g", "reference"),
    [
        (jnp.tanh, None),
        (lambda u: jnp.tanh(u) ** 2, lambda u: mpmath.tanh(u) ** 2),
        (lambda u: jax.nn.softplus(u), lambda u: mpmath.log(1 + mpmath.exp(u))),
        (lambda u: jax.nn.gelu(u, approximate=False) ** 2, lambda u: (u * mpmath.ncdf(u)) ** 2),
    ],
)
@pytest.mark.parametrize("q", [0.01, 2.5])
def test_expectation_against_mpmath(g, reference, q):
    def weighted(z):
        return reference(mpmath.sqrt(q) * z) * mpmath.npdf(z)

    want = 0.0 if reference is None else float(mpmath.quad(weighted, [-12, -4, 0, 4, 12]))
    assert theory.expectation(g, q) == pytest.approx(want, rel=1e-12, abs=1e-13)


def test_moments_and_a_point_mass():
    assert theory.expectation(lambda u: u**4, 2.0) == pytest.approx(12, rel=1e-13)
    assert theory.expectation(lambda u: np.asarray(u) ** 2) == pytest.approx(1, rel=1e-13)
    assert theory.expectation(lambda u: u + 3, 0.0) == pytest.approx(3, rel=1e-13)


def test_unnamed_kink():
    """E max(√q z − a, 0)² = (q + a²) Φ(−a/√q) − a √q φ(a/√q), and P(√q z > a) for the slope."""
    a, q = 0.3, 0.7
    t = a / math.sqrt(q)
    tail, bell = 0.5 * math.erfc(t / math.sqrt(2)), math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)

    def phi(x):
        return jnp.maximum(x - a, 0)

    want = (q + a**2) * tail - a * math.sqrt(q) * bell
    assert theory.q_map(phi, q, 1.0, 0.0) == pytest.approx(want, rel=1e-11)
    assert theory.chi(phi, q, 1.0) == pytest.approx(tail, rel=1e-11)


def test_tanh_at_the_usual_bias():
    (point,) = theory.critical_points("tanh", math.sqrt(0.05))
    assert point.sigma_w**2 == printed("1.7609546396")
    assert point.q == printed(".5700478816")
    assert point.sigma_b == math.sqrt(0.05)
    assert point.stable


def test_tanh_without_bias_is_the_edge_at_zero():
    (point,) = theory.critical_points("tanh", 0.0)
    assert (point.sigma_w, point.q, point.stable) == (pytest.approx(1, rel=1e-12), 0.0, True)


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


@pytest.mark.parametrize("sigma_b", [0.0, 0.2])
def test_softplus_has_none(sigma_b):
    assert theory.critical_points("softplus", sigma_b) == []


def test_relu_with_bias_has_none():
    assert theory.critical_points("relu", 0.1) == []


def test_no_critical_point_says_what_it_would_take():
    message = (
        r"critical_at\(\): softplus at q=1 has chi_1 = 1 only with sigma_b² = -[12]\.\d+ < 0\. theory\.critical_points"
    )
    with pytest.raises(theory.NoCriticalPoint, match=message):
        theory.critical_at("softplus", 1.0)
    with pytest.raises(theory.NoCriticalPoint, match=r"sigmoid at q=0\.025 .* sigma_b² = -4\.05"):
        theory.critical_at("sigmoid", 0.025)
    with pytest.raises(theory.NoCriticalPoint, match=r"is flat at q=1; chi_1 is 0"):
        theory.critical_at(jnp.ones_like, 1.0)
    assert issubclass(theory.NoCriticalPoint, InputError)


def test_inside_a_jitted_init():
    """Theory is evaluated on the host in float64 while JAX traces the caller in float32."""

    def draw(key):
        return networks.mlp([4, 8, 3], "gelu", "gaussian", sigma_b=0.3).init(key)

    key = jax.random.key(0)
    jitted, eager = jax.jit(draw)(key), draw(key)
    for a, b in zip(jax.tree.leaves(jitted), jax.tree.leaves(eager), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert not jax.config.jax_enable_x64

    @jax.jit
    def inside(x):
        return x * theory.chi(jax.nn.gelu, 1.0, 1.0)

    def outside():
        return theory.chi(jax.nn.gelu, 1.0, 1.0)

    assert float(inside(jnp.ones(()))) == np.float32(outside())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.critical_at("tanh", -1.0), r"critical_at\(\): q=-1\.0 is not a finite number in \[0, inf\)"),
        (lambda: theory.chi("tanh", math.nan, 1.0), r"chi\(\): q=nan is not a finite number"),
        (lambda: theory.q_map("tanh", 1.0, -1.0, 0.0), r"q_map\(\): sigma_w=-1\.0"),
        (lambda: theory.critical_points("tanh", math.inf), r"critical_points\(\): sigma_b=inf"),
        (lambda: theory.critical_points("tanhh", 0.0), r"activation='tanhh' is not known.*'tanh'"),
        (lambda: theory.expectation(lambda u: u[0], 1.0), r"it must be elementwise"),
        (
            lambda: theory.expectation(lambda u: jnp.exp(u**2), 1.0),
            r"E g\(√q z\) at q=1 is not finite; g grows too fast",
        ),
        (lambda: theory.expectation(lambda u: u * jnp.nan, 1.0), r"is not finite; g grows too fast or returns NaN"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_traced_q_is_refused():
    with pytest.raises(TypeError, match=r"expectation\(\): q is traced; expectation runs on the host"):
        jax.jit(lambda q: theory.expectation(jnp.tanh, q))(1.0)


def test_activation_record_and_name_agree():
    assert theory.chi(activations.tanh, 0.5, 1.2) == theory.chi("tanh", 0.5, 1.2)
