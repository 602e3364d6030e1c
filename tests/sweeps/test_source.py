"""Which changes of a run are seen."""

import functools

import numpy as np
import pytest

from isometry.sweeps import runs
from isometry.sweeps._source import describe, difference

FACTOR = 2.0


def helper(x):
    return FACTOR * x


def run(point, key):
    """Say something."""
    return {"x": helper(point["a"])}


class Callable:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, point, key):
        return {"x": self.scale}


def closing_over(value):
    def run(point, key):
        return {"x": value}

    return run


def described_with(monkeypatch, **globals_):
    with monkeypatch.context() as patch:
        for name, value in globals_.items():
            patch.setitem(globals(), name, value)
        return describe(run)


def test_source_names_functions_and_constants_of_its_module(monkeypatch):
    texts = describe(run)
    assert "return FACTOR * x" in texts["run.helper"]
    assert texts == describe(run)
    assert described_with(monkeypatch, FACTOR=3.0) != texts
    assert described_with(monkeypatch, helper=lambda x: x) != texts


def test_docstring_is_no_source():
    assert "Say something" not in describe(run)["run"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (closing_over(1.0), closing_over(2.0)),
        (closing_over(np.ones(3)), closing_over(np.zeros(3))),
        (Callable(1.0), Callable(2.0)),
        (Callable(1.0).__call__, Callable(2.0).__call__),
        (functools.partial(run, key=1), functools.partial(run, key=2)),
        (lambda point, key: {"x": 1.0}, lambda point, key: {"x": 2.0}),
        (lambda point, key: {"x": point}, lambda point, key: {"x": key}),
        (lambda p, key: [1 for _ in p], lambda p, key: [2 for _ in p]),
    ],
)
def test_other_code_or_values_are_seen(one, other):
    assert describe(one) != describe(other)
    assert describe(one) == describe(one)


def test_ready_run_is_named_and_not_quoted():
    """Their source is that of a version of the package, which is compared apart."""
    partial = functools.partial(runs.spectrum, width=8)
    assert describe(partial) == {
        "run": "partial",
        "run.func": "isometry.sweeps.runs.spectrum",
        "run.width": "8",
    }


def test_difference_shows_what_changed():
    before = describe(closing_over(1.0))
    now = describe(closing_over(2.0))
    assert difference(before, now) == "run.value:\n-1.0\n+2.0"
