"""Distances of a spectrum from its law, by a plain count."""

import numpy as np
import pytest

from isometry import compare, theory
from tests.comparison.drawn import drawn


def test_distances_agree_with_a_plain_count():
    """KS and Wasserstein of one Gaussian matrix, by the closed form of its law."""
    sp = drawn("linear", "gaussian", 1, 64, 1.0, 8)
    law = theory.fuss_catalan(1)
    comparison = compare(sp, law)
    lam = np.exp(2 * np.sort(np.asarray(sp.log_values).ravel()))
    angle = np.arccos(1 - np.minimum(lam, 4) / 2)
    exact = np.where(lam < 4, (angle + np.sin(angle)) / np.pi, 1)
    below = np.arange(lam.size) / lam.size
    at_steps = (exact - below, exact - below - 1 / lam.size)
    # compare leaves out a value at either end.
    assert comparison.ks == pytest.approx(abs(np.array(at_steps)).max(), abs=1.5 / 64)
    ranks = (np.arange(64) + 0.5)[1:-1] / 64
    predicted = np.log(law.quantile(ranks))
    mean = 2 * np.asarray(sp.log_values)[:, 0, ::-1].mean(0)[1:-1]
    distance = np.abs(mean - predicted).mean()
    assert comparison.wasserstein == pytest.approx(distance, rel=1e-2)
    gap = (mean - predicted).mean()
    assert comparison.moment_gaps["mean"] == pytest.approx(gap, abs=1e-4)
