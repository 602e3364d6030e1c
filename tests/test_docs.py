"""Documentation cannot rot: its code runs, its links lead somewhere, its pictures name the command that makes them."""

import importlib.util
import pathlib
import re
from typing import NamedTuple

import jax
import pytest

import isometry
from docs import api, errors, pictures, surface
from isometry import verdicts
from tests.audits import made_once

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Of these only python is run here; .ci/run takes its two commands from sh. Cells of tutorials are run by the site.
TAGS = ("python", "sh", "console", "text", "{code-cell} ipython3", "{toctree}")
OPTIONAL = ("flax", "equinox", "haiku")
SLOW = "<!-- slow -->"  # on the line before a block


class Block(NamedTuple):
    """A fenced block: its tag, the line it starts on, its text, and whether the page calls it slow."""

    tag: str
    line: int
    text: str
    slow: bool

    @property
    def needs(self):
        """The optional module that it imports, or empty. Such a block stands alone."""
        return next((m for m in OPTIONAL if re.search(rf"^(import|from) {m}\b", self.text, re.MULTILINE)), "")


def blocks(page):
    lines, found, start = page.read_text(encoding="utf-8").splitlines(), [], None
    for i, line in enumerate(lines):
        if line.startswith("```") and start is None:
            start = i
        elif line == "```" and start is not None:
            text = "\n".join(lines[start + 1 : i])
            found.append(Block(lines[start][3:], start + 2, text, lines[start - 1] == SLOW))
            start = None
    assert start is None, f"{page}: the block of line {start} is not closed"
    return found


def run(page, found):
    """The blocks one after another in one namespace; a traceback names the page and its line."""
    namespace = {"__name__": "__main__"}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # JAX as the reader finds it
        for block in found:
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)


def name_of(page):
    return str(page.relative_to(ROOT))


def chosen(page, slow):
    """Blocks to be run in one namespace. Those of README.md are run where their output is compared."""
    if page == ROOT / "README.md":
        return []
    return [b for b in blocks(page) if b.tag == "python" and not b.needs and (slow or not b.slow)]


def groups(pages):
    """Pages that audit the same network stand together, so that one process compiles it once."""
    alike = [p for p in pages if p.parent.name == "flags"]
    return [g for g in (alike, *([p] for p in pages if p not in alike)) if g]


@pytest.fixture
def audited_once(monkeypatch):
    """Of pages that write the same audit, the first makes it and the others get its report."""
    monkeypatch.setattr(isometry, "audit", made_once(isometry.audit, {}))


@pytest.mark.usefixtures("audited_once")
@pytest.mark.parametrize("pages", groups([p for p in PAGES if chosen(p, slow=False)]), ids=lambda g: name_of(g[0]))
def test_code_runs(pages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for page in pages:
        run(page, chosen(page, slow=False))


SLOW_PAGES = {name_of(p): p for p in PAGES if any(b.slow for b in blocks(p))}  # there may be none


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW_PAGES.values(), ids=list(SLOW_PAGES))
def test_slow_code_runs(page, tmp_path, monkeypatch):
    """The whole page, as a reader goes through it."""
    monkeypatch.chdir(tmp_path)
    run(page, chosen(page, slow=True))


def run_needing(module, slow, tmp_path, monkeypatch):
    """Blocks that need an optional module, each alone."""
    monkeypatch.chdir(tmp_path)
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: its recipes are not run")
    pages = [page for page in PAGES if page != ROOT / "README.md"]
    found = [(page, b) for page in pages for b in blocks(page) if b.needs == module and b.slow == slow]
    assert found
    for page, block in found:
        run(page, [block])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what they call of JAX is theirs
@pytest.mark.parametrize("module", OPTIONAL)
def test_code_for_other_libraries_runs(module, tmp_path, monkeypatch):
    run_needing(module, False, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_slow_code_for_flax_runs(tmp_path, monkeypatch):
    run_needing("flax", True, tmp_path, monkeypatch)


def printed_by_readme():
    """The blocks of code of README.md, each with the output that it shows."""
    shown = [b for b in blocks(ROOT / "README.md") if b.tag in ("python", "text")]
    return list(zip(shown[::2], shown[1::2], strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("code", "output"), printed_by_readme(), ids=["perceptron", "flax"])
def test_readme_shows_what_its_code_prints(code, output, tmp_path, monkeypatch, capsys):
    """A line "..." stands for the rest."""
    if code.needs:
        pytest.importorskip(code.needs)
    monkeypatch.chdir(tmp_path)
    run(ROOT / "README.md", [code])
    lines = capsys.readouterr().out.splitlines()
    shown = output.text.splitlines()
    if shown[-1] == "...":
        shown = shown[:-1]
        lines = lines[: len(shown)]
    assert lines == shown


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_tag(page):
    assert [(b.line, b.tag) for b in blocks(page) if b.tag not in TAGS] == []


def prose(page):
    """The page without its blocks of code and code in lines."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose(page))
    assert [t for t in found if "://" not in t and not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pictures_name_their_command(page):
    """In the paragraph below a picture; and it is small."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"!\[[^]]+\]\(([^)]+)\)", text):
        below = text[found.end() :].split("\n\n")[1]
        assert re.search(r"[Mm]ade by `[^`]+`", " ".join(below.split())), f"{found[1]}: no command beside it"
        assert (page.parent / found[1]).stat().st_size < 300_000


def test_pictures_are_those_of_the_code():
    shown = {
        found for page in PAGES for found in re.findall(r"`python -m docs\.pictures (\w+)`", page.read_text("utf-8"))
    }
    assert shown == set(pictures.PICTURES) == {p.stem for p in (ROOT / "docs").glob("*.png")} - {"audit"}


@pytest.mark.slow
@pytest.mark.parametrize("name", pictures.PICTURES)
def test_pictures_are_drawn(name):
    """What is drawn is checked elsewhere, where it is computed; here, that the program still runs."""
    assert all(ax.has_data() for ax in pictures.PICTURES[name]().axes)


def test_the_reference_can_be_made():
    """One heading for each public name; the page itself need not be of today."""
    page = api.page()
    for items in surface.everything().values():
        for item in items:
            assert f" {item.path.removeprefix('isometry.')}\n" in page


def test_every_flag_has_a_page():
    pages = {p.stem for p in (ROOT / "docs" / "flags").glob("*.md")} - {"README"}
    assert pages == set(verdicts.flag_names())


@pytest.mark.parametrize("flag", verdicts.flag_names())
def test_a_flag_page_has_all_its_parts(flag):
    text = (ROOT / "docs" / "flags" / f"{flag}.md").read_text(encoding="utf-8")
    parts = ("What it means", "How it is decided", "How often it errs", "What to do", "An example")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(parts)
    assert text == errors.page(flag), "if the records are new: python -m docs.errors"
    example = blocks(ROOT / "docs" / "flags" / f"{flag}.md")[-1].text
    assert f'flags["{flag}"]' in example
    assert re.search(r"^assert \S+raised", example, re.MULTILINE)


def test_the_gate_finds_its_two_commands():
    assert sum(b.tag == "sh" for b in blocks(ROOT / "README.md")) == 2


def test_the_rules_can_fail(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```python\nx = 1\n```\n\n<!-- slow -->\n```python\nimport flax\nassert x == 2\n```\n")
    first, second = blocks(page)
    assert (first.needs, first.slow, second.needs, second.slow) == ("", False, "flax", True)
    with pytest.raises(AssertionError) as failed:
        run(page, [first, second._replace(text="assert x == 2")])
    assert failed.traceback[-1].lineno + 1 == second.line
