"""Statistics of a spectrum over seeds and inputs, and those of its law."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import isometry
from isometry import linalg, theory
from isometry._internal import strict_json
from isometry.cli import _summary
from isometry.measure._record import Spectrum
from isometry.measure.methods import Dense
from tests.cli.calling import strict

EPS = float(np.finfo(np.float32).eps)


def spectrum_of(values):
    """A spectrum with these singular values, as if it had been measured."""
    logs = jnp.log(jnp.asarray(values))
    return Spectrum(
        log_values=logs,
        weights=jnp.full(logs.shape, 1 / logs.shape[-1]),
        log_floor=jnp.full(logs.shape[:-1], -15.0),
        method=Dense(),
        size=2,
    )


def quadrature():
    """A spectrum of quadrature nodes, as by Lanczos."""
    nodes = jnp.log(jnp.array([[[[2.0, 1.0], [1.0, 0.5]]]]))
    rule = linalg.Quadrature(
        nodes,
        jnp.full_like(nodes, 0.5),
        jnp.zeros((1, 1)),
        nodes,
        nodes,
        jnp.full((1, 1), 2),
    )
    return replace(
        spectrum_of([[[2.0, 1.0, 1.0, 0.5]]]),
        size=9,
        method=isometry.Lanczos(2, 2),
        quadrature=rule,
    )


def plain(lines):
    """What the JSON says."""
    return {name: line.as_dict() for name, line in lines.items()}


def test_what_a_quadrature_does_not_know_has_a_reason():
    """It has a largest value and an estimate of the mean, and no smallest value."""
    lines = plain(_summary.summary(quadrature()))
    for name in ("s_min", "s_50%", "log_spread", "condition_number", "zero_fraction"):
        assert lines[name]["mean"] is None
        assert "not singular values" in lines[name]["why"]
    assert "not singular values" in lines["exact_zero_fraction"]["why"]
    for name in ("s_max", "mean_s2", "effective_rank", "stable_rank"):
        assert "why" not in lines[name]
    assert "why" not in lines["isometry_deviation"]
    assert lines["s_max"]["mean"] == pytest.approx(2, rel=1e-6)
    assert strict(strict_json.dumps(lines)) == lines


def test_mean_and_standard_error_are_over_seeds():
    """By hand: two seeds, two inputs, two values each."""
    sp = spectrum_of([[[2.0, 1.0], [4.0, 1.0]], [[3.0, 1.0], [3.0, 0.0]]])
    lines = plain(_summary.summary(sp))
    assert list(lines)[:2] == ["s_min", "s_5%"]
    # ln s is kept in float32.
    rounding = 16 * EPS
    # Mean squares are (2.5, 8.5) and (5, 4.5), over seeds 5.5 and 4.75. Half their
    # difference is the standard error.
    assert lines["mean_s2"]["mean"] == pytest.approx(5.125, rel=rounding)
    error = lines["mean_s2"]["standard_error"]
    assert error == pytest.approx(0.375, rel=100 * rounding)
    assert lines["zero_fraction"]["mean"] == pytest.approx(0.125)
    infinite = {"mean": np.inf, "standard_error": None, "law": None}
    assert lines["condition_number"] == infinite


def test_what_is_below_the_floor_has_a_bound_and_no_mean():
    """A floor of e^-15: of 1e-9 beside 2 and 1 it is known to be below 6e-7."""
    sp = spectrum_of([[[2.0, 1e-9], [2.0, 0.5]], [[1.0, 1e-9], [1.0, 0.5]]])
    lines = _summary.summary(sp)
    least = lines["s_min"]
    # The mean of 2e^-15, 0.5, e^-15 and 0.5, rounded up.
    assert least.cells() == ("< 2.6e-01", "", "")
    assert least.as_dict() == {
        "mean": None,
        "standard_error": None,
        "law": None,
        "why": "below the floor of the method in 2 of 4 Jacobians.",
    }
    assert lines["exact_zero_fraction"].as_dict()["mean"] == 0
    ratio = lines["condition_number"]
    # The mean of e^15, 4, e^15 and 2 is 1634510, rounded down.
    assert ratio.cells()[0] == "> 1.6e+06"
    assert ratio.as_dict()["mean"] is None
    assert ratio.why.startswith("s_min is below the floor")
    assert strict(strict_json.dumps(plain(lines))) == plain(lines)


def test_exact_zeros_are_values():
    lines = plain(_summary.summary(spectrum_of([[[2.0, 0.0]], [[2.0, 0.0]]])))
    zero = {"mean": 0.0, "standard_error": 0.0, "law": None}
    assert lines["s_min"] == zero
    assert lines["condition_number"]["mean"] == np.inf
    assert "why" not in lines["condition_number"]


@pytest.mark.parametrize("log10_scale", [-400, 400])
def test_numbers_beyond_float64_are_neither_zero_nor_infinite(log10_scale):
    """2 and 4 times 10^±400 over two seeds: mean 3, standard error 1, times 10^±400."""
    sp = spectrum_of([[[2.0, 1.0]], [[4.0, 1.0]]])
    shift = log10_scale * np.log(10)
    with jax.enable_x64(True):
        logs = np.asarray(sp.log_values, float) + shift
        far = replace(sp, log_values=jnp.asarray(logs))
        line = _summary.summary(far)["s_max"]
    mean, error, _ = line.cells()
    sign = "+" if log10_scale > 0 else "-"
    assert (mean, error) == (f"3e{sign}400", f"1e{sign}400")
    row = line.as_dict()
    assert row["mean"] is None
    assert row["why"].startswith(f"its log10 is {log10_scale + np.log10(3):.5g}")
    assert strict(strict_json.dumps(row)) == row


def test_one_seed_has_no_standard_error():
    lines = plain(_summary.summary(spectrum_of([[[2.0, 1.0]]])))
    assert lines["s_max"]["standard_error"] is None


def test_numbers_of_a_law_are_those_of_marchenko_and_pastur():
    """One Gaussian layer: 0 ≤ lam ≤ 4, mean 1, second moment 2."""
    law = theory.jacobian_law("linear", 1, q=1.0, sigma_w=1.0, weights="gaussian")
    lines = plain(_summary.summary(spectrum_of([[[2.0, 1.0]]]), law))
    predicted = {name: line["law"] for name, line in lines.items()}
    assert predicted["s_max"] == pytest.approx(2, rel=1e-9)
    assert predicted["mean_s2"] == pytest.approx(1, rel=1e-9)
    # E s of the quarter circle is 8/(3π), and E (s − 1)² = 2 − 2 E s.
    deviation = (2 - 16 / (3 * np.pi)) ** 0.5
    assert predicted["isometry_deviation"] == pytest.approx(deviation, rel=1e-6)
    assert predicted["condition_number"] == np.inf
    # N/4 at width N, which 1 bounds from below only from N = 4 on.
    for name in ("stable_rank", "effective_rank"):
        assert predicted[name] is None
        assert "grows with the width" in lines[name]["why_no_law"]
    assert "why_no_law" not in lines["s_max"]


def test_log_spread_of_a_law_needs_all_of_its_mass():
    """Of the quarter circle; the measured one is of what is resolved."""
    law = theory.jacobian_law("linear", 1, q=1.0, sigma_w=1.0, weights="gaussian")
    coarse = spectrum_of([[[2.0, 1.0]]])
    # A floor of e^-15 hides 2e-7 of the mass, one of e^-40 next to nothing.
    hidden = _summary.summary(coarse, law)["log_spread"]
    assert hidden.law is None
    assert "mass below the floor" in hidden.no_law
    fine = replace(coarse, log_floor=jnp.full((1, 1), -40.0))

    def moment(k):
        """E (ln s)^k under the density √(4 − s²)/π on [0, 2]."""
        return integrate.quad(
            lambda s: np.log(s) ** k * np.sqrt(4 - s**2) / np.pi, 0, 2, epsabs=1e-12
        )[0]

    expected = moment(2) - moment(1) ** 2
    line = _summary.summary(fine, law)["log_spread"]
    assert line.law == pytest.approx(expected, rel=1e-6)


def test_reason_has_no_name_of_a_function():
    """The user has called a command."""
    assert (
        _summary.reason(isometry.NotDefined("law(): none is known")) == "none is known"
    )
    assert _summary.reason(ArithmeticError("no edge")) == "no edge"
