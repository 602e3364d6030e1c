"""Compiled programs, kept in the user's cache directory from one command to the next.

This is JAX's own persistent compilation cache. Its own limit of size is not used: with
it, every program that is written takes a lock and reads the whole folder, 180 ms at
5,000 programs where it takes 0.05 ms without; and one process that is killed at the
wrong moment leaves a file that makes all later writes fail.
"""

import contextlib
import errno
import hashlib
import importlib
import math
import os
import pathlib
import platform
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator

from isometry.cli import _environment, _terminal

# Bytes that the folder may hold when a command begins; what the command compiles comes
# on top. A default audit compiles 2 MB. With ten times less, a day's work on several
# models would be thrown away while it is needed; ten times more fills small disks, and
# 160,000 files take a second to list.
MOST_BYTES = 200_000_000

# Programs of any size and compile time are kept: those of a command take milliseconds
# each, and there are hundreds.
_SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


# What JAX calls a program, and the time at which one was used.
_ENDINGS = ("-cache", "-atime")

# Folders that XLA makes in the folder of JAX, on a GPU.
_FOLDERS_OF_XLA = ("xla_gpu_per_fusion_autotune_cache_dir",)

# A file whose time is that of the last check for truncated programs.
_CHECKED = "isometry-checked"

# Seconds by which clocks of machines that share a home directory may differ. Ten times
# less would miss truncated programs; ten times more would read many files twice.
_CLOCKS_DIFFER = 60.0

# The first bytes of a Zstandard frame (RFC 8878, section 3.1.1).
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


def prepare(*, is_off: bool = False) -> None:
    """Tell JAX, which is not imported yet, where it keeps compiled programs.

    A folder that the user has set for JAX stays as it is, with its settings. A folder
    that cannot be written to, or that others can, is reported on stderr, and the
    command goes on without.

    Args:
        is_off: Whether this command neither reads nor writes compiled programs.
    """
    if is_off:
        _environment.put({"JAX_ENABLE_COMPILATION_CACHE": "0"})
        return
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    path = folder()
    try:
        _make(path)
        remove_truncated(path)
        trim(path, MOST_BYTES)
    except OSError as error:
        where = error.filename or str(path)
        _terminal.complain(
            f"compiled programs are not kept: {where!r} cannot be used, "
            f"{error.strerror}. JAX_COMPILATION_CACHE_DIR names another folder, and "
            "--no-cache none."
        )
        return
    _environment.set_defaults({"JAX_COMPILATION_CACHE_DIR": str(path), **_SETTINGS})


def folder() -> pathlib.Path:
    """Return the folder of this user on this kind of processor."""
    # XLA compiles for the processor at hand. Machines that share a home directory may
    # have several kinds, and a program of another kind can end the process.
    return _user_folder() / "isometry" / _processor()


def _user_folder() -> pathlib.Path:
    """Return the user's cache directory, as each system has it."""
    if sys.platform == "darwin":
        default = "~/Library/Caches"
    elif sys.platform == "win32":
        default = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        default = "~/.cache"
    # By the XDG base directory specification a relative path is to be ignored.
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return pathlib.Path(given)
    return pathlib.Path(os.path.expanduser(default))


def _processor() -> str:
    """Return a short name of the kind of processor: the same model and instructions."""
    described = [platform.system(), platform.machine(), platform.processor()]
    # Linux lists each core; the first one stands for all.
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text()
        first_core = text.split("\n\n")[0]
        named = ("model name", "flags", "Features", "CPU part")
        described += [line for line in first_core.split("\n") if line.startswith(named)]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:12]


def _make(path: pathlib.Path) -> None:
    """Make the folder, its parent, and a file in it that vanishes at once.

    Raises:
        OSError: One of them cannot be made, or somebody else can write to it.
    """
    # Without a home directory "~" stays as it is, and would become a folder here.
    if not path.is_absolute():
        raise FileNotFoundError(errno.ENOENT, "there is no home directory")
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    for folder in (path.parent, path):
        folder.mkdir(mode=0o700, exist_ok=True)
        _require_own(folder)
    with tempfile.TemporaryFile(dir=path):
        pass


def _require_own(path: pathlib.Path) -> None:
    """Refuse a folder into which somebody else can put a program, which JAX would run.

    Raises:
        OSError: It is a link, or of another user, or others may write to it.
    """
    # Windows has no owners of this kind, and a user's folder there is closed to others.
    if not hasattr(os, "getuid"):
        return
    found = os.lstat(path)
    reason = None
    if not stat.S_ISDIR(found.st_mode):
        reason = "it is a link"
    elif found.st_uid != os.getuid():
        reason = "it belongs to another user"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = "other users may write to it; delete it"
    if reason is not None:
        raise PermissionError(errno.EPERM, reason, str(path))


def remove_truncated(path: pathlib.Path) -> None:
    """Remove programs whose writing was interrupted, which JAX never replaces.

    Each is read once: those that a command leaves, by the command after it.

    Args:
        path: The folder.
    """
    marker = path / _CHECKED
    checked_until = -math.inf
    with contextlib.suppress(FileNotFoundError):
        checked_until = os.lstat(marker).st_mtime - _CLOCKS_DIFFER
    # Before anything is read: what is written meanwhile belongs to the next check.
    marker.touch()
    for file, found in _programs(path):
        if found.st_mtime < checked_until or not file.endswith("-cache"):
            continue
        # Another command may have removed it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if not _is_whole(pathlib.Path(file).read_bytes()):
                os.unlink(file)


def _is_whole(content: bytes) -> bool:
    """Tell whether a program has its end; true where this cannot be told."""
    make, error = zlib.decompressobj, zlib.error
    # JAX compresses by zstandard where that is installed.
    if content.startswith(_ZSTANDARD):
        try:
            zstandard = importlib.import_module("zstandard")
        except ImportError:
            return True
        make = zstandard.ZstdDecompressor().decompressobj
        error = zstandard.ZstdError
    stream = make()
    try:
        stream.decompress(content)
    except error:
        return False
    # An empty file, which most interruptions leave, has no end either.
    return stream.eof


def _programs(path: pathlib.Path) -> Iterator[tuple[str, os.stat_result]]:
    """Return what JAX and XLA have written to a folder: paths, and what they are.

    Nothing is behind a link, and all else in the folder is the user's.
    """
    for parent, folders, names in os.walk(path):
        is_top = parent == str(path)
        if is_top:
            folders[:] = [name for name in folders if name in _FOLDERS_OF_XLA]
        for name in names:
            if is_top and not name.endswith(_ENDINGS):
                continue
            file = os.path.join(parent, name)
            # Another command may have removed it meanwhile.
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(file)
                if stat.S_ISREG(found.st_mode):
                    yield file, found


def trim(path: pathlib.Path, most_bytes: int) -> None:
    """Remove the programs that were used least recently, until the others fit.

    The file system tells when a program was read, to the day on most systems. Where it
    keeps no such times, those that were written first go first. A folder behind a link
    is left alone.

    Args:
        path: The folder.
        most_bytes: The size that it may have afterwards.
    """
    if path.is_symlink():
        return
    files = []
    for file, found in _programs(path):
        used = max(found.st_atime, found.st_mtime)
        files.append((used, found.st_size, file))
    num_bytes = 0
    for _, size, file in sorted(files, reverse=True):
        num_bytes += size
        if num_bytes > most_bytes:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
