"""The catalogue, the page made from it, and the command that shows it."""

import json
import pathlib
import runpy

import pytest

from isometry import InputError, cli, initializers, networks, schemes

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_every_scheme_says_what_it_is():
    assert tuple(s.name for s in schemes.catalogue()) == schemes.names()
    new = [
        "looks_linear",
        "mirrored",
        "lsuv",
        "fixup",
        "rezero",
        "skipinit",
        "t_fixup",
        "deep_norm",
        "gpt2",
        "mimetic",
        "mup",
    ]
    assert set(new) < set(schemes.names())
    for scheme in schemes.catalogue():
        assert scheme.definition
        assert scheme.law
        assert any(c.isdigit() for c in scheme.citation)  # a year
        assert schemes.get(scheme.name) is scheme


def test_the_page_is_what_the_catalogues_say():
    module = runpy.run_path(str(DOCS / "initializers.py"))
    page = (DOCS / "initializers.md").read_text(encoding="utf-8")
    assert page == module["page"](), "run `python docs/initializers.py`"
    for entry in (*schemes.catalogue(), *initializers.catalogue()):
        assert f"### `{entry.name}`" in page


def test_describe():
    assert [e["kind"] for e in schemes.describe("orthogonal")] == ["scheme", "initializer"]
    assert [e["name"] for e in schemes.describe("torch eye_")] == ["partial_identity"]
    assert schemes.describe("glorot_normal")[0]["differs"]
    with pytest.raises(InputError, match=r"Did you mean 'lsuv'"):
        schemes.describe("lusv")


def run(*argv):
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    with pytest.raises(SystemExit) as stop:
        cli.main(["schemes", *argv])
    return stop.value.code


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_the_table_fits_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run() == 0
    shown, complaints = capsys.readouterr()
    assert complaints == ""
    assert max(map(len, shown.splitlines())) <= columns
    first_words = {line.strip("│┃ ").split(" ")[0] for line in shown.splitlines()}
    assert {e["name"] for e in schemes.listing()} <= first_words  # no name is cut
    assert ("arXiv:1511.06422" in shown) == (columns >= 160)
    assert "…" not in shown


def test_one_entry_in_full(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run("glorot_normal") == 0
    shown, _ = capsys.readouterr()
    (entry,) = schemes.describe("glorot_normal")
    flat = " ".join(shown.replace("│", " ").split())
    assert all(" ".join(entry[f].split()) in flat for f in ("definition", "law", "citation", "differs"))
    assert run("looks_linear") == 0
    assert "[[B, -B], [-B, B]]" in capsys.readouterr().out  # brackets are no markup


def test_json_is_strict_and_complete(tmp_path, capsys):
    assert run("--json", "--out", str(tmp_path / "new")) == 0
    shown, wrote = capsys.readouterr()
    entries = json.loads(shown, parse_constant=pytest.fail)
    assert entries == json.loads((tmp_path / "new" / "schemes.json").read_text())
    assert "schemes.json" in wrote
    assert len(entries) == len(schemes.catalogue()) + len(initializers.catalogue())
    assert {"name", "definition", "law", "isometric", "citation", "aliases", "differs"} < set(entries[0])
    assert run("mup", "--json", "--seed", "3") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["name"] == "mup"


def test_unknown_name_is_bad_usage(capsys):
    assert run("looks_lineer") == 2
    shown, complaints = capsys.readouterr()
    assert shown == ""
    assert complaints.count("\n") == 1
    assert "Did you mean 'looks_linear'" in complaints


def test_an_initializer_of_another_layout_is_no_scheme():
    """Networks store (in, out): with torch's axes the two fans would be exchanged."""
    for layout in ({"layout": "torch"}, {"in_axis": 1, "out_axis": 0}, {"groups": 2}):
        init = initializers.he_normal(**layout)
        with pytest.raises(ValueError, match=r"mlp\(\): scheme=he_normal.*leave it out"):
            networks.mlp([4, 8, 3], scheme=init)
