"""Compiled programs are kept in the cache directory, and never without end."""

import os
import pathlib
import stat
import subprocess
import sys
import time
import zlib

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


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_xdg_cache_home_counts_on_other_systems_too(platform, user, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("XDG_CACHE_HOME", str(user / "given"))
    assert _cache.folder().parent.parent == user / "given"


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
    # The paste of `isometry doctor` says whose setting it is.
    assert _environment.own()["JAX_ENABLE_COMPILATION_CACHE"] == "0"
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


def programs(folder):
    """The names of the programs in a folder."""
    return sorted(path.name for path in folder.glob("*-cache"))


def test_least_recently_used_programs_go_first(user):
    for i, name in enumerate(("oldest-cache", "older-cache", "newest-cache")):
        (user / name).write_bytes(b"x" * 100)
        os.utime(user / name, (i, i))
    # Read again after all others, as a program that is used.
    os.utime(user / "oldest-cache", (10, 0))
    _cache.trim(user, 250)
    assert programs(user) == ["newest-cache", "oldest-cache"]
    _cache.trim(user, 200)
    assert len(programs(user)) == 2
    _cache.trim(user, 0)
    assert not list(user.iterdir())


def test_only_what_jax_and_xla_have_written_is_removed(user):
    """A folder of the user's own may have come to lie there, or behind a link."""
    theirs = user / "theirs"
    theirs.mkdir()
    (theirs / "thesis-cache").write_text("years of work")
    folder = user / "folder"
    autotuned = folder / "xla_gpu_per_fusion_autotune_cache_dir"
    autotuned.mkdir(parents=True)
    (autotuned / "one.textproto").write_bytes(b"x")
    (folder / "program-cache").write_bytes(b"x")
    (folder / "notes.txt").write_bytes(b"x")
    (folder / "link").symlink_to(theirs)
    (folder / "link-cache").symlink_to(theirs / "thesis-cache")
    (user / "other").symlink_to(theirs)
    _cache.trim(folder, 0)
    _cache.trim(user / "other", 0)
    left = sorted(path.name for path in folder.rglob("*"))
    assert left == ["link", "link-cache", "notes.txt", autotuned.name]
    assert (theirs / "thesis-cache").read_text() == "years of work"


def test_truncated_program_is_removed(user):
    """JAX takes it for a program, cannot read it, and never replaces it."""
    whole = zlib.compress(os.urandom(100))
    (user / "empty-cache").touch()
    (user / "half-cache").write_bytes(whole[: len(whole) // 2])
    (user / "without_end-cache").write_bytes(whole[:-1])
    (user / "other-cache").write_bytes(b"x")
    (user / "whole-cache").write_bytes(whole)
    _cache.remove_truncated(user)
    assert programs(user) == ["whole-cache"]


def test_program_that_cannot_be_read_here_stays(user, monkeypatch):
    """Compressed where zstandard was installed, and now it is not."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (user / "one-cache").write_bytes(_cache._ZSTANDARD)
    _cache.remove_truncated(user)
    assert programs(user) == ["one-cache"]


def test_program_is_read_once_for_its_end(user, monkeypatch):
    """The files of a cache of 200 MB are not read before every command."""
    asked = []
    monkeypatch.setattr(_cache, "_is_whole", lambda content: asked.append(1) or True)
    (user / "one-cache").write_bytes(b"x")
    hour_ago = time.time() - 3600
    os.utime(user / "one-cache", (hour_ago, hour_ago))
    _cache.remove_truncated(user)
    _cache.remove_truncated(user)
    assert len(asked) == 1
    (user / "two-cache").write_bytes(b"x")
    _cache.remove_truncated(user)
    assert len(asked) == 2


def test_cache_is_checked_and_trimmed_before_a_command(user, monkeypatch):
    folder = _cache.folder()
    for path in (folder.parent, folder):
        path.mkdir(mode=0o700, parents=True)
    whole = zlib.compress(b"x")
    (folder / "truncated-cache").write_bytes(whole[:-1])
    (folder / "program-cache").write_bytes(whole)
    _cache.prepare()
    assert programs(folder) == ["program-cache"]
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(_cache, "MOST_BYTES", len(whole) - 1)
    _cache.prepare()
    assert programs(folder) == []


def test_folder_is_closed_to_others(user):
    before = os.umask(0)
    try:
        _cache.prepare()
    finally:
        os.umask(before)
    for folder in (_cache.folder(), _cache.folder().parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def link(folder, user):
    (user / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(user / "elsewhere")


def open_to_others(folder, user):
    folder.mkdir()
    folder.chmod(0o777)


def open_to_a_group(folder, user):
    folder.mkdir()
    folder.chmod(0o770)


def of_another(folder, user):
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)


@pytest.mark.parametrize("which", ["of programs", "above it"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (link, "it is a link"),
        (open_to_others, "other users may write to it; delete it"),
        (open_to_a_group, "other users may write to it; delete it"),
        (of_another, "it belongs to another user"),
    ],
)
def test_folder_that_others_can_fill_is_not_used(which, make, words, user, capsys):
    """JAX runs what lies in it."""
    if make is of_another and os.getuid() != 0:
        pytest.skip("only root gives folders away")
    folder = _cache.folder()
    if which == "above it":
        folder = folder.parent
    folder.parent.mkdir(mode=0o700, parents=True)
    folder.parent.chmod(0o700)
    make(folder, user)
    _cache.prepare()
    complaints = capsys.readouterr().err
    assert complaints.startswith("isometry: compiled programs are not kept: ")
    assert f"{str(folder)!r} cannot be used, {words}." in complaints
    assert complaints.count("\n") == 1
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


COMPILE = """
from isometry.cli import _cache
_cache.prepare()
import jax
found = []
jax.monitoring.register_event_listener(
    lambda event, **_: found.append(event) if event.endswith("/cache_hits") else None
)
jax.jit(lambda x: x + 1)(1.0)
print(len(found))
"""


def test_second_process_finds_the_programs_of_the_first(user):
    """A program of a millisecond too; JAX itself tells what it has found."""
    hits = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", COMPILE], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        hits.append(int(done.stdout))
    assert programs(_cache.folder())
    assert hits[0] == 0
    assert hits[1] >= 1
