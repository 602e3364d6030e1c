"""`isometry theory`: the numbers of the library, as a table and as strict JSON."""

import math
from dataclasses import replace

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from isometry import theory
from tests.cli.calling import call, refused_in_one_line, strict


def test_json_says_what_the_library_says(capsys, tmp_path):
    point = ["--sigma-w", 1.5, "--sigma-b", 0.3, "--depth", 10]
    assert call("theory", *point, "--json", "--out", tmp_path / "o") == 0
    shown, complaints = capsys.readouterr()
    answer = strict(shown)
    written = strict((tmp_path / "o" / "theory.json").read_text())
    assert written["point"] == answer["point"]
    assert complaints.splitlines()[-1].startswith("wrote ")
    names = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert names == ["theory.json", "theory.png"]
    law = theory.jacobian_law("tanh", 10, None, 1.5, 0.3)
    laws = answer["laws"]
    assert laws["orthogonal"]["s_max"] == pytest.approx(law.s_max, rel=1e-12)
    assert laws["gaussian"]["mean_lam"] == pytest.approx(law.moment(1), rel=1e-9)
    point = answer["point"]
    assert point["phase"] == "chaotic"
    log_mean = math.log(law.moment(1))
    found = point["log_mean_squared_singular_value"]
    assert found == pytest.approx(log_mean, rel=1e-9)
    assert point["q"] == theory.q_fixed_point("tanh", 1.5, 0.3).value
    scales = theory.depth_scales("tanh", 1.5, 0.3)
    assert point["depth_scales"]["xi_c"] == scales.xi_c
    assert point["c"]["gap"] == theory.c_fixed_point("tanh", 1.5, 0.3).gap
    (critical,) = answer["critical_points"]
    assert critical["sigma_w"] == theory.critical_points("tanh", 0.3)[0].sigma_w


def test_progress_names_each_law(capsys):
    """The laws are what takes long."""
    assert call("theory", "--activation", "linear", "--sigma-w", 1, "--depth", 2) == 0
    assert capsys.readouterr().err == (
        "law of 2 layers, orthogonal weights\nlaw of 2 layers, gaussian weights\n"
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ("--q", 0.25, "--depth", 32),
            [
                "critical",
                "0.25",
                "0.136976729",
                "xi_grad",
                "inf",
                "gradients keep their size",
                "relative variance of lam a layer",
                "the law of 32 layers",
            ],
        ),
        (("--q", 0.25, "--depth", 32), ["ln mean lam, 32 layers"]),
        (("--sigma-w", 1.5), ["squared gradients explode"]),
        (("--sigma-w", 0.5), ["squared gradients vanish"]),
        (
            ("--activation", "gelu", "--sigma-b", 0.1),
            ["unstable: never reached", "unbounded", "is not reached from 1"],
        ),
        (
            ("--activation", "relu", "--sigma-w", 1.6),
            ["relu has them for sigma_b = 0 only"],
        ),
        (("--activation", "softplus"), ["softplus has none for any sigma_b"]),
    ],
)
def test_table_says(argv, words, capsys):
    assert call("theory", *argv) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for word in words:
        assert word in shown


def test_what_does_not_exist_is_null(capsys):
    point = ["--activation", "relu", "--sigma-w", 1.6, "--sigma-b", 0.1]
    assert call("theory", *point, "--json") == 0
    point = strict(capsys.readouterr().out)["point"]
    assert point["q"] is None
    assert point["phase"] == "unbounded"
    assert point["q_fixed_points"] == []
    assert "exceeds the last" in point["note"]
    assert not point["note"].startswith("q_fixed_point()")


@pytest.mark.parametrize("order", [1, -1])
def test_point_without_sigma_w_is_the_stable_critical_one(order, capsys, monkeypatch):
    """A signal leaves an unstable one."""
    (stable,) = theory.critical_points("tanh", 0.3)
    unstable = replace(stable, stable=False, sigma_w=9.0)
    points = [stable, unstable][::order]
    monkeypatch.setattr(theory, "critical_points", lambda *args: points)
    assert call("theory", "--sigma-b", 0.3, "--json") == 0
    answer = strict(capsys.readouterr().out)
    assert answer["point"]["sigma_w"] == stable.sigma_w
    assert len(answer["critical_points"]) == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--q", -1), "--q=-1.0 is not a finite number in [0, inf)"),
        (("--q", 1, "--sigma-w", 2), "--q fixes sigma_w and sigma_b"),
        (("--sigma-w", 0), "--sigma-w=0.0 is not a finite number in (0, inf)"),
        (("--sigma-b", -1), "--sigma-b=-1.0 is not a finite number in [0, inf)"),
        (("--activation", "tan"), "Did you mean 'tanh'"),
        (
            ("--activation", "softplus", "--q", 1),
            "softplus at q=1 has chi_1 = 1 only with sigma_b²",
        ),
        (("--depth", 0), "--depth=0 must be a whole number, between 1 and 100000"),
    ],
)
def test_refusal_is_one_line(argv, words, capsys):
    assert call("theory", *argv) == 2
    refused_in_one_line(capsys, words)


def test_full_disk_is_said_and_nothing_left(tmp_path, capsys):
    """A limit on file sizes fails as a full disk does: in the middle of a write."""
    resource = pytest.importorskip("resource")
    # The laws, and all that is compiled, are there before the limit.
    argv = ["theory", "--q", 0.25, "--depth", 2, "--out"]
    assert call(*argv, tmp_path / "before") == 0
    capsys.readouterr()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        code = call(*argv, tmp_path / "o")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    shown, complaints = capsys.readouterr()
    assert code == 2
    assert shown == ""
    assert "cannot be written: File too large" in complaints.splitlines()[-1]
    assert list((tmp_path / "o").iterdir()) == []
