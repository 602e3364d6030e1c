"""The examples in public docstrings run, and print what they say.

They are written as a user writes them, below these lines::

    import jax, jax.numpy as jnp, numpy as np, isometry
    from isometry import activations, data, initializers, ...
"""

import doctest
import importlib
import inspect

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
        runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
        outcome = runner.run(EXAMPLES[name], out=report.append)
    assert outcome.failed == 0, "".join(report)


def test_an_example_can_fail():
    test = doctest.DocTest(
        [doctest.Example("1 + 1", "3\n")],
        globs={},
        name="sum",
        filename=None,
        lineno=0,
        docstring="",
    )
    assert doctest.DocTestRunner().run(test, out=lambda text: None).failed == 1
