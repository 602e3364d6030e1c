"""What the number of units of a layer does to a comparison."""

import math
from dataclasses import replace

import numpy as np
import pytest

from isometry import compare, theory
from isometry.comparison import _finite_width
from tests.comparison.drawn import drawn, law_of, spectrum_of


def test_values_of_equal_pixels_count_once():
    """Four positions with the same values know ranks no better than one."""
    # Of several positions no formula for the norm is known.
    law = replace(theory.fuss_catalan(1), frobenius_fluctuation=None)
    one = drawn("linear", "gaussian", 1, 48, 1.0, 8)
    log_values = np.asarray(one.log_values)[:, 0].repeat(4, -1)
    four = compare(spectrum_of(log_values, 1), replace(law, positions=4))
    single = compare(one, law)
    assert four.width == single.width == 48
    for name in ("ks", "mean", "sd", "spread", "log_mean"):
        # Ranks are compared at four times as many places, a quarter of 1/48 apart.
        assert four.gaps[name] == pytest.approx(single.gaps[name], abs=6e-3)
        assert four.band[name].width == pytest.approx(single.band[name].width, rel=0.1)


def test_the_norm_has_a_band_of_its_own():
    """E |J|⁴ of ReLU and Gaussian weights in closed form, k = 2, gives its variance.

    It is less than half that of |Jv|², 5 L/N.
    """
    width, depth = 64, 6
    law = law_of("relu", "gaussian", depth, 1.0)
    comparison = compare(drawn("relu", "gaussian", depth, width, 1.0, 8), law)
    vector = (1 + 5 / width) ** depth
    ratio = (1 + 2 / width) / 3 * vector + 2 / 3 * (1 - 1 / width) ** (depth + 1)
    band = comparison.band["log_mean"]
    assert band.expected == pytest.approx(-math.log(ratio) / 2, rel=1e-9)
    assert math.log(ratio) < 0.5 * law.finite_width(width).variance
    assert band.total < 0.5 * comparison.band["mean"].total


def test_rank_of_a_finite_product_is_that_of_its_emptiest_layer():
    """Of 8 units, each active or not like a coin: by counting, for three layers."""
    width, depth = 8, 3
    law = law_of("relu", "gaussian", depth, 1.0)
    counts = np.array([math.comb(width, k) for k in range(width + 1)]) / 2**width
    # P(a layer keeps at least k units), k = 1 .. 8: their sum is the mean rank.
    at_least = counts[::-1].cumsum()[::-1][1:]
    mean_rank = (at_least**depth).sum()
    found = _finite_width.rank_deficit(law, width)
    assert found == pytest.approx(0.5 - mean_rank / width, rel=1e-12)
