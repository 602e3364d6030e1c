"""Kinks and jumps that nobody named: found, located to the last digits, or refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, theory
from isometry.activations import Activation
from isometry.theory.mean_field._pieces import pieces

THIRD = 1 / 3
FOUND = {
    "relu6": (lambda x: jnp.clip(x, 0, 6), (0, 6), ()),
    "at_octaves": (lambda x: jnp.clip(x, -1, 1) + jnp.abs(x - 2), (-1, 1, 2), ()),
    "product": (lambda x: jnp.abs(x - 0.3) * jnp.tanh(x), (0.3,), ()),
    "near_zero": (lambda x: jnp.maximum(x - 1e-5, 0), (1e-5,), ()),
    "weak": (lambda x: jnp.tanh(x) + 1e-4 * jnp.abs(x - 0.7), (0.7,), ()),
    "narrow": (lambda x: jnp.clip(x, 0.5, 0.501), (0.5, 0.501), ()),
    "hard_swish": (lambda x: x * jnp.clip(x + 3, 0, 6) / 6, (-3, 3), ()),
    "jump": (lambda x: jnp.where(x > THIRD, x, jnp.sin(x)), (THIRD,), (THIRD,)),
    "cubic_step": (lambda x: jnp.where(x < -2.3, 0.0, x**3), (-2.3,), (-2.3,)),
    "sign": (jnp.sign, (0,), (0,)),
    "smooth": (lambda x: jnp.tanh(100 * x) + jnp.cos(5 * x), (), ()),
}


@pytest.mark.parametrize("name", FOUND)
def test_found(name):
    fn, kinks, jumps = FOUND[name]
    found = pieces(Activation(fn, name=name), 3)
    np.testing.assert_allclose(found.kinks, kinks, rtol=4e-16, atol=0)
    np.testing.assert_allclose(found.jumps, jumps, rtol=4e-16, atol=0)


def test_a_missing_name_is_made_up_for():
    """Kinks named in part, or wrongly, cost nothing."""
    full = theory.chi(Activation(FOUND["relu6"][0], kinks=(0.0, 6.0)), 4.0, 1.0)
    for kinks in ((), (0.0,), (1.234,)):
        assert theory.chi(
            Activation(FOUND["relu6"][0], kinks=kinks), 4.0, 1.0
        ) == pytest.approx(full, rel=1e-14)
    p = 0.5 * math.erf(6 / math.sqrt(8))
    assert full == pytest.approx(p, rel=1e-13)


def test_steeper_than_the_samples():
    """E tanh'(a u)² → (4/3) a/√(2πq), up to 1/a²: a spike 1e-5 wide."""
    a = 1e5
    assert theory.chi(lambda x: jnp.tanh(a * x) / a, 1.0, a) == pytest.approx(
        4 / 3 * a / math.sqrt(2 * math.pi), rel=1e-9
    )


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (jnp.cbrt, r"not resolved in float64 .* unbounded slope"),
        (
            lambda x: jnp.tanh(x.astype(jnp.float32)).astype(x.dtype),
            r"computes in a lower precision",
        ),
        (lambda x: jnp.exp(x**2), r"cannot be integrated at q=1: .*grows too fast"),
        (lambda x: jnp.sqrt(x), r"phi of <lambda> is NaN at u=-"),
        (
            jax.nn.softmax,
            r"softmax at a point changes with the other entries; it must be",
        ),
        (lambda x: jnp.cumsum(x) / 64, r"it must be elementwise"),
        (jnp.sort, r"sort at a point changes with the other entries"),
        (lambda x: x[:3], r"maps shape .* it must be elementwise, real\."),
        (lambda x: x if x > 0 else 0.0, r"jnp\.where instead of if"),
        (np.tanh, r"fn=tanh is a NumPy ufunc, which JAX cannot trace; write jnp\.tanh"),
        (lambda x: np.tanh(np.asarray(x)), r"written with jnp"),
    ],
)
def test_refused(fn, message):
    with pytest.raises(InputError, match=message):
        theory.q_map(fn, 1.0, 1.0, 0.0)


def test_endless_kinks_are_refused_where_there_are_too_many():
    assert theory.q_map(jnp.round, 1.0, 1.0, 0.0) == pytest.approx(
        _rounded_square(), rel=1e-13
    )
    with pytest.raises(InputError, match=r"has too many kinks; q is at most \d"):
        theory.q_map(jnp.round, 1e4, 1.0, 0.0)


def _rounded_square():
    """E round(z)² = 2 Σ_k (2k − 1) P(z > k − 1/2)."""
    return sum((2 * k - 1) * math.erfc((k - 0.5) / math.sqrt(2)) for k in range(1, 20))


def test_growth_with_a_finite_expectation_is_integrated():
    """sinh: E phi² = (e^{2q} − 1)/2, whose mass lies at z = 2√q.

    12 standard deviations out at q = 36.
    """
    for q in (0.5, 5.0, 36.0):
        assert theory.q_map(jnp.sinh, q, 1.0, 0.0) == pytest.approx(
            math.expm1(2 * q) / 2, rel=1e-11
        )
    assert theory.q_map(lambda x: jnp.exp(x**2 / 8), 1.0, 1.0, 0.0) == pytest.approx(
        math.sqrt(2), rel=1e-12
    )
