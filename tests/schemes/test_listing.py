"""The catalogue, the page made from it, and the command that shows it."""

import json

import pytest

from docs import reference
from isometry import InputError, cli, initializers, schemes


def test_every_scheme_says_what_it_is():
    assert tuple(s.name for s in schemes.catalogue()) == schemes.names()
    for scheme in schemes.catalogue():
        assert scheme.definition
        assert scheme.law
        # A year.
        assert any(character.isdigit() for character in scheme.citation)
        assert schemes.get(scheme.name) is scheme


def test_the_page_has_a_section_for_every_entry():
    page = reference.catalogue()
    for entry in (*schemes.catalogue(), *initializers.catalogue()):
        title = reference.plain(entry.name)
        assert f"### {title}\n\n{reference.plain(entry.definition)}\n" in page


def test_describe_finds_names_and_aliases():
    kinds = [entry["kind"] for entry in schemes.describe("orthogonal")]
    assert kinds == ["scheme", "initializer"]
    (entry,) = schemes.describe("torch eye_")
    assert entry["name"] == "partial_identity"
    assert schemes.describe("glorot_normal")[0]["differs"]
    with pytest.raises(InputError, match=r"describe\(\): .*Did you mean 'lsuv'"):
        schemes.describe("lusv")


def run(*argv):
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    with pytest.raises(SystemExit) as stop:
        cli.main(["schemes", *argv])
    return stop.value.code


@pytest.mark.parametrize("columns", [80, 200])
def test_the_table_fits_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run() == 0
    shown, complaints = capsys.readouterr()
    assert complaints == ""
    assert max(map(len, shown.splitlines())) <= columns
    first_words = {line.strip("│┃ ").split(" ")[0] for line in shown.splitlines()}
    # No name is cut.
    assert {entry["name"] for entry in schemes.listing()} <= first_words
    assert ("arXiv:1511.06422" in shown) == (columns >= 160)
    assert "…" not in shown


def test_one_entry_is_shown_in_full(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run("glorot_normal") == 0
    shown, _ = capsys.readouterr()
    (entry,) = schemes.describe("glorot_normal")
    flat = " ".join(shown.replace("│", " ").split())
    for field in ("definition", "law", "citation", "differs"):
        assert " ".join(entry[field].split()) in flat
    assert run("looks_linear") == 0
    # Brackets are no markup.
    assert "[[B, -B], [-B, B]]" in capsys.readouterr().out


def test_json_is_strict_and_complete(tmp_path, capsys):
    assert run("--json", "--out", str(tmp_path / "new")) == 0
    shown, wrote = capsys.readouterr()
    entries = json.loads(shown, parse_constant=pytest.fail)
    assert entries == json.loads((tmp_path / "new" / "schemes.json").read_text())
    assert "schemes.json" in wrote
    assert len(entries) == len(schemes.catalogue()) + len(initializers.catalogue())
    fields = {"name", "definition", "law", "isometric", "citation", "aliases"}
    assert fields | {"differs"} < set(entries[0])
    assert run("mup", "--json", "--seed", "3") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["name"] == "mup"


def test_unknown_name_is_bad_usage(capsys):
    assert run("looks_lineer") == 2
    shown, complaints = capsys.readouterr()
    assert shown == ""
    assert complaints.count("\n") == 1
    assert "Did you mean 'looks_linear'" in complaints


def test_tables_refuse_what_is_no_width_and_no_entry():
    with pytest.raises(InputError, match=r"rich_tables\(\): width=None"):
        schemes.rich_tables(None)
    with pytest.raises(InputError, match=r"rich_entry\(\): entry='lsuv' is no entry"):
        schemes.rich_entry("lsuv")
