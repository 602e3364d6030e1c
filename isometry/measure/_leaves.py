"""Inputs that are trees: their floating leaves are varied, and the others are not."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from isometry._internal import checks


def array_or_key(name: str, value: Any) -> jax.Array:
    """Return a leaf of x as an array, whatever the user passed; keys stay keys."""
    return value if checks.is_key(value) else checks.array(name, value)


def is_floating(leaf: Array) -> bool:
    """Tell whether a leaf carries a derivative."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def is_whole(leaf: Array) -> bool:
    """Tell whether a leaf is of whole numbers and no random key."""
    is_integer = jnp.issubdtype(jnp.result_type(leaf), jnp.integer)
    return is_integer and not checks.is_key(leaf)


def floating(x: PyTree[Array]) -> list[Array]:
    """Return the floating leaves, in the order of `jax.tree.leaves`."""
    return [leaf for leaf in jax.tree.leaves(x) if is_floating(leaf)]


def joined(x: PyTree[Array]) -> Array:
    """Return the floating leaves as one array: one as it is, several as a vector."""
    leaves = floating(x)
    if len(leaves) == 1:
        return leaves[0]
    return jnp.concatenate([leaf.ravel() for leaf in leaves])


def replaced(x: PyTree[Array], z: Array) -> PyTree[Array]:
    """Return x with other numbers in its floating leaves: the inverse of `joined`."""
    vector = z.ravel()
    leaves = []
    start = 0
    for leaf in jax.tree.leaves(x):
        if not is_floating(leaf):
            leaves.append(leaf)
            continue
        shape = jnp.shape(leaf)
        stop = start + math.prod(shape)
        leaves.append(vector[start:stop].reshape(shape))
        start = stop
    return jax.tree.unflatten(jax.tree.structure(x), leaves)
