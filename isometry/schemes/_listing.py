"""Schemes and initializers side by side: as plain data, and as tables for the terminal."""

from typing import Any

from isometry import _checks, initializers
from isometry.schemes._registry import catalogue

_FIELDS = ("name", "definition", "law", "isometric", "citation", "aliases", "differs")
_FULL_WIDTH = 160  # columns of a terminal from which on every field fits beside the others


def listing() -> list[dict[str, Any]]:
    """Every named scheme, then every initializer, as plain data.

    Each has kind, name, definition, law, isometric, citation, aliases, differs, and the arguments it needs.
    """
    kinds = (("scheme", catalogue()), ("initializer", initializers.catalogue()))
    return [
        {"kind": kind, **{field: getattr(entry, field) for field in _FIELDS}, "needs": getattr(entry, "needs", ())}
        for kind, entries in kinds
        for entry in entries
    ]


def describe(name: str, call: str = "schemes.describe") -> list[dict[str, Any]]:
    """The entries of one `name` or alias: a scheme, an initializer, or one of each.

    **Raises** `ValueError`: nothing has this name; the nearest is suggested.
    """
    entries = listing()
    found = [entry for entry in entries if name == entry["name"] or name in entry["aliases"]]
    if not found:
        _checks.one_of(call, among=dict.fromkeys(entry["name"] for entry in entries), name=name)
    return found


def rich_tables(width: int) -> list[Any]:
    """Rich tables of the schemes and of the initializers; at a `width` below 160 without law, citation and aliases.

    **Raises** `MissingExtra`: rich is not installed.
    """
    table = _checks.extra("schemes.rich_tables", "rich.table", "cli").Table
    fields = _FIELDS[:-1] if width >= _FULL_WIDTH else ("name", "definition", "isometric")
    tables = []
    for kind in ("scheme", "initializer"):
        made = table(*fields, title=f"{kind}s", title_justify="left", show_lines=True)
        chosen = [entry for entry in listing() if entry["kind"] == kind]
        made.columns[0].min_width = max(len(entry["name"]) for entry in chosen)
        for entry in chosen:
            made.add_row(*(_text(entry[field]) for field in fields))
        tables.append(made)
    return tables


def rich_entry(entry: dict[str, Any]) -> Any:
    """One `entry` of `listing` in full, a field a row, as a rich table.

    **Raises** `MissingExtra`: rich is not installed.
    """
    table = _checks.extra("schemes.rich_entry", "rich.table", "cli").Table
    made = table(title=f"{entry['kind']} {entry['name']}", title_justify="left", show_header=False)
    made.add_column(no_wrap=True)
    made.add_column()
    for field in ("definition", "law", "isometric", "citation", "aliases", "needs", "differs"):
        if entry[field]:
            made.add_row(field, _text(entry[field]))
    return made


def _text(value: Any) -> Any:
    """Plain text: brackets in a law are no markup."""
    text = _checks.extra("schemes.rich_tables", "rich.text", "cli").Text
    return text(value if isinstance(value, str) else ", ".join(value), overflow="fold")
