"""Every factory with the law it claims. The tests hold each to it; the docs table is made from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """One factory of the catalogue.

    - `name`: what it is called; `factory`: the function itself; `definition`: what it draws, in one line.
    - `citation`: who published it.
    - `law`: mean and variance, or the exact structure; the singular values where they are known.
    - `isometric`: the shapes for which a layer with these weights is an isometry (all s = gain), in words; "" for none.
    - `aliases`: the names other libraries use for the same law.
    - `differs`: the laws other libraries have under this or a similar name, and the call that reproduces each; those of
      `jax.nn.initializers` bit for bit from the same key.
    - `needs`: arguments without a default; an entry that needs none can be named as a scheme.
    """

    name: str
    factory: Callable[..., Any]
    definition: str
    law: str
    isometric: str
    citation: str
    aliases: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    differs: str = ""


_ENTRIES: dict[str, Entry] = {}


def register(
    *,
    law: str,
    citation: str,
    isometric: str = "",
    aliases: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    differs: str = "",
) -> Callable[[Factory], Factory]:
    """Decorator: put a factory into the catalogue; its docstring's first line is the definition."""

    def add(factory: Factory) -> Factory:
        name, definition = factory.__name__, (factory.__doc__ or "").split("\n", 1)[0]
        _ENTRIES[name] = Entry(name, factory, definition, law, isometric, citation, aliases, needs, differs)
        return factory

    return add


def catalogue() -> tuple[Entry, ...]:
    """Every factory: name, definition, law, isometric shapes, citation, aliases."""
    return tuple(_ENTRIES.values())
