"""What a run consists of, in words: its source, and all that it refers to.

A store holds this text. Another text means that the cells which are still to run would
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


def describe(value: object) -> str:
    """Return a text of a function and of all that it refers to.

    It names the source of the function, its default arguments and what it closes over;
    of the global names that it uses, the functions and classes of its own module and
    constants. Functions of other modules are named without their source.
    """
    lines: list[str] = []
    _describe(value, lines, set(), None)
    return "\n".join(lines)


def difference(before: str, now: str) -> str:
    """Return the lines in which two texts differ, marked by - and +."""
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), n=0)
    # The first two lines name files.
    changed = [line for line in lines if line[:2] not in ("--", "++", "@@")]
    if len(changed) > _MOST_LINES:
        num_left_out = len(changed) - _MOST_LINES
        changed = [*changed[:_MOST_LINES], f"... and {num_left_out} lines more"]
    return "\n".join(changed)


def _describe(
    value: object, lines: list[str], seen: set[int], module: str | None
) -> None:
    """Append what there is to say of a value.

    Args:
        value: The value.
        lines: The text so far.
        seen: Identities of the functions and classes that are described already.
        module: The module whose functions are described by their source; None for the
            module of the first function.
    """
    if isinstance(value, functools.partial):
        lines.append("partial")
        _describe(value.func, lines, seen, module)
        _describe_all(enumerate(value.args), lines, seen, module)
        _describe_all(value.keywords.items(), lines, seen, module)
    elif isinstance(value, types.MethodType):
        _describe(value.__func__, lines, seen, module)
        _describe(value.__self__, lines, seen, module)
    elif isinstance(value, types.FunctionType):
        _describe_function(value, lines, seen, module)
    elif callable(value) and hasattr(value, "__wrapped__"):
        # jax.jit and functools.wraps keep the function that they wrap.
        lines.append(type(value).__name__)
        _describe(inspect.unwrap(value), lines, seen, module)
    elif isinstance(value, type):
        _describe_class(value, lines, seen, module)
    else:
        lines.append(_shown(value))
        kind = type(value)
        is_own = module is None or kind.__module__ == module
        # The class of a callable object is its source.
        if callable(value) and is_own and not _is_installed(kind.__module__):
            _describe_class(kind, lines, seen, module)
            attributes = getattr(value, "__dict__", {})
            _describe_all(attributes.items(), lines, seen, module)


def _describe_all(
    items: Iterable[tuple[object, object]],
    lines: list[str],
    seen: set[int],
    module: str | None,
) -> None:
    for name, value in sorted(items, key=lambda item: str(item[0])):
        lines.append(f"{name} =")
        _describe(value, lines, seen, module)


def _describe_function(
    function: types.FunctionType, lines: list[str], seen: set[int], module: str | None
) -> None:
    own = module or function.__module__
    lines.append(f"{function.__module__}.{function.__qualname__}")
    is_own = function.__module__ == own and not _is_installed(own)
    if id(function) in seen or not is_own:
        return
    seen.add(id(function))
    lines.extend(_source(function))
    _describe_all(enumerate(function.__defaults__ or ()), lines, seen, own)
    _describe_all((function.__kwdefaults__ or {}).items(), lines, seen, own)
    try:
        variables = inspect.getclosurevars(function)
    except ValueError:
        # A variable of an enclosing function that has no value yet.
        return
    _describe_all(variables.nonlocals.items(), lines, seen, own)
    of_module = {
        name: value
        for name, value in variables.globals.items()
        if _is_constant(value) or getattr(value, "__module__", None) == own
    }
    _describe_all(of_module.items(), lines, seen, own)


def _describe_class(
    kind: type, lines: list[str], seen: set[int], module: str | None
) -> None:
    own = module or kind.__module__
    lines.append(f"{kind.__module__}.{kind.__qualname__}")
    if id(kind) in seen or kind.__module__ != own or _is_installed(own):
        return
    seen.add(id(kind))
    methods = {k: v for k, v in vars(kind).items() if isinstance(v, types.FunctionType)}
    _describe_all(methods.items(), lines, seen, own)


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
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node) is not None:
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
    return isinstance(value, bool | int | float | complex | str | np.ndarray | jax.Array)


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
