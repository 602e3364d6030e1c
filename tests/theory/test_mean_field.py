"""The maps of variance: closed forms, refusals, and where they are called from."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, activations, networks, theory


def stretched_erf(x):
    return jax.scipy.special.erf(math.sqrt(math.pi) / 2 * x)


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
