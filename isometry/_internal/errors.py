"""Exceptions and warnings, and the decorator that puts a public function's name first."""

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Rooms that still write the function's name into the message: "mlp(): sizes=[] is empty."
_NAMED = re.compile(r"([A-Za-z_][\w.]*)\(\): ", re.ASCII)


class FromCall(Exception):
    """An error that says which public function refused the call.

    Attributes:
        message: The text without the function's name.
        function: The name of the function that the user called, or None if it is not known.
    """

    def __init__(self, message: str):
        super().__init__(message)
        named = _NAMED.match(message)
        self.function = named[1] if named else None
        self.message = message[named.end() :] if named else message

    def __str__(self) -> str:
        if self.function is None:
            return self.message
        return f"{self.function}(): {self.message}"


class InputError(FromCall, ValueError):
    """An argument that cannot be used.

    The message names the argument, what came, and what to write instead. The name of the public
    function that was called stands before it once, put there by `public`.
    """


class NotDefined(InputError):
    """The arguments are sound, but what they ask for does not exist, as a critical point."""


class NotFinite(InputError):
    """A Jacobian that overflows or holds a NaN."""


class TracedError(FromCall, TypeError):
    """An argument is traced, and the function needs its value."""


class MissingExtra(FromCall, ImportError):
    """A command or function needs an optional dependency that is not installed."""


class PrecisionWarning(UserWarning):
    """f computes below the precision that a measurement runs at; the message says where."""


class BatchWarning(UserWarning):
    """x seems to be a batch: f does to x[0] what it does to the first row of x."""


def public(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Name the function that the user called in every error about its arguments.

    Functions nest: the outermost name wins, because it is the one that the user wrote.

    Args:
        name: What the user writes, without the package: "mlp", "data.load".

    Returns:
        A decorator.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except FromCall as error:
                error.function = name
                raise

        return call

    return decorate
