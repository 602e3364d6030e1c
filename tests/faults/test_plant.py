"""Faults planted in a package of one line are caught, missed, or told to be broken."""

import pytest

from tests.faults._plant import BROKEN, CAUGHT, MISSED, confirmed, run
from tests.faults._table import Fault

# Each verdict is a pytest of its own, of two seconds.
pytestmark = pytest.mark.nightly

PROJECT = """
[tool.pytest.ini_options]
markers = ["slow: left out"]
"""
TESTS = """
import pytest
from isometry.double import double

def test_double():
    assert double(3) == 6

def test_zero():
    assert double(0) == 0

@pytest.mark.slow
def test_slow():
    assert double(1) == 2

def test_broken():
    assert False
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for name, text in {
        "pyproject.toml": PROJECT,
        "isometry/__init__.py": "",
        "isometry/double.py": "def double(x):\n    return 2 * x\n",
        "tests/test_double.py": TESTS,
    }.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root


def planted(tree, match, before="2 * x"):
    fault = Fault("f", "double.py", before, "3 * x", ("test_double.py",), match)
    return run(fault, tree, cache=str(tree))


@pytest.mark.parametrize(
    ("match", "verdict", "words"),
    [
        ("double and not (zero or slow or broken)", CAUGHT, "test_double"),
        ("zero", MISSED, "1 passed"),
        ("slow", BROKEN, "deselected"),
    ],
)
def test_verdict_is_that_of_the_tests_chosen(tree, match, verdict, words):
    outcome = planted(tree, match)
    assert outcome.verdict == verdict
    assert words in outcome.detail


def test_fault_that_does_not_apply_is_broken(tree):
    outcome = planted(tree, "zero", before="2 * y")
    assert outcome.verdict == BROKEN
    assert "occurs 0 times in isometry/double.py" in outcome.detail


def test_guard_that_fails_of_itself_has_caught_nothing(tree):
    outcomes = [planted(tree, "broken"), planted(tree, "test_double and not zero")]
    assert [outcome.verdict for outcome in outcomes] == [CAUGHT, CAUGHT]
    checked = confirmed(outcomes, tree, cache=str(tree))
    assert [outcome.verdict for outcome in checked] == [BROKEN, CAUGHT]
    assert "fails without the fault as well" in checked[0].detail
