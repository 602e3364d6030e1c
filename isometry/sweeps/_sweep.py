"""`sweep`: run a function at every point of a grid, and keep what it returns."""

import collections
import concurrent.futures
import contextlib
import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Key
from isometry.store import Path
from isometry.sweeps._cells import Done, Failed, Outcome, Run, Work
from isometry.sweeps._grid import Index, grid_of
from isometry.sweeps._open import open as open_store
from isometry.sweeps._progress import (
    Progress,
    Report,
    reporter,
    require_progress,
)
from isometry.sweeps._store import DONE, Gone, Store, opened
from isometry.sweeps._workers import (
    Broken,
    Job,
    Workers,
    needs_processes,
    outcome,
    require_executor,
    wait,
    workers,
)

if TYPE_CHECKING:
    import xarray

_LOG = logging.getLogger("isometry.sweeps")

# After so many cells in a row that cannot be written, the disk is taken for full. With
# one, a single large cell would stop the small ones; with ten times as many, hours of
# computing would be thrown away.
_MOST_UNWRITTEN = 3


# Workers that die while they start, one after another. With a tenth of it a machine
# that is short of memory for a moment would stop the sweep; each takes two seconds.
_MOST_REFUSED = 10


@public("sweep")
def sweep(
    run: Run,
    grid: Mapping[str, object],
    store: Path,
    *,
    key: Key,
    executor: Any = None,
    resume: bool = True,
    retries: int = 1,
    accept_code: bool = False,
    progress: Progress = True,
) -> "xarray.Dataset":
    """Run a function at every point of a grid, and keep the results in a store.

    The store is a folder that xarray reads (`sweeps.open`). A sweep that was stopped or
    killed goes on if it is called again: only the cells in flight are lost. Called with
    more values on its axes, the grid grows, and only the new cells are run. Each call
    also runs the cells again that had failed.

    The key of a cell is folded from the names and the values of its axes, so that the
    result of the cell depends neither on the rest of the grid, nor on the order, the
    executor or how often the sweep was stopped.

    Args:
        run: A function of (point, key). `point` maps the name of each axis to a value;
            `key` is a typed random key. It returns a mapping from names to arrays. An
            array may come with the names of its dimensions: (dims, array), or (dims,
            array, attrs), as in xarray. If the lengths of arrays differ between cells,
            shorter ones are padded with NaN. `sweeps.runs` has ready functions;
            `functools.partial` sets those of their arguments that are not on an axis.
        grid: Maps the name of each axis to its numbers or texts, or to a mapping from
            labels to objects, such as networks. A grid that is itself a mapping from
            labels to networks has the one axis "network". Seeds are an axis like any
            other.
        store: The folder, which may hold an earlier part of the sweep.
        key: The random key of the sweep.
        executor: Where cells run. None starts a worker process for each core, as far as
            the memory allows, or one for each GPU; a number starts so many
            worker processes. It may also be any executor of `concurrent.futures`, such
            as `Client.get_executor(pure=False)` of Dask or `MPIPoolExecutor` of mpi4py,
            or one whose jobs have `done` and `result`, such as submitit's.
        resume: Whether `store` may exist.
        retries: How often a cell is tried again that raised, or whose worker died.
        accept_code: Whether to go on with a store whose cells were computed by another
            `run`, or another version of this package.
        progress: Whether to show the progress on stderr, or a function of the number of
            cells that are done and of all cells.

    Returns:
        The dataset of `sweeps.open`. Its variable `state` is 1 for cells that are done
        and 2 for those that failed; `error` says why.

    Raises:
        InputError: An argument cannot be used; the store has other axes, labels that
            grid lacks, another key or other code, or is in use; or the disk refuses
            three cells in a row.
        MissingExtra: zarr, xarray or loky is not installed.

    Note:
        A worker process imports JAX, which takes two seconds, and compiles for itself.
        Beside its run, a cell costs about 3 ms, and 1 ms more for each variable.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> def run(point, key):
        ...     chi = theory.chi("tanh", q=0.0, sigma_w=point["sigma_w"])
        ...     return {"chi": chi}
        >>> grid = {"sigma_w": [0.5, 1.0], "seed": range(2)}
        >>> with ThreadPoolExecutor(1) as executor:
        ...     dataset = isometry.sweep(
        ...         run, grid, "chi.zarr", key=jax.random.key(0), executor=executor
        ...     )
        >>> dataset["chi"].mean("seed").values
        array([0.25, 1.  ])
    """
    if not callable(run):
        raise InputError(
            f"run={checks.show(run)} cannot be called; write a function of "
            "(point, key)."
        )
    key = checks.on_host("key", checks.key("key", key))
    retries = checks.integer("retries", retries)
    require_executor(executor)
    require_progress(progress)
    cells = grid_of(grid)
    _require_known_axes(run, cells.names)
    work = Work(run, cells, key)
    if needs_processes(executor):
        work.require_picklable()
    with opened(store, work, resume=resume, accept_code=accept_code) as target:
        # From here on in the order of the store.
        work = Work(run, target.grid, key)
        remaining = _remaining(target)
        total = target.grid.size
        with (
            reporter(progress, total, total - len(remaining)) as report,
            workers(executor, work, len(remaining)) as pool,
        ):
            progressing = _Progressing(target, pool, report, retries=retries)
            try:
                progressing.run(remaining)
                progressing.require_settled(remaining)
            except KeyboardInterrupt:
                num_done = np.count_nonzero(target.states == DONE)
                _LOG.warning(
                    f"interrupted: {num_done} of {total} cells are done in "
                    f"{target.path}; the same call goes on."
                )
                raise
            finally:
                # After Ctrl-C too: without it the store might take the same call for
                # one of other code. A store that is gone, or a disk that refuses,
                # needs no second error.
                with contextlib.suppress(Gone, OSError):
                    target.find_volatile(work)
        progressing.tell_failures()
    return open_store(store)


def _remaining(target: Store) -> np.ndarray:
    """Return the flat indices of the cells to run, from the last to the first.

    Axes such as depth and width usually grow, so that the last cells are the largest.
    They come first: then no long cell is left to the end, and the arrays of the store,
    which are made for the first result, rarely have to be widened.
    """
    is_done = target.states.ravel() == DONE
    return np.flatnonzero(~is_done)[::-1]


def _require_known_axes(run: Run, names: tuple[str, ...]) -> None:
    """Let a function of `sweeps.runs` refuse axes that it does not know."""
    keywords: dict[str, object] = {}
    function: Any = run
    while isinstance(function, functools.partial):
        keywords = {**function.keywords, **keywords}
        function = function.func
    check = getattr(function, "check_axes", None)
    if check is not None:
        check(names, keywords)


@dataclass
class _Cell:
    """A cell that is not done.

    Attributes:
        index: Its position on each axis.
        attempts: How often it has raised, or killed its worker.
    """

    index: Index
    attempts: int = 0


class _Progressing:
    """A sweep that runs: which cells are in flight, and which are to be run again.

    Attributes:
        failures: For each cell that failed, why.
    """

    def __init__(self, store: Store, pool: Workers, report: Report, *, retries: int):
        self._store = store
        self._pool = pool
        self._report = report
        self._retries = retries
        self._in_flight: dict[Job, _Cell] = {}
        # Cells that raised, and are tried again.
        self._again: collections.deque[_Cell] = collections.deque()
        # Cells that were in flight when a worker died. Each is run alone, so that the
        # next death can be told of one cell.
        self._suspects: collections.deque[_Cell] = collections.deque()
        self._num_unwritten = 0
        # Cells in a row that no worker took.
        self._num_refused = 0
        self.failures: dict[Index, str] = {}

    def run(self, remaining: np.ndarray) -> None:
        """Run all cells.

        Args:
            remaining: Flat indices of the cells.
        """
        waiting = iter(remaining)
        while True:
            self._submit(waiting)
            if not self._in_flight:
                # Workers may die while a cell is given to them.
                if self._suspects or self._again:
                    continue
                return
            for job in wait(list(self._in_flight)):
                # A worker that died has taken others with it.
                if job in self._in_flight:
                    self._settle(job)

    def _submit(self, waiting: Any) -> None:
        """Start cells until enough are in flight."""
        if self._suspects:
            if not self._in_flight:
                self._start(self._suspects.popleft())
            return
        while len(self._in_flight) < self._pool.capacity:
            if self._again:
                cell = self._again.popleft()
            else:
                flat = next(waiting, None)
                if flat is None:
                    return
                cell = _Cell(self._index(flat))
            if not self._start(cell):
                return

    def _index(self, flat: int) -> Index:
        """Return the position of a cell on each axis."""
        positions = np.unravel_index(flat, self._store.grid.shape)
        return tuple(int(position) for position in positions)

    def _start(self, cell: _Cell) -> bool:
        """Start a cell. Return whether it was taken.

        Raises:
            InputError: The executor takes no cells, or workers die one after another.
        """
        try:
            job = self._pool.submit(cell.index, cell.attempts)
        except concurrent.futures.BrokenExecutor as error:
            self._num_refused += 1
            if self._num_refused > _MOST_REFUSED:
                raise InputError(f"workers die as they start: {error}") from error
            self._recover([cell])
            return False
        except RuntimeError as error:
            # It was shut down.
            raise InputError(
                f"executor takes no cells: {error}; call sweep again with a new one "
                "to go on."
            ) from error
        self._in_flight[job] = cell
        return True

    def _settle(self, job: Job) -> None:
        """Write the result of a job, or decide what becomes of its cell."""
        is_alone = len(self._in_flight) == 1
        cell = self._in_flight[job]
        try:
            result: Outcome = outcome(job)
        except Broken as error:
            # Words of loky, whose error is of one class whether a worker died or could
            # not read its task.
            if "un-serialize" in str(error):
                raise InputError(
                    f"run cannot be read in a worker process: {error}. Modules that "
                    "it imports must be found there."
                ) from error
            if is_alone:
                del self._in_flight[job]
                self._recover([])
                text = f"its worker died, out of memory or killed: {error}"
                self._retry(cell, text, self._suspects)
            else:
                self._recover([])
            return
        except Exception as error:
            # The executor itself refuses, as Dask does after several dead workers.
            result = Failed(f"{type(error).__name__}: {error}")
        self._num_refused = 0
        del self._in_flight[job]
        if isinstance(result, Done):
            self._write(cell, result)
        else:
            self._retry(cell, result.reason, self._again)

    def _recover(self, cells: list[_Cell]) -> None:
        """Replace the workers, and suspect all cells that were in flight."""
        self._suspects.extend(cells)
        self._suspects.extend(self._in_flight.values())
        self._in_flight.clear()
        self._pool.restart()

    def _retry(
        self, cell: _Cell, reason: str, queue: "collections.deque[_Cell]"
    ) -> None:
        """Run a cell again, or let it be if it was tried often enough."""
        cell.attempts += 1
        if cell.attempts <= self._retries:
            queue.append(cell)
        else:
            self._fail(cell, reason)

    def _write(self, cell: _Cell, result: Done) -> None:
        """Write what a cell returned."""
        try:
            self._store.write_done(cell.index, result)
        except Gone:
            raise
        except InputError as error:
            # An array that does not fit to those of other cells.
            self._fail(cell, error.message)
        except OSError as error:
            self._unwritten(cell, error)
        except Exception as error:
            # What zarr does not take is a matter of this cell.
            self._fail(cell, f"it cannot be stored: {type(error).__name__}: {error}")
        else:
            self._num_unwritten = 0
            self._report.done()

    def _fail(self, cell: _Cell, reason: str) -> None:
        """Write that a cell failed."""
        self.failures[cell.index] = reason
        self._report.failed()
        try:
            self._store.write_failed(cell.index, reason)
        except OSError as error:
            self._unwritten(cell, error)

    def _unwritten(self, cell: _Cell, error: OSError) -> None:
        """Count a cell that the disk refused, and stop after several in a row.

        Raises:
            InputError: The disk refused several cells in a row.
        """
        if cell.index not in self.failures:
            self.failures[cell.index] = f"it cannot be written: {error.strerror}"
            self._report.failed()
        self._num_unwritten += 1
        if self._num_unwritten >= _MOST_UNWRITTEN:
            num_done = np.count_nonzero(self._store.states == DONE)
            raise InputError(
                f"store={str(self._store.path)!r} cannot be written: {error.strerror}. "
                f"{num_done} of {self._store.grid.size} cells are done; the same call "
                "goes on."
            ) from error

    def require_settled(self, remaining: np.ndarray) -> None:
        """Assert that each cell is done, or failed with a reason."""
        for flat in remaining:
            index = self._index(flat)
            is_done = self._store.states[index] == DONE
            assert is_done or index in self.failures, index

    def tell_failures(self) -> None:
        """Say how many cells failed, and why the first did."""
        if not self.failures:
            return
        index, reason = next(iter(self.failures.items()))
        grid = self._store.grid
        # On one line, whatever the error says.
        reason = " ".join(reason.split())
        _LOG.warning(
            f"{len(self.failures)} of {grid.size} cells failed; the same call tries "
            "them again, after a change of run with accept_code=True. "
            f"{grid.show(index)}: {reason}"
        )
