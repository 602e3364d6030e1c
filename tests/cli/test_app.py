"""Help, examples, and what `isometry` alone says."""

import re
import shlex
import subprocess
import sys

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.main import get_command

import isometry
from isometry.cli import _app
from tests.cli.calling import call

COMMANDS = {command.name: command for command in _app.COMMANDS}

# Commands whose examples take seconds. The others are read, and not run.
QUICK = ("theory", "schemes", "doctor")

LOADED = """
import sys
from isometry import cli
for argv in ["--help"], {commands}:
    try:
        cli.main(argv)
    except SystemExit:
        pass
print([name for name in {heavy} if name in sys.modules], len(sys.modules))
"""
HEAVY = ("jax", "jaxlib", "matplotlib", "numpy", "optax", "scipy", "xarray")

# Python, typer and rich load 320 modules, and JAX alone would add 600. Each module
# takes about 0.3 ms: with twice as many, help would take a tenth of a second longer.
MOST_MODULES = 450


def test_help_loads_nothing_heavy():
    """Help takes as long as its imports: 0.15 s without JAX, 0.7 s with it."""
    argvs = ", ".join(str([name, "--help"]) for name in COMMANDS)
    code = LOADED.format(commands=argvs, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy, num_modules = done.stdout.splitlines()[-1].rsplit(" ", 1)
    assert heavy == "[]"
    assert int(num_modules) < MOST_MODULES


def test_isometry_alone_shows_what_to_try_first(capsys):
    """With click's exit code: in a script that lacks the command, 0 would be clean."""
    assert call() == 2
    shown, complaints = capsys.readouterr()
    assert complaints == ""
    assert max(map(len, shown.splitlines())) <= 80
    words = re.findall(r"^  isometry (.*)", shown, re.MULTILINE)
    assert len(words) == 3
    for argv in words:
        parse(argv)
    assert "isometry --help" in shown
    assert "docs/" in shown


def parse(line):
    """Read the words of a command, and run nothing."""
    name, *argv = shlex.split(line)
    group = get_command(_app.application())
    return group.commands[name].make_context(name, argv).params


def test_the_reading_of_an_example_can_fail():
    with pytest.raises(Exception, match="--colour"):
        parse("audit --colour red")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_of_a_command_ends_with_its_example(name, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert call(name, "--help") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    last = [line for line in lines if line][-1]
    assert last == f"Example: {COMMANDS[name].example}"
    # The text of the help is wrapped, and not cut.
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_example_works_as_it_is_printed(name, tmp_path, monkeypatch, capsys):
    program, command, *argv = shlex.split(COMMANDS[name].example)
    assert program == "isometry"
    assert command == name
    assert parse(shlex.join([command, *argv]))
    if name in QUICK:
        monkeypatch.chdir(tmp_path)
        assert call(command, *argv) == 0
        assert capsys.readouterr().out


def test_every_command_is_listed_with_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert call("--help") == 0
    shown = capsys.readouterr().out
    for command in COMMANDS.values():
        line = re.search(rf"{command.name} +{re.escape(command.summary)}", shown)
        assert line, command.name


def test_version_is_the_packages(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out == isometry.__version__ + "\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options(name):
    """--json, --out and --seed, as any command; --no-cache wherever one compiles."""
    common = {"json", "out", "seed"}
    if name != "schemes":
        common.add("no_cache")
    argv = {"sweep": "show store"}.get(name, "")
    assert common <= set(parse(f"{name} {argv}"))
