"""Names of weight layers, from the paths of their leaves in params."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jaxtyping import PyTree

# Names of the main array of a weight layer in the libraries. They add nothing to the
# name of the layer, so they are left out.
_LEAF_NAMES = frozenset(
    (
        "kernel",
        "weight",
        "weights",
        "w",
        "W",
        "embedding",
        "embeddings",
    )
)

# Keys that are left out of names: the collection that Flax puts around parameters, the
# attribute that holds the array in NNX, and "~", by which Haiku marks modules that are
# made outside of __call__.
_COLLECTION = "params"
_HOLDERS = frozenset(("value", "raw_value"))
_SILENT = frozenset(("~", ""))

# Names of points that are no layers.
_RESERVED = frozenset(("input", "output", "carry"))


class Leaf(NamedTuple):
    """A leaf of params.

    Attributes:
        path: Its key path as JAX writes it: "['dense']['kernel']".
        steps: The keys of the path, without those in `_SILENT`, the collection and the
            holder of an array: ("dense", "kernel").
    """

    path: str
    steps: tuple[str, ...]


def leaves(params: PyTree) -> list[Leaf]:
    """Return a `Leaf` for every leaf of params, in the order of `jax.tree.leaves`."""
    with_paths = jax.tree_util.tree_leaves_with_path(params)
    return [Leaf(jax.tree_util.keystr(path), _steps(path)) for path, _ in with_paths]


def _steps(path: Sequence[object]) -> tuple[str, ...]:
    """Return the keys of a path that are part of names: the `steps` of a `Leaf`."""
    # In Haiku one key is a path of modules: "mlp/~/linear_0".
    steps: list[str] = []
    for key in path:
        steps += [step for step in _text(key).split("/") if step not in _SILENT]
    if len(steps) > 1 and steps[0] == _COLLECTION:
        steps = steps[1:]
    if len(steps) > 1 and steps[-1] in _HOLDERS:
        steps = steps[:-1]
    return tuple(steps)


def _text(key: object) -> str:
    """Return the name or number of one key of a path."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def layer_names(
    weights: Sequence[tuple[Leaf, str]],
) -> list[str]:
    """Return the name of each weight.

    A name is the path of the leaf without its last key ("kernel"), unless two names
    would then be equal.

    Args:
        weights: For each weight its leaf, and the part of the leaf that it is:
            "[:, 0:64]", or "" for all of it.
    """
    short_names = [short_name(leaf) + part for leaf, part in weights]
    count = collections.Counter(short_names)
    names = []
    for (leaf, part), name in zip(weights, short_names, strict=True):
        if count[name] > 1 or name in _RESERVED:
            name = "/".join(leaf.steps) + part
        if name in _RESERVED:
            name = f"{_COLLECTION}/{name}"
        names.append(name)
    return names


def short_name(leaf: Leaf) -> str:
    """Return the path of a leaf, without a last key such as "kernel"."""
    steps = leaf.steps
    if len(steps) > 1 and steps[-1] in _LEAF_NAMES:
        steps = steps[:-1]
    # A tree that is one array has a path without steps.
    return "/".join(steps) or "weight"
