"""Estimates from ensembles, as the papers' figures share them."""

import jax
import numpy as np
import pytest
import xarray

from isometry import networks
from paper_figs._ensembles import (
    log_ratio,
    mean,
    power,
    rows_of_gaps,
    squared_gradients,
    typical_input,
)


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


def test_power_of_an_exact_power_is_its_exponent():
    depths = (64, 256)
    logs = np.log(3.0 * np.array(depths) ** -1.5)
    assert power(logs, depths) == pytest.approx(-1.5, rel=1e-12)


def test_each_kind_has_its_largest_gap():
    """One row for each kind; a gap beyond its interval, or one that is NaN, fails."""
    values = [[0.2, 0.9], [0.3, 1.1], [0.1, np.nan]]
    gaps = xarray.DataArray(values, {"kind": ["a", "b", "c"]}, ("kind", "layer"))
    rows = rows_of_gaps(gaps, "kind", "J")
    assert [row.holds for row in rows] == [True, False, False]
    assert [row.what[0] for row in rows] == ["a", "b", "c"]
    assert rows[1].measured == 1.1


def test_squared_gradients_of_a_linear_network_are_those_of_its_matrices():
    """Behind layer 0 of two the output is W₁ h, so that |∂f/∂h|²/N is |W₁|²/N."""
    width = 8
    net = networks.mlp([width] * 3, "linear", "gaussian", bias=False)
    keys = jax.random.split(jax.random.key(0), 5)
    names = ["layers/0"]
    measured = squared_gradients(net, keys, typical_input(width), names=names)
    assert measured.shape == (5, 1)
    for key, value in zip(keys, measured[:, 0], strict=True):
        last = net.init(key)["layers"][-1]["w"]
        assert value == pytest.approx(np.sum(np.square(last)) / width, rel=1e-5)
