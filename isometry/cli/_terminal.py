"""Standard output and standard error: tables, progress, what was written."""

import contextlib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from isometry._internal import stderr

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# What makes a terminal act: the control characters, ESC among them, but not the tab and
# the end of a line; and what reverses the order in which letters are shown. Surrogates,
# which Python makes of bytes that are no UTF-8, cannot be printed.
_NOT_PLAIN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

# Columns of a terminal whose width nobody knows. In ten times fewer no table can be
# read; ten times more are on no screen.
COLUMNS = 80


def plain(text: str) -> str:
    """Return a text with U+FFFD in place of each character that makes terminals act.

    Names of layers, labels of sweeps and messages of errors may come from somebody
    else, and hold a sequence that renames the window or hides what follows.
    """
    return _NOT_PLAIN.sub("\N{REPLACEMENT CHARACTER}", text)


def show(text: str) -> None:
    """Print a text to stdout."""
    print(plain(text))


def complain(message: str) -> None:
    """Print one line to stderr, with the name of the program."""
    line = " ".join(message.split())
    stderr.tell(plain(f"isometry: {line}"))


def console() -> "Console":
    """Return the terminal, or wherever stdout goes.

    Its width is the terminal's, or COLUMNS, or else 80: a log, or a page into which a
    command's output is pasted, has as many columns as a screen. It prints every text as
    it is: brackets are no markup, and no control character arrives.
    """
    # Imported here, as everywhere in commands: `--help` need not wait for it.
    from isometry.cli import _console

    return _console.literal()


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done: a bar, or plain lines outside a terminal.

    Args:
        total: The number of stages that will be told, for the length of the bar.

    Yields:
        A function to call with the name of a stage when it begins.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: stderr.tell(plain(stage))
        return
    columns = (
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("starting", total=total)
        # When the first stage begins, none has ended.
        num_done = -1

        def tell(stage: str) -> None:
            nonlocal num_done
            num_done += 1
            shown.update(task, description=plain(stage), completed=num_done)

        yield tell


def report_files(written: Sequence[pathlib.Path], *, as_json: bool) -> None:
    """Say which files were written; on stderr if stdout is JSON."""
    if not written:
        return
    *others, last = map(str, written)
    names = f"{', '.join(others)} and {last}" if others else last
    line = f"wrote {names}"
    if as_json:
        stderr.tell(plain(line))
    else:
        show(line)


def open_streams() -> None:
    """Open what the process was started without, as by `>&-`, on nothing.

    Otherwise the next file that is opened would take its number, and whatever a library
    prints would be written into that file.
    """
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115 (until the process ends)
            setattr(sys, name, stream)


def flush_streams() -> None:
    """Write what is left in the buffers; Python would fail on it with its own code."""
    for stream in (sys.stdout, sys.stderr):
        # The code of a network may have closed it.
        if stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            abandon(stream)


def abandon(stream: TextIO) -> None:
    """Discard what is left in the buffer of a stream, on which Python would fail."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def table(title: str, columns: Mapping[str, str]) -> "Table":
    """Return an empty table that can be read in any terminal of 80 columns.

    Args:
        title: The line above it.
        columns: The kind of each column by its heading: "label" and "number" keep to
            one line, and the words of a "text" wrap where the terminal is narrow.
    """
    from rich.table import Table
    from rich.text import Text

    # Brackets in a plain string would be markup.
    made = Table(title=Text(title), title_justify="left")
    for heading, kind in columns.items():
        if kind == "text":
            made.add_column(heading, overflow="fold")
        elif kind == "number":
            made.add_column(heading, justify="right", no_wrap=True)
        else:
            made.add_column(heading, no_wrap=True)
    return made
