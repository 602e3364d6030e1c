"""The law of one gated step, against dense matrices and a residual block."""

import numpy as np
import pytest
import scipy.optimize

import isometry
from isometry import theory


def _values(a, s, sigma_w, *, width, seeds):
    """Return λ of dense matrices whose units are those of the sites, ascending."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(seeds):
        w = sigma_w * rng.standard_normal((width, width)) / width**0.5
        jac = np.diag(a) + s[:, None] * w
        found.append(np.linalg.svd(jac, compute_uv=False) ** 2)
    return np.sort(np.concatenate(found))


def _distance(law, lam):
    """Return the Kolmogorov distance, just above each value: atoms are rounded."""
    above = lam * (1 + 1e-7) + 1e-12
    shares = np.searchsorted(lam, above, side="right") / len(lam)
    return np.abs(law.cdf(above) - shares).max()


@pytest.mark.parametrize(("a", "s"), [(0.8, 0.5), (0.3, -0.9)])
def test_equal_units_are_a_linear_residual_block(a, s):
    """With a gap at zero and without one; the other law has other equations."""
    law = theory.gated_law([a, a], [s, s], 1.1)
    block = theory.residual_law(
        "linear", [s], order="post_activation", skip=a, sigma_w=1.1
    )
    assert law.support[0] == pytest.approx(block.support[0], rel=1e-8, abs=1e-12)
    p = np.array([1e-4, 0.3, 0.9])
    assert law.quantile(p) == pytest.approx(block.quantile(p), rel=1e-7)
    assert law.moment(5) == pytest.approx(block.moment(5), rel=1e-10)
    # log |det|² of a + R times the circular law, at its end or inside.
    radius = 1.1 * abs(s)
    log_det = np.log(max(a, radius)) + min(a**2 / radius**2 - 1, 0) / 2
    assert law.mean_log_lam == pytest.approx(2 * log_det, rel=1e-7)
    assert law.variance == pytest.approx(block.variance, rel=1e-12)


def test_units_that_differ_against_dense_matrices():
    """Three draws at width 300: one draw is off by about 1/300 in distribution."""
    rng = np.random.default_rng(1)
    a = rng.uniform(0, 1, 300)
    s = a * (1 - a) * rng.standard_normal(300)
    s[:30] = a[:20] = 0.0
    law = theory.gated_law(a, s, 2.5)
    lam = _values(a, s, 2.5, width=300, seeds=3)
    assert _distance(law, lam) < 0.008
    assert law.zero_mass == pytest.approx(20 / 300, rel=1e-12)
    moments = theory.gated_moments(a, s, 2.5, 1)
    assert law.moment(1) == pytest.approx(moments.mean, rel=1e-12)
    assert law.variance == pytest.approx(moments.variance, rel=1e-12)
    assert law.moment(2) - moments.mean**2 == pytest.approx(moments.variance, rel=1e-10)
    assert law.moment(3) == pytest.approx(np.mean(lam**3), rel=0.05)


def test_units_without_weights_leave_an_atom_and_others_gaps():
    """Three of four units have s = 0, so that half of all values are a²."""
    a, s = np.array([1.0, 1.0, 1.0, 0.5]), np.array([0.0, 0.0, 0.0, 0.7])
    law = theory.gated_law(a, s, 1.0)
    assert law.atoms == ((pytest.approx(1.0), pytest.approx(0.5)),)
    assert [len(law.support), law.cdf(0.9)] == [2, pytest.approx(0.25, rel=1e-9)]
    lam = _values(np.repeat(a, 50), np.repeat(s, 50), 1.0, width=200, seeds=3)
    assert _distance(law, lam) < 0.01


def test_each_gate_that_outnumbers_the_weights_has_an_atom():
    """At 0.9² by 2 units less 1; at 0.6² by 1 less 1, where the density is infinite."""
    a, s = np.array([0.9, 0.9, 0.6, 0.5]), np.array([0.0, 0.0, 0.0, 0.4])
    law = theory.gated_law(a, s, 1.0)
    assert law.atoms == ((pytest.approx(0.81), pytest.approx(0.25)),)
    assert [high for _, high in law.support[:1]] == [pytest.approx(0.36)]
    lam = _values(np.repeat(a, 50), np.repeat(s, 50), 1.0, width=200, seeds=3)
    assert _distance(law, lam) < 0.01


def test_no_mass_is_at_zero_where_shares_of_units_are_rounded():
    """0.7 + 0.2 + 0.1 is not 1 in float64.

    log |det|² of diag(a) + diag(s) W is E log(k + b x) − x, with E b/(k + b x) = 1.
    """
    a, s = np.repeat([0.3, 0.9, 0.9], [7, 1, 2]), np.repeat([0.5, 0.5, 0.0], [7, 1, 2])
    law = theory.gated_law(a, s, 1.0)
    assert law.zero_mass == 0
    k, b = a**2, s**2
    x = scipy.optimize.brentq(lambda x: np.mean(b / (k + b * x)) - 1, 0, 1)
    log_det = np.mean(np.log(k + b * x)) - x
    assert law.mean_log_lam == pytest.approx(log_det, rel=1e-7)


def test_without_a_gate_on_the_state_it_is_a_layer():
    """diag(s) W with s of 0 or √2 is a ReLU layer."""
    law = theory.gated_law([0.0, 0.0], [0.0, 1.0], 2.0**0.5)
    layer = theory.jacobian_law("relu", 1, q=1.0, weights="gaussian")
    x = np.array([0.1, 1.0, 3.0])
    assert law.cdf(x) == pytest.approx(layer.cdf(x), rel=1e-9)


def test_refusals_name_what_is_wrong():
    with pytest.raises(isometry.InputError, match=r"a has shape \(2, 1\)"):
        theory.gated_law([[1.0], [1.0]], [[1.0], [1.0]], 1.0)
    with pytest.raises(isometry.InputError, match="zero everywhere"):
        theory.gated_law([1.0], [1.0], 0.0)
