"""Sphinx extension: pages of the reference, from the public names and their docstrings.

`.. public-module:: isometry.theory` shows a module: its docstring, a table of its names
and an entry for each. Which names are public, and how a signature is written, is said
by `docs.surface` alone. Inline code that names something public becomes a link.
"""

import ast
import copy
import functools
import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.addnodes import desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

from docs import surface
from docs.surface import Item
from isometry import schemes

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

# What lies outside docs/ and is shown on a page.
INCLUDED = {
    "paper_figs/README": "figures",
    "benchmarks/README": "benchmarks",
    "benchmarks/zoo/README": "zoo",
}

# Python names, dotted or not, and an optional call.
NAME = re.compile(r"([A-Za-z_][\w.]*?)(\(.*\))?")
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


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
        if item.owner is None:
            paths.setdefault(path.rpartition(".")[2], path)
    return paths


class PublicModule(SphinxDirective):
    """Show a public module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the entries of the module as if they stood on the page."""
        module = self.arguments[0]
        text = "\n".join(page(module))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


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
    """Write a table of some items and then each of them."""
    tops = [item for item in group if item.owner is None and item.doc]
    yield from (".. list-table::", "   :widths: auto", "   :class: names", "")
    for item in tops:
        name = item.path.rpartition(".")[2]
        summary = as_rst(item.doc.splitlines()[0])
        yield f"   * - :py:obj:`{name} <{item.path}>`"
        yield f"     - {summary}"
    yield ""
    for item in group:
        yield from entry(item)


def entry(item: Item) -> Iterator[str]:
    """Write one item; a method is indented below its class."""
    if item.node is None:
        value = surface.signature(item).removeprefix(" = ")
        yield from (f".. py:data:: {item.path}", f"   :value: {value}", "")
        return
    indent = "   " if item.owner else ""
    yield from (f"{indent}.. {directive(item)}:: {item.path}{signature(item)}", "")


def directive(item: Item) -> str:
    """Choose the directive of autodoc for an item."""
    if item.owner is None:
        is_class = isinstance(item.value, type)
        return "autoclass" if is_class else "autofunction"
    return "autoproperty" if item.is_property else "automethod"


def signature(item: Item) -> str:
    """Write the arguments of an item and what it returns; of a class, its fields."""
    node = item.node
    if item.is_property:
        return ""
    if isinstance(node, ast.ClassDef):
        fields = ", ".join(map(surface.field, surface.fields(node)))
        return f"({fields})" if fields else ""
    arguments = copy.deepcopy(node.args)
    # How a method is called does not name the object.
    is_bound = [a.arg in ("self", "cls") for a in arguments.args]
    arguments.args = arguments.args[sum(is_bound) :]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(arguments)}){returns}"


def as_rst(text: str) -> str:
    """Escape what our docstrings write plainly and reStructuredText would read.

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


def write_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:  # noqa: PLR0917
    """Escape a docstring, in front of napoleon, which makes fields of its sections."""
    del app, what, name, obj, options
    text = "\n".join(lines)
    # Napoleon takes what stands before a colon for a type; ours have no type here.
    text = re.sub(r"^(Returns:\n +)", r"\1: ", text, flags=re.MULTILINE)
    paragraphs = text.split("\n\n")
    for place, paragraph in enumerate(paragraphs):
        # A session is shown as it stands.
        if ">>>" not in paragraph:
            paragraphs[place] = as_rst(paragraph)
    lines[:] = "\n\n".join(paragraphs).split("\n")


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
    found = (path for path in (f"{module}.{name}", f"isometry.{name}", name) if path in items())
    return next(found, None)


class LinkCode(SphinxTransform):
    """Make links of inline code that names something public."""

    default_priority = 450

    def apply(self, **kwargs: object) -> None:
        """Replace each literal by a cross reference that holds it."""
        del kwargs
        for literal in list(self.document.findall(nodes.literal)):
            target = resolve(literal.astext(), module_of(literal))
            if target is None or is_inside(literal, nodes.title, nodes.reference, pending_xref, desc_signature):
                continue
            link = pending_xref(
                "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refdoc=self.env.docname
            )
            literal.replace_self(link)
            link += literal


class LinkPapers(SphinxTransform):
    """Make links of the numbers of papers on arXiv."""

    default_priority = 451

    def apply(self, **kwargs: object) -> None:
        """Split each text around the numbers in it."""
        del kwargs
        for text in list(self.document.findall(nodes.Text)):
            if is_inside(text, nodes.reference, nodes.literal_block, nodes.literal, pending_xref):
                continue
            pieces = ARXIV.split(text.astext())
            if len(pieces) > 1:
                text.parent.replace(text, list(with_links(pieces)))


def with_links(pieces: list[str]) -> Iterator[nodes.Node]:
    """Alternate texts with links to the papers between them."""
    for place, piece in enumerate(pieces):
        if place % 2:
            url = f"https://arxiv.org/abs/{piece}"
            yield nodes.reference("", f"arXiv:{piece}", refuri=url, internal=False)
        elif piece:
            yield nodes.Text(piece)


class LinkIncluded(SphinxTransform):
    """Lead links to a README of the repository to the page that shows it."""

    default_priority = 452

    def apply(self, **kwargs: object) -> None:
        """Give each such link the name of its page."""
        del kwargs
        for link in self.document.findall(pending_xref):
            if link.get("refdomain") != "doc":
                continue
            for readme, page_name in INCLUDED.items():
                if link["reftarget"].endswith(f"/{readme}"):
                    link["reftarget"] = page_name


def module_of(node: nodes.Node) -> str:
    """Name the public module whose page holds a node, the front module elsewhere."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.Element) and node.get("objtype") is not None:
            for signature in node.findall(desc_signature):
                return signature.get("module") or "isometry"
    return "isometry"


def is_inside(node: nodes.Node, *kinds: type[nodes.Node]) -> bool:
    """Tell whether a node lies in one of some kinds."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def resolve_type(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Node | None:  # noqa: PLR0917
    """Link a type of a signature that is named without its module."""
    path = types().get(node["reftarget"].rpartition(".")[2])
    if node.get("refdomain") != "py" or path is None:
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", path, node, content)


class Catalogue(SphinxDirective):
    """Show all schemes and initializers with their laws, from the catalogues."""

    def run(self) -> list[nodes.Node]:
        """Parse the tables as if they stood on the page."""
        return self.parse_text_to_nodes(catalogue(), allow_section_headings=True)


TITLES = {"scheme": "Schemes", "initializer": "Initializers"}
FIELDS = ("law", "isometric", "citation", "aliases", "needs", "differs")


def catalogue() -> str:
    """Write the catalogues as Markdown: a table of each kind, then its entries."""
    listing = schemes.listing()
    lines: list[str] = []
    for kind, title in TITLES.items():
        chosen = [entry for entry in listing if entry["kind"] == kind]
        lines += [f"## {title}", "", "| name | definition | isometric |", "|---|---|---|"]
        for entry in chosen:
            definition, isometric = plain(entry["definition"]), plain(entry["isometric"])
            lines.append(f"| `{entry['name']}` | {definition} | {isometric} |")
        for entry in chosen:
            lines += ["", f"### {plain(entry['name'])}", "", plain(entry["definition"]), ""]
            lines += [f"- *{field}*: {plain(entry[field])}" for field in FIELDS if entry[field]]
        lines.append("")
    return "\n".join(lines)


def plain(value: str | tuple[str, ...]) -> str:
    """Escape text so that Markdown shows it as it stands."""
    text = value if isinstance(value, str) else ", ".join(value)
    return re.sub(r"[\\|*_\[\]<>$`]", r"\\\g<0>", text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of this with Sphinx."""
    app.add_directive("public-module", PublicModule)
    app.add_directive("catalogue", Catalogue)
    app.add_transform(LinkCode)
    app.add_transform(LinkPapers)
    app.add_transform(LinkIncluded)
    # In front of napoleon, which listens at 500.
    app.connect("autodoc-process-docstring", write_docstring, priority=400)
    app.connect("missing-reference", resolve_type)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
