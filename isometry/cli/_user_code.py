"""Modules and functions of the user's own, which may raise anything."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType

from isometry._internal.errors import FromCall, InputError

# A module that calls sys.exit raises SystemExit, which is no Exception.
ANYTHING = (Exception, SystemExit)


def imported(name: str, option: str) -> ModuleType:
    """Import a module, from the current folder if it is there.

    Args:
        name: The name of the module.
        option: Where the user wrote it, for the message.

    Raises:
        InputError: It cannot be imported.
    """
    # The command's own entry point has the folder of the script first on its path.
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ANYTHING as error:
        hint = "Run the command in the folder that holds it."
        missing = getattr(error, "name", None)
        if missing is not None and not f"{name}.".startswith(f"{missing}."):
            hint = f"It needs {missing}, which is not installed here."
        raise InputError(
            f"{option}: the module {name!r} cannot be imported, {_described(error)}. "
            f"{hint}"
        ) from error


@contextlib.contextmanager
def told(what: str, hint: str) -> Iterator[None]:
    """Turn whatever the code below raises into a refusal.

    Args:
        what: Whose code it is.
        hint: A sentence for the end of the message.

    Raises:
        InputError: The code raised something.
    """
    try:
        yield
    # What isometry refuses has a message of its own.
    except FromCall:
        raise
    except ANYTHING as error:
        raise InputError(f"{what} raised {_described(error)}. {hint}") from error


def _described(error: BaseException) -> str:
    """Return the type and the message of an error."""
    return f"{type(error).__name__}: {error}".removesuffix(".")
