"""The threads of BLAS, which factorizations of small matrices are better without."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threadpoolctl

# Held by the block that has limited the threads.
_limited = threading.Lock()


@functools.cache
def _libraries() -> "threadpoolctl.ThreadpoolController":
    """Find the BLAS libraries of this process, which takes 3 milliseconds."""
    # XLA calls SciPy's BLAS on a CPU. It can only be found once SciPy has loaded it,
    # which importing this package must not do: it takes long, and threadpoolctl sets
    # KMP_DUPLICATE_LIB_OK.
    import scipy.linalg
    import threadpoolctl

    assert scipy.linalg is not None
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Limit BLAS to one thread, in the whole process, while the block runs.

    With more, OpenBLAS splits factorizations of a few hundred rows among threads that
    spin while they wait for one another. Where another thread or process holds one of
    the cores, 16 singular value decompositions of order 256 took 8 s instead of 0.2 s.

    Blocks may be nested, and may overlap in several threads. The first to begin limits
    the number, and restores it when it ends, also after an exception. One that still
    runs in another thread then goes on without the limit: threadpoolctl lets no other
    thread restore it, and a process must not be left with one thread for good.
    """
    if not _limited.acquire(blocking=False):
        yield
        return
    try:
        with _libraries().limit(limits=1):
            yield
    finally:
        _limited.release()
