"""The checks of `_internal.checks` under the old convention, for rooms not yet rewritten.

Each takes the name of the public function first and the arguments by name.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry._internal import checks, memory, precision
from isometry._internal.checks import is_key as is_key
from isometry._internal.checks import is_real as is_real
from isometry._internal.checks import is_traced as is_traced
from isometry._internal.checks import show as show
from isometry._internal.checks import x64 as x64
from isometry._internal.errors import BatchWarning as BatchWarning
from isometry._internal.errors import FromCall
from isometry._internal.errors import InputError as InputError
from isometry._internal.errors import MissingExtra as MissingExtra
from isometry._internal.errors import NotDefined as NotDefined
from isometry._internal.errors import NotFinite as NotFinite
from isometry._internal.errors import PrecisionWarning as PrecisionWarning


@contextlib.contextmanager
def named(call: str) -> Iterator[None]:
    """Inside, errors about arguments carry the name of the public function `call`."""
    try:
        yield
    except FromCall as error:
        error.function = call
        raise


def concrete(call: str, **given: Any) -> None:
    """Refuse tracers: `call` runs on the host."""
    for name, value in given.items():
        if is_traced(value):
            raise TypeError(
                f"{call}(): {name} is traced; {call} runs on the host. Call it outside "
                "jit, vmap and grad, and close over the result."
            )


def one_of(call: str, *, among: Iterable[str], **given: Any) -> None:
    """Require one of the names in `among`."""
    known = list(among)
    with named(call):
        for name, value in given.items():
            checks.one_of(name, value, known)


def number(
    call: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    **given: Any,
) -> None:
    """Require a finite real number in [low, high], or in (low, high] with `open_low`."""
    above = low if open_low else None
    with named(call):
        for name, value in given.items():
            checks.number(name, value, low=low, high=high, above=above)


def finite(call: str, /, **given: Any) -> None:
    """Require a finite real number; the arguments may be called `low` and `high`."""
    with named(call):
        for name, value in given.items():
            checks.number(name, value)


def array(call: str, **given: Any) -> Any:
    """Return the one named argument as a JAX array of numbers."""
    ((name, value),) = given.items()
    with named(call):
        return checks.array(name, value)


def points(call: str, kind: Any, **given: Any) -> Any:
    """Return the one named argument, a real number or several, as one axis in `kind`."""
    ((name, value),) = given.items()
    with named(call):
        return checks.points(name, value, kind)


def integer(call: str, *, low: int = 0, high: int | None = None, **given: Any) -> None:
    """Require a whole number between `low` and `high`, both included."""
    with named(call):
        for name, value in given.items():
            checks.integer(name, value, low=low, high=high)


def instance(call: str, kind: type, **given: Any) -> None:
    """Require an object of this class."""
    with named(call):
        for name, value in given.items():
            checks.instance(name, value, kind)


def leaf_shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every leaf by its path; lists are as good as tuples."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}


def same_leaves(call: str, expected: dict[str, tuple[int, ...]], params: Any, at: str = "") -> None:
    """Require parameters with the leaves, by path and shape, of a network's."""
    came = leaf_shapes(params)
    if "" in came:
        raise InputError(
            f"{call}(): params{at} is a number or an array, not a network's parameters; write net.init(key)."
        )
    for name in sorted(expected.keys() | came.keys()):
        if expected.get(name) != came.get(name):
            has = f"has {came[name]}" if name in came else "lacks it"
            wants = f"is of shape {expected[name]}" if name in expected else "is not there"
            raise InputError(
                f"{call}(): params{at}{name} {wants} in this network, and params {has}; write net.init(key), or "
                "one seed of stacked parameters, jax.tree.map(lambda a: a[0], params)."
            )


def elementwise(call: str, name: str, phi: Callable[[Any], Any]) -> None:
    """Require a real function that treats each entry alike."""
    with named(call):
        checks.elementwise(name, phi)


def shape(call: str, value: Any, *, least: int = 0, why: str = "") -> tuple[int, ...]:
    """Return a shape of positive axes as a tuple."""
    with named(call):
        return checks.shape(value, least=least, why=why)


def reason(error: Exception) -> str:
    """Return what an error says, without the call that raised it."""
    return str(error).partition("(): ")[2] or str(error)


def float_dtype(call: str, dtype: Any) -> Any:
    """Return a real floating dtype."""
    with named(call):
        return checks.float_dtype(dtype)


def measuring_dtype(call: str, dtype: Any, *trees: Any) -> jnp.dtype:
    """Return the dtype that a measurement runs in."""
    with named(call):
        return precision.measuring_dtype(dtype, *trees)


def budget(call: str, max_bytes: int | None) -> int:
    """Return how many bytes a measurement may take."""
    with named(call):
        return memory.budget(max_bytes)


def key_bits(value: Any) -> Any:
    """Return the words behind a key, typed or old."""
    return jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value


def key_kind(value: Any) -> str | None:
    """Return the generator of a typed key; None is the default one, which old keys have."""
    return str(jax.random.key_impl(value)) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else None


def key(call: str, value: Any, name: str = "key") -> None:
    """Require a single random key."""
    with named(call):
        checks.key(name, value)


def keys(call: str, value: Any, name: str = "keys") -> int:
    """Require a one-dimensional array of random keys; return how many."""
    with named(call):
        return checks.keys(name, value).shape[0]


def all_finite(call: str, **given: Any) -> None:
    """Refuse NaN and infinity among the concrete floating leaves."""
    with named(call):
        for name, value in given.items():
            checks.all_finite(name, value)


def examples(call: str, shape: tuple[int, ...], xs: Any) -> None:
    """Require finite floating examples of this shape, at least one."""
    with named(call):
        checks.examples("xs", xs, shape)


def not_abstract(call: str, **given: Any) -> None:
    """Refuse mere shapes."""
    with named(call):
        for name, value in given.items():
            checks.not_abstract(name, value)


def real(call: str, **given: Any) -> None:
    """Require trees of arrays, numbers or their shapes, none of them complex."""
    with named(call):
        for name, value in given.items():
            checks.real(name, value)


def extra(call: str, module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it."""
    with named(call):
        return checks.extra(module, extra)
