"""The catalogue: every factory with the law that it claims, which tests check.

A law is the distribution of the entries, or the exact structure of the array.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from isometry.initializers._initializer import Initializer

Factory = TypeVar("Factory", bound=Callable[..., Initializer])


@dataclass(frozen=True)
class Entry:
    """One factory of the catalogue.

    Attributes:
        name: What the factory is called.
        factory: The function itself.
        definition: What it draws, in one line.
        law: Mean and variance, or the exact structure; the singular values where they
            are known.
        isometric: Shapes for which a layer with these weights is an isometry (all
            singular values equal the gain), in words; "" for none.
        citation: Who published it.
        aliases: Names of the same law in other libraries.
        needs: Arguments without a default. An entry that needs none can be named as a
            scheme.
        differs: Other laws that libraries have under this or a similar name, each with
            the call that reproduces it. Those of `jax.nn.initializers` are reproduced
            bit for bit from the same key in float32 and float64.

    Example:
        >>> from isometry import initializers
        >>> entry = initializers.catalogue()[0]
        >>> entry.name, entry.law
        ('zeros', 'every entry 0')
    """

    name: str
    factory: Callable[..., Initializer]
    definition: str
    law: str
    isometric: str
    citation: str
    aliases: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    differs: str = ""


# Said of every law that JAX has too. JAX draws the coarse types in the type itself,
# which gives other bits.
SAME_BITS = (
    "bit for bit from the same key in float32 and float64; bfloat16 and float16 are "
    "drawn in float32 and rounded once"
)

# By name, in the order of import, which is the order of the page in the docs.
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
    """Return a decorator that enters a factory into the catalogue.

    The arguments are fields of `Entry`.
    """

    def add(factory: Factory) -> Factory:
        # The first line of the docstring says what is drawn, so that help() and the
        # catalogue cannot disagree.
        docstring = factory.__doc__ or ""
        definition, _, _ = docstring.partition("\n")
        _ENTRIES[factory.__name__] = Entry(
            name=factory.__name__,
            factory=factory,
            definition=definition,
            law=law,
            isometric=isometric,
            citation=citation,
            aliases=aliases,
            needs=needs,
            differs=differs,
        )
        # Not wrapped, so that help() and type checkers see its signature.
        return factory

    return add


def catalogue() -> tuple[Entry, ...]:
    """List every initializer factory.

    Returns:
        One `Entry` for each: its name, the distribution of its entries (`law`), the
        shapes for which its weight is an isometry (`isometric`, in words, "" for none)
        and the paper it comes from (`citation`).

    Example:
        >>> from isometry import initializers
        >>> entries = initializers.catalogue()
        >>> # Isometric where inputs are as many as outputs, and nowhere else.
        >>> [entry.name for entry in entries if entry.isometric == "square"]
        ['identity']
    """
    return tuple(_ENTRIES.values())
