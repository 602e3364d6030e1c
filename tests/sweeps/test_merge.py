"""Stores of two sweeps in one."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

import isometry
from isometry import InputError, sweeps

xarray = pytest.importorskip("xarray")
pytest.importorskip("zarr")

KEY = jax.random.key(0)


def run(point, key):
    if point["b"] == 7:
        raise ValueError("no seven")
    size = int(point["a"])
    return {
        "x": (("k",), np.asarray(jax.random.normal(key, (size,))), {"units": "1"}),
        "n": size,
    }


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two halves of a grid, and the whole."""
    folder = tmp_path_factory.mktemp("stores")
    grids = {
        "first": {"a": [1, 3], "b": [5, 7]},
        "second": {"b": [6, 7], "a": [4, 2, 1, 3]},
        "third": {"b": [5], "a": [2, 4]},
        "whole": {"a": [1, 2, 3, 4], "b": [5, 6, 7]},
    }
    with ThreadPoolExecutor(1) as executor:
        for name, grid in grids.items():
            isometry.sweep(
                run, grid, folder / name, key=KEY, executor=executor, progress=False
            )
    return folder


def test_merged_store_is_that_of_one_sweep(stores, tmp_path):
    """Values, states, reasons and attributes; another sweep may go on with it."""
    names = ("second", "first", "third")
    path = tmp_path / "merged"
    merged = sweeps.merge([stores / name for name in names], path).load()
    whole = sweeps.open(stores / "whole").load()
    merged = merged.transpose(*whole.dims)
    xarray.testing.assert_equal(merged, whole)
    assert merged["x"].attrs == whole["x"].attrs
    with ThreadPoolExecutor(1) as executor:
        grid = {"a": [1, 2, 3, 4], "b": [5, 6, 7, 8]}
        grown = isometry.sweep(
            run, grid, path, key=KEY, executor=executor, progress=False
        )
    assert (grown["state"].sel(b=[5, 6, 8]) == 1).all()


def test_halves_of_an_axis_of_objects_are_merged(tmp_path):
    """Each store knows its own objects; the merged one knows both."""
    objects = {"one": np.ones(3), "two": np.full(3, 2.0)}

    def total(point, key):
        return {"total": point["array"].sum()}

    def sweep(names, store):
        chosen = {name: objects[name] for name in names}
        with ThreadPoolExecutor(1) as executor:
            return isometry.sweep(
                total,
                {"array": chosen},
                tmp_path / store,
                key=KEY,
                executor=executor,
                progress=False,
            )

    sweep(["one"], "first")
    sweep(["two"], "second")
    merged = sweeps.merge([tmp_path / "first", tmp_path / "second"], tmp_path / "all")
    assert merged["total"].values.tolist() == [3.0, 6.0]
    sweep(["one", "two"], "all")
    objects["two"] = np.zeros(3)
    with pytest.raises(InputError, match="another object at array=two"):
        sweep(["one", "two"], "all")


def test_cells_that_nobody_ran_are_absent(stores, tmp_path):
    merged = sweeps.merge([stores / "first", stores / "third"], tmp_path / "merged")
    assert merged["state"].sel(a=2, b=7) == 0
    assert merged["state"].sel(a=2, b=5) == 1


def test_cell_of_other_values_is_refused(stores, tmp_path):
    import zarr

    copy = tmp_path / "copy"
    shutil.copytree(stores / "first", copy)
    zarr.open_group(copy)["n"][0, 0] = 99
    with pytest.raises(InputError, match=r"'n' at a=1, b=5 has other values"):
        sweeps.merge([stores / "first", copy], tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_stores_that_do_not_belong_together_are_refused(stores, tmp_path):
    other = tmp_path / "other"
    with ThreadPoolExecutor(1) as executor:
        grid = {"a": [1], "b": [5]}
        isometry.sweep(
            run,
            grid,
            other,
            key=jax.random.key(1),
            executor=executor,
            progress=False,
        )
    with pytest.raises(InputError, match="another key"):
        sweeps.merge([stores / "first", other], tmp_path / "merged")
    with pytest.raises(InputError, match="holds no sweep"):
        sweeps.merge([stores / "first", tmp_path], tmp_path / "merged")
    with pytest.raises(InputError, match="exists"):
        sweeps.merge([stores / "first"], other)
    with pytest.raises(InputError, match="list of folders"):
        sweeps.merge(str(stores / "first"), tmp_path / "merged")
