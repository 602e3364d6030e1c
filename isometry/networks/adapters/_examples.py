"""Examples of what a model takes, by their shapes."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry._internal.types import Key


def key_shape() -> jax.ShapeDtypeStruct:
    """Return the shape of a random key of the default PRNG implementation."""
    return jax.eval_shape(lambda: jax.random.key(0))


def abstract(example: PyTree) -> PyTree:
    """Return the shapes and dtypes of an example."""
    leaves = jax.tree.leaves(example)
    if not leaves:
        raise InputError("example holds no array; write one x, such as jnp.ones(3).")
    # A list of numbers is what a user means by an array.
    if all(isinstance(leaf, (bool, int, float)) for leaf in leaves):
        return _shape_of("example", example)
    paths = jax.tree_util.tree_leaves_with_path(example)
    shapes = [
        _shape_of(f"example{jax.tree_util.keystr(path)}", leaf) for path, leaf in paths
    ]
    tree = jax.tree.unflatten(jax.tree.structure(example), shapes)
    if all(0 in leaf.shape for leaf in shapes):
        raise InputError(
            f"example is {brief(tree)}, which holds no number; write one x, such as "
            "jnp.ones(3)."
        )
    return tree


def _shape_of(name: str, leaf: object) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    # Keys are arrays already, and have no NumPy counterpart to be converted to.
    array: Any = leaf
    if not checks.is_key(leaf):
        array = checks.array(name, leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _is_typed_key(leaf: jax.Array | jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def batch_of_one(x: PyTree) -> PyTree:
    """Give every leaf but random keys a batch axis."""

    # All examples share a key: with a batch axis it would be an array of keys, which
    # models do not take.
    def with_axis(leaf: Array) -> Array:
        return leaf if _is_typed_key(leaf) else jnp.asarray(leaf)[None]

    return jax.tree.map(with_axis, x)


def stacked(leaf: jax.ShapeDtypeStruct, size: int) -> jax.ShapeDtypeStruct:
    """Return the shape of a batch; all examples share a random key."""
    if _is_typed_key(leaf):
        return leaf
    return jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype)


def first_row(example: PyTree) -> PyTree | None:
    """Return the shape of a row of an example, or None if it has no rows."""
    leaves = jax.tree.leaves(example)
    if not all(leaf.shape for leaf in leaves):
        return None

    def row(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    return jax.tree.map(row, example)


def whole_numbers(example: PyTree) -> PyTree | None:
    """Return an example with int32 for floating numbers, or None if it has none."""

    def is_floating(leaf: jax.ShapeDtypeStruct) -> bool:
        return jnp.issubdtype(leaf.dtype, jnp.floating)

    def whole(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        dtype = jnp.int32 if is_floating(leaf) else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, dtype)

    if not any(map(is_floating, jax.tree.leaves(example))):
        return None
    return jax.tree.map(whole, example)


@dataclass(frozen=True)
class Shapes:
    """The shapes of an example, hashable."""

    leaves: tuple[jax.ShapeDtypeStruct, ...]
    tree: Any

    @classmethod
    def of(cls, example: PyTree) -> "Shapes":
        """Return the shapes of an example."""
        leaves, tree = jax.tree.flatten(example)
        return cls(tuple(leaves), tree)

    def batch(self, key: Key, size: int) -> PyTree:
        """Draw a batch: standard normal numbers, and zeros for whole ones.

        A batch of zeros would not do: its variances are zero, and a norm that divides
        by their root multiplies by 1 / sqrt(epsilon).
        """
        leaves = []
        for i, leaf in enumerate(self.leaves):
            # `key` itself draws the parameters, which should not depend on this batch.
            own = jax.random.fold_in(key, i)
            shape = (size, *leaf.shape)
            if _is_typed_key(leaf):
                leaves.append(own)
            elif jnp.issubdtype(leaf.dtype, jnp.inexact):
                leaves.append(jax.random.normal(own, shape, leaf.dtype))
            else:
                leaves.append(jnp.zeros(shape, leaf.dtype))
        return jax.tree.unflatten(self.tree, leaves)


def brief(tree: PyTree) -> str:
    """Write shapes as "float32[8,3]", of a tree as tuples and dicts of them."""

    def written(leaf: jax.ShapeDtypeStruct) -> str:
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"

    return str(jax.tree.map(written, tree)).replace("'", "")
