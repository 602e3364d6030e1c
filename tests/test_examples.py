"""The examples in public docstrings run, and print what they say.

They are written as a user writes them, below these lines::

    import jax, jax.numpy as jnp, numpy as np, isometry
    from isometry import activations, data, initializers, ...
"""

import doctest
import importlib
import inspect
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from docs import surface
from isometry.verdicts import _registry
from tests.audits import made_once
from tests.registries import registries as registries


def examples():
    """One test for each docstring that holds an example, by the name of its item."""
    finder = doctest.DocTestFinder(recurse=False)
    names = {"jax": jax, "jnp": jnp, "np": np, "isometry": isometry}
    for name in isometry.__all__:
        if inspect.ismodule(getattr(isometry, name)):
            names[name] = getattr(isometry, name)
    found = {}
    for module, items in surface.everything().items():
        documented = {item.path: item.value for item in items if item.node is not None}
        documented[module] = importlib.import_module(module)
        for path, value in documented.items():
            for test in finder.find(value, path, module=False, globs=names):
                if test.examples:
                    found[path] = test
    return found


EXAMPLES = examples()


class Rounded(doctest.OutputChecker):
    """A float64 may differ by rounding: versions of NumPy add in other orders."""

    def check_output(self, want, got, optionflags):
        if super().check_output(want, got, optionflags):
            return True
        try:
            expected, actual = float(want), float(got)
        except ValueError:
            return False
        return math.isclose(expected, actual, rel_tol=4 * sys.float_info.epsilon)


@pytest.fixture(scope="module")
def reports():
    """The reports of the audits that examples have made so far."""
    return {}


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, reports, tmp_path, monkeypatch):
    """Files go to an empty folder; JAX is as the reader finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(isometry, "audit", made_once(isometry.audit, reports))
    # Flags that an example registers are no flags of the tests that follow.
    monkeypatch.setattr(_registry, "_flags", dict(_registry._flags))
    monkeypatch.setattr(_registry, "_own_lines", dict(_registry._own_lines))
    report = []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        # Each time a copy of the names: the runner clears them.
        runner = doctest.DocTestRunner(
            checker=Rounded(), optionflags=doctest.IGNORE_EXCEPTION_DETAIL
        )
        outcome = runner.run(EXAMPLES[name], out=report.append)
    assert outcome.failed == 0, "".join(report)


@pytest.mark.parametrize("printed", ["3\n", "2.000000000000002\n", "two\n"])
def test_an_example_can_fail(printed):
    test = doctest.DocTest(
        [doctest.Example("1 + 1", printed)],
        globs={},
        name="sum",
        filename=None,
        lineno=0,
        docstring="",
    )
    runner = doctest.DocTestRunner(checker=Rounded())
    assert runner.run(test, out=lambda text: None).failed == 1
