"""Variables of the environment that the command line sets where they are unset."""

import os
from collections.abc import Mapping

# Multi-threaded BLAS inside small factorizations becomes many times slower whenever a
# core is busy. NumPy reads these when it is imported.
THREADS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

# What this process has set.
_own: dict[str, str] = {}


def set_defaults(variables: Mapping[str, str]) -> None:
    """Set those of the variables that the user has not set."""
    names = [name for name in variables if name not in os.environ]
    put({name: variables[name] for name in names})


def put(variables: Mapping[str, str]) -> None:
    """Set the variables, whatever the user has set."""
    os.environ.update(variables)
    _own.update(variables)


def own() -> dict[str, str]:
    """Return the variables that this process has set, and that are still so."""
    return {
        name: value for name, value in _own.items() if os.environ.get(name) == value
    }
