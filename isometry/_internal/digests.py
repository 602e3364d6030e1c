"""Digests of arrays: equal where all bits are."""

import hashlib
from collections.abc import Iterable

import jax
import numpy as np
from jax.typing import ArrayLike

from isometry._internal import kinds


def of_arrays(arrays: Iterable[ArrayLike]) -> bytes:
    """Return a digest of the shapes, dtypes and bits of arrays, in their order."""
    digest = hashlib.blake2b(digest_size=32)
    for array in arrays:
        # Keys have no bytes of their own.
        if kinds.is_typed_key(array):
            digest.update(str(jax.random.key_impl(array)).encode())
            array = jax.random.key_data(array)
        on_host = np.asarray(array)
        digest.update(f"{on_host.shape} {on_host.dtype}".encode())
        digest.update(on_host.tobytes())
    return digest.digest()
