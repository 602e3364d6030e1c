"""A Ctrl-C that is not lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# Seconds after which an interrupt is raised again, if the block still runs. Ten times
# fewer would break into the removal of half-written files; ten times more would seem to
# hang.
REPEAT_SECONDS = 2.0


class Stopped(Exception):
    """Ctrl-C during a command.

    Not a KeyboardInterrupt, for which typer would print an empty line and raise an
    exception of its own.
    """


@contextlib.contextmanager
def insistent() -> Iterator[list[int]]:
    """After Ctrl-C, raise KeyboardInterrupt every two seconds until the block ends.

    A single KeyboardInterrupt can be lost: Python drops exceptions that are raised
    inside finalizers, and inside callbacks of the garbage collector, such as JAX's. The
    command would run on to its end. During the import of an extension module a
    KeyboardInterrupt becomes an ImportError. So any `Exception` that leaves the block
    after Ctrl-C is replaced by a KeyboardInterrupt; a SystemExit, which ends the
    program too, is not.

    Does nothing in three cases: outside the main thread; if the caller has installed a
    handler or a timer; and on systems without POSIX timers.

    Yields:
        A list of the signals received, SIGINT and then a SIGALRM for each repetition,
        which grows as they come.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or not hasattr(signal, "setitimer") or not _is_free():
        yield []
        return
    signals: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
        raise KeyboardInterrupt

    alarm_before = signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        yield signals
    except Exception:
        if signals:
            raise KeyboardInterrupt from None
        raise
    finally:
        # The timer first: an alarm between these lines must still find a handler.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, alarm_before)


def _is_free() -> bool:
    """Tell whether SIGINT, SIGALRM and the timer are as Python starts them."""
    seconds_left, _ = signal.getitimer(signal.ITIMER_REAL)
    return (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        and seconds_left == 0
    )
