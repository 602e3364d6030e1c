"""Running a benchmark: correctness first, then rounds in which every method is called in turn, then the statistics."""

import contextlib
import itertools
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from typing import Any

from benchmarks import _ceiling, _load
from benchmarks._declare import CORES, THREAD_VARIABLES, Benchmark, Task

# A sample is as many calls as take this long. Of 0.1 s, ten ticks of the counters of /proc/stat, a call of 70 ms is a
# sample of its own, and measures what the method before it left in caches and in threads that sleep.
LEAST_SECONDS = 0.4
TIMEOUT = 900.0  # of one request; a deadlock ends here and not never
ENOUGH = 3  # clean samples of more rounds than that; with fewer the statistics take all samples and say so


class BenchmarkFailed(Exception):
    """A method gave a wrong result, died or never answered."""


class Worker:
    """The driver's end of a worker process (benchmarks/_worker.py).

    Nothing is waited for beyond `deadline`, a time of `time.monotonic`.
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
        self.asked = ""
        self.pipe, theirs = Pipe()
        path = os.pathsep.join(p for p in sys.path if p)
        inherited = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._worker", str(theirs.fileno())],
            env=inherited | {"PYTHONPATH": path} | dict(environment),
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # an interrupt is the driver's, who then ends its workers
        )
        theirs.close()
        self.pipe.send((module, method, dict(task.parameters)))

    def ask(self, *request: Any) -> Any:
        """Send a request and wait for the answer."""
        self.send(*request)
        return self.receive()

    def send(self, *request: Any) -> None:
        """Send a request whose answer is received later."""
        self.asked = request[0]
        try:
            self.pipe.send(request)
        except OSError:
            raise self._dead() from None

    def receive(self) -> Any:
        """Wait for the answer to what was sent last."""
        limit = max(0.0, min(TIMEOUT, self.deadline - time.monotonic()))
        try:
            if not self.pipe.poll(limit):
                raise BenchmarkFailed(f"{self.name}: no answer to {self.asked!r} within {limit:.3g} s")
            fine, answer = self.pipe.recv()
        except (EOFError, OSError):
            raise self._dead() from None
        if not fine:
            raise BenchmarkFailed(f"{self.name}: {answer}")
        return answer

    def _dead(self) -> BenchmarkFailed:
        return BenchmarkFailed(f"{self.name}: the worker died, exit code {self.process.wait(10)}")

    def close(self) -> None:
        """End the process: it holds nothing that needs saving."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()


@dataclass
class Entrant:
    """A method in a race: its worker and what is known of it so far."""

    worker: Worker
    record: dict[str, Any]
    repeats: int = 1
    samples: list[dict[str, Any]] = field(default_factory=list)

    def find_repeats(self) -> float:
        """Seconds of one call; from now on a sample has as many as make it long enough."""
        seconds = self.worker.ask("sample", 1)["seconds"]
        self.repeats = max(1, round(LEAST_SECONDS / max(seconds, 1e-7)))
        return seconds

    def take(self) -> None:
        """One sample, marked if others used the machine meanwhile."""
        before, own, start = _load.busy(), time.process_time(), time.perf_counter()
        sample = self.worker.ask("sample", self.repeats)
        wall, own = time.perf_counter() - start, time.process_time() - own + sample.pop("cpu")
        self.samples.append(sample | {"clean": _load.clean(before, _load.busy(), own, wall)})


def run(
    module: str,
    benchmark: Benchmark,
    *,
    smoke: bool,
    rounds: int,
    say: Callable[[str], None],
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """The record of a benchmark, ready for strict JSON; of the tasks whose names hold a text of `only`, or of all.

    **Raises** `BenchmarkFailed`: an error above its tolerance, a worker that died or never answered. `ValueError`: no
    such task.
    """
    every = benchmark.smoke if smoke else benchmark.tasks
    tasks = [task for task in every if not only or any(text in task.name for text in only)]
    if not tasks:
        raise ValueError(f"no task holds {' or '.join(only)}; there are: {'; '.join(task.name for task in every)}")
    done = [_run_task(module, benchmark, task, rounds, say) for task in tasks]
    marks = [mark for _, task in done for method in task["methods"] for mark in method.get("clean", ())]
    name = module.rsplit(".", 1)[-1]
    command = ["python", "-m", "benchmarks", name, "--rounds", str(rounds), *(["--smoke"] if smoke else [])]
    command += [word for text in only for word in ("--task", text)]
    return {
        "benchmark": name,
        "question": benchmark.question,
        "smoke": smoke,
        "rounds": rounds,
        "cores": CORES,
        "samples": {"total": len(marks), "clean": marks.count(True), "unknown": marks.count(None)},
        "provenance": done[0][0] | {"command": command},  # what repeats it, wherever it was written
        "tasks": [task for _, task in done],
    }


def _run_task(module, benchmark, task, rounds, say) -> tuple[dict[str, Any], dict[str, Any]]:
    with contextlib.ExitStack() as stack:

        def enter(module: str, task: Task, method: Any) -> Entrant:
            worker = Worker(module, method.name, task, dict(method.environment))
            stack.callback(worker.close)
            record = {"name": method.name, "ours": method.ours, "environment": dict(method.environment)}
            return Entrant(worker, record)

        judge = Worker(module, None, task, {})
        stack.callback(judge.close)
        entrants = [enter(module, task, m) for m in benchmark.methods if m.name in task.methods or not task.methods]
        present = [e for e in entrants if _admit(e, judge, say)]
        guests = []
        if task.gemm is not None:
            product = Task(task.name, dict(zip(("order", "dtype"), task.gemm, strict=True)))
            guests = [enter(_ceiling.__name__, product, method) for method in _ceiling.BENCHMARK.methods]
            other_judge = Worker(_ceiling.__name__, None, product, {})
            stack.callback(other_judge.close)
            present += [e for e in guests if _admit(e, other_judge, say)]
        _race(present, rounds, say)
        provenance = judge.ask("provenance")
    for entrant in present:
        summarize(entrant)
    return provenance, _record(task, entrants, guests)


def _admit(entrant: Entrant, judge: Worker, say: Callable[[str], None]) -> bool:
    """Correctness before speed: prepare a method, have its result judged, and find how many calls make a sample."""
    prepared = entrant.worker.ask("prepare")
    entrant.record |= prepared
    if "absent" in prepared:
        say(f"{entrant.worker.name}: absent, {prepared['absent']} is not installed")
        return False
    error, tolerance = judge.ask("judge", entrant.worker.ask("result"))
    if not error <= tolerance:  # also NaN
        raise BenchmarkFailed(f"{entrant.worker.name}: wrong, error {error:.3g} above its tolerance {tolerance:.3g}")
    entrant.record |= {"error": error, "tolerance": tolerance}
    seconds = entrant.find_repeats()
    say(f"{entrant.worker.name}: error {error:.2g}, first call {prepared['first_call']:.3g} s, then {seconds:.3g} s")
    return True


def turns(count: int, rounds: int) -> Iterator[list[int]]:
    """Who is called when: everyone once a round, a round beginning one place later than the last."""
    for i in range(rounds):
        yield [(i + k) % count for k in range(count)]


def _race(entrants: list[Entrant], rounds: int, say: Callable[[str], None]) -> None:
    for i, order in enumerate(turns(len(entrants), rounds)):
        for k in order:
            entrants[k].take()
        say(f"round {i + 1} of {rounds}")


def quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def summarize(entrant: Entrant) -> None:
    """Put the statistics of the samples into the record."""
    seconds = [s["seconds"] for s in entrant.samples]
    marks = [s["clean"] for s in entrant.samples]
    kept = [s for s, mark in zip(seconds, marks, strict=True) if mark]
    enough = len(kept) >= min(ENOUGH, len(seconds))
    low, median, high = quartiles(kept if enough else seconds)
    entrant.record |= {
        "repeats": entrant.repeats,
        "seconds": seconds,
        "clean": marks,
        "median": median,
        "quartiles": [low, high],
        "disturbed": not enough,
        "peak_memory": entrant.samples[-1]["peak_memory"],
    }


def _record(task: Task, entrants: list[Entrant], guests: list[Entrant]) -> dict[str, Any]:
    methods = [e.record for e in entrants]
    there = [m for m in methods if "absent" not in m]
    rates = {}
    for guest in guests:
        if "absent" not in guest.record:
            rates[guest.record["name"]] = 2 * task.gemm[0] ** 3 / guest.record["median"] / 1e9 if task.gemm else 0.0
    best = max(rates, key=rates.__getitem__, default=None)
    for method in there:
        if task.flop is not None and best is not None:
            method["percent_of_ceiling"] = 100 * task.flop / method["median"] / 1e9 / rates[best]
    return {
        "name": task.name,
        "parameters": dict(task.parameters),
        "goal": task.goal,
        "flop": task.flop,
        "ceiling": None if best is None else {"gemm": list(task.gemm or ()), "gflops": rates[best], "by": best},
        "methods": methods,
        "ceiling_methods": [g.record for g in guests],
        "ratios": _ratios(task, there),
    }


def _ratios(task: Task, methods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Set each of our methods against the best of its peers, and against the rivals."""
    ours = [method for method in methods if method["ours"]]
    peers = {method["name"]: method for method in methods if not method["ours"]}
    names = task.against or tuple(peers)
    best = min(
        (peers[name] for name in names if name in peers),
        key=lambda peer: peer["median"],
        default=None,
    )
    ratios = []
    for own in ours:
        if best is not None:
            ratios.append(ratio(task.goal, own, best))
        ratios.extend(
            ratio(rival.goal, own, peers[rival.name], least=rival.least)
            for rival in task.rivals
            if rival.name in peers
        )
    return ratios


def failures(record: dict[str, Any]) -> list[str]:
    """Say of each comparison that is below its least in a record by how much."""
    return [
        f"{task['name']}: {found['ours']} is {found['median']:.3g} times as fast as "
        f"{found['peer']}, and must be {found['least']:g} times at least"
        for task in record["tasks"]
        for found in task["ratios"]
        if found["least"] is not None and found["median"] < found["least"]
    ]


def ratio(
    goal: float | None,
    ours: dict[str, Any],
    peer: dict[str, Any],
    *,
    least: float | None = None,
) -> dict[str, Any]:
    """Compare the two samples of each round: how many times faster we are, and the median."""
    every = [theirs / own for own, theirs in zip(ours["seconds"], peer["seconds"], strict=True)]
    marks = [a and b for a, b in zip(ours["clean"], peer["clean"], strict=True)]
    kept = list(itertools.compress(every, marks))
    enough = len(kept) >= min(ENOUGH, len(every))
    low, median, high = quartiles(kept if enough else every)
    return {
        "ours": ours["name"],
        "peer": peer["name"],
        "rounds": every,
        "median": median,
        "quartiles": [low, high],
        "disturbed": not enough,
        "goal": goal,
        "goal_met": None if goal is None else median >= goal,
        "least": least,
    }
