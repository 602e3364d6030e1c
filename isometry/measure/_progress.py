"""Reports progress to a function of the caller, or by a bar."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

from isometry._internal import checks, stderr
from isometry._internal.errors import InputError

Report: TypeAlias = Callable[[int, int], None]
Progress: TypeAlias = bool | Report | None

# Seconds between lines in a notebook. With ten times fewer a cell would fill with
# lines; with ten times more the measurement would seem to hang.
_LINE_SECONDS = 10.0


@contextlib.contextmanager
def reporter(progress: Progress, what: str) -> Iterator[Report]:
    """Yield a function of (done, total): the caller's, a bar, or one without effect."""
    # True is not callable, so a function comes first.
    if callable(progress):
        yield progress
    elif progress is True:
        with _bar(what) as report:
            yield report
    elif progress is None or progress is False:
        yield _silent
    else:
        raise InputError(
            f"progress={checks.show(progress)} is neither True nor a function of "
            "(done, total)."
        )


def _silent(done: int, total: int) -> None:
    """Report nothing, where nobody watches."""


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Report]:
    """Yield a function that draws a bar on stderr, if that is a terminal.

    In a notebook it writes a line now and then: a bar of rich needs ipywidgets there.
    """
    rich = checks.extra("rich.progress", "cli")
    console = checks.extra("rich.console", "cli").Console(stderr=True)
    if console.is_jupyter:
        yield _lines(what)
        return
    # In a file or a pipe each update of a bar would be a line. Rich 13 ends even a bar
    # that is disabled with an empty line, so there is none.
    if not console.is_terminal:
        yield _silent
        return
    with rich.Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report


def _lines(what: str) -> Report:
    """Return a function that writes the first line, the last, and some between them."""
    next_time = 0.0

    def report(done: int, total: int) -> None:
        nonlocal next_time
        now = time.monotonic()
        if done == total or now >= next_time:
            next_time = now + _LINE_SECONDS
            stderr.tell(f"{what}: {done}/{total}")

    return report
