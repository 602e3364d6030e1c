"""Sphinx extension: formulas as MathML, which browsers show without any script."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LOGGER = logging.getLogger(__name__)

# What amsmath sets in one column or aligned, when a formula has several lines.
ENVIRONMENT = re.compile(r"\\begin\{(?:align|aligned|gather|split)\*?\}")


def mathml(formula: str, display: str, node: nodes.Node) -> str:
    """Convert a formula; one in which a command is left as it stands is a warning."""
    converted = convert(formula, display=display)
    left = re.findall(r"\\\w+", converted)
    if left:
        LOGGER.warning("formula with %s as text", ", ".join(left), location=node)
    return converted


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(mathml(node.astext(), "inline", node))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own line; one too wide for the page scrolls by itself."""
    text = node.astext().strip()
    has_lines = r"\\" in text and not ENVIRONMENT.search(text)
    if has_lines:
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    translator.body.append('<div class="math">')
    translator.body.append(mathml(text, "block", node))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, which `html_math_renderer` names."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
