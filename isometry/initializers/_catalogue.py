"""The catalogue: every factory with the law that it claims, which tests check.

A law is the distribution of the entries, or the exact structure of the array.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from isometry._internal.errors import InputError, public
from isometry._internal.types import Initializer as Init

Factory = TypeVar("Factory", bound=Callable[..., Init])


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
    factory: Callable[..., Init]
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

    The factory can then be named as a scheme, if it needs no arguments. Its definition
    is the first line of its docstring.

    Args:
        law: Mean and variance of the entries, or the exact structure.
        citation: Who published it.
        isometric: Shapes for which a weight is an isometry, in words.
        aliases: Names of the same law in other libraries.
        needs: Arguments without a default.
        differs: Other laws under this or a similar name.

    Returns:
        A decorator, which returns the factory as it is.

    Raises:
        InputError: The name of the factory is taken by another one.

    Example:
        >>> @initializers.register(law="±1/√fan_in, equally likely", citation="ours")
        ... def signs():
        ...     "Draw random signs."
        ...
        ...     def draw(key, shape, dtype=None, out_sharding=None):
        ...         kind = dtype or jnp.float32
        ...         return jax.random.rademacher(key, shape, kind) / shape[-2] ** 0.5
        ...
        ...     return draw
        >>> net = networks.mlp([4, 4, 2], "tanh", "signs")
        >>> abs(net.init(jax.random.key(0))["layers"][1]["w"][0, 0])
        Array([0.5, 0.5], dtype=float32)
    """

    @public("initializers.register")
    def add(factory: Factory) -> Factory:
        # A factory may be registered again, as when a notebook cell is run twice. It is
        # another object then, so its module and its qualified name are compared.
        entry = _ENTRIES.get(factory.__name__)
        if entry is not None and _origin(entry.factory) != _origin(factory):
            raise InputError(
                f"an initializer {factory.__name__!r} is registered already; give the "
                "factory another name."
            )
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


def _origin(factory: Callable[..., Init]) -> tuple[str, str]:
    """Return the module and the qualified name of a factory."""
    return factory.__module__, factory.__qualname__


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
