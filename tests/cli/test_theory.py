"""`isometry theory`: the numbers of the library, as a table and as strict JSON, and one line for what it refuses."""

import json
import math
import os
import subprocess
import sys

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from isometry import _cli_common, cli, theory


def call(*argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(["theory", *map(str, argv)])
    return stop.value.code


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_says_what_the_library_says(capsys, tmp_path):
    assert (
        call(
            "--sigma-w",
            1.5,
            "--sigma-b",
            0.3,
            "--depth",
            10,
            "--json",
            "--out",
            tmp_path / "o",
        )
        == 0
    )
    shown, told = capsys.readouterr()
    found = strict(shown)
    assert (
        strict((tmp_path / "o" / "theory.json").read_text())["point"] == found["point"]
    )
    assert "wrote" in told
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "theory.json",
        "theory.png",
    ]
    law = theory.jacobian_law("tanh", 10, None, 1.5, 0.3)
    assert found["laws"]["orthogonal"]["s_max"] == pytest.approx(law.s_max, rel=1e-12)
    assert found["laws"]["gaussian"]["mean_lam"] == pytest.approx(
        law.moment(1), rel=1e-9
    )
    point = found["point"]
    assert point["phase"] == "chaotic"
    log_mean = math.log(law.moment(1))
    assert point["log_mean_squared_singular_value"] == pytest.approx(log_mean, rel=1e-9)
    assert point["q"] == theory.q_fixed_point("tanh", 1.5, 0.3).value
    assert point["depth_scales"]["xi_c"] == theory.depth_scales("tanh", 1.5, 0.3).xi_c
    assert point["c"]["gap"] == theory.c_fixed_point("tanh", 1.5, 0.3).gap
    (critical,) = found["critical_points"]
    assert critical["sigma_w"] == theory.critical_points("tanh", 0.3)[0].sigma_w


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ("--q", 0.25, "--depth", 32),
            (
                "critical",
                "0.25",
                "0.136976729",
                "xi_grad",
                "inf",
                "ln mean lam, 32 layers",
                "the law of 32 layers",
            ),
        ),
        (
            ("--activation", "gelu", "--sigma-b", 0.1),
            ("unstable: never reached", "unbounded", "is not reached from 1"),
        ),
        (
            ("--activation", "relu", "--sigma-w", 1.6),
            (
                "relu has them for sigma_b = 0 only",
                "q diverges",
            )[:1],
        ),
        (("--activation", "softplus"), ("softplus has none for any sigma_b",)),
    ],
)
def test_table(argv, words, capsys):
    assert call(*argv) == 0
    shown = capsys.readouterr().out
    for word in words:
        assert word in shown


def test_a_narrow_terminal_folds_numbers_and_cuts_none(capsys, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(_cli_common, "console", lambda: Console(width=40))
    assert call("--sigma-w", 1.5, "--sigma-b", 0.3, "--depth", 6) == 0
    assert "…" not in capsys.readouterr().out


def test_an_output_without_greek_gets_question_marks():
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    argv = [
        sys.executable,
        "-m",
        "isometry.cli",
        "theory",
        "--sigma-w",
        "1.5",
        "--sigma-b",
        "0.3",
    ]
    ran = subprocess.run(
        argv, env=ascii_only, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    assert "mu_2/mu_1? ? 1" in ran.stdout
    assert "0.9608442797" in ran.stdout


def test_what_does_not_exist_is_null(capsys):
    assert (
        call("--activation", "relu", "--sigma-w", 1.6, "--sigma-b", 0.1, "--json") == 0
    )
    point = strict(capsys.readouterr().out)["point"]
    assert (point["q"], point["phase"], point["q_fixed_points"]) == (
        None,
        "unbounded",
        [],
    )
    assert "exceeds the last" in point["note"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--q", -1), "--q=-1.0 is not a finite number in [0, inf)"),
        (("--q", 1, "--sigma-w", 2), "--q fixes sigma_w and sigma_b"),
        (("--sigma-w", 0), "--sigma-w=0.0 is not a finite number in (0, inf)"),
        (("--activation", "tan"), "Did you mean 'tanh'"),
        (
            ("--activation", "softplus", "--q", 1),
            "softplus at q=1 has chi_1 = 1 only with sigma_b²",
        ),
        (("--depth", 0), "--depth=0 must be a whole number, between 1 and 100000"),
    ],
)
def test_refusals(argv, message, capsys):
    assert call(*argv) == 2
    shown, complaint = capsys.readouterr()
    assert shown == ""
    assert message in complaint
    assert complaint.count("\n") == 1


def test_a_full_disk_is_said_and_nothing_left(tmp_path, capsys):
    """A limit on the size of files fails as a full disk does: in the middle of a write."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        code = call("--q", 0.25, "--depth", 2, "--out", tmp_path / "o")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    shown, complaint = capsys.readouterr()
    assert code == 2
    assert shown == ""
    assert "cannot be written: File too large" in complaint
    assert complaint.count("\n") == 1
    assert list((tmp_path / "o").iterdir()) == []
