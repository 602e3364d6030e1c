"""Modules that a function builds from a key, as those of Equinox and NNX."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
from jaxtyping import PyTree

from isometry._internal import checks
from isometry._internal.errors import FromCall, InputError

# A function that builds a module, or its class.
Build: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Library:
    """How the modules of a library are built, for the messages of its adapter.

    Attributes:
        adapter: The name of the adapter, such as "nnx".
        module: The base of all modules, by its full name.
        argument: The one argument of a build function, such as "rngs".
    """

    adapter: str
    module: str
    argument: str

    def require_function(self, build: object, modules: type) -> None:
        """Refuse a module, or what cannot be called, in place of a build function."""
        if isinstance(build, modules):
            name = type(build).__name__
            raise InputError(
                f"build is an instance of {name}, whose parameters are drawn already; "
                f"write {self._line(name)}, and net.params_of(module) for the "
                "parameters of this instance."
            )
        if not callable(build):
            raise InputError(
                f"build={checks.show(build)} is no function build({self.argument}) "
                f"that returns a module, or its class; write {self._line('MyModel')}."
            )

    def _line(self, name: str) -> str:
        argument = self.argument
        module = f"{name}(..., {argument}={argument})"
        return f"networks.{self.adapter}(lambda {argument}: {module}, example)"

    def built(self, build: Build, value: object) -> Any:
        """Call `build` with its one argument, by name if it takes it by name only."""
        # The metaclass of a module hides the signature of its class, so `__init__` is
        # read.
        signed = build.__init__ if isinstance(build, type) else build
        try:
            parameter = inspect.signature(signed).parameters.get(self.argument)
        # Some callables have no signature; the argument is then passed by position.
        except (TypeError, ValueError):
            parameter = None
        line = self._line("MyModel")
        with noted(f"by build({self.argument}). It takes one argument, as in {line}."):
            # Modules often take the key by name only: __init__(self, width, *, rngs).
            is_named = parameter is not None
            if is_named and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                return build(**{self.argument: value})
            return build(value)

    def require_module(self, module: object, modules: type, instead: str) -> None:
        """Refuse what a build function returns, if it is no module."""
        if isinstance(module, modules):
            return
        returned = f"an object of {type(module).__name__}"
        # The class of an array would be that of a tracer, which the user never wrote.
        if hasattr(module, "dtype"):
            returned = "an array"
        raise InputError(
            f"build({self.argument}) returns {returned}, not an instance of "
            f"{self.module}{instead}."
        )


# How each note about the user's own code begins.
_NOTE = "Raised "


@contextlib.contextmanager
def noted(where: str) -> Iterator[None]:
    """Add a note to what the user's code raises, unless an inner one has done so."""
    try:
        yield
    except FromCall:
        raise
    # The code may raise anything. Its error is passed on, because no message of ours
    # could say more.
    except Exception as error:
        notes = getattr(error, "__notes__", ())
        if not any(note.startswith(_NOTE) for note in notes):
            error.add_note(f"{_NOTE}{where}")
        raise


def key_paths(tree: PyTree) -> list[str]:
    """Return the key path of every leaf."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path) for path, _ in paths]
