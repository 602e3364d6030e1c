"""`isometry spectrum`: a table, strict JSON and a picture; refusals in one line."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from isometry import networks
from isometry.cli import _spectrum, _summary
from isometry.measure import _ensemble
from isometry.measure._draws import spaced
from tests.cli.calling import call, refused_in_one_line, strict
from tests.cli.test_summary import quadrature, spectrum_of

TINY = [
    *["--width", "8", "--depth", "3", "--seeds", "5"],
    *["--inputs", "2", "--span", "hidden"],
]
EPS = float(np.finfo(np.float32).eps)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(9, 8)))
    return path


def test_linear_orthogonal_network_is_an_isometry(features, tmp_path, capsys):
    """Its singular values are 1, and so is the only atom of its law."""
    argv = ["spectrum", *TINY, "--activation", "linear", "--data", features]
    schemes = ["--scheme", "orthogonal,partial_identity"]
    assert call(*argv, *schemes, "--out", tmp_path, "--json") == 0
    shown, complaints = capsys.readouterr()
    result = strict(shown)
    assert result == strict((tmp_path / "spectrum.json").read_text())
    progress, written = complaints.split("\n")[1:3]
    assert progress == "partial_identity: Jacobians and law"
    assert written.startswith("wrote ")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["spectrum.json", "spectrum.png"]
    png = (tmp_path / "spectrum.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert result["settings"]["span"] == "hidden"
    haar = result["spectra"]["orthogonal"]
    assert haar["no_law"] is None
    assert haar["consistent"] is True
    assert haar["not_compared"] is None
    # Of the draw and of the SVD, n eps each.
    rounding = 2 * 8 * EPS
    for name in ("s_min", "s_50%", "s_max", "mean_s2", "condition_number"):
        line = haar["statistics"][name]
        assert line["mean"] == pytest.approx(1, abs=2 * rounding)
        assert line["law"] == pytest.approx(1, abs=1e-9)
        assert 0 <= line["standard_error"] < rounding
    square = result["spectra"]["partial_identity"]
    assert square["law"] is None
    assert "partial_identity" in square["no_law"]
    assert square["consistent"] is None
    assert all(line["law"] is None for line in square["statistics"].values())


@pytest.mark.slow
def test_lanczos_names_its_steps(features, capsys):
    network = ["--width", 8, "--depth", 2, "--scheme", "zer_o"]
    draws = ["--seeds", 1, "--inputs", 1, "--data", features]
    assert call("spectrum", *network, *draws, "--method", "lanczos") == 0
    shown = capsys.readouterr().out
    assert "Lanczos(steps=8" in shown
    assert "no law: " in shown
    assert "condition_number" in shown


def test_why_there_is_no_comparison_is_said(capsys):
    """A hundred Gaussian layers resolve a fifth of their values; one seed is too few.

    Linear ones: the law of a hundred layers of tanh takes five times as long.
    """
    linear = [
        *["--span", "hidden", "--data", "gaussian"],
        *["--scheme", "gaussian", "--activation", "linear"],
    ]
    deep = ["--width", 16, "--depth", 101, "--seeds", 5, "--inputs", 1]
    assert call("spectrum", *deep, *linear, "--json") == 0
    row = strict(capsys.readouterr().out)["spectra"]["gaussian"]
    assert row["law"] is not None
    assert row["consistent"] is None
    assert "every draw resolves only the top" in row["not_compared"]
    assert call("spectrum", *TINY[:4], "--seeds", 1, *linear) == 0
    assert "at least 5 are needed" in " ".join(capsys.readouterr().out.split())


def test_why_statistics_are_unknown_is_said_once(capsys):
    sp = quadrature()
    judged = _spectrum.Judged(sp, _summary.summary(sp), no_law="none")
    _spectrum._print({"orthogonal": judged})
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("no mean for s_min, s_5%, s_25%, s_50%, s_75%, s_95%: Lanc") == 1
    assert "│ s_min │ unknown │" in shown
    assert "no law: none" in shown


def test_a_deep_network_has_bounds_where_nothing_is_resolved(capsys):
    """A product of 38 Gaussian matrices of width 16 has its smallest s far below it.

    Each factor adds (psi(1/2) - ln 8)/2 = -2.0 to ln s_min, (psi(8) - ln 8)/2 = -0.03
    to ln s_max (Newman, 1986), so that their ratio is e^-75; float32 resolves e^-16.
    """
    argv = ["--width", 16, "--depth", 40, "--data", "gaussian", "--scheme", "gaussian"]
    argv += ["--seeds", 2, "--inputs", 2, "--span", "hidden", "--activation", "linear"]
    assert call("spectrum", *argv) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"│ s_min │ < \d\.?\d*e-\d\d │ │", shown)
    assert re.search(r"│ condition_number │ > \d\.?\d*e\+\d\d │ │", shown)
    assert "no mean for s_min, s_5%" in shown
    assert "below the floor of the method in 4 of 4 Jacobians" in shown


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"law": None, "no_law": "none is known"}, "no law: none is known"),
        (
            {"law": "Haar", "consistent": None, "not_compared": "one seed"},
            "law: Haar; not compared: one seed",
        ),
        ({"law": "Haar", "consistent": True}, "consistent with Haar"),
        (
            {"law": "Haar", "consistent": False, "excesses": {"s_max": 12.3}},
            "not consistent with Haar; gaps over what they may be: s_max 12",
        ),
    ],
)
def test_verdict_says(row, words):
    assert _spectrum._verdict(row) == words


def test_law_whose_numbers_cannot_be_found_is_none():
    class Net:
        def law(self, span, xs):
            raise ArithmeticError("no such law")

    sp = spectrum_of([[[2.0, 1.0]]])
    judged = _spectrum.judge(Net(), sp, span="hidden", points=None)
    assert judged.law is None
    assert judged.excesses is None
    assert judged.no_law == "no such law"
    assert judged.statistics["s_max"].law is None
    assert judged.as_dict()["consistent"] is None


def test_data_are_named(features, capsys):
    network = [*TINY[:4], "--seeds", 5, "--inputs", 2, "--span", "hidden"]
    assert call("spectrum", *network, "--data", features) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"data: 9 examples of {features}, without targets"


def test_inputs_are_spaced_from_first_to_last():
    assert spaced(jnp.arange(9.0), 3).tolist() == [0, 4, 8]
    assert spaced(jnp.arange(3.0), 5).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--scheme", "ortogonal"], "orthogonal"),
        (["--activation", "tahn"], "tanh"),
        (["--width", "0"], "--width"),
        (["--seeds", "0"], "--seeds"),
        (["--span", "middle"], "--span='middle'"),
        (["--span", "nowhere,output"], "--span: 'nowhere' names no point"),
        (["--span", "output,layers/0"], "--span output,layers/0: 'layers/0' does not"),
        (["--method", "svd"], "--method='svd'"),
        (["--span", "hidden", "--depth", "2"], "--depth=2"),
        (["--data", "gausian"], "gaussian"),
        (["--seed", "-1"], "--seed"),
        # JAX keeps 32 bits, and would take it for 0.
        (["--seed", str(2**32)], "--seed"),
        (["--depth", str(10**8)], "--depth"),
    ],
)
def test_refusal_comes_before_measuring(argv, words, tmp_path, capsys, monkeypatch):
    def measured(*args, **kwargs):
        pytest.fail("measured before all was checked")

    monkeypatch.setattr(_ensemble, "ensemble", measured)
    out = tmp_path / "out"
    assert call("spectrum", "--data", "gaussian", "--out", out, *argv) == 2
    refused_in_one_line(capsys, words)
    assert not out.exists()


@pytest.mark.slow
def test_data_driven_schemes_look_at_all_of_the_data(features, capsys, monkeypatch):
    seen = []
    adjust = networks.Network.adjust

    def watched(net, params, xs):
        seen.append(len(xs))
        return adjust(net, params, xs)

    monkeypatch.setattr(networks.Network, "adjust", watched)
    network = ["--width", 4, "--depth", 2, "--scheme", "lsuv"]
    draws = ["--seeds", 1, "--inputs", 2, "--data", features]
    assert call("spectrum", *network, *draws) == 0
    assert seen == [9]
