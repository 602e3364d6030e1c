"""How a sweep reports its progress."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from isometry._internal import checks, stderr
from isometry._internal.errors import InputError

Progress: TypeAlias = bool | Callable[[int, int], object] | None

# Seconds between lines where stderr is no terminal. With ten times fewer a file would
# fill with lines; with ten times more the sweep would seem to hang.
_LINE_SECONDS = 10.0


class Report:
    """Counts cells, and tells whoever wants to know."""

    def __init__(self, total: int, num_done: int, tell: Callable[["Report"], object]):
        self.total = total
        self.num_done = num_done
        self.num_failed = 0
        self._num_before = num_done
        self._start = time.monotonic()
        self._tell = tell
        tell(self)

    def done(self) -> None:
        """Count a cell that is done."""
        self.num_done += 1
        self._tell(self)

    def failed(self) -> None:
        """Count a cell that failed."""
        self.num_failed += 1
        self._tell(self)

    def line(self) -> str:
        """Return cells, rate, time left and failures, as they stand on a line."""
        text = f"{self.num_done}/{self.total} cells"
        num_settled = self.num_done - self._num_before + self.num_failed
        seconds = time.monotonic() - self._start
        if num_settled and seconds > 0:
            rate = num_settled / seconds
            num_left = self.total - self.num_done - self.num_failed
            text += f", {_rate(rate)}, {_duration(num_left / rate)} left"
        if self.num_failed:
            text += f", {self.num_failed} failed"
        return text


def _rate(per_second: float) -> str:
    """Write cells per second, or per minute where they are few."""
    if per_second >= 1:
        return f"{per_second:.3g}/s"
    return f"{60 * per_second:.3g}/min"


def _duration(seconds: float) -> str:
    """Write seconds as minutes and seconds, or with hours."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}"


def require_progress(progress: Progress) -> None:
    """Refuse what is neither yes, no nor a function."""
    is_known = progress is None or isinstance(progress, bool) or callable(progress)
    if not is_known:
        raise InputError(
            f"progress={checks.show(progress)} is neither True nor False nor a "
            "function of (cells done, cells in all)."
        )


@contextlib.contextmanager
def reporter(progress: Progress, total: int, num_done: int) -> Iterator[Report]:
    """Yield what counts cells and tells of them.

    Args:
        progress: True for a bar, or lines where stderr is no terminal; a function of
            the number of cells that are settled and of all cells; or False.
        total: The number of cells.
        num_done: How many are done already.
    """
    if progress is None or progress is False:
        yield Report(total, num_done, lambda report: None)
    elif callable(progress):
        told = progress
        yield Report(
            total,
            num_done,
            lambda report: told(report.num_done + report.num_failed, report.total),
        )
    elif sys.stderr is not None and sys.stderr.isatty() and _has_rich():
        with _bar(total) as tell:
            yield Report(total, num_done, tell)
    else:
        lines = _Lines()
        report = Report(total, num_done, lines.tell)
        yield report
        lines.write(report)


class _Lines:
    """A line on stderr now and then."""

    def __init__(self):
        self._next = 0.0

    def tell(self, report: Report) -> None:
        """Write a line, unless the last one is recent."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LINE_SECONDS
            self.write(report)

    def write(self, report: Report) -> None:
        """Write a line."""
        stderr.tell(f"sweep: {report.line()}")


def _has_rich() -> bool:
    try:
        import rich.progress  # noqa: F401
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[Report], Any]]:
    """Yield a function that draws a bar, with the text of the report beside it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("sweep"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)

        def tell(report: Report) -> None:
            num_settled = report.num_done + report.num_failed
            bar.update(task, completed=num_settled, description=report.line())

        yield tell
