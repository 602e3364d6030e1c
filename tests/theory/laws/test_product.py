"""The curve of a product: derivatives, Newton, masses, powers, and atoms."""

import math

import numpy as np
import pytest

from isometry import activations
from isometry.theory.laws import _closed
from isometry.theory.laws._diagonal import Diagonal
from isometry.theory.laws._edges import find_atoms
from isometry.theory.laws._inversion import attempt, solve
from isometry.theory.laws._measure import discrete
from isometry.theory.laws._product import multiplied, product_of
from isometry.theory.laws._slope_measure import slope_measure

GAUSSIAN = _closed.gaussian(0.0, 1, 1, size=1)
MASK = Diagonal(discrete([0.0, 1.0], [0.4, 0.6]))
TANH = Diagonal(slope_measure(activations.tanh, 0.5))


@pytest.fixture(scope="module")
def product():
    """Two masks, a smooth D² of another size, weights, and a class of great depth."""
    wide = Diagonal(slope_measure(activations.gelu, 1.0), ratio=0.5)
    smooth = _closed.Smooth(0.3)
    counts = {MASK: 2, wide: 1, GAUSSIAN: 1, smooth: 1, _closed.Bernoulli(0.2): 1}
    return product_of(counts)


def test_derivatives_along_the_curve(product):
    """dlog λ/dψ and dw/dψ against differences between states at nearby ψ."""
    w = product.on_negative_axis(np.array([0.3]))
    at = product.state(w)
    step = 1e-5
    near = [product.follow(w, at.psi + sign * step) for sign in (1, -1)]
    slope = (near[0].log_lam - near[1].log_lam) / (2 * step)
    tangent = (near[0].w - near[1].w) / (2 * step)
    np.testing.assert_allclose(at.slope, slope, rtol=1e-8)
    np.testing.assert_allclose(at.tangent, tangent, rtol=1e-8)


def test_negative_axis_is_real_and_monotone(product):
    t = np.linspace(-6, 6, 7)
    at = product.state(product.on_negative_axis(t))
    np.testing.assert_allclose(at.log_lam, t + 1j * np.pi, rtol=1e-12)
    np.testing.assert_allclose(at.psi.imag, 0, atol=1e-13)
    assert np.all(np.diff(at.psi.real) > 0)
    assert -product.rank < at.psi.real[0] < at.psi.real[-1] < 0


def test_density_is_the_slope_of_the_mass(product):
    """−Im ψ/π dt = −dP(x > e^t), and both masses add up to one."""
    t = np.array([-1.0, 0.2])
    step = 1e-4
    at = solve(product, np.concatenate([t - step, t, t + step]), np.full(6, 0.1))
    above = product.mass(at, np.concatenate([t - step, t, t + step]))
    below = product.mass(at, np.concatenate([t - step, t, t + step]), below=True)
    np.testing.assert_allclose(above + below, 1, atol=1e-13)
    fall = (above[:2] - above[4:]) / (2 * step)
    np.testing.assert_allclose(-at.psi.imag[2:4] / np.pi, fall, rtol=1e-6)


def test_powers_cancel_before_anything_is_computed():
    """D² alone is its own law: nothing is left of ψ, 1 + ψ, or an inversion."""
    scaled = product_of({TANH: 1, _closed.Powers(log_scale=0.7): 1})
    assert scaled.sole_diagonal is TANH
    assert scaled.log_scale == 0.7
    assert product_of({TANH: 2}).sole_diagonal is None


def test_shares_of_one_layer_are_one_layer():
    """A law with a third of log ζ three times is that of one factor."""
    third = product_of({TANH: 1 / 3 + 1e-17, GAUSSIAN: 1})
    again = multiplied(third, product_of({TANH: 2 / 3}))
    whole = product_of({TANH: 1, GAUSSIAN: 1})
    t, distance = np.array([-0.5]), np.array([0.1])
    at = [solve(p, t, distance).psi[0] for p in (again, whole)]
    assert at[0] == pytest.approx(at[1], rel=1e-12)


def test_flattened_orthogonal_kernels():
    """S = (1 + ψ/9)/(1 + ψ): relative variance 1 − 1/9, edges of a free compression.

    λ = (1 + ψ)²/(ψ (1 + ψ/9)) turns at ψ = −1, where λ = 0, and at ψ = 1/(1 − 2/9).
    """
    kernel = _closed.Powers(((1.0, 1.0), (1 / 9, -1.0)))
    product = product_of({kernel: 1})
    assert product.relative_variance == pytest.approx(8 / 9, rel=1e-14)
    psi = 1 / (1 - 2 / 9)
    top = math.log((1 + psi) ** 2 / (psi * (1 + psi / 9)))
    inside = solve(product, np.array([top - 1e-3]), np.array([1e-3]))
    outside, is_solved = attempt(product, np.array([top + 1e-3]), np.array([1e-3]))
    assert inside.psi.imag[0] < -1e-3
    assert is_solved.all()
    assert abs(outside.psi.imag[0]) < 1e-12


def test_atoms_of_a_product_of_atoms():
    """1 − Σ (1 − w) at each product of values, where positive; above it as given."""
    left = Diagonal(discrete([1.0, 2.0], [0.7, 0.3]))
    right = Diagonal(discrete([1.0, 5.0], [0.1, 0.9]))
    atoms = find_atoms(product_of({left: 1, right: 1}))
    assert [math.exp(atom.t) for atom in atoms] == pytest.approx([5, 10])
    assert [atom.mass for atom in atoms] == pytest.approx([0.6, 0.2])
    assert [atom.above for atom in atoms] == pytest.approx([0.3, 0.0], abs=1e-15)
    assert find_atoms(product_of({left: 1, right: 1, GAUSSIAN: 1})) == []
    # Each time that it occurs a factor may take another value.
    (atom,) = find_atoms(product_of({MASK: 2}))
    assert (atom.t, atom.mass) == (0.0, pytest.approx(0.2))


def test_rank_is_that_of_the_smallest_factor():
    wide = Diagonal(discrete([0.0, 1.0], [0.5, 0.5]), ratio=0.5)
    assert product_of({wide: 1, GAUSSIAN: 1}).rank == 1
    assert product_of({MASK: 1, wide: 1}).rank == pytest.approx(0.6)
    narrow = _closed.gaussian(0.0, 1.0, 0.3, size=1)
    product = product_of({narrow: 1, MASK: 1})
    assert product.rank == pytest.approx(0.3)
    # The identity leads, at that size.
    assert product.curves[0][0].rank == pytest.approx(0.3)
