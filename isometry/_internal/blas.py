"""Limits BLAS to one thread, with which factorizations of small matrices are faster."""

import contextlib
import functools
import importlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threadpoolctl

# Held by the block that has limited the threads.
_limited = threading.Lock()


@functools.cache
def _libraries() -> "threadpoolctl.ThreadpoolController":
    """Return a controller of the BLAS libraries that this process has loaded.

    Cached, because the search takes 3 milliseconds.
    """
    # Imported here and not with the package: the import sets an environment variable.
    import threadpoolctl

    # XLA calls SciPy's BLAS on a CPU. It can only be found once SciPy has loaded it.
    importlib.import_module("scipy.linalg")
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Limit BLAS to one thread, in the whole process, while the block runs.

    With more, OpenBLAS splits factorizations of a few hundred rows among threads that
    spin while they wait for one another. Where another thread or process holds one of
    the cores, 16 singular value decompositions of order 256 took 8 s instead of 0.2 s.

    Blocks may be nested, and may overlap in several threads. The block that begins
    first sets the limit, and removes it when it ends, also after an exception. A block
    that still runs in another thread then goes on without the limit: threadpoolctl lets
    only the thread that set it remove it, and the process must not keep it for good.
    """
    if not _limited.acquire(blocking=False):
        yield
        return
    try:
        with _libraries().limit(limits=1):
            yield
    finally:
        _limited.release()
