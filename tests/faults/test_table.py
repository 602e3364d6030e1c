"""The table of planted faults fits the code as it is."""

import ast
import pathlib

import pytest

from tests.faults._plant import DoesNotApply, failures, planted
from tests.faults._table import FAULTS, Fault

TESTS = pathlib.Path(__file__).parents[1]
PACKAGE = TESTS.parent / "isometry"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_applies_to_the_code_as_it_is(fault):
    """The snippet occurs once, what replaces it differs, and the file compiles."""
    source = (PACKAGE / fault.file).read_text()
    changed = planted(fault, source)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_tests_of_a_fault_exist(fault):
    assert fault.tests
    for name in fault.tests:
        assert (TESTS / name).is_file(), name


def test_there_are_forty_faults_of_different_names():
    names = [fault.name for fault in FAULTS]
    assert len(names) >= 40
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("source", ["x = 1", "x = 2 + 2"])
def test_snippet_that_does_not_occur_once_is_an_error(source):
    fault = Fault("two", "a.py", before="2", after="3", tests=("test_a.py",))
    with pytest.raises(DoesNotApply, match=r"occurs \d times in isometry/a\.py"):
        planted(fault, source)


def test_tests_that_failed_are_read_off_the_summary():
    output = (
        "..F\n"
        "FAILED tests/a/test_b.py::test_c[odd, widening] - assert 1 == 2\n"
        "ERROR tests/test_d.py::test_e\n"
        "1 failed, 1 error"
    )
    names = ["a/test_b.py::test_c[odd, widening]", "test_d.py::test_e"]
    assert failures(output) == names
