"""The text of the reference: entries of the public names, and the catalogues.

Which names are public, and how a signature is written, is said by `docs.surface` alone.
`docs.extension` shows the text on pages.
"""

import ast
import copy
import functools
import importlib
import re
from collections.abc import Iterator, Mapping

from docs import surface
from docs.surface import Item
from isometry import schemes
from isometry.schemes._listing import Listed

# Headings of the front module, by the package that a name comes from. Their order is
# that of the page.
FACE = {
    "measure": "Measure",
    "records": "Measure",
    "comparison": "Compare with theory",
    "certificates": "What no training undoes",
    "verdicts": "Judge",
    "_monitor": "During training",
    "sweeps": "Many runs",
    "structure": "What a network is made of",
    "_internal": "Errors and warnings",
}

# Python names, dotted or not, and an optional call.
NAME = re.compile(r"([A-Za-z_][\w.]*?)(\(.*\))?", re.DOTALL)


@functools.cache
def items() -> dict[str, Item]:
    """List all public items by path."""
    groups = surface.everything().values()
    return {item.path: item for group in groups for item in group}


@functools.cache
def types() -> dict[str, str]:
    """Give the path of each public class by its short name, the front module first."""
    paths: dict[str, str] = {}
    for path, item in items().items():
        if is_class(item):
            paths.setdefault(path.rpartition(".")[2], path)
    return paths


def is_class(item: Item) -> bool:
    """Tell whether an item is a class, and no method of one."""
    return isinstance(item.node, ast.ClassDef)


def page(module: str) -> Iterator[str]:
    """Write a module as reStructuredText."""
    found = surface.everything()[module]
    yield from (f".. automodule:: {module}", "")
    if module != "isometry":
        yield from entries(found)
        return
    for title in dict.fromkeys(FACE.values()):
        chosen = [item for item in found if FACE[origin(item)] == title]
        yield from (title, "-" * len(title), "")
        yield from entries(chosen)


def origin(item: Item) -> str:
    """Name the package directly below isometry in which an item is defined."""
    value = (item.owner or item).value
    return value.__module__.split(".")[1]


def entries(group: list[Item]) -> Iterator[str]:
    """Write a table of some items and then each of them, functions before classes."""
    group = sorted(group, key=lambda item: is_class(item.owner or item))
    tops = [item for item in group if item.owner is None and item.doc]
    yield from table_of_names({item.path: item.doc for item in tops})
    for item in group:
        yield from entry(item)


def modules() -> Iterator[str]:
    """Write a table of the public modules."""
    docs = {name: importlib.import_module(name).__doc__ for name in surface.MODULES}
    yield from table_of_names({name: doc or "" for name, doc in docs.items()})


def table_of_names(docs: Mapping[str, str]) -> Iterator[str]:
    """Write a table of names, each with the first line of its docstring."""
    yield from (".. list-table::", "   :widths: auto", "   :class: names", "")
    for path, doc in docs.items():
        is_module = path in surface.MODULES
        name = path if is_module else path.rpartition(".")[2]
        role = "mod" if is_module else "obj"
        yield f"   * - :py:{role}:`{name} <{path}>`"
        yield f"     - {as_rst(doc.splitlines()[0])}"
    yield ""


def entry(item: Item) -> Iterator[str]:
    """Write one item; a method is indented below its class."""
    if item.node is None:
        value = surface.signature(item).removeprefix(" = ")
        module, _, name = item.path.rpartition(".")
        yield from (f".. py:data:: {name}", f"   :module: {module}")
        yield from (f"   :value: {value}", "")
        return
    indent = "   " if item.owner else ""
    yield from (f"{indent}.. {directive(item)}:: {item.path}{signature(item)}", "")


def directive(item: Item) -> str:
    """Choose the directive of autodoc for an item."""
    if item.owner is None:
        return "autoclass" if is_class(item) else "autofunction"
    return "autoproperty" if item.is_property else "automethod"


def signature(item: Item) -> str:
    """Write the arguments of an item and what it returns; of a class, its fields."""
    node = item.node
    if item.is_property:
        return ""
    if isinstance(node, ast.ClassDef):
        fields = ", ".join(map(surface.field, surface.fields(node)))
        return f"({fields})" if fields else ""
    assert node is not None
    arguments = copy.deepcopy(node.args)
    # How a method is called does not name the object.
    is_bound = [a.arg in ("self", "cls") for a in arguments.args]
    arguments.args = arguments.args[sum(is_bound) :]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(arguments)}){returns}"


def as_rst(text: str) -> str:
    """Escape what is plain in our docstrings and markup in reStructuredText.

    A docstring's single backticks are inline code, an asterisk is a product or a
    variable number of arguments, a bar is an absolute value.
    """
    pieces = re.split(r"(`[^`]*`)", text)
    for place, piece in enumerate(pieces):
        if piece.startswith("`"):
            continue
        piece = re.sub(r"(?<!\\)[*|]", r"\\\g<0>", piece)
        piece = re.sub(r"(?<=\w)_(?!\w)", r"\\_", piece)
        # Inline code must end where a word ends: `x`s would be an error.
        follows_code = place > 0
        pieces[place] = re.sub(r"^(?=\w)", r"\\ ", piece) if follows_code else piece
    return "".join(pieces)


def resolve(text: str, module: str) -> str | None:
    """Find the public path that a piece of inline code names.

    A bare word in lower case may be an argument as well as a function: it needs
    parentheses or a dot to be a link.
    """
    match = NAME.fullmatch(text)
    if match is None:
        return None
    name, call = match.groups()
    is_clear = "." in name or call is not None or name[0].isupper()
    if not is_clear:
        return None
    for path in (f"{module}.{name}", f"isometry.{name}", name):
        if path in items():
            return path
    return types().get(name)


TITLES = {"scheme": "Schemes", "initializer": "Initializers"}
FIELDS = ("law", "isometric", "citation", "aliases", "needs", "differs")


def catalogue() -> str:
    """Write the catalogues as Markdown: a table of each kind, then its entries."""
    listing = schemes.listing()
    lines: list[str] = []
    for kind, title in TITLES.items():
        chosen = [entry for entry in listing if entry["kind"] == kind]
        lines += [f"## {title}", "", *table(chosen)]
        for entry in chosen:
            lines += section(entry)
        lines.append("")
    return "\n".join(lines)


def table(listing: list[Listed]) -> Iterator[str]:
    """Write a table of schemes or initializers."""
    yield from ("| name | definition | isometric |", "|---|---|---|")
    for entry in listing:
        cells = [f"`{entry['name']}`", plain(entry["definition"])]
        cells.append(plain(entry["isometric"]))
        yield f"| {' | '.join(cells)} |"


def section(entry: Listed) -> Iterator[str]:
    """Write all that is known of a scheme or an initializer."""
    title, definition = plain(entry["name"]), plain(entry["definition"])
    yield from ("", f"### {title}", "", definition, "")
    for field in FIELDS:
        if entry[field]:
            yield f"- *{field}*: {plain(entry[field])}"


def plain(value: str | tuple[str, ...]) -> str:
    """Escape text so that Markdown shows it as it stands."""
    text = value if isinstance(value, str) else ", ".join(value)
    return re.sub(r"[\\|*_\[\]<>$`]", r"\\\g<0>", text)
