"""Checks of what a user passes, and the sentences that refuse it.

A check takes the argument's name and its value. It returns the value, in the form that
its docstring names, or raises `InputError`; the decorator `errors.public` puts the name
of the public function before the message. A traced value has no number to judge, so
checks of numbers let it pass, unless they say otherwise.
"""

import difflib
import errno
import inspect
import math
import operator
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from isometry._internal import kinds
from isometry._internal.errors import InputError, TracedError
from isometry._internal.extras import extra as extra

T = TypeVar("T")

# A longer shape is a mistake: 2^40 entries are 4 TB in float32. Ten times fewer would
# refuse arrays that a large machine holds; with ten times more, XLA would die instead
# of saying what is wrong.
_MOST_ENTRIES = 2**40

# What no integer of an array can hold is no count of anything.
_LARGEST_INTEGER = 2**63 - 1


# Characters of a value in a message: enough to recognize it, less than a page of an
# array.
_SHOWN = 60


def show(value: object) -> str:
    """Return `repr(value)`, cut to what fits in a message."""
    try:
        text = repr(value)
    # Of an array that was deleted, or of a user's own class.
    except Exception:
        text = f"an object of {type(value).__name__}, which cannot be shown"
    if len(text) <= _SHOWN:
        return text
    return text[: _SHOWN - 3] + "..."


def kind_of(value: Any) -> str:
    """Return words for what a function returns: "a tuple of 2"."""
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"a {kind} of {', '.join(map(repr, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {kind} of {len(value)}"
    if hasattr(value, "dtype"):
        return "one array"
    return f"a {kind}"


def is_hashable(value: object) -> bool:
    """Tell whether a value has a hash; an Equinox module, say, holds arrays."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def x64() -> bool:
    """Tell whether JAX is in 64-bit mode here."""
    # This sees the context manager jax.enable_x64 too.
    return jnp.result_type(float) == np.float64


def is_traced(value: object) -> bool:
    """Tell whether `value`, or any leaf of it, is a tracer."""
    leaves = jax.tree.leaves(value)
    return any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def on_host(name: str, value: T) -> T:
    """Refuse a value with tracers, for a function that needs numbers.

    Raises:
        TracedError: The value, or a leaf of it, is traced.
    """
    if is_traced(value):
        raise TracedError(
            f"{name} is traced; this function runs on the host. Call it outside jit, "
            "vmap and grad, and close over the result."
        )
    return value


def one_of(name: str, value: object, known: Iterable[str]) -> str:
    """Require one of the names in `known`; the message suggests the nearest ones."""
    names = list(known)
    if isinstance(value, str) and value in names:
        return value
    hint = ""
    if isinstance(value, str):
        by_lower_case = {known_name.lower(): known_name for known_name in names}
        # A similarity of 0.6 finds "tanh" for "tahn", and nothing for "foo".
        near = difflib.get_close_matches(value.lower(), by_lower_case, n=2, cutoff=0.6)
        suggestions = [repr(by_lower_case[match]) for match in near]
        if suggestions:
            hint = f" Did you mean {' or '.join(suggestions)}?"
    listed = ", ".join(names)
    raise InputError(f"{name}={show(value)} is not known. Known: {listed}.{hint}")


def one_of_any_case(name: str, value: object, known: Iterable[str]) -> str:
    """Require a name in `known`, ignoring case; return it as it is spelled there."""
    names = list(known)
    if isinstance(value, str):
        by_lower_case = {known_name.lower(): known_name for known_name in names}
        value = by_lower_case.get(value.lower(), value)
    return one_of(name, value, names)


def number(
    name: str,
    value: T,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float | None = None,
) -> T:
    """Require a finite number in [low, high], greater than `above` if that is given.

    Returns:
        The number; a scalar of NumPy or JAX as an int or a float of Python, because
        arithmetic of uint8 wraps around and that of float16 rounds to zero. A traced
        value is returned as it is, unchecked.

    Raises:
        InputError: The value is not a number, or outside these bounds.
    """
    if is_traced(value):
        return value
    as_float = _as_float(name, value)
    is_inside = low <= as_float <= high and (above is None or as_float > above)
    if math.isfinite(as_float) and is_inside:
        # NumPy's float64 too: it is a float, but divides by zero without an error.
        is_scalar = hasattr(value, "dtype")
        return cast(T, np.asarray(value).item()) if is_scalar else value
    # The message names the narrower of the two lower bounds.
    if above is not None and above >= low:
        opening = f"({above:g}"
    elif low == -math.inf:
        opening = "(-inf"
    else:
        opening = f"[{low:g}"
    closing = "inf)"
    if high < math.inf:
        closing = f"{high:g}]"
    raise InputError(
        f"{name}={show(value)} is not a finite number in {opening}, {closing}."
    )


def _as_float(name: str, value: Any) -> float:
    """Return a number as a float; infinity for an int that no float can hold.

    Raises:
        InputError: The value is not a real number: a bool, a string, an array.
    """
    dtype = getattr(value, "dtype", None)
    if isinstance(value, jax.ShapeDtypeStruct):
        is_number = False
    elif dtype is not None:
        # A network has a dtype too, and no shape.
        is_known = not kinds.is_foreign(value)
        is_number = is_known and is_real(dtype) and getattr(value, "shape", None) == ()
    else:
        # float() alone would also take "0.2", True and anything with __float__.
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number:
        raise InputError(f"{name}={show(value)} is not a number.")
    as_number = cast(float, value)
    try:
        return float(as_number)
    except OverflowError:
        # A whole number beyond the largest float, which is as good as infinite.
        return math.inf if as_number > 0 else -math.inf


def is_real(dtype: Any) -> bool:
    """Tell whether a dtype is of integers or of floating numbers; booleans are not."""
    # NumPy counts differences of times among its whole numbers.
    is_time = getattr(dtype, "kind", "") == "m"
    is_whole = jnp.issubdtype(dtype, np.integer) and not is_time
    return is_whole or jnp.issubdtype(dtype, np.floating)


def integer(name: str, value: Any, *, low: int = 0, high: int | None = None) -> int:
    """Require an integer in [low, high]: of Python, or a scalar of NumPy or JAX.

    Without `high` it may be as large as 64 bits hold.

    Returns:
        The integer, as an int of Python.

    Raises:
        InputError: The value is out of bounds, a float (even 3.0), a bool or traced.
    """
    try:
        whole = operator.index(value)
    except TypeError:
        raise InputError(f"{name}={show(value)} is not a whole number.") from None
    most = _LARGEST_INTEGER if high is None else high
    if isinstance(value, bool) or not low <= whole <= most:
        bounds = f"at least {low}"
        if high is not None or whole > most:
            bounds = f"between {low} and {most}"
        raise InputError(f"{name}={show(value)} must be a whole number, {bounds}.")
    return whole


def instance(name: str, value: object, kind: type[T]) -> T:
    """Require an object of the class `kind`."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__.startswith(tuple("AEIOU")) else "a"
        raise InputError(f"{name}={show(value)} is not {article} {kind.__name__}.")
    return value


def array(name: str, value: Any) -> jax.Array:
    """Return a number, nested lists, or an array of any library as a JAX array.

    Floats beyond the range of the JAX array's dtype become infinite.

    Raises:
        InputError: The value does not hold numbers or booleans, or it holds integers
            that need 64-bit mode, which is off.
    """
    try:
        with np.errstate(over="ignore"):
            # Parameters of NNX and Haiku are arrays by this protocol alone.
            if hasattr(value, "__jax_array__"):
                numbers = jnp.asarray(value)
            elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
                numbers = value
            else:
                # Lists, and by their __array__ the arrays of other libraries.
                numbers = np.asarray(value)
            if holds_numbers(numbers):
                if not isinstance(numbers, (np.ndarray, np.generic)):
                    return numbers
                _require_range(name, numbers)
                # The copy is ours, so that the result does not change with the user's.
                return on_device(numbers.copy())
    except InputError:
        raise
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        # The library says what to do: detach the array, or copy it to the host.
        if kinds.is_foreign(value):
            raise InputError(
                f"{name} is {_of_library(value)} that NumPy cannot read: {error}"
            ) from error
    came = show(value)
    if isinstance(value, np.ndarray):
        came = f"an array of {value.dtype}"
    raise InputError(f"{name} is {came}, not an array of numbers.")


def on_device(array: np.ndarray | np.generic) -> jax.Array:
    """Return a NumPy array of our own as a JAX array, without compiling a program.

    `jnp.asarray` compiles one for each new shape, for 10 to 40 ms. The result may share
    the memory of the array, so nobody must change that later.
    """
    return jax.device_put(array)


def _require_range(name: str, numbers: np.ndarray | np.generic) -> None:
    """Refuse integers that JAX would wrap around, as int64 while 64-bit mode is off."""
    kept = jax.dtypes.canonicalize_dtype(numbers.dtype)
    is_whole = jnp.issubdtype(kept, np.integer)
    if not is_whole or kept == numbers.dtype or numbers.size == 0:
        return
    bounds = np.iinfo(kept)
    for extreme in (numbers.min(), numbers.max()):
        if not bounds.min <= extreme <= bounds.max:
            raise InputError(
                f"{name} holds {extreme}, beyond {kept.name}, and 64-bit mode is off. "
                "Write floats, or jax.config.update('jax_enable_x64', True) before the "
                "first array."
            )


def holds_numbers(value: Any) -> bool:
    """Tell whether a number, an array or a shape with dtype is numeric or boolean."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return isinstance(value, (bool, int, float, complex))
    if kinds.is_foreign(value):
        return False
    is_numeric = jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_)
    return hasattr(value, "shape") and is_numeric


def _of_library(value: object) -> str:
    """Describe an array of another library: "a Tensor of torch"."""
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    return f"a {kind.__name__} of {library}"


def points(name: str, value: Any, dtype: Any) -> jax.Array:
    """Return a real number, or a sequence of real numbers, as an array of one axis.

    Args:
        name: The argument's name.
        value: The numbers. Infinity is allowed, NaN is not.
        dtype: The dtype of the result.

    Raises:
        InputError: The value is not real, holds NaN, or has more than one axis.
    """
    try:
        given = value
        if not hasattr(value, "dtype"):
            given = np.asarray(value)
        if not (is_traced(given) or is_real(given.dtype)):
            raise TypeError
        # NumPy keeps float64 while JAX's 64-bit mode is off, and so sees every NaN.
        convert = jnp.asarray if is_traced(given) else np.asarray
        with np.errstate(over="ignore"):
            on_axis = convert(given, dtype)
    except (TypeError, ValueError):
        message = f"{name}={show(value)} is not made of real numbers."
        raise InputError(message) from None
    if not is_traced(on_axis):
        num_nan = int(np.isnan(on_axis).sum())
        if num_nan:
            raise InputError(f"{name} holds {num_nan} values that are NaN.")
    if on_axis.ndim > 1:
        raise InputError(
            f"{name} has shape {on_axis.shape}; write one axis, (n,), or a number."
        )
    if not is_traced(on_axis):
        # By NumPy, because JAX would compile a program for the new axis.
        return on_device(np.array(on_axis, ndmin=1))
    return jnp.atleast_1d(on_axis)


def shape(value: Any, *, least: int = 0, why: str = "") -> tuple[int, ...]:
    """Require a shape: a sequence of positive integers.

    Args:
        value: The shape; Haiku passes lists.
        least: The least number of axes.
        why: The end of the message where there are fewer.

    Returns:
        The shape as a tuple of Python's integers.
    """
    try:
        axes = tuple(operator.index(size) for size in value)
    except TypeError:
        message = f"shape={show(value)} is not a sequence of whole numbers."
        raise InputError(message) from None
    if any(size < 1 for size in axes):
        raise InputError(
            f"shape={axes} has an axis of size {min(axes)}; "
            "every axis must be at least 1."
        )
    if math.prod(axes) > _MOST_ENTRIES:
        raise InputError(f"shape={axes} has more entries than any memory holds, 2^40.")
    if len(axes) < least:
        in_words = {0: "no axis", 1: "one axis"}
        count = in_words.get(len(axes), f"{len(axes)} axes")
        raise InputError(f"shape={axes} has {count}; {why}")
    return axes


def float_dtype(dtype: Any) -> np.dtype:
    """Require a real floating dtype; None and Python's float are JAX's default.

    Raises:
        InputError: The dtype is another, or float64 while 64-bit mode is off.
    """
    if dtype is None or dtype is float:
        return jnp.result_type(float)
    # jnp.dtype would take an array's own dtype.
    is_array = isinstance(dtype, (np.ndarray, jax.Array))
    try:
        kind = jnp.dtype("not a dtype" if is_array else dtype)
    except TypeError:
        raise InputError(
            f"dtype={show(dtype)} is not a dtype; write jnp.float32, for example."
        ) from None
    if not jnp.issubdtype(kind, jnp.floating):
        raise InputError(
            f"dtype={kind.name} is not a real floating type; "
            "write jnp.float32, for example."
        )
    if kind == np.float64 and not x64():
        raise InputError(
            "dtype=float64 needs 64-bit mode, which is off. Write "
            "jax.config.update('jax_enable_x64', True) before the first array, or "
            "`with jax.enable_x64(True):`."
        )
    return kind


def _key_axes(value: Any) -> int:
    """Return the number of axes of an array of keys; the words of old keys are none."""
    if kinds.is_typed_key(value):
        return value.ndim
    return value.ndim - 1


def key(name: str, value: Any) -> jax.Array:
    """Require a single random key, typed or an old one of uint32 words."""
    if not kinds.is_key(value):
        came = show(value)
    elif _key_axes(value) != 0:
        came = f"an array of shape {value.shape}"
    else:
        return value
    raise InputError(
        f"{name} is {came}, not a single random key; write jax.random.key(0)."
    )


def keys(name: str, value: Any) -> jax.Array:
    """Require a one-dimensional array of random keys, at least one.

    The keys are typed, or old ones: an array (n, 2) or (n, 4) of uint32.
    """
    wanted = "not a one-dimensional array of random keys"
    advice = "write jax.random.split(jax.random.key(0), 8)."
    if not kinds.is_key(value):
        raise InputError(f"{name} is {show(value)}, {wanted}; {advice}")
    if _key_axes(value) != 1:
        raise InputError(f"{name} is of shape {value.shape}, {wanted}; {advice}")
    if value.shape[0] == 0:
        raise InputError(f"{name} is empty; {advice}")
    return value


def all_finite(name: str, value: T) -> T:
    """Refuse a tree with NaN or infinity in a floating leaf; traced leaves pass."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        is_floating = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        if is_traced(leaf) or not is_floating:
            continue
        num_bad = num_not_finite(leaf)
        if num_bad:
            where = name + jax.tree_util.keystr(path)
            raise InputError(
                f"{where} holds {num_bad} values that are NaN or infinite."
            )
    return value


def num_not_finite(array: jax.typing.ArrayLike) -> int:
    """Count the entries that are NaN or infinite."""
    if _in_host_memory(array):
        # Three programs would be compiled for it: 80 ms, a sixth of a first small call.
        return int(np.count_nonzero(~np.isfinite(np.asarray(array))))
    # The call may be inside a jit that traces other arrays; this one is known now.
    with jax.ensure_compile_time_eval():
        return int((~jnp.isfinite(array)).sum())


def _in_host_memory(array: jax.typing.ArrayLike) -> bool:
    if not isinstance(array, jax.Array):
        return True
    is_on_cpu = all(device.platform == "cpu" for device in array.devices())
    return is_on_cpu and array.is_fully_addressable


def examples(name: str, value: T, shape: tuple[int, ...]) -> T:
    """Require a finite floating array of shape (n, *shape), with n >= 1 examples."""
    dtype = getattr(value, "dtype", None)
    came = tuple(getattr(value, "shape", ()))
    is_floating = dtype is not None and kinds.is_floating(value)
    has_rows = len(came) > 0 and came[0] > 0
    if not (is_floating and has_rows and came[1:] == tuple(shape)):
        what = show(value)
        if dtype is not None:
            what = f"{dtype} of shape {came}"
        raise InputError(
            f"{name} is {what}; write floating rows of shape {tuple(shape)}, "
            "at least one."
        )
    return all_finite(name, value)


def not_abstract(name: str, value: T) -> T:
    """Require arrays: refuse a tree that holds a `jax.ShapeDtypeStruct`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise InputError(
                f"{name}{jax.tree_util.keystr(path)} is {show(leaf)}, a shape without "
                "numbers; write the array itself (isometry.cost alone takes shapes)."
            )
    return value


def real(name: str, value: T) -> T:
    """Require a tree whose leaves are real: arrays, numbers or `ShapeDtypeStruct`.

    Integers and booleans are real too. PRNG keys and tracers are let through.

    Raises:
        InputError: A leaf is complex, is no array, or is one of another library. The
            message tells its path.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        where = name + jax.tree_util.keystr(path)
        if kinds.is_foreign(leaf):
            raise InputError(
                f"{where} is {_of_library(leaf)}, not an array of NumPy or JAX; write "
                f"jax.tree.map(np.asarray, {name})."
            )
        if not (is_traced(leaf) or kinds.is_key(leaf) or holds_numbers(leaf)):
            raise InputError(
                f"{where} is {show(leaf)}, not an array; close over what is none."
            )
        if _is_deleted(leaf):
            raise InputError(
                f"{where} was deleted, as by a function that donates its arguments "
                "(donate_argnums); pass what that function returned."
            )
        dtype = getattr(leaf, "dtype", type(leaf))
        if jnp.issubdtype(dtype, np.complexfloating):
            came = getattr(leaf, "dtype", "complex")
            raise InputError(
                f"{where} is {came}, not a real floating array; "
                "split it into real and imaginary part."
            )
    return value


def _is_deleted(leaf: object) -> bool:
    """Tell whether an array has given its memory away."""
    if not isinstance(leaf, jax.Array) or is_traced(leaf):
        return False
    return leaf.is_deleted()


def path(name: str, value: Any) -> pathlib.Path:
    """Return the path of a file or a folder, which may not exist.

    Raises:
        InputError: It is no text and no `pathlib.Path`, or the system takes no file of
            that name, such as one with a NUL character.
    """
    try:
        os.lstat(pathlib.Path(value))
    except TypeError:
        raise InputError(
            f"{name}={show(value)} is no path; write a text or a pathlib.Path."
        ) from None
    except ValueError as error:
        raise InputError(f"{name}={show(value)} is no path: {error}.") from None
    except OSError as error:
        # It need not be there.
        if error.errno == errno.ENAMETOOLONG:
            message = f"{name}={show(value)} cannot be used: {error.strerror}."
            raise InputError(message) from None
    return pathlib.Path(value)


def listed(name: str, value: Iterable[T]) -> list[T]:
    """Return what can be iterated over, and is no text, as a list."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InputError(f"{name}={show(value)} is no list; write [{show(value)}].")
    return list(value)


def function(name: str, value: T) -> T:
    """Require something that can be called."""
    if not callable(value):
        raise InputError(f"{name}={show(value)} is no function.")
    return value


def elementwise(name: str, function: Callable[[Any], Any]) -> None:
    """Require a real function that maps each entry by itself, whatever the others are.

    The function is tried on 64 points, and on the same points with five others between
    them, which change the first and last entry, the mean and the median.

    Raises:
        InputError: The function fails on arrays, changes their shape, does not return
            real floating numbers, or its values change with the other entries.
    """
    alone = np.random.default_rng(0).permutation(np.linspace(-3.1, 2.7, 64))
    among = np.insert(alone, [0, 9, 30, 51, 64], [9.0, 4.0, -6.0, 7.0, 5.0])
    try:
        with jax.ensure_compile_time_eval():
            result = jax.eval_shape(function, jnp.asarray(among))
            value_alone = function(jnp.asarray(alone))
            value_among = function(jnp.asarray(among))
    # A user's function may raise anything.
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise InputError(
            f"{name} cannot be evaluated on arrays of shapes (64,) and (69,) "
            f"({type(error).__name__}: {first_line}). It must be elementwise, written "
            "with jnp; jnp.where instead of if."
        ) from error
    is_array = hasattr(result, "dtype")
    is_real_result = is_array and kinds.is_floating(result)
    if not is_real_result or result.shape != among.shape:
        came = type(result).__name__
        if is_array:
            came = f"{result.dtype} of shape {result.shape}"
        raise InputError(
            f"{name} maps shape {among.shape} to {came}; it must be elementwise, real."
        )
    # What closes over a tracer shows no numbers.
    if is_traced((value_alone, value_among)):
        return
    value_alone = np.asarray(value_alone)
    value_shared = np.asarray(value_among)[np.isin(among, alone)]
    # XLA may vectorize the two lengths differently, so a few roundings must pass; the
    # mean or the maximum of the array moves a value by far more than eps^0.6, 7e-5 in
    # float32.
    eps = float(jnp.finfo(result.dtype).eps)
    is_finite = np.isfinite(value_alone)
    largest = np.max(np.abs(value_alone), where=is_finite, initial=0.0)
    is_same = np.allclose(
        value_alone,
        value_shared,
        rtol=eps**0.6,
        atol=eps**0.75 * largest,
        equal_nan=True,
    )
    if not is_same:
        raise InputError(
            f"{name} at a point changes with the other entries; it must be elementwise."
        )


# Libraries whose modules hold or draw their parameters, and what to write instead.
_INSTEAD = {
    "flax.linen": "networks.flax(module, example)",
    "flax.nnx": "networks.nnx(lambda rngs: Module(..., rngs=rngs), example)",
    "equinox": "networks.equinox(lambda key: Module(..., key=key), example)",
    "haiku": "networks.haiku(transformed, example)",
    "torch.nn": "it in jax.numpy, or isometry.Spectrum.of_jacobians(jacobians) of the "
    "Jacobians that torch computes",
}

# A module of Equinox or NNX may be a function of parameters after all, and then its
# first argument is called so.
_PARAMETERS = frozenset(("params", "parameters", "variables", "theta", "p"))


def no_module(name: str, value: T) -> T:
    """Refuse a module of a library, which is no f(params, x); say what to write."""
    kind = value if isinstance(value, type) else type(value)
    origins = [f"{base.__module__}." for base in kind.__mro__]
    for library, instead in _INSTEAD.items():
        is_module = any(origin.startswith(f"{library}.") for origin in origins)
        if is_module and not _takes_params(kind):
            raise InputError(
                f"{name} is of {kind.__name__}, a module of {library}, and no "
                f"f(params, x); write {instead}."
            )
    return value


def _takes_params(kind: type) -> bool:
    """Tell whether calls may take parameters first, by the name of the argument."""
    first = _first_argument(kind.__call__)
    # The call of a torch module takes *args and passes them on.
    if _takes_any(first) and hasattr(kind, "forward"):
        first = _first_argument(kind.forward)
    # Wrapped functions, such as those of filter_jit, take *args too.
    return _takes_any(first) or (first is not None and first.name in _PARAMETERS)


def _first_argument(method: Callable[..., object]) -> inspect.Parameter | None:
    """Return the argument after self, or None if there is none."""
    arguments = list(inspect.signature(method).parameters.values())
    return arguments[1] if len(arguments) > 1 else None


def _takes_any(argument: inspect.Parameter | None) -> bool:
    """Tell whether an argument is *args."""
    return argument is not None and argument.kind is inspect.Parameter.VAR_POSITIONAL
