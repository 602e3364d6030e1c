"""Running a benchmark.

Correctness first, then rounds in which every method is called in turn, then the
statistics.
"""

import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from typing import Any, TypeAlias

from benchmarks import _ceiling, _compare, _load
from benchmarks._declare import (
    CORES,
    THREAD_VARIABLES,
    Benchmark,
    Method,
    Record,
    Task,
)
from benchmarks._processor import processor

# A sample is as many calls as take this long. Of 0.1 s, ten ticks of the counters of
# /proc/stat, a call of 70 ms is a sample of its own, and measures what the method
# before it left in caches and in threads that sleep. With ten times as much a run takes
# nearly ten times as long.
LEAST_SECONDS = 0.4

# Seconds for one request. A deadlock ends here and not never. A tenth of it would end
# programs that compile for minutes, ten times as much would hold a machine for hours.
TIMEOUT = 900.0

# Told a line of progress.
Say: TypeAlias = Callable[[str], None]


class BenchmarkFailed(Exception):
    """A method gave a wrong result, died or never answered."""


class Worker:
    """The driver's end of a worker process (benchmarks/_worker.py).

    Attributes:
        name: Task and method, for messages.
        deadline: A time of `time.monotonic`. Nothing is waited for beyond it.
    """

    def __init__(
        self,
        module: str,
        method: str | None,
        task: Task,
        environment: Mapping[str, str],
        deadline: float = math.inf,
    ):
        self.name = f"{task.name}, {method or 'reference'}"
        self.deadline = deadline
        self._asked = ""
        self._pipe, theirs = Pipe()
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in THREAD_VARIABLES
        }
        path = os.pathsep.join(folder for folder in sys.path if folder)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._worker", str(theirs.fileno())],
            env=inherited | {"PYTHONPATH": path} | dict(environment),
            pass_fds=[theirs.fileno()],
            # An interrupt is the driver's, which then ends its workers.
            start_new_session=True,
        )
        theirs.close()
        self._pipe.send((module, method, dict(task.parameters)))

    def ask(self, *request: Any) -> Any:
        """Send a request and wait for the answer."""
        self.send(*request)
        return self.receive()

    def send(self, *request: Any) -> None:
        """Send a request whose answer is received later.

        Args:
            *request: The name of a method of the worker's session, and its arguments.

        Raises:
            BenchmarkFailed: The worker is dead.
        """
        self._asked = request[0]
        try:
            self._pipe.send(request)
        except OSError:
            raise self._death() from None

    def receive(self) -> Any:
        """Wait for the answer to what was sent last.

        Returns:
            What the method of the session returned.

        Raises:
            BenchmarkFailed: It raised an exception, died, or gave no answer in time.
        """
        limit = max(0.0, min(TIMEOUT, self.deadline - time.monotonic()))
        try:
            if not self._pipe.poll(limit):
                raise BenchmarkFailed(
                    f"{self.name}: no answer to {self._asked!r} within {limit:.3g} s"
                )
            fine, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if not fine:
            raise BenchmarkFailed(f"{self.name}: {answer}")
        return answer

    def _death(self) -> BenchmarkFailed:
        code = self._process.wait(10)
        return BenchmarkFailed(f"{self.name}: the worker died, exit code {code}")

    def close(self) -> None:
        """End the process: it holds nothing that needs saving."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()


@dataclass
class Entrant:
    """A method in a race.

    Attributes:
        worker: Its process.
        record: What is known of it so far.
        repeats: Calls in a sample.
        samples: Those taken.
    """

    worker: Worker
    record: Record
    repeats: int = 1
    samples: list[Record] = field(default_factory=list)

    def find_repeats(self) -> float:
        """Find how many calls make a sample that is long enough.

        Returns:
            The seconds of one call.
        """
        seconds = self.worker.ask("sample", 1)["seconds"]
        # A clock may read zero for a call that does nothing.
        self.repeats = max(1, round(LEAST_SECONDS / max(seconds, 1e-7)))
        return seconds

    def take(self) -> None:
        """Take a sample and mark whether others used the machine meanwhile."""
        busy = _load.busy()
        cpu = time.process_time()
        start = time.perf_counter()
        sample = self.worker.ask("sample", self.repeats)
        wall = time.perf_counter() - start
        own = time.process_time() - cpu + sample.pop("cpu")
        is_clean = _load.clean(busy, _load.busy(), own=own, wall=wall)
        self.samples.append(sample | {"clean": is_clean})

    def summarize(self) -> None:
        """Put the statistics of the samples into the record."""
        self.record |= _compare.summary(self.samples, self.repeats)


def run(
    module: str,
    benchmark: Benchmark,
    *,
    smoke: bool,
    rounds: int,
    say: Say,
    only: Sequence[str] = (),
) -> Record:
    """Run a benchmark.

    Args:
        module: Where the workers find it.
        benchmark: The benchmark of that module.
        smoke: Whether to run its smoke tasks.
        rounds: Samples of each method.
        say: Called with a line of progress.
        only: Texts. A task runs if its name holds one of them; all do without any.

    Returns:
        The record, ready for strict JSON.

    Raises:
        BenchmarkFailed: An error is above its tolerance, or a worker died or gave no
            answer in time.
        ValueError: There is no such task.
    """
    tasks = _chosen(benchmark, smoke=smoke, only=only)
    origins = []
    records = []
    for task in tasks:
        origin, record = _run_task(module, benchmark, task, rounds=rounds, say=say)
        origins.append(origin)
        records.append(record)
    name = module.rpartition(".")[2]
    # What repeats the run, wherever the record is written.
    command = ["python", "-m", "benchmarks", name, "--rounds", str(rounds)]
    if smoke:
        command.append("--smoke")
    for text in only:
        command += ["--task", text]
    return {
        "benchmark": name,
        "question": benchmark.question,
        "smoke": smoke,
        "rounds": rounds,
        "processor": processor(),
        "cores": CORES,
        "samples": _count_samples(records),
        "provenance": origins[0] | {"command": command},
        "tasks": records,
    }


def _chosen(benchmark: Benchmark, *, smoke: bool, only: Sequence[str]) -> list[Task]:
    """Return the tasks that are asked for."""
    tasks = benchmark.tasks
    if smoke:
        tasks = benchmark.smoke
    chosen = [
        task for task in tasks if not only or any(text in task.name for text in only)
    ]
    if not chosen:
        names = "; ".join(task.name for task in tasks)
        raise ValueError(f"no task holds {' or '.join(only)}; there are: {names}")
    return chosen


def _count_samples(records: Sequence[Record]) -> Record:
    """Count the samples of all methods of all tasks, and those undisturbed."""
    marks = [
        mark
        for task in records
        for method in task["methods"]
        for mark in method.get("clean", ())
    ]
    return {
        "total": len(marks),
        "clean": marks.count(True),
        "unknown": marks.count(None),
    }


def _run_task(
    module: str, benchmark: Benchmark, task: Task, *, rounds: int, say: Say
) -> tuple[Record, Record]:
    """Run one task; return the provenance and the record."""
    methods = [
        method
        for method in benchmark.methods
        if method.name in task.methods or not task.methods
    ]
    products: list[Entrant] = []
    with contextlib.ExitStack() as stack:
        judge, entrants = _start(stack, module, task, methods=methods)
        present = [entrant for entrant in entrants if _admit(entrant, judge, say)]
        if task.gemm is not None:
            order, dtype = task.gemm
            product = Task(task.name, {"order": order, "dtype": dtype})
            judge_of_products, products = _start(
                stack,
                _ceiling.__name__,
                product,
                methods=_ceiling.BENCHMARK.methods,
            )
            present += [one for one in products if _admit(one, judge_of_products, say)]
        _race(present, rounds, say)
        provenance = judge.ask("provenance")
    for entrant in present:
        entrant.summarize()
    record = _record(
        task,
        methods=[entrant.record for entrant in entrants],
        products=[entrant.record for entrant in products],
    )
    return provenance, record


def _start(
    stack: contextlib.ExitStack,
    module: str,
    task: Task,
    *,
    methods: Sequence[Method],
) -> tuple[Worker, list[Entrant]]:
    """Start a judge and a worker for each method; they end with the stack."""

    def start(method: str | None, environment: Mapping[str, str]) -> Worker:
        worker = Worker(module, method, task, environment=environment)
        stack.callback(worker.close)
        return worker

    judge = start(None, {})
    entrants = []
    for method in methods:
        variables = dict(method.environment)
        record = {"name": method.name, "ours": method.ours, "environment": variables}
        entrants.append(Entrant(start(method.name, variables), record))
    return judge, entrants


def _admit(entrant: Entrant, judge: Worker, say: Say) -> bool:
    """Prepare a method, have its result judged, and find how many calls make a sample.

    Returns:
        Whether it is installed.

    Raises:
        BenchmarkFailed: The result is wrong.
    """
    name = entrant.worker.name
    prepared = entrant.worker.ask("prepare")
    entrant.record |= prepared
    if "absent" in prepared:
        say(f"{name}: absent, {prepared['absent']} is not installed")
        return False
    error, tolerance = judge.ask("judge", entrant.worker.ask("result"))
    # NaN is not right either.
    if not error <= tolerance:
        raise BenchmarkFailed(
            f"{name}: wrong, error {error:.3g} above its tolerance {tolerance:.3g}"
        )
    entrant.record |= {"error": error, "tolerance": tolerance}
    seconds = entrant.find_repeats()
    first = prepared["first_call"]
    say(f"{name}: error {error:.2g}, first call {first:.3g} s, then {seconds:.3g} s")
    return True


def turns(count: int, rounds: int) -> Iterator[list[int]]:
    """Say who is called when.

    Everyone is called once a round, and a round begins one place later than the last.
    """
    for first in range(rounds):
        yield [(first + place) % count for place in range(count)]


def _race(entrants: list[Entrant], rounds: int, say: Say) -> None:
    """Take the samples of all rounds."""
    for done, order in enumerate(turns(len(entrants), rounds), start=1):
        for index in order:
            entrants[index].take()
        say(f"round {done} of {rounds}")


def _record(task: Task, *, methods: list[Record], products: list[Record]) -> Record:
    """Put the record of a task together."""
    ceiling = _compare.ceiling(task, products)
    present = [method for method in methods if "absent" not in method]
    for method in present:
        method["seconds_goal"] = task.seconds.get(method["name"])
    if task.flop is not None and ceiling is not None:
        for method in present:
            gflops = task.flop / method["median"] / 1e9
            method["percent_of_ceiling"] = 100 * gflops / ceiling["gflops"]
    return {
        "name": task.name,
        "parameters": dict(task.parameters),
        "goal": task.goal,
        "memory": task.memory,
        "flop": task.flop,
        "ceiling": ceiling,
        "methods": methods,
        "ceiling_methods": products,
        "ratios": _compare.ratios(task, present),
    }
