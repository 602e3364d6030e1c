"""Writing results so that nothing half-written is ever left behind: a temporary file, then one rename."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

from isometry import _checks
from isometry._internal import strict_json


def prepare(directory: str | os.PathLike) -> pathlib.Path:
    """The path of `directory`, made if it is missing, and found out now, not after an hour, whether it can be written.

    **Raises** `ValueError`: it is a file, cannot be made, or cannot be written to.
    """
    path = pathlib.Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise _checks.InputError(f"store.prepare(): {str(path)!r} cannot be written to: {error.strerror}.") from None


def atomically(path: str | os.PathLike, write: Callable[[Any], Any]) -> pathlib.Path:
    """Call `write` with a temporary binary file beside `path`, then rename it into place; on any failure remove it.

    **Returns** `path`.

    **Raises** `ValueError`: the disk is full, or refuses otherwise.
    """
    return _together({pathlib.Path(path): write})[0]


def _together(writes: dict[pathlib.Path, Callable[[Any], Any]]) -> list[pathlib.Path]:
    """As `atomically`, several files: all are complete before the first takes its place."""
    parts: dict[pathlib.Path, str] = {}
    try:
        for path, write in writes.items():
            handle, parts[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())  # after a crash of the machine, too, a final name holds what is complete
        umask = os.umask(0)
        os.umask(umask)
        for path, part in parts.items():
            os.chmod(part, 0o666 & ~umask)
            os.replace(part, path)
    except BaseException as error:  # also an interrupt: the half-written files go, the exception travels on
        for part in parts.values():
            with contextlib.suppress(OSError):
                os.unlink(part)
        if isinstance(error, OSError) and error.errno is not None:
            names = " and ".join(repr(str(path)) for path in writes)
            raise _checks.InputError(f"store: {names} cannot be written: {error.strerror}.") from error
        raise
    return list(parts)


def write_json(path: str | os.PathLike, value: Any) -> pathlib.Path:
    """`value` as strict JSON at `path`, which is returned: infinities are strings, NaN a `ValueError`."""
    text = strict_json.dumps(value).encode()
    return atomically(pathlib.Path(path), lambda file: file.write(text))


def write_figure(path: str | os.PathLike, figure: Any, dpi: int = 150) -> pathlib.Path:
    """The path of what is written: a matplotlib `figure` at `dpi`, in the format of the suffix of `path`.

    **Raises** `ValueError`: a suffix of no format; a disk that refuses.
    """
    path = pathlib.Path(path)
    _checks.one_of("write_figure", among=sorted(figure.canvas.get_supported_filetypes()), suffix=path.suffix[1:])
    return atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:], dpi=dpi))


def write_report(stem: str | os.PathLike, value: Any, figure: Any = None) -> list[pathlib.Path]:
    """`value` as `stem`.json and, if there is a `figure`, that as stem.png: each whole or not at all.

    **Returns** their paths. **Raises** `ValueError`: a NaN, what is no JSON; a disk that refuses.
    """
    stem, text = pathlib.Path(stem), strict_json.dumps(value).encode()
    writes: dict[pathlib.Path, Callable[[Any], Any]] = {}
    if figure is not None:
        writes[stem.with_name(stem.name + ".png")] = lambda file: figure.savefig(file, format="png", dpi=150)
    return _together({**writes, stem.with_name(stem.name + ".json"): lambda file: file.write(text)})
