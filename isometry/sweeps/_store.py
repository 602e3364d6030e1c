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
import errno
import json
import os
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
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

# The suffix of a store that is being made.
_PART = ".isometry-part"

# Labels of an axis lie in one chunk, so that they are written at once, also when the
# axis grows. A longer axis takes more chunks.
_LABELS_OF_CHUNK = 2**10

# Numbers that fit into a block of a disk.
_NUMBERS_OF_BLOCK = 512

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
        run: What the run consists of: see `_source`.
        objects: The same of the objects on axes, by "axis=label".
        volatile: Names of texts of `run` that the cells have changed themselves, such
            as a list of calls. They tell nothing.
    """

    axes: tuple[str, ...]
    key: str
    settings: dict[str, object]
    version: str
    run: dict[str, str]
    objects: dict[str, dict[str, str]]
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
            run=_source.describe(work.run).texts,
            objects=_described_objects(work.grid),
        )


def _described_objects(grid: Grid) -> dict[str, dict[str, str]]:
    """Describe the objects on axes. Numbers and names say what they are."""
    described = {}
    for axis in grid.axes:
        if axis.objects is None:
            continue
        for label, value in zip(axis.labels, axis.objects, strict=True):
            described[f"{axis.name}={label}"] = _source.describe(value).texts
    return described


class Gone(InputError):
    """The store is no longer where it was."""


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
        # A folder that is put in the place of this one is another one.
        self._inode = path.stat().st_ino
        # Whether arrays have shapes that readers do not see yet.
        self._is_unpublished = False
        zarr = _zarr()
        with reading(path):
            self._group = zarr.open_group(path, mode="r+", use_consolidated=True)
            self._arrays: dict[str, Any] = dict(self._group.arrays())
            self.states: np.ndarray = self._arrays["state"][...]
            for name, array in self._arrays.items():
                if not array.metadata.dimension_names:
                    raise ValueError(f"{name} lacks dimension_names")
        self._remove_remains()

    def read(self, index: Index) -> Done:
        """Return what the store holds of a cell."""
        return read_cell(self._arrays, self.grid, index)

    def write_done(self, index: Index, done: Done) -> None:
        """Write what a cell returned, and then that it is done.

        Raises:
            InputError: The store holds another kind of array of that name.
            Gone: The store was moved or removed.
            OSError: The disk refuses.
        """
        self._require_there()
        for name, variable in done.variables.items():
            self._require_alike(name, variable)
        self._make_room(done.variables)
        for name, variable in done.variables.items():
            if _is_coordinate(name, variable):
                continue
            array = self._arrays[name]
            stored = variable.array.astype(_numpy_dtype(array))
            own_shape = array.shape[len(self.grid.axes) :]
            array[index] = _padded(stored, own_shape, array.fill_value)
        self._write_state(index, DONE, "")

    def write_failed(self, index: Index, reason: str) -> None:
        """Write that a cell failed, and why.

        Raises:
            Gone: The store was moved or removed.
            OSError: The disk refuses.
        """
        self._require_there()
        self._remove_data(index)
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
            # Labels of own dimensions do not grow with the grid.
            is_of_cells = array.metadata.dimension_names[0] == grid.axes[0].name
            if is_of_cells and name not in grid.names:
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
        now["axes"] = before["axes"]
        now["volatile"] = before["volatile"]
        now["objects"] = {**before["objects"], **now["objects"]}
        now["earlier"] = before["earlier"]
        # Cells that are done were computed by the code before this one.
        if _code(before) != _code(now) and _code(before) not in now["earlier"]:
            now["earlier"].append(_code(before))
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
        self._require_there()
        before = stored_identity(self.path)
        now = _source.describe(work.run)
        # Only values change while a run runs. Its source may be another file by now.
        changed = [
            name
            for name in {*before["run"], *now.texts}
            if now.texts.get(name) != before["run"].get(name)
            and (name in now.values or name not in now.texts)
        ]
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
        stored = variable.array
        expected = array.metadata.dimension_names
        dims = self._dims(name, variable)
        if dims != expected:
            own = tuple(dim for dim in expected if dim not in self.grid.names)
            raise InputError(
                f"run returned {name!r} with the dimensions {variable.dims}; other "
                f"cells of this store have {own}."
            )
        kind = _numpy_dtype(array)
        # Real numbers may stand among complex ones.
        is_real_among_complex = stored.dtype.kind == "f" and kind.kind == "c"
        if stored.dtype.kind != kind.kind and not is_real_among_complex:
            raise InputError(
                f"run returned {name!r} of dtype {stored.dtype}; other cells of this "
                f"store have {kind}."
            )
        if _is_coordinate(name, variable):
            common = min(len(stored), array.shape[0])
            before = array[:common]
            is_unset = _equal_elements(before, np.full(common, array.fill_value))
            is_equal = _equal_elements(before, stored[:common].astype(kind))
            if not np.all(is_unset | is_equal):
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
        for array in self._arrays.values():
            names = array.metadata.dimension_names
            pairs = zip(names, array.shape, strict=True)
            shape = tuple(sizes.get(dim, size) for dim, size in pairs)
            if shape != array.shape:
                # Before it happens: what is changed in memory alone must be published
                # by the next cell, if the disk refuses this one.
                self._is_unpublished = True
                array.resize(shape)
        for name, variable in variables.items():
            if name not in self._arrays:
                self._is_unpublished = True
                self._make(name, variable, sizes)
        # Labels before the shapes are published, so that none is seen unset.
        for name, variable in variables.items():
            if _is_coordinate(name, variable):
                self._write_coordinate(name, variable.array)
        if self._is_unpublished:
            self._consolidate()
            self._is_unpublished = False

    def _make(self, name: str, variable: Variable, sizes: dict[str, int]) -> None:
        """Make the array of a variable, of a cell a chunk."""
        own_shape = tuple(sizes[dim] for dim in variable.dims)
        dtype = variable.array.dtype
        if _is_coordinate(name, variable):
            shape, chunks = own_shape, (_LABELS_OF_CHUNK,)
        else:
            shape = (*self.grid.shape, *own_shape)
            own_chunk = tuple(max(1, size) for size in own_shape)
            if len(own_chunk) == 1:
                # Room for longer arrays, as far as it takes no more of a disk.
                own_chunk = (max(own_chunk[0], _NUMBERS_OF_BLOCK),)
            chunks = (*(1 for _ in self.grid.axes), *own_chunk)
        self._arrays[name] = _array(
            self._group,
            name,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            fill_value=_fill(dtype),
            dims=self._dims(name, variable),
            attributes=variable.attrs,
        )

    def _dims(self, name: str, variable: Variable) -> tuple[str, ...]:
        """Return the dimensions of the array of a variable."""
        if _is_coordinate(name, variable):
            return variable.dims
        return (*self.grid.names, *variable.dims)

    def _write_coordinate(self, name: str, labels: np.ndarray) -> None:
        """Write labels of a dimension, of which the store may hold the beginning."""
        array = self._arrays[name]
        labels = labels.astype(_numpy_dtype(array))
        if not np.all(_equal_elements(array[: len(labels)], labels)):
            array[: len(labels)] = labels

    def _consolidate(self) -> None:
        """Publish the shapes of all arrays, in one file."""
        _consolidate(self.path)

    def _require_there(self) -> None:
        """Refuse to write where the store is no longer.

        Raises:
            Gone: It was moved or removed, or another folder is in its place.
        """
        try:
            is_there = self.path.stat().st_ino == self._inode
        except OSError:
            is_there = False
        if not is_there:
            raise Gone(
                f"store={str(self.path)!r} was moved or removed while the sweep ran; "
                "call it again with the folder where the store is now."
            )

    def _roll_back(self) -> None:
        """Undo what a process that was killed had not yet published."""
        published = read_only_group(self.path)
        shapes = {name: array.shape for name, array in published.arrays()}
        for folder in self.path.iterdir():
            # What the user has put beside the arrays stays.
            if not _is_array(folder):
                continue
            is_published = folder.name in shapes
            # An array of ours may lie on another disk, but no unfinished one does.
            if folder.is_symlink() and not is_published:
                raise InputError(
                    f"store={str(self.path)!r} holds a link {folder.name!r} to another "
                    "array; move it out of the store."
                )
            for part in folder.rglob("*.partial"):
                part.unlink(missing_ok=True)
            if not is_published:
                shutil.rmtree(folder)
                continue
            array = _zarr().open_array(folder, mode="r+")
            if array.shape != shapes[folder.name]:
                array.resize(shapes[folder.name])

    def _remove_remains(self) -> None:
        """Remove what a process that was killed has left of cells that are not done."""
        for cell in np.argwhere(self.states != DONE):
            self._remove_data(tuple(int(position) for position in cell))

    def _remove_data(self, index: Index) -> None:
        """Remove the numbers of a cell, so that they are read as NaN."""
        chunk = "/".join(map(str, index))
        for name, array in self._arrays.items():
            is_of_cells = array.metadata.dimension_names[0] == self.grid.axes[0].name
            if name in (*self.grid.names, *RESERVED) or not is_of_cells:
                continue
            # Where zarr keeps a chunk: a file, in a folder if it has dimensions more.
            path = self.path / name / "c" / chunk
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


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
    # A run may change the working directory.
    folder = checks.path("store", path).absolute()
    identity = Identity.of(work)
    is_new = False
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        is_new = create(folder, work.grid, identity, records=[_provenance()])
    if not is_new and not is_store(folder):
        raise InputError(
            f"store={str(folder)!r} holds something else than a sweep; write another "
            "folder."
        )
    if not is_new and not resume:
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
    attributes = _metadata(path).get("attributes")
    return isinstance(attributes, dict) and _ATTRIBUTE in attributes


def stored_grid(path: pathlib.Path) -> Grid:
    """Return the grid of a store. The values of its axes are the labels."""
    group = read_only_group(path)
    with reading(path):
        names = group["state"].metadata.dimension_names
        labels = {name: tuple(group[name][...].tolist()) for name in names}
    return Grid(tuple(Axis(name, labels[name]) for name in names))


def stored_identity(path: pathlib.Path) -> dict[str, Any]:
    """Return what a store belongs to, with the fields of `Identity`."""
    group = read_only_group(path)
    with reading(path):
        identity = json.loads(group.attrs[_ATTRIBUTE])
        missing = [f.name for f in fields(Identity) if f.name not in identity]
        if missing or not isinstance(identity["axes"], list):
            raise ValueError(f"{_ATTRIBUTE} lacks {missing or 'axes'}")
        return identity


def stored_provenance(path: pathlib.Path) -> list[object]:
    """Return a record for each set of versions and devices that computed cells."""
    group = read_only_group(path)
    with reading(path):
        return json.loads(group.attrs["provenance"])


def read_only_group(path: pathlib.Path) -> Any:
    """Return the group of a store, to read from."""
    zarr = _zarr()
    with reading(path):
        return zarr.open_group(path, mode="r", use_consolidated=True)


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
    """Turn whatever a store makes zarr raise into a refusal.

    Somebody else may have written the store, or a disk have damaged it.

    Raises:
        InputError: The block raised something.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"store={str(path)!r} cannot be read, {type(error).__name__}: {reason}. It "
            "may be damaged, or made by something else."
        ) from error


def read_cell(arrays: dict[str, Any], grid: Grid, index: Index) -> Done:
    """Return what the arrays of a store hold of a cell."""
    num_axes = len(grid.axes)
    variables = {}
    for name, array in arrays.items():
        if name in (*grid.names, *RESERVED):
            continue
        dims = tuple(array.metadata.dimension_names)
        attributes = dict(array.attrs)
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
) -> bool:
    """Make a store in which all cells are absent; none is there if this fails.

    Args:
        path: The folder, which may be there if it is empty.
        grid: The grid.
        identity: What the cells have in common.
        records: What is known of the processes that computed cells.

    Returns:
        Whether the store was made; False if another process has made one meanwhile.

    Raises:
        InputError: The disk refuses.
    """
    checks.extra("xarray", "store")
    parent = files.prepare(path.absolute().parent)
    prefix = f".{path.name}."
    _remove_parts(parent, prefix)
    part = pathlib.Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=_PART))
    handle = _lock(part)
    try:
        group = _zarr().create_group(part, zarr_format=3)
        group.attrs.update(
            {
                _ATTRIBUTE: json.dumps(_as_json(identity)),
                "provenance": json.dumps(records),
            }
        )
        _write_labels(group, grid)
        _write_absent_cells(group, grid)
        _consolidate(part)
        # mkdtemp lets nobody else read; a store is as readable as any other folder.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o777 & ~umask)
        # An empty folder may be there, or by now the store of another process.
        part.replace(path)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        message = f"store={str(path)!r} cannot be written: {error.strerror}."
        raise InputError(message) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        _unlock(handle)
    return True


def _write_labels(group: "zarr.Group", grid: Grid) -> None:
    """Write an array for each axis of a grid: its labels."""
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


def _write_absent_cells(group: "zarr.Group", grid: Grid) -> None:
    """Write the arrays that say of each cell whether it is done or why it failed."""
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


def _remove_parts(parent: pathlib.Path, prefix: str) -> None:
    """Remove stores that processes which were killed have not finished to make."""
    for folder in parent.iterdir():
        if not folder.name.startswith(prefix) or folder.suffix != _PART:
            continue
        # One that is locked is being made.
        with contextlib.suppress(OSError):
            handle = _lock(folder)
            shutil.rmtree(folder, ignore_errors=True)
            _unlock(handle)


def _is_array(folder: pathlib.Path) -> bool:
    """Tell whether a folder is an array of zarr."""
    return _metadata(folder).get("node_type") == "array"


def _metadata(folder: pathlib.Path) -> dict[str, Any]:
    """Return what zarr has written of a folder; nothing where it is none of zarr's."""
    try:
        metadata = json.loads((folder / "zarr.json").read_text())
    # Nested a thousand times, a text that somebody else has written.
    except (OSError, ValueError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


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
    kind: Any = dtype
    # zarr has a name of its own for texts of any length.
    if dtype.kind == "T":
        kind = str
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
        handle = _lock(path)
    except BlockingIOError:
        raise InputError(
            f"store={str(path)!r} is being written to by another sweep; wait for it, "
            "or write to another folder and merge the two."
        ) from None
    try:
        yield
    finally:
        _unlock(handle)


def _lock(folder: pathlib.Path) -> int | None:
    """Lock a folder until this process ends, in whatever way, or unlocks it.

    Returns:
        What unlocks it, or None where there are no locks: on Windows, where two sweeps
        of one store would do cells twice, with equal results.

    Raises:
        BlockingIOError: Another process, or another call, has locked it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        # Some network disks know no locks.
        pass
    return handle


def _unlock(handle: int | None) -> None:
    """Unlock what `_lock` has locked."""
    if handle is not None:
        os.close(handle)


def require_same(path: pathlib.Path, identity: Identity, accept_code: bool) -> None:
    """Refuse a store whose cells were computed otherwise, and say how."""
    before = stored_identity(path)
    now = _as_json(identity)
    where = f"store={str(path)!r}"
    if set(before["axes"]) != set(now["axes"]):
        raise InputError(
            f"{where} has the axes {before['axes']}, and not {now['axes']}; sweeps of "
            "one store have the same axes."
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
    advice = (
        "write another folder, or accept_code=True, which keeps the cells that are "
        "done and runs the others with this code"
    )
    if before["version"] != now["version"]:
        raise InputError(
            f"{where} was computed by version {before['version']} of isometry, and "
            f"this is {now['version']}; {advice}."
        )
    # What the cells change themselves tells nothing.
    ignored = {*before["volatile"], *now["volatile"]}
    run_before = _without(before["run"], ignored)
    run_now = _without(now["run"], ignored)
    if run_before != run_now:
        changed = _source.difference(run_before, run_now)
        raise InputError(f"{where} was computed by another run; {advice}:\n{changed}")
    # A label that one of the two lacks is no difference.
    for label in before["objects"].keys() & now["objects"].keys():
        object_before, object_now = before["objects"][label], now["objects"][label]
        if object_before != object_now:
            changed = _source.difference(object_before, object_now)
            raise InputError(
                f"{where} was computed with another object at {label}; {advice}:\n"
                f"{changed}"
            )


def _without(texts: dict[str, str], names: set[str]) -> dict[str, str]:
    """Leave out texts of some names, and of what was found inside of those."""

    def is_inside(name: str) -> bool:
        return any(name == outer or name.startswith(f"{outer}.") for outer in names)

    return {name: text for name, text in texts.items() if not is_inside(name)}


def _code(identity: dict[str, Any]) -> dict[str, Any]:
    """Return what of an identity says by which code cells were computed."""
    return {name: identity[name] for name in ("version", "run")}


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
        # The type of the labels is that of the first sweep; 1 and 1.0 are one label.
        if before.kind is float and axis.kind is int:
            new = [float(label) for label in new]
        elif before.kind is not axis.kind and (new or bool in (before.kind, axis.kind)):
            raise InputError(
                f"store={str(path)!r}: its axis {axis.name!r} holds values of type "
                f"{before.kind.__name__}, and grid has {(new or axis.labels)[0]!r}; "
                "write another folder."
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
    return json.loads(json.dumps({**asdict(identity), "earlier": []}))


def _provenance() -> dict[str, object]:
    """Return the record of this process, without what differs at each call."""
    record = provenance.provenance()
    return {
        "versions": record["versions"],
        "device": record["device"],
        # The commit of this package's checkout, and not of the user's.
        "isometry_commit": record["git_commit"],
    }


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


def _fill(dtype: np.dtype) -> Any:
    """Return what stands for cells that are absent, and behind shorter arrays."""
    if dtype.kind == "T":
        return ""
    if dtype.kind in "fc":
        return dtype.type(np.nan)
    # Labels of an axis, all of which are always written.
    return dtype.type(0)


def _equal_elements(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tell of each element whether it is equal in both, NaN being equal to NaN."""
    if one.dtype.kind in "fc":
        return (one == other) | (np.isnan(one) & np.isnan(other))
    return np.array([a == b for a, b in zip(one.tolist(), other.tolist(), strict=True)])


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
        # A folder that the user has put there.
        warnings.filterwarnings("ignore", message="Object at .* is not recognized")
        zarr.consolidate_metadata(path)


def _zarr() -> Any:
    """Return zarr, or say which extra has it."""
    return checks.extra("zarr", "store")
