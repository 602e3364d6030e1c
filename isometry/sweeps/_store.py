"""The store of a sweep: a zarr group that xarray reads, one chunk a cell.

What is written when, so that a process may be killed at any moment:

- A new store is made beside its place, and renamed.
- zarr writes each file beside its place, and renames it.
- The shapes of all arrays stand once more in the metadata of the group (consolidated
  metadata). Readers see only those. Arrays that are made or widened are first written
  themselves; then the group's metadata is written, in one file. What was written of
  arrays alone is rolled back when the store is next opened for writing.
- The data of a cell is written before its state.

Against a crash of the machine, where what was renamed may not be on the disk yet,
nothing is done.
"""

import contextlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isometry import store as files
from isometry._internal import checks, provenance
from isometry._internal.errors import InputError
from isometry.sweeps import _source
from isometry.sweeps._cells import Done, Variable, Work
from isometry.sweeps._grid import RESERVED, Axis, Grid, Index, Label

if TYPE_CHECKING:
    import zarr

# States of a cell.
ABSENT, DONE, FAILED = 0, 1, 2

# The attribute of the group that holds what the store belongs to.
_ATTRIBUTE = "isometry_sweep"

# Attributes that the store adds to those of a variable.
_FILL_ATTRIBUTE = "_FillValue"

# Labels of an axis lie in one chunk, so that they are written at once, also when the
# axis grows. A longer axis takes more chunks.
_LABELS_OF_CHUNK = 2**16

# Booleans are stored as these integers, because a boolean cannot say that it is absent.
_BOOLEAN = np.dtype(np.int8)

# Units and meanings of axes that a reader may not guess.
_MEANINGS = {
    "sigma_w": "standard deviation of the weights times sqrt(fan_in)",
    "sigma_b": "standard deviation of the biases",
    "depth": "number of weight layers",
    "width": "units of a hidden layer",
    "seed": "seed",
    "batch": "examples of a batch",
}


@dataclass(frozen=True)
class Identity:
    """What the cells of a store have in common.

    Attributes:
        axes: The names of the axes.
        key: The generator and the words of the key.
        settings: The settings of JAX.
        version: The version of this package.
        run: What the run and the objects on the axes consist of: see `_source`.
        volatile: Names of texts of `run` that a sweep has changed itself, such as a
            list of calls. They tell nothing.
    """

    axes: tuple[str, ...]
    key: str
    settings: dict[str, object]
    version: str
    run: dict[str, str]
    volatile: tuple[str, ...] = ()

    @classmethod
    def of(cls, work: Work) -> "Identity":
        """Return the identity of what a sweep is about to compute."""
        words = work.key_data.tobytes().hex()
        return cls(
            axes=work.grid.names,
            key=f"{work.key_impl} {words}",
            settings=asdict(work.settings),
            version=provenance.versions()["isometry"],
            run=_described(work),
        )


def _described(work: Work) -> dict[str, str]:
    """Describe a run and the objects on the axes."""
    described = _source.describe(work.run)
    for axis in work.grid.axes:
        # Numbers and names say what they are.
        if axis.values == axis.labels:
            continue
        for label, value in zip(axis.labels, axis.values, strict=True):
            texts = _source.describe(value)
            for where, text in texts.items():
                described[f"{axis.name}={label} {where}"] = text
    return described


class Store:
    """A store that is open for writing, by this process alone.

    Attributes:
        path: The folder.
        grid: The grid of the store; its axes are in the order of the store.
        states: The state of each cell, as the disk has it.
    """

    def __init__(self, path: pathlib.Path, grid: Grid):
        self.path = path
        self.grid = grid
        self._roll_back()
        self._group = _zarr().open_group(path, mode="r+", use_consolidated=True)
        self._arrays: dict[str, Any] = dict(self._group.arrays())
        self.states: np.ndarray = self._arrays["state"][...]

    def read(self, index: Index) -> Done:
        """Return what the store holds of a cell."""
        return read_cell(self._arrays, self.grid, index)

    def write_done(self, index: Index, done: Done) -> None:
        """Write what a cell returned, and then that it is done.

        Raises:
            InputError: The store holds another kind of array of that name.
            OSError: The disk refuses.
        """
        for name, variable in done.variables.items():
            self._require_alike(name, variable)
        self._make_room(done.variables)
        for name, variable in done.variables.items():
            array = self._arrays[name]
            stored = _stored(variable.array).astype(_numpy_dtype(array))
            if _is_coordinate(name, variable):
                self._write_coordinate(name, stored)
                continue
            own_shape = array.shape[len(self.grid.axes) :]
            array[index] = _padded(stored, own_shape, array.fill_value)
        self._write_state(index, DONE, "")

    def write_failed(self, index: Index, reason: str) -> None:
        """Write that a cell failed, and why."""
        self._write_state(index, FAILED, reason)

    def grow(self, grid: Grid) -> None:
        """Append labels to the axes.

        Args:
            grid: A grid whose axes begin with those of the store.
        """
        for axis in grid.axes:
            labels = self._arrays[axis.name]
            labels.resize((len(axis.labels),))
            labels[:] = _label_array(axis)
        for name, array in self._arrays.items():
            if name not in grid.names and array.metadata.dimension_names[:1] == (
                grid.axes[0].name,
            ):
                own_shape = array.shape[len(grid.axes) :]
                array.resize((*grid.shape, *own_shape))
        self.grid = grid
        self._consolidate()
        self.states = self._arrays["state"][...]

    def add_provenance(self, identity: Identity) -> None:
        """Record the code, versions and device that compute what comes next."""
        records = stored_provenance(self.path)
        record = _provenance()
        before = stored_identity(self.path)
        now = _as_json(identity)
        now["volatile"] = before["volatile"]
        if record in records and now == before:
            return
        if record not in records:
            records.append(record)
        self._group.attrs.update(
            {_ATTRIBUTE: json.dumps(now), "provenance": json.dumps(records)}
        )
        self._consolidate()

    def find_volatile(self, work: Work) -> None:
        """Record what the cells have changed of what `run` refers to."""
        before = stored_identity(self.path)
        now = _described(work)
        changed = [name for name, text in before["run"].items() if now[name] != text]
        volatile = sorted({*before["volatile"], *changed})
        if volatile != before["volatile"]:
            before["volatile"] = volatile
            self._group.attrs[_ATTRIBUTE] = json.dumps(before)
            self._consolidate()

    def _write_state(self, index: Index, state: int, reason: str) -> None:
        """Write the state of a cell, after all that it says something of."""
        # A cell that failed before has a reason, which no longer holds.
        if reason or self.states[index] == FAILED:
            self._arrays["error"][index] = reason
        self._arrays["state"][index] = state
        self.states[index] = state

    def _require_alike(self, name: str, variable: Variable) -> None:
        """Refuse a variable whose kind or dimensions are not those of the store."""
        array = self._arrays.get(name)
        if array is None:
            return
        stored = _stored(variable.array)
        expected = array.metadata.dimension_names
        dims = self._dims(name, variable)
        if dims != expected:
            own = tuple(dim for dim in expected if dim not in self.grid.names)
            raise InputError(
                f"run returned {name!r} with the dimensions {variable.dims}; other "
                f"cells of this store have {own}."
            )
        kind = _numpy_dtype(array)
        if not np.can_cast(stored.dtype, kind, "safe"):
            raise InputError(
                f"run returned {name!r} of dtype {variable.array.dtype}; other cells "
                f"of this store have {kind}."
            )
        if _is_coordinate(name, variable):
            common = min(len(stored), array.shape[0])
            if not np.array_equal(stored[:common], array[:common]):
                raise InputError(
                    f"run returned other labels {name!r} than other cells of this "
                    "store; leave them out."
                )

    def _make_room(self, variables: dict[str, Variable]) -> None:
        """Make the arrays that are missing, and widen those that are too small."""
        sizes: dict[str, int] = {}
        for variable in variables.values():
            for dim, size in zip(variable.dims, variable.array.shape, strict=True):
                sizes[dim] = max(size, sizes.get(dim, 0))
        for array in self._arrays.values():
            names = array.metadata.dimension_names
            for dim, size in zip(names, array.shape, strict=True):
                if dim in sizes:
                    sizes[dim] = max(size, sizes[dim])
        has_changed = False
        for array in self._arrays.values():
            names = array.metadata.dimension_names
            pairs = zip(names, array.shape, strict=True)
            shape = tuple(sizes.get(dim, size) for dim, size in pairs)
            if shape != array.shape:
                array.resize(shape)
                has_changed = True
        for name, variable in variables.items():
            if name not in self._arrays:
                self._make(name, variable, sizes)
                has_changed = True
        if has_changed:
            self._consolidate()

    def _make(self, name: str, variable: Variable, sizes: dict[str, int]) -> None:
        """Make the array of a variable, of a cell a chunk."""
        own_shape = tuple(sizes[dim] for dim in variable.dims)
        stored = _stored(variable.array)
        attributes = dict(variable.attrs)
        if _is_coordinate(name, variable):
            shape, chunks = own_shape, (_LABELS_OF_CHUNK,)
        else:
            shape = (*self.grid.shape, *own_shape)
            own_chunk = tuple(max(1, size) for size in own_shape)
            chunks = (*(1 for _ in self.grid.axes), *own_chunk)
        fill = _fill(stored.dtype)
        if stored.dtype.kind in "iu":
            # xarray then reads NaN where nothing is written.
            attributes[_FILL_ATTRIBUTE] = fill
        self._arrays[name] = _array(
            self._group,
            name,
            shape=shape,
            chunks=chunks,
            dtype=stored.dtype,
            fill_value=fill,
            dims=self._dims(name, variable),
            attributes=attributes,
        )

    def _dims(self, name: str, variable: Variable) -> tuple[str, ...]:
        """Return the dimensions of the array of a variable."""
        if _is_coordinate(name, variable):
            return variable.dims
        return (*self.grid.names, *variable.dims)

    def _write_coordinate(self, name: str, labels: np.ndarray) -> None:
        """Write labels of a dimension, of which the store may hold the beginning."""
        array = self._arrays[name]
        if not np.array_equal(array[: len(labels)], labels):
            array[: len(labels)] = labels

    def _consolidate(self) -> None:
        """Publish the shapes of all arrays, in one file."""
        _consolidate(self.path)

    def _roll_back(self) -> None:
        """Undo what a process that was killed had not yet published."""
        for part in self.path.rglob("*.partial"):
            part.unlink(missing_ok=True)
        zarr = _zarr()
        published = read_only_group(self.path)
        shapes = {name: array.shape for name, array in published.arrays()}
        for folder in self.path.iterdir():
            if not folder.is_dir():
                continue
            if folder.name not in shapes:
                shutil.rmtree(folder)
                continue
            array = zarr.open_array(folder, mode="r+")
            if array.shape != shapes[folder.name]:
                array.resize(shapes[folder.name])


@contextlib.contextmanager
def opened(
    path: files.Path, work: Work, *, resume: bool, accept_code: bool
) -> Iterator[Store]:
    """Open the store of a sweep, or make it, and keep other processes out of it.

    Args:
        path: The folder.
        work: What is to be computed.
        resume: Whether the folder may hold a store.
        accept_code: Whether it may have been computed by other code.

    Yields:
        The store, with all labels of the grid.

    Raises:
        InputError: The folder holds something else, or is in use, or cannot be written
            to.
    """
    folder = pathlib.Path(path)
    identity = Identity.of(work)
    is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if is_new:
        create(folder, work.grid, identity, records=[_provenance()])
    elif not is_store(folder):
        raise InputError(
            f"store={str(folder)!r} holds something else than a sweep; write another "
            "folder."
        )
    elif not resume:
        raise InputError(
            f"store={str(folder)!r} exists, and resume=False; remove it, or write "
            "another folder."
        )
    with _locked(folder):
        files.prepare(folder)
        if not is_new:
            require_same(folder, identity, accept_code)
        grid = _united(folder, work.grid)
        store = Store(folder, stored_grid(folder))
        if grid.shape != store.grid.shape:
            store.grow(grid)
        store.grid = grid
        store.add_provenance(identity)
        yield store


def is_store(path: pathlib.Path) -> bool:
    """Tell whether a folder holds a sweep."""
    try:
        group = json.loads((path / "zarr.json").read_text())
    except (OSError, ValueError):
        return False
    return _ATTRIBUTE in group.get("attributes", {})


def stored_grid(path: pathlib.Path) -> Grid:
    """Return the grid of a store. The values of its axes are the labels."""
    group = read_only_group(path)
    names = json.loads(group.attrs[_ATTRIBUTE])["axes"]
    axes = []
    for name in names:
        labels = tuple(group[name][...].tolist())
        axes.append(Axis(name, labels, labels))
    return Grid(tuple(axes))


def stored_identity(path: pathlib.Path) -> dict[str, Any]:
    """Return what a store belongs to, with the fields of `Identity`."""
    return json.loads(read_only_group(path).attrs[_ATTRIBUTE])


def stored_provenance(path: pathlib.Path) -> list[object]:
    """Return a record for each set of versions and devices that computed cells."""
    return json.loads(read_only_group(path).attrs["provenance"])


def read_only_group(path: pathlib.Path) -> Any:
    """Return the group of a store, to read from."""
    return _zarr().open_group(path, mode="r", use_consolidated=True)


def read_cell(arrays: dict[str, Any], grid: Grid, index: Index) -> Done:
    """Return what the arrays of a store hold of a cell."""
    num_axes = len(grid.axes)
    variables = {}
    for name, array in arrays.items():
        if name in (*grid.names, *RESERVED):
            continue
        dims = tuple(array.metadata.dimension_names)
        attributes = dict(array.attrs)
        attributes.pop(_FILL_ATTRIBUTE, None)
        if dims == (name,):
            # Labels of a dimension, which cells share.
            values = array[...]
        else:
            dims = dims[num_axes:]
            values = array[index]
        variables[name] = Variable(dims, np.asarray(values), attributes)
    return Done(variables)


def create(
    path: pathlib.Path, grid: Grid, identity: Identity, *, records: Sequence[object]
) -> None:
    """Make a store in which all cells are absent; none is there if this fails.

    Args:
        path: The folder, which may be there if it is empty.
        grid: The grid.
        identity: What the cells have in common.
        records: What is known of the processes that computed cells.

    Raises:
        InputError: The disk refuses.
    """
    checks.extra("xarray", "store")
    parent = files.prepare(path.absolute().parent)
    # One that was left by a process that was killed goes.
    part = parent / f".{path.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        group = _zarr().create_group(part, zarr_format=3)
        group.attrs.update(
            {
                _ATTRIBUTE: json.dumps(_as_json(identity)),
                "provenance": json.dumps(records),
            }
        )
        for axis in grid.axes:
            labels = _label_array(axis)
            array = _array(
                group,
                axis.name,
                shape=labels.shape,
                chunks=(_LABELS_OF_CHUNK,),
                dtype=labels.dtype,
                fill_value=_fill(labels.dtype),
                dims=(axis.name,),
                attributes=_axis_attributes(axis),
            )
            array[:] = labels
        cell = tuple(1 for _ in grid.axes)
        _array(
            group,
            "state",
            shape=grid.shape,
            chunks=cell,
            dtype=np.dtype(np.uint8),
            fill_value=ABSENT,
            dims=grid.names,
            attributes={
                "long_name": "state of the cell",
                "flag_values": [ABSENT, DONE, FAILED],
                "flag_meanings": "absent done failed",
            },
        )
        _array(
            group,
            "error",
            shape=grid.shape,
            chunks=cell,
            dtype=np.dtypes.StringDType(),
            fill_value="",
            dims=grid.names,
            attributes={"long_name": "why the cell failed"},
        )
        _consolidate(part)
        # An empty folder may be there.
        part.replace(path)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        message = f"store={str(path)!r} cannot be written: {error.strerror}."
        raise InputError(message) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _array(
    group: "zarr.Group",
    name: str,
    *,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: np.dtype,
    fill_value: object,
    dims: tuple[str, ...],
    attributes: dict[str, Any],
) -> Any:
    """Make an array of a group. Chunks are too small to gain by compression."""
    if dtype.kind == "T":
        kind: Any = str
    else:
        kind = dtype
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=kind,
        fill_value=fill_value,
        dimension_names=dims,
        attributes=attributes,
        compressors=None,
    )


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Keep other sweeps out of a store, until this process ends in whatever way.

    Raises:
        InputError: Another process writes to the store.
    """
    try:
        import fcntl
    except ImportError:
        # Windows. Two sweeps of one store would do cells twice, with equal results.
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            f"store={str(path)!r} is being written to by another sweep; wait for it, "
            "or write to another folder and merge the two."
        ) from None
    except OSError:
        # Some network disks know no locks.
        pass
    try:
        yield
    finally:
        os.close(handle)


def require_same(path: pathlib.Path, identity: Identity, accept_code: bool) -> None:
    """Refuse a store whose cells were computed otherwise, and say how."""
    before = stored_identity(path)
    now = _as_json(identity)
    where = f"store={str(path)!r}"
    if set(before["axes"]) != set(now["axes"]):
        raise InputError(
            f"{where} is of another grid: its axes are {before['axes']}, and those of "
            f"grid are {now['axes']}; write another folder."
        )
    for name in ("key", "settings"):
        if before[name] != now[name]:
            raise InputError(
                f"{where} was computed with another {name}: {before[name]}, and this "
                f"is {now[name]}; pass the {name} of the store, or write another "
                "folder."
            )
    if accept_code:
        return
    advice = "write another folder, or go on with accept_code=True"
    if before["version"] != now["version"]:
        raise InputError(
            f"{where} was computed by version {before['version']} of isometry, and "
            f"this is {now['version']}; {advice}."
        )
    # What the cells change themselves tells nothing.
    ignored = set(before["volatile"])
    # Texts "axis=label" of labels that the grid adds are no difference.
    new = {name for name in now["run"] if name not in before["run"] and "=" in name}
    run_before = _without(before["run"], ignored)
    run_now = _without(now["run"], ignored | new)
    if run_before != run_now:
        changed = _source.difference(run_before, run_now)
        raise InputError(f"{where} was computed by another run; {advice}:\n{changed}")


def _without(texts: dict[str, str], names: set[str]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if name not in names}


def _united(path: pathlib.Path, grid: Grid) -> Grid:
    """Return the grid with the labels in the order of the store, new ones at the end.

    Raises:
        InputError: The grid lacks labels of the store.
    """
    stored = stored_grid(path)
    by_name = {axis.name: axis for axis in grid.axes}
    axes = []
    for before in stored.axes:
        axis = by_name[before.name]
        missing = [label for label in before.labels if label not in axis.labels]
        if missing:
            raise InputError(
                f"store={str(path)!r} is of another grid: its axis {axis.name!r} holds "
                f"{_listed(missing)}, which grid lacks; pass all labels, old and new, "
                "or write another folder."
            )
        new = [label for label in axis.labels if label not in before.labels]
        # The type of the labels is that of the first sweep.
        is_same_kind = isinstance(new[0], type(before.labels[0])) if new else True
        if not is_same_kind and not isinstance(before.labels[0], float):
            kind = type(before.labels[0]).__name__
            raise InputError(
                f"store={str(path)!r}: its axis {axis.name!r} holds values of type "
                f"{kind}, and grid adds {new[0]!r}; write another folder."
            )
        axes.append(axis.arranged([*before.labels, *new]))
    return Grid(tuple(axes))


def _listed(labels: list[Label]) -> str:
    """Return the first labels as they stand in a message."""
    text = ", ".join(map(repr, labels[:3]))
    if len(labels) > 3:
        return f"{text} and {len(labels) - 3} more"
    return text


def _as_json(identity: Identity) -> dict[str, Any]:
    """Return an identity as it reads back from JSON, with lists for tuples."""
    return json.loads(json.dumps(asdict(identity)))


def _provenance() -> dict[str, object]:
    """Return the record of this process, without what differs at each call."""
    record = provenance.provenance()
    return {name: record[name] for name in ("versions", "device", "git_commit")}


def _axis_attributes(axis: Axis) -> dict[str, object]:
    """Return what the store says of an axis."""
    attributes: dict[str, object] = {"long_name": _MEANINGS.get(axis.name, axis.name)}
    if not isinstance(axis.labels[0], str):
        attributes["units"] = "1"
    return attributes


def _label_array(axis: Axis) -> np.ndarray:
    """Return the labels of an axis as an array."""
    if isinstance(axis.labels[0], str):
        return np.array(axis.labels, np.dtypes.StringDType())
    return np.array(axis.labels)


def _is_coordinate(name: str, variable: Variable) -> bool:
    """Tell whether a variable holds the labels of its own dimension."""
    return variable.dims == (name,)


def _stored(array: np.ndarray) -> np.ndarray:
    """Return an array as it is stored."""
    if array.dtype == bool:
        return array.astype(_BOOLEAN)
    return array


def _fill(dtype: np.dtype) -> Any:
    """Return what stands for cells that are absent, and behind shorter arrays."""
    if dtype.kind == "T":
        return ""
    if dtype.kind == "b":
        return False
    if dtype.kind == "i":
        return int(np.iinfo(dtype).min)
    if dtype.kind == "u":
        return int(np.iinfo(dtype).max)
    return dtype.type(np.nan)


def _padded(array: np.ndarray, shape: tuple[int, ...], fill: object) -> np.ndarray:
    """Return an array at the beginning of a larger one."""
    if array.shape == shape:
        return array
    padded = np.full(shape, fill, array.dtype)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded


def _numpy_dtype(array: Any) -> np.dtype:
    """Return the dtype of an array of zarr."""
    return np.dtype(array.dtype)


def _consolidate(path: pathlib.Path) -> None:
    """Write the metadata of all arrays into that of the group."""
    zarr = _zarr()
    with warnings.catch_warnings():
        # It is no part of zarr's specification yet; xarray reads and writes it.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently")
        zarr.consolidate_metadata(path)


def _zarr() -> Any:
    """Return zarr, or say which extra has it."""
    return checks.extra("zarr", "store")
