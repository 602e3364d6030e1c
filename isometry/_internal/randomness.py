"""Random numbers, bit for bit those of JAX, in programs that compile in less time.

On a CPU, XLA compiles the generator of random bits anew for each number of axes, and
unrolls it over all axes: 64 × 64 normal numbers take 0.26 s to compile, for a batch of
keys 0.5 s, for two nested batches 1.5 s. As vectors, for one batch of keys, they take
0.2 s.
"""

import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import kinds
from isometry._internal.types import Key

# The only generator whose numbers are the same whatever the axes and batches in which
# they are drawn.
_COUNTING = "threefry2x32"


def host_generator(key: Key) -> np.random.Generator:
    """Return NumPy's generator, which compiles nothing, seeded by the bits of a key."""
    bits = np.asarray(jax.random.key_data(key))
    return np.random.default_rng(bits.ravel())


# One compiled program: outside of it, to take each key out of the array that JAX
# returns would be a program of its own.
@functools.partial(jax.jit, static_argnums=1, inline=True)
def split(key: Key, num: int = 2) -> tuple[Key, ...]:
    """Return the keys of `jax.random.split(key, num)` as a tuple."""
    return tuple(jax.random.split(key, num))


def normal(
    key: Key,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Float[Array, "..."]:
    """Draw the numbers of `jax.random.normal` by a program that compiles faster.

    Args:
        key: A random key; typed, or the bits of one.
        shape: The shape of the result.
        dtype: A floating dtype.

    Returns:
        What `jax.random.normal(key, shape, dtype)` returns, under `jax.vmap` as well.
    """
    if not kinds.is_typed_key(key):
        key = jax.random.wrap_key_data(key)
    # The numbers of other generators would change if they were drawn as a vector.
    if str(jax.random.key_impl(key)) != _COUNTING:
        return jax.random.normal(key, shape, dtype)
    return _drawn(key, shape, dtype)


# Compiled, because outside of a program `custom_vmap` would be traced at every call.
@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _drawn(
    key: Key,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Float[Array, "..."]:
    vector = _drawer(math.prod(shape), dtype)(key)
    return vector.reshape(shape)


def _drawer(
    size: int,
    dtype: np.dtype,
) -> Callable[[Key], Float[Array, "*batch size"]]:
    """Return a function from keys of any shape to a vector for each key."""

    def draw_one(key: Key) -> Float[Array, " size"]:
        return jax.random.normal(key, (size,), dtype)

    @jax.custom_batching.custom_vmap
    def drawn(keys: Key) -> Float[Array, "*batch size"]:
        if keys.ndim == 0:
            return draw_one(keys)
        # On a mesh with explicit axes, sharded axes of a batch cannot be merged.
        axes_of_batch = jax.typeof(keys).sharding.spec
        if keys.ndim == 1 or any(axis is not None for axis in axes_of_batch):
            by_axis = draw_one
            for _ in range(keys.ndim):
                by_axis = jax.vmap(by_axis)
            return by_axis(keys)
        vectors = jax.vmap(draw_one)(keys.reshape(-1))
        return vectors.reshape(*keys.shape, size)

    @drawn.def_vmap
    def _(axis_size: int, in_batched: list[bool], keys: Key):
        # `vmap` adds its axis to those of the batch, so that nested batches are one.
        del axis_size, in_batched
        return drawn(keys), True

    return drawn
