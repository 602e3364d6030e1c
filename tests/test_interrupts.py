"""Stopped at any moment, a command leaves nothing half-written.

By Ctrl-C or by force; and its next run ends well.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass

import pytest

from isometry._internal import interrupts

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("xarray")
image = pytest.importorskip("matplotlib.image")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
ROOT = pathlib.Path(__file__).parents[1]
STOPS = 17
TINY = [
    *["--scheme", "orthogonal", "--width", "4", "--depth", "2"],
    *["--seeds", "1", "--inputs", "1", "--train-steps", "0", "--data", "gaussian"],
]
FIGURE = "poole2016_maps"
COMMANDS = {
    "audit": ["isometry.cli", "audit", *TINY],
    "paper_figs": ["paper_figs", FIGURE, "--preset", "smoke"],
    "benchmarks": ["benchmarks", "compile", "--smoke", "--rounds", "1"],
}
FILES = {
    "audit": ["audit.json", "audit.png"],
    "paper_figs": [f"{FIGURE}{end}" for end in (".json", ".pdf", ".png", ".zarr.zip")],
    "benchmarks": ["compile.json"],
}
LOST = """
import signal, sys, time
from isometry._internal import interrupts
interrupts.REPEAT_SECONDS = 0.1
class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
before = signal.getsignal(signal.SIGINT)
try:
    with interrupts.insistent():
        Finalized()
        print("went on", flush=True)
        time.sleep(30)
except KeyboardInterrupt:
    print("stopped", signal.getsignal(signal.SIGINT) is before)
    time.sleep(0.3)
    print("once")
"""
WRITER = """
import pathlib, sys
from isometry import store
from isometry._internal import interrupts
from matplotlib.figure import Figure
figure = Figure(figsize=(1, 1))
figure.add_subplot()
with interrupts.insistent():
    print("ready", flush=True)
    for i in range(10**6):
        report = pathlib.Path(sys.argv[1]) / "report"
        store.write_report(report, {"i": [i] * 20000}, figure)
"""

# A child in the background would inherit that SIGINT is ignored.
HEARING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def started(words):
    """Start a Python process that hears SIGINT."""
    return subprocess.Popen(
        [sys.executable, "-c", HEARING, *map(str, words)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def started_command(name, folder):
    return started(["-m", *COMMANDS[name], "--out", folder])


@pytest.fixture
def hearing():
    """This process hears SIGINT too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def require_whole(path):
    """Require that a file opens and can be read to its end."""
    if path.suffix == ".json":
        json.loads(path.read_text(), parse_constant=pytest.fail)
    elif path.suffix == ".png":
        assert image.imread(path).size
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert archive.namelist()
    else:
        assert path.suffix == ".pdf"
        assert path.read_bytes().rstrip().endswith(b"%%EOF")


def final_names(folder):
    """The names of all files but unfinished ones, which are hidden; all are whole."""
    names = []
    for path in folder.rglob("*"):
        is_part = path.name.startswith(".") and path.suffix == ".part"
        if path.is_file() and not is_part:
            require_whole(path)
            names.append(path.name)
    return sorted(names)


def finish(name, folder):
    """Run a command to its end; return how long that took."""
    begin = time.monotonic()
    child = started_command(name, folder)
    shown, complaints = child.communicate(timeout=600)
    assert child.returncode == 0, shown + complaints
    return time.monotonic() - begin


def complaints_of(child):
    """The stderr of a child that ends; one that does not hear is not left behind."""
    try:
        _, complaints = child.communicate(timeout=120)
    finally:
        child.kill()
    return complaints


@dataclass(frozen=True)
class Stop:
    """How a run was stopped, and how it ended."""

    signal: signal.Signals
    after: float
    code: int
    complaints: str


def stop(name, folder, *, how, after):
    """Start a command, and send it a signal after so many seconds."""
    child = started_command(name, folder)
    try:
        child.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        child.send_signal(how)
    complaints = complaints_of(child)
    return Stop(how, after, child.returncode, complaints[-2000:])


def test_interrupt_that_a_finalizer_swallows_comes_again_once():
    """Python drops what a finalizer raises, as does the collector's callback of JAX."""
    shown, complaints = started(["-c", LOST]).communicate(timeout=25)
    assert "Exception ignored" in complaints
    assert shown.split("\n") == ["went on", "stopped True", "once", ""]


@pytest.mark.usefixtures("hearing")
def test_timer_of_the_callers_own_is_left_alone():
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        with interrupts.insistent() as heard:
            assert heard == []
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.usefixtures("hearing")
def test_what_an_interrupt_turned_into_is_an_interrupt():
    """As by the import of an extension; otherwise an error is what it was."""

    def imported():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("an error while initializing the extension") from None

    with pytest.raises(KeyboardInterrupt), interrupts.insistent() as heard:
        imported()
    assert heard == [signal.SIGINT]
    with pytest.raises(ImportError), interrupts.insistent() as heard:
        raise ImportError
    assert heard == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
def test_command_stopped_at_any_moment(name, tmp_path):
    """17 stops spread over the length of a run, in one folder; then one to its end."""
    seconds = finish(name, tmp_path / "undisturbed")
    assert final_names(tmp_path / "undisturbed") == FILES[name]
    folder = tmp_path / "stopped"
    folder.mkdir()
    rng = random.Random(0)
    stops = []
    for i in range(STOPS):
        how = (signal.SIGINT, signal.SIGKILL)[i % 2]
        after = 0.3 + rng.random() * seconds
        stops.append(stop(name, folder, how=how, after=after))
        require_clean(name, folder, stops)
    print(f"{name}: {seconds:.1f} s undisturbed;", [one.code for one in stops])
    finish(name, folder)
    assert final_names(folder) == FILES[name]


def require_clean(name, folder, stops):
    """Require what must hold after each stop."""
    last = stops[-1]
    assert set(final_names(folder)) <= set(FILES[name]), stops
    allowed = {0, -last.signal}
    if last.signal is signal.SIGINT:
        allowed.add(130)
        # What is killed cannot clean up.
        is_any_killed = any(one.signal is signal.SIGKILL for one in stops)
        assert is_any_killed or not list(folder.glob(".*.part"))
    assert last.code in allowed, last
    if name == "audit" and last.code == 130:
        # Before it there may be Python's note of what it dropped.
        end = "isometry: interrupted; no result is half-written\n"
        assert last.complaints.endswith(end), last


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name
)
def test_writer_stopped_in_the_middle(how, tmp_path):
    """A process that does nothing but write, so that every stop is in the middle."""
    rng = random.Random(1)
    num_whole = 0
    for _ in range(STOPS):
        child = started(["-c", WRITER, tmp_path])
        assert child.stdout.readline() == "ready\n"
        time.sleep(rng.random() * 0.5)
        child.send_signal(how)
        complaints_of(child)
        assert child.returncode in (-how, 1, 130)
        names = final_names(tmp_path)
        both = ["report.json", "report.png"]
        assert names in ([], both[:1], both[1:], both)
        num_whole += names == both
        if how is signal.SIGINT:
            assert not list(tmp_path.glob(".*"))
    assert num_whole > STOPS / 2
