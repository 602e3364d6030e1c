"""BLAS has one thread inside the block, and as many as before after it."""

import threading

import pytest
import scipy.linalg
import threadpoolctl

from isometry._internal import blas


def num_threads():
    """Ask every BLAS library of the process, without the package under test."""
    assert scipy.linalg is not None
    libraries = threadpoolctl.threadpool_info()
    return {lib["num_threads"] for lib in libraries if lib["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads():
    """Two threads, so that a limit of one shows where the environment says one."""
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        yield


def test_one_thread_inside_and_two_again_outside():
    with blas.single_threaded():
        assert num_threads() == {1}
    assert num_threads() == {2}


def test_inner_block_restores_nothing():
    with blas.single_threaded():
        with blas.single_threaded():
            assert num_threads() == {1}
        assert num_threads() == {1}
    assert num_threads() == {2}


def test_exception_restores():
    with pytest.raises(ZeroDivisionError), blas.single_threaded():
        raise ZeroDivisionError
    assert num_threads() == {2}


def test_thread_that_ends_last_does_not_keep_the_limit():
    """What it saw when it began was one thread already."""
    second_began, first_ended = threading.Event(), threading.Event()

    def second():
        with blas.single_threaded():
            second_began.set()
            first_ended.wait(30)

    thread = threading.Thread(target=second)
    with blas.single_threaded():
        thread.start()
        assert second_began.wait(30)
        assert num_threads() == {1}
    first_ended.set()
    thread.join(30)
    assert num_threads() == {2}
    with blas.single_threaded():
        assert num_threads() == {1}
