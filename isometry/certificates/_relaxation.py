"""Placeholder until the relaxation of kinks lands."""

from collections.abc import Callable
from typing import NamedTuple


class Relaxed(NamedTuple):
    f: Callable
    replaced: tuple[str, ...]
    unrelaxed: tuple[str, ...]


def relaxed(f, params, x, key):
    del params, x, key
    return Relaxed(f, (), ())
