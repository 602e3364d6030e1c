"""Where cells run: worker processes of our own, or an executor of the user's."""

import concurrent.futures
import contextlib
import functools
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax

from isometry._internal import checks, memory
from isometry._internal.errors import InputError
from isometry.sweeps._cells import Outcome, Work, run_cell
from isometry.sweeps._grid import Index

# Memory that a worker is counted with. With a tenth of it, twenty workers of JAX with
# their compiled programs would not fit into 8 GB; with ten times as much, a laptop
# would run one.
_BYTES_OF_WORKER = 1.5e9

# A worker that has grown by so many bytes is replaced by a fresh one, which compiles
# anew. With a tenth of it, workers would be replaced every few architectures.
_GROWTH_OF_WORKER = 3e9

# Cells submitted for each worker: one that runs and one that waits. With one, a worker
# would idle until its result is written; with ten, more cells would be lost to a kill.
_CELLS_OF_WORKER = 2

# Cells submitted to an executor that does not tell its number of workers. With a tenth
# of it the workers of a cluster would idle; with ten times as much, so many results
# might wait in memory.
_CELLS_OF_UNKNOWN = 256

# Seconds between looks at jobs that cannot be waited for, and between a worker's looks
# at its parent. Ten times fewer would keep a core busy.
_LOOK_SECONDS = 0.5

# Variables of the environment that say which devices a process sees, by vendor.
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


class Job(Protocol):
    """What `submit` of an executor returns."""

    def done(self) -> bool:
        """Tell whether the result is there."""
        ...

    def result(self) -> Any:
        """Return the result, or raise what was raised instead."""
        ...


class Broken(Exception):
    """A worker died, and took the cells in flight with it."""


class Workers(Protocol):
    """What runs cells.

    Attributes:
        capacity: How many cells are to be in flight.
    """

    capacity: int

    def submit(self, index: Index, attempt: int) -> Job:
        """Start a cell, which was tried so often before."""
        ...

    def restart(self) -> None:
        """Replace all workers, of which one has died."""
        ...


class _OfExecutor:
    """The workers of an executor that the user passed."""

    def __init__(self, executor: Any, work: Work):
        self._executor = executor
        self._work = work
        self.capacity = _CELLS_OF_UNKNOWN
        # The executors of `concurrent.futures`, loky and mpi4py have this attribute.
        num_workers = getattr(executor, "_max_workers", None)
        if isinstance(num_workers, int):
            self.capacity = _CELLS_OF_WORKER * max(1, num_workers)

    def submit(self, index: Index, attempt: int) -> Job:
        return self._executor.submit(run_cell, self._work, index, attempt=attempt)

    def restart(self) -> None:
        raise InputError(
            "a worker of executor died, and with it the executor; call sweep again "
            "with a new one to go on, or leave it out: then dead workers are replaced."
        )


class _OfLoky:
    """Worker processes of our own, which are replaced if they die."""

    def __init__(self, num_workers: int, work: Work):
        self._num_workers = num_workers
        self._work = work
        self._executor: Any = None
        self.capacity = _CELLS_OF_WORKER * num_workers
        # It holds the pickled work, and a file for each device in use.
        self._folder = tempfile.TemporaryDirectory(prefix="isometry-sweep-")
        work.write_to(os.path.join(self._folder.name, "work"))

    def submit(self, index: Index, attempt: int) -> Job:
        if self._executor is None:
            self._executor = self._started_executor()
        return self._executor.submit(run_cell, self._work, index, attempt=attempt)

    def restart(self) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill all workers, at once."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=True)

    def finish(self) -> None:
        """Let the workers end, once no cell is in flight.

        A worker that is killed leaves behind what its libraries would have released,
        such as semaphores, of which Python warns.
        """
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)

    def close(self) -> None:
        """End the workers for good."""
        self.stop()
        self._folder.cleanup()

    def _started_executor(self) -> Any:
        loky = checks.extra("loky", "store")
        environment = {
            # Threads of BLAS inside many processes are slower than one each.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "LOKY_MAX_MEMORY_LEAK_SIZE": str(int(_GROWTH_OF_WORKER)),
            # The calling process may hold most of a device's memory.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        return loky.ProcessPoolExecutor(
            max_workers=self._num_workers,
            initializer=_start_worker,
            initargs=(os.getpid(), _devices(), self._folder.name, _settings()),
            env=environment,
        )


def _devices() -> list[str]:
    """Return the names of the accelerators of one vendor, as the environment has them.

    Workers on a CPU share it, and the list is empty.
    """
    if jax.default_backend() == "cpu":
        return []
    visible = next((os.environ[name] for name in _VISIBLE if name in os.environ), "")
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return names or [str(device.local_hardware_id) for device in jax.local_devices()]


def _settings() -> dict[str, Any]:
    """Return the settings of JAX that hold for a whole process."""
    names = (
        "jax_platforms",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    return {name: getattr(jax.config, name) for name in names}


def _start_worker(
    parent: int, devices: Sequence[str], locks: str, settings: dict[str, Any]
) -> None:
    """Prepare a worker process, before its first cell.

    Args:
        parent: The process that ends the workers.
        devices: The accelerators, of which the worker takes one.
        locks: A folder with a file for each device in use.
        settings: Settings of JAX: its platforms and its compilation cache.
    """
    # Ctrl-C reaches all processes of a terminal. The parent ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch = functools.partial(_end_with, parent)
    threading.Thread(target=watch, daemon=True).start()
    if devices:
        device = _take_device(devices, locks)
        for name in _VISIBLE:
            os.environ[name] = device
    for name, value in settings.items():
        jax.config.update(name, value)


def _take_device(devices: Sequence[str], locks: str) -> str:
    """Return a device that no other worker has; it is free again when this one ends."""
    # Systems with accelerators for JAX know this module.
    import fcntl

    for number, device in enumerate(devices):
        handle = os.open(os.path.join(locks, str(number)), os.O_CREAT | os.O_RDWR)
        try:
            # Until the process ends, in whatever way.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
        else:
            return device
    # More workers than devices were asked for.
    return devices[os.getpid() % len(devices)]


def _end_with(parent: int) -> None:
    """End this process once its parent is gone, which may have been killed."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


@contextlib.contextmanager
def workers(executor: Any, work: Work, num_cells: int) -> Iterator[Workers]:
    """Yield what runs cells; processes of our own are ended with the block.

    Args:
        executor: An executor, a number of worker processes, or None.
        work: What the cells share.
        num_cells: The number of cells to run.

    Raises:
        InputError: `executor` is something else.
    """
    if executor is not None and not isinstance(executor, int):
        yield _OfExecutor(executor, work)
        return
    if not needs_processes(executor):
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            yield _OfExecutor(thread, work)
        return
    num_workers = executor or _number_of_workers()
    own = _OfLoky(min(num_workers, max(1, num_cells)), work)
    try:
        yield own
        own.finish()
    finally:
        own.close()


def needs_processes(executor: Any) -> bool:
    """Tell whether worker processes of our own are started."""
    if executor is None:
        # A TPU belongs to one process, and that is this one.
        return jax.default_backend() in ("cpu", "gpu")
    return isinstance(executor, int)


def require_executor(executor: Any) -> None:
    """Refuse what is no executor and no number of workers."""
    if executor is None:
        return
    if isinstance(executor, int) and not isinstance(executor, bool):
        checks.integer("executor", executor, low=1)
        return
    if not callable(getattr(executor, "submit", None)):
        raise InputError(
            f"executor={checks.show(executor)} has no method `submit`; write an "
            "executor of concurrent.futures, a number of worker processes, or None."
        )


def _number_of_workers() -> int:
    """Return how many workers this machine bears, by its cores and its memory."""
    if jax.default_backend() == "gpu":
        return jax.local_device_count()
    num_cores = checks.extra("loky", "store").cpu_count()
    by_memory = int(memory.free_bytes() // _BYTES_OF_WORKER)
    return max(1, min(num_cores, by_memory))


def wait(jobs: Sequence[Job]) -> list[Job]:
    """Wait until a job is done, and return all that are."""
    waitable = [job for job in jobs if isinstance(job, concurrent.futures.Future)]
    if len(waitable) == len(jobs):
        first = concurrent.futures.FIRST_COMPLETED
        # The order in which jobs were submitted, not that of a set.
        concurrent.futures.wait(waitable, return_when=first)
        return [job for job in jobs if job.done()]
    while True:
        done = [job for job in jobs if job.done()]
        if done:
            return done
        time.sleep(_LOOK_SECONDS)


def outcome(job: Job) -> Outcome:
    """Return what a job returned.

    Raises:
        Broken: A worker died.
        Exception: What the executor itself refuses, such as a result that cannot be
            pickled.
    """
    try:
        return job.result()
    except concurrent.futures.BrokenExecutor as error:
        raise Broken(str(error)) from error
