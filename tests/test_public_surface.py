"""The public surface is pinned, and documented: arguments, what is returned, what is raised."""

import ast
import importlib
import inspect
import re

import pytest

import isometry
from docs import surface

ITEMS = [item for every in surface.everything().values() for item in every if item.node is not None]
# Summaries are noun phrases that name the value; one that commands must say elsewhere what comes back.
COMMANDS = ("Call", "Compute", "Create", "Draw", "Get", "Give", "Make", "Put", "Read", "Return", "Set", "Take", "Write")
IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
HARMLESS = ("show", "is_traced", "x64", "is_key", "key_bits", "key_kind")  # of _checks: these raise nothing


def test_snapshot():
    assert surface.text() == surface.SNAPSHOT.read_text(encoding="utf-8"), "if meant: python -m docs.surface"


def test_all_is_what_the_snapshot_holds():
    modules = {m.removeprefix("isometry.") for m in surface.MODULES if m.count(".") == 1} - {"degeneracy"}
    assert set(isometry.__all__) == {"__version__", *modules, *surface.names("isometry")}


def test_written_signature_is_the_one_called():
    """Decorators may not change what the source, and so the snapshot, says."""
    for item in ITEMS:
        if not isinstance(item.node, ast.ClassDef) and not item.is_property:
            taken = [a for a in inspect.signature(item.value).parameters if a not in ("self", "cls")]
            assert arguments(item) == taken, item.path


def arguments(item):
    """Names of the arguments, of a class those of its public fields."""
    if isinstance(item.node, ast.ClassDef):
        return [ast.unparse(f.target) for f in surface.fields(item.node)]
    a = item.node.args
    every = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs, *([a.kwarg] if a.kwarg else [])]
    return [x.arg for x in every if x.arg not in ("self", "cls")]


def named(text):
    """Identifiers that a text speaks of: those in backquotes, and words that only an identifier can be."""
    inside = IDENTIFIER.findall(" ".join(re.findall(r"`([^`]+)`", text)))
    return {*inside, *(w for w in IDENTIFIER.findall(text) if "_" in w or any(c.isdigit() for c in w))}


def shared(item):
    """Arguments that the module's docstring explains, in a list, for all its functions."""
    doc = inspect.getdoc(importlib.import_module(module_of(item))) or ""
    return {w for head in re.findall(r"^- (`.*?`):", doc, re.MULTILINE) for w in named(head)}


def module_of(item):
    return max((m for m in surface.MODULES if item.path.startswith(f"{m}.")), key=len)


def text_of(item):
    return item.doc + ("\n" + item.owner.doc if item.owner else "")


def faults(item):
    """What its docstring lacks."""
    missing = [a for a in arguments(item) if a not in named(text_of(item)) | shared(item)]
    if not item.doc:
        yield "no docstring"
    if missing:
        yield f"{', '.join(missing)} not explained"
    if not says_what_returns(item):
        yield "neither a noun phrase for what is returned, nor the word"
    if raises(item.node, item) and not re.search(r"Raises|Error|refus", text_of(item)):
        yield "what it raises is not said"


@pytest.mark.parametrize("module", surface.MODULES)
def test_docstrings(module):
    assert [(i.path, f) for i in ITEMS if module_of(i) == module for f in faults(i)] == []


def says_what_returns(item):
    if isinstance(item.node, ast.ClassDef) or item.node.returns is None or ast.unparse(item.node.returns) == "None":
        return True
    return not item.doc or item.doc.split()[0] not in COMMANDS or bool(re.search(r"[Rr]eturn", item.doc))


def raises(node, item):
    """Whether a function, or a helper of its module that it calls by name, refuses bad input."""
    if isinstance(node, ast.ClassDef):
        return any(raises(n, item) for n in node.body if getattr(n, "name", "") in ("__init__", "__post_init__"))
    source = inspect.getsource(inspect.getmodule(inspect.unwrap((item.owner or item).value)))
    helpers = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name.startswith("_")}
    called = {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return any(refuses(n) for n in (node, *(helpers[c] for c in called & set(helpers))))


def refuses(node):
    called = {ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
    checks = {c for c in called if c.startswith("_checks.") and c.removeprefix("_checks.") not in HARMLESS}
    return bool(checks) or any(isinstance(n, ast.Raise) for n in ast.walk(node))


def test_the_rules_can_fail():
    def item(source):
        node = ast.parse(source).body[0]
        return surface.Item("isometry.data.f", isometry.data.load, node)

    good = 'def f(path) -> int:\n    """What `path` holds. **Raises** `ValueError`: no file."""\n    raise ValueError'
    assert list(faults(item(good))) == []
    for bad in (
        "def f() -> None:\n    pass",
        'def f(path) -> int:\n    """What a path holds. Raises."""\n    raise ValueError',
        'def f(path) -> int:\n    """Read `path`."""',
        'def f(path) -> int:\n    """What `path` holds."""\n    _checks.number("f", path=path)',
    ):
        assert len(list(faults(item(bad)))) == 1
