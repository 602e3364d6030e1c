"""Compiled programs are kept in the cache directory, and never without end."""

import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from isometry.cli import _cache, _environment
from tests.cli.calling import call

VARIABLES = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_ENABLE_COMPILATION_CACHE",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
)


@pytest.fixture(autouse=True)
def user(tmp_path, monkeypatch):
    """A user with an empty home, who has set nothing."""
    for name in VARIABLES:
        # Set first, so that what the test leaves behind is removed.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(_environment, "_own", {})
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path


def test_cache_is_in_the_users_cache_directory(user, capsys):
    _cache.prepare()
    folder = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert folder.is_dir()
    assert folder.parent == user / ".cache" / "isometry"
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("given", "expected"), [("elsewhere", "elsewhere"), ("relative", ".cache")]
)
def test_xdg_cache_home_counts_if_it_is_absolute(given, expected, user, monkeypatch):
    """As the XDG base directory specification has it."""
    path = given if given == "relative" else str(user / given)
    monkeypatch.setenv("XDG_CACHE_HOME", path)
    assert _cache.folder().parent.parent == user / expected


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("darwin", "Library/Caches"), ("win32", "AppData/Local")],
)
def test_other_systems_have_other_folders(platform, expected, user, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert _cache.folder().parent.parent == user / expected


def test_other_processors_have_other_folders(monkeypatch):
    """A program of another processor can end the process."""
    here = _cache.folder()
    assert _cache.folder() == here
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert _cache.folder() != here


def test_folder_of_the_users_own_is_left_alone(user, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(user / "own"))
    _cache.prepare()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(user / "own")
    assert "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ
    assert not list(user.iterdir())


def test_no_cache_turns_every_cache_off(user, monkeypatch, capsys):
    monkeypatch.setattr("isometry.activations.get", pytest.fail)
    # Refused, behind the cache and before any compute.
    assert call("theory", "--no-cache", "--depth", "0") == 2
    assert os.environ["JAX_ENABLE_COMPILATION_CACHE"] == "0"
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert not (user / ".cache").exists()


@pytest.mark.parametrize("name", ["audit", "spectrum", "theory", "sweep", "doctor"])
def test_every_command_that_compiles_has_a_cache(name, monkeypatch, capsys):
    """Each is refused, and its cache was there before."""
    asked = []
    monkeypatch.setattr(_cache, "prepare", lambda *, is_off=False: asked.append(is_off))
    bad = {"theory": ["--depth", "0"], "sweep": ["show"]}.get(name, ["--seed", "-1"])
    assert call(name, *bad) == 2
    assert call(name, *bad, "--no-cache") == 2
    assert asked == [False, True]


def test_unwritable_folder_is_a_note_and_no_failure(user, capsys):
    (user / ".cache").write_text("a file, where a folder belongs")
    _cache.prepare()
    shown, complaints = capsys.readouterr()
    assert shown == ""
    assert complaints.startswith("isometry: compiled programs are not kept: ")
    assert "--no-cache" in complaints
    assert complaints.count("\n") == 1
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_no_home_directory_is_a_note_and_no_failure(user, monkeypatch, capsys):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(user)
    _cache.prepare()
    assert "there is no home directory" in capsys.readouterr().err
    assert not list(user.iterdir())


def test_least_recently_used_programs_go_first(user):
    for i, name in enumerate(("oldest", "older", "newest")):
        (user / name).write_bytes(b"x" * 100)
        os.utime(user / name, (i, i))
    # Read again after all others, as a program that is used.
    os.utime(user / "oldest", (10, 0))
    _cache.trim(user, 250)
    assert sorted(path.name for path in user.iterdir()) == ["newest", "oldest"]
    _cache.trim(user, 200)
    assert len(list(user.iterdir())) == 2
    _cache.trim(user, 0)
    assert not list(user.iterdir())


def test_empty_file_of_an_interrupted_write_is_removed(user):
    """JAX takes it for a program, cannot read it, and never replaces it."""
    (user / "empty").touch()
    (user / "whole").write_bytes(b"x")
    _cache.trim(user, _cache.MOST_BYTES)
    assert [path.name for path in user.iterdir()] == ["whole"]


def test_cache_is_trimmed_before_a_command(user, monkeypatch):
    folder = _cache.folder()
    folder.mkdir(parents=True)
    (folder / "program").write_bytes(b"x" * 100)
    monkeypatch.setattr(_cache, "MOST_BYTES", 99)
    _cache.prepare()
    assert not list(folder.iterdir())


COMPILE = """
from isometry.cli import _cache
_cache.prepare()
import jax
jax.jit(lambda x: x + 1)(1.0)
"""


def test_jax_writes_programs_to_the_folder(user):
    """A program of a millisecond too, and the second process finds it."""
    contents = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", COMPILE], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        contents.append({path.name for path in _cache.folder().glob("*-cache")})
    assert contents[0]
    assert contents[0] == contents[1]
