"""The command line. Thin: every command is one call of a documented function.

It owns its process, so devices and threads are set in the environment before jax or numpy is imported.
"""

import errno
import io
import os
import sys
from typing import Annotated, Any

from isometry._internal import interrupts

_ENVIRONMENT = {
    # One BLAS thread: multi-threaded BLAS inside small factorizations collapses when a core is busy.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
EXIT_CLEAN, EXIT_USAGE, EXIT_INTERRUPTED = 0, 2, 130


def main(argv: list[str] | None = None) -> None:
    """Entry point: run the command and exit with its code; every refusal is one line on stderr."""
    ours = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(ours)
    if isinstance(sys.stdout, io.TextIOWrapper):  # where there is no σ, a question mark and no traceback
        sys.stdout.reconfigure(errors="replace")
    heard = []
    try:
        with interrupts.insistent() as heard:
            code = _code(argv, ours)
    except KeyboardInterrupt:  # also while jax is imported, which takes a second
        code = _refuse("interrupted; no file is half-written", EXIT_INTERRUPTED)
    if heard:  # at once: XLA's threads are at work, and to take the interpreter down under them may crash
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _code(argv: list[str] | None, ours: dict[str, str]) -> int:
    from isometry import _checks

    try:
        _checks.extra("isometry", "typer", "cli")
        _checks.extra("isometry", "rich", "cli")
        code = _app(ours)(args=argv, standalone_mode=False)
        # What is left in the buffer is written now, while a refusal can still be told.
        sys.stdout.flush()
    except (_checks.InputError, _checks.MissingExtra) as error:
        return _refuse(str(error), EXIT_USAGE)
    except OSError as error:  # a full disk behind `>`; code 1 would say that a flag is raised
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        from isometry import _cli_common

        _cli_common.abandon_output()
        return _refuse(f"the output cannot be written: {error.strerror}.", EXIT_USAGE)
    except interrupts.Stopped:
        raise KeyboardInterrupt from None
    except Exception as error:  # those of typer, whose classes moved between its versions; all else travels on
        if type(error).__module__.split(".")[0] not in ("typer", "click"):
            raise
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        if hasattr(error, "format_message"):
            message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
            return _refuse(message, EXIT_USAGE) if message else EXIT_USAGE  # without a command: the help is shown
        raise
    if code == EXIT_INTERRUPTED:  # typer's answer to what reaches it outside a command
        raise KeyboardInterrupt
    return code if isinstance(code, int) else EXIT_CLEAN


def _refuse(message: str, code: int) -> int:
    print("isometry: " + " ".join(message.split()), file=sys.stderr)
    return code


def _app(ours: dict[str, str]) -> Any:
    """Every command, each in a module of its own."""
    import typer

    from isometry import _cli_audit, _cli_doctor, _cli_schemes, _cli_spectrum, _cli_sweep, _cli_theory

    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Can this network train? Ask before training it.",
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            import isometry

            print(isometry.__version__)
            raise typer.Exit(EXIT_CLEAN)

    version_option = typer.Option("--version", is_eager=True, callback=show_version, help="Print the version and stop.")

    @app.callback()
    def _(version: Annotated[bool, version_option] = False) -> None:
        pass

    for module in (_cli_audit, _cli_spectrum, _cli_theory, _cli_schemes, _cli_sweep):
        module.add(app)
    _cli_doctor.add(app, ours)
    return app


if __name__ == "__main__":
    main()
