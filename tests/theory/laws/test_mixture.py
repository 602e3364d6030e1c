"""Mixtures: the average of laws, with gaps, atoms and zeros."""

import numpy as np
import pytest

from isometry import InputError, theory
from isometry._internal.errors import NotDefined
from isometry.theory.laws._product import product_of


@pytest.fixture(scope="module")
def laws():
    """Density and zeros; an atom at 1; density down to 0; all square, two pairs."""
    relu = theory.jacobian_law("relu", depth=2, q=1.0)
    identity = theory.Law(product_of({}), "identity", pairs=2)
    return relu, identity, theory.fuss_catalan(2)


@pytest.fixture(scope="module")
def mixture(laws):
    return theory.Mixture(laws, [0.25, 0.25, 0.4], zeros=0.1)


def test_all_methods_average(mixture, laws):
    x = np.array([0.0, 0.3, 1.0, 2.5])
    shares = mixture.shares
    for name in ("density", "cdf", "survival"):
        wanted = sum(
            share * getattr(law, name)(x)
            for share, law in zip(shares, laws, strict=True)
        )
        if name == "cdf":
            wanted = wanted + 0.1
        np.testing.assert_allclose(getattr(mixture, name)(x), wanted, rtol=1e-12)
    seconds = [law.moment(2) for law in laws]
    assert mixture.moment(2) == pytest.approx(np.dot(shares, seconds), rel=1e-13)
    variance = mixture.moment(2) - mixture.moment(1) ** 2
    assert mixture.variance == pytest.approx(variance, rel=1e-12)
    # Of log s over the mass off zero, which is half of the first law.
    logs = [law.moment(1, "log_s") for law in laws]
    ranks = np.array(shares) * [0.5, 1, 1]
    wanted = np.dot(ranks, logs) / ranks.sum()
    assert mixture.moment(1, "log_s") == pytest.approx(wanted, rel=1e-12)


def test_support_and_atoms(mixture, laws):
    (support,) = mixture.support
    assert support == (0.0, pytest.approx(6.75))
    zero, one = mixture.atoms
    assert zero == (0.0, pytest.approx(mixture.zero_mass))
    assert mixture.zero_mass == pytest.approx(0.1 + 0.125)
    assert one == (1.0, pytest.approx(0.25))
    assert mixture.s_max == laws[2].s_max
    assert mixture.pairs == 2


def test_quantiles_invert_the_distribution(mixture):
    p = np.array([0.0, 0.1, 0.225, 0.3, 0.4, 0.5, 0.62, 0.9, 0.999, 1.0])
    x = mixture.quantile(p)
    np.testing.assert_array_equal(x[:3], 0.0)
    assert x[-1] == pytest.approx(6.75)
    above = mixture.cdf(x * (1 + 1e-9))
    below = mixture.cdf(x * (1 - 1e-9))
    assert np.all(above >= p - 1e-8)
    assert np.all((below <= p + 1e-8) | (x == 0))
    # Ranks within the atom are at it.
    low, high = mixture.cdf(1 - 1e-9), mixture.cdf(1.0)
    assert mixture.quantile((low + high) / 2) == pytest.approx(1.0, rel=1e-11)


def test_blocks_are_no_free_factors(mixture):
    for ask in (lambda: mixture.product, lambda: theory.freeprob.S(mixture, -0.1)):
        with pytest.raises(NotDefined, match="mixture of 3 laws"):
            ask()
    with pytest.raises(NotDefined, match="no formula"):
        mixture.finite_width(64)


@pytest.mark.parametrize(
    ("shares", "message"),
    [([0.5, 0.6, 0.1], "sum to 1"), ([1.0], "1.* for 3 laws"), ([2, -1, 0], "shares")],
)
def test_what_is_refused(laws, shares, message):
    with pytest.raises(InputError, match=message):
        theory.Mixture(laws, shares)
    wide = theory.marchenko_pastur(2.0)
    with pytest.raises(InputError, match="blocks of one shape"):
        theory.Mixture([laws[0], wide], [0.5, 0.5])
