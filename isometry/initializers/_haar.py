"""Stacks of Haar orthogonal matrices."""

import jax
import numpy as np
from jaxtyping import Array, Float

from isometry._internal.types import Key


def haar_stack(
    key: Key, stack_shape: tuple[int, ...], *, rows: int, columns: int, dtype: np.dtype
) -> Float[Array, "*stack rows columns"]:
    """Draw independent Haar orthogonal matrices from one key, bit for bit as JAX does."""
    return jax.random.orthogonal(key, rows, stack_shape, dtype, columns)
