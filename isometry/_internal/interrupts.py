"""A Ctrl-C that is not lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

AGAIN = 2.0
"""Seconds until an interrupt that has not come out is raised again: longer than any cleaning up."""


class Stopped(Exception):
    """Ctrl-C during a command. No KeyboardInterrupt: typer would print an empty line of its own and raise another."""


@contextlib.contextmanager
def insistent() -> Iterator[list[int]]:
    """Inside, Ctrl-C raises KeyboardInterrupt again and again until it comes out here; yields a list of the signals.

    Python raises it wherever it is, and drops it if that is a finalizer or a callback of the garbage collector: JAX has
    one, and a command stopped there would run on to its end. The import of an extension makes an ImportError of it; so
    whatever comes out after a Ctrl-C is a KeyboardInterrupt here. Nothing changes outside the main thread, under a
    handler or a timer of the caller's own, and without POSIX timers.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer") or not _free():
        yield []
        return
    heard: list[int] = []

    def stop(number: int, frame: Any) -> None:
        heard.append(number)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        yield heard
    except Exception:
        if heard:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, before)


def _free() -> bool:
    """Whether SIGINT, SIGALRM and the timer are as Python starts them."""
    return (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        and signal.getitimer(signal.ITIMER_REAL)[0] == 0
    )
