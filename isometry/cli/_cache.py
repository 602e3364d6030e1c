"""Compiled programs, kept in the user's cache directory from one command to the next.

This is JAX's own persistent compilation cache. Its own limit of size is not used: with
it, every program that is written takes a lock and reads the whole folder, 180 ms at
5,000 programs where it takes 0.05 ms without; and one process that is killed at the
wrong moment leaves a file that makes all later writes fail.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import sys
import tempfile

from isometry.cli import _environment

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


def prepare(*, is_off: bool = False) -> None:
    """Tell JAX, which is not imported yet, where it keeps compiled programs.

    A folder that the user has set for JAX stays as it is, with its settings. A folder
    that cannot be written to is reported on stderr, and the command goes on without.

    Args:
        is_off: Whether this command neither reads nor writes compiled programs.
    """
    if is_off:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"
        return
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    path = folder()
    try:
        _require_writable(path)
        trim(path, MOST_BYTES)
    except OSError as error:
        print(
            f"isometry: compiled programs are not kept: {str(path)!r} cannot be "
            f"written to, {error.strerror}. JAX_COMPILATION_CACHE_DIR names another "
            "folder, and --no-cache none.",
            file=sys.stderr,
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


def _require_writable(path: pathlib.Path) -> None:
    """Make the folder, and a file in it that vanishes at once.

    Raises:
        OSError: One of them cannot be made.
    """
    # Without a home directory "~" stays as it is, and would become a folder here.
    if not path.is_absolute():
        raise FileNotFoundError(2, "there is no home directory")
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


def trim(path: pathlib.Path, most_bytes: int) -> None:
    """Remove the programs that were used least recently, until the others fit.

    Args:
        path: The folder.
        most_bytes: The size that it may have afterwards.
    """
    files = []
    for parent, _, names in os.walk(path):
        for name in names:
            file = os.path.join(parent, name)
            # Another command may have removed it meanwhile.
            with contextlib.suppress(FileNotFoundError):
                stat = os.stat(file)
                files.append((max(stat.st_atime, stat.st_mtime), stat.st_size, file))
    num_bytes = 0
    for _, size, file in sorted(files, reverse=True):
        num_bytes += size
        # A write that was interrupted leaves an empty file, which JAX never replaces.
        if size == 0 or num_bytes > most_bytes:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
