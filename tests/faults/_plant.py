"""Plant one fault in a copy of the tree and run the tests that guard its place."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from typing import Any

from tests.faults._table import Fault

CAUGHT, MISSED, BROKEN = "caught", "missed", "BROKEN"

# pytest's exit codes: 0 all passed, 1 some failed. Any other (2 interrupted, 4 usage, 5
# no test selected) says that the tests did not run, and so nothing about the fault.
_VERDICTS = {0: MISSED, 1: CAUGHT}

# Seconds on the clock. A guard takes well under a minute of CPU, so one that is not done
# by then hangs, also on a machine that is busy with other things.
_LIMIT = 1200

_COPIED = ("isometry", "tests")


class DoesNotApply(ValueError):
    """A snippet of the table does not occur exactly once in the code as it is."""


@dataclass(frozen=True)
class Outcome:
    """What became of one fault.

    Args:
        name: The fault's.
        verdict: "caught", "missed", or "BROKEN" where the tests could not say.
        seconds: CPU time of its tests, to the first failure.
        detail: The test that failed, or what went wrong.
    """

    name: str
    verdict: str
    seconds: float
    detail: str

    def __str__(self) -> str:
        return f"{self.verdict:<7} {self.seconds:5.1f} s  {self.name}: {self.detail}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def planted(fault: Fault, source: str) -> str:
    """Write the fault into the text of its file.

    Raises:
        DoesNotApply: The snippet is not there once, so the table is behind the code.
    """
    count = source.count(fault.before)
    if count != 1:
        raise DoesNotApply(
            f"{fault.before!r} occurs {count} times in isometry/{fault.file}; "
            "bring tests/faults/_table.py up to date with the code"
        )
    return source.replace(fault.before, fault.after)


def run(fault: Fault, root: pathlib.Path, cache: str, plant: bool = True) -> Outcome:
    """Run a fault's tests in a copy of the tree at `root`.

    Args:
        fault: A row of the table.
        root: The tree that is copied: its package and its tests.
        cache: Folder of JAX's compilation cache, shared by all runs.
        plant: False leaves the code as it is: a control, whose tests must pass.

    Returns:
        What became of it. A control that passes is "missed".
    """
    with tempfile.TemporaryDirectory(prefix="fault-") as folder:
        tree = pathlib.Path(folder)
        _copy(root, tree)
        if plant:
            path = tree / "isometry" / fault.file
            try:
                path.write_text(planted(fault, path.read_text()))
            except (DoesNotApply, FileNotFoundError) as error:
                return Outcome(fault.name, BROKEN, 0.0, str(error))
        return _tested(fault, tree, cache)


def _copy(root: pathlib.Path, tree: pathlib.Path) -> None:
    """Copy the package and the tests; link the rest, which tests only read."""
    for path in root.iterdir():
        if path.name in _COPIED:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, tree / path.name, ignore=ignored)
        elif not path.name.startswith("."):
            (tree / path.name).symlink_to(path)


def _tested(fault: Fault, tree: pathlib.Path, cache: str) -> Outcome:
    options = "-x -q --tb=no --no-header -n 0 -p no:cacheprovider".split()
    files = [f"tests/{name}" for name in fault.tests]
    chosen = ["-k", fault.match] if fault.match else []
    command = [sys.executable, "-m", "pytest", *options, "-m", "not slow", *chosen, *files]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=tree,
            env=_environment(tree, cache),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        code, seconds = _waited(process)
        output.seek(0)
        detail = _detail(output.read())
    if code < 0:
        detail = f"its tests were ended by signal {-code}, after at most {_LIMIT} s"
    return Outcome(fault.name, _VERDICTS.get(code, BROKEN), round(seconds, 1), detail)


def _waited(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Wait for a process; return its exit code and its seconds of CPU."""
    timer = threading.Timer(_LIMIT, process.kill)
    timer.start()
    try:
        # wait4, because only it says how much CPU this one process took.
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime


def _environment(tree: pathlib.Path, cache: str) -> dict[str, str]:
    """Have Python import the copy, and JAX keep everything that it compiles."""
    return os.environ | {
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _detail(output: str) -> str:
    """Find the test that failed, else pytest's last line."""
    failure = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(.*?)(?: - |$)", output, re.MULTILINE)
    if failure:
        return failure.group(1)
    lines = output.strip().splitlines()
    return lines[-1].strip("= ") if lines else "no output"
