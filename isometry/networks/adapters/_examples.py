"""The shapes of inputs of a model: of one example, of a batch, of a random key."""

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
    """Return an example with a `jax.ShapeDtypeStruct` in place of each array.

    Args:
        example: An array, a list of numbers, or a tree of arrays or of their shapes.

    Raises:
        InputError: It holds no number, or a leaf is no array.
    """
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
    """Return the shape and dtype of a leaf; refuse a leaf that is no array."""
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
    """Return x with a leading axis of length 1 on every leaf that is no random key."""

    # All examples share a key: with a batch axis it would be an array of keys, which
    # models do not take.
    def with_axis(leaf: Array) -> Array:
        if isinstance(leaf, jax.Array) and _is_typed_key(leaf):
            return leaf
        return checks.array("x", leaf)[None]

    if not jax.tree.leaves(x):
        raise InputError(f"x is {checks.show(x)}, which holds no array; write one x.")
    return jax.tree.map(with_axis, x)


def stacked(leaf: jax.ShapeDtypeStruct, size: int) -> jax.ShapeDtypeStruct:
    """Return the shape of a leaf in a batch of `size` examples.

    A random key keeps its shape: all examples share it.
    """
    if _is_typed_key(leaf):
        return leaf
    return jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype)


def first_row(example: PyTree) -> PyTree | None:
    """Return the shapes of an example without the first axis of each leaf.

    None if a leaf has no axis.
    """
    leaves = jax.tree.leaves(example)
    if not all(leaf.shape for leaf in leaves):
        return None

    def row(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    return jax.tree.map(row, example)


def whole_numbers(example: PyTree) -> PyTree | None:
    """Return the shapes of an example with int32 in place of floating dtypes.

    None if no leaf is floating.
    """

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
    """The shapes of an example, as a hashable value.

    Attributes:
        leaves: The shape and dtype of each leaf.
        tree: The treedef.
    """

    leaves: tuple[jax.ShapeDtypeStruct, ...]
    tree: Any

    @classmethod
    def of(cls, example: PyTree) -> "Shapes":
        """Return the shapes of an example."""
        leaves, tree = jax.tree.flatten(example)
        return cls(tuple(leaves), tree)

    def batch(self, key: Key, size: int) -> PyTree:
        """Draw a batch of standard normal numbers; leaves of whole numbers are zeros.

        Zeros everywhere would have variance 0, and a norm that divides by the root of
        the variance would multiply by 1 / sqrt(epsilon).

        Args:
            key: A random key.
            size: The number of examples.
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
    """Write the shapes in a tree for a message: "float32[8,3]", "(int32[5], ...)"."""

    def written(leaf: jax.ShapeDtypeStruct) -> str:
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"

    return str(jax.tree.map(written, tree)).replace("'", "")
