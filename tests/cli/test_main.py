"""The entry point: exit codes, one line for every refusal, the environment."""

import io
import os
import subprocess
import sys

import jax
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from isometry import InputError, verdicts
from isometry.cli import _environment
from tests.cli.calling import call, refused_in_one_line

GAUSSIAN = ["audit", "--data", "gaussian", "--out"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["audit", "--colour", "red"], "--colour"),
        (["audit", "--width", "abc"], "--width"),
        (["audt"], "audt"),
    ],
)
def test_what_typer_refuses_names_the_help(argv, words, capsys):
    assert call(*argv) == 2
    line = capsys.readouterr().err
    assert words in line
    command = "isometry audit" if argv[0] == "audit" else "isometry"
    assert line.endswith(f" {command} --help lists what there is.\n")
    # One end to a sentence, whatever typer has put there.
    assert "?." not in line
    assert ".." not in line


@pytest.mark.parametrize(
    "command", ["spectrum", "audit", "theory", "schemes", "doctor"]
)
def test_every_command_is_interrupted_in_one_line(command, capsys, monkeypatch):
    """By the first thing that each of them computes or reads."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(jax.random, "key", interrupt)
    monkeypatch.setattr("isometry.activations.get", interrupt)
    monkeypatch.setattr("isometry.schemes.listing", interrupt)
    assert call(command) == 130
    shown, complaints = capsys.readouterr()
    assert shown == ""
    # Before it doctor has said what it does.
    assert complaints.endswith("isometry: interrupted; no result is half-written\n")


def test_interrupt_leaves_no_files(tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(verdicts, "audit", interrupt)
    assert call(*GAUSSIAN, tmp_path) == 130
    refused_in_one_line(capsys, "interrupted")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_disk_or_closed_pipe_is_no_raised_flag(monkeypatch, capsys):
    """Code 1 would say that a flag of --fail-on is raised."""
    codes = {}
    reader, writer = os.pipe()
    os.close(reader)
    for name, target in {"disk": "/dev/full", "pipe": writer}.items():
        with open(target, "w") as output:
            monkeypatch.setattr(sys, "stdout", output)
            codes[name] = call("schemes")
    assert codes == {"disk": 2, "pipe": 141}
    assert "No space left on device" in capsys.readouterr().err


def test_pipe_that_closed_before_the_last_line_has_its_code_too(monkeypatch):
    """A short output is still in the buffer when the command has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert call("--version") == 141


def test_crash_is_no_raised_flag(tmp_path, capsys, monkeypatch):
    """Python's own code for a traceback is 1, that of a raised flag."""

    def crash(*args, **kwargs):
        raise ZeroDivisionError("of \x1b]0;nothing\x07")

    monkeypatch.setattr(verdicts, "audit", crash)
    assert call(*GAUSSIAN, tmp_path) == 70
    shown, complaints = capsys.readouterr()
    assert shown == ""
    assert "Traceback" in complaints
    assert "ZeroDivisionError: of \ufffd]0;nothing\ufffd\n" in complaints
    assert complaints.splitlines()[-1].startswith("isometry: stopped by this error")


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "\x9b31m", "\u202e", "\udcff"])
def test_refusal_shows_a_name_and_no_terminal_acts(name, capsys, monkeypatch):
    """ESC and CSI begin a sequence; a surrogate, of a byte that is no UTF-8, fails."""

    def refuse(activation):
        raise InputError(f"the layer [red]{name} is of another")

    monkeypatch.setattr("isometry.activations.get", refuse)
    assert call("theory") == 2
    refused_in_one_line(capsys, f"[red]\ufffd{name[1:]}".rstrip("\x07"))
    for argv in (["schemes", f"ortho{name}"], [f"aud{name}"]):
        assert call(*argv) == 2
        assert name[0] not in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_disk_is_one_line_at_the_end_of_the_process_too():
    """Where Python would fail again on what is left in the buffer, with code 120."""
    # Without a buffer nothing is left in it.
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "isometry.cli", "--version"],
            env=buffered,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    reason = "the output cannot be written: No space left on device."
    assert done.stderr == f"isometry: {reason}\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_disk_behind_stderr_is_no_raised_flag(monkeypatch):
    """A line that cannot be written is left out, and the code is the command's own."""
    with open("/dev/full", "w", buffering=1) as complaints:
        monkeypatch.setattr(sys, "stderr", complaints)
        assert call("schemes", "nothing") == 2


def test_process_without_streams_ends_as_any_other(monkeypatch):
    """As of `>&- 2>&-`, for which Python sets None."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    codes = [call("schemes", "orthogonal"), call("schemes", "nothing")]
    opened = [sys.stdin, sys.stdout, sys.stderr]
    monkeypatch.undo()
    for stream in opened:
        assert stream.name == os.devnull
        stream.close()
    assert codes == [0, 2]


@pytest.mark.parametrize("module", ["matplotlib", "rich", "typer"])
def test_missing_extra_is_named_before_computing(module, tmp_path, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("computed before everything was checked")

    monkeypatch.setattr(verdicts, "audit", refuse)
    monkeypatch.setitem(sys.modules, module, None)
    for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    assert call(*GAUSSIAN, tmp_path / "out") == 2
    refused_in_one_line(capsys, "pip install '.[")
    assert not (tmp_path / "out").exists()


def test_output_without_greek_gets_question_marks(monkeypatch):
    """Standard output as Python opens it where its encoding is ASCII."""
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert call("theory", "--sigma-w", "1.5", "--sigma-b", "0.3") == 0
    stdout.flush()
    text = written.getvalue().decode("ascii")
    assert "mu_2/mu_1? ? 1" in text
    assert "0.9608442797" in text


VERSION = """
import os, sys
from isometry import cli
assert "jax" not in sys.modules
try:
    cli.main(["--version"])
except SystemExit as stop:
    print(stop.code, os.environ["OPENBLAS_NUM_THREADS"])
"""


@pytest.mark.parametrize("given", [None, "3"])
def test_threads_are_set_before_jax_and_only_if_unset(given):
    environment = dict(os.environ)
    environment.pop("OPENBLAS_NUM_THREADS", None)
    if given:
        environment["OPENBLAS_NUM_THREADS"] = given
    done = subprocess.run(
        [sys.executable, "-c", VERSION],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    version, line = done.stdout.splitlines()
    assert version.count(".") == 2
    assert line == f"0 {given or 1}"


def test_own_variables_are_told_from_the_users(monkeypatch):
    monkeypatch.setattr(_environment, "_own", {})
    monkeypatch.setenv("OURS", "")
    monkeypatch.delenv("OURS")
    monkeypatch.setenv("THEIRS", "3")
    _environment.set_defaults({"OURS": "1", "THEIRS": "1"})
    assert _environment.own() == {"OURS": "1"}
    assert os.environ["THEIRS"] == "3"
    monkeypatch.setenv("OURS", "2")
    assert _environment.own() == {}
