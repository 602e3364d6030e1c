"""Distances of certified-equal units, planted and fitted."""

import math

import numpy as np
import pytest
from scipy import stats

from isometry.verdicts._spread import Spread, _Class, _compared

STEPS = np.arange(0, 90, 10)


def spreads(spread):
    spread = np.asarray(spread)
    return Spread(("z",), STEPS, spread, np.full(spread.shape, np.inf))


def test_growth_is_the_slope_of_the_logarithm():
    """Its interval is that of a regression, and holds the truth in 95 % of draws."""
    rng = np.random.default_rng(0)
    level = np.array([[1e-16], [1e-12], [1e-14]])
    rate, (low, high) = spreads(level * np.exp(0.07 * STEPS)).growth()
    assert rate == pytest.approx(0.07, rel=1e-9)
    assert high - low < 1e-9
    num_held = 0
    for _ in range(400):
        noise = rng.normal(size=(3, len(STEPS)))
        _, (low, high) = spreads(level * np.exp(0.07 * STEPS + noise)).growth()
        num_held += low <= 0.07 <= high
    assert abs(num_held / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)
    # Of a single seed SciPy knows it: a line through the logarithms of nine values.
    of_one = level[:1] * np.exp(0.07 * STEPS + rng.normal(size=(1, len(STEPS))))
    rate, bounds = spreads(of_one).growth()
    line = stats.linregress(STEPS, np.log(of_one[0]))
    wanted = stats.t.interval(0.95, len(STEPS) - 2, line.slope, line.stderr)
    assert rate == pytest.approx(line.slope, rel=1e-9)
    assert bounds == pytest.approx(wanted, rel=1e-9)


def test_values_that_are_equal_to_the_bit_are_no_part_of_the_growth():
    level = np.array([[1e-16], [1e-12]])
    late = level * np.exp(0.07 * STEPS) * (STEPS > 20)
    assert spreads(late).growth()[0] == pytest.approx(0.07, rel=1e-9)
    assert spreads(0 * level * STEPS).growth() is None


def test_distances_within_a_class_and_from_kinks():
    """Values 0, 1 and 3 are a class, with one sign turned."""
    z = np.zeros((4, 5))
    z[:, 0], z[:, 1], z[:, 3], z[:, 4] = 2.0, -2.0, 2.5, 9.0
    classes = _Class(np.array([0, 1, 3]), np.array([0, 0, 0]), np.array([1, -1, 1]))
    size = math.sqrt((4 + 4 + 6.25 + 81) / 5)
    spread, least = _compared(z, classes, (0.0,))
    assert spread == pytest.approx(0.25)
    assert least == pytest.approx(2 / size)
    assert _compared(z, classes, (-1.0, 2.25))[1] == pytest.approx(0.25 / size)
    assert _compared(z, classes, ()) == (pytest.approx(0.25), np.inf)
    assert _compared(z * np.nan, classes, (0.0,)) == (np.inf, 0.0)
    none = _Class(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int))
    assert _compared(z, none, (0.0,)) == (0.0, np.inf)
