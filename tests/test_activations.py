"""Named activations: their slopes against finite differences, their symmetry, their names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from isometry import InputError, activations
from isometry.activations import Activation

POINTS = np.array([-3.1, -1.7, -0.9, -0.31, 0.17, 0.62, 1.4, 2.8])  # no kink within 0.1


@pytest.mark.parametrize("name", activations.names())
def test_slope_is_the_derivative(name):
    phi = activations.get(name)
    assert all(abs(POINTS - k).min() > 0.09 for k in phi.kinks)
    h = 1e-5
    with jax.enable_x64(True):
        x = jnp.asarray(POINTS)
        slope = np.asarray(phi.slope(x))
        central = np.asarray((phi(x + h) - phi(x - h)) / (2 * h))
    # truncation h²/6·|φ'''| with |φ'''| ≤ 3, rounding eps·|φ|/h
    np.testing.assert_allclose(slope, central, rtol=0, atol=h**2 + 4 * 2e-16 / h)


@pytest.mark.parametrize("name", activations.names())
def test_odd_flag_is_true(name):
    phi = activations.get(name)
    with jax.enable_x64(True):
        x = jnp.asarray(np.r_[0.0, POINTS])
        odd = np.allclose(np.asarray(phi(-x)), -np.asarray(phi(x)), rtol=1e-14, atol=1e-15)
    assert phi.odd is odd


@pytest.mark.parametrize("name", activations.names())
def test_smooth_but_at_the_named_kinks(name):
    """A jump of φ or φ' away from the named kinks would show as a slope that moves by O(1) over 1e-6."""
    phi = activations.get(name)
    with jax.enable_x64(True):
        grid = np.linspace(-4, 4, 1601) + 1e-7
        left, right = (np.asarray(phi.slope(jnp.asarray(grid + d))) for d in (-2.6e-3, 2.6e-3))
    jump = np.abs(right - left) > 0.04  # |φ''| ≤ 2: a smooth φ' moves by at most 0.011
    near = np.zeros_like(jump)
    for kink in phi.kinks:
        near |= np.abs(grid - kink) < 6e-3
    assert not (jump & ~near).any()


def test_a_kink_takes_the_slope_that_training_uses():
    zero = jnp.zeros(())
    assert activations.relu.slope(zero) == 0
    assert Activation(lambda x: jnp.maximum(x, 0)).slope(zero) == 0.5
    assert activations.relu.slope(zero) == jax.grad(activations.relu)(zero)


def test_names():
    assert set(activations.names()) >= {
        "linear",
        "relu",
        "tanh",
        "hard_tanh",
        "erf",
        "gelu",
        "silu",
        "selu",
        "softplus",
    }
    for name in activations.names():
        assert activations.get(name).name == name
        assert activations.get(name) is getattr(activations, name)


def test_get_passes_activations_and_wraps_callables():
    assert activations.get(activations.tanh) is activations.tanh
    wrapped = activations.get(jnp.sinh)
    assert (wrapped.name, wrapped.kinks, wrapped.odd) == ("sinh", (), None)
    assert wrapped(jnp.ones(())) == jnp.sinh(jnp.ones(()))
    assert activations.get(wrapped) == activations.get(jnp.sinh)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tan", r"activations\.get\(\): activation='tan' is not known\. Known: linear, relu, .*Did you mean '?tanh"),
        ("TANHH", r"activation='TANHH' is not known"),
        (3, r"activation=3 is not known"),
    ],
)
def test_unknown(given, message):
    with pytest.raises(InputError, match=message):
        activations.get(given)


def test_not_callable():
    with pytest.raises(InputError, match=r"Activation\(\): fn=3 is not callable\."):
        Activation(3)


def test_kinks_are_floats():
    assert Activation(jnp.abs, kinks=[0, 1]).kinks == (0.0, 1.0)


@pytest.mark.parametrize(("fn", "said"), [(np.tanh, "jnp.tanh"), (scipy.special.erf, "jax.scipy.special.erf")])
def test_a_ufunc_of_numpy_is_refused(fn, said):
    with pytest.raises(ValueError, match=f"is NumPy's, not JAX's; write {said}"):
        activations.get(fn)


@pytest.mark.parametrize("kinks", [0.0, "a", (None,)])
def test_kinks_that_are_no_numbers(kinks):
    with pytest.raises(InputError, match=r"Activation\(\): kinks=.* is not a tuple of numbers; write \(0\.0,\)"):
        Activation(jax.nn.relu, kinks=kinks)
