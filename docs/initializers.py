"""Writes docs/initializers.md from the catalogues: `python docs/initializers.py`. A test holds the page to them."""

import pathlib

from isometry import schemes

PAGE = pathlib.Path(__file__).with_suffix(".md")
HEAD = """# Initializers and schemes

Made by `python docs/initializers.py` from the catalogues of the code; the tests hold every law. An *initializer*
draws one array; a *scheme* chooses one for each layer of a network, from its role and place. `isometry schemes NAME`
shows the same in a terminal.

"""
TITLES = {"scheme": "Schemes", "initializer": "Initializers"}
FIELDS = ("definition", "law", "isometric", "citation", "aliases", "needs", "differs")


def page() -> str:
    """The page as text."""
    entries = schemes.listing()
    parts = [HEAD]
    for kind, title in TITLES.items():
        chosen = [entry for entry in entries if entry["kind"] == kind]
        parts.append(f"## {title}\n\n| name | definition | isometric |\n|---|---|---|\n")
        parts += [f"| `{e['name']}` | {_cell(e['definition'])} | {_cell(e['isometric'])} |\n" for e in chosen]
        parts += [_section(entry) for entry in chosen]
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def _section(entry: dict) -> str:
    lines = [f"- *{field}*: {_cell(entry[field])}\n" for field in FIELDS[1:] if entry[field]]
    return f"\n### `{entry['name']}`\n\n{_cell(entry['definition'])}\n\n" + "".join(lines)


def _cell(value: str | tuple[str, ...]) -> str:
    """Text as Markdown shows it: a bar would end a cell, an asterisk or underscore start emphasis."""
    text = value if isinstance(value, str) else ", ".join(value)
    for mark in "\\|*_[]<>":
        text = text.replace(mark, "\\" + mark)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
