"""`isometry schemes`: the catalogue, one entry, strict JSON."""

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from isometry import schemes
from tests.cli.calling import call, refused_in_one_line, strict


def test_json_is_the_listing(tmp_path, capsys):
    assert call("schemes", "--json", "--out", tmp_path) == 0
    shown, complaints = capsys.readouterr()
    entries = strict(shown)
    assert entries == strict((tmp_path / "schemes.json").read_text())
    assert complaints == f"wrote {tmp_path / 'schemes.json'}\n"
    names = [entry["name"] for entry in schemes.listing()]
    assert [entry["name"] for entry in entries] == names


def test_one_entry_is_shown_in_full(capsys):
    """An alias names a scheme as well as its name."""
    assert call("schemes", "lsuv") == 0
    assert "arXiv:1511.06422" in capsys.readouterr().out


def test_whole_catalogue_says_how_to_see_more(capsys):
    assert call("schemes") == 0
    shown = capsys.readouterr().out
    assert "zer_o" in shown
    assert "isometry schemes NAME shows one in full" in shown


def test_misspelt_name_is_one_line(capsys):
    assert call("schemes", "ortogonal") == 2
    refused_in_one_line(capsys, "Did you mean 'orthogonal'")
