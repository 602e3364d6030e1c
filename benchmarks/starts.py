"""The time that a user of the command line waits, from the command to its last line.

Each call starts a new process. "First time" has an empty cache directory, as after an
installation: all programs are compiled. "Second time" finds there what an earlier call
has compiled. Goals are in seconds, of a machine with two cores.
"""

import getpass
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks._declare import DEFAULT_PROCESS, Benchmark, Call, Method, Task

# What the driver's shell says of JAX's cache would be used instead.
_OF_CACHE = ("JAX_COMPILATION_CACHE", "JAX_ENABLE_COMPILATION_CACHE", "JAX_PERSISTENT")

FIRST = "first time"
SECOND = "second time"


def run(arguments: Sequence[str], caches: str, folder: str) -> str:
    """Run a command, and return what it prints.

    Args:
        arguments: Those of `isometry`.
        caches: The user's cache directory.
        folder: Where the command is started and leaves its files.

    Raises:
        RuntimeError: Its exit code is not 0.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OF_CACHE)
    }
    done = subprocess.run(
        [sys.executable, "-m", "isometry.cli", *arguments],
        env=environment | {"XDG_CACHE_HOME": caches},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr}")
    return done.stdout


# ---- methods ----


def first_time(arguments: tuple[str, ...]) -> Call:
    """Call the command with an empty cache directory, a new one each time."""

    def start() -> str:
        with tempfile.TemporaryDirectory() as folder:
            return run(arguments, caches=folder, folder=folder)

    return start


def second_time(arguments: tuple[str, ...]) -> Call:
    """Call the command with a cache directory that an earlier call has filled."""
    # One for all commands and runs: a worker is killed at its end, and removes nothing.
    user = getpass.getuser()
    folder = pathlib.Path(tempfile.gettempdir(), f"isometry-starts-{user}")
    folder.mkdir(mode=0o700, exist_ok=True)
    run(arguments, caches=str(folder), folder=str(folder))

    def start() -> str:
        return run(arguments, caches=str(folder), folder=str(folder))

    return start


# ---- what is right ----


def reference(arguments: tuple[str, ...]) -> str:
    """Return what the command prints where nothing is read from a cache."""
    with tempfile.TemporaryDirectory() as folder:
        return run(arguments, caches=folder, folder=folder)


def error(result: Any, reference: str, arguments: tuple[str, ...]) -> float:
    """Count the lines that differ: a program from the cache computes the same."""
    lines = str(result).splitlines()
    right = reference.splitlines()
    differing = sum(one != other for one, other in zip(lines, right, strict=False))
    return float(differing + abs(len(lines) - len(right)))


def tolerance(arguments: tuple[str, ...]) -> float:
    """Return how many lines may differ: none, but where they tell of the moment."""
    # The doctor says how long its self-test took, where programs are kept, and whether
    # the tree has changes that are not committed.
    return 3.0 if "doctor" in arguments else 0.0


# ---- tasks ----


def declare(*arguments: str, first: float | None, second: float | None) -> Task:
    """Declare a command, with the seconds that it may take each time."""
    seconds = {FIRST: first, SECOND: second}
    return Task(
        " ".join(("isometry", *arguments)),
        parameters={"arguments": arguments},
        seconds={name: most for name, most in seconds.items() if most is not None},
    )


BENCHMARK = Benchmark(
    question="How long does a command take, the first time and the second?",
    tasks=(
        declare("--help", first=0.4, second=0.4),
        declare("theory", first=2.5, second=2.5),
        declare("doctor", first=6.0, second=6.0),
        declare(
            "spectrum",
            "--scheme",
            "orthogonal,gaussian,kaiming",
            first=15.0,
            second=5.0,
        ),
        declare("audit", first=35.0, second=12.0),
    ),
    smoke=(declare("--help", first=None, second=None),),
    methods=(
        Method(FIRST, first_time, ours=True, environment=DEFAULT_PROCESS),
        Method(SECOND, second_time, ours=True, environment=DEFAULT_PROCESS),
    ),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
