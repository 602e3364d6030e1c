"""`sweeps.merge`: the cells of several stores in one."""

import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isometry import store as files
from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.sweeps._cells import Done
from isometry.sweeps._grid import Axis, Grid, Index
from isometry.sweeps._open import open as open_store
from isometry.sweeps._store import (
    DONE,
    FAILED,
    Identity,
    Store,
    create,
    is_store,
    read_cell,
    read_only_group,
    reading,
    require_same,
    stored_grid,
    stored_identity,
    stored_provenance,
)

if TYPE_CHECKING:
    import xarray


@public("sweeps.merge")
def merge(
    stores: Sequence[files.Path],
    store: files.Path,
    *,
    accept_code: bool = False,
) -> "xarray.Dataset":
    """Put the cells of several sweeps into one new store.

    Each of the sweeps has the same axes and key, and has run some of the values: on two
    machines, say. Since the key of a cell depends on its values alone, each cell is the
    one that a single sweep over all values would have written.

    Args:
        stores: The folders of the sweeps.
        store: The new folder.
        accept_code: Whether the sweeps may be of different source, or versions of this
            package.

    Returns:
        The dataset of `sweeps.open`. Cells that no sweep has run are absent.

    Raises:
        InputError: A folder holds no sweep; they differ in axes, key or code; a cell
            that two of them have run has different results; or the new folder exists,
            or cannot be written to.

    Note:
        A cell takes about 1 ms for each of its variables.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> def run(point, key):
        ...     return {"square": point["x"] ** 2}
        >>> for name, values in {"a": [1.0, 2.0], "b": [3.0]}.items():
        ...     with ThreadPoolExecutor(1) as executor:
        ...         _ = isometry.sweep(
        ...             run,
        ...             {"x": values},
        ...             f"{name}.zarr",
        ...             key=jax.random.key(0),
        ...             executor=executor,
        ...         )
        >>> sweeps.merge(["a.zarr", "b.zarr"], "all.zarr")["square"].values
        array([1., 4., 9.])
    """
    checks.extra("zarr", "store")
    if isinstance(stores, str | pathlib.Path) or not stores:
        raise InputError(
            f"stores={checks.show(stores)} is no list of folders; write "
            '["first.zarr", "second.zarr"].'
        )
    sources = [checks.path("stores", source) for source in stores]
    for source in sources:
        if not is_store(source):
            raise InputError(f"stores: {str(source)!r} holds no sweep.")
    target = checks.path("store", store)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"store={str(target)!r} exists; write a new folder.")
    identity = _identity(stored_identity(sources[0]))
    for source in sources[1:]:
        require_same(source, identity, accept_code)
        other = _identity(stored_identity(source))
        # Of an axis of objects each may hold others.
        identity = dataclasses.replace(
            identity,
            objects={**other.objects, **identity.objects},
            volatile=tuple(sorted({*identity.volatile, *other.volatile})),
        )
    grid = _union([stored_grid(source) for source in sources])
    records: list[object] = []
    for source in sources:
        for record in stored_provenance(source):
            if record not in records:
                records.append(record)
    parent = files.prepare(target.absolute().parent)
    # Beside its place, so that nothing half-merged is left behind.
    folder = tempfile.mkdtemp(dir=parent, prefix=f".{target.name}.")
    part = pathlib.Path(folder, target.name)
    try:
        create(part, grid, identity, records=records)
        merged = Store(part, grid)
        for source in sources:
            _copy(source, merged)
        part.replace(target)
    except OSError as error:
        message = f"store={str(target)!r} cannot be written: {error.strerror}."
        raise InputError(message) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return open_store(target)


def _identity(fields: dict[str, Any]) -> Identity:
    """Return an identity from what the store says of it."""
    names = [field.name for field in dataclasses.fields(Identity)]
    known = {name: fields[name] for name in names}
    known["axes"] = tuple(known["axes"])
    known["volatile"] = tuple(known["volatile"])
    return Identity(**known)


def _union(grids: Sequence[Grid]) -> Grid:
    """Return the grid of all labels; numbers are sorted, names as they come."""
    axes = []
    for axis in grids[0].axes:
        labels: dict[Any, None] = {}
        kinds = set()
        for grid in grids:
            by_name = {other.name: other for other in grid.axes}
            labels.update(dict.fromkeys(by_name[axis.name].labels))
            kinds.add(by_name[axis.name].kind)
        # Integers of one store beside floats of another become floats.
        if len(kinds - {int, float}) + bool(kinds & {int, float}) > 1:
            names = sorted(kind.__name__ for kind in kinds)
            raise InputError(
                f"stores: the axis {axis.name!r} has labels of several kinds ({names})."
            )
        ordered = list(labels)
        if kinds <= {int, float}:
            ordered = np.sort(np.array(ordered)).tolist()
        axes.append(Axis(axis.name, tuple(ordered)))
    return Grid(tuple(axes))


def _copy(source: pathlib.Path, target: Store) -> None:
    """Write the done and the failed cells of a store into another.

    Raises:
        InputError: A cell is done in both, with different values.
    """
    group = read_only_group(source)
    grid = stored_grid(source)
    with reading(source):
        arrays: dict[str, Any] = dict(group.arrays())
        states = arrays["state"][...]
    for cell in np.argwhere(states == DONE):
        index = tuple(int(position) for position in cell)
        with reading(source):
            done = read_cell(arrays, grid, index)
        position = _position(grid, index, target.grid)
        if target.states[position] == DONE:
            _require_equal(target, position, done)
        else:
            target.write_done(position, done)
    for cell in np.argwhere(states == FAILED):
        index = tuple(int(position) for position in cell)
        position = _position(grid, index, target.grid)
        if target.states[position] != DONE:
            target.write_failed(position, str(arrays["error"][index]))


def _position(grid: Grid, index: Index, target: Grid) -> Index:
    """Return where a cell of one grid is in another."""
    labels = grid.labels(index)
    return tuple(axis.labels.index(labels[axis.name]) for axis in target.axes)


def _require_equal(target: Store, position: Index, done: Done) -> None:
    """Refuse a cell that has other values in the target."""
    before = target.read(position)
    for name, variable in done.variables.items():
        known = before.variables.get(name)
        is_float = variable.array.dtype.kind in "fc"
        if known is None or not _equal(known.array, variable.array, is_float):
            raise InputError(
                f"stores: {name!r} at {target.grid.show(position)} has other values in "
                "another store."
            )


def _equal(one: np.ndarray, other: np.ndarray, is_float: bool) -> bool:
    """Tell whether two arrays are equal, NaN being equal to NaN.

    One may be longer, because another cell of its store is. The rest of it is padding.
    """
    shapes = zip(one.shape, other.shape, strict=True)
    common = tuple(slice(min(pair)) for pair in shapes)
    if not np.array_equal(one[common], other[common], equal_nan=is_float):
        return False
    return all(_is_padding_beyond(array, common) for array in (one, other))


def _is_padding_beyond(array: np.ndarray, common: tuple[slice, ...]) -> bool:
    """Tell whether an array holds nothing but padding outside of a part."""
    if array.dtype.kind in "fc":
        is_value = ~np.isnan(array)
    else:
        is_value = array != ""
    return np.count_nonzero(is_value) == np.count_nonzero(is_value[common])
