"""Settings of Sphinx. `python -m docs` builds with them."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import isometry  # noqa: E402

project = "isometry"
author = "The isometry authors"
copyright = author
version = release = isometry.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
    "sphinx_copybutton",
    "myst_nb",
    "docs.mathml",
    "docs.extension",
]
exclude_patterns = ["_build"]
nitpicky = False
default_role = "literal"

# Signatures and docstrings come from the source, through docs.surface.
add_module_names = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Fields of a class as a list: as objects of their own they would be listed twice where
# a property documents itself.
napoleon_custom_sections = [("Attributes", "params_style")]

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

# `python -m docs build --execute` overrides the mode. An error fails the build.
nb_execution_mode = "off"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_in_temp = True
nb_merge_streams = True
nb_ipywidgets_js = {}

html_theme = "furo"
html_title = "isometry"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
html_search_scorer = str(ROOT / "docs" / "scorer.js")
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

linkcheck_timeout = 20
linkcheck_retries = 2
