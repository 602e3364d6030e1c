"""Inputs that are trees: their floating leaves are varied, and the others are not."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from isometry._internal import checks, kinds
from isometry.structure import _place


def array_or_key(name: str, value: Any) -> jax.Array:
    """Return a leaf of x as an array, whatever the user passed; keys stay keys."""
    return value if kinds.is_key(value) else checks.array(name, value)


def floating(x: PyTree[Array]) -> list[Array]:
    """Return the floating leaves, in the order of `jax.tree.leaves`."""
    return [leaf for leaf in jax.tree.leaves(x) if kinds.is_floating(leaf)]


def joined(x: PyTree[Array]) -> Array:
    """Return the floating leaves as one array: one as it is, several as a vector."""
    leaves = floating(x)
    if len(leaves) == 1:
        return leaves[0]
    return _place.joined(leaves)


def replaced(x: PyTree[Array], z: Array) -> PyTree[Array]:
    """Return x with other numbers in its floating leaves: the inverse of `joined`."""
    leaves = jax.tree.leaves(x)
    numbers = [i for i, leaf in enumerate(leaves) if kinds.is_floating(leaf)]
    parts = _place.split(z.ravel(), [jnp.shape(leaves[i]) for i in numbers])
    for i, part in zip(numbers, parts, strict=True):
        leaves[i] = part
    return jax.tree.unflatten(jax.tree.structure(x), leaves)
