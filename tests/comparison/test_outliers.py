"""Singular values of no mass beyond the law's edge."""

from dataclasses import replace

import numpy as np
import pytest

from isometry import compare, theory
from tests.comparison.drawn import spectrum_of


@pytest.fixture(scope="module")
def spiked():
    """A Gaussian matrix, and the same with a large rank-one part; ten draws each."""
    rng = np.random.default_rng(0)
    bulk = rng.standard_normal((10, 64, 64)) / 8
    u, v = rng.standard_normal((2, 10, 64)) / 8
    spike = 4 * u[:, :, None] * v[:, None, :]
    return [
        spectrum_of(np.log(np.linalg.svd(matrices, compute_uv=False)), 1)
        for matrices in (bulk, bulk + spike)
    ]


def test_outliers_are_compared_in_number_and_left_out_of_the_bulk(spiked):
    """A rank-one part of s = 4, and the law of one Gaussian matrix ends at 2."""
    plain, with_outlier = spiked
    law = theory.fuss_catalan(1)
    stated = replace(law, outliers=1)
    found = compare(with_outlier, stated)
    assert found.consistent, found.summary()
    assert found.outliers == 1
    assert "1 of a draw, up to 1 expected" in found.summary()
    # It carries a fifth of |J|_F², and no mass.
    unstated = compare(with_outlier, law)
    assert set(unstated.excesses) == {"outliers", "log_mean"}
    assert compare(plain, law).outliers == 0
    missing = compare(plain, stated)
    assert list(missing.excesses) == ["outliers"]
    # Others of those that a law states may still be inside the bulk.
    assert compare(with_outlier, replace(law, outliers=3)).consistent
