"""Results on disk, whole or not at all.

A result is written to a temporary file in its own directory, which is then renamed. A
crash, a full disk or Ctrl-C leaves the old file as it was. A symbolic link is followed:
the file that it names is replaced; but not a link of another user, who could aim it at
any file. A pipe or a device is written to once the result is complete.
"""

import contextlib
import errno
import io
import os
import pathlib
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from isometry._internal import checks, strict_json
from isometry._internal.errors import InputError, public

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path: TypeAlias = "str | os.PathLike[str]"
Write: TypeAlias = Callable[[BinaryIO], object]

# Links on the way to a file, as many as Linux follows. With ten times more a loop of
# links would be told as late; ten times fewer are met in practice.
_MOST_LINKS = 40

# Dots per inch of a figure, readable at full width on a screen. With ten times fewer
# nothing could be read; ten times more would make files of hundreds of megabytes.
_DPI = 150


@public("store.prepare")
def prepare(directory: Path) -> pathlib.Path:
    """Make a directory, and find out now whether it can be written to.

    Args:
        directory: The directory, which may exist. Its parents are made with it.

    Returns:
        The path of the directory.

    Raises:
        InputError: It is a file, or cannot be made or written to.

    Example:
        >>> folder = store.prepare("runs/first")
        >>> folder.is_dir()
        True
    """
    path = checks.path("directory", directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        message = f"{str(path)!r} cannot be written to: {error.strerror}."
        raise InputError(message) from None


@public("store.atomically")
def atomically(path: Path, write: Write) -> pathlib.Path:
    """Write one file, whole or not at all.

    Args:
        path: Where the file goes, in a directory that exists. A symbolic link stays,
            and the file that it names is replaced. What is no file, such as a pipe, is
            written to. A link of another user is refused.
        write: Called with a binary file, into which it writes.

    Returns:
        The path.

    Raises:
        InputError: The disk is full, or refuses otherwise; or the path is a link of
            another user. What `write` raises is passed on.

    Example:
        >>> path = store.atomically("note.txt", lambda file: file.write(b"1"))
        >>> path.read_text()
        '1'
    """
    return _write_all({checks.path("path", path): write})[0]


def _write_all(writes: dict[pathlib.Path, Write]) -> list[pathlib.Path]:
    """Write several files; all are complete before the first takes its place.

    Returns:
        The paths.

    Raises:
        InputError: The system refuses a file. None has taken its place, except those
            that the message calls written.
    """
    parts: dict[pathlib.Path, pathlib.Path] = {}
    targets: dict[pathlib.Path, pathlib.Path] = {}
    contents: dict[pathlib.Path, bytes] = {}
    in_place: list[pathlib.Path] = []
    try:
        for path, write in writes.items():
            # The usual reason why a rename fails, known before anything is written.
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            target = _target(path)
            if _is_stream(path):
                buffer = io.BytesIO()
                write(buffer)
                contents[path] = buffer.getvalue()
                continue
            targets[path] = target
            # Opened here, and named as by mkstemp, which would let nobody else read: a
            # result is as readable as any other file.
            part = f".{target.name}.{secrets.token_hex(8)}.part"
            parts[path] = target.with_name(part)
            with open(parts[path], "xb") as file:
                write(file)
                file.flush()
                # The contents go to the disk before the name does: a crash of the
                # machine after the rename would leave an empty file of that name.
                os.fsync(file.fileno())
        for path in writes:
            if path in contents:
                _write_to_stream(path, contents[path])
            else:
                os.replace(parts[path], targets[path])
            in_place.append(path)
    except BaseException as error:  # Ctrl-C too leaves no half-written file behind
        for part in parts.values():
            with contextlib.suppress(OSError):
                os.unlink(part)
        if isinstance(error, OSError) and error.errno is not None:
            refused = [path for path in writes if path not in in_place]
            message = f"{_listed(refused)} cannot be written: {error.strerror}."
            if in_place:
                message = f"{message[:-1]}; {_listed(in_place)} is written."
            raise InputError(message) from error
        raise
    return in_place


def _is_stream(path: pathlib.Path) -> bool:
    """Tell whether bytes are sent to a path, which no file can replace.

    It is a pipe, a device, a socket, or an open file of the process: /dev/stdout.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # Nothing is there, or it cannot be told, which is then said of the write.
        return False
    if not stat.S_ISREG(mode):
        return True
    # /dev/stdout may be a file, into which the shell writes all that is printed. With
    # another file in its place, the rest of what is printed would be lost.
    folder = os.path.realpath(path.parent)
    return folder == "/dev" or folder.startswith("/proc/")


def _target(path: pathlib.Path) -> pathlib.Path:
    """Return the file that a path names, behind all symbolic links.

    Raises:
        OSError: The links lead to themselves, or one of them is of another user.
    """
    target = pathlib.Path(path)
    for _ in range(_MOST_LINKS):
        if not target.is_symlink():
            return pathlib.Path(os.path.realpath(target))
        if _is_anothers(os.lstat(target)):
            reason = f"{str(target)!r} is a link of another user"
            raise PermissionError(errno.EPERM, reason)
        # Of an absolute path nothing stands before it.
        target = target.parent / os.readlink(target)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _is_anothers(found: os.stat_result) -> bool:
    """Tell whether something belongs to another user, and not to the system."""
    # Windows lets administrators alone make links.
    if not hasattr(os, "getuid"):
        return False
    return found.st_uid not in (os.getuid(), 0)


def _write_to_stream(path: pathlib.Path, content: bytes) -> None:
    """Send bytes to a pipe or a device, or to the end of an open file."""
    # Without O_CREAT: if the pipe is gone by now, no file takes its place.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _listed(paths: Iterable[pathlib.Path]) -> str:
    """Return the paths as they stand in a message, with "and" between them."""
    return " and ".join(repr(str(path)) for path in paths)


@public("store.write_json")
def write_json(path: Path, value: object) -> pathlib.Path:
    """Write a value as strict JSON.

    Args:
        path: Where the file goes.
        value: Any nesting of dicts, lists, arrays, numbers, strings and None.
            Infinities become the strings "inf" and "-inf".

    Returns:
        The path.

    Raises:
        InputError: `value` holds a NaN or something that JSON does not know, or the
            file cannot be written.

    Example:
        >>> path = store.write_json("result.json", {"log_s": [0.5, -np.inf]})
        >>> print(path.read_text())
        {
         "log_s": [
          0.5,
          "-inf"
         ]
        }
        <BLANKLINE>
    """
    text = strict_json.dumps(value)
    return atomically(path, lambda file: file.write(text.encode()))


@public("store.write_figure")
def write_figure(
    path: Path,
    figure: "Figure",
    dpi: int = _DPI,
) -> pathlib.Path:
    """Write a matplotlib figure in the format that the suffix of `path` names.

    Args:
        path: Where the file goes: "spectrum.png", "spectrum.pdf".
        figure: The figure.
        dpi: Dots per inch, for raster formats.

    Returns:
        The path.

    Raises:
        InputError: The suffix is of no format that matplotlib writes, or the disk
            refuses.

    Example:
        >>> from matplotlib.figure import Figure
        >>> path = store.write_figure("empty.png", Figure())
        >>> path.read_bytes()[1:4]
        b'PNG'
    """
    path = checks.path("path", path)
    formats = sorted(figure.canvas.get_supported_filetypes())
    suffix = checks.one_of("suffix", path.suffix[1:], formats)
    return atomically(path, lambda file: figure.savefig(file, format=suffix, dpi=dpi))


@public("store.write_report")
def write_report(
    stem: Path,
    value: object,
    figure: "Figure | None" = None,
) -> list[pathlib.Path]:
    """Write a result and its figure; files of the same names are replaced.

    If one of the two cannot be written, neither is. If the disk fails between the two
    renames, the figure alone is new, and the message says so.

    Args:
        stem: Path without the suffix. A dot in it is part of the name.
        value: The result, written to `stem`.json as `write_json` does.
        figure: A Matplotlib figure, written to `stem`.png, or None.

    Returns:
        The paths written: [png, json], or [json] without a figure.

    Raises:
        InputError: `value` holds a NaN or something that JSON does not know, or a file
            cannot be written.

    Example:
        >>> paths = store.write_report("sigma_1.5", {"s_max": 1.5})
        >>> [path.name for path in paths]
        ['sigma_1.5.json']
    """
    stem = checks.path("stem", stem)
    if not stem.name:
        raise InputError(f"stem={str(stem)!r} is a folder; write folder/name.")
    text = strict_json.dumps(value)
    writes: dict[pathlib.Path, Write] = {}
    if figure is not None:
        figure_path = stem.with_name(stem.name + ".png")
        writes[figure_path] = lambda file: figure.savefig(file, format="png", dpi=_DPI)
    json_path = stem.with_name(stem.name + ".json")
    writes[json_path] = lambda file: file.write(text.encode())
    return _write_all(writes)
