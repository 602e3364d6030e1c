"""The entry point: the environment, exit codes, and one line for every refusal.

The command line owns its process, so threads and the cache of compiled programs are set
in the environment before JAX or NumPy is imported.
"""

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence

from isometry._internal import interrupts, stderr
from isometry._internal.errors import InputError, MissingExtra
from isometry._internal.extras import extra
from isometry.cli import _environment, _exit_codes, _terminal

# A disk that is full, or fails.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command, and exit with its code.

    Args:
        argv: The words behind "isometry"; by default those of this process.
    """
    _terminal.open_streams()
    _environment.set_defaults(_environment.THREADS)
    # Where the output has no σ, it gets a question mark and not a traceback.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    signals = []
    try:
        with interrupts.insistent() as signals:
            code = _run(argv)
    # It may come while JAX is imported, which takes a second.
    except KeyboardInterrupt:
        code = _refuse(
            "interrupted; no result is half-written", _exit_codes.INTERRUPTED
        )
    # Whatever else is raised is a fault, of this package or of a network's own code.
    except Exception:
        stderr.tell(_terminal.plain(traceback.format_exc().removesuffix("\n")))
        code = _refuse("stopped by this error; nothing was judged", _exit_codes.CRASHED)
    _terminal.flush_streams()
    # At once: XLA's threads are at work, and an interpreter that ends under them may
    # crash.
    if signals:
        os._exit(code)
    sys.exit(code)


def _run(argv: Sequence[str] | None) -> int:
    """Run a command and return its exit code."""
    try:
        extra("typer", "cli")
        extra("rich", "cli")
        from isometry.cli import _app

        code = _app.call(argv)
        # What is left in the buffer is written now, while a refusal can still be told.
        sys.stdout.flush()
    except (InputError, MissingExtra) as error:
        # The message without the name of a function, which the user did not call.
        return _refuse(error.message, _exit_codes.USAGE)
    # `| head` has read enough before the last of the buffer was written.
    except BrokenPipeError:
        _terminal.abandon(sys.stdout)
        return _exit_codes.PIPE_CLOSED
    # A full disk behind `>`.
    except OSError as error:
        if error.filename is not None or error.errno not in _DISK_ERRORS:
            raise
        _terminal.abandon(sys.stdout)
        reason = f"the output cannot be written: {error.strerror}."
        return _refuse(reason, _exit_codes.USAGE)
    except interrupts.Stopped:
        raise KeyboardInterrupt from None
    except Exception as error:
        # Typer's exceptions moved between its versions, and are told by their names.
        # All others are faults, and travel on.
        library = type(error).__module__.partition(".")[0]
        if library not in ("typer", "click"):
            raise
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        return _refuse_usage(error)
    # Typer's answer to an interrupt outside a command.
    if code == _exit_codes.INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else _exit_codes.CLEAN


def _refuse_usage(error: Exception) -> int:
    """Say what typer could not read, and where the options are listed."""
    describe = getattr(error, "format_message", None)
    if describe is None:
        raise error
    # The context knows the command that was written.
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "isometry")
    message = describe()
    # Some of its sentences have no end, and some are questions.
    if not message.endswith((".", "?")):
        message += "."
    message = f"{message} {command} --help lists what there is."
    return _refuse(message, _exit_codes.USAGE)


def _refuse(message: str, code: int) -> int:
    """Print one line to stderr and return the exit code."""
    _terminal.complain(message)
    return code
