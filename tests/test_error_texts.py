"""Every error text is quoted by a test.

A text is a string of a message: of what is raised or warned of, added as a note or told on stderr, or of what such a
message is put together from. It is quoted where a test holds a run of `RUN` characters of it (regex escapes undone)
that no other text has; of texts that differ in less, a run that the fewest have. Any run would not do: "; write
jnp.float32, for example." ends several messages, and a test of one would count as a test of all. Parts shorter than
`RUN` ("no axis") are not asked for: they would be found anywhere. What this cannot see is whether the test that quotes
a text makes the package say it.
"""

import ast
import pathlib
import re
from collections import Counter, defaultdict

import pytest

ROOT = pathlib.Path(__file__).parents[1]
RUN = 16
SAID = ("warn", "add_note", "__init__", "_refuse")  # calls whose first argument is a message, as of `raise X(...)`


def parsed(folder):
    paths = sorted(set(folder.rglob("*.py")) - {pathlib.Path(__file__)})
    return [ast.parse(path.read_text(encoding="utf-8")) for path in paths]


def name_of(node):
    """`f` of f, m.f, m.f(...) and m.f[...]; None of what has no name."""
    if isinstance(node, (ast.Call, ast.Subscript)):
        return name_of(node.func if isinstance(node, ast.Call) else node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def calls_it(after):
    """Whether a part of an f-string makes of what is before it the name of a call."""
    return isinstance(after, ast.Constant) and after.value.startswith("(): ")


class Texts:
    """The texts of modules, each a tuple of the constant parts of an (f-)string. Names are followed to what they are
    assigned, arguments to what is passed for them, calls to what is returned; of equal names the module's own counts.
    """

    def __init__(self, trees):
        self.scope, self.calls, self.known = {}, defaultdict(list), defaultdict(list)
        self.why = []  # what is passed as `why=`: by the house's habit the end of a message
        for tree in trees:
            self.index(tree, tree)
        self.found, self.seen = set(), set()
        for node in list(self.scope):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                self.follow(node.exc.args)
            elif isinstance(node, ast.Call) and name_of(node) in SAID:
                self.follow(node.args[:1])
        self.follow(self.why)

    def index(self, node, scope):
        for child in ast.iter_child_nodes(node):
            self.scope[child] = scope
            if isinstance(child, ast.Call):
                self.calls[name_of(child)].append(child)
                self.why += [k.value for k in child.keywords if k.arg == "why"]
            elif isinstance(child, ast.FunctionDef):
                self.known[child.name].append(child)
            elif isinstance(child, ast.Assign) and isinstance(scope, ast.Module):
                self.known[name_of(child.targets[0])].append(child.value)
            self.index(child, child if isinstance(child, (ast.FunctionDef, ast.Lambda)) else scope)

    def follow(self, nodes):
        for node in nodes:
            if node not in self.seen:
                self.seen.add(node)
                self.found |= {text(node)} if isinstance(node, (ast.JoinedStr, ast.Constant)) else set()
                self.follow(self.sources(node))

    def sources(self, node):
        """Where the words of `node` come from."""
        match node:
            case ast.JoinedStr(values=parts):
                named = zip(parts, [*map(calls_it, parts[1:]), False], strict=True)  # "{call}(): ": no words
                return [part for part, by in named if isinstance(part, ast.FormattedValue) and not by]
            case ast.Tuple(elts=parts) | ast.Dict(values=parts) | ast.BoolOp(values=parts):
                return parts
            case ast.FormattedValue(value=one) | ast.GeneratorExp(elt=one):
                return [one]
            case ast.BinOp(left=one, right=other) | ast.IfExp(body=one, orelse=other):
                return [one, other]
            case ast.Call(func=ast.Attribute(value=one, attr="join" | "get"), args=given):
                return [one, *given]
            case ast.Call():
                functions = [f for f in self.meant(node) if isinstance(f, ast.FunctionDef)]
                return [r.value for f in functions for r in ast.walk(f) if isinstance(r, ast.Return)]
            case ast.Name(id=name):
                return self.local(name, self.scope[node]) or self.meant(node)
            case ast.Attribute() | ast.Subscript():
                return self.meant(node)
        return []

    def meant(self, node):
        """What a name stands for in its module, or else in any."""
        found = self.known[name_of(node)]
        return [other for other in found if self.module(other) is self.module(node)] or found

    def module(self, node):
        while not isinstance(node, ast.Module):
            node = self.scope[node]
        return node

    def local(self, name, scope):
        """What a name is assigned in the functions around it, or passed."""
        while not isinstance(scope, ast.Module):
            if found := [*assigned(name, scope), *self.passed(name, scope)]:
                return found
            scope = self.scope[scope]
        return []

    def passed(self, name, function):
        names = [a.arg for a in function.args.args if a.arg not in ("self", "cls")]
        for call in self.calls[getattr(function, "name", None)]:
            yield from (k.value for k in call.keywords if k.arg == name)
            yield from (value for n, value in zip(names, call.args, strict=False) if n == name)


def assigned(name, function):
    for node in ast.walk(function):
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.NamedExpr)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    yield from (v for t, v in zip(target.elts, node.value.elts, strict=False) if name_of(t) == name)
                elif name_of(target) == name:
                    yield node.value


def text(node):
    """The constant parts of an (f-)string."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    words = [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)]
    return tuple(re.sub(r"^[\w.]*\(\): ", "", word) for word in words)  # the name of the call is no word of its own


def runs(parts):
    """Of `RUN` characters, a space among them: the names of calls are no words of a message."""
    found = {part[i : i + RUN] for part in parts for i in range(len(part) - RUN + 1)}
    return {run for run in found if " " in run}


def unquoted(texts, quotes):
    """Those of the texts of which no quote holds a run that tells it from the others."""
    owners = Counter(run for parts in texts for run in runs(parts))
    missing = []
    for parts in texts:
        rarest = min((owners[run] for run in runs(parts)), default=0)
        if rarest and not any(owners[run] == rarest and run in quotes for run in runs(parts)):
            missing.append("…".join(parts))
    return sorted(missing)


@pytest.fixture(scope="module")
def texts():
    return Texts(parsed(ROOT / "isometry")).found


@pytest.fixture(scope="module")
def quotes():
    """Runs of every string in the tests, but for docstrings and this file."""
    nodes = [node for tree in parsed(ROOT / "tests") for node in ast.walk(tree)]
    bare = {node.value for node in nodes if isinstance(node, ast.Expr)}
    strings = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and n not in bare}
    return runs({re.sub(r"\\(\W)", r"\1", string) for string in strings})


def test_every_text_is_quoted(texts, quotes):
    assert unquoted(texts, quotes) == []


def test_an_invented_text_is_missing(texts, quotes):
    """Also one that ends as others do."""
    invented = {
        ("colour=", " is no colour that is known."),
        ("x is ", ", not a real floating array; write x.astype(green)."),
    }
    assert set(unquoted(texts | invented, quotes)) - set(unquoted(texts, quotes)) == {
        "…".join(parts) for parts in invented
    }


MODULE = """
END = "a constant that ends it"

def refuse(call, x, why):
    hint = f"there is a hint, {x}" if x else "no hint is given"
    raise InputError(f"{call}(): the message itself, {x}; {hint}{_advice(x)}" + why)

def _advice(x):
    return "what a helper says"

def user(x):
    refuse("the name of a call", x, "what is passed to it")
    refuse("another", x, why=_checks.END)
    warnings.warn(f"what is odd is that {x}", UserWarning)
    return "what nobody is told"
"""


def test_texts_are_found_wherever_they_are_written():
    assert {"…".join(parts) for parts in Texts([ast.parse(MODULE)]).found if runs(parts)} == {
        "a constant that ends it",
        "there is a hint, ",
        "no hint is given",
        "the message itself, …; ",
        "what a helper says",
        "what is passed to it",
        "what is odd is that ",
    }
