"""Fixtures of the properties."""

import jax
import pytest

from tests.unbreakable.calls import WIDE


# Off is how every other test of this suite runs; with it on, float64 comes in as well.
@pytest.fixture(
    params=[False, True] if WIDE else [True],
    ids=lambda on: f"x64 {'on' if on else 'off'}",
)
def x64(request):
    """The same property with x64 off, in the long preset, and on."""
    with jax.enable_x64(request.param):
        yield request.param
