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
    return isinstance(value, float) or _is_of(value, jnp.floating)


def is_inexact(value: Any) -> bool:
    """Tell whether a value holds floating numbers, real or complex."""
    return jnp.issubdtype(jnp.result_type(value), jnp.inexact)


def is_whole(value: Any) -> bool:
    """Tell whether a value holds whole numbers that are no random keys."""
    if isinstance(value, int):
        return not isinstance(value, bool)
    return _is_of(value, jnp.integer) and not is_key(value)


def is_typed_key(value: object) -> bool:
    """Tell whether a value is an array of typed keys, which NumPy does not know."""
    return _is_of(value, jax.dtypes.prng_key)


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


def is_foreign(value: Any) -> bool:
    """Tell whether a value is an array of a library whose dtypes NumPy does not know.

    Those of PyTorch are. JAX traces no program with one.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return False
    try:
        jnp.issubdtype(dtype, np.generic)
    except TypeError:
        return True
    return False


def _is_of(value: object, kind: Any) -> bool:
    """Tell whether the dtype of a value is of a kind; those of others are of none."""
    dtype = getattr(value, "dtype", None)
    # Python numbers have no dtype, and neither have the effect tokens of programs.
    if dtype is None or is_foreign(value):
        return False
    return jnp.issubdtype(dtype, kind)
