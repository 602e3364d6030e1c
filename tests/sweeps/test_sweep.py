"""A sweep, whole: what it runs and keeps, and what it does when things go wrong."""

import contextlib
import errno
import json
import logging
import os
import shutil
import signal
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor

import jax
import numpy as np
import pytest

import isometry
from isometry import InputError, sweeps
from isometry.sweeps import _store

xarray = pytest.importorskip("xarray")
pytest.importorskip("zarr")
pytest.importorskip("loky")

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def thread():
    """One thread of this process: cells without the two seconds of a new process."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def sweep(thread):
    """`sweep` in this process, and silent."""

    def call(run, grid, store, **options):
        defaults = {"key": KEY, "executor": thread, "progress": False}
        return isometry.sweep(run, grid, store, **{**defaults, **options})

    return call


def normal(point, key):
    return {"x": jax.random.normal(key, (2,)), "double": 2 * point["a"]}


def identical(one, other):
    """All values and states are equal, bit for bit; the attributes may differ."""
    xarray.testing.assert_identical(one.load().drop_attrs(), other.load().drop_attrs())


def test_store_is_read_by_xarray_alone(sweep, tmp_path):
    """With the values that `run` returned, for the key of each cell."""
    path = tmp_path / "s.zarr"
    sweep(normal, {"a": [1, 2], "name": ["u", "v"]}, path)
    dataset = xarray.open_dataset(path, engine="zarr")
    assert dataset["x"].dims == ("a", "name", "x_0")
    assert dataset["double"].sel(a=2, name="u") == 4
    assert (dataset["state"] == 1).all()
    assert (dataset["error"] == "").all()
    assert dataset["x"].encoding["chunks"][:2] == (1, 1)
    # Independent of the store: the run itself, with the key that the cell is promised.
    work = isometry.sweeps._cells.Work(
        normal, isometry.sweeps._grid.grid_of({"a": [2], "name": ["v"]}), KEY
    )
    expected = jax.random.normal(work.key((0, 0)), (2,))
    assert np.array_equal(dataset["x"].sel(a=2, name="v"), expected)


def test_grid_grows_without_redoing_a_cell(sweep, tmp_path):
    """The grown store is the one that a single sweep over all values writes."""
    called = []

    def run(point, key):
        called.append((point["a"], point["b"]))
        return normal(point, key)

    path = tmp_path / "s.zarr"
    sweep(run, {"a": [1.0, 3.0], "b": [0, 1]}, path)
    # The order of axes is that of the store, and nothing is left to do.
    sweep(run, {"b": [0, 1], "a": [1.0, 3.0]}, path)
    assert len(called) == 4
    grid = {"b": [0, 1, 2], "a": [1, 2, 3]}
    grown = sweep(run, grid, path)
    assert len(called) == len(set(called)) == 9
    assert all(isinstance(a, float) for a, _ in called)
    assert grown["a"].values.tolist() == [1.0, 2.0, 3.0]
    whole = sweep(run, {"a": [1.0, 2.0, 3.0], "b": grid["b"]}, tmp_path / "whole.zarr")
    identical(grown, whole)
    merged = sweeps.merge([path], tmp_path / "merged.zarr")
    identical(merged, whole)


def test_failed_cell_says_why_and_is_tried_again(sweep, tmp_path, caplog):
    """Once more in the same call, and again in the next."""
    tries = []

    def run(point, key):
        tries.append(point["a"])
        if point["a"] == 2 and len(tries) < 5:
            raise ValueError("not yet")
        return normal(point, key)

    path = tmp_path / "s.zarr"
    with caplog.at_level(logging.WARNING):
        dataset = sweep(run, {"a": [1, 2, 3]}, path)
    assert sorted(tries) == [1, 2, 2, 3]
    assert dataset["state"].values.tolist() == [1, 2, 1]
    assert str(dataset["error"].sel(a=2).values).startswith("ValueError: not yet (line")
    assert np.isnan(dataset["x"].sel(a=2)).all()
    assert np.isnan(dataset["double"].sel(a=2))
    assert "1 of 3 cells failed" in caplog.text
    assert "a=2: ValueError: not yet" in caplog.text
    again = sweep(run, {"a": [1, 2, 3]}, path)
    identical(again, sweep(normal, {"a": [1, 2, 3]}, tmp_path / "other.zarr"))


def test_shorter_arrays_are_padded(sweep, tmp_path):
    """Whatever comes first: cells of another length widen the arrays that share it."""

    def run(point, key):
        size = point["a"]
        return {
            "real": (("k",), np.arange(size) + 0.5),
            "whole": (("k",), np.arange(size)),
            "yes": (("k",), np.ones(size, bool)),
            "k": (("k",), [f"unit {i}" for i in range(size)]),
        }

    dataset = sweep(run, {"a": [3, 2, 4]}, tmp_path / "s.zarr").load()
    nan = np.nan
    assert dataset.sizes["k"] == 4
    np.testing.assert_array_equal(dataset["real"].sel(a=2), [0.5, 1.5, nan, nan])
    np.testing.assert_array_equal(dataset["whole"].sel(a=3), [0, 1, 2, nan])
    np.testing.assert_array_equal(dataset["yes"].sel(a=4), [1, 1, 1, 1])
    assert dataset["k"].values.tolist() == [f"unit {i}" for i in range(4)]


def test_array_of_another_kind_fails_its_cell(sweep, tmp_path):
    def run(point, key):
        return {
            1: {"x": np.float32(1)},
            2: {"x": "one"},
            3: {"x": np.ones(2, np.float32)},
        }[point["a"]]

    dataset = sweep(run, {"a": [3, 2, 1]}, tmp_path / "s.zarr")
    errors = dataset["error"].values.tolist()
    assert errors[0] == ""
    assert "other cells of this store have float64" in errors[1]
    assert "dimensions ('x_0',); other cells of this store have ()" in errors[2]


def test_store_of_something_else_is_refused_with_the_difference(sweep, tmp_path):
    path = tmp_path / "s.zarr"
    sweep(normal, {"a": [1, 2]}, path)

    def other(point, key):
        return {"x": 0.0}

    refused = [
        ({"run": other}, "another run(.|\n)*x.: 0.0"),
        ({"grid": {"a": [2]}}, "holds 1, which grid lacks"),
        ({"grid": {"a": [1, 2, 2.5]}}, "of type int, and grid has 2.5"),
        ({"grid": {"a": [1, 2], "b": [1]}}, "has the axes"),
        ({"key": jax.random.key(1)}, "another key"),
        ({"resume": False}, "resume=False"),
    ]
    for changes, words in refused:
        call = {"run": normal, "grid": {"a": [1, 2]}, **changes}
        with pytest.raises(InputError, match=words):
            sweep(store=path, **call)
    with (
        jax.default_matmul_precision("highest"),
        pytest.raises(InputError, match="another settings"),
    ):
        sweep(normal, {"a": [1, 2]}, path)
    dataset = sweep(other, {"a": [1, 2, 3]}, path, accept_code=True)
    assert dataset["state"].values.tolist() == [1, 1, 2]


def test_version_of_another_release_is_refused(sweep, tmp_path, monkeypatch):
    path = tmp_path / "s.zarr"
    sweep(normal, {"a": [1]}, path)
    monkeypatch.setattr(isometry, "__version__", "99.0")
    with pytest.raises(InputError, match=r"version 0\.\S+ of isometry, and this is 99"):
        sweep(normal, {"a": [1]}, path)
    sweep(normal, {"a": [1, 2]}, path, accept_code=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run": 3}, "run=3 cannot be called"),
        ({"key": 0}, "key is 0"),
        ({"executor": "loky"}, "executor='loky' has no method"),
        ({"executor": 0}, "executor=0"),
        ({"retries": -1}, "retries=-1"),
        ({"progress": "bar"}, "progress='bar'"),
        ({"run": sweeps.runs.spectrum, "grid": {"sigma": [1.0]}}, "Did you mean"),
    ],
)
def test_bad_argument_is_refused_before_anything_is_written(
    sweep, tmp_path, changes, words
):
    call = {"run": normal, "grid": {"a": [1]}, "key": KEY, **changes}
    with pytest.raises(InputError, match=rf"sweep\(\): .*{words}"):
        sweep(store=tmp_path / "s.zarr", **call)
    assert not list(tmp_path.iterdir())


def test_folder_of_something_else_is_left_alone(sweep, tmp_path):
    file = tmp_path / "precious.txt"
    file.write_text("mine")
    with pytest.raises(InputError, match="something else than a sweep"):
        sweep(normal, {"a": [1]}, tmp_path)
    with pytest.raises(InputError, match="something else than a sweep"):
        sweep(normal, {"a": [1]}, file)
    with pytest.raises(InputError, match="holds no sweep"):
        sweeps.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_group_of_zarr_without_attributes_is_no_sweep(tmp_path):
    metadata = '{"node_type": "group", "attributes": null}'
    (tmp_path / "zarr.json").write_text(metadata)
    with pytest.raises(InputError, match="holds no sweep"):
        sweeps.open(tmp_path)


def test_second_sweep_of_one_store_is_refused(sweep, tmp_path):
    path = tmp_path / "s.zarr"

    def run(point, key):
        # While this cell runs, the store belongs to its sweep.
        with ThreadPoolExecutor(1) as other, pytest.raises(InputError, match="another"):
            sweep(normal, {"a": [1]}, path, executor=other, accept_code=True)
        return normal(point, key)

    assert (sweep(run, {"a": [1]}, path)["state"] == 1).all()


def test_disk_that_is_full_for_a_moment_loses_no_cell(sweep, tmp_path, monkeypatch):
    """Also where it refuses to publish the arrays that a cell has made or widened."""
    publish = _store.Store._consolidate

    def run(point, key):
        size = 6 - point["a"]
        return {"x": (("k",), np.arange(1.0, 1 + size)), "k": (("k",), np.arange(size))}

    for refused in (1, 2, 3):
        num_calls = []

        def consolidate(store, refused=refused, calls=num_calls):
            calls.append(1)
            if len(calls) == refused:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            publish(store)

        path = tmp_path / f"{refused}.zarr"
        with monkeypatch.context() as patch:
            patch.setattr(_store.Store, "_consolidate", consolidate)
            dataset = sweep(run, {"a": range(4)}, path).load()
        assert (dataset["state"] == 1).sum() == 3
        dataset = sweep(run, {"a": range(4)}, path).load()
        for a in range(4):
            values = dataset["x"].sel(a=a).values
            size = 6 - a
            assert values[:size].tolist() == np.arange(1.0, 1 + size).tolist()
            assert np.isnan(values[size:]).all()
        assert dataset["k"].values.tolist() == [0, 1, 2, 3, 4, 5]


def test_store_that_is_moved_ends_the_sweep(sweep, tmp_path):
    path = tmp_path / "s.zarr"

    def move(num_done, total):
        if num_done == 2:
            path.rename(tmp_path / "moved.zarr")

    with pytest.raises(InputError, match="moved or removed"):
        sweep(normal, {"a": range(5)}, path, progress=move)
    # Nothing is written where it was.
    assert not path.exists()
    dataset = sweep(normal, {"a": range(5)}, tmp_path / "moved.zarr")
    assert (dataset["state"] == 1).all()


def test_folders_of_the_user_stay(sweep, tmp_path):
    path = tmp_path / "s.zarr"
    sweep(normal, {"a": [1]}, path)
    (path / "plots").mkdir()
    (path / "plots" / "precious.partial").write_text("mine")
    sweep(normal, {"a": [1, 2]}, path)
    assert (path / "plots" / "precious.partial").exists()
    # And so does what nobody can tell from a store that is being made.
    (tmp_path / ".t.zarr.part").mkdir()
    sweep(normal, {"a": [1]}, tmp_path / "t.zarr")
    assert (tmp_path / ".t.zarr.part").exists()


def test_nothing_behind_a_link_in_a_store_is_touched(sweep, tmp_path):
    """A store of somebody else may hold a link to any folder."""
    path = tmp_path / "s.zarr"
    sweep(normal, {"a": [1]}, path)
    mine = tmp_path / "mine"
    shutil.copytree(path / "x", mine)
    (mine / "precious.partial").write_text("mine")
    (path / "y").symlink_to(mine)
    with pytest.raises(isometry.InputError, match="holds a link 'y'"):
        sweep(normal, {"a": [1, 2]}, path)
    assert (mine / "precious.partial").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda group: group["attributes"].update(isometry_sweep="{"),
        lambda group: group["attributes"].update(isometry_sweep="{}"),
        lambda group: group.pop("consolidated_metadata"),
        lambda group: group["consolidated_metadata"]["metadata"]["x"].update(
            data_type="object"
        ),
        lambda group: group["consolidated_metadata"]["metadata"]["x"].update(
            codecs=[{"name": "numcodecs.pickle"}]
        ),
    ],
    ids=["text", "fields", "consolidated", "dtype", "pickle"],
)
def test_store_that_is_damaged_is_refused(sweep, tmp_path, change):
    path = tmp_path / "s.zarr"
    sweep(normal, {"a": [1]}, path)
    metadata = path / "zarr.json"
    group = json.loads(metadata.read_text())
    change(group)
    metadata.write_text(json.dumps(group))
    calls = [
        lambda: sweep(normal, {"a": [1, 2]}, path),
        lambda: sweeps.open(path),
        lambda: sweeps.merge([path], tmp_path / "merged"),
    ]
    for call in calls:
        with pytest.raises(isometry.InputError, match="cannot be read, "):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_parts_of_a_store_that_was_killed_are_removed(sweep, tmp_path):
    part = tmp_path / ".s.zarr.abc.isometry-part"
    part.mkdir()
    sweep(normal, {"a": [1]}, tmp_path / "s.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_cell_that_was_killed_leaves_no_numbers(sweep, tmp_path, monkeypatch):
    """Another code may return other arrays for it."""
    path = tmp_path / "s.zarr"

    def killed(store, index, state, reason):
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(_store.Store, "_write_state", killed)
        with pytest.raises(SystemError):
            sweep(lambda point, key: {"x": 1.0, "y": 7.0}, {"a": [1]}, path)
    dataset = sweep(lambda point, key: {"x": 2.0}, {"a": [1]}, path, accept_code=True)
    assert dataset["x"].values.tolist() == [2.0]
    assert np.isnan(dataset["y"].values).all()


def test_disk_that_is_full_stops_the_sweep(sweep, tmp_path, monkeypatch):
    """After three cells in a row; what was done stays, and the same call goes on."""
    path = tmp_path / "s.zarr"
    write = _store.Store.write_done
    num_writes = []

    def full(store, index, done):
        num_writes.append(index)
        if len(num_writes) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(store, index, done)

    with monkeypatch.context() as patch:
        patch.setattr(_store.Store, "write_done", full)
        with pytest.raises(InputError, match=r"No space left.* 2 of 9 cells are done"):
            sweep(normal, {"a": range(9)}, path)
    assert len(num_writes) == 5
    dataset = sweep(normal, {"a": range(9)}, path)
    assert (dataset["state"] == 1).all()


def test_interrupt_says_how_to_go_on(sweep, tmp_path, caplog):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    path = tmp_path / "s.zarr"
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        sweep(normal, {"a": range(5)}, path, progress=stop)
    assert "interrupted: 2 of 5 cells are done" in caplog.text
    assert (sweep(normal, {"a": range(5)}, path)["state"] == 1).all()


def test_death_at_any_write_loses_only_the_cell(sweep, tmp_path, monkeypatch):
    """A process is killed after its n-th write, another goes on, and so forth."""
    import zarr.storage

    grid = {"a": [1, 2, 3], "b": [0]}

    def run(point, key):
        # The first cells are the shortest, so that all arrays are widened.
        size = 4 - point["a"]
        values = np.arange(1.0, 1 + size)
        return {"x": (("k",), values), "y": (("k",), values), "k": (("k",), values)}

    undisturbed = sweep(run, grid, tmp_path / "undisturbed.zarr").load()
    path = tmp_path / "s.zarr"
    put = zarr.storage.LocalStore.set
    writes_left = [0]

    async def put_while_alive(store, key, value):
        writes_left[0] -= 1
        if writes_left[0] < 0:
            raise SystemError("killed")
        await put(store, key, value)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", put_while_alive)
    # To make the store takes nine writes, and of none is anything seen if one fails. A
    # cell takes three to ten, with those that make and widen its arrays.
    lives = [1, 7, 10, *range(1, 14), *range(1, 14)]
    num_deaths = 0
    for num_writes in lives:
        writes_left[0] = num_writes
        try:
            sweep(run, grid, path)
        except SystemError:
            num_deaths += 1
        else:
            break
        if path.exists():
            # A reader between two lives sees a store that is whole.
            seen = xarray.open_zarr(path, chunks=None).load()
            done = seen["state"].values == 1
            for name in set(seen.data_vars) - {"state", "error"}:
                values = seen[name].values[done]
                expected = undisturbed[name].values[done][:, : values.shape[1]]
                np.testing.assert_array_equal(values, expected)
    assert num_deaths > 8
    writes_left[0] = 1000
    identical(sweep(run, grid, path), undisturbed)
    # The same while the grid grows along both axes.
    grid = {"a": [1, 2, 3], "b": [0, 1]}
    grown = sweep(run, grid, tmp_path / "grown.zarr").load()
    for num_writes in range(1, 30, 3):
        writes_left[0] = num_writes
        with contextlib.suppress(SystemError):
            sweep(run, grid, path)
        writes_left[0] = 1000
        kept = sweeps.open(path).sel(b=[0])
        identical(kept.drop_vars("b"), undisturbed.drop_vars("b"))
    identical(sweep(run, grid, path), grown)


def test_worker_that_dies_is_replaced(tmp_path):
    """The cell that killed it fails; the one beside it is done."""

    def run(point, key):
        # The last cell, so that the worker is replaced once.
        if point["a"] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"x": 2.0 * point["a"]}

    dataset = isometry.sweep(
        run,
        {"a": range(3)},
        tmp_path / "s.zarr",
        key=KEY,
        executor=1,
        retries=0,
        progress=False,
    )
    assert dataset["state"].values.tolist() == [2, 1, 1]
    assert "its worker died" in str(dataset["error"].sel(a=0).values)


def test_workers_that_die_between_cells_are_replaced(tmp_path):
    """All of them at once, while no cell is in flight."""
    import multiprocessing

    def kill(num_done, total):
        if num_done == 1:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()

    dataset = isometry.sweep(
        lambda point, key: {"x": 2.0 * point["a"]},
        {"a": range(4)},
        tmp_path / "s.zarr",
        key=KEY,
        executor=1,
        progress=kill,
    )
    assert (dataset["state"] == 1).all()


def test_broken_executor_of_the_user_is_said(sweep, tmp_path):
    """Only its owner can replace it."""

    class Broken:
        def submit(self, function, *args, **options):
            raise BrokenExecutor

    with pytest.raises(InputError, match="executor died"):
        sweep(normal, {"a": [1]}, tmp_path / "s.zarr", executor=Broken())


class Job:
    """A job of an executor whose jobs are no futures, such as submitit's."""

    def __init__(self, value):
        self.value = value
        self.looks = 0

    def done(self):
        self.looks += 1
        return self.looks > 1

    def result(self):
        return self.value


class Cluster:
    """An executor of such jobs."""

    def submit(self, function, *args, **options):
        return Job(function(*args, **options))


def test_jobs_that_are_no_futures_are_looked_at(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(isometry.sweeps._workers, "_LOOK_SECONDS", 0.01)
    dataset = sweep(normal, {"a": range(3)}, tmp_path / "s.zarr", executor=Cluster())
    assert (dataset["state"] == 1).all()
