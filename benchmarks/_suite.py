"""Test files, each in a pytest process of its own, for as long as there is time."""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from benchmarks._declare import Record

ROOT = pathlib.Path(__file__).resolve().parent.parent

# The project's own options are left out: they ask for plugins that a machine with a
# device may lack. Verbose lines come one by one, so that a run cut short tells as well.
OPTIONS = (
    *("-v", "-m", "not slow", "--tb=line", "--color=no", "--no-header"),
    *("-p", "no:cacheprovider", "-o", "addopts="),
)
_OUTCOME = re.compile(
    r"^(\S.*?::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE
)
_REASON = re.compile(r"^(?:FAILED|ERROR) .+$", re.MULTILINE)
_STARTED = re.compile(r"^(\S.*?::.+?) *\Z", re.MULTILINE)


def run(
    files: Sequence[str],
    *,
    deadline: float,
    processes: int,
    environment: Mapping[str, str],
) -> Record:
    """Run test files side by side until all are done or the time is up.

    Args:
        files: Paths, relative to the repository or absolute.
        deadline: A time of `time.monotonic`. What still runs then is killed.
        processes: How many files run at a time.
        environment: Variables of the tests, on top of this process's own.

    Returns:
        Counts of tests by outcome, names of the failures, the failures' reasons, files
        that did not end and the test that each was at, files that never started, and
        the seconds that each file took.
    """

    def of_file(file: str) -> Record:
        return _run_file(file, deadline, os.environ | environment)

    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        records = dict(zip(files, pool.map(of_file, files), strict=True))
    ran = {file: record for file, record in records.items() if record["started"]}
    return {
        "passed": sum(record["passed"] for record in ran.values()),
        "skipped": sum(record["skipped"] for record in ran.values()),
        "failed": [name for record in ran.values() for name in record["failed"]],
        "reasons": [line for record in ran.values() for line in record["reasons"]],
        "unfinished": {
            file: record["running"] for file, record in ran.items() if record["cut"]
        },
        "not_reached": [file for file in files if file not in ran],
        "file_seconds": {file: record["seconds"] for file, record in ran.items()},
    }


def _run_file(file: str, deadline: float, environment: Mapping[str, str]) -> Record:
    """Run one file and read its outcomes, also of a run that was killed."""
    start = time.monotonic()
    if start >= deadline:
        return {"started": False}
    command = [sys.executable, "-u", "-m", "pytest", *OPTIONS, file]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output
        )
        try:
            code = process.wait(deadline - start)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        text = output.read()
    return {
        "started": True,
        "seconds": time.monotonic() - start,
        **_read(text, file, code),
    }


def _read(text: str, file: str, code: int | None) -> Record:
    """Read the outcomes off the output of pytest.

    Args:
        text: What it has printed so far.
        file: The test file.
        code: Its exit status; None if it was killed.

    Returns:
        What `run` returns, of one file, and whether it was cut short.
    """
    outcomes = _OUTCOME.findall(text)
    failed = [name for name, word in outcomes if word in ("FAILED", "ERROR")]
    reasons = _REASON.findall(text)
    # 0: all passed. 1: some failed, or Python found no pytest. 5: none was selected.
    # Others ran no test, or crashed at one, which then has no outcome: the file failed.
    if code not in (None, 0, 1, 5) or (code == 1 and not failed):
        failed.append(file)
        reasons.append(f"{file}: exit code {code}: {text[-500:]}")
    # The last line names a test without an outcome if it was cut short there.
    started = _STARTED.search(text)
    running = None
    if started is not None:
        running = started.group(1)
    return {
        "passed": sum(word in ("PASSED", "XFAIL") for _, word in outcomes),
        "skipped": sum(word == "SKIPPED" for _, word in outcomes),
        "failed": failed,
        "reasons": reasons,
        "cut": code is None,
        "running": running,
    }
