"""Optional dependencies. Imports nothing heavy: the command line begins here."""

import importlib
from types import ModuleType

from isometry._internal.errors import MissingExtra


def extra(module: str, extra: str) -> ModuleType:
    """Import and return a module of an optional dependency.

    Args:
        module: The module, such as "sklearn.datasets".
        extra: The extra of this package that installs it.

    Raises:
        MissingExtra: The dependency is not installed.
    """
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # If the package is there and misses a module of its own, the error says so.
        if error.name is None or error.name.split(".")[0] != package:
            raise
        raise MissingExtra(
            f"needs {package}, which is not installed; "
            f"write pip install '.[{extra}]' in a clone of isometry."
        ) from None
