"""The checks of `_internal.checks` as linalg calls them, which is to be rewritten.

Each takes the name of the public function first, and the arguments by name.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import PyTree

from isometry._internal import checks, precision
from isometry._internal.checks import show
from isometry._internal.errors import FromCall, InputError

# Handed on as they are, so that they are no unused imports.
__all__ = ["InputError", "show"]


@contextlib.contextmanager
def named(call: str) -> Iterator[None]:
    """Put the name of a public function into errors about arguments raised inside."""
    try:
        yield
    except FromCall as error:
        # Of nested functions the outermost names itself last, and wins.
        error.function = call
        raise


def array(call: str, **given: object) -> jax.Array:
    """Return the one named argument as a JAX array of numbers."""
    # Exactly one: its name stands in the message.
    ((name, value),) = given.items()
    with named(call):
        return checks.array(name, value)


def integer(
    call: str,
    *,
    low: int = 0,
    high: int | None = None,
    **given: Any,
) -> None:
    """Require whole numbers between `low` and `high`, both included."""
    with named(call):
        for name, value in given.items():
            checks.integer(name, value, low=low, high=high)


def instance(call: str, kind: type, **given: object) -> None:
    """Require objects of this class."""
    with named(call):
        for name, value in given.items():
            checks.instance(name, value, kind)


def shape(
    call: str,
    value: object,
    *,
    least: int = 0,
    why: str = "",
) -> tuple[int, ...]:
    """Return a shape of positive axes as a tuple."""
    with named(call):
        return checks.shape(value, least=least, why=why)


def measuring_dtype(
    call: str,
    dtype: DTypeLike | None,
    *trees: PyTree,
) -> jnp.dtype:
    """Return the dtype that a measurement runs in."""
    with named(call):
        return precision.measuring_dtype(dtype, *trees)


def key(call: str, value: object) -> None:
    """Require a single random key."""
    with named(call):
        checks.key("key", value)


def all_finite(call: str, **given: PyTree) -> None:
    """Refuse NaN and infinity among the floating leaves that are not traced."""
    # Traced leaves have no numbers yet.
    with named(call):
        for name, value in given.items():
            checks.all_finite(name, value)
