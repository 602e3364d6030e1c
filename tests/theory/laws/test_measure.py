"""Transforms of measures of squared slopes, against sums and known integrals."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.special import ndtr

from isometry import activations
from isometry._internal.errors import NotDefined
from isometry.theory.laws._measure import discrete
from isometry.theory.laws._slope_measure import slope_measure, steep_measure


def test_transforms_of_point_masses():
    """M, P(d > 0) + M and dM/dlog ζ of three atoms, one at zero, term by term."""
    values, masses = np.array([0.0, 1.0, 3.0]), np.array([0.2, 0.5, 0.3])
    measure = discrete([3.0, 0.0, 1.0, 1.0], [0.3, 0.2, 0.25, 0.25])
    zeta = np.array([-0.7 + 0j, 2 + 0.5j, 40 + 0j])
    found = measure.transforms(zeta)
    terms = zeta[:, None] - values
    psi = (masses * values / terms).sum(axis=1)
    rate = -(zeta[:, None] * masses * values / terms**2).sum(axis=1)
    np.testing.assert_allclose(found.psi, psi, rtol=1e-14)
    np.testing.assert_allclose(found.above_zero, 0.8 + psi, rtol=1e-14)
    np.testing.assert_allclose(found.rate, rate, rtol=1e-14)
    assert measure.zero_mass == 0.2


def test_angle_is_the_mass_above():
    """Off the atoms Im E log(ζ − d)/π at real ζ is a step function."""
    measure = discrete([1.0, 3.0], [0.6, 0.4])
    zeta = np.array([0.5, 2.0, 4.0]) + 0j
    assert measure.angle(zeta, below=False) == pytest.approx([1, 0.4, 0])
    assert measure.angle(zeta, below=True) == pytest.approx([0, 0.6, 1])


@pytest.mark.parametrize(("name", "q"), [("tanh", 0.5), ("gelu", 1.0)])
def test_moment_transform_inside_the_support(name, q):
    """Im M = −π d p(d) on the real axis, with p from the slope's own inverse.

    There nodes on the axis would give noise; these lie below it.
    """
    phi = activations.get(name)
    measure = slope_measure(phi, q)
    d = np.array([0.2, 0.5, 0.9])
    found = -measure.transforms(d + 0j).psi.imag / (np.pi * d)
    z = np.linspace(-9, 9, 400_001)
    values = np.asarray(phi.slope(jnp.asarray(math.sqrt(q) * z, jnp.float32))) ** 2
    width = 0.02
    for at, density in zip(d, found, strict=True):
        is_near = np.abs(values - at) < width / 2
        bell = np.exp(-(z[is_near] ** 2) / 2) / np.sqrt(2 * np.pi)
        share = bell.sum() * (z[1] - z[0])
        assert density == pytest.approx(share / width, rel=5e-3)


def test_atoms_and_continuous_part_of_selu():
    """selu' is constant above zero: half of the mass; and α λ e^z below."""
    measure = slope_measure(activations.selu, 0.5)
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    assert measure.atoms == pytest.approx([scale**2], rel=1e-14)
    assert measure.masses == pytest.approx([0.5], rel=1e-14)

    def fourth(z):
        slope = scale * alpha * math.exp(math.sqrt(0.5) * z)
        return slope**4 * math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    left = integrate.quad(fourth, -12, 0, epsabs=1e-13)[0]
    assert measure.moment(2) == pytest.approx(left + 0.5 * scale**4, rel=1e-12)


def test_mass_between_kinks_that_nobody_named():
    measure = slope_measure(activations.Activation(lambda x: jnp.clip(x, -1, 2)), 1.0)
    assert measure.atoms.tolist() == [0.0, 1.0]
    assert measure.masses[1] == pytest.approx(ndtr(2) - ndtr(-1), rel=1e-13)


def test_a_steep_step_is_not_stepped_over():
    """E phi'² of x + tanh(k (x − c)) with sech² and sech⁴ in closed form, for large k.

    Its bend of 1/k is narrower than the distance between nodes, and on one side alone.
    """
    k, c = 1e3, 0.37

    def phi(x):
        return x + jnp.tanh(k * (x - c))

    found = slope_measure(activations.get(phi), 1.0)
    density = math.exp(-(c**2) / 2) / math.sqrt(2 * math.pi)
    # ∫ sech² = 2, ∫ sech⁴ = 4/3; the density bends over 1/k in second order.
    expected = 1 + density * (2 * 2 + k * 4 / 3)
    assert found.moment(1) == pytest.approx(expected, rel=1e-6)


def test_zero_slopes_are_told_from_underflow():
    """A slope without kinks of its own, zero on one side, and that of tanh."""

    def phi(x):
        # phi' = 3x² − 2x³ from 0 to 1.
        step = jnp.clip(x, 0, 1)
        return step**3 - step**4 / 2 + jnp.maximum(x - 1, 0)

    named = activations.Activation(phi, kinks=(0.0, 1.0))
    assert slope_measure(named, 1.0).zero_mass == pytest.approx(0.5, rel=1e-12)
    for unknown, q in ((activations.get(phi), 1.0), (activations.get("tanh"), 1e8)):
        with pytest.raises(NotDefined, match=r"underflow.* kinks= of activations"):
            slope_measure(unknown, q)


def test_ends_of_the_support_lie_beyond_the_mass():
    """softplus' comes arbitrarily close to 0 and to 1, where hardly any mass is."""
    measure = slope_measure(activations.softplus, 0.5)
    ((low, high),) = measure.intervals()
    assert (low, high) == (0.0, pytest.approx(1.0, rel=1e-12))
    assert measure.touches_zero


@pytest.mark.parametrize(
    ("phi", "q", "message"),
    [
        (lambda x: 0 * x + 1, 1.0, "is flat at q=1: J is 0"),
        (lambda x: x**2, 1.0, "is unbounded, so its law has no top edge"),
        (jnp.tanh, 40.0, "is lost in the rounding of its autodiff"),
    ],
)
def test_slopes_without_a_law_are_refused(phi, q, message):
    with pytest.raises(NotDefined, match=message):
        steep_measure(activations.Activation(phi), q)
