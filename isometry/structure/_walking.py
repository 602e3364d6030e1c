"""Walks from value to value of a program, along inputs or readers."""

from collections.abc import Callable, Iterable


def reached(
    start: Iterable[int],
    following: Callable[[int], Iterable[int]],
) -> set[int]:
    """Return everything that a walk reaches, `start` included.

    Args:
        start: Where the walk begins.
        following: Where it goes on from a place; nowhere if the walk ends there.
    """
    seen = set(start)
    pending = list(seen)
    while pending:
        new = set(following(pending.pop())) - seen
        seen.update(new)
        pending.extend(new)
    return seen
