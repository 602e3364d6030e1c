"""How many calls were made: a right answer or a refusal, whatever is passed."""

import os

import pytest
from hypothesis import settings

from tests.unbreakable.calls import CALLS


def test_the_long_preset_makes_ten_thousand_calls():
    print(f"\n{sum(CALLS.values())} calls: {dict(CALLS)}")
    if settings().max_examples < 100 or "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("counted in the long preset, in one process")
    assert sum(CALLS.values()) >= 10_000
