"""The threads of BLAS, which factorizations of small matrices are better without."""

import contextlib
import functools
import threading
from collections.abc import Iterator

import scipy.linalg
import threadpoolctl

_lock = threading.Lock()
_num_users = 0
_limits: contextlib.ExitStack | None = None


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    """Find the BLAS libraries of this process, which takes 3 milliseconds."""
    # XLA calls SciPy's BLAS on a CPU. It can only be found once SciPy has loaded it.
    assert scipy.linalg is not None
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Limit BLAS to one thread, in the whole process, while the block runs.

    With more, OpenBLAS splits factorizations of a few hundred rows among threads that
    spin while they wait for one another. Where another thread or process holds one of
    the cores, 16 singular value decompositions of order 256 took 8 s instead of 0.2 s.

    The number of threads belongs to the process. Blocks may be nested and may overlap
    in several threads: the first to begin notes the number, the last to end restores
    it, also after an exception. Other BLAS calls of the process are limited meanwhile.
    """
    global _num_users, _limits
    with _lock:
        if _num_users == 0:
            _limits = contextlib.ExitStack()
            _limits.enter_context(_libraries().limit(limits=1))
        _num_users += 1
    try:
        yield
    finally:
        with _lock:
            _num_users -= 1
            if _num_users == 0:
                _limits.close()
                _limits = None
