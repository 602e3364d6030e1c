"""Sphinx extension: directives, links and checks of the site.

`public-module` shows a module of the reference, `public-modules` a table of them,
`catalogue` all initializers and schemes, `records` where figures come from. Inline code
that names something public becomes a link, and so do the numbers of papers and links to
files that a page shows. A public name without an entry is a warning.
"""

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.addnodes import desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from docs import bibliography, records, reference

LOGGER = logging.getLogger(__name__)

# Where no link is made: in titles, in signatures, and in what is a link already.
UNLINKED = (nodes.title, nodes.reference, pending_xref, desc_signature)

# What lies outside docs/ and is shown on a page; what is not stays text.
INCLUDED = {
    "CONTRIBUTING": None,
    "CHANGELOG": "changes",
    "isometry/theory/laws/README": "laws",
    "paper_figs/README": "figures",
    "benchmarks/README": "benchmarks",
    "benchmarks/zoo/README": "zoo",
}


class PublicModule(SphinxDirective):
    """Show a public module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the entries of the module as if they stood on the page."""
        module = self.arguments[0]
        text = "\n".join(reference.page(module))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class PublicModules(SphinxDirective):
    """Show a table of the public modules."""

    def run(self) -> list[nodes.Node]:
        """Parse the table as if it stood on the page."""
        return self.parse_text_to_nodes("\n".join(reference.modules()))


class Catalogue(SphinxDirective):
    """Show all schemes and initializers with their laws, from the catalogues."""

    def run(self) -> list[nodes.Node]:
        """Parse the tables as if they stood on the page."""
        text = reference.catalogue()
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Records(SphinxDirective):
    """Show where every figure and record comes from."""

    def run(self) -> list[nodes.Node]:
        """Parse the table as if it stood on the page."""
        return self.parse_text_to_nodes(records.table())


def write_docstring(*event: object) -> None:
    """Escape a docstring, in front of napoleon, which makes fields of its sections."""
    lines = event[-1]
    assert isinstance(lines, list)
    text = "\n".join(lines)
    # Napoleon takes what stands before a colon for a type; ours have no type here.
    text = re.sub(r"^(Returns:\n +)", r"\1: ", text, flags=re.MULTILINE)
    paragraphs = text.split("\n\n")
    for place, paragraph in enumerate(paragraphs):
        # An example is shown as it stands.
        if ">>>" not in paragraph:
            paragraphs[place] = reference.as_rst(paragraph)
    lines[:] = "\n\n".join(paragraphs).split("\n")


class LinkCode(SphinxTransform):
    """Turn inline code that names a public object into a link."""

    default_priority = 450

    def apply(self, **kwargs: object) -> None:
        """Replace each literal by a cross reference that holds it."""
        del kwargs
        for literal in list(self.document.findall(nodes.literal)):
            target = reference.resolve(literal.astext(), module_of(literal))
            if target is None or is_inside(literal, UNLINKED):
                continue
            link = pending_xref("", refdomain="py", reftype="obj", refexplicit=True)
            link["reftarget"] = target
            link["refdoc"] = self.env.docname
            literal.replace_self(link)
            link += literal


class LinkPapers(SphinxTransform):
    """Make links of the numbers of papers on arXiv."""

    default_priority = 451

    def apply(self, **kwargs: object) -> None:
        """Split each text around the numbers in it."""
        del kwargs
        for text in list(self.document.findall(nodes.Text)):
            if is_inside(text, (*UNLINKED, nodes.literal, nodes.literal_block)):
                continue
            pieces = bibliography.ARXIV.split(text.astext())
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
        for link in list(self.document.findall(pending_xref)):
            if link.get("refdomain") != "doc":
                continue
            for readme, page in INCLUDED.items():
                if not link["reftarget"].endswith(f"/{readme}"):
                    continue
                if page is None:
                    link.replace_self(link.children)
                else:
                    link["reftarget"] = page


def module_of(node: nodes.Node) -> str:
    """Name the module of the API entry that encloses a node, else "isometry"."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.Element) and node.get("objtype") is not None:
            for signature in node.findall(desc_signature):
                return signature.get("module") or "isometry"
    return "isometry"


def is_inside(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    """Tell whether a node lies in one of some kinds."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def resolve_type(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """Link a type of a signature that is named without its module."""
    path = reference.types().get(node["reftarget"].rpartition(".")[2])
    if node.get("refdomain") != "py" or path is None:
        return None
    return env.domains.python_domain.resolve_xref(
        env=env,
        fromdocname=node["refdoc"],
        builder=app.builder,
        type="obj",
        target=path,
        node=node,
        contnode=content,
    )


def check_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that no page has."""
    del app
    documented = env.domains.python_domain.objects
    for path in reference.items():
        if path not in documented:
            LOGGER.warning("%s has no entry in docs/api", path)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of this with Sphinx."""
    app.add_directive("public-module", PublicModule)
    app.add_directive("public-modules", PublicModules)
    app.add_directive("catalogue", Catalogue)
    app.add_directive("records", Records)
    app.add_transform(LinkCode)
    app.add_transform(LinkPapers)
    app.add_transform(LinkIncluded)
    # In front of napoleon, which listens at 500.
    app.connect("autodoc-process-docstring", write_docstring, priority=400)
    app.connect("missing-reference", resolve_type)
    app.connect("env-check-consistency", check_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
