"""`sweeps.open`: the results of a sweep as a dataset of xarray."""

from typing import TYPE_CHECKING

import numpy as np

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.store import Path
from isometry.sweeps._store import is_store, reading, stored_identity

if TYPE_CHECKING:
    import xarray


@public("sweeps.open")
def open(store: Path) -> "xarray.Dataset":
    """Open the results of a sweep, finished or not, without reading them.

    `xarray.open_zarr` opens a store as well. Here axes of numbers are sorted; in the
    store, values that were added later stand at the end.

    Args:
        store: The folder that `sweep` has written.

    Returns:
        A dataset. Each axis of the grid is a dimension with coordinates. Beside what
        the run returned it has `state`, which is 0 for cells that were not run, 1 for
        those that are done and 2 for those that failed, and `error`, why they failed.
        Numbers of cells that are not done are NaN.

    Raises:
        InputError: The folder holds no sweep, or one that cannot be read.
        MissingExtra: xarray or zarr is not installed.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> def run(point, key):
        ...     return {"square": point["x"] ** 2}
        >>> with ThreadPoolExecutor(1) as executor:
        ...     _ = isometry.sweep(
        ...         run,
        ...         {"x": [1.0, 2.0]},
        ...         "squares.zarr",
        ...         key=jax.random.key(0),
        ...         executor=executor,
        ...     )
        >>> sweeps.open("squares.zarr")["square"].values
        array([1., 4.])
    """
    xarray = checks.extra("xarray", "store")
    checks.extra("zarr", "store")
    path = checks.path("store", store)
    if not is_store(path):
        raise InputError(
            f"store={str(path)!r} holds no sweep; write the folder that sweep has "
            "written."
        )
    unsorted = []
    with reading(path):
        dataset = xarray.open_zarr(path, chunks=None, consolidated=True)
        for name in stored_identity(path)["axes"]:
            labels = dataset[name].values
            if labels.dtype.kind in "if" and np.any(np.diff(labels) < 0):
                unsorted.append(name)
        return dataset.sortby(unsorted)
