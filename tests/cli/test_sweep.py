"""`isometry sweep`: files of grids, what is printed, and exit codes."""

import json
import re

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("loky")
pytest.importorskip("xarray")

from tests.cli.calling import call, refused_in_one_line

MODULE = """
def run(point, key, factor=1.0):
    if point["a"] == 2:
        raise ValueError("no two")
    return {"x": factor * point["a"], "label": point["name"]}
"""
GRID = """
run = "own_module:run"
grid.a = {start = 1, stop = 3, num = 3}
grid.name = ["u"]
settings.factor = 10.0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module and a file of a grid, in which commands run."""
    (tmp_path / "own_module.py").write_text(MODULE)
    (tmp_path / "grid.toml").write_text(GRID)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_sweep_of_a_file_says_what_failed(folder, capsys):
    """With exit code 1; `show` prints the same of the store, and has none."""
    assert (
        call("sweep", "grid.toml", "--out", "s.zarr", "--workers", "1", "--json") == 1
    )
    summary = json.loads(capsys.readouterr().out)
    assert summary["cells"] == {"all": 3, "done": 2, "failed": 1, "absent": 0}
    assert summary["failures"][0]["cell"] == "a=2.0, name=u"
    assert "ValueError: no two" in summary["failures"][0]["error"]
    by_name = {row["name"]: row for row in summary["variables"]}
    assert by_name["x"]["mean"] == 20.0
    assert by_name["label"]["mean"] is None
    import xarray

    values = xarray.open_zarr("s.zarr")["x"].sel(name="u").values
    assert values[[0, 2]].tolist() == [10.0, 30.0]
    assert call("sweep", "show", "s.zarr") == 0
    text = capsys.readouterr().out
    assert "s.zarr: 2 of 3 cells are done, 1 failed, 0 are to be run" in text
    assert "failed: a=2.0, name=u: ValueError: no two" in text


LABELS = """
run = "module_of_labels:labelled"
grid.name = ["[red]relu", "[/]", "\\u001b]0;owned\\u0007"]
"""
LABELLED = """
def labelled(point, key):
    if point["name"] == "[/]":
        raise ValueError("[bold] \\x1b[2J")
    return {"x[bold] ([red])": 1.0}
"""


def test_labels_are_printed_as_they_are(folder, capsys, caplog):
    """Brackets are markup to rich, and ESC begins a sequence of the terminal."""
    (folder / "module_of_labels.py").write_text(LABELLED)
    (folder / "labels.toml").write_text(LABELS)
    argv = ["labels.toml", "--out", "s.zarr", "--workers", "1", "--retries", "0"]
    assert call("sweep", *argv) == 1
    assert "with --accept-code. name='[/]': ValueError: [bold] \ufffd" in caplog.text
    capsys.readouterr()
    assert call("sweep", "show", "s.zarr") == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    for words in ("[red]relu", "\ufffd]0;owned", "x[bold] ([red])"):
        assert words in text
    assert "failed: name=[/]: ValueError: [bold] \ufffd[2J" in text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--workers", "0"], "--workers=0 must be"),
        (["--retries", "-1"], "--retries=-1 must be"),
        (["--out", "."], "--out='"),
    ],
)
def test_refusal_names_the_option(argv, words, folder, capsys):
    """And not the argument of the function that refuses."""
    assert call("sweep", "grid.toml", "--out", "s.zarr", *argv) == 2
    refused_in_one_line(capsys, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grid.a = [1]", "package.module:function"),
        ('run = "spectre"\ngrid.a = [1]', "Did you mean 'spectrum'"),
        ('run = "spectrum"', r"no \[grid\]"),
        ('run = "spectrum"\ngrid.sigma = [1]', "Did you mean"),
        ('run = "spectrum"\ngrid.depth = 3', r"no list; write \[3\]"),
        ('run = "spectrum"\ngrid.depth = {start = 1}', "start, stop and num"),
        ('run = "own_module:no"\ngrid.a = [1]', "no such function"),
        ('run = "nowhere:no"\ngrid.a = [1]', "cannot be imported"),
        ('run = "spectrum"\nmesh = 3', "holds 'mesh'"),
        ("run = ", "is no TOML"),
        (f"run = {'[' * 3000}{']' * 3000}", "is no TOML"),
        (
            'run = "spectrum"\ngrid.a = {start = 1, stop = 2, num = 1000000000000}',
            r"grid\.a\.num",
        ),
    ],
)
def test_bad_file_is_refused_in_one_line(folder, capsys, text, words):
    (folder / "bad.toml").write_text(text)
    assert call("sweep", "bad.toml", "--out", "s.zarr") == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert re.search(words, err)
    assert not (folder / "s.zarr").exists()


def test_bad_words_are_refused(folder, capsys):
    assert call("sweep", "grid.toml") == 2
    assert "--out" in capsys.readouterr().err
    assert call("sweep", "nowhere.toml", "--out", "s.zarr") == 2
    assert "cannot be read" in capsys.readouterr().err
    assert call("sweep", "show", "nowhere.zarr") == 2
    assert "holds no sweep" in capsys.readouterr().err
