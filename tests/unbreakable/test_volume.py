"""How many calls the other files of this folder have made."""

import os

import pytest
from hypothesis import settings

from tests.unbreakable.calls import CALLS


def test_the_long_preset_makes_ten_thousand_calls():
    print(f"\n{CALLS.total()} calls: {dict(CALLS)}")
    if settings().max_examples < 100 or "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("counted in the long preset, in one process")
    assert CALLS.total() >= 10_000
