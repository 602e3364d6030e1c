"""What a test registers is gone after it."""

import pytest

from isometry.initializers import _catalogue
from isometry.measure.methods import METHODS
from isometry.schemes import _registry

# Methods, initializers and schemes by name.
REGISTRIES = (METHODS, _catalogue._ENTRIES, _registry._SCHEMES)


@pytest.fixture
def registries():
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(entries)
