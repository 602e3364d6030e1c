"""What is public: every name a user may import, with its signature as written in the source.

`python -m docs.surface` writes tests/public_surface.txt, to which a test holds the code: a change of the public surface
shows in review. Texts come from the source, so that they are the same under every Python and JAX.
"""

import ast
import functools
import importlib
import inspect
import pathlib
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

SNAPSHOT = pathlib.Path(__file__).parents[1] / "tests" / "public_surface.txt"
MODULES = (
    "isometry",
    *(f"isometry.{name}" for name in ("activations", "data", "initializers", "linalg", "methods")),
    *(f"isometry.{name}" for name in ("networks", "networks.adapters", "plots", "schemes", "store")),
    *(f"isometry.{name}" for name in ("sweeps", "sweeps.runs")),
    *(f"isometry.{name}" for name in ("theory", "theory.freeprob", "theory.traced")),
)


class Item(NamedTuple):
    """One public name: `path` it is reached by, what it is, its node in the source (None for a constant) and, of a
    method, the class it belongs to."""

    path: str
    value: Any
    node: Any = None
    owner: Any = None

    @property
    def doc(self) -> str:
        """The docstring as written for it, empty if there is none."""
        return inspect.cleandoc(ast.get_docstring(self.node) or "") if self.node else ""

    @property
    def is_property(self) -> bool:
        """Whether it is read without a call."""
        return any(
            "property" in ast.unparse(d) or ast.unparse(d).startswith("Part(")  # of isometry.Measured
            for d in getattr(self.node, "decorator_list", ())
        )


def names(module: str) -> list[str]:
    """Public names of a module: its `__all__`, or what it defines and what it re-exports as `X as X`."""
    found = importlib.import_module(module)
    if hasattr(found, "__all__"):
        return [
            n
            for n in found.__all__
            if not inspect.ismodule(getattr(found, n)) and not n.startswith("__")
        ]
    every = []
    for node in ast.parse(inspect.getsource(found)).body:
        if isinstance(node, ast.ImportFrom):
            every += [a.name for a in node.names if a.asname == a.name]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            every.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            every += [
                t.id
                for target in targets
                for t in ast.walk(target)
                if isinstance(t, ast.Name)
            ]
    return [
        n
        for n in every
        if not n.startswith("_") and not inspect.ismodule(getattr(found, n))
    ]


def items(module: str) -> Iterator[Item]:
    """The public names of a module, a class followed by its public methods and properties."""
    found = importlib.import_module(module)
    for name in sorted(names(module)):
        item = Item(f"{module}.{name}", getattr(found, name))
        if not inspect.isclass(item.value) and not inspect.isroutine(
            inspect.unwrap(item.value)
        ):
            yield item
            continue
        item = item._replace(node=_node(inspect.unwrap(item.value)))
        yield item
        for node in item.node.body if isinstance(item.node, ast.ClassDef) else ():
            if (
                isinstance(node, ast.FunctionDef)
                and not node.name.startswith("_")
                and not _overrides(item.value, node)
            ):
                yield Item(
                    f"{item.path}.{node.name}",
                    getattr(item.value, node.name),
                    node,
                    item,
                )


def _overrides(owner: type, node: ast.FunctionDef) -> bool:
    """Whether a function is that of a method of measuring, described once in `methods.Method`."""
    from isometry.measure.methods import Method

    return (
        issubclass(owner, Method) and owner is not Method and node.name in vars(Method)
    )


@functools.cache
def _node(value: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    """Annotated public fields of a class, in order."""
    marked = [
        n
        for n in node.body
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    ]
    return [n for n in marked if not ast.unparse(n.target).startswith("_")]


def arguments(item: Item) -> list[str]:
    """Names of a function's arguments, of a class those of its public fields."""
    if isinstance(item.node, ast.ClassDef):
        return [ast.unparse(field.target) for field in fields(item.node)]
    a = item.node.args
    every = [
        *a.posonlyargs,
        *a.args,
        *([a.vararg] if a.vararg else []),
        *a.kwonlyargs,
        *([a.kwarg] if a.kwarg else []),
    ]
    return [x.arg for x in every if x.arg not in ("self", "cls")]


def signature(item: Item) -> str:
    """How it is called, on one line: `(x: Any, *, key: Any = None) -> Any`; of a class, its bases and fields."""
    node = item.node
    if node is None:
        return f" = {_constant(item.value)}"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(b) for b in node.bases)
        inside = ", ".join(field(f) for f in fields(node))
        return (f"({bases})" if bases else "") + (f": {inside}" if inside else "")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return returns if item.is_property else f"({ast.unparse(node.args)}){returns}"


def field(node: ast.AnnAssign) -> str:
    """As declared, but of `dataclasses.field(...)` the default alone: the rest is no business of the caller's."""
    default = node.value
    if isinstance(default, ast.Call) and ast.unparse(default.func) in (
        "field",
        "dataclasses.field",
    ):
        given = {k.arg: k.value for k in default.keywords}
        default = next(
            (given[k] for k in ("default", "default_factory") if k in given), None
        )
    return f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}" + (
        f" = {ast.unparse(default)}" if default else ""
    )


def _constant(value: Any) -> str:
    if isinstance(value, str | int | float | tuple):
        return repr(value)
    return (
        type(value).__name__
        if type(value).__module__.startswith("isometry")
        else "a type"
    )


def line(item: Item) -> str:
    """The line of the snapshot."""
    kind = (
        "class "
        if isinstance(item.node, ast.ClassDef)
        else "property "
        if item.is_property
        else ""
    )
    return f"{kind}{item.path}{signature(item)}"


def everything() -> dict[str, list[Item]]:
    """Module → its items; what two modules export stands with the first."""
    seen: set[int] = set()
    found = {}
    for module in MODULES:
        every = list(items(module))
        own = {
            i.path
            for i in every
            if i.owner is None and (i.node is None or id(i.value) not in seen)
        }
        found[module] = [i for i in every if (i.owner or i).path in own]
        seen |= {id(i.value) for i in every if i.owner is None}
    return found


def text() -> str:
    """The snapshot."""
    blocks = (
        [f"module {module}", *map(line, every)]
        for module, every in everything().items()
    )
    return "\n".join("\n".join(block) + "\n" for block in blocks)


if __name__ == "__main__":
    SNAPSHOT.write_text(text(), encoding="utf-8")
