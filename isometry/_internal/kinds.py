"""What a value holds: floating numbers, whole numbers, or random keys.

Values are arrays of JAX and NumPy, their shapes, the abstract values of programs, and
Python numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Words on the last axis of an old key: of threefry 2, of rbg 4.
_OLD_KEY_WORDS = (2, 4)


def is_floating(value: object) -> bool:
    """Tell whether a value holds real floating numbers, so that it has derivatives."""
    dtype = getattr(value, "dtype", None)
    # Python numbers have no dtype, and neither have the effect tokens of programs.
    if dtype is None:
        return isinstance(value, float)
    return jnp.issubdtype(dtype, jnp.floating)


def is_inexact(value: Any) -> bool:
    """Tell whether a value holds floating numbers, real or complex."""
    return jnp.issubdtype(jnp.result_type(value), jnp.inexact)


def is_whole(value: Any) -> bool:
    """Tell whether a value holds whole numbers that are no random keys."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return isinstance(value, int) and not isinstance(value, bool)
    return jnp.issubdtype(dtype, jnp.integer) and not is_key(value)


def is_typed_key(value: object) -> bool:
    """Tell whether a value is an array of typed keys, which NumPy does not know."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def is_key(value: Any) -> bool:
    """Tell whether a value is a random key or an array of keys, typed or old.

    An old key has the dtype uint32 and two or four words on its last axis. So has any
    other array of that dtype and shape, which cannot be told from a key.
    """
    if is_typed_key(value):
        return True
    if getattr(value, "dtype", None) != np.uint32 or value.ndim == 0:
        return False
    return value.shape[-1] in _OLD_KEY_WORDS
