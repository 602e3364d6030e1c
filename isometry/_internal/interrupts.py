"""A Ctrl-C that is not lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# Seconds until an interrupt that has not come out is raised again. Ten times shorter
# would break into the removal of half-written files; ten times longer would seem to
# hang.
AGAIN = 2.0


class Stopped(Exception):
    """Ctrl-C during a command.

    It is no KeyboardInterrupt, of which typer would print an empty line and make
    another.
    """


@contextlib.contextmanager
def insistent() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt after Ctrl-C again and again, until one leaves the block.

    One may be lost: Python drops exceptions that are raised inside finalizers and
    inside callbacks of the garbage collector, of which JAX has one. A command
    interrupted there would run on to its end. And during the import of an extension
    module an interrupt becomes an ImportError, so any exception that leaves the block
    after Ctrl-C is replaced by a KeyboardInterrupt.

    Does nothing outside the main thread, where the caller has installed a handler or a
    timer, and on systems without POSIX timers.

    Yields:
        A list of the signals received, which grows as they come.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or not hasattr(signal, "setitimer") or not _is_free():
        yield []
        return
    signals: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
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
