"""Thirty kills at random moments, and real clusters of processes."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

import isometry

xarray = pytest.importorskip("xarray")
pytest.importorskip("zarr")
pytest.importorskip("loky")

pytestmark = pytest.mark.slow

# A cell that raises is among them, and shorter and longer arrays.
SCRIPT = """
import sys, time
import jax, numpy as np
import isometry

def run(point, key):
    time.sleep(0.25)
    if point["a"] == 3 and point["b"] == 1:
        raise ValueError("no three")
    values = jax.random.normal(key, (point["a"] + 1,))
    return {"x": values, "product": point["a"] * point["b"]}

def main(store, executor):
    grid = {"a": range(20), "b": range(60)}
    isometry.sweep(run, grid, store, key=jax.random.key(0), executor=executor)

if __name__ == "__main__":
    if sys.argv[2] == "processes":
        main(sys.argv[1], 2)
    else:
        from distributed import Client, LocalCluster
        options = {"threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(n_workers=2, **options) as cluster:
            with Client(cluster) as client:
                main(sys.argv[1], client.get_executor(pure=False))
"""
NUM_KILLS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the script, and the store of an undisturbed sweep."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "script.py").write_text(SCRIPT)
    assert start(folder, "undisturbed", "processes").wait() == 0
    return folder


def start(folder, store, executor):
    root = pathlib.Path(isometry.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "script.py", store, executor]
    return subprocess.Popen(command, cwd=folder, env=environment)


def children(pid):
    """The processes that a process has started: its workers, and loky's tracker."""
    path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(word) for word in path.read_text().split()]
    except OSError:
        return []


def kill(pid):
    """Kill a process; tell whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_interrupt_ends_all_processes_with_a_line(folder):
    """Ctrl-C reaches the whole group; within seconds it says how to go on."""
    root = pathlib.Path(isometry.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "script.py", "interrupted", "processes"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # Once the first cells are done.
    while not (folder / "interrupted" / "state" / "c").exists():
        assert process.poll() is None
        time.sleep(0.2)
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    # A deadline for what would go on to its end, a minute later.
    _, err = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "the same call goes on" in err
    for _ in range(100):
        if not any(map(runs, workers)):
            return
        time.sleep(0.1)
    pytest.fail("a worker outlived the sweep")


def runs(pid):
    """Tell whether a process runs; one that nobody waits for has no command line."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def identical(folder, store):
    one, other = (xarray.open_zarr(folder / s).load() for s in ("undisturbed", store))
    xarray.testing.assert_identical(one.drop_attrs(), other.drop_attrs())
    assert (one["state"] == 2).sum() == 1


@pytest.mark.parametrize("executor", ["processes", "dask"])
def test_killed_sweep_equals_an_undisturbed_one(folder, executor):
    """Of workers and of the whole sweep; values and states, bit for bit."""
    if executor == "dask":
        pytest.importorskip("distributed")
    rng = random.Random(0)
    store = f"killed-{executor}"
    num_kills = 0
    while num_kills < NUM_KILLS:
        process = start(folder, store, executor)
        # Until the first cells run, and some time longer.
        time.sleep(3 + 4 * rng.random())
        for _ in range(rng.randrange(1, 4)):
            workers = children(process.pid)
            if workers and process.poll() is None:
                num_kills += kill(rng.choice(workers))
            time.sleep(2 * rng.random())
        num_kills += process.poll() is None and kill(process.pid)
        ended = process.wait()
        if ended == 0:
            # A sweep that ends well leaves no cell behind.
            assert (xarray.open_zarr(folder / store)["state"] != 0).all()
            break
    assert num_kills >= NUM_KILLS
    assert start(folder, store, executor).wait() == 0
    identical(folder, store)
    assert not list((folder / store).rglob("*.partial"))
