"""Programs cut into pieces give what the whole gives, whatever the pieces."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl

from isometry.measure import _programs
from isometry.measure._programs import Arguments

NUM_SEEDS, NUM_INPUTS = 6, 4
ON_CPU = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="only a CPU has cores to share"
)


def outer(power, by_seed, by_input, shared):
    """(seeds, inputs, 2) numbers of which each tells its seed and its input."""
    seeds, inputs = by_seed["a"], by_input
    product = seeds[:, None] ** power * 100 + inputs[None] + shared
    return {"product": jnp.stack([product, -product], axis=-1), "sum": product + 1}


def arguments():
    return Arguments(
        by_seed={"a": jnp.arange(1.0, NUM_SEEDS + 1)},
        by_input=jnp.arange(NUM_INPUTS, dtype=jnp.float32),
        shared=jnp.float32(0.5),
    )


def expected(power):
    seeds = np.arange(1.0, NUM_SEEDS + 1, dtype=np.float32)
    inputs = np.arange(NUM_INPUTS, dtype=np.float32)
    return seeds[:, None] ** power * 100 + inputs[None] + np.float32(0.5)


@pytest.mark.parametrize("parts", [(1, 1), (2, 1), (6, 1), (1, 4), (3, 2), (6, 4)])
def test_pieces_are_put_together_in_their_places(parts, monkeypatch):
    monkeypatch.setattr(_programs, "_parts", lambda *_: parts)
    results = _programs.run(outer, 2, arguments())
    np.testing.assert_array_equal(results["sum"], expected(2) + 1)
    np.testing.assert_array_equal(results["product"][..., 1], -expected(2))
    assert isinstance(results["sum"], np.ndarray)


def test_what_a_program_is_compiled_for_reaches_it():
    results = _programs.run(outer, 3, arguments())
    np.testing.assert_array_equal(results["sum"], expected(3) + 1)


def parts_of(num_seeds, num_inputs, operations, cores, monkeypatch, num_bytes=4):
    monkeypatch.setattr(_programs, "_num_cores", lambda: cores)
    by_seed = np.zeros((num_seeds, num_bytes // 4), np.float32)
    by_input = np.zeros(num_inputs, np.float32)
    return _programs._parts(Arguments(by_seed, by_input), operations)


@ON_CPU
@pytest.mark.parametrize(
    ("seeds", "inputs", "order", "cores", "parts"),
    [
        # Too little to be worth a thread: 320 Jacobians of order 10.
        (20, 16, 10, 2, (1, 1)),
        # One core has nobody to share with.
        (4, 64, 64, 1, (1, 1)),
        (4, 64, 64, 2, (2, 1)),
        # Seeds that two threads cannot share equally are cut along their inputs.
        (1, 8, 256, 2, (1, 2)),
        (3, 8, 256, 2, (1, 2)),
        # Threads end together here only if both axes are cut.
        (3, 2, 256, 6, (3, 2)),
        (4, 8, 256, 4, (4, 1)),
        # Nothing divides seven, but seven pieces keep two threads busy.
        (7, 1, 256, 2, (7, 1)),
    ],
)
def test_cuts_keep_all_cores_busy(seeds, inputs, order, cores, parts, monkeypatch):
    operations = float(order) ** 3
    assert parts_of(seeds, inputs, operations, cores, monkeypatch) == parts


@ON_CPU
def test_seeds_of_many_bytes_are_pieces_of_their_own(monkeypatch):
    """A loop over seeds would copy the 8 MiB of each, which takes 2 ms."""
    few = parts_of(4, 8, 256.0**3, 2, monkeypatch, num_bytes=4)
    many = parts_of(4, 8, 256.0**3, 2, monkeypatch, num_bytes=2**23)
    assert (few, many) == ((2, 1), (4, 1))


@ON_CPU
def test_pieces_run_at_the_same_time_with_one_blas_thread(monkeypatch):
    """Two programs meet at a barrier, which neither could pass alone."""
    barrier = threading.Barrier(2, timeout=60)
    threads_of_blas = []

    def meet(x):
        barrier.wait()
        libraries = threadpoolctl.ThreadpoolController().select(user_api="blas")
        threads_of_blas.extend(lib["num_threads"] for lib in libraries.info())
        return np.zeros_like(x)

    def meeting(static, by_seed, by_input, shared):
        product = by_seed[:, None] * by_input[None]
        return jax.pure_callback(meet, product, product)

    monkeypatch.setattr(_programs, "_parts", lambda *_: (2, 1))
    monkeypatch.setattr(_programs, "_num_cores", lambda: 2)
    by_seed, by_input = np.ones(2, np.float32), np.ones(3, np.float32)
    results = _programs.run(meeting, None, Arguments(by_seed, by_input))
    assert results.shape == (2, 3)
    assert set(threads_of_blas) == {1}


def test_error_of_a_piece_comes_out(monkeypatch):
    def fail(x):
        raise ValueError("no such number")

    def failing(static, by_seed, by_input, shared):
        product = by_seed[:, None] * by_input[None]
        return jax.pure_callback(fail, product, product)

    monkeypatch.setattr(_programs, "_parts", lambda *_: (6, 1))
    by_seed, by_input = np.ones(6, np.float32), np.ones(3, np.float32)
    with pytest.raises(Exception, match="no such number"):
        _programs.run(failing, None, Arguments(by_seed, by_input))


def test_64_bits_reach_the_threads(monkeypatch):
    monkeypatch.setattr(_programs, "_parts", lambda *_: (2, 1))
    with jax.enable_x64(True):
        seeds = {"a": np.full(2, 1 + 1e-12)}
        inputs = np.zeros(3)
        results = _programs.run(outer, 1, Arguments(seeds, inputs, np.float64(0.0)))
    assert results["sum"].dtype == np.float64
    np.testing.assert_allclose(results["sum"], 101 + 1e-10, rtol=1e-15)
