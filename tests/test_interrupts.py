"""Stopped at any moment, by Ctrl-C or by force, a command leaves nothing half-written, and its next run ends well."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from isometry._internal import interrupts

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("xarray")
image = pytest.importorskip("matplotlib.image")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
ROOT = pathlib.Path(__file__).parent.parent
STOPS = 17
TINY = ["--scheme", "orthogonal", "--width", "4", "--depth", "2", "--seeds", "1", "--inputs", "1"]
COMMANDS = {
    "audit": ["-m", "isometry.cli", "audit", *TINY, "--train-steps", "0", "--data", "gaussian", "--out"],
    "paper_figs": ["-m", "paper_figs", "poole2016_maps", "--preset", "smoke", "--out"],
    "benchmarks": ["-m", "benchmarks", "compile", "--smoke", "--rounds", "1", "--out"],
}
FILES = {
    "audit": ["audit.json", "audit.png"],
    "paper_figs": ["poole2016_maps.json", "poole2016_maps.pdf", "poole2016_maps.png", "poole2016_maps.zarr.zip"],
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
        store.write_report(pathlib.Path(sys.argv[1]) / "report", {"i": [i] * 20000}, figure)
"""


HEARING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def started(words, **kwargs):
    """A child that hears SIGINT, which one in the background would inherit ignored."""
    return subprocess.Popen(
        [sys.executable, "-c", HEARING, *map(str, words)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs,
    )  # fmt: skip


@pytest.fixture
def hearing():
    """This process hears SIGINT too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def whole(path):
    """The file opens and reads to its end."""
    if path.suffix == ".json":
        json.loads(path.read_text(), parse_constant=pytest.fail)
    elif path.suffix == ".png":
        assert image.imread(path).size
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as held:
            assert held.testzip() is None
            assert held.namelist()
    else:
        assert path.suffix == ".pdf"
        assert path.read_bytes().rstrip().endswith(b"%%EOF")


def check(folder):
    """Everything under a final name is whole; what is unfinished is hidden and named so. Returns the final names."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    final = [path for path in paths if not (path.name.startswith(".") and path.suffix == ".part")]
    for path in final:
        whole(path)
    return sorted(path.name for path in final)


def finish(words, folder):
    before = time.monotonic()
    child = started([*words, folder])
    shown, complaints = child.communicate(timeout=600)
    assert child.returncode == 0, shown + complaints
    return time.monotonic() - before


def ended(child):
    """Its stderr; a child that does not hear is not left behind."""
    try:
        return child.communicate(timeout=120)[1]
    finally:
        child.kill()


def stop(words, folder, after, how):
    """(exit code, stderr) of a run that gets a signal after so many seconds."""
    child = started([*words, folder])
    try:
        child.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        child.send_signal(how)
    complaints = ended(child)
    return child.returncode, complaints


def test_an_interrupt_that_a_finalizer_swallows_comes_again_once():
    """Python drops what is raised in a finalizer, as in the callback of the collector that JAX has."""
    shown, complaints = started(["-c", LOST]).communicate(timeout=25)
    assert "Exception ignored" in complaints
    assert shown.split("\n") == ["went on", "stopped True", "once", ""]


@pytest.mark.usefixtures("hearing")
def test_a_timer_of_the_callers_own_is_left_alone():
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
    """As by the import of an extension; without a Ctrl-C an error is what it was."""

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
def test_a_command_stopped_at_any_moment(name, tmp_path):
    """17 stops spread over the length of a run, in one folder, where the last run ends well."""
    long = finish(COMMANDS[name], tmp_path / "undisturbed")
    assert check(tmp_path / "undisturbed") == FILES[name]
    folder, rng, told = tmp_path / "stopped", random.Random(0), []
    folder.mkdir()
    for i in range(STOPS):
        how, after = (signal.SIGINT, signal.SIGKILL)[i % 2], 0.3 + rng.random() * long
        code, complaints = stop(COMMANDS[name], folder, after, how)
        told.append((how.name, round(after, 1), code, complaints[-2000:]))
        assert set(check(folder)) <= set(FILES[name]), told
        assert code in (0, -how) or (how is signal.SIGINT and code == 130), told[-1]
        if how is signal.SIGINT:
            assert not list(folder.glob(".*.part")) or "SIGKILL" in {t[0] for t in told}
            if name == "audit" and code == 130:
                # before it perhaps Python's note of what it dropped
                assert complaints.endswith("isometry: interrupted; no file is half-written\n"), told[-1]
    print(f"{name}: {long:.1f} s undisturbed;", [t[:3] for t in told])
    finish(COMMANDS[name], folder)
    assert check(folder) == FILES[name]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_a_writer_stopped_in_the_middle(how, tmp_path):
    """A process that does nothing but write, so that every stop is in the middle of it."""
    rng, seen = random.Random(1), 0
    for _ in range(STOPS):
        child = started(["-c", WRITER, tmp_path])
        assert child.stdout.readline() == "ready\n"
        time.sleep(rng.random() * 0.5)
        child.send_signal(how)
        ended(child)
        assert child.returncode in (-how, 1, 130)
        names = check(tmp_path)
        assert names in ([], ["report.json"], ["report.png"], ["report.json", "report.png"])
        seen += names == ["report.json", "report.png"]
        if how is signal.SIGINT:
            assert not list(tmp_path.glob(".*"))
    assert seen > STOPS / 2
