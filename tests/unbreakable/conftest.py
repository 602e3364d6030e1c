"""Fixtures of the properties."""

import jax
import pytest

from tests import compiled


@pytest.fixture(autouse=True)
def release_programs():
    """As elsewhere, but behind each test: in the long preset one compiles thousands."""
    yield
    compiled.release()


def pytest_generate_tests(metafunc):
    """Off is how every other test of this suite runs; on, float64 comes in as well."""
    if "x64" not in metafunc.fixturenames:
        return
    # Hypothesis loads the preset of the command line after this file is imported, and
    # `calls` reads it when it is imported.
    from tests.unbreakable.calls import WIDE

    modes = {"x64 off": False, "x64 on": True} if WIDE else {"x64 on": True}
    metafunc.parametrize("x64", modes.values(), ids=modes.keys(), indirect=True)


@pytest.fixture
def x64(request):
    """The same property with x64 off, in the long preset, and on."""
    with jax.enable_x64(request.param):
        yield request.param
