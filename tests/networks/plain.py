"""The smallest network: a function, a drawing of its parameters, and an example."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from isometry.networks import Network


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Plain(Network):
    """A network that draws its parameters by a function of the key."""

    draw: Callable

    def init(self, key):
        return self.draw(key)

    def __repr__(self):
        return f"plain({self.function.__name__})"


def plain(function, draw, example, **fields):
    """A network without a scheme; `example` is a shape, or a tree of structs."""
    if isinstance(example, tuple):
        example = jax.ShapeDtypeStruct(example, jnp.float32)
    return Plain(
        function=function,
        example=example,
        scheme=None,
        activation=None,
        draw=draw,
        **fields,
    )
