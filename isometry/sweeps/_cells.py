"""Running one cell, in whatever process an executor chooses."""

import contextlib
import functools
import hashlib
import os
import pathlib
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np

from isometry._internal import checks, kinds, strict_json
from isometry._internal.errors import InputError
from isometry._internal.types import Key
from isometry.sweeps._grid import (
    LARGEST_INTEGER,
    RESERVED,
    Grid,
    Index,
    Point,
    is_name,
    is_unicode,
)

Run: TypeAlias = Callable[[Point, Key], Mapping[str, object]]

# Words of 32 bits of the hash that are folded into the key. With one word two of
# 10,000 cells would share their key with a probability of one percent.
_WORDS = 4

# Characters of an error's message that are kept. With a tenth of it the shapes in an
# error of JAX would be cut off; an error that holds an array has millions.
_LONGEST_REASON = 2000

# Attributes by which xarray would decode numbers into others.
_DECODED = ("_FillValue", "missing_value", "scale_factor", "add_offset")

# Folders of installed packages: the last line outside of them is the user's own.
_INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Variable:
    """One array that a cell returned.

    Attributes:
        dims: Names of the dimensions of the array, beside those of the grid.
        array: The numbers or texts.
        attrs: What is said of it, such as "units" and "long_name".
    """

    dims: tuple[str, ...]
    array: np.ndarray
    attrs: dict[str, object]


@dataclass(frozen=True)
class Done:
    """What a cell returned."""

    variables: dict[str, Variable]


@dataclass(frozen=True)
class Failed:
    """Why a cell returned nothing."""

    reason: str


Outcome: TypeAlias = Done | Failed


@dataclass(frozen=True)
class Settings:
    """The settings of JAX that a result depends on, those of the calling process.

    A worker process starts with JAX's defaults, and would compute in other precision
    than the process that the user has set up.
    """

    x64: bool
    matmul_precision: str | None
    prng_impl: str
    partitionable: bool

    @classmethod
    def here(cls) -> "Settings":
        """Return the settings of this process and thread."""
        return cls(
            x64=checks.x64(),
            matmul_precision=_setting("jax_default_matmul_precision"),
            prng_impl=_setting("jax_default_prng_impl"),
            partitionable=_setting("jax_threefry_partitionable"),
        )

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Compute with these settings inside the block."""
        with (
            jax.enable_x64(self.x64),
            jax.default_matmul_precision(self.matmul_precision),
            jax.default_prng_impl(self.prng_impl),
            jax.threefry_partitionable(self.partitionable),
        ):
            yield


def _setting(name: str) -> Any:
    """Return a setting of JAX, as it is in this thread."""
    return getattr(jax.config, name)


class Work:
    """All that the cells of one sweep share.

    It is pickled by value, with cloudpickle, so that functions of a notebook and
    lambdas cross to another process. A process unpickles it once: what `run` has
    compiled is then there for its next cell.

    Attributes:
        run: The user's function.
        grid: The grid.
        key_data: The words of the key of the sweep.
        key_impl: The name of its generator.
        settings: Settings of JAX.
        process: The process that calls `sweep`.
        file: A file with the pickled work, once it was written for processes of this
            machine. They read it, so that it crosses once and not with each cell.
    """

    def __init__(self, run: Run, grid: Grid, key: Key):
        self.run = run
        self.grid = grid
        if not kinds.is_typed_key(key):
            key = jax.random.wrap_key_data(key)
        self.key_data = np.asarray(jax.random.key_data(key))
        self.key_impl = str(jax.random.key_impl(key))
        self.settings = Settings.here()
        self.process = os.getpid()
        self.file: str | None = None

    @functools.cached_property
    def _pickled(self) -> bytes:
        import cloudpickle

        try:
            return cloudpickle.dumps({**self.__dict__, "file": None})
        except Exception as error:
            raise InputError(
                "run, or a value of the grid, cannot be sent to another process: "
                f"{error}"
            ) from error

    @functools.cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self._pickled).hexdigest()

    def require_picklable(self) -> None:
        """Refuse a `run` that cannot be sent to another process."""
        self.__reduce__()

    def write_to(self, file: str) -> None:
        """Let processes of this machine read the work from a file."""
        pathlib.Path(file).write_bytes(self._pickled)
        self.file = file

    def __reduce__(
        self,
    ) -> tuple[Callable[[str, str | bytes], "Work"], tuple[str, str | bytes]]:
        return _unpickled, (self._digest, self.file or self._pickled)

    def key(self, index: Index) -> Key:
        """Return the key of a cell, folded from the names and values of its axes."""
        identity = self.grid.identity(index).encode()
        digest = hashlib.sha256(identity).digest()
        words = jax.numpy.asarray(self.key_data)
        key = jax.random.wrap_key_data(words, impl=self.key_impl)
        for word in np.frombuffer(digest, "<u4")[:_WORDS]:
            key = jax.random.fold_in(key, word)
        return key


# The last `Work` of this process, by its digest.
_LAST: dict[str, Work] = {}


def _unpickled(digest: str, source: str | bytes) -> Work:
    """Return the work of a digest, unpickled the first time only.

    Args:
        digest: The hash of the bytes.
        source: The bytes, or the file that holds them.
    """
    import cloudpickle

    if digest not in _LAST:
        if isinstance(source, str):
            source = pathlib.Path(source).read_bytes()
        work = Work.__new__(Work)
        work.__dict__.update(cloudpickle.loads(source))
        _LAST.clear()
        _LAST[digest] = work
    return _LAST[digest]


def run_cell(work: Work, index: Index, attempt: int = 0) -> Outcome:
    """Run one cell. What it raises is told in words, for it may not be picklable.

    Args:
        work: What all cells share.
        index: The position of the cell.
        attempt: How often it was tried before. Executors such as Dask's answer a call
            with the arguments of an earlier one from their memory.
    """
    del attempt
    try:
        with work.settings.applied():
            result = work.run(work.grid.point(index), work.key(index))
    # SystemExit too: it would end the worker process, and other cells with it.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and _is_of_user(work):
            raise
        return Failed(_reason(error))
    try:
        return Done(_variables(result, work.grid.names))
    except InputError as error:
        return Failed(error.message)
    # What cannot be moved to the host, such as lists of several lengths.
    except Exception as error:
        return Failed(f"run returned what is no array. {_reason(error)}")


def _is_of_user(work: Work) -> bool:
    """Tell whether Ctrl-C is meant for the sweep, and not raised by the run."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    return is_main_thread and os.getpid() == work.process


def _reason(error: BaseException) -> str:
    """Return the error and the line of the user's code where it was raised."""
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be written)"
    if len(message) > _LONGEST_REASON:
        message = message[:_LONGEST_REASON] + "..."
    # Halves of surrogate pairs have no bytes.
    message = message.encode(errors="backslashreplace").decode()
    text = f"{type(error).__name__}: {message}"
    frames = traceback.extract_tb(error.__traceback__)
    # The first is `run_cell`.
    own = [
        frame
        for frame in frames[1:]
        if not any(folder in frame.filename for folder in _INSTALLED)
    ]
    if not own:
        return text
    last = own[-1]
    # A function that came by value has no file.
    file = ""
    if not last.filename.startswith("<"):
        file = f" of {os.path.basename(last.filename)}"
    return f"{text} (line {last.lineno}{file}, in {last.name})"


def _variables(result: object, names: tuple[str, ...]) -> dict[str, Variable]:
    """Check what a run returned, and move its arrays to the host.

    Args:
        result: A mapping from names to arrays, or to pairs (dims, array) or triples
            (dims, array, attrs), or a `Dataset` of xarray.
        names: The axes of the grid, which no variable may be named like.

    Raises:
        InputError: It is something else.
    """
    # A Dataset maps its variables only; its coordinates are among `variables`.
    result = getattr(result, "variables", result)
    if not isinstance(result, Mapping):
        raise InputError(
            f"run returned {checks.show(result)}; return a mapping from names to "
            "arrays."
        )
    if not result:
        raise InputError("run returned nothing; return at least one array.")
    variables = {}
    for name, value in result.items():
        if not isinstance(name, str) or not is_name(name):
            raise InputError(
                f"run returned a variable {checks.show(name)}; name it by a text "
                "without '/' and spaces around it."
            )
        if name in (*names, *RESERVED):
            raise InputError(
                f"run returned a variable {name!r}, which is an axis, or what the "
                "store says of a cell; give it another name."
            )
        variables[name] = _variable(name, value, names)
    return variables


def _variable(name: str, value: Any, names: tuple[str, ...]) -> Variable:
    """Return one variable, with names for its dimensions."""
    dims, given, attrs = _parts(value)
    array = _host_array(name, given)
    if dims is None:
        dims = tuple(f"{name}_{axis}" for axis in range(array.ndim))
    if len(dims) != array.ndim or len(set(dims)) < len(dims) or set(dims) & set(names):
        raise InputError(
            f"run returned {name!r} of shape {array.shape} with the dimensions {dims}; "
            "name each dimension of the array, otherwise than the axes of the grid."
        )
    return Variable(dims, array, _plain_attrs(name, attrs))


def _parts(value: Any) -> tuple[tuple[str, ...] | None, object, dict[str, object]]:
    """Return the dimensions (None if not given), array and attributes of a variable."""
    if hasattr(value, "dims") and hasattr(value, "values"):
        # A variable of xarray.
        return tuple(value.dims), value.values, dict(value.attrs)
    is_labelled = isinstance(value, tuple) and 2 <= len(value) <= 3
    if not is_labelled or not _are_dims(value[0]):
        return None, value, {}
    dims, array, *rest = value
    if isinstance(dims, str):
        dims = (dims,)
    attrs = {}
    if rest:
        attrs = dict(rest[0])
    return tuple(dims), array, attrs


def _plain_attrs(name: str, attrs: dict[str, object]) -> dict[str, object]:
    """Return attributes as JSON has them.

    Raises:
        InputError: JSON has not, or xarray would read other numbers because of them.
    """
    units = str(attrs.get("units", ""))
    decoded = [key for key in attrs if key in _DECODED]
    if decoded or " since " in units:
        raise InputError(
            f"run returned {name!r} with the attributes {attrs}, by which xarray would "
            "read other numbers; return the numbers as they are meant."
        )
    return {str(key): strict_json.plain(value, key) for key, value in attrs.items()}


def _are_dims(value: object) -> bool:
    """Tell whether a value is a name, or a tuple of names, of dimensions."""
    if isinstance(value, str):
        return True
    return isinstance(value, tuple | list) and all(isinstance(v, str) for v in value)


def _host_array(name: str, value: object) -> np.ndarray:
    """Return an array that the store can hold.

    Raises:
        InputError: There is none.
    """
    if kinds.is_typed_key(value):
        raise InputError(f"run returned {name!r}, a random key; return its key_data.")
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"run returned {name!r}, a masked array; fill it with NaN.")
    array = np.asarray(value)
    kind = array.dtype.kind
    if kind in "UT":
        texts = array.ravel().tolist()
        if not all(map(is_unicode, texts)):
            raise InputError(f"run returned {name!r}, a text that has no bytes.")
        return array.astype(np.dtypes.StringDType())
    # bfloat16 and the small floats of ml_dtypes are no kind of NumPy's own.
    is_small = kind == "V" and array.dtype.names is None
    # No other type holds each number of longdouble.
    is_long = kind in "fc" and array.dtype in (np.longdouble, np.clongdouble)
    is_known = kind in "biufc" and not is_long
    if not is_small and not is_known:
        raise InputError(
            f"run returned {name!r}={checks.show(value)}, which is no array of numbers "
            "or texts."
        )
    if kind == "c":
        return array.astype(np.complex128)
    if kind in "iu" and array.size:
        largest = max(int(array.max()), -int(array.min()))
        if largest > LARGEST_INTEGER:
            raise InputError(
                f"run returned {name!r} with integers beyond 2**53, which lose digits; "
                "return them as texts."
            )
    # float64 holds each number of the other types, and a NaN where nothing is.
    return array.astype(np.float64)
