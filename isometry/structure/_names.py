"""Names of weight layers, from the paths of their leaves in params."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jaxtyping import PyTree

# What libraries call the array of a weight layer. It says nothing that the kind of the
# layer does not say, so names go without it.
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

# Steps of a path that say nothing: the collection that Flax puts around parameters, the
# attribute that holds the array in NNX, and Haiku's mark of a method other than
# __call__.
_COLLECTION = "params"
_HOLDERS = frozenset(("value", "raw_value"))
_SILENT = frozenset(("~", ""))

# Names that points have already.
_RESERVED = frozenset(("input", "output", "carry"))


class Leaf(NamedTuple):
    """A leaf of params.

    Attributes:
        path: Its key path as JAX writes it: "['dense']['kernel']".
        steps: The same, step by step, without those that say nothing.
    """

    path: str
    steps: tuple[str, ...]


def leaves(params: PyTree) -> list[Leaf]:
    """Return the path of every leaf of params."""
    with_paths = jax.tree_util.tree_leaves_with_path(params)
    return [Leaf(jax.tree_util.keystr(path), _steps(path)) for path, _ in with_paths]


def _steps(path: Sequence[object]) -> tuple[str, ...]:
    # Haiku's names of modules are paths themselves.
    steps: list[str] = []
    for key in path:
        steps += [step for step in _text(key).split("/") if step not in _SILENT]
    if len(steps) > 1 and steps[0] == _COLLECTION:
        steps = steps[1:]
    if len(steps) > 1 and steps[-1] in _HOLDERS:
        steps = steps[:-1]
    return tuple(steps)


def _text(key: object) -> str:
    """Return what a key of a path says: a name, or a number."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def layer_names(
    weights: Sequence[tuple[Leaf, str]],
) -> list[str]:
    """Name weights, each given by its leaf and the stretch of it that is meant.

    A name is the path without the leaf's own name, unless that makes two names equal.
    """
    short = [short_name(leaf) + part for leaf, part in weights]
    count = collections.Counter(short)
    names = []
    for (leaf, part), name in zip(weights, short, strict=True):
        if count[name] > 1 or name in _RESERVED:
            name = "/".join(leaf.steps) + part
        if name in _RESERVED:
            name = f"{_COLLECTION}/{name}"
        names.append(name)
    return names


def short_name(leaf: Leaf) -> str:
    """Return the path of a leaf without its own name, if that says nothing."""
    steps = leaf.steps
    if len(steps) > 1 and steps[-1] in _LEAF_NAMES:
        steps = steps[:-1]
    # A tree that is one array has a path without steps.
    return "/".join(steps) or "weight"
