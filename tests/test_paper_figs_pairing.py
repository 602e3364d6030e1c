"""Every initializer with its spectrum: which have a law, and of what scale."""

import jax
import numpy as np
import pytest

pytest.importorskip("matplotlib")
from isometry import initializers
from paper_figs import _pairing


def test_scales_are_those_drawn():
    """sigma_w against the standard deviation of a draw, to five standard errors."""
    n, known = 128, 0
    for entry in initializers.catalogue():
        for given in _pairing._GIVEN.get(entry.name, ({},)):
            if entry.name in _pairing._OTHERWISE:
                continue
            solved = {"activation": "relu"} if entry.name == "critical" else {}
            init = entry.factory(**solved, **given)
            drawn = _pairing._drawn(entry.name, given, init, "relu", n)
            if isinstance(drawn, str):
                continue
            w, known = np.asarray(init(jax.random.key(1), (n, n)), float), known + 1
            kurtosis_bound = 2.0  # of (w² − E w²)/E w², largest for Gaussian entries
            error = 5 * np.sqrt(kurtosis_bound) / n
            assert n * (w**2).mean() == pytest.approx(drawn[1] ** 2, rel=error), (
                entry.name
            )
            assert abs(w.mean()) < 5 * drawn[1] / np.sqrt(n) / n
    assert known == 17


def test_order_and_reasons():
    chosen = ("ones", "identity", "dirac", "zeros", "torch_default_bias")
    entries = [entry for entry in initializers.catalogue() if entry.name in chosen]
    found = _pairing.pairings(
        jax.random.key(0), width=8, depth=3, seeds=5, entries=entries
    )
    names = list(dict.fromkeys(row.initializer for row in found.rows))
    assert names == ["identity()", "zeros()", "ones()"]
    assert set(found.left_out) == {"dirac", "torch_default_bias"}
    assert (
        found.left_out["torch_default_bias"]
        == "torch_default_bias(): a law of biases, not of weights"
    )
    assert found.left_out["dirac"]
    by = {(row.initializer, row.activation): row for row in found.rows}
    np.testing.assert_allclose(
        by["identity()", "linear"].deviation, np.zeros(5), atol=8 * np.finfo(float).eps
    )
    assert np.isneginf(by["zeros()", "tanh"].log_s).all()
    assert by["zeros()", "tanh"].deviation.tolist() == [1.0] * 5
    np.testing.assert_allclose(
        by["ones()", "linear"].log_s[:, 0], 3 * np.log(8), rtol=1e-12
    )
    assert np.isneginf(by["ones()", "linear"].log_s[:, 1:]).all()
    assert all("not random" in row.law for row in found.rows)
