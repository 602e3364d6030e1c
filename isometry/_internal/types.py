"""Names for the types that signatures use again and again."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import jax
from jax.typing import DTypeLike as DTypeLike
from jaxtyping import Array, PyTree

# One random key, typed (`jax.random.key`) or of the old kind, two words of uint32.
Key: TypeAlias = jax.Array

# What the `init` of a network returns: arrays in any tree of dicts, lists or tuples.
Params: TypeAlias = PyTree[Array]

Shape: TypeAlias = Sequence[int]
Axes: TypeAlias = int | Sequence[int]
Sharding: TypeAlias = jax.sharding.Sharding | jax.sharding.PartitionSpec

# An elementwise function, as a network applies it.
Elementwise: TypeAlias = Callable[[Array], Array]


class Initializer(Protocol):
    """What factories return: `init(key, shape, dtype)`, as in `jax.nn.initializers`.

    Example:
        >>> init = jax.nn.initializers.he_normal()
        >>> networks.mlp([4, 8, 2], "relu", init).scheme
        Scheme('init')
    """

    def __call__(
        self,
        key: Key,
        shape: Shape,
        dtype: DTypeLike | None = None,
        out_sharding: Sharding | None = None,
    ) -> jax.Array: ...
