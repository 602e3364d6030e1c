"""Named activations: derivatives, symmetry, kinks and names."""

import operator
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from isometry import InputError, activations
from isometry.activations import Activation

NAMES = activations.names()
POINTS = np.array([-3.1, -1.7, -0.9, -0.31, 0.17, 0.62, 1.4, 2.8])
KINK_DISTANCE = 0.09


@pytest.mark.parametrize("name", NAMES)
def test_slope_agrees_with_central_differences(name):
    phi = activations.get(name)
    for kink in phi.kinks:
        assert np.abs(POINTS - kink).min() > KINK_DISTANCE
    step = 1e-5
    with jax.enable_x64(True):
        x = jnp.asarray(POINTS)
        derivative = phi.slope(x)
        difference = (phi(x + step) - phi(x - step)) / (2 * step)
    # Truncation is step^2 / 6 times the third derivative, below 3; rounding is eps /
    # step times values below 4.
    tolerance = step**2 + 4 * np.finfo(float).eps / step
    np.testing.assert_allclose(derivative, difference, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_odd_activations_are_marked_as_odd(name):
    phi = activations.get(name)
    with jax.enable_x64(True):
        x = jnp.asarray([0.0, *POINTS])
        is_odd = np.allclose(phi(-x), -phi(x), rtol=1e-14, atol=1e-15)
    assert phi.odd is is_odd


@pytest.mark.parametrize("name", NAMES)
def test_derivative_jumps_at_the_kinks_only(name):
    """A smooth derivative moves by at most 0.011 over this step, as |phi''| <= 2."""
    phi = activations.get(name)
    half_step = 2.6e-3
    # An offset, so that no point of the grid is a kink.
    grid = np.linspace(-4, 4, 1601) + 1e-7
    with jax.enable_x64(True):
        left = np.asarray(phi.slope(jnp.asarray(grid - half_step)))
        right = np.asarray(phi.slope(jnp.asarray(grid + half_step)))
    jumps = grid[np.abs(right - left) > 0.04]
    for jump in jumps:
        assert min(abs(jump - kink) for kink in phi.kinks) < 6e-3


def test_slope_at_a_kink_is_what_training_uses():
    zero = jnp.zeros(())
    assert activations.relu.slope(zero) == jax.grad(activations.relu)(zero) == 0
    assert Activation(lambda x: jnp.maximum(x, 0)).slope(zero) == 0.5


def test_gelu_tanh_keeps_its_digits_far_below_zero():
    """There 1 + tanh cancels: at -5, JAX's own form has no correct digit in float32."""
    x = jnp.float32(-5.0)
    inner = np.sqrt(2 / np.pi) * (-5.0 + 0.044715 * (-5.0) ** 3)
    reference = -5.0 / (1 + np.exp(-2 * inner))
    # A relative error of eps in the exponent, 2 * inner = -16.9, is one of 17 eps here.
    assert activations.gelu_tanh(x) == pytest.approx(reference, rel=40 * 2**-24)


def test_every_name_leads_to_the_activation_of_that_name():
    for name in NAMES:
        phi = activations.get(name)
        assert phi.name == name
        assert phi.named
        assert phi is getattr(activations, name)


@pytest.mark.parametrize("spelling", ["Relu", "ReLU", "RELU", "relu"])
def test_names_match_without_case(spelling):
    assert activations.get(spelling) is activations.relu


def test_activations_pass_through_get():
    assert activations.get(activations.tanh) is activations.tanh


def test_callables_become_activations():
    phi = activations.get(jnp.sinh)
    assert (phi.name, phi.kinks, phi.odd, phi.named) == ("sinh", (), None, False)
    assert phi(jnp.ones(())) == jnp.sinh(1.0)
    assert phi == activations.get(jnp.sinh)


def test_a_copy_under_a_known_name_is_not_the_named_one():
    assert not Activation(jnp.sin, name="tanh").named


@pytest.mark.parametrize("given", ["tanhh", "TAHN"])
def test_unknown_name_is_refused_with_the_nearest_one(given):
    words = rf"activations\.get\(\): activation='{given}'.*Did you mean .*'tanh'"
    with pytest.raises(InputError, match=words):
        activations.get(given)


def test_what_is_neither_name_nor_callable_is_refused():
    with pytest.raises(InputError, match="activation=3 is not known"):
        activations.get(3)
    with pytest.raises(InputError, match=r"Activation\(\): fn=3 is not callable"):
        Activation(3)


@pytest.mark.parametrize(
    ("ufunc", "instead"),
    [(np.tanh, "jnp.tanh"), (scipy.special.erf, "jax.scipy.special.erf")],
)
def test_functions_of_numpy_are_refused(ufunc, instead):
    with pytest.raises(InputError, match=f"NumPy ufunc.*write {instead}"):
        activations.get(ufunc)


def test_kinks_become_floats():
    assert Activation(jnp.abs, kinks=[0, 1]).kinks == (0.0, 1.0)


@pytest.mark.parametrize("kinks", [0.0, "a", (None,)])
def test_kinks_that_are_no_numbers_are_refused(kinks):
    with pytest.raises(InputError, match=r"kinks=.* is not a tuple of numbers"):
        Activation(jax.nn.relu, kinks=kinks)


def test_a_named_activation_is_itself_after_pickling():
    """Networks are equal by it, in the worker processes of a sweep as well."""
    for name in NAMES:
        phi = activations.get(name)
        assert pickle.loads(pickle.dumps(phi)) is phi
    own = Activation(operator.neg, odd=True, name="tanh")
    copied = pickle.loads(pickle.dumps(own))
    assert copied == own
    assert copied != activations.tanh
