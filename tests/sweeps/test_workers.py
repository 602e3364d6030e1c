"""How many workers there are, and what each of them takes."""

import os
import subprocess
import sys
import time

import pytest

from isometry.sweeps import _workers

fcntl = pytest.importorskip("fcntl")
pytest.importorskip("loky")


def test_workers_are_as_many_as_cores_and_memory_bear(monkeypatch):
    import loky

    monkeypatch.setattr(loky, "cpu_count", lambda: 8)
    for free, expected in ((4e9, 2), (1e9, 1), (100e9, 8)):
        monkeypatch.setattr(_workers.memory, "free_bytes", lambda free=free: free)
        assert _workers._number_of_workers() == expected


def test_each_worker_takes_a_device_of_its_own(tmp_path):
    """A lock belongs to the open file, so two calls stand for two workers."""
    names = ["3", "5"]
    taken = [_workers._take_device(names, str(tmp_path)) for _ in names]
    assert taken == names
    # All are taken: more workers than devices share them.
    assert _workers._take_device(names, str(tmp_path)) in names


def test_devices_are_those_that_the_environment_shows(monkeypatch):
    monkeypatch.setattr(_workers.jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 7")
    assert _workers._devices() == ["2", "7"]
    monkeypatch.setattr(_workers.jax, "default_backend", lambda: "cpu")
    assert _workers._devices() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process of POSIX")
def test_worker_ends_with_its_parent(tmp_path):
    """Also if that was killed, and could tell nobody; its device is free again."""
    worker = (
        "import os, time; from isometry.sweeps import _workers;"
        "_workers._LOOK_SECONDS = 0.01;"
        f"assert _workers._take_device(['0'], {str(tmp_path)!r}) == '0';"
        "parent = os.getppid(); print(os.getpid(), flush=True);"
        "_workers._end_with(parent)"
    )
    parent = (
        "import subprocess, sys, os, time;"
        f"p = subprocess.Popen([sys.executable, '-c', {worker!r}],"
        " stdout=subprocess.PIPE, text=True);"
        "print(p.stdout.readline(), flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", parent]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    pid = int(killed.stdout)
    # A deadline for a process that would run for ever, and not for its speed.
    for _ in range(200):
        if _is_free(tmp_path / "0"):
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("the worker outlived its parent")


def _is_free(file):
    """Tell whether nobody has locked a file."""
    with open(file) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
