"""The maps of variance: closed forms, refusals, and where they are called from."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from isometry import InputError, activations, networks, theory


def stretched_erf(x):
    return jax.scipy.special.erf(math.sqrt(math.pi) / 2 * x)


@pytest.mark.parametrize("q", [1 / 16, 1.0, 9.0])
def test_closed_forms(q):
    assert theory.expectation(
        lambda u: jax.nn.relu(u) ** 2, q, (0.0,)
    ) == pytest.approx(q / 2, rel=1e-13)
    mean = math.sqrt(q / (2 * math.pi))
    assert theory.expectation(jax.nn.relu, q, (0.0,)) == pytest.approx(mean, rel=1e-13)
    want = 2 / math.pi * math.asin(math.pi * q / (2 + math.pi * q))
    assert theory.expectation(lambda u: stretched_erf(u) ** 2, q) == pytest.approx(
        want, rel=1e-12
    )
    assert theory.chi(stretched_erf, q, 1.3) == pytest.approx(
        1.69 / math.sqrt(1 + math.pi * q), rel=1e-12
    )
    p = math.erf(1 / math.sqrt(2 * q))
    want = q * (p - math.sqrt(2 / (math.pi * q)) * math.exp(-1 / (2 * q))) + 1 - p
    assert theory.q_map("hard_tanh", q, 1.0, 0.0) == pytest.approx(want, rel=1e-12)
    assert theory.chi("hard_tanh", q, 1.0) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize("q", [1e-320, 1e-308, 1e-300, 1e-291, 1e-290, 1e-200])
def test_the_smallest_variances_are_mapped_as_they_are(q):
    """Near zero tanh u = u, erf u = 2u/√π and relu keeps half of E u².

    Below 2.2e-308 float64 has few digits left.
    """
    resolved = 1e-13 * q + 5e-324
    assert abs(theory.q_map("tanh", q, 1.0, 0.0) - q) <= resolved
    assert abs(theory.q_map("erf", q, 1.0, 0.0) - 4 / math.pi * q) <= resolved
    assert abs(theory.q_map("relu", q, 1.0, 0.0) - q / 2) <= resolved
    assert theory.q_map(lambda u: 3.0 + 0 * u, q, 1.0, 0.0) == pytest.approx(
        9, rel=1e-13
    )
    assert theory.chi("tanh", q, 1.0) == pytest.approx(1, rel=1e-13)


def test_a_variance_that_halves_underflows_to_zero():
    """relu at sigma_w = 1.

    Q_l = 2^-l, of which float64 holds 2^-1074 and rounds 2^-1075 to zero.
    """
    found = theory.q_trajectory("relu", 0.5**1000, 1.0, 0.0, 100)
    layers = 1000 + np.arange(101)
    normal = layers <= 1022
    expected = 0.5 ** layers[normal].astype(float)
    np.testing.assert_allclose(found[normal], expected, rtol=22 * 1e-15)
    np.testing.assert_allclose(
        found[~normal], 0.5 ** layers[~normal].astype(float), rtol=1e-10, atol=5e-324
    )
    assert found[70] > 0
    assert (found[76:] == 0).all()


@pytest.mark.parametrize("c", [-1.0, 0.0, 0.6, 1.0])
def test_the_correlation_map_of_the_smallest_variances(c):
    """relu: E phi phi = q (√(1 − c²) + c (π − arccos c))/2π (Cho and Saul, 2009).

    A bias of its size counts.
    """
    q, sigma_b = 1e-300, 1e-150
    cross = (math.sqrt(1 - c**2) + c * (math.pi - math.acos(c))) / (2 * math.pi)
    assert theory.c_map("relu", c, q, 1.0, 0.0) == pytest.approx(2 * cross, abs=1e-13)
    expected = (cross * q + sigma_b**2) / (q / 2 + sigma_b**2)
    assert theory.c_map("relu", c, q, 1.0, sigma_b) == pytest.approx(
        expected, abs=1e-13
    )
    assert theory.c_map("relu", c, 1e-320, 1.0, 0.1) == 1


@pytest.mark.parametrize("sigma_b", [0.0, 0.3])
def test_the_correlation_map_of_exp(sigma_b):
    """E exp(u1) exp(u2) = exp(q (1 + c)), to the 1e-13 that is promised."""
    for q in (0.01, 1.0, 2.0, 8.0):
        for c in (-1.0, -0.5, 0.0, 0.5, 0.9, 0.999):
            expected = (math.exp(q * (1 + c)) + sigma_b**2) / (
                math.exp(2 * q) + sigma_b**2
            )
            assert theory.c_map(jnp.exp, c, q, 1.0, sigma_b) == pytest.approx(
                expected, rel=1e-13
            )


def test_unnamed_kink():
    """E max(√q z − a, 0)² = (q + a²) Φ(−a/√q) − a √q φ(a/√q).

    P(√q z > a) for the slope.
    """
    a, q = 0.3, 0.7
    t = a / math.sqrt(q)
    tail, bell = (
        0.5 * math.erfc(t / math.sqrt(2)),
        math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi),
    )

    def phi(x):
        return jnp.maximum(x - a, 0)

    want = (q + a**2) * tail - a * math.sqrt(q) * bell
    assert theory.q_map(phi, q, 1.0, 0.0) == pytest.approx(want, rel=1e-11)
    assert theory.chi(phi, q, 1.0) == pytest.approx(tail, rel=1e-11)


def test_inside_a_jitted_init():
    """Theory is float64 on the host while JAX traces the caller in float32."""

    def draw(key):
        return networks.mlp([4, 8, 3], "gelu", "gaussian", sigma_b=0.3).init(key)

    drawn = jax.eval_shape(jax.jit(draw), jax.random.key(0))
    assert {a.dtype for a in jax.tree.leaves(drawn)} == {jnp.dtype(jnp.float32)}
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
        (
            lambda: theory.critical_at("tanh", -1.0),
            r"critical_at\(\): q=-1\.0 is not a finite number in \[0, inf\)",
        ),
        (
            lambda: theory.chi("tanh", math.nan, 1.0),
            r"chi\(\): q=nan is not a finite number",
        ),
        (lambda: theory.q_map("tanh", 1.0, -1.0, 0.0), r"q_map\(\): sigma_w=-1\.0"),
        (
            lambda: theory.critical_points("tanh", math.inf),
            r"critical_points\(\): sigma_b=inf",
        ),
        (
            lambda: theory.critical_points("tanhh", 0.0),
            r"activation='tanhh' is not known.*'tanh'",
        ),
        (
            lambda: theory.expectation(lambda u: u[0], 1.0),
            r"expectation\(\): g maps shape \(.*\) to \(20,\); it must be",
        ),
        (
            lambda: theory.variance_coefficient(jnp.ones_like, 1.0),
            r"variance_coefficient\(\): ones_like is flat at q=1; mu_2/mu_1² does not",
        ),
        (
            lambda: theory.expectation(lambda u: jnp.exp(u**2), 1.0),
            r"E g\(√q z\) at q=1 is not finite; g grows too fast",
        ),
        (  # it exists, 50^½, but z² weighs 0.01
            lambda: theory.expectation(lambda u: jnp.exp(0.49 * u**2), 1.0),
            r"E g\(√q z\) at q=1 has its mass beyond \|z\| = \d+; g grows too fast",
        ),
        (
            lambda: theory.expectation(lambda u: u * jnp.nan, 1.0),
            r"is not finite; g grows too fast or returns NaN",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_traced_q_is_refused():
    with pytest.raises(
        TypeError, match=r"expectation\(\): q is traced; this function runs on the host"
    ):
        jax.jit(lambda q: theory.expectation(jnp.tanh, q))(1.0)


def test_activation_record_and_name_agree():
    assert theory.chi(activations.tanh, 0.5, 1.2) == theory.chi("tanh", 0.5, 1.2)


def mp_gelu_tanh(u):
    return (
        u
        / 2
        * (
            1
            + mpmath.tanh(
                mpmath.sqrt(2 / mpmath.pi) * (u + mpmath.mpf(0.044715) * u**3)
            )
        )
    )


def mp_selu(u):
    scale, alpha = (
        mpmath.mpf("1.0507009873554804934193349852946"),
        mpmath.mpf("1.6732632423543772848170429916717"),
    )
    return scale * (u if u > 0 else alpha * mpmath.expm1(u))


BY_HAND = {  # each written anew, the slope by mpmath's own differentiation
    "linear": lambda u: u,
    "relu": lambda u: max(u, 0),
    "leaky_relu": lambda u: u if u > 0 else mpmath.mpf(0.01) * u,
    "elu": lambda u: u if u > 0 else mpmath.expm1(u),
    "selu": mp_selu,
    "gelu": lambda u: u * mpmath.ncdf(u),
    "gelu_tanh": mp_gelu_tanh,
    "silu": lambda u: u / (1 + mpmath.exp(-u)),
    "softplus": lambda u: mpmath.log1p(mpmath.exp(u)),
    "sigmoid": lambda u: 1 / (1 + mpmath.exp(-u)),
    "tanh": mpmath.tanh,
    "hard_tanh": lambda u: min(max(u, -1), 1),
    "erf": mpmath.erf,
    "arctan": mpmath.atan,
    "softsign": lambda u: u / (1 + abs(u)),
    "sin": mpmath.sin,
    "shifted_relu": lambda u: max(u, -1),
    "squareplus": lambda u: (u + mpmath.sqrt(u * u + 4)) / 2,
}


def test_every_name_is_written_by_hand():
    assert set(BY_HAND) == set(activations.names())


@pytest.mark.parametrize("name", activations.names())
def test_against_mpmath(name):
    """V and chi_1 of every named activation at 30 digits.

    The package's claim is 1e-14 relative.
    """
    q, phi = 1.7, BY_HAND[name]
    with mpmath.workdps(30):
        root = mpmath.sqrt(mpmath.mpf(q))
        cuts = sorted(
            {
                -12,
                -6,
                -3,
                -1,
                0,
                1,
                3,
                6,
                12,
                *(k / root for k in activations.get(name).kinks),
            }
        )

        def mean(f):
            return float(
                mpmath.quad(lambda z: f(root * z) * mpmath.npdf(z), cuts, maxdegree=5)
            )

        square = mean(lambda u: phi(u) ** 2)
        slope = mean(lambda u: mpmath.diff(phi, u, h=mpmath.mpf(10) ** -14) ** 2)
    assert theory.q_map(name, q, 1.0, 0.0) == pytest.approx(square, rel=1e-14)
    assert theory.chi(name, q, 1.0) == pytest.approx(slope, rel=1e-13)


def test_monte_carlo():
    """4 standard errors of a million draws, with numpy's own functions."""
    u = math.sqrt(0.8) * np.random.default_rng(1).normal(size=1_000_000)
    squares = (u / (1 + np.exp(-u))) ** 2
    assert (
        abs(theory.q_map("silu", 0.8, 1.0, 0.0) - squares.mean())
        < 4 * squares.std() / 1000
    )
    slopes = 1 / (1 + np.abs(u)) ** 4
    assert (
        abs(theory.chi("softsign", 0.8, 1.0) - slopes.mean()) < 4 * slopes.std() / 1000
    )


@pytest.mark.parametrize(("clip", "q"), [(1e5, 1e10), (3e6, 1e12), (1e6, 1e12)])
def test_kinks_far_out_are_found(clip, q):
    """E phi'² = erf(clip/√(2q)) of phi clipped at ±clip.

    At variances that the search for fixed points goes to.
    """
    found = theory.chi(lambda x: jnp.clip(x, -clip, clip), q, 1.0)
    assert found == pytest.approx(math.erf(clip / math.sqrt(2 * q)), rel=1e-13)


def test_a_slow_activation_at_the_largest_variance():
    """tanh(x/10⁴) is linear up to 10⁴: scaling q by 10⁻⁸ gives the same."""
    slow, plain = (
        theory.q_map(lambda x: jnp.tanh(1e-4 * x), 1e12, 1.0, 0.0),
        theory.q_map("tanh", 1e4, 1.0, 0.0),
    )
    assert slow == pytest.approx(plain, rel=1e-12)


def test_an_activation_that_closes_over_a_tracer_is_refused():
    message = r"chi\(\): what <lambda> closes over is traced; this function runs"
    with pytest.raises(TypeError, match=message):
        jax.jit(lambda s: theory.chi(lambda x: jnp.tanh(s * x), 1.0, 1.0))(2.0)


def test_numbers_of_jax_are_numbers():
    one, half = jnp.int32(3), jnp.float32(0.5)
    assert theory.c_map("tanh", half, 0.5, 1.5, 0.25) == theory.c_map(
        "tanh", 0.5, 0.5, 1.5, 0.25
    )
    law = theory.fuss_catalan(one)
    assert law.moment(one, "s") == theory.fuss_catalan(3).moment(3, "s")
    assert law.moment(half) == law.moment(0.5)
    assert law.finite_width(jnp.int32(64)) == law.finite_width(64)
    assert (
        theory.jacobian_law("tanh", one, q=half).support
        == theory.jacobian_law("tanh", 3, q=0.5).support
    )
