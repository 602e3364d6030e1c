"""The list of all schemes and initializers: as plain data, and as rich tables."""

from typing import TYPE_CHECKING, Any, TypeAlias

from isometry import initializers
from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.schemes._registry import catalogue
from isometry.schemes._scheme import Scheme

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# One scheme or initializer: texts, and tuples of texts.
Listed: TypeAlias = dict[str, Any]

_FIELDS = (
    "name",
    "definition",
    "law",
    "isometric",
    "citation",
    "aliases",
    "differs",
)
_NARROW_FIELDS = ("name", "definition", "isometric")

# The least width of a terminal, in characters, at which a table shows every field. At
# half this width, columns would be narrower than the words in them.
_FULL_WIDTH = 160


def listing() -> list[Listed]:
    """List every named scheme, then every initializer, as plain data.

    Returns:
        One dict for each, with the keys "kind" ("scheme" or "initializer"), "name",
        "definition", "law", "isometric", "citation", "aliases", "differs" and "needs"
        (names of arguments without a default).

    Example:
        >>> entry = schemes.listing()[0]
        >>> entry["kind"], entry["name"]
        ('scheme', 'gaussian')
    """
    # Schemes come first: they are what a user of networks looks for.
    entries = [_entry("scheme", scheme) for scheme in catalogue()]
    return entries + [_entry("initializer", e) for e in initializers.catalogue()]


def _entry(kind: str, record: Scheme | initializers.Entry) -> Listed:
    """Return a scheme or an initializer as an entry of `listing`."""
    fields = {field: getattr(record, field) for field in _FIELDS}
    # Schemes need no arguments; some initializers do.
    return {"kind": kind, **fields, "needs": getattr(record, "needs", ())}


@public("schemes.describe")
def describe(name: str) -> list[Listed]:
    """Look up a scheme, an initializer, or one of each, by name or alias.

    Args:
        name: The name, or the name in another library.

    Returns:
        The entries of `listing` that have it.

    Raises:
        InputError: Nothing has this name; the nearest is suggested.

    Example:
        >>> [entry["kind"] for entry in schemes.describe("orthogonal")]
        ['scheme', 'initializer']
    """
    entries = listing()
    named = [
        entry for entry in entries if name == entry["name"] or name in entry["aliases"]
    ]
    if not named:
        known = dict.fromkeys(entry["name"] for entry in entries)
        checks.one_of("name", name, known)
    return named


@public("schemes.rich_tables")
def rich_tables(width: int) -> "list[Table]":
    """Return a rich table of all schemes, and one of all initializers.

    Args:
        width: Columns of the terminal. Below 160, law, citation and aliases are left
            out.

    Returns:
        Two tables.

    Raises:
        InputError: `width` is no positive whole number.
        MissingExtra: rich is not installed.

    Example:
        >>> tables = schemes.rich_tables(80)
        >>> [table.title for table in tables]
        ['schemes', 'initializers']
    """
    width = checks.integer("width", width, low=1)
    new_table = checks.extra("rich.table", "cli").Table
    fields = _FIELDS[:-1] if width >= _FULL_WIDTH else _NARROW_FIELDS
    tables = []
    for kind in ("scheme", "initializer"):
        table = new_table(
            *fields, title=f"{kind}s", title_justify="left", show_lines=True
        )
        chosen = [entry for entry in listing() if entry["kind"] == kind]
        # Names are not wrapped over two lines, because the user copies them.
        table.columns[0].min_width = max(len(entry["name"]) for entry in chosen)
        for entry in chosen:
            table.add_row(*(_text(entry[field]) for field in fields))
        tables.append(table)
    return tables


@public("schemes.rich_entry")
def rich_entry(entry: Listed) -> "Table":
    """Return one entry of `listing` as a rich table, with one row per field.

    Args:
        entry: The entry.

    Returns:
        The table.

    Raises:
        InputError: `entry` is none.
        MissingExtra: rich is not installed.

    Example:
        >>> (entry,) = schemes.describe("lsuv")
        >>> schemes.rich_entry(entry).title
        'scheme lsuv'
    """
    is_entry = isinstance(entry, dict) and {"kind", *_FIELDS} <= entry.keys()
    if not is_entry:
        raise InputError(
            f"entry={checks.show(entry)} is no entry of schemes.listing()."
        )
    table = checks.extra("rich.table", "cli").Table(
        title=f"{entry['kind']} {entry['name']}",
        title_justify="left",
        show_header=False,
    )
    table.add_column(no_wrap=True)
    table.add_column()
    for field in (*_FIELDS[1:-1], "needs", "differs"):
        if entry[field]:
            table.add_row(field, _text(entry[field]))
    return table


def _text(value: str | tuple[str, ...]) -> "Text":
    """Return a field as rich `Text`, in which brackets are no markup."""
    text = checks.extra("rich.text", "cli").Text
    written = value if isinstance(value, str) else ", ".join(value)
    return text(written, overflow="fold")
