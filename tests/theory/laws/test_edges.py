"""Edges and gaps against closed forms, and against the density itself."""

import math

import numpy as np
import pytest

from isometry import activations, theory
from isometry.theory import freeprob
from isometry.theory.laws import _closed, _edges
from isometry.theory.laws._diagonal import Diagonal
from isometry.theory.laws._measure import discrete
from isometry.theory.laws._product import product_of
from isometry.theory.laws._slope_measure import slope_measure

GAUSSIAN = _closed.gaussian(0.0, 1, 1, size=1)


def intervals(product):
    return _edges.find_intervals(product, _edges.find_atoms(product))


@pytest.mark.parametrize("width", [1e-6, 1e-2, 0.5])
def test_edges_of_narrow_laws(width):
    """A Gaussian n × m matrix with n = width² m: (1 ± width)², however narrow."""
    layer = _closed.gaussian(0.0, 1.0, width**2, size=width**2)
    inputs = _closed.input_space(1.0, width**2)
    (found,) = intervals(product_of({layer: 1, inputs: 1}))
    assert found.low == pytest.approx(2 * math.log1p(-width), abs=1e-13)
    assert found.high == pytest.approx(2 * math.log1p(width), abs=1e-13)
    assert (found.above_low, found.above_high) == pytest.approx((1, 0), abs=1e-12)


def test_gaps_between_far_values():
    """Values 1e-6 and 1 before a Gaussian matrix: Silverstein and Choi (1995).

    Edges are the λ(ζ) = ζ (1 + M(ζ)) with dλ/dζ = 0; of mass a half each.
    """
    values, masses = np.array([1e-6, 1.0]), np.array([0.5, 0.5])
    wide = _closed.gaussian(0.0, 1.0, 0.2, size=0.2)
    inputs = _closed.input_space(1.0, 0.2)
    far = Diagonal(discrete(values, masses))
    low, high = intervals(product_of({far: 1, wide: 1, inputs: 1}))
    assert (low.above_low, low.above_high) == pytest.approx((1, 0.5), abs=1e-12)
    assert (high.above_low, high.above_high) == pytest.approx((0.5, 0), abs=1e-12)

    def lam(zeta):
        return zeta * (1 + 0.2 * np.sum(masses * values / (zeta - values)))

    for edge, sign in ((high.low, -1), (high.high, 1)):
        # Of one value alone the edges are ζ = 1 ± √(0.2/2).
        zeta = 1 + sign * np.linspace(0.9, 1.1, 20_001) * math.sqrt(0.1)
        extreme = sign * min(sign * lam(z) for z in zeta)
        assert math.exp(edge) == pytest.approx(extreme, rel=1e-8)


@pytest.mark.parametrize(
    ("times", "lost"),
    [(2, 0.2), (4, 1e-7), (64, 4.3e-6), (256, 1e-14), (1024, 4.9e-8)],
)
def test_an_atom_alone_in_a_gap(times, lost):
    """L masks that lose p: an atom of 1 − Lp at 1, apart from a density down to zero.

    S = ((1 + ψ)/(1 − p + ψ))^L, and dlog λ/dψ = 0 at ψ = (1 − p)/(Lp − 1). Where p is
    small so is the band's mass, which rounding beside the atom must not exceed.
    """
    mask = Diagonal(discrete([0.0, 1.0], [lost, 1 - lost]))
    (found,) = intervals(product_of({mask: times}))
    # (1 + ψ)/ψ, and (1 − p + ψ)/(1 + ψ), there.
    outer = (times - 1) * lost / (1 - lost)
    inner = (1 - lost) * times / (times - 1)
    edge = math.log(outer) + times * math.log(inner)
    assert found.low == -math.inf
    assert found.high == pytest.approx(edge, rel=1e-12)
    assert found.above_high == pytest.approx(1 - times * lost, rel=1e-12)


def test_density_vanishes_outside_and_not_inside():
    """Inner gaps of a rectangular network: a point on either side of every edge."""
    widths = [30, 100, 128, 10]
    law = theory.jacobian_law("leaky_relu", depth=3, q=1.0, widths=widths)
    low, high = np.log(np.array(law.support)).T / 2
    assert len(low) == 2
    inside = np.concatenate([low + 1e-4, high - 1e-4])
    outside = np.concatenate([low - 1e-4, high + 1e-4])
    assert np.all(law.density(inside, "log_s") > 1e-3)
    assert np.all(law.density(outside, "log_s") == 0)
    counts = [law.survival(x, "log_s") for x in (low[0] - 1, low[1] - 1e-6)]
    assert counts == pytest.approx([1, 0.5], abs=1e-9)


def test_values_of_wide_layers_near_zero_do_not_matter():
    """tanh' has values near zero, but no singular value of 10 → 50 units needs them."""
    slopes = slope_measure(activations.tanh, 0.01)
    narrow = product_of({Diagonal(slopes, ratio=0.2): 1})
    square = product_of({Diagonal(slopes): 2})
    assert narrow.touches_zero is False
    assert square.touches_zero is True
    assert intervals(narrow)[0].low > -1
    assert intervals(square)[0].low == -math.inf


def test_a_thin_tail_ends_where_the_slope_does():
    """softplus' reaches 1 with a Gaussian tail; the curve does not turn before it."""
    law = theory.jacobian_law("softplus", depth=2, q=0.5, sigma_w=1.0)
    edge = law.support[0][1]
    # At ζ = 1 itself, where λ = (ζ ψ/(1 + ψ))² ((1 + ψ)/ψ) and ψ = M(1).
    measure = slope_measure(activations.softplus, 0.5)
    psi = measure.transforms(np.array([1 - 1e-9 + 0j])).psi[0].real
    assert edge == pytest.approx(psi / (1 + psi), rel=1e-6)
    assert law.survival(edge) == 0


@pytest.mark.parametrize("far", [1e4, 1e8])
def test_values_decades_apart(far):
    """Determinants multiply: E log λ is the sum of both; half lies near each value."""
    left = freeprob.point_masses([1 / far, far], [0.5, 0.5])
    law = freeprob.multiply(left, freeprob.point_masses([1.0, 2.0], [0.3, 0.7]))
    assert len(law.support) == 2
    assert law.survival(1.0) == pytest.approx(0.5, abs=1e-12)
    assert law.mean_log_lam == pytest.approx(0.7 * math.log(2), abs=1e-8)


def test_edges_that_float64_does_not_tell_apart_are_said(monkeypatch):
    """No law is known whose gaps never end; here none of the density is seen."""
    law = freeprob.multiply(theory.marchenko_pastur(0.5), theory.fuss_catalan(1))
    monkeypatch.setattr(_edges, "_FLAT", math.inf)
    with pytest.raises(theory.NotConverged, match="an edge of the law is not resolved"):
        _ = law.support
