"""Plant a fault in a copy of the tree and run the tests that guard its place."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tests.faults._table import Fault

CAUGHT, MISSED, BROKEN = "caught", "missed", "BROKEN"

# pytest's exit codes: 0 all passed, 1 some failed. Any other (2 interrupted, 4 usage, 5
# no test selected) says that the tests did not run, and so nothing about the fault.
_VERDICTS = {0: MISSED, 1: CAUGHT}

# Seconds on the clock. A guard takes well under a minute of CPU, so one that is not
# done by then hangs, also on a machine that is busy with other things.
_LIMIT = 1200

# Marks of tests that the gate leaves out.
_BEYOND_THE_GATE = ("slow", "nightly")

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


def run(fault: Fault, root: pathlib.Path, cache: str) -> Outcome:
    """Plant a fault in a copy of the tree at `root`, and run its tests there.

    Args:
        fault: A row of the table.
        root: The tree that is copied: its package and its tests.
        cache: Folder of JAX's compilation cache, shared by all runs.

    Returns:
        What became of it.
    """
    with tempfile.TemporaryDirectory(prefix="fault-") as folder:
        tree = pathlib.Path(folder)
        _copy(root, tree)
        path = tree / "isometry" / fault.file
        try:
            path.write_text(planted(fault, path.read_text()))
        except (DoesNotApply, FileNotFoundError) as error:
            return Outcome(fault.name, BROKEN, 0.0, str(error))
        files = [f"tests/{name}" for name in fault.tests]
        chosen = ["-k", fault.match] if fault.match else []
        code, seconds, output = _tested(["-x", *chosen, *files], tree, cache)
    verdict = _VERDICTS.get(code, BROKEN)
    failed = failures(output)
    detail = failed[0] if verdict == CAUGHT and failed else _last_line(output)
    if code < 0:
        detail = f"its tests were ended by signal {-code}, after at most {_LIMIT} s"
    return Outcome(fault.name, verdict, round(seconds, 1), detail)


def confirmed(
    outcomes: Sequence[Outcome], root: pathlib.Path, cache: str
) -> list[Outcome]:
    """Run the tests that failed once more, all together and without any fault.

    Returns:
        The outcomes, "BROKEN" where the test fails of itself: it has caught nothing.
    """
    guards = sorted({o.detail for o in outcomes if o.verdict == CAUGHT})
    if not guards:
        return list(outcomes)
    with tempfile.TemporaryDirectory(prefix="fault-") as folder:
        tree = pathlib.Path(folder)
        _copy(root, tree)
        names = [f"tests/{guard}" for guard in guards]
        code, _, output = _tested(names, tree, cache)
    unsound = failures(output) if code in _VERDICTS else guards
    why = "this test fails without the fault as well: "
    return [
        replace(o, verdict=BROKEN, detail=why + o.detail) if o.detail in unsound else o
        for o in outcomes
    ]


def _copy(root: pathlib.Path, tree: pathlib.Path) -> None:
    """Copy the package and the tests; link the rest, which tests only read."""
    for path in root.iterdir():
        if path.name in _COPIED:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, tree / path.name, ignore=ignored)
        elif not path.name.startswith("."):
            (tree / path.name).symlink_to(path)


def _tested(
    arguments: Sequence[str], tree: pathlib.Path, cache: str
) -> tuple[int, float, str]:
    """Run pytest in a tree; return its exit code, seconds of CPU and output."""
    options = ["-q", "--tb=no", "--no-header", "-n", "0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "-m", _gate(tree), *arguments]
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
        return code, seconds, output.read()


def _gate(tree: pathlib.Path) -> str:
    """Return what pytest's -m takes to choose the tests of the gate."""
    project = tomllib.loads((tree / "pyproject.toml").read_text())
    lines = project["tool"]["pytest"]["ini_options"]["markers"]
    known = [line.partition(":")[0] for line in lines]
    # pytest refuses a mark that it does not know, as older trees know no "nightly".
    return " and ".join(f"not {mark}" for mark in _BEYOND_THE_GATE if mark in known)


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


def failures(output: str) -> list[str]:
    """Find the tests that failed, in the summary of pytest's output."""
    line = re.compile(r"^(?:FAILED|ERROR) tests/(.*?)(?: - |$)", re.MULTILINE)
    return line.findall(output)


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1].strip("= ") if lines else "no output"
