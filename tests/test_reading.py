"""How the code reads: every file keeps the rules.

Columns, docstrings' form and lambda assignments are ruff's business. Here is what ruff
has no rule for. CONTRIBUTING.md says why each rule is there.
"""

import ast
import io
import pathlib
import re
import sys
import tokenize

import pytest

from docs import surface

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("isometry", "benchmarks", "docs", "examples", "paper_figs", "tests")

# Tokens, conditional expressions and comments of lineax, equinox, optax and curvlinops
# lie within these bounds: 6.5 to 7.3, 0.1 to 1.2 and 7.5 to 22.
MOST_TOKENS_PER_LINE = 8.5
MOST_CONDITIONALS_PER_100 = 1.5
LEAST_COMMENTS_PER_100 = 6.0

MOST_POSITIONAL = 3
BY_POSITION = "more than three arguments by position"
# Functions and methods that take any number of equals, or pass arguments on.
VARIADIC = (
    "cond",
    "map",
    "max",
    "min",
    "partial",
    "print",
    "reshape",
    "transpose",
    "zip",
)

# A room of fewer lines has no room for a figure per 100.
LEAST_LINES = 30


def python_files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


FILES = [path for folder in FOLDERS for path in python_files(folder)]


def room_of(path):
    """A module or a package directly below isometry/."""
    return path.relative_to(ROOT / "isometry").parts[0]


ROOMS: dict[str, list[pathlib.Path]] = {}
for _path in python_files("isometry"):
    ROOMS.setdefault(room_of(_path), []).append(_path)


def positional(call):
    """The number of arguments passed by position, or 0 where any number is usual."""
    name = ast.unparse(call.func).rpartition(".")[2]
    if name in VARIADIC:
        return 0
    return sum(not isinstance(argument, ast.Starred) for argument in call.args)


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def holds_conditional(node):
    """Tell whether there is a conditional expression below a node."""
    parts = ast.walk(node)
    return any(isinstance(part, ast.IfExp) for part in parts if part is not node)


def faults(tree):
    """What a syntax tree has against the rules, as (line, rule)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp) and holds_conditional(node):
            yield node.lineno, "a conditional expression inside another"
        if isinstance(node, COMPREHENSIONS) and holds_conditional(node):
            yield node.lineno, "a conditional expression inside a comprehension"
        if isinstance(node, ast.Call) and positional(node) > MOST_POSITIONAL:
            yield node.lineno, BY_POSITION


# One test for all files of a folder: thousands of small tests take seconds to hand out.
@pytest.mark.parametrize("folder", FOLDERS)
def test_rules_of_reading(folder):
    # In tests, a row of plain values is often what there is to see.
    allowed = [BY_POSITION] if folder == "tests" else []
    found = [
        (str(path.relative_to(ROOT)), line, rule)
        for path in FILES
        if path.is_relative_to(ROOT / folder)
        for line, rule in faults(ast.parse(path.read_text()))
    ]
    assert [fault for fault in found if fault[2] not in allowed] == []


@pytest.mark.parametrize(
    "line",
    [
        "a if x else (b if y else c)",
        "f(a if x else b) if y else c",
        "[a if x else b for x in xs]",
        "f(1, 2, 3, 4)",
    ],
)
def test_the_rules_can_fail(line):
    assert len(list(faults(ast.parse(line)))) == 1


def test_the_rules_can_pass():
    assert not list(
        faults(ast.parse("f(1, *xs, a if x else b, last=4)\nmax(1, 2, 3, 4)"))
    )


def docstring_lines(tree):
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines |= set(range(docstring.lineno, docstring.end_lineno + 1))
    return lines


def figures(paths):
    """Code lines, tokens a line, conditionals and comments a hundred lines."""
    counted = (tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP)
    num_lines = num_tokens = num_comments = num_conditionals = 0
    for path in paths:
        source = path.read_text()
        tree = ast.parse(source)
        in_docstrings = docstring_lines(tree)
        code_lines = set()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            line, _ = token.start
            if token.type == tokenize.COMMENT:
                num_comments += 1
            elif token.type in counted and line not in in_docstrings:
                num_tokens += 1
                code_lines.add(line)
        num_lines += len(code_lines)
        num_conditionals += sum(isinstance(n, ast.IfExp) for n in ast.walk(tree))
    share = 100 / num_lines
    return (
        num_lines,
        num_tokens / num_lines,
        num_conditionals * share,
        num_comments * share,
    )


# Later versions of Python split f-strings into tokens, so the limits would be others.
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="f-strings are several tokens")
@pytest.mark.parametrize("room", ROOMS)
def test_figures_of_reading(room):
    """Figures are symptoms: where one is beyond its bound, mend the reading."""
    lines, tokens, conditionals, comments = figures(ROOMS[room])
    if lines < LEAST_LINES:
        return
    assert tokens <= MOST_TOKENS_PER_LINE
    assert conditionals <= MOST_CONDITIONALS_PER_100
    assert comments >= LEAST_COMMENTS_PER_100


def public_items():
    """Public functions, classes, methods and properties."""
    for items in surface.everything().values():
        for item in items:
            if item.node is not None:
                yield item


def section(doc, title):
    """The text of a section of a Google docstring, empty if there is none."""
    match = re.search(rf"^{title}:\n((?:[ ].*\n|\n)*)", doc + "\n", re.MULTILINE)
    return match[1] if match else ""


def missing_sections(item, doc):
    """What a docstring of a public item does not have."""
    described = section(doc, "Args") + section(doc, "Attributes")
    missing = [
        name
        for name in surface.arguments(item)
        if not re.search(rf"^ +\*{{0,2}}{name}: ", described, re.MULTILINE)
    ]
    if ">>>" not in section(doc, "Example"):
        missing.append("an example")
    # What a property returns is its summary.
    is_called = not isinstance(item.node, ast.ClassDef) and not item.is_property
    returns = is_called and item.node.returns is not None
    if returns and not section(doc, "Returns"):
        missing.append("what it returns")
    return missing


def test_public_docstrings_have_their_sections():
    missing = {item.path: missing_sections(item, item.doc) for item in public_items()}
    assert missing
    assert {path: names for path, names in missing.items() if names} == {}


def test_a_missing_section_is_found():
    items = {item.path: item for item in public_items()}
    doc = "Measure.\n\nArgs:\n    f: A function.\n"
    missing = missing_sections(items["isometry.spectrum"], doc)
    assert {"params", "an example", "what it returns"} < set(missing)
    assert "f" not in missing
