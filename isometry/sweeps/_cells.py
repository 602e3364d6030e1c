"""Running one cell, in whatever process an executor chooses."""

import contextlib
import functools
import hashlib
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np

from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry._internal.types import Key
from isometry.sweeps._grid import Grid, Index, Point

Run: TypeAlias = Callable[[Point, Key], Mapping[str, object]]

# Words of 32 bits of the hash that are folded into the key. With one word two of
# 10,000 cells would share their key with a probability of one percent.
_WORDS = 4

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
    partitionable: bool

    @classmethod
    def here(cls) -> "Settings":
        """Return the settings of this process and thread."""
        return cls(
            x64=checks.x64(),
            matmul_precision=_setting("jax_default_matmul_precision"),
            partitionable=_setting("jax_threefry_partitionable"),
        )

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Compute with these settings inside the block."""
        with (
            jax.enable_x64(self.x64),
            jax.default_matmul_precision(self.matmul_precision),
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
    """

    def __init__(self, run: Run, grid: Grid, key: Key):
        self.run = run
        self.grid = grid
        if not jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.wrap_key_data(key)
        self.key_data = np.asarray(jax.random.key_data(key))
        self.key_impl = str(jax.random.key_impl(key))
        self.settings = Settings.here()

    @functools.cached_property
    def _pickled(self) -> bytes:
        import cloudpickle

        try:
            return cloudpickle.dumps(self.__dict__)
        except Exception as error:
            raise InputError(
                "run, or a value of the grid, cannot be sent to another process: "
                f"{error}"
            ) from error

    def require_picklable(self) -> None:
        """Refuse a `run` that cannot be sent to another process."""
        self.__reduce__()

    def __reduce__(self) -> tuple[Callable[[str, bytes], "Work"], tuple[str, bytes]]:
        digest = hashlib.sha256(self._pickled).hexdigest()
        return _unpickled, (digest, self._pickled)

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


def _unpickled(digest: str, pickled: bytes) -> Work:
    """Return the work of a digest, unpickled the first time only."""
    import cloudpickle

    if digest not in _LAST:
        work = Work.__new__(Work)
        work.__dict__.update(cloudpickle.loads(pickled))
        _LAST.clear()
        _LAST[digest] = work
    return _LAST[digest]


def run_cell(work: Work, index: Index) -> Outcome:
    """Run one cell. What it raises is told in words, for it may not be picklable."""
    try:
        with work.settings.applied():
            result = work.run(work.grid.point(index), work.key(index))
    except Exception as error:
        return Failed(_reason(error))
    except SystemExit as error:
        # It would end the worker process, and cells of others with it.
        return Failed(f"SystemExit: run ended the process with {error.code!r}")
    try:
        return Done(_variables(result, work.grid.names))
    except InputError as error:
        return Failed(error.message)
    # What cannot be moved to the host, such as lists of several lengths.
    except Exception as error:
        return Failed(f"run returned what is no array. {_reason(error)}")


def _reason(error: Exception) -> str:
    """Return the error and the line of the user's code where it was raised."""
    text = f"{type(error).__name__}: {error}"
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
        if not isinstance(name, str) or not name or "/" in name:
            raise InputError(
                f"run returned a variable {checks.show(name)}; name it by a text "
                "without '/'."
            )
        if name in (*names, "state", "error"):
            raise InputError(
                f"run returned a variable {name!r}, which the store has already; "
                "give it another name."
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
    return Variable(dims, array, attrs)


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
    dtype = getattr(value, "dtype", None)
    if dtype is not None and jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        raise InputError(f"run returned {name!r}, a random key; return its key_data.")
    array = np.asarray(value)
    if array.dtype.kind == "U":
        return array.astype(np.dtypes.StringDType())
    # bfloat16 and the small floats of ml_dtypes are no kind of NumPy's own; float32
    # holds each of their values.
    if array.dtype.kind == "V" and array.dtype.names is None:
        return array.astype(np.float32)
    if array.dtype.kind in "biufcT":
        return array
    raise InputError(
        f"run returned {name!r}={checks.show(value)}, which is no array of numbers or "
        "texts."
    )
