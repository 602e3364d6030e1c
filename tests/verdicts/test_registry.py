"""The register of flags and their thresholds."""

import math

import pytest

import isometry
from isometry import verdicts
from isometry.verdicts import Thresholds, _registry, flag, flag_names


@pytest.fixture
def own():
    """Forget, after the test, the flags that it registers."""
    flags, lines = dict(_registry._flags), dict(_registry._own_lines)
    yield
    _registry._flags.clear()
    _registry._flags.update(flags)
    _registry._own_lines.clear()
    _registry._own_lines.update(lines)


def judge(measured, key):
    return verdicts.Flag("own", "clear", "nothing")


@pytest.mark.usefixtures("own")
def test_a_flag_of_ones_own_brings_its_line_and_its_place():
    before = Thresholds()
    flag("own", threshold=0.25, rank=65, source="convention")(judge)
    names = flag_names()
    assert names.index("own") < names.index("vanishing")
    assert Thresholds().own == 0.25
    # Lines of flags registered later are in thresholds that were made before.
    assert before.own == 0.25
    assert Thresholds(own=0.5).of_flag("own") == 0.5


@pytest.mark.usefixtures("own")
def test_a_flag_may_share_a_line():
    flag("own", threshold="log_gain", rank=65, source="convention")(judge)
    assert Thresholds(log_gain=2.0).of_flag("own") == 2
    with pytest.raises(AttributeError, match="own is no threshold"):
        _ = Thresholds().own


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"threshold": "log_gian"}, "Did you mean 'log_gain'"),
        ({"threshold": math.nan}, "threshold=nan is not a finite number"),
        ({"rank": "high"}, "rank='high' is not a number"),
    ],
)
def test_a_line_that_is_none_is_refused(how, words):
    arguments = {"rank": 1, "source": ""} | how
    with pytest.raises(isometry.InputError, match=words):
        flag("own", **arguments)


def test_lines_are_those_of_the_sources():
    lines = Thresholds()
    assert (lines.log_gain, lines.depth_scales, lines.anisometry) == (3, 6, 1)
    assert (lines.least_seeds, lines.controls, lines.confidence) == (5, 19, 0.95)
    assert lines == Thresholds(log_gain=3.0)
    assert lines != Thresholds(log_gain=2.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"log_gain": math.nan}, r"log_gain=nan is not a finite number in \[0, inf\)"),
        ({"anisometry": -1.0}, r"anisometry=-1.0"),
        ({"confidence": 1.5}, r"confidence=1.5 is not a finite number in \[0, 1\]"),
        ({"dead_level": "high"}, "dead_level='high' is not a number"),
        ({"controls": 0}, "controls=0 must be a whole number, at least 1"),
        ({"least_seeds": 2.5}, "least_seeds=2.5 is not a whole number"),
        ({"log_gian": 2}, "log_gian is no threshold; there are: log_gain"),
    ],
)
def test_thresholds_are_numbers_that_can_be_passed(wrong, words):
    with pytest.raises(isometry.InputError, match=words) as error:
        Thresholds(**wrong)
    assert str(error.value).startswith("Thresholds()")
