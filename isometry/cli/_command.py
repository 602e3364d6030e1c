"""What a command is: a function that returns an exit code, its help, an example."""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

from typer import Typer

from isometry._internal import interrupts
from isometry._internal.errors import InputError
from isometry.cli import _exit_codes, _terminal

P = ParamSpec("P")


@dataclass(frozen=True)
class Command:
    r"""A command of the command line.

    Attributes:
        name: What the user writes behind "isometry".
        function: The function whose arguments are the options.
        summary: The line of `isometry --help`.
        text: What `--help` of the command says below the summary. Lines of a paragraph
            are wrapped anew, unless its first line is "\b".
        example: A whole command that works as it is printed.
    """

    name: str
    function: Callable[..., int]
    summary: str
    text: str
    example: str

    def register(self, app: Typer) -> None:
        """Add the command to an application."""
        app.command(
            name=self.name,
            short_help=self.summary,
            help=_unwrapped(f"{self.summary}\n\n{self.text}"),
            epilog=f"Example: {self.example}",
        )(stoppable(self.function))


def _unwrapped(text: str) -> str:
    r"""Return a text whose paragraphs are lines; those behind a \b stay as they are."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if not paragraph.startswith("\b"):
            paragraph = " ".join(paragraph.split())
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def stoppable(function: Callable[P, int]) -> Callable[P, int]:
    """Return the function with Ctrl-C as `interrupts.Stopped`, and pipes that close."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            raise interrupts.Stopped from None
        # `| head` has read enough. rich, and typer, would end with code 1.
        except (BrokenPipeError, SystemExit):
            _terminal.abandon(sys.stdout)
            return _exit_codes.PIPE_CLOSED

    return call


def split(option: str, values: list[str] | None) -> list[str]:
    """Return the words of an option that may be repeated, or separated by commas.

    Raises:
        InputError: The option was given without a word.
    """
    words = [
        word.strip()
        for value in values or []
        for word in value.split(",")
        if word.strip()
    ]
    if values and not words:
        given = ",".join(values)
        raise InputError(
            f"{option}={given!r} names nothing; write a name or leave it out."
        )
    return words
