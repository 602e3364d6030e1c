"""Fixtures of the properties."""

import jax
import pytest


@pytest.fixture(params=[False, True], ids=["x64 off", "x64 on"])
def x64(request):
    """The same property with x64 off and on."""
    with jax.enable_x64(request.param):
        yield request.param
