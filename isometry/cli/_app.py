"""All commands, and what `isometry` says without one."""

from collections.abc import Sequence
from typing import Annotated

import typer

from isometry.cli import (
    _audit,
    _doctor,
    _exit_codes,
    _schemes,
    _spectrum,
    _sweep,
    _theory,
)

# One line a command, in the order of `isometry --help`.
COMMANDS = (
    _audit.COMMAND,
    _spectrum.COMMAND,
    _theory.COMMAND,
    _schemes.COMMAND,
    _sweep.COMMAND,
    _doctor.COMMAND,
)

_QUESTION = "Can this network train? Ask before training it."

_WELCOME = f"""{_QUESTION}

Try first:

  isometry audit
      Seven initializations of one network, side by side: what will go wrong in
      training, and what to do. About a minute; less the second time.

  isometry theory --activation relu
      Where an activation is critical, so that signals and gradients keep their
      size in depth.

  isometry spectrum --scheme orthogonal,gaussian --span hidden
      Singular values of the Jacobian beside the law that predicts them.

A network of your own: isometry audit --model package.module:function
All commands: isometry --help
Documentation: README.md and docs/ of the source; in Python, help(isometry)
"""


def call(argv: Sequence[str] | None) -> object:
    """Read the words of a command line, run the command, and return its exit code."""
    # Shown in place of the name of a file, as that of `python -m`.
    return application()(args=argv, prog_name="isometry", standalone_mode=False)


def application() -> typer.Typer:
    """Return the application with every command."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        help=_QUESTION,
        epilog="Example: isometry audit",
    )
    app.callback(invoke_without_command=True)(_without_command)
    for command in COMMANDS:
        command.register(app)
    return app


def _show_version(is_wanted: bool) -> None:
    # Typer calls this too where the option is not given.
    if is_wanted:
        import isometry

        print(isometry.__version__)
        raise typer.Exit(_exit_codes.CLEAN)


def _without_command(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_show_version,
            help="Print the version and stop.",
        ),
    ] = False,
) -> None:
    """Show a newcomer what to try first."""
    if context.invoked_subcommand is None:
        print(_WELCOME, end="")
        # As of git and click. In a script in which the command is missing, code 0 would
        # say that a network is clean.
        raise typer.Exit(_exit_codes.USAGE)
