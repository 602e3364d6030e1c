"""One cell: its key, its settings, and what it may return."""

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry.sweeps._cells import Done, Failed, Work, run_cell
from isometry.sweeps._grid import grid_of

KEY = jax.random.key(3)


def outcome_of(result):
    """What becomes of a cell whose run returns `result`."""
    work = Work(lambda point, key: result, grid_of({"a": [1]}), KEY)
    return run_cell(work, (0,))


def test_key_is_that_of_the_values_whatever_the_grid():
    small = Work(None, grid_of({"a": [2.0], "b": ["x"]}), KEY)
    large = Work(None, grid_of({"b": ["y", "x"], "a": [1, 2]}), KEY)
    words = jax.random.key_data(small.key((0, 0)))
    assert np.array_equal(words, jax.random.key_data(large.key((1, 1))))
    others = [large.key((0, 1)), large.key((1, 0)), large.key((0, 0))]
    for other in others:
        assert not np.array_equal(words, jax.random.key_data(other))


def test_generator_of_an_old_key_is_kept():
    """Keys of raw words are of the default generator; typed ones name theirs."""
    raw = Work(None, grid_of({"a": [1]}), jax.random.PRNGKey(3))
    typed = Work(None, grid_of({"a": [1]}), KEY)
    assert np.array_equal(
        jax.random.key_data(raw.key((0,))), jax.random.key_data(typed.key((0,)))
    )
    rbg = Work(None, grid_of({"a": [1]}), jax.random.key(3, impl="rbg"))
    assert str(jax.random.key_impl(rbg.key((0,)))) == "rbg"


def test_settings_of_the_caller_hold_in_the_cell():
    """Another thread, as another process, starts with other settings."""

    def run(point, key):
        return {"x": jnp.ones(1), "precision": jax.config.jax_default_matmul_precision}

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        work = Work(run, grid_of({"a": [1]}), KEY)
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(run_cell, work, (0,)).result()
    assert done.variables["x"].array.dtype == np.float64
    assert done.variables["precision"].array == "highest"


def test_work_is_unpickled_once():
    """What `run` has compiled in a process is there for its next cell."""
    work = Work(lambda point, key: {"x": 1.0}, grid_of({"a": [1]}), KEY)
    first, second = (pickle.loads(pickle.dumps(work)) for _ in range(2))
    assert first is second
    assert isinstance(run_cell(first, (0,)), Done)


def test_dimensions_are_named_or_given():
    attrs = {"units": "1"}
    done = outcome_of(
        {"x": np.ones((2, 3)), "y": ("k", [1, 2]), "z": (("k",), [1.0, 2.0], attrs)}
    )
    assert done.variables["x"].dims == ("x_0", "x_1")
    assert done.variables["y"].dims == ("k",)
    assert done.variables["z"].attrs == attrs


def test_variables_of_xarray_keep_their_dimensions():
    xarray = pytest.importorskip("xarray")
    dataset = xarray.Dataset(
        {"x": ("k", [1.0, 2.0], {"units": "m"})}, coords={"k": ["u", "v"]}
    )
    done = outcome_of(dataset)
    assert done.variables["x"].dims == ("k",)
    assert done.variables["x"].attrs == {"units": "m"}
    assert done.variables["k"].array.tolist() == ["u", "v"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (jnp.array([0.1], jnp.bfloat16), [float(jnp.bfloat16(0.1))]),
        (np.array([0.1], np.float32), [float(np.float32(0.1))]),
        (np.array([255, 0], np.uint8), [255.0, 0.0]),
        (np.array([-128], np.int8), [-128.0]),
        ([True, False], [1.0, 0.0]),
        (2**53, 2.0**53),
    ],
)
def test_numbers_are_stored_in_float64(value, expected):
    """It holds each of them, and NaN where there is none."""
    array = outcome_of({"x": value}).variables["x"].array
    assert array.dtype == np.float64
    assert array.tolist() == expected


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (None, "return a mapping"),
        ({}, "nothing"),
        ({"a": 1.0}, "another name"),
        ({"state": 1.0}, "another name"),
        ({"x/y": 1.0}, "without '/'"),
        ({"x": object()}, "no array"),
        ({"x": KEY}, "key_data"),
        ({"x": (("k",), np.ones((2, 2)))}, "name each dimension"),
        ({"x": (("a",), np.ones(2))}, "name each dimension"),
        ({"x\\y": 1.0}, "without '/'"),
        ({"x.partial": 1.0}, "without '/'"),
        ({"..": 1.0}, "without '/'"),
        ({"x": 2**53 + 1}, "lose digits"),
        ({"x": np.longdouble(1)}, "no array"),
        ({"x": np.ma.masked_equal([1, 2], 1)}, "fill it with NaN"),
        ({"x": "\udcff"}, "no bytes"),
        ({"x": ((), 1.0, {"scale_factor": 2.0})}, "read other numbers"),
        ({"x": ((), 1.0, {"units": "days since 2000-01-01"})}, "read other numbers"),
        ({"x": ((), 1.0, {"note": object()})}, "strict JSON"),
    ],
)
def test_bad_result_is_a_failure_with_the_reason(result, words):
    failed = outcome_of(result)
    assert isinstance(failed, Failed)
    assert words in failed.reason


def test_failure_names_the_line_of_the_user():
    def run(point, key):
        raise KeyError("no such thing")

    failed = run_cell(Work(run, grid_of({"a": [1]}), KEY), (0,))
    assert failed.reason.startswith("KeyError: 'no such thing' (line ")
    assert failed.reason.endswith("of test_cells.py, in run)")


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError])
def test_exception_that_would_end_a_process_ends_the_cell(kind):
    def run(point, key):
        raise kind(3)

    failed = run_cell(Work(run, grid_of({"a": [1]}), KEY), (0,))
    assert failed.reason.startswith(kind.__name__)


def test_interrupt_that_a_worker_raises_is_its_own():
    """Only in the main thread of the calling process it is Ctrl-C."""

    def run(point, key):
        raise KeyboardInterrupt

    work = Work(run, grid_of({"a": [1]}), KEY)
    with pytest.raises(KeyboardInterrupt):
        run_cell(work, (0,))
    with ThreadPoolExecutor(1) as thread:
        failed = thread.submit(run_cell, work, (0,)).result()
    assert failed.reason.startswith("KeyboardInterrupt")


def test_reason_is_a_text_of_some_length():
    def run(point, key):
        raise ValueError("\udcff" + 10**6 * "x")

    failed = run_cell(Work(run, grid_of({"a": [1]}), KEY), (0,))
    assert failed.reason.encode().startswith(b"ValueError: \\udcffxxx")
    assert len(failed.reason) < 3000
