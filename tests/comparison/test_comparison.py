"""What a comparison says of itself."""

import pytest

from isometry import compare
from isometry.comparison import Band
from tests.comparison.drawn import drawn, law_of


def test_gaps_beyond_their_bands_are_marked():
    sp = drawn("hard_tanh", "orthogonal", 4, 48, 0.25, 6)
    good = compare(sp, law_of("hard_tanh", "orthogonal", 4, 0.25))
    text = good.summary()
    assert text.startswith(
        "consistent with hard_tanh, depth 4, orthogonal: 6 seeds, 48 singular values\n"
    )
    labels = ("KS", "mean log lam", "sd log lam", "log mean lam", "outliers")
    for word in (*labels, "atom at lam", "Wasserstein", "seeds +", "width)"):
        assert word in text
    assert repr(good).startswith("Comparison(consistent: KS ")
    assert good.excesses == {}
    assert set(good.gaps) == set(good.band)
    bad = compare(sp, law_of("hard_tanh", "gaussian", 4, 0.25))
    assert "not consistent" in bad.summary()
    assert "\n* " in bad.summary()
    assert all(ratio > 1 for ratio in bad.excesses.values())
    with pytest.raises(AttributeError):
        good.ks = 0.0


def test_excess_is_measured_from_the_expected_gap():
    band = Band(seeds=0.3, width=0.2, expected=-1.0)
    assert band.excess(-1.25) == pytest.approx(0.5)
    assert band.excess(0.0) == pytest.approx(2.0)
    # Of what is known exactly.
    assert Band(0.0, 0.0).excess(0.0) == 0
