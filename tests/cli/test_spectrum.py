"""`isometry spectrum`: the library's numbers as a table, as strict JSON and as a picture; refusals in one line."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

import isometry
from isometry import _cli_spectrum, _summary, cli, linalg, networks, theory
from isometry._internal import strict_json
from isometry.measure import _ensemble
from isometry.measure._draws import spaced
from isometry.measure._record import Spectrum
from isometry.measure.methods import Dense

TINY = [
    "--width",
    "8",
    "--depth",
    "3",
    "--seeds",
    "5",
    "--inputs",
    "2",
    "--span",
    "hidden",
]


def strict(text):
    return json.loads(text, parse_constant=pytest.fail)


def call(*argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(["spectrum", *map(str, argv)])
    return stop.value.code


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(9, 8)))
    return path


def test_a_linear_orthogonal_network_is_an_isometry(features, tmp_path, capsys):
    """Its singular values are 1, and the law's only atom is there: everything is known."""
    argv = [
        *TINY,
        "--activation",
        "linear",
        "--data",
        features,
        "--out",
        tmp_path,
        "--json",
    ]
    assert call(*argv, "--scheme", "orthogonal,partial_identity") == 0
    shown, told = capsys.readouterr()
    found = strict(shown)
    assert found == strict((tmp_path / "spectrum.json").read_text())
    assert told.startswith("wrote ")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "spectrum.json",
        "spectrum.png",
    ]
    assert (tmp_path / "spectrum.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert found["settings"]["span"] == "hidden"
    haar, square = found["spectra"]["orthogonal"], found["spectra"]["partial_identity"]
    assert haar["no_law"] is None
    assert haar["consistent"] is True
    assert haar["not_compared"] is None
    rounding = (
        2 * 8 * float(np.finfo(np.float32).eps)
    )  # of the draw and of the SVD, n eps each
    for name in ("s_min", "s_50%", "s_max", "mean_s2", "condition_number"):
        line = haar["statistics"][name]
        assert line["mean"] == pytest.approx(1, abs=2 * rounding)
        assert line["law"] == pytest.approx(1, abs=1e-9)
        assert 0 <= line["standard_error"] < rounding
    assert square["law"] is None
    assert "partial_identity" in square["no_law"]
    assert square["consistent"] is None
    assert all(line["law"] is None for line in square["statistics"].values())


@pytest.mark.slow
def test_lanczos_and_what_has_no_standard_error(features, capsys):
    argv = [
        "--width",
        8,
        "--depth",
        2,
        "--seeds",
        1,
        "--inputs",
        1,
        "--data",
        features,
        "--method",
        "lanczos",
    ]
    assert call(*argv, "--scheme", "zer_o") == 0
    shown = capsys.readouterr().out
    assert "Lanczos(steps=8" in shown
    assert "no law: " in shown
    assert "condition_number" in shown


def test_why_there_is_no_comparison_is_said(capsys):
    """A hundred Gaussian layers resolve a fifth of their values; one seed is too few."""
    # Linear: the law of a hundred layers of tanh takes five times as long.
    linear = [
        "--span",
        "hidden",
        "--data",
        "gaussian",
        "--scheme",
        "gaussian",
        "--activation",
        "linear",
    ]
    assert (
        call(
            "--width",
            16,
            "--depth",
            101,
            "--seeds",
            5,
            "--inputs",
            1,
            *linear,
            "--json",
        )
        == 0
    )
    row = strict(capsys.readouterr().out)["spectra"]["gaussian"]
    assert row["law"] is not None
    assert row["consistent"] is None
    assert "every draw resolves only the top" in row["not_compared"]
    assert call(*TINY[:4], "--seeds", 1, *linear) == 0
    assert "at least 5 are needed" in " ".join(capsys.readouterr().out.split())


def known(values):
    logs = jnp.log(jnp.asarray(values))
    return Spectrum(
        logs,
        jnp.full(logs.shape, 1 / logs.shape[-1]),
        jnp.full(logs.shape[:-1], -15.0),
        Dense(),
        2,
    )


def test_what_a_quadrature_does_not_know_is_said_to_be_unknown(capsys):
    """No smallest value, a largest one, an estimate of the mean; all of it strict JSON."""
    nodes = jnp.log(jnp.array([[[[2.0, 1.0], [1.0, 0.5]]]]))
    rule = linalg.Quadrature(
        nodes,
        jnp.full_like(nodes, 0.5),
        jnp.zeros((1, 1)),
        nodes,
        nodes,
        jnp.full((1, 1), 2),
    )
    sp = replace(
        known([[[2.0, 1.0, 1.0, 0.5]]]),
        size=9,
        method=isometry.Lanczos(2, 2),
        quadrature=rule,
    )
    found = _summary.summary(sp)
    for name in (
        "s_min",
        "s_50%",
        "log_spread",
        "condition_number",
        "zero_fraction",
        "exact_zero_fraction",
    ):
        assert found[name]["mean"] is None
        assert "not singular values" in found[name]["why"]
    for name in (
        "s_max",
        "mean_s2",
        "effective_rank",
        "stable_rank",
        "isometry_deviation",
    ):
        assert "why" not in found[name]
    assert found["s_max"]["mean"] == pytest.approx(2, rel=1e-6)
    assert strict(strict_json.dumps(found)) == found
    row = {"spectrum": "of lanczos", "statistics": found, "law": None, "no_law": "none"}
    _cli_spectrum._print({"orthogonal": row})
    assert "unknown: Lanczos" in capsys.readouterr().out


def test_the_numbers_of_a_summary():
    """By hand: two seeds, two inputs, two values each."""
    sp = known([[[2.0, 1.0], [4.0, 1.0]], [[3.0, 1.0], [3.0, 0.0]]])
    found = _summary.summary(sp)
    assert list(found)[:2] == ["s_min", "s_5%"]
    rounding = 16 * float(np.finfo(np.float32).eps)  # of ln s, kept in float32
    # mean square: (2.5, 8.5) and (5, 4.5); over seeds 5.5 and 4.75, half their difference is the standard error
    assert found["mean_s2"]["mean"] == pytest.approx(5.125, rel=rounding)
    assert found["mean_s2"]["standard_error"] == pytest.approx(
        0.375, rel=100 * rounding
    )
    assert found["zero_fraction"]["mean"] == pytest.approx(0.125)
    assert found["condition_number"] == {
        "mean": np.inf,
        "standard_error": None,
        "law": None,
    }
    assert _summary.summary(known([[[2.0, 1.0]]]))["s_max"]["standard_error"] is None


def test_the_law_of_a_summary():
    """One Gaussian layer has Marchenko and Pastur's law: 0 ≤ lam ≤ 4, mean 1, second moment 2."""
    law = theory.jacobian_law("linear", 1, q=1.0, sigma_w=1.0, weights="gaussian")
    found = {
        name: line["law"]
        for name, line in _summary.summary(known([[[2.0, 1.0]]]), law).items()
    }
    assert found["s_max"] == pytest.approx(2, rel=1e-9)
    assert found["mean_s2"] == pytest.approx(1, rel=1e-9)
    assert found["stable_rank"] == pytest.approx(2 / 4, rel=1e-9)
    # E s of the quarter circle is 8/(3π)
    assert found["isometry_deviation"] == pytest.approx(
        (2 - 16 / (3 * np.pi)) ** 0.5, rel=1e-6
    )
    assert found["effective_rank"] is None


def test_a_law_whose_numbers_cannot_be_found_is_none():
    class Net:
        def law(self, span, xs):
            raise ArithmeticError("no such law")

    law, statistics, excesses, why = _cli_spectrum._judged(
        Net(), known([[[2.0, 1.0]]]), "hidden", None
    )
    assert law is None
    assert excesses is None
    assert why == "no such law"
    assert statistics["s_max"]["law"] is None


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
        (["--method", "svd"], "--method='svd'"),
        (["--span", "hidden", "--depth", "2"], "--depth=2"),
        (["--data", "gausian"], "gaussian"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_refusals_before_anything_is_measured(
    argv, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        _ensemble,
        "ensemble",
        lambda *a, **k: pytest.fail("measured before all was checked"),
    )
    assert call("--data", "gaussian", "--out", tmp_path / "out", *argv) == 2
    shown, complaints = capsys.readouterr()
    assert shown == ""
    assert complaints.startswith("isometry: ")
    assert complaints.count("\n") == 1
    assert words in complaints
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command", ["spectrum", "audit", "theory", "schemes", "doctor"]
)
def test_every_command_is_interrupted_in_one_line(command, capsys, monkeypatch):
    """The first thing that each of them computes or reads."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(jax.random, "key", interrupt)
    monkeypatch.setattr("isometry.activations.get", interrupt)
    monkeypatch.setattr("isometry.schemes.listing", interrupt)
    with pytest.raises(SystemExit) as stop:
        cli.main([command])
    assert stop.value.code == 130
    shown, complaints = capsys.readouterr()
    assert shown == ""
    assert complaints == "isometry: interrupted; no file is half-written\n"


@pytest.mark.slow
def test_data_driven_schemes_look_at_all_of_the_data(features, capsys, monkeypatch):
    seen = []
    real = networks.Network.adjust
    monkeypatch.setattr(
        networks.Network,
        "adjust",
        lambda net, p, xs: (seen.append(len(xs)), real(net, p, xs))[1],
    )
    argv = [
        "--width",
        4,
        "--depth",
        2,
        "--seeds",
        1,
        "--inputs",
        2,
        "--data",
        features,
        "--scheme",
        "lsuv",
    ]
    assert call(*argv) == 0
    assert seen == [9]
