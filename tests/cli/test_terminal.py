"""What terminals show: whole words and numbers at 80 columns, and progress."""

import collections
import io
import sys
import types

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from isometry import data, networks, verdicts
from isometry.cli import _audit, _spectrum, _summary, _sweep, _terminal
from isometry.measure._known import Known
from tests.cli.calling import call
from tests.cli.test_summary import quadrature

# Wide enough for any cell to keep to its line.
WIDE = 700


@pytest.fixture
def printed(capsys, monkeypatch):
    """A function that returns what `show` prints in so many columns."""

    def at(columns, show):
        monkeypatch.setenv("COLUMNS", str(columns))
        show()
        return capsys.readouterr().out

    return at


def words(text):
    """The words and numbers of a text, and how often; not the lines of tables."""
    for line in "┏┳┓┡╇┩├┼┤└┴┘┃│━─":
        text = text.replace(line, " ")
    return collections.Counter(text.split())


def readable(printed, show, columns, wide):
    """Require lines that fit, and no word or number cut or wrapped inside."""
    text = printed(columns, show)
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    assert words(text) == words(printed(wide, show))


JUDGED = _spectrum.Judged(
    spectrum=quadrature(),
    statistics={
        "exact_zero_fraction": _summary.Line(
            Known(np.array(-1234.5), np.array(-1234.5)),
            log_error=-999.9,
            law=1.2345e-12,
        ),
        "condition_number": _summary.Line(
            Known(np.array(np.nan), np.array(np.nan), "nodes are not singular values"),
            law=np.inf,
        ),
        "s_min": _summary.Line(
            Known(np.array(-np.inf), np.array(-1234.5), "below the floor"),
            no_law="it grows with the width, and the law is of infinite width",
        ),
    },
    law=types.SimpleNamespace(name="Haar orthogonal weights and tanh, 64 layers"),
    excesses={"s_max": 12.3, "quantiles": 4.5},
)


def show_spectrum():
    _spectrum._print({"partial_identity (width 64)": JUDGED})


def show_theory():
    call("theory", "--sigma-w", "1.51234", "--sigma-b", "0.3", "--depth", "64")


def show_unstable_point():
    call("theory", "--activation", "gelu", "--sigma-b", "0.1")


def show_scheme():
    call("schemes", "orthogonal")


def show_sweep(monkeypatch):
    summary = {
        "store": "sweeps/of/several/people/last/week/a_plane_of_sigmas.zarr",
        "cells": {"all": 3, "done": 2, "failed": 1, "absent": 0},
        "axes": [
            {"name": "sigma_w", "num": 9, "first": "0.123456789", "last": "2.5"},
            {"name": "activation", "num": 2, "first": "hard_tanh", "last": "relu"},
        ],
        "variables": [
            {
                "name": "largest_hidden_singular_value",
                "dims": ["seed", "input", "layer"],
                "mean": -1.2345e-123,
                "min": 1.2345e-123,
                "max": 1.2345e123,
            }
        ],
        "failures": [{"cell": "sigma_w=0.1, seed=2", "error": "ValueError: no two"}],
    }
    monkeypatch.setattr(_sweep, "_summary", lambda dataset, store: summary)
    return lambda: _sweep._print(None, summary["store"], as_json=False)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "show", [show_spectrum, show_theory, show_unstable_point, show_scheme]
)
def test_table_is_readable(show, columns, printed):
    readable(printed, show, columns, wide=WIDE)


@pytest.mark.parametrize("columns", [80, 120])
def test_table_of_a_sweep_is_readable(columns, printed, monkeypatch):
    readable(printed, show_sweep(monkeypatch), columns, wide=WIDE)


@pytest.mark.parametrize("columns", [80, 120])
def test_catalogue_is_readable(columns, printed):
    """From 160 columns on it shows more."""
    readable(printed, lambda: call("schemes"), columns, wide=159)


@pytest.fixture(scope="module")
def reports():
    """Two schemes, one of them with flags that are raised; and one that is none."""
    import jax

    net = networks.mlp([8] * 4, "tanh")
    found = verdicts.audit(
        net.with_schemes(["orthogonal", "zeros"]),
        jax.random.split(jax.random.key(0), 5),
        data.gaussian(jax.random.key(1), 32, 8).xs,
        train_steps=0,
        inputs=2,
    )
    undefined = {"mup": "not defined for this network, which has no such layer"}
    return verdicts.Reports(found.reports, undefined)


@pytest.mark.parametrize(("columns", "wide"), [(80, 119), (120, WIDE)])
def test_table_of_an_audit_is_readable(columns, wide, reports, printed):
    """From 120 columns on each number has a column."""
    readable(printed, lambda: _audit._print(reports), columns, wide=wide)


def test_numbers_and_labels_keep_to_their_lines(printed):
    """Where the words of a text need most of the lines."""
    columns = {"name": "label", "mean": "number", "least": "number", "why": "text"}

    def show():
        table = _terminal.table("t", columns)
        table.add_row("largest singular value", "-1.23e-123 ± 1", "2 of 3", "a b " * 9)
        _terminal.console().print(table)

    lines = printed(54, show).splitlines()
    (line,) = (line for line in lines if "largest" in line)
    for cell in ("largest singular value", "-1.23e-123 ± 1", "2 of 3"):
        assert cell in line


def test_a_cut_word_is_seen(printed):
    """The test of the tests."""

    def show():
        table = _terminal.table("t", {"a": "text"})
        table.add_row("x" * 100)
        _terminal.console().print(table)

    with pytest.raises(AssertionError):
        readable(printed, show, columns=80, wide=WIDE)


def test_without_a_terminal_there_are_80_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert _terminal.console().width == 80
    monkeypatch.setenv("COLUMNS", "0")
    assert _terminal.console().width == 80


def test_texts_are_printed_as_they_are(printed):
    """No markup, no emoji, no control character, no letters in reverse order."""
    texts = ("[red]relu[/red]", "[/]", ":smile:", "a\x1b[2Jb", "\x9b31m", "x\u202ey")

    def show():
        table = _terminal.table("t", {"text": "label"})
        for text in texts:
            table.add_row(text)
            _terminal.console().print(text)
        _terminal.console().print(table)

    shown = printed(80, show)
    assert not set(shown) & set("\x1b\x9b\u202e")
    for text in (*texts[:3], "a\ufffd[2Jb", "\ufffd31m", "x\ufffdy"):
        assert shown.count(text) == 2


def test_lines_and_columns_of_a_text_stay():
    assert _terminal.plain("σ\ta\nb é 漢") == "σ\ta\nb é 漢"


@pytest.mark.parametrize(
    ("names", "said"), [("a", "a"), ("ab", "a and b"), ("abc", "a, b and c")]
)
def test_files_are_named(names, said, capsys):
    """On stderr if stdout is JSON."""
    _terminal.report_files(list(names), as_json=False)
    _terminal.report_files(list(names), as_json=True)
    assert capsys.readouterr() == (f"wrote {said}\n", f"wrote {said}\n")
    _terminal.report_files([], as_json=False)
    assert capsys.readouterr() == ("", "")


def test_progress_is_plain_lines_outside_a_terminal(capsys):
    with _terminal.progress(2) as tell:
        tell("first")
        # At once, and not at the end.
        assert capsys.readouterr().err == "first\n"
        tell("second")
    assert capsys.readouterr() == ("", "second\n")


def test_progress_shows_a_label_as_it_is(capsys):
    with _terminal.progress(1) as tell:
        tell("[/] \x1b[2J")
    assert capsys.readouterr().err == "[/] \ufffd[2J\n"


def test_progress_is_a_bar_in_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with _terminal.progress(2) as tell:
        tell("first")
        tell("second [/] \x1b]0;owned")
    assert "second [/] \ufffd]0;owned" in terminal.getvalue()
    assert "first\n" not in terminal.getvalue()
    assert "second" in terminal.getvalue()
