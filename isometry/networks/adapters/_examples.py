"""The shapes of inputs of a model: of one example, of a batch, of a random key."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from isometry._internal import checks, kinds
from isometry._internal.errors import InputError
from isometry._internal.types import Key


def key_shape() -> jax.ShapeDtypeStruct:
    """Return the shape of a random key of the default PRNG implementation."""
    # Any seed will do, because only the shape is asked for.
    return jax.eval_shape(lambda: jax.random.key(0))


def abstract(example: PyTree) -> PyTree:
    """Return an example with a `jax.ShapeDtypeStruct` in place of each array.

    Args:
        example: An array, a list of numbers, or a tree of arrays or of their shapes.

    Raises:
        InputError: It holds no number, or a leaf is no array.
    """
    leaves, tree = jax.tree.flatten(example)
    if not leaves:
        raise InputError("example holds no array; write one x, such as jnp.ones(3).")
    # A list of numbers is what a user means by an array.
    numbers = (bool, int, float)
    are_numbers = [isinstance(leaf, numbers) for leaf in leaves]
    if all(are_numbers):
        return _shape_of("example", example)
    paths = jax.tree_util.tree_leaves_with_path(example)
    leaves = []
    for path, leaf in paths:
        # As a user would write it, example["x"][0].
        name = f"example{jax.tree_util.keystr(path)}"
        leaves.append(_shape_of(name, leaf))
    shapes = jax.tree.unflatten(tree, leaves)
    is_empty = [0 in leaf.shape for leaf in leaves]
    if all(is_empty):
        raise InputError(
            f"example is {brief(shapes)}, which holds no number; write one x, such as "
            "jnp.ones(3)."
        )
    return shapes


def _shape_of(name: str, leaf: object) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of a leaf; refuse a leaf that is no array."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    # Keys are arrays already, and have no NumPy counterpart to be converted to.
    array: Any = leaf
    if not kinds.is_key(leaf):
        array = checks.array(name, leaf)
    shape, dtype = array.shape, array.dtype
    return jax.ShapeDtypeStruct(shape, dtype)


def batch_of_one(x: PyTree) -> PyTree:
    """Return x with a leading axis of length 1 on every leaf that is no random key."""

    # All examples share a key: with a batch axis it would be an array of keys, which
    # models do not take.
    def with_axis(leaf: Array) -> Array:
        is_array = isinstance(leaf, jax.Array)
        if is_array and kinds.is_typed_key(leaf):
            return leaf
        array = checks.array("x", leaf)
        return array[None]

    if not jax.tree.leaves(x):
        raise InputError(f"x is {checks.show(x)}, which holds no array; write one x.")
    return jax.tree.map(with_axis, x)


def stacked(leaf: jax.ShapeDtypeStruct, size: int) -> jax.ShapeDtypeStruct:
    """Return the shape of a leaf in a batch of `size` examples.

    A random key keeps its shape: all examples share it.
    """
    if kinds.is_typed_key(leaf):
        return leaf
    shape = (size, *leaf.shape)
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def first_row(example: PyTree) -> PyTree | None:
    """Return the shapes of an example without the first axis of each leaf.

    None if a leaf has no axis.
    """
    shapes = [leaf.shape for leaf in jax.tree.leaves(example)]
    # The shape of a number is empty.
    if not all(shapes):
        return None

    def row(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = leaf.shape[1:]
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return jax.tree.map(row, example)


def whole_numbers(example: PyTree) -> PyTree | None:
    """Return the shapes of an example with int32 in place of floating dtypes.

    None if no leaf is floating.
    """

    def whole(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype
        if kinds.is_floating(leaf):
            dtype = jnp.int32
        return jax.ShapeDtypeStruct(leaf.shape, dtype)

    leaves = jax.tree.leaves(example)
    has_floating = any(kinds.is_floating(leaf) for leaf in leaves)
    if not has_floating:
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
            dtype = leaf.dtype
            shape = (size, *leaf.shape)
            if kinds.is_typed_key(leaf):
                drawn = own
            elif jnp.issubdtype(dtype, jnp.inexact):
                drawn = jax.random.normal(own, shape, dtype)
            else:
                # The number 0 is a token of every vocabulary.
                drawn = jnp.zeros(shape, dtype)
            leaves.append(drawn)
        return jax.tree.unflatten(self.tree, leaves)


def brief(tree: PyTree) -> str:
    """Write the shapes in a tree for a message: "float32[8,3]", "(int32[5], ...)"."""

    def written(leaf: jax.ShapeDtypeStruct) -> str:
        sides = ",".join(map(str, leaf.shape))
        return f"{leaf.dtype}[{sides}]"

    shapes = jax.tree.map(written, tree)
    # Python quotes the strings in a tree.
    return str(shapes).replace("'", "")
