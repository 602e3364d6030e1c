"""Keep the data of figures on disk, and know which code made them."""

import hashlib
import inspect
import pathlib
import shutil
import tempfile
import types

import numpy as np
import xarray

import isometry
from isometry import InputError, store
from isometry.data import Data

# What the figures compute with, besides the library.
SHARED = ("_draws.py", "_ensembles.py", "_pairing.py", "_times.py", "_zero.py")


def takes_data(module: types.ModuleType) -> bool:
    """Return whether a figure can be made of a data set of the user's."""
    return "data" in inspect.signature(module.compute).parameters


def require_takes_data(module: types.ModuleType) -> None:
    """Refuse a data set for a figure that takes none.

    Raises:
        InputError: The figure takes no data set.
    """
    if not takes_data(module):
        name = module.__name__.rpartition(".")[2]
        raise InputError(f"paper_figs: {name} takes no data set; leave --data out.")


def fingerprint(module: types.ModuleType, preset: str, data: Data | None) -> str:
    """Return a hash of all that the numbers of a figure depend on.

    Args:
        module: The figure. The hash covers its code, the code that it shares with other
            figures, and the library's.
        preset: The name of its preset.
        data: A data set of the user's, or None.

    Raises:
        InputError: `data` is given, and the figure takes none.
    """
    if data is not None:
        require_takes_data(module)
    here = pathlib.Path(__file__).parent
    library = pathlib.Path(isometry.__file__).parent
    files = [here / name for name in SHARED]
    files.extend(library.rglob("*.py"))
    parts = [source(module).encode(), preset.encode()]
    parts.extend(path.read_bytes() for path in sorted(files))
    arrays = [array for array in data or () if array is not None]
    parts.extend(np.asarray(array).tobytes() for array in arrays)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def source(module: types.ModuleType) -> str:
    """Return the code of a figure."""
    return inspect.getsource(module)


def path_of(out: pathlib.Path, name: str) -> pathlib.Path:
    """Return the file that holds the data of a figure."""
    return out / f"{name}.zarr.zip"


def cached(out: pathlib.Path, name: str, *, mark: str | None) -> xarray.Dataset | None:
    """Return the data of a figure that a folder holds.

    Args:
        out: The folder.
        name: The name of the figure.
        mark: The fingerprint that the data must have. None takes any.

    Returns:
        The data, or None if there are none with this fingerprint.
    """
    path = path_of(out, name)
    if not path.exists():
        return None
    data = read(path)
    if mark is None or data.attrs.get("fingerprint") == mark:
        return data
    return None


def read(path: pathlib.Path) -> xarray.Dataset:
    """Read a dataset from a zipped zarr into memory."""
    from zarr.storage import ZipStore

    with ZipStore(path, mode="r") as files:
        return xarray.open_zarr(files, consolidated=False).load()


def write(path: pathlib.Path, data: xarray.Dataset) -> None:
    """Write a dataset as a zipped zarr, whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        unzipped = pathlib.Path(folder) / "data"
        # Version 3 of the format has no settled way to store strings.
        data.to_zarr(unzipped, consolidated=False, zarr_format=2)
        archive = shutil.make_archive(str(unzipped), "zip", unzipped)
        with open(archive, "rb") as content:
            store.atomically(path, lambda file: shutil.copyfileobj(content, file))
