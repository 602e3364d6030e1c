"""The documentation holds: what README.md prints, the form of pages, what they quote.

The code of the site's pages is run by `python -m docs build --execute`, each night, and
links between pages are checked by every build.
"""

import ast
import pathlib
import re
from typing import NamedTuple

import jax
import pytest

import isometry
from docs import __main__ as site
from docs import bibliography, errors, pictures, records, reference, surface
from isometry import verdicts

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
# Code that nothing runs is shown as `text`; what a reader types, as `console`. .ci/run
# takes its two commands from the blocks of README.md that are tagged `sh`.
TAGS = ("python", "sh", "console", "text")
CELL = "{code-cell} ipython3"
# PyTorch is not installed where the site is built: its side is quoted.
QUOTING = ("from_pytorch.md",)
# The packages whose text quotes papers.
PACKAGES = ("isometry", "paper_figs", "benchmarks", "examples")


class Block(NamedTuple):
    """A fenced block: its tag, the line on which its text starts, and its text."""

    tag: str
    line: int
    text: str


def blocks(page):
    """List the fenced blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found, start = [], None
    for number, line in enumerate(lines):
        if line.startswith("```") and start is None:
            start = number
        elif line == "```" and start is not None:
            text = "\n".join(lines[start + 1 : number])
            found.append(Block(lines[start][3:], start + 2, text))
            start = None
    assert start is None, f"{page}: the block of line {start} is not closed"
    return found


def run(page, block):
    """Run a block; a traceback names the page and its line."""
    # As many lines above it as on the page.
    source = "\n" * (block.line - 1) + block.text
    # JAX as the reader finds it.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(source, str(page), "exec"), {"__name__": "__main__"})


def name_of(page):
    return str(page.relative_to(ROOT))


def printed_by_readme():
    """The blocks of code of README.md, each with the output that it shows."""
    shown = [block for block in blocks(README) if block.tag in ("python", "text")]
    return list(zip(shown[::2], shown[1::2], strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("code", "output"), printed_by_readme(), ids=["perceptron", "flax"]
)
def test_readme_shows_what_its_code_prints(code, output, tmp_path, monkeypatch, capsys):
    """A line "..." stands for the rest."""
    if "import flax" in code.text:
        pytest.importorskip("flax")
    monkeypatch.chdir(tmp_path)
    run(README, code)
    lines = capsys.readouterr().out.splitlines()
    shown = output.text.splitlines()
    if shown[-1] == "...":
        shown = shown[:-1]
        lines = lines[: len(shown)]
    assert lines == shown


def faults_of_blocks(page, is_on_site):
    """What the blocks of a page have against the rules, as (line, fault)."""
    for block in blocks(page):
        if is_on_site and block.tag == "python" and page.name not in QUOTING:
            yield block.line, f"code that nothing runs: make it a {CELL}"
        if block.tag not in TAGS and not block.tag.startswith("{"):
            yield block.line, f"tag {block.tag!r}"
        if block.tag == CELL and not block.text.startswith("%%"):
            # Options of a cell stand above its code, as `:tags: [hide-input]`.
            code = re.sub(r"^:[\w-]+:.*$", "", block.text, flags=re.MULTILINE)
            try:
                ast.parse(code)
            except SyntaxError as error:
                yield block.line, str(error)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_a_page(page):
    assert list(faults_of_blocks(page, page.is_relative_to(DOCS))) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_with_cells_is_a_notebook(page):
    """MyST-NB shows the cells of other pages as text, and runs none of them."""
    text = page.read_text(encoding="utf-8")
    has_cells = any(block.tag.startswith("{code-cell}") for block in blocks(page))
    head = text.partition("\n---\n")[0]
    assert has_cells == head.startswith("---\nfile_format: mystnb\n")
    assert not has_cells or "\n  language: python\n  name: python3" in head


def prose(page):
    """The page without its blocks of code and code in lines."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose(page))
    files = [target for target in targets if "://" not in target]
    assert [file for file in files if not (page.parent / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pictures_name_their_command(page):
    """In the paragraph below a picture; and it is small."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"!\[[^]]+\]\(([^)]+)\)", text):
        below = " ".join(text[found.end() :].split("\n\n")[1].split())
        assert re.search(r"[Mm]ade by `[^`]+`", below), f"{found[1]}: no command"
        assert (page.parent / found[1]).stat().st_size < 300_000


def test_pictures_are_those_of_the_code():
    command = r"`python -m docs\.pictures (\w+)`"
    shown = {
        name for page in PAGES for name in re.findall(command, page.read_text("utf-8"))
    }
    files = {path.stem for path in DOCS.glob("*.png")}
    assert shown == set(pictures.PICTURES) == files - {"audit"}


@pytest.mark.slow
@pytest.mark.parametrize("name", pictures.PICTURES)
def test_pictures_are_drawn(name):
    """What is drawn is checked where it is computed; here, that the program runs."""
    assert all(ax.has_data() for ax in pictures.PICTURES[name]().axes)


@pytest.mark.parametrize("module", surface.MODULES)
def test_every_module_has_a_page_of_the_reference(module):
    """With an entry and a line of the table for each public name."""
    page = DOCS / "api" / f"{module.removeprefix('isometry.')}.rst"
    assert f".. public-module:: {module}\n" in page.read_text(encoding="utf-8")
    entries = "\n".join(reference.page(module)) + "\n"
    for item in surface.everything()[module]:
        # A constant is named within its module.
        name = item.path if item.node else item.path.removeprefix(f"{module}.")
        assert re.search(rf"\.\. (auto|py:)\w+:: {re.escape(name)}[(\n]", entries)


def test_docstrings_are_escaped_for_the_reference():
    """Outside code, an asterisk, a bar and a last underscore are characters."""
    text = reference.as_rst("|J v| of `W_ * x`s, n_ and *args")
    assert text == r"\|J v\| of `W_ * x`\ s, n\_ and \*args"


@pytest.mark.parametrize(
    ("code", "path"),
    [
        ("isometry.spectrum", "isometry.spectrum"),
        ("Spectrum.moment", "isometry.Spectrum.moment"),
        ("audit(net, keys)", "isometry.audit"),
        ("theory.chi", "isometry.theory.chi"),
        ("Law", "isometry.theory.Law"),
        ("Network", "isometry.networks.Network"),
        # Bare words are arguments more often than functions.
        ("weights", None),
        ("np.sum", None),
        ("f(params, x)", None),
    ],
)
def test_code_that_becomes_a_link(code, path):
    assert reference.resolve(code, "isometry.theory") == path


def test_every_flag_has_a_page():
    pages = {page.stem for page in (DOCS / "flags").glob("*.md")} - {"README"}
    assert pages == set(verdicts.flag_names())


@pytest.mark.parametrize("flag", verdicts.flag_names())
def test_a_flag_page_has_all_its_parts(flag):
    page = DOCS / "flags" / f"{flag}.md"
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "What it means",
        "How it is decided",
        "How often it errs",
        "What to do",
        "An example",
    ]
    assert text == errors.page(flag), "if the records are new: python -m docs.errors"
    example = blocks(page)[-1]
    assert example.tag == CELL
    assert f'flags["{flag}"]' in example.text
    assert re.search(r"^assert \S+raised", example.text, re.MULTILINE)


def quoting():
    """All that quotes papers: pages, and the text and code of the packages."""
    inside = [ROOT / package for package in PACKAGES]
    sources = [path for folder in inside for path in folder.rglob("*.py")]
    notes = [path for folder in inside for path in folder.rglob("*.md")]
    return [*PAGES, *sources, *notes]


def test_every_number_of_a_paper_is_in_the_bibliography():
    known = bibliography.FILE.read_text(encoding="utf-8")
    papers = {
        paper
        for path in quoting()
        for paper in bibliography.ARXIV.findall(path.read_text("utf-8"))
    }
    assert {"1606.05340", "math/0403022"} <= papers
    assert [paper for paper in sorted(papers) if f"{{{paper}}}" not in known] == []


def test_every_author_and_year_is_in_the_bibliography():
    """With the number that stands beside it."""
    known = bibliography.entries()
    faults = {
        (name_of(path), key, number)
        for path in quoting()
        for key, number in bibliography.quoted(path.read_text("utf-8"))
        if key not in known or number not in known[key]
    }
    assert sorted(faults) == []


def test_keys_of_the_bibliography_have_the_year():
    entries = bibliography.entries()
    text = bibliography.FILE.read_text(encoding="utf-8")
    assert len(entries) == text.count("\n@")
    years = {key: bibliography.year(entry) for key, entry in entries.items()}
    assert [key for key, year in years.items() if key[-4:] != year] == []


@pytest.mark.parametrize(
    ("text", "papers"),
    [
        ("in general (Newman, 1986).", [("newman1986", "")]),
        ("Yang et al. (2019, section 2)", [("yang2019", "")]),
        ("Yang et al. (2019), arXiv:1902.08129.", [("yang2019", "1902.08129")]),
        (
            "Baik, Ben Arous and Péché (2005, arXiv:math/0403022)",
            [("baik2005", "math/0403022")],
        ),
        ("of Kuczyński and Woźniakowski\n    (1992)", [("kuczynski1992", "")]),
        ("# Weiße, Wellein, Alvermann and\n# Fehske (2006)", [("weisse2006", "")]),
        ('"Huang et "\n    "al. (2020)"', [("huang2020", "")]),
        ("Full, 8000 steps; read-only since May 2025", []),
    ],
)
def test_quotations_are_found(text, papers):
    """Across lines of a docstring, of a comment and of strings in a row."""
    assert list(bibliography.quoted(text)) == papers


@pytest.fixture(scope="module")
def public():
    """The public modules, functions and classes by the names that pages call them."""
    items = [item for found in surface.everything().values() for item in found]
    named = {item.path.rpartition(".")[2]: item.value for item in items}
    return named | {name: getattr(isometry, name) for name in dir(isometry)}


def exists(name, public):
    """Tell whether a dotted name of the changelog leads somewhere."""
    first, *rest = name.split(".")
    found = isometry if first == "isometry" else public.get(first)
    for part in rest:
        if part in getattr(found, "__annotations__", ()):
            return True
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def test_names_of_the_changelog_exist(public):
    """Those of the first column of its table are what they were called before."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    text = re.sub(r"^\|[^|]*", "", text, flags=re.MULTILINE)
    roots = {"isometry", *(name.split(".")[1] for name in surface.MODULES[1:])}
    names = {
        code
        for code in re.findall(r"`([A-Za-z]\w*(?:\.\w+)+)`", text)
        if code.split(".")[0] in roots or code[0].isupper()
    }
    assert {"isometry.audit", "theory.norm_gain", "Network.with_scheme"} <= names
    assert [name for name in sorted(names) if not exists(name, public)] == []
    assert not exists("isometry.degeneracy", public)
    assert not exists("LayerLock.bounds", public)


def test_every_figure_and_record_says_where_it_comes_from():
    made = list(records.made())
    commands = {record.path: record.command for record in made}
    for record in made:
        assert re.fullmatch(r"[0-9a-f]{40}(\+dirty)?", record.commit), record.path
        assert re.match(r"python -m (paper_figs|benchmarks)", record.command)
    figures = ROOT / "paper_figs"
    for picture in (figures / "gallery").glob("*.png"):
        name = picture.stem
        if name != "index":
            command = f"python -m paper_figs {name} --preset full"
            assert commands[f"paper_figs/gallery/{name}.json"] == command
            assert (figures / f"{name}.py").exists()


def test_a_build_removes_pages_whose_source_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "BUILD", tmp_path)
    monkeypatch.setattr(site, "sphinx", lambda builder, *options: 0)
    old = tmp_path / "html" / "old.html"
    old.parent.mkdir()
    old.touch()
    assert site.build(is_executed=False) == 0
    assert not old.exists()


def test_the_gate_finds_its_two_commands():
    assert sum(block.tag == "sh" for block in blocks(README)) == 2


def test_faults_of_blocks_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```{code-cell} ipython3\nx = = 1\n```\n")
    assert [line for line, _ in faults_of_blocks(page, is_on_site=True)] == [2, 6]


def test_a_fault_names_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```python\nx = 1\nassert x == 2\n```\n")
    (block,) = blocks(page)
    with pytest.raises(AssertionError) as failed:
        run(page, block)
    assert failed.traceback[-1].lineno + 1 == 5
