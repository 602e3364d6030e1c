"""What is known of statistics, against Decimal in forty digits."""

import dataclasses
import decimal
import math

import numpy as np
import pytest

from isometry.measure._known import Known, known, log_mean, log_median
from tests.verdicts.measuring import spectrum
from tests.verdicts.pages import quadrature

EPS = float(np.finfo(float).eps)


def exactly(logs):
    """Statistics of one matrix from ln s, as numbers whose exponent has no limit."""
    with decimal.localcontext() as context:
        context.prec = 40
        values = [decimal.Decimal(float(log)).exp() for log in logs]
        size = len(values)
        squares = sum(s**2 for s in values) / size
        return {
            "s_min": min(values),
            "s_max": max(values),
            "mean_s2": squares,
            "mean_s4": sum(s**4 for s in values) / size,
            "isometry_deviation": (sum((s - 1) ** 2 for s in values) / size).sqrt(),
            "condition_number": max(values) / min(values),
            "stable_rank": squares * size / max(values) ** 2,
        }


@pytest.mark.parametrize("shift", [-900.0, -3.0, 0.0, 2.0, 900.0])
def test_numbers_of_any_size_are_those_of_their_logarithms(shift):
    """e^±900 is 10^±391, which no float holds."""
    logs = np.array([2.5, 0.7, 0.3, -1.1]) + shift
    sp = spectrum(np.ones((2, 1, 4)))
    sp = dataclasses.replace(sp, log_values=np.broadcast_to(logs, (2, 1, 4)))
    records = known(sp)
    # 1 ulp of ln s, four times as large in s^4, and a few operations.
    rounding = 4 * EPS * (8 + 4 * abs(shift))
    for name, value in exactly(logs).items():
        record = records[name]
        assert record.is_value
        expected = float(value.ln())
        assert record.log_low == pytest.approx(expected, abs=rounding), name
        assert record.why == ""


def test_a_value_below_the_floor_has_a_bound():
    """Of two of four Jacobians the least s is below the floor, e^-14 of the largest."""
    s = np.array([[[2.0, 1.0], [2.0, 1e-9]], [[3.0, 1.0], [3.0, 1e-9]]])
    least = known(spectrum(s))["s_min"]
    floors = np.log([2.0, 3.0]) - 14
    assert np.exp(least.log_low) == pytest.approx(np.array([[1, 0], [1, 0]]), abs=EPS)
    assert least.log_high[:, 1] == pytest.approx(floors)
    assert least.why == "below the floor of the method in 2 of 4 Jacobians."
    ratio = known(spectrum(s))["condition_number"]
    assert ratio.log_low[:, 1] == pytest.approx(14)
    assert np.isposinf(ratio.log_high[:, 1]).all()


def test_a_median_is_known_if_those_in_the_middle_are():
    """Of 1, 1, 1 and less than 1e-6 the median is 1; of two each it is not known."""
    low = np.array([0.0, 0.0, 0.0, -np.inf])
    high = np.array([0.0, 0.0, 0.0, math.log(1e-6)])
    three = Known(low, high, "why").over_matrices(log_median)
    assert (three.text(), three.why) == ("1", "")
    two = Known(low[1:], high[1:], "why").over_matrices(log_median)
    assert two.text() == "1"
    even = Known(low[2:], high[2:], "why").over_matrices(log_median)
    # At most half of 1 + 1e-6, rounded up to two digits.
    assert (even.text(), even.why) == ("< 5.1e-01", "why")


@pytest.mark.parametrize("shift", [-2000.0, 0.0, 2000.0])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_mean_and_median_are_those_of_numpy_at_any_scale(size, shift):
    values = np.random.default_rng(size).lognormal(size=size)
    for of_logs, of_values in ((log_mean, np.mean), (log_median, np.median)):
        shown = of_logs(np.log(values) + shift) - shift
        assert shown == pytest.approx(np.log(of_values(values)), abs=1e-12)


def test_zeros_and_what_is_not_finite_stay_what_they_are():
    zeros, bad = np.full(4, -np.inf), np.array([0.0, np.nan])
    for statistic in (log_mean, log_median):
        assert statistic(zeros) == -np.inf
        assert np.isnan(statistic(bad))


def test_what_a_method_cannot_tell_has_its_reason():
    records = known(quadrature())
    assert records["s_max"].over_matrices(log_median).text() == "2"
    for name in ("s_min", "s_median", "zero_fraction", "condition_number"):
        assert records[name].over_matrices(log_median).text() == "unknown"
        assert "not singular values" in records[name].why
    assert records["zero_fraction"].over_matrices(log_mean).percent() == "unknown"


def test_a_zero_jacobian_has_no_nan():
    records = known(spectrum(np.zeros((1, 1, 3))))
    texts = {name: one.over_matrices(log_mean).text() for name, one in records.items()}
    assert texts["s_max"] == texts["effective_rank"] == texts["mean_s2"] == "0"
    assert (texts["condition_number"], texts["isometry_deviation"]) == ("inf", "1")
    assert "unknown" not in texts.values()
