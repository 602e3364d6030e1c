"""What a run consists of, in words: its source, and all that it refers to.

A store holds these texts. Other texts mean that the cells which are still to run would
be computed by other code than those that are done.
"""

import ast
import difflib
import functools
import hashlib
import inspect
import re
import textwrap
import types
from collections.abc import Iterable, Mapping

import jax
import numpy as np

# Lines of a difference in a message: enough to recognize it, less than a page.
_MOST_LINES = 16

# The address of an object differs in each process.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def describe(value: object) -> dict[str, str]:
    """Describe a function and all that it refers to.

    That is the source of the function, its default arguments and what it closes over;
    and of the global names that it uses, the functions and classes of its own module
    and constants. Functions of other modules are named without their source.

    Returns:
        Texts by where they were found: "run.helper" is what `run` calls helper.
    """
    described = _Described()
    described.add("run", value, None)
    return described.texts


def difference(before: dict[str, str], now: dict[str, str]) -> str:
    """Return the lines in which two descriptions differ, marked by - and +."""
    changed = []
    for name in sorted({*before, *now}):
        lines = difflib.unified_diff(
            before.get(name, "").splitlines(), now.get(name, "").splitlines(), n=0
        )
        # The first two lines name files.
        marked = [line for line in lines if line[:2] not in ("--", "++", "@@")]
        if marked:
            changed += [f"{name}:", *marked]
    if len(changed) > _MOST_LINES:
        num_left_out = len(changed) - _MOST_LINES
        changed = [*changed[:_MOST_LINES], f"... and {num_left_out} lines more"]
    return "\n".join(changed)


class _Described:
    """Texts of a function and of all that it refers to, as they are collected.

    Attributes:
        texts: Texts by where they were found.
    """

    def __init__(self):
        self.texts: dict[str, str] = {}
        # Identities of the functions and classes whose source is there already.
        self._seen: set[int] = set()

    def add(self, where: str, value: object, module: str | None) -> None:
        """Add a value and what it refers to.

        Args:
            where: The name of its text.
            value: The value.
            module: The module whose functions are described by their source; None for
                the module of the first function.
        """
        if isinstance(value, functools.partial):
            self.texts[where] = "partial"
            self.add(f"{where}.func", value.func, module)
            self._add_all(where, enumerate(value.args), module)
            self._add_all(where, value.keywords.items(), module)
        elif isinstance(value, types.MethodType):
            self.add(where, value.__func__, module)
            self.add(f"{where}.self", value.__self__, module)
        elif isinstance(value, types.FunctionType):
            self._add_function(where, value, module)
        elif callable(value) and hasattr(value, "__wrapped__"):
            # jax.jit and functools.wraps keep the function that they wrap.
            self.add(where, inspect.unwrap(value), module)
        elif isinstance(value, type):
            self._add_class(where, value, module)
        else:
            self.texts[where] = _shown(value)
            kind = type(value)
            is_own = module is None or kind.__module__ == module
            # The class of a callable object is its source.
            if callable(value) and is_own and not _is_installed(kind.__module__):
                self._add_class(f"{where}.class", kind, module)
                attributes = getattr(value, "__dict__", {})
                self._add_all(where, attributes.items(), module)

    def _add_all(
        self, where: str, items: Iterable[tuple[object, object]], module: str | None
    ) -> None:
        for name, value in items:
            self.add(f"{where}.{name}", value, module)

    def _add_function(
        self, where: str, function: types.FunctionType, module: str | None
    ) -> None:
        own = module or function.__module__
        name = f"{function.__module__}.{function.__qualname__}"
        self.texts[where] = name
        is_own = function.__module__ == own and not _is_installed(own)
        if id(function) in self._seen or not is_own:
            return
        self._seen.add(id(function))
        self.texts[where] = "\n".join([name, *_source(function)])
        self._add_all(where, enumerate(function.__defaults__ or ()), own)
        self._add_all(where, (function.__kwdefaults__ or {}).items(), own)
        try:
            variables = inspect.getclosurevars(function)
        except ValueError:
            # A variable of an enclosing function that has no value yet.
            return
        self._add_all(where, variables.nonlocals.items(), own)
        of_module = {
            name: value
            for name, value in variables.globals.items()
            if _is_constant(value) or getattr(value, "__module__", None) == own
        }
        self._add_all(where, of_module.items(), own)

    def _add_class(self, where: str, kind: type, module: str | None) -> None:
        own = module or kind.__module__
        self.texts[where] = f"{kind.__module__}.{kind.__qualname__}"
        if id(kind) in self._seen or kind.__module__ != own or _is_installed(own):
            return
        self._seen.add(id(kind))
        methods = {
            name: value
            for name, value in vars(kind).items()
            if isinstance(value, types.FunctionType)
        }
        self._add_all(where, methods.items(), own)


def _source(function: types.FunctionType) -> list[str]:
    """Return the source of a function, or its bytecode where there is none.

    The lines of a lambda are those of the whole statement, such as the call of `sweep`
    with its grid. So of a lambda the bytecode is taken.
    """
    if function.__name__ != "<lambda>":
        try:
            text = textwrap.dedent(inspect.getsource(function))
            # Comments, docstrings and the width of lines change nothing.
            return _normal(text).splitlines()
        except (OSError, TypeError, SyntaxError):
            pass
    return _bytecode(function.__code__)


def _normal(source: str) -> str:
    """Return source without comments and docstrings, each statement written anew."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
        if is_definition and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _bytecode(code: types.CodeType) -> list[str]:
    """Return lines that differ if the code does."""
    digest = hashlib.sha256(code.co_code).hexdigest()
    lines = [f"bytecode {digest[:16]}, names {code.co_names}"]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            lines.extend(_bytecode(constant))
        elif isinstance(constant, frozenset):
            # The order of a set differs in each process.
            lines.append(f"constant {sorted(map(repr, constant))}")
        else:
            lines.append(f"constant {constant!r}")
    return lines


def _is_constant(value: object) -> bool:
    """Tell whether a global value is data, and no module or function."""
    if isinstance(value, tuple | list):
        return all(_is_constant(item) for item in value)
    return isinstance(
        value, bool | int | float | complex | str | np.ndarray | jax.Array
    )


def _is_installed(module: str) -> bool:
    """Tell whether a module is this package, whose version is recorded."""
    return module.split(".")[0] == "isometry"


def _shown(value: object) -> str:
    """Return a value as text, arrays by the hash of their bytes."""
    if isinstance(value, np.ndarray | jax.Array) and value.dtype != object:
        try:
            array = np.ascontiguousarray(value)
        except TypeError:
            # A random key, which has no bytes of its own.
            array = np.asarray(jax.random.key_data(value))
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return f"array {value.dtype}{list(value.shape)} {digest[:16]}"
    if isinstance(value, Mapping):
        items = [f"{key!r}: {_shown(item)}" for key, item in value.items()]
        return "{" + ", ".join(items) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, set | frozenset):
        # The order of a set differs in each process.
        return "{" + ", ".join(sorted(map(_shown, value))) + "}"
    return _ADDRESS.sub("", repr(value))
