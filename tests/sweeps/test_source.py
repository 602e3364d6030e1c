"""Which changes of a run are seen."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from isometry import networks
from isometry.sweeps import runs
from isometry.sweeps._source import describe, difference

FACTOR = 2.0


def helper(x):
    return FACTOR * x


def run(point, key):
    """Say something."""
    return {"x": helper(point["a"])}


TABLE = {"scale": 1.0}


def inner(value):
    def helper(x):
        return value * x

    return helper


def calling(helper):
    """Runs that call a helper inside of a function, a lambda and a comprehension."""

    def run(point, key):
        mapped = jax.vmap(lambda x: helper(x))(np.ones(2))
        return {"x": [helper(x) for x in mapped], "y": TABLE["scale"]}

    return run


class Base:
    def method(self):
        return 1.0


class Other:
    def method(self):
        return 2.0


def deriving(base, attribute):
    class Derived(base):
        scale = attribute

        def __call__(self, point, key):
            return {"x": self.scale * self.method()}

    return Derived()


@dataclasses.dataclass
class Record:
    weights: np.ndarray


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
        return describe(run).texts


def test_source_names_functions_and_constants_of_its_module(monkeypatch):
    texts = describe(run).texts
    assert "return FACTOR * x" in texts["run.helper"]
    assert texts == describe(run).texts
    assert described_with(monkeypatch, FACTOR=3.0) != texts
    assert described_with(monkeypatch, helper=lambda x: x) != texts


def test_function_that_runs_is_described_and_not_its_file(tmp_path, monkeypatch):
    """Somebody edits the script while the sweep runs."""
    file = tmp_path / "edited_while_running.py"
    file.write_text("def run(point, key):\n    return {'x': 1.0}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = importlib.import_module("edited_while_running").run
    before = describe(run)
    file.write_text("def run(point, key):\n    return {'x': 1000.0}\n")
    assert describe(run) == before
    assert "1.0" in before.texts["run"]


def test_docstring_is_no_source():
    assert "Say something" not in describe(run).texts["run"]


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
        (calling(inner(1.0)), calling(inner(2.0))),
        (deriving(Base, 1.0), deriving(Base, 2.0)),
        (deriving(Base, 1.0), deriving(Other, 1.0)),
        (closing_over(Record(np.ones(3))), closing_over(Record(np.zeros(3)))),
        (closing_over([1, {"a": 2}]), closing_over([1, {"a": 3}])),
        (closing_over(optax.adam(1e-3)), closing_over(optax.adam(1e-2))),
        (
            closing_over(networks.mlp([2, 2], lambda x: jnp.tanh(x), sigma_w=1.0)),
            closing_over(networks.mlp([2, 2], lambda x: jnp.sin(x), sigma_w=1.0)),
        ),
    ],
)
def test_other_code_or_values_are_seen(one, other):
    assert describe(one) != describe(other)
    assert describe(one) == describe(one)


def test_ready_run_is_named_and_not_quoted():
    """Their source is that of a version of the package, which is compared apart."""
    partial = functools.partial(runs.spectrum, width=8)
    texts = describe(partial).texts
    assert texts["run.func"] == "isometry.sweeps.runs.spectrum"
    assert texts["run.width"] == "8"
    assert not any("def " in text for text in texts.values())


def test_difference_shows_what_changed():
    before = describe(closing_over(1.0)).texts
    now = describe(closing_over(2.0)).texts
    assert difference(before, now) == "run.value:\n-1.0\n+2.0"
