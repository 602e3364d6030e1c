"""Sphinx extension: formulas as MathML, which browsers show without any script."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

# What amsmath sets in one column or aligned, when a formula has several lines.
ENVIRONMENT = re.compile(r"\\begin\{(?:align|aligned|gather|split)\*?\}")


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own line; one too wide for the page scrolls by itself."""
    text = node.astext().strip()
    has_lines = r"\\" in text and not ENVIRONMENT.search(text)
    if has_lines:
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    translator.body.append('<div class="math">')
    translator.body.append(convert(text, display="block"))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, which `html_math_renderer` names."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
