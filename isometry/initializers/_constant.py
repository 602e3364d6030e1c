"""Constant arrays."""

from typing import Any

import jax.numpy as jnp

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._protocol import Initializer, arguments, magnitude


@register(law="every entry 0", citation="torch.nn.init.zeros_", aliases=("torch zeros_", "jax zeros", "Keras Zeros"))
def zeros() -> Initializer:
    """All entries 0."""
    return Initializer("zeros", "", lambda key, shape, dtype: jnp.zeros(shape, dtype), random=False)


@register(law="every entry 1", citation="torch.nn.init.ones_", aliases=("torch ones_", "jax ones", "Keras Ones"))
def ones() -> Initializer:
    """All entries 1."""
    return Initializer("ones", "", lambda key, shape, dtype: jnp.ones(shape, dtype), random=False)


@register(
    law="every entry `value`; rank one",
    citation="torch.nn.init.constant_",
    aliases=("torch constant_", "jax constant", "Keras Constant"),
    needs=("value",),
)
def constant(value: Any) -> Initializer:
    """All entries `value`, a number.

    **Raises** `ValueError`: value not a finite number, or too large for the dtype.
    """
    _checks.number("constant", value=value)
    return Initializer(
        "constant",
        arguments(value=value),
        lambda key, shape, dtype: jnp.full(shape, value, dtype),
        random=False,
        largest=lambda shape: magnitude(value),
    )
