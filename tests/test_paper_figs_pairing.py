"""Every initializer with its spectrum: which have a law and of what scale, the order, and the command line."""

import functools
import json

import jax
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from isometry import InputError, _pairing, cli, initializers

SMALL = functools.partial(_pairing.pairings, width=8, depth=3, seeds=5)


def entries(*names):
    return tuple(e for e in initializers.catalogue() if e.name in names)


def test_scales_are_those_drawn():
    """sigma_w of every ensemble against the standard deviation of a draw, five of its standard errors."""
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
            assert n * (w**2).mean() == pytest.approx(drawn[1] ** 2, rel=error), entry.name
            assert abs(w.mean()) < 5 * drawn[1] / np.sqrt(n) / n
    assert known == 17


def test_order_and_reasons():
    found = SMALL(jax.random.key(0), entries=entries("ones", "identity", "dirac", "zeros", "torch_default_bias"))
    names = list(dict.fromkeys(row.initializer for row in found.rows))
    assert names == ["identity()", "zeros()", "ones()"]
    assert set(found.left_out) == {"dirac", "torch_default_bias"}
    assert found.left_out["torch_default_bias"] == "torch_default_bias(): a law of biases, not of weights"
    assert found.left_out["dirac"]
    by = {(row.initializer, row.activation): row for row in found.rows}
    np.testing.assert_allclose(by["identity()", "linear"].deviation, np.zeros(5), atol=8 * np.finfo(float).eps)
    assert np.isneginf(by["zeros()", "tanh"].log_s).all()
    assert by["zeros()", "tanh"].deviation.tolist() == [1.0] * 5
    np.testing.assert_allclose(by["ones()", "linear"].log_s[:, 0], 3 * np.log(8), rtol=1e-12)
    assert np.isneginf(by["ones()", "linear"].log_s[:, 1:]).all()
    assert all("not random" in row.law for row in found.rows)
    with pytest.raises(InputError, match=r"pairings\(\): seeds=4"):
        SMALL(jax.random.key(0), seeds=4)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(_pairing, "pairings", SMALL)


def call(*argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(["schemes", "--spectra", *map(str, argv)])
    return stop.value.code


@pytest.mark.usefixtures("small")
def test_command(tmp_path, capsys):
    """A picture and strict JSON, the law's verdict in the table; nothing without a folder; bad names in one line."""
    out = tmp_path / "new"
    assert call("orthogonal", "--out", out) == 0
    shown = capsys.readouterr().out
    assert "orthogonal()" in shown
    assert "as the law" in shown
    assert "too few to compare" in shown
    assert sorted(p.name for p in out.iterdir()) == ["spectra.json", "spectra.png"]
    assert (out / "spectra.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((out / "spectra.json").read_text(), parse_constant=pytest.fail)
    assert [row["activation"] for row in result["pairings"]] == list(_pairing.ACTIVATIONS)
    assert result["pairings"][0]["isometry_deviation"] < 1e-14
    assert call("dirac", "--json") == 0
    assert json.loads(capsys.readouterr().out)["left_out"].keys() == {"dirac"}
    assert call("ortogonal") == 2
    assert "orthogonal" in capsys.readouterr().err
