"""`isometry audit`: what it writes and prints, its exit codes, what it refuses."""

import pathlib
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from isometry import verdicts
from isometry.cli import _audit
from isometry.verdicts._layers import LayerRow
from tests.cli.calling import call, refused_in_one_line, strict
from tests.verdicts.pages import flag, report

TINY = [
    *["--width", "24", "--depth", "3", "--seeds", "5"],
    *["--inputs", "2", "--train-steps", "5"],
]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A file of 8 features and 3 classes: the rank flag can be raised, as 24 > 8."""
    path = tmp_path_factory.mktemp("data") / "x.npz"
    x = np.random.default_rng(0).normal(size=(128, 8))
    np.savez(path, x=x, y=x[:, :3].argmax(1))
    return path


def small(features, out):
    schemes = "orthogonal,partial_identity"
    return ["audit", *TINY, "--scheme", schemes, "--data", features, "--out", out]


@pytest.fixture(scope="module")
def reports():
    """The reports of the command of `small`, once they are there."""
    return []


@pytest.fixture
def once(reports, monkeypatch):
    """The audit of `small` is computed once; whoever asks again gets its reports."""
    compute = verdicts.audit

    def audit(*args, **kwargs):
        if not reports:
            reports.append(compute(*args, **kwargs))
        return reports[0]

    monkeypatch.setattr(verdicts, "audit", audit)


@pytest.mark.usefixtures("once")
def test_figure_and_strict_json_are_written(features, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert call(*small(features, out)) == 0
    shown, complaints = capsys.readouterr()
    assert sorted(p.name for p in out.iterdir()) == ["audit.json", "audit.png"]
    assert (out / "audit.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    result = strict((out / "audit.json").read_text())
    expected = {"versions", "device", "x64", "command", "git_commit"}
    assert expected <= set(result["provenance"])
    assert result["settings"]["width"] == 24
    assert result["settings"]["seed"] == 0
    assert set(result["reports"]) == {"orthogonal", "partial_identity"}
    assert f"wrote {out / 'audit.png'} and {out / 'audit.json'}" in shown
    assert "orthogonal" in shown
    # Outside a terminal, progress is plain lines.
    assert complaints.startswith("orthogonal: reading the network\n")
    assert "partial_identity: training probe\n" in complaints


@pytest.mark.usefixtures("once")
def test_fail_on_a_raised_flag_is_exit_code_1(features, tmp_path, capsys):
    argv = [*small(features, tmp_path), "--json", "--fail-on"]
    assert call(*argv, "rank_constrained_training") == 1
    shown, complaints = capsys.readouterr()
    result = strict(shown)
    assert result == strict((tmp_path / "audit.json").read_text())
    flag = "rank_constrained_training"
    states = {
        name: report["flags"][flag]["state"]
        for name, report in result["reports"].items()
    }
    assert states == {"partial_identity": "raised", "orthogonal": "clear"}
    assert complaints.splitlines()[-1].startswith("wrote ")
    assert call(*argv, "exploding") == 0


@pytest.mark.usefixtures("once")
def test_html_is_written_to_the_file(features, tmp_path, capsys, monkeypatch):
    """The report itself has tests of its own; here the call, and what is said."""

    def to_html(reports, path):
        pathlib.Path(path).write_text(" and ".join(reports))

    monkeypatch.setattr(verdicts.Reports, "to_html", to_html, raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", pytest)
    file = tmp_path / "new" / "report.html"
    assert call(*small(features, tmp_path / "out"), "--html", file) == 0
    assert file.read_text() == "orthogonal and partial_identity"
    assert str(file) in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.usefixtures("once")
def test_html_is_a_whole_page(features, tmp_path, capsys):
    pytest.importorskip("jinja2")
    file = tmp_path / "report.html"
    assert call(*small(features, tmp_path / "out"), "--html", file) == 0
    page = file.read_text()
    assert page.lower().startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    for words in ("partial_identity", "rank_constrained_training", "<svg"):
        assert words in page
    assert f"and {file}" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.usefixtures("once")
def test_data_are_named(features, tmp_path, capsys):
    assert call(*small(features, tmp_path)) == 0
    assert f"\ndata: 128 examples of {features}\n" in capsys.readouterr().out
    result = strict((tmp_path / "audit.json").read_text())
    assert result["data"] == f"128 examples of {features}"


def reports_of(undefined=None, **states):
    """Reports of networks whose only flag is `vanishing`, by their states."""
    reports = {}
    for name, state in states.items():
        flag = verdicts.Flag("vanishing", state, "the\nreason")
        reports[name] = verdicts.Report(
            network=name,
            flags={"vanishing": flag},
            spectra={},
            probe=None,
            widths=None,
            setting={},
            provenance={},
        )
    return verdicts.Reports(reports, undefined or {})


@pytest.mark.parametrize(
    ("reports", "code", "lines"),
    [
        (reports_of(a="clear"), 0, []),
        (reports_of(a="clear", b="raised"), 1, []),
        (
            reports_of(a="clear", b="undecided"),
            3,
            ["isometry: b: vanishing is undecided: the reason"],
        ),
        (
            reports_of(a="not_run"),
            3,
            ["isometry: a: vanishing is not run: the reason"],
        ),
        (
            reports_of(a="clear", undefined={"zer_o": "too narrow"}),
            3,
            ["isometry: zer_o: not defined, and judged by no flag: too narrow"],
        ),
        # What is raised is told first, and what is not known all the same.
        (
            reports_of(a="undecided", b="raised"),
            1,
            ["isometry: a: vanishing is undecided: the reason"],
        ),
    ],
)
def test_a_network_that_was_not_judged_does_not_pass(reports, code, lines, capsys):
    """Each is told once, though the flag is named twice."""
    assert _audit.exit_code(reports, ["vanishing", "vanishing"]) == code
    shown, complaints = capsys.readouterr()
    assert shown == ""
    assert complaints.splitlines() == lines


def test_a_gradient_that_recovers_is_no_failure(capsys):
    """Networks whose branches end in zeros would fail otherwise."""
    reports = reports_of(a="raised")
    flag = verdicts.Flag("vanishing", "raised", "", evidence={"kind": "recovering"})
    reports["a"].flags["vanishing"] = flag
    assert _audit.exit_code(reports, ["vanishing"]) == 0
    assert capsys.readouterr().err == ""


def test_without_fail_on_nothing_is_asked(capsys):
    reports = reports_of(a="undecided", undefined={"zer_o": "too narrow"})
    assert _audit.exit_code(reports, []) == 0
    assert capsys.readouterr() == ("", "")


def test_names_of_others_do_not_act_on_the_terminal(capsys, monkeypatch):
    """In the table, in the verdict in words, and in the table of layers."""
    name = "[red]a[/] :smile: \x1b]0;owned\x07"
    reports = reports_of(**{name: "raised"})
    row = LayerRow(
        layer=name,
        shape=(3, 2),
        q=None,
        chi=None,
        gradient=None,
        distinct=None,
        never_moves=None,
        flags=(),
    )
    reports = verdicts.Reports({name: replace(reports[name], rows=(row,))})
    monkeypatch.setenv("COLUMNS", "120")
    _audit._print(reports)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    # In the table, in the reason for what is unknown, and in the verdict.
    assert shown.count("[red]a[/] :smile: \ufffd]0;owned") == 3
    # The table of layers leaves out the middle of a long name.
    assert shown.count("\ufffd]0;owned") == 4


def test_one_column_of_targets_has_one_output(tmp_path, monkeypatch):
    """A column of real numbers: targets along an axis of their own."""
    asked = {}

    def audit(nets, *args, targets, **settings):
        asked.update(nets=nets, targets=targets)
        raise KeyboardInterrupt

    monkeypatch.setattr(verdicts, "audit", audit)
    rng = np.random.default_rng(0)
    file = tmp_path / "x.npz"
    np.savez(file, x=rng.standard_normal((32, 6)), y=rng.standard_normal(32))
    argv = ["audit", "--width", "8", "--depth", "2", "--scheme", "zer_o"]
    assert call(*argv, "--data", file, "--out", tmp_path) == 130
    assert asked["nets"]["zer_o"].widths == (6, 8, 1)
    assert asked["targets"].shape == (32, 1)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--scheme", "ortogonal"], "orthogonal"),
        (["--activation", "tahn"], "tanh"),
        (["--width", "0"], "--width"),
        (["--width", "abc"], "--width"),
        (["--depth", "0"], "--depth"),
        (["--seeds", "-1"], "--seeds"),
        (["--inputs", "0"], "--inputs"),
        (["--train-steps", "-1"], "--train-steps"),
        (["--seed", "-1"], "--seed=-1 must be a whole number, between 0 "),
        (["--fail-on", "vanishin"], "vanishing"),
        (["--fail-on", ""], "--fail-on='' names nothing; write a name or leave it out"),
        (["--scheme", ","], "--scheme=',' names nothing"),
        (["--data", "gausian"], "gaussian"),
        (["--data", "missing.npy"], "missing.npy"),
        (["--data", "table.csv"], ".npy"),
        (["--scheme", "gaussian", "--activation", "softplus"], "critical"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_bad_usage_is_one_line(argv, words, tmp_path, capsys):
    out = tmp_path / "out"
    assert call("audit", *TINY, "--data", "gaussian", "--out", out, *argv) == 2
    refused_in_one_line(capsys, words)
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros((0, 8)), "shape"),
        (np.zeros(8), "shape"),
        (np.full((4, 8), np.nan), "NaN"),
        (np.array([["a", "b"]]), "dtype"),
        (b"", "cannot be read"),
        (b"1 2 3\n4 5 6\n", "cannot be read"),
    ],
    ids=["empty", "one axis", "nan", "strings", "no bytes", "text"],
)
def test_bad_file_is_one_line(content, words, tmp_path, capsys):
    path, out = tmp_path / "x.npy", tmp_path / "out"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    assert call("audit", *TINY, "--data", path, "--out", out) == 2
    refused_in_one_line(capsys, words)
    assert not out.exists()


@pytest.fixture
def no_compute(monkeypatch):
    """Whoever starts an audit fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("computed before everything was checked")

    monkeypatch.setattr(verdicts, "audit", refuse)


@pytest.mark.usefixtures("no_compute")
def test_unwritable_folder_is_found_before_computing(tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    out = tmp_path / "file" / "out"
    assert call("audit", *TINY, "--data", "gaussian", "--out", out) == 2
    refused_in_one_line(capsys, "cannot be written")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.usefixtures("no_compute")
@pytest.mark.parametrize(
    ("html", "words"),
    [("file/report.html", "cannot be written"), (".", "write the name of a file")],
)
def test_bad_html_path_is_found_before_computing(html, words, tmp_path, capsys):
    pytest.importorskip("jinja2")
    (tmp_path / "file").write_text("kept")
    paths = ["--out", tmp_path / "out", "--html", tmp_path / html]
    assert call("audit", *TINY, "--data", "gaussian", *paths) == 2
    refused_in_one_line(capsys, words)
    assert not (tmp_path / "out").exists()


def test_schemes_without_a_critical_point_are_listed(
    features, tmp_path, capsys, monkeypatch
):
    """Softplus has none: schemes that need one are rows, the others are audited."""
    asked = []

    def audit(nets, *args, **settings):
        asked.extend(nets)
        assert {net.activation.name for net in nets.values()} == {"softplus"}
        # Of whatever it is, one report tells as much as five.
        made_by_hand = report(
            flag("rank_constrained_training", "clear", evidence={"input_dimension": 6})
        )
        return verdicts.Reports({"zer_o": made_by_hand}, {})

    monkeypatch.setattr(verdicts, "audit", audit)
    network = ["--activation", "softplus", "--width", "8", "--depth", "2"]
    draws = ["--seeds", "1", "--inputs", "1", "--train-steps", "0", "--json"]
    files = ["--data", features, "--out", tmp_path]
    assert call("audit", *network, *draws, *files) == 0
    result = strict(capsys.readouterr().out)
    assert set(result["undefined"]) == {"orthogonal", "gaussian"}
    assert set(asked) == {"identity", "partial_identity", "zer_o", "xavier", "kaiming"}
    assert set(result["reports"]) == {"zer_o"}
    text = verdicts.Reports({}, result["undefined"]).table(width=160)
    assert text.count("not defined") == 2
