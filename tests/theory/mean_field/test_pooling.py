"""Moments of pooled normals, in closed form."""

import math

import pytest

from isometry import InputError, theory


@pytest.mark.parametrize(
    ("window", "mean", "second"),
    [
        (1, 0.0, 1.0),
        (2, 1 / math.sqrt(math.pi), 1.0),
        (3, 1.5 / math.sqrt(math.pi), 1 + math.sqrt(3) / (2 * math.pi)),
        ((2, 2), 1.0293753730039641, 1 + math.sqrt(3) / math.pi),
    ],
)
def test_the_largest_of_a_few(window, mean, second):
    """Closed forms of order statistics (Jones, 1948)."""
    found = theory.pooling_moments("max", window)
    assert found == (pytest.approx(mean, abs=1e-13), pytest.approx(second, rel=1e-13))


def test_the_average_of_a_window():
    assert theory.pooling_moments("average", (3, 3)) == (0.0, 1 / 9)


@pytest.mark.parametrize(
    ("pooling", "window", "message"),
    [("mean", 2, "pooling='mean'"), ("max", 0, "window=0"), ("max", 2.0, "window=2.0")],
)
def test_what_is_refused(pooling, window, message):
    with pytest.raises(InputError, match=message):
        theory.pooling_moments(pooling, window)
