"""Lines on stderr, which are no reason to stop."""

import contextlib
import sys


def tell(line: str) -> None:
    """Print a line to stderr at once, or go on without where that is not possible.

    A disk behind `2>` may be full, and whoever read a pipe be gone; a process without a
    terminal may have no stderr, and `print` would then write to stdout.
    """
    stream = sys.stderr
    # A program that runs on without a terminal may have closed it.
    if stream is None or getattr(stream, "closed", False):
        return
    with contextlib.suppress(OSError):
        print(line, file=stream, flush=True)
