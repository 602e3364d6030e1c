"""What a run consists of, in words: its source, and all that it refers to.

A store holds these texts. Other texts mean that the cells which are still to run would
be computed by other code than those that are done.
"""

import ast
import dataclasses
import difflib
import functools
import hashlib
import inspect
import pathlib
import re
import sysconfig
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

# Lines of a difference in a message: enough to recognize it, less than a page.
_MOST_LINES = 16

# Texts of one run. A run that refers to more is described by its first thousand; with a
# tenth of it the settings of a large model would be cut off.
_MOST_TEXTS = 1000

# The address of an object differs in each process.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

# Folders of code that is named, and not quoted: its versions are recorded.
_INSTALLED = (
    str(pathlib.Path(__file__).parents[1]),
    sysconfig.get_path("stdlib"),
    sysconfig.get_path("purelib"),
    sysconfig.get_path("platlib"),
)


@dataclasses.dataclass(frozen=True)
class Description:
    """What a value and all that it refers to consist of.

    Attributes:
        texts: Texts by where they were found: "run.helper" is what `run` calls helper.
        values: Names of the texts that are of values, which may change while `run`
            runs, and not of source.
    """

    texts: dict[str, str]
    values: frozenset[str]


def describe(value: object) -> Description:
    """Describe a function and all that it refers to.

    Of functions and classes of the user's own files that is the source; of all
    functions their default arguments and what they close over; of the user's own
    functions also the global values that they use. What belongs to an installed package
    is named without its source. Attributes of objects are seen if they are of the
    user's own classes, or of dataclasses; of other objects only what `repr` shows.
    """
    collector = _Collector()
    collector.add("run", value)
    return Description(collector.texts, frozenset(collector.values))


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
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


class _Collector:
    """Texts of a function and of all that it refers to, as they are collected."""

    def __init__(self):
        self.texts: dict[str, str] = {}
        self.values: set[str] = set()
        # Where each object was first found; cycles end there.
        self._places: dict[int, str] = {}

    def add(self, where: str, value: Any) -> None:
        """Add a value and what it refers to, under a name."""
        if isinstance(value, types.ModuleType) or len(self.texts) >= _MOST_TEXTS:
            return
        is_plain = value is None or isinstance(
            value, bool | int | float | complex | str | bytes
        )
        if is_plain or isinstance(value, np.ndarray | np.generic | jax.Array):
            self._add_value(where, _shown(value))
            return
        if id(value) in self._places:
            self.texts[where] = f"as {self._places[id(value)]}"
            return
        self._places[id(value)] = where
        if isinstance(value, functools.partial):
            self.texts[where] = "partial"
            self.add(f"{where}.func", value.func)
            self._add_all(where, enumerate(value.args))
            self._add_all(where, value.keywords.items())
        elif isinstance(value, types.MethodType):
            self.add(where, value.__func__)
            self.add(f"{where}.self", value.__self__)
        elif isinstance(value, types.FunctionType):
            self._add_function(where, value)
        elif isinstance(value, type):
            self._add_class(where, value)
        elif isinstance(value, Mapping):
            self._add_value(where, type(value).__name__)
            self._add_all(where, value.items())
        elif isinstance(value, tuple | list):
            self._add_value(where, f"{type(value).__name__} of {len(value)}")
            self._add_all(where, enumerate(value))
        elif callable(value) and hasattr(value, "__wrapped__"):
            # jax.jit keeps the function that it wraps.
            self.add(where, inspect.unwrap(value))
        else:
            self._add_object(where, value)

    def _add_value(self, where: str, text: str) -> None:
        self.texts[where] = text
        self.values.add(where)

    def _add_all(self, where: str, items: Iterable[tuple[object, object]]) -> None:
        # An item that is added or dropped while the run runs is no reason to fail.
        for name, value in list(items):
            self.add(f"{where}.{name}", value)

    def _add_function(self, where: str, function: types.FunctionType) -> None:
        name = f"{function.__module__}.{function.__qualname__}"
        is_own = _is_own(function.__code__.co_filename)
        if is_own:
            self.texts[where] = "\n".join([name, *_source(function)])
        else:
            self.texts[where] = name
        self._add_all(where, enumerate(function.__defaults__ or ()))
        self._add_all(where, (function.__kwdefaults__ or {}).items())
        cells = zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        )
        for variable, cell in cells:
            # A variable of an enclosing function may have no value yet.
            if cell != types.CellType():
                self.add(f"{where}.{variable}", cell.cell_contents)
        # A decorator's own function; functools.wraps keeps the other.
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self.add(f"{where}.__wrapped__", wrapped)
        if is_own:
            # Names of attributes are among them too; of these some are global names.
            for variable in sorted(set(_names(function.__code__))):
                if variable in function.__globals__:
                    self.add(f"{where}.{variable}", function.__globals__[variable])

    def _add_class(self, where: str, kind: type) -> None:
        self.texts[where] = f"{kind.__module__}.{kind.__qualname__}"
        if not _is_own_class(kind):
            return
        for base in kind.__bases__:
            self.add(f"{where}.{base.__name__}", base)
        for name, member in vars(kind).items():
            if isinstance(member, staticmethod | classmethod):
                self.add(f"{where}.{name}", member.__func__)
            elif isinstance(member, property):
                self.add(f"{where}.{name}", member.fget)
            elif not name.startswith("__") or isinstance(member, types.FunctionType):
                self.add(f"{where}.{name}", member)

    def _add_object(self, where: str, value: Any) -> None:
        kind = type(value)
        if dataclasses.is_dataclass(value):
            self._add_value(where, f"{kind.__module__}.{kind.__qualname__}")
            fields = dataclasses.fields(value)
            self._add_all(where, ((f.name, getattr(value, f.name)) for f in fields))
        elif _is_own_class(kind):
            self._add_value(where, f"{kind.__module__}.{kind.__qualname__}")
            self._add_all(where, getattr(value, "__dict__", {}).items())
        else:
            self._add_value(where, _shown(value))
        if _is_own_class(kind):
            self.add(f"{where}.class", kind)


def _is_own(file: str) -> bool:
    """Tell whether a file is the user's own, and of no installed package."""
    return not any(file.startswith(folder) for folder in _INSTALLED)


def _is_own_class(kind: type) -> bool:
    """Tell whether a class stands in a file of the user's own."""
    for member in vars(kind).values():
        function = inspect.unwrap(member) if callable(member) else member
        if isinstance(function, types.FunctionType):
            # Methods that dataclass makes stand in no file.
            file = function.__code__.co_filename
            if not file.startswith("<string>"):
                return _is_own(file)
    module = kind.__module__
    try:
        return _is_own(inspect.getfile(kind))
    except (TypeError, OSError):
        # A notebook or a console has no file.
        return module == "__main__"


def _names(code: types.CodeType) -> Iterator[str]:
    """Yield the names that a code and the functions inside of it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _source(function: types.FunctionType) -> tuple[str, ...]:
    """Return the source of a function, or its bytecode where there is none.

    The lines of a lambda are those of the whole statement, such as the call of `sweep`
    with its grid. So of a lambda the bytecode is taken.
    """
    return _source_of_code(function.__code__, function.__name__ == "<lambda>")


# Read once in a process: a file that is edited while the sweep runs has other lines
# than the function that runs.
@functools.cache
def _source_of_code(code: types.CodeType, is_lambda: bool) -> tuple[str, ...]:
    if not is_lambda:
        try:
            text = textwrap.dedent(inspect.getsource(code))
            # Comments, docstrings and the width of lines change nothing.
            return tuple(_normal(text).splitlines())
        except (OSError, TypeError, SyntaxError):
            pass
    return tuple(_bytecode(code))


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


def _shown(value: Any) -> str:
    """Return a value as text, arrays by the hash of their bytes."""
    if isinstance(value, np.ndarray | jax.Array) and value.dtype != object:
        try:
            array = np.ascontiguousarray(value)
        except TypeError:
            # A random key, which has no bytes of its own.
            array = np.asarray(jax.random.key_data(value))
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return f"array {value.dtype}{list(value.shape)} {digest[:16]}"
    if isinstance(value, set | frozenset):
        # The order of a set differs in each process.
        return "{" + ", ".join(sorted(map(repr, value))) + "}"
    return _ADDRESS.sub("", repr(value))
