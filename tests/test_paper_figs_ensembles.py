"""Estimates from ensembles, as the papers' figures share them."""

import numpy as np
import pytest
import xarray

from paper_figs._ensembles import log_ratio, mean, typical_input


def test_extrapolation_removes_what_falls_as_one_over_n():
    """At widths N and 2N, v + c/N and v + c/2N give v; errors of draws add up."""
    widths = np.array([8.0, 16.0])
    deviations = np.array([-1.0, 0.0, 1.0])
    values = (2.0 + 3.0 / widths)[:, None] + deviations
    estimate = mean(xarray.DataArray(values, dims=("scale", "draw"))).extrapolated()
    assert float(estimate.value) == pytest.approx(2.0, rel=1e-14)
    # Each mean of three has the error √(1/3), and the wider one counts twice.
    assert float(estimate.error) == pytest.approx(np.sqrt(5 / 3), rel=1e-14)


def test_error_of_a_log_ratio_is_its_spread():
    """Draws are correlated, so that errors of the two means would overstate it."""
    rng = np.random.default_rng(0)
    replicates, draws = 2000, 100
    common, own = rng.standard_normal((2, replicates, draws))
    first = np.exp(0.3 * common)
    second = np.exp(0.3 * common + 0.1 * own)
    dims = ("replicate", "draw")
    found = log_ratio(
        xarray.DataArray(first, dims=dims), xarray.DataArray(second, dims=dims)
    )
    spread = float(found.value.std("replicate"))
    # A standard deviation of so many has a relative error of 1/√(2 n).
    tolerance = 4 / np.sqrt(2 * replicates)
    assert float(found.error.mean()) == pytest.approx(spread, rel=tolerance)


def test_typical_input_is_gaussian_over_units():
    """Its mean vanishes, its mean square is as asked for, and signs are balanced."""
    (units,) = typical_input(64, scale=1.5)
    assert units.mean() == pytest.approx(0.0, abs=1e-6)
    assert np.mean(units**2) == pytest.approx(2.25, rel=1e-6)
    assert np.count_nonzero(units > 0) == 32
