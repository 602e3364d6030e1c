"""Input checks and their messages: the one home of error text.

Every message names the call, the argument, what came, and what to write instead. Checks run before any compute and
look only at what is concrete: a traced value cannot be judged and passes.
"""

import difflib
import importlib
import math
import operator
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from isometry._internal.errors import BatchWarning as BatchWarning
from isometry._internal.errors import InputError as InputError
from isometry._internal.errors import MissingExtra as MissingExtra
from isometry._internal.errors import NotDefined as NotDefined
from isometry._internal.errors import NotFinite as NotFinite
from isometry._internal.errors import PrecisionWarning as PrecisionWarning

_LARGEST = 2**40
"""Entries of an array: 4 TB in float32."""


def show(value: Any) -> str:
    """`repr`, cut to what fits in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def x64() -> bool:
    """Whether JAX is in 64-bit mode here."""
    return jnp.result_type(float) == np.float64


def is_traced(value: Any) -> bool:
    """Whether `value` or anything in it is a tracer."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def concrete(call: str, **named: Any) -> None:
    """Refuse tracers: `call` runs on the host."""
    for name, value in named.items():
        if is_traced(value):
            raise TypeError(
                f"{call}(): {name} is traced; {call} runs on the host. Call it outside jit, vmap and grad, and "
                "close over the result."
            )


def one_of(call: str, *, among: Iterable[str], **named: Any) -> None:
    """The argument is one of the names in `among`; the nearest one is suggested."""
    known = list(among)
    for name, value in named.items():
        if isinstance(value, str) and value in known:
            continue
        near = difflib.get_close_matches(value, known, n=2, cutoff=0.6) if isinstance(value, str) else []
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise InputError(f"{call}(): {name}={show(value)} is not known. Known: {', '.join(known)}.{hint}")


def number(call: str, *, low: float = -math.inf, high: float = math.inf, open_low: bool = False, **named: Any) -> None:
    """A finite real number in [low, high], or in (low, high] with `open_low`."""
    for name, value in named.items():
        _number(call, name, value, low, high, open_low)


def finite(call: str, /, **named: Any) -> None:
    """A finite real number, whatever the arguments are called: `number` would take `low` and `high` for its own."""
    for name, value in named.items():
        _number(call, name, value, -math.inf, math.inf, False)


def _number(call: str, name: str, value: Any, low: float, high: float, open_low: bool) -> None:
    if is_traced(value):
        return
    x = _float(call, name, value)
    inside = (x > low if open_low else x >= low) and x <= high
    if not math.isfinite(x) or not inside:
        opening, closing = "(" if open_low or low == -math.inf else "[", ")" if high == math.inf else "]"
        bounds = f"{opening}{low:g}, {high:g}{closing}"
        raise InputError(f"{call}(): {name}={show(value)} is not a finite number in {bounds}.")


def _float(call: str, name: str, value: Any) -> float:
    """`value` in float64; infinite where a whole number exceeds it. float() would also take "0.2", True and [0.2]."""
    dtype = getattr(value, "dtype", None)
    real = isinstance(value, (int, float)) if dtype is None else is_real(dtype) and np.ndim(value) == 0
    try:
        if isinstance(value, bool) or not real:
            raise TypeError
        return float(value)
    except TypeError:
        raise InputError(f"{call}(): {name}={show(value)} is not a number.") from None
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_real(dtype: Any) -> bool:
    """Whether a dtype is of whole or floating numbers."""
    return jnp.issubdtype(dtype, np.integer) or jnp.issubdtype(dtype, np.floating)


def array(call: str, **named: Any) -> Any:
    """The one named argument as a JAX array of numbers; numbers and nested lists of numbers are welcome.

    What its dtype overflows is infinite.
    """
    ((name, value),) = named.items()
    try:
        with np.errstate(over="ignore"):
            found = jnp.asarray(value) if hasattr(value, "__jax_array__") else value
            known = is_traced(found) or isinstance(found, (np.ndarray, np.generic, jax.Array))
            found = found if known else np.asarray(found)  # a list, or an array of another library
            if not _numeric(found):
                raise TypeError
            return jnp.asarray(found)
    except (TypeError, ValueError, OverflowError):
        came = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else show(value)
        raise InputError(f"{call}(): {name} is {came}, not an array of numbers.") from None


def _numeric(value: Any) -> bool:
    """Whether an array, a number or a shape holds numbers or truth values."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return isinstance(value, (bool, int, float, complex))
    return hasattr(value, "shape") and (jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_))


def points(call: str, kind: Any, **named: Any) -> Any:
    """The one named argument, a real number or a sequence of them, as one axis in dtype `kind`; infinity is a point,
    NaN is none."""
    ((name, value),) = named.items()
    traced = is_traced(value)
    try:
        given = value if traced or hasattr(value, "dtype") else np.asarray(value)
        if not traced and not is_real(given.dtype):
            raise TypeError
        with np.errstate(over="ignore"):
            found = jnp.asarray(given, kind) if traced else np.asarray(given, kind)
    except (TypeError, ValueError):
        raise InputError(f"{call}(): {name}={show(value)} is not made of real numbers.") from None
    bad = 0 if traced else int(np.isnan(found).sum())
    if bad:
        raise InputError(f"{call}(): {name} holds {bad} values that are NaN.")
    if found.ndim > 1:
        raise InputError(f"{call}(): {name} has shape {found.shape}; write one axis, (n,), or a number.")
    return jnp.atleast_1d(jnp.asarray(found))


def integer(call: str, *, low: int = 0, high: int | None = None, **named: Any) -> None:
    """A whole number between `low` and `high`, both included."""
    for name, value in named.items():
        try:
            k = operator.index(value)
        except TypeError:
            raise InputError(f"{call}(): {name}={show(value)} is not a whole number.") from None
        if isinstance(value, bool) or k < low or (high is not None and k > high):
            least = f"at least {low}" if high is None else f"between {low} and {high}"
            raise InputError(f"{call}(): {name}={show(value)} must be a whole number, {least}.")


def leaf_shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """Of every leaf, by its path; lists are as good as tuples."""
    return {jax.tree_util.keystr(path): np.shape(a) for path, a in jax.tree_util.tree_leaves_with_path(params)}


def same_leaves(call: str, expected: dict[str, tuple[int, ...]], params: Any, at: str = "") -> None:
    """Parameters with the leaves, by path and shape, of a network's."""
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
    """A real function that makes of an entry what depends neither on the others nor on their order, in JAX's float."""
    grid = np.random.default_rng(0).permutation(np.linspace(-3.1, 2.7, 64))
    u = np.insert(grid, [0, 9, 30, 51, 64], [9.0, 4.0, -6.0, 7.0, 5.0])  # first, last, median: all move
    inner = np.isin(u, grid)
    try:
        with jax.ensure_compile_time_eval():
            shaped = jax.eval_shape(phi, jnp.asarray(u))
            alone, among = phi(jnp.asarray(grid)), phi(jnp.asarray(u))
    except Exception as error:  # whatever a user's function may raise
        said = str(error).splitlines()[0] if str(error) else ""
        raise InputError(
            f"{call}(): {name} cannot be evaluated on arrays of shapes (64,) and (69,) ({type(error).__name__}: "
            f"{said}). It must be elementwise, written with jnp; jnp.where instead of if."
        ) from error
    if getattr(shaped, "shape", None) != u.shape or not jnp.issubdtype(shaped.dtype, jnp.floating):
        came = f"{shaped.dtype} of shape {shaped.shape}" if hasattr(shaped, "dtype") else type(shaped).__name__
        raise InputError(f"{call}(): {name} maps shape {u.shape} to {came}; it must be elementwise, real.")
    if is_traced((alone, among)):  # what closes over a tracer shows no numbers
        return
    alone, among, eps = np.asarray(alone), np.asarray(among)[inner], float(jnp.finfo(shaped.dtype).eps)
    size = np.max(np.abs(alone), where=np.isfinite(alone), initial=0.0)
    if not np.allclose(alone, among, rtol=eps**0.6, atol=eps**0.75 * size, equal_nan=True):
        raise InputError(f"{call}(): {name} at a point changes with the other entries; it must be elementwise.")


def instance(call: str, kind: type, **named: Any) -> None:
    """An object of this class."""
    for name, value in named.items():
        if not isinstance(value, kind):
            raise InputError(f"{call}(): {name}={show(value)} is not a {kind.__name__}.")


def shape(call: str, value: Any, *, least: int = 0, why: str = "") -> tuple[int, ...]:
    """A shape of positive axes as a tuple; lists are welcome, as Haiku passes them."""
    try:
        axes = tuple(operator.index(n) for n in value)
    except TypeError:
        raise InputError(f"{call}(): shape={show(value)} is not a sequence of whole numbers.") from None
    if any(n < 1 for n in axes):
        raise InputError(f"{call}(): shape={axes} has an axis of size {min(axes)}; every axis must be at least 1.")
    if math.prod(axes) > _LARGEST:
        raise InputError(f"{call}(): shape={axes} has more entries than any memory holds, 2^40.")
    if len(axes) < least:
        count = {0: "no axis", 1: "one axis"}.get(len(axes), f"{len(axes)} axes")
        raise InputError(f"{call}(): shape={axes} has {count}; {why}")
    return axes


def reason(error: Exception) -> str:
    """What an error says, without the call that raised it."""
    return str(error).partition("(): ")[2] or str(error)


def float_dtype(call: str, dtype: Any) -> Any:
    """A real floating dtype; None and Python's float are JAX's default. float64 needs x64, which only the user may
    switch on."""
    if dtype is None or dtype is float:
        return jnp.zeros(()).dtype
    try:
        if isinstance(dtype, (np.ndarray, jax.Array)):  # jnp.dtype would take its dtype
            raise TypeError
        d = jnp.dtype(dtype)
    except TypeError:
        raise InputError(f"{call}(): dtype={show(dtype)} is not a dtype; write jnp.float32, for example.") from None
    if not jnp.issubdtype(d, jnp.floating):
        raise InputError(f"{call}(): dtype={d.name} is not a real floating type; write jnp.float32, for example.")
    if d == np.float64 and not x64():
        raise InputError(
            f"{call}(): dtype=float64 needs 64-bit mode, which is off. Write jax.config.update('jax_enable_x64', True) "
            "before the first array, or `with jax.enable_x64(True):`."
        )
    return d


_OLD_KEY_WORDS = 2, 4
"""Of the generators that JAX has: threefry2x32; rbg and unsafe_rbg."""


def is_key(value: Any) -> bool:
    """A typed JAX key (or keys), or an old-style uint32 one."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return False
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return True
    return dtype == np.uint32 and value.ndim >= 1 and value.shape[-1] in _OLD_KEY_WORDS


def key_bits(value: Any) -> Any:
    """The words behind a key, typed or old."""
    return jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value


def key_kind(value: Any) -> str | None:
    """The generator of a typed key; None is the default one, which old keys have."""
    return str(jax.random.key_impl(value)) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else None


def key(call: str, value: Any, name: str = "key") -> None:
    """A single random key."""
    single = is_key(value) and value.ndim == (0 if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else 1)
    if not single:
        came = f"an array of shape {value.shape}" if is_key(value) else show(value)
        raise InputError(f"{call}(): {name} is {came}, not a single random key; write jax.random.key(0).")


def keys(call: str, value: Any, name: str = "keys") -> int:
    """A one-dimensional array of random keys; returns how many."""
    many = is_key(value) and value.ndim == (1 if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else 2)
    if not many:
        came = f"of shape {value.shape}" if is_key(value) else show(value)
        raise InputError(
            f"{call}(): {name} is {came}, not a one-dimensional array of random keys; "
            "write jax.random.split(jax.random.key(0), 8)."
        )
    if value.shape[0] == 0:
        raise InputError(f"{call}(): {name} is empty; write jax.random.split(jax.random.key(0), 8).")
    return value.shape[0]


def all_finite(call: str, **named: Any) -> None:
    """No NaN and no infinity among the concrete floating leaves."""
    for name, value in named.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            if is_traced(leaf) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                continue
            with jax.ensure_compile_time_eval():  # where others are traced, concrete ones stay so
                bad = int((~jnp.isfinite(leaf)).sum())
            if bad:
                where = name + jax.tree_util.keystr(path)
                raise InputError(f"{call}(): {where} holds {bad} values that are NaN or infinite.")


def examples(call: str, shape: tuple[int, ...], xs: Any) -> None:
    """`xs` holds examples of this shape, floating and finite, at least one."""
    came, dtype = tuple(getattr(xs, "shape", ())), getattr(xs, "dtype", None)
    floating = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    if not floating or not came or came[0] == 0 or came[1:] != tuple(shape):
        what = show(xs) if dtype is None else f"{dtype} of shape {came}"
        raise InputError(f"{call}(): xs is {what}; write floating rows of shape {tuple(shape)}, at least one.")
    all_finite(call, xs=xs)


def held(call: str, **named: Any) -> None:
    """No mere shapes: something to measure."""
    for name, value in named.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise InputError(
                    f"{call}(): {name}{jax.tree_util.keystr(path)} is {show(leaf)}, a shape without numbers; write the "
                    "array itself (of shapes only isometry.cost can tell something)."
                )


def real(call: str, **named: Any) -> None:
    """Arrays and numbers or their shapes, none of them complex; keys pass."""
    for name, value in named.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            where = name + jax.tree_util.keystr(path)
            if not (is_traced(leaf) or is_key(leaf) or _numeric(leaf)):
                raise InputError(f"{call}(): {where} is {show(leaf)}, not an array; close over what is none.")
            if jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), np.complexfloating):
                raise InputError(
                    f"{call}(): {where} is {getattr(leaf, 'dtype', 'complex')}, not a real floating array; split it "
                    "into real and imaginary part."
                )


def extra(call: str, module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"{call}(): needs {module.split('.')[0]}, which is not installed; write pip install 'isometry[{extra}]'."
        ) from None
