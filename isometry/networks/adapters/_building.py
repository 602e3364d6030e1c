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
    """A library for whose modules the user gives a build function.

    The methods call such a function, and refuse values that are none.

    Attributes:
        adapter: The name of the adapter, such as "nnx".
        module: The full name of the base class of its modules.
        argument: The name of the one argument of a build function, such as "rngs".
    """

    adapter: str
    module: str
    argument: str

    def require_function(self, build: object, modules: type) -> None:
        """Refuse a value that is not a build function.

        Args:
            build: The value that the user gave.
            modules: The base class of modules.

        Raises:
            InputError: It is a module, or cannot be called.
        """
        if isinstance(build, modules):
            name = type(build).__name__
            raise InputError(
                f"build is an instance of {name}, whose parameters are drawn already; "
                f"write {self._line(name)}, and net.params_of(module) for the "
                "parameters of this instance."
            )
        library = _library_of(build)
        if library:
            raise InputError(
                f"build is an instance of {type(build).__name__}, a module of another "
                f"library; write networks.{library}."
            )
        if not callable(build):
            raise InputError(
                f"build={checks.show(build)} is no function build({self.argument}) "
                f"that returns a module, or its class; write {self._line('MyModel')}."
            )

    def _line(self, name: str) -> str:
        """Write the call of the adapter for a module class of this name."""
        argument = self.argument
        module = f"{name}(..., {argument}={argument})"
        return f"networks.{self.adapter}(lambda {argument}: {module}, example)"

    def built(self, build: Build, value: object) -> Any:
        """Return what a build function returns.

        Args:
            build: The build function.
            value: The value of its one argument, which is passed by name if `build`
                takes it by name only.
        """
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
            # Modules often take the key by name only: __init__(self, *, rngs).
            is_named = parameter is not None
            if is_named and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                return build(**{self.argument: value})
            return build(value)

    def require_module(self, module: object, modules: type, instead: str) -> None:
        """Refuse a value returned by a build function that is no module.

        Args:
            module: The value.
            modules: The base class of modules.
            instead: The end of the message: what else would be accepted.

        Raises:
            InputError: It is no module.
        """
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


# What to write for an instance of a class with a base in one of these Python modules.
_ADAPTERS = {
    "flax.linen": "flax(module, example)",
    "flax.nnx": "nnx(lambda rngs: MyModel(..., rngs=rngs), example)",
    "equinox": "equinox(lambda key: MyModel(..., key=key), example)",
}


def _library_of(build: object) -> str:
    """Return the adapter to write for an instance of a module class, or "".

    Such an instance can often be called, but builds nothing.
    """
    # A class is a build function. Its own type is a metaclass of the library.
    if isinstance(build, type):
        return ""
    for base in type(build).__mro__:
        for module, adapter in _ADAPTERS.items():
            if base.__module__.startswith(module):
                return adapter
    return ""


# How each note about the user's own code begins.
_NOTE = "Raised "


@contextlib.contextmanager
def noted(where: str) -> Iterator[None]:
    """Add a note to any error raised inside this context, and pass the error on.

    An error that has such a note from an inner context gets no second one.

    Args:
        where: What the note says behind "Raised ".
    """
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
