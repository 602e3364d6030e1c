"""Statistics of a spectrum, and what is expected of them at finite width."""

import numpy as np
import pytest

from isometry import compare, theory
from tests.comparison.drawn import spectrum_of


def test_means_are_below_the_law_by_half_their_variance_between_draws():
    """E log x ≈ log E x − Var(log x)/2 (Hanin and Nica, 2020).

    Here draws differ by a factor alone.
    """
    law = theory.fuss_catalan(1)
    ranks = (np.arange(64)[::-1] + 0.5) / 64
    factors = 0.1 * np.random.default_rng(0).standard_normal((8, 1))
    draws = np.asarray(law.quantile(ranks, "log_s")) + factors
    comparison = compare(spectrum_of(draws, 1), law)
    half_variance = (2 * factors).var(ddof=1) / 2
    mean = comparison.band["mean"]
    assert mean.expected == pytest.approx(-half_variance, rel=1e-12)
    middle = min(comparison.quantile_gaps, key=lambda u: abs(u - 0.5))
    at_rank = comparison.band["rank", middle]
    assert at_rank.expected == pytest.approx(-half_variance, rel=1e-12)
    # Quantiles of the law have its mean, up to the edges' share.
    log_mean = comparison.moment_gaps["log_mean"]
    assert log_mean == pytest.approx(2 * factors.mean(), abs=2e-3)
