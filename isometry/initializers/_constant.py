"""Constant arrays."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks
from isometry._internal.errors import public
from isometry._internal.types import DTypeLike, Key
from isometry.initializers._catalogue import register
from isometry.initializers._initializer import (
    Draw,
    Initializer,
    for_any_shape,
    format_arguments,
    magnitude,
)


@register(
    law="every entry 0",
    citation="torch.nn.init.zeros_",
    aliases=("torch zeros_", "jax zeros", "Keras Zeros"),
)
@public("zeros")
def zeros(*, dtype: DTypeLike | None = None) -> Initializer:
    """Fill with 0.

    Args:
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer for any shape, which needs no key.

    Example:
        >>> from isometry import initializers
        >>> initializers.zeros()(None, (3,))
        Array([0., 0., 0.], dtype=float32)
    """
    return _filled("zeros", 0.0, arguments={}, dtype=dtype)


@register(
    law="every entry 1",
    citation="torch.nn.init.ones_",
    aliases=("torch ones_", "jax ones", "Keras Ones"),
)
@public("ones")
def ones(*, dtype: DTypeLike | None = None) -> Initializer:
    """Fill with 1.

    Args:
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer for any shape, which needs no key.

    Example:
        >>> from isometry import initializers
        >>> initializers.ones()(None, (3,))
        Array([1., 1., 1.], dtype=float32)
    """
    return _filled("ones", 1.0, arguments={}, dtype=dtype)


@register(
    law="every entry `value`; rank one",
    citation="torch.nn.init.constant_",
    aliases=("torch constant_", "jax constant", "Keras Constant"),
    needs=("value",),
)
@public("constant")
def constant(value: float, *, dtype: DTypeLike | None = None) -> Initializer:
    """Fill with one number.

    Args:
        value: The number. Finite.
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer for any shape, which needs no key.

    Raises:
        InputError: `value` is not a finite number, or is too large for the dtype.

    Example:
        >>> from isometry import initializers
        >>> initializers.constant(0.5)(None, (3,))
        Array([0.5, 0.5, 0.5], dtype=float32)
    """
    value = checks.number("value", value)
    return _filled("constant", value, arguments={"value": value}, dtype=dtype)


class _Filled(Initializer):
    """One operation, whose program JAX keeps for all initializers that fill a shape."""

    @functools.cached_property
    def _compiled_draw(self) -> Draw:
        return self.draw


def _filled(
    name: str,
    value: float,
    *,
    arguments: Mapping[str, object],
    dtype: DTypeLike | None,
) -> Initializer:
    def draw(
        key: Key | None, shape: tuple[int, ...], draw_dtype: np.dtype
    ) -> Float[Array, "..."]:
        # A value beyond the dtype would be filled in as an infinity; `largest` refuses
        # it.
        return jnp.full(shape, value, draw_dtype)

    # Not random: the key, which JAX's convention asks for, may be None.
    return _Filled(
        name,
        format_arguments(arguments, dtype),
        draw,
        random=False,
        largest=for_any_shape(magnitude(value)),
        dtype=dtype,
    )
