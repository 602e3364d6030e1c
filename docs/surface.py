"""What is public: every name a user may import, with its signature in the source.

`python -m docs.surface` writes tests/public_surface.txt, to which a test holds the
code: a change of the public surface shows in review. Texts come from the source, so
that they are the same under every Python and JAX.
"""

import ast
import functools
import importlib
import inspect
import pathlib
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

from isometry.measure.methods import Method

SNAPSHOT = pathlib.Path(__file__).parents[1] / "tests" / "public_surface.txt"
MODULES = (
    "isometry",
    "isometry.activations",
    "isometry.data",
    "isometry.initializers",
    "isometry.linalg",
    "isometry.methods",
    "isometry.networks",
    "isometry.networks.adapters",
    "isometry.plots",
    "isometry.schemes",
    "isometry.store",
    "isometry.sweeps",
    "isometry.sweeps.runs",
    "isometry.theory",
    "isometry.theory.freeprob",
    "isometry.theory.traced",
)

Definition: TypeAlias = ast.ClassDef | ast.FunctionDef


class Item(NamedTuple):
    """One public name.

    Attributes:
        path: What it is reached by.
        value: What it is, which may be anything.
        node: Its definition in the source; None of a constant.
        owner: The class to which a method or property belongs.
    """

    path: str
    value: Any
    node: Definition | None = None
    owner: "Item | None" = None

    @property
    def doc(self) -> str:
        """The docstring as written for it, empty if there is none."""
        if self.node is None:
            return ""
        return inspect.cleandoc(ast.get_docstring(self.node) or "")

    @property
    def is_property(self) -> bool:
        """Whether it is read without a call."""
        decorators = [ast.unparse(d) for d in getattr(self.node, "decorator_list", ())]
        # `Part` makes the properties of isometry.Measured.
        return any("property" in d or d.startswith("Part(") for d in decorators)


def names(module: str) -> list[str]:
    """List the public names of a module.

    They are its `__all__`, or else what it defines and what it re-exports as `X as X`.
    """
    imported = importlib.import_module(module)
    candidates = getattr(imported, "__all__", None) or written_names(imported)
    return [
        name
        for name in candidates
        if not name.startswith("_") and not inspect.ismodule(getattr(imported, name))
    ]


def written_names(module: ModuleType) -> Iterator[str]:
    """List the names that the source of a module defines or re-exports."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom):
            yield from (a.name for a in node.names if a.asname == a.name)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield from assigned_names(node)


def assigned_names(node: ast.Assign | ast.AnnAssign) -> Iterator[str]:
    """List the names to which a statement assigns."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    for target in targets:
        for part in ast.walk(target):
            if isinstance(part, ast.Name):
                yield part.id


def items(module: str) -> Iterator[Item]:
    """List the public names of a module; behind a class its methods and properties."""
    imported = importlib.import_module(module)
    for name in sorted(names(module)):
        item = Item(f"{module}.{name}", getattr(imported, name))
        defined = inspect.unwrap(item.value)
        if inspect.isclass(item.value) or inspect.isroutine(defined):
            item = item._replace(node=_node(defined))
        yield item
        if isinstance(item.node, ast.ClassDef):
            yield from members(item)


def members(owner: Item) -> Iterator[Item]:
    """List the public methods and properties that a class defines."""
    assert isinstance(owner.node, ast.ClassDef)
    for node in owner.node.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        if not _overrides(owner.value, node):
            path = f"{owner.path}.{node.name}"
            yield Item(path, getattr(owner.value, node.name), node=node, owner=owner)


def _overrides(owner: type, node: ast.FunctionDef) -> bool:
    """Tell whether a method of a class overrides one of `methods.Method`.

    That one's description serves for all.
    """
    is_method = issubclass(owner, Method) and owner is not Method
    return is_method and node.name in vars(Method)


@functools.cache
def _node(value: Any) -> Definition:
    source = textwrap.dedent(inspect.getsource(value))
    node = ast.parse(source).body[0]
    assert isinstance(node, Definition)
    return node


def fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    """List the annotated public fields of a class, in order."""
    return [
        part
        for part in node.body
        if isinstance(part, ast.AnnAssign)
        and isinstance(part.target, ast.Name)
        and not part.target.id.startswith("_")
    ]


def arguments(item: Item) -> list[str]:
    """List the arguments of a function, of a class its public fields."""
    if isinstance(item.node, ast.ClassDef):
        return [ast.unparse(field.target) for field in fields(item.node)]
    assert item.node is not None
    args = item.node.args
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    written = [arg.arg for arg in every if arg is not None]
    return [name for name in written if name not in ("self", "cls")]


def signature(item: Item) -> str:
    """Write how an item is called, on one line; of a class its bases and fields."""
    node = item.node
    if node is None:
        return f" = {_constant(item.value)}"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        inside = ", ".join(map(field, fields(node)))
        return (f"({bases})" if bases else "") + (f": {inside}" if inside else "")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return returns if item.is_property else f"({ast.unparse(node.args)}){returns}"


def field(node: ast.AnnAssign) -> str:
    """Write a field as declared, but of `dataclasses.field(...)` its default alone.

    The rest is no business of who calls it.
    """
    default = node.value
    makers = ("field", "dataclasses.field")
    if isinstance(default, ast.Call) and ast.unparse(default.func) in makers:
        given = {keyword.arg: keyword.value for keyword in default.keywords}
        default = given.get("default") or given.get("default_factory")
    text = f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}"
    return f"{text} = {ast.unparse(default)}" if default else text


def _constant(value: object) -> str:
    if isinstance(value, str | int | float | tuple):
        return repr(value)
    if type(value).__module__.startswith("isometry"):
        return type(value).__name__
    return "a type"


def line(item: Item) -> str:
    """Write the line of the snapshot."""
    kind = ""
    if isinstance(item.node, ast.ClassDef):
        kind = "class "
    elif item.is_property:
        kind = "property "
    return f"{kind}{item.path}{signature(item)}"


def everything() -> dict[str, list[Item]]:
    """Map modules to their items; what two modules export stands with the first."""
    seen: set[int] = set()
    groups = {}
    for module in MODULES:
        every = list(items(module))
        tops = [item for item in every if item.owner is None]
        # Constants may be equal without being the same.
        own = {i.path for i in tops if i.node is None or id(i.value) not in seen}
        groups[module] = [i for i in every if (i.owner or i).path in own]
        seen |= {id(item.value) for item in tops}
    return groups


def text() -> str:
    """Write the snapshot."""
    blocks = []
    for module, group in everything().items():
        blocks.append("\n".join([f"module {module}", *map(line, group)]) + "\n")
    return "\n".join(blocks)


if __name__ == "__main__":
    SNAPSHOT.write_text(text(), encoding="utf-8")
