"""Every factory with the law it claims. The tests hold each to it; the docs table is made from it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One factory of the catalogue.

    - `law`: mean and variance, or the exact structure; the singular values where they are known.
    - `isometric`: the shapes for which a layer with these weights is an isometry (all s = gain), in words; "" for none.
    - `aliases`: the names other libraries use.
    - `needs`: arguments without a default; an entry that needs none can be named as a scheme.
    """

    name: str
    factory: Callable[..., Any]
    definition: str
    law: str
    isometric: str
    citation: str
    aliases: tuple[str, ...] = ()
    needs: tuple[str, ...] = field(default=())


_ENTRIES: dict[str, Entry] = {}


def register(
    *, law: str, citation: str, isometric: str = "", aliases: tuple[str, ...] = (), needs: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: put a factory into the catalogue; its docstring's first line is the definition."""

    def add(factory: Callable[..., Any]) -> Callable[..., Any]:
        definition = (factory.__doc__ or "").split("\n", 1)[0]
        _ENTRIES[factory.__name__] = Entry(
            factory.__name__, factory, definition, law, isometric, citation, aliases, needs
        )
        return factory

    return add


def catalogue() -> tuple[Entry, ...]:
    """Every factory: name, definition, law, isometric shapes, citation, aliases."""
    return tuple(_ENTRIES.values())
