"""The flag duplicate_blocks: blocks whose weights were drawn from the same key."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from isometry._internal import digests
from isometry._internal.types import Key
from isometry.verdicts._flag import CLEAR, RAISED, Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import flag
from isometry.verdicts._subject import Subject

_SOURCE = "equal bit for bit, of weights that are random: exact"
_REMEDY = (
    "a key of its own for every block: keys = jax.random.split(key, num_blocks), and "
    "block i draws from keys[i]"
)

# A weight with no more magnitudes than this may be equal in all blocks by design:
# zeros, the identity, a Hadamard matrix beside an identity.
_MOST_MAGNITUDES = 4

# The number of entries whose magnitudes are counted: sorting all entries of a large
# weight takes seconds.
_LOOKED_AT = 1 << 16

# The number at the end of a name: "3" of "block_3".
_NUMBER = re.compile(r"[_.]?(\d+)$")


class _Weight(NamedTuple):
    """A weight of one block: its name within the block, and its values by seed."""

    name: str
    values: Float[np.ndarray, "seeds *shape"]


@flag("duplicate_blocks", rank=35, source=_SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether two blocks have equal weights, bit for bit.

    Blocks are the slices of stacked weights, and parts of the network whose names
    differ by a number and whose weights have the same shapes. Equal blocks count only
    if one of their weights is random: it has more than four magnitudes and, if there
    are several seeds, is not the same in all of them. So blocks of zeros, or of the
    identity, do not count.
    """
    del key
    subject = measured.subject
    groups = [*_of_stacks(subject), *_of_names(subject)]
    worst: tuple[str, ...] = ()
    found = []
    for blocks in groups:
        for names in _duplicates(blocks):
            found.append(list(names))
            worst = max(worst, names, key=len)
    reason = "no two blocks have equal weights"
    if not groups:
        reason = "no two blocks are of one kind"
    if worst:
        # Three names show the pattern; `where` has all.
        listed = ", ".join(worst[:3])
        if len(worst) > 3:
            listed += ", …"
        reason = f"{len(worst)} blocks are equal bit for bit: {listed}"
    return Flag(
        "duplicate_blocks",
        RAISED if worst else CLEAR,
        reason,
        remedy=_REMEDY,
        value=len(worst),
        threshold=0,
        source=_SOURCE,
        evidence={"duplicates": found},
        where=worst,
    )


def _duplicates(blocks: dict[str, list[_Weight]]) -> Iterator[tuple[str, ...]]:
    """Yield the names of each set of equal blocks."""
    num_seeds = len(next(iter(blocks.values()))[0].values)
    seen: set[tuple[str, ...]] = set()
    for seed in range(num_seeds):
        by_content: dict[bytes, list[str]] = {}
        for name, weights in blocks.items():
            # One random weight is enough to make equal blocks a mistake.
            if any(_is_random(weight.values, seed) for weight in weights):
                content = _content(weights, seed)
                by_content.setdefault(content, []).append(name)
        for equal in by_content.values():
            names = tuple(equal)
            # The same blocks may be equal in many seeds; they are yielded once.
            if len(names) > 1 and names not in seen:
                seen.add(names)
                yield names


def _content(
    weights: list[_Weight],
    seed: int,
) -> bytes:
    """Return a digest of the weights of a block, equal for equal blocks."""
    in_order = sorted(weights, key=lambda weight: weight.name)
    return digests.of_arrays(weight.values[seed] for weight in in_order)


def _is_random(
    values: Float[np.ndarray, "seeds *shape"],
    seed: int,
) -> bool:
    """Tell whether a weight is random, and not equal in all blocks by design."""
    own = values[seed]
    # A weight that is the same in all seeds was not drawn. With a single seed that
    # cannot be told.
    if len(values) > 1 and all(np.array_equal(own, other) for other in values):
        return False
    entries = own.ravel()[:_LOOKED_AT].astype(np.float64)
    magnitudes = np.unique(np.abs(entries))
    return len(magnitudes) > _MOST_MAGNITUDES


def _leaves(subject: Subject) -> dict[str, np.ndarray]:
    """Return the parameters of all seeds by key path."""
    by_path = jax.tree_util.tree_leaves_with_path(subject.params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in by_path}


def _of_stacks(subject: Subject) -> Iterator[dict[str, list[_Weight]]]:
    """Yield each stack of blocks, as the weights of each block by the block's name.

    Weights belong to one stack if they have the same number of slices, and names with
    the same first part.
    """
    leaves = _leaves(subject)
    stacks: dict[tuple[str, int], dict[str, list[_Weight]]] = {}
    for layer in subject.anatomy.layers:
        if layer.stacked is None or layer.stacked < 2 or layer.stretches:
            continue
        # Axis 0 counts seeds, so the axes of the layer come one later.
        axes = [1 + axis for axis in layer.stacked_axes]
        in_front = range(1, 1 + len(axes))
        moved = np.moveaxis(leaves[layer.path], axes, in_front)
        slices = moved.reshape(len(moved), layer.stacked, *layer.shape)
        part = layer.name.partition("/")[0]
        blocks = stacks.setdefault((part, layer.stacked), {})
        for i in range(layer.stacked):
            weight = _Weight(layer.name, slices[:, i])
            blocks.setdefault(str(i), []).append(weight)
    for (part, _), blocks in stacks.items():
        names = {weight.name for weight in blocks["0"]}
        title = names.pop() if len(names) == 1 else part
        yield {f"{title}[{i}]": weights for i, weights in blocks.items()}


def _of_names(subject: Subject) -> Iterator[dict[str, list[_Weight]]]:
    """Yield each group of parts whose names differ by a number, as blocks by name."""
    leaves = _leaves(subject)
    groups: dict[tuple[str, ...], dict[str, list[_Weight]]] = {}
    for layer in subject.anatomy.layers:
        parts = layer.name.split("/")
        for depth, part in enumerate(parts):
            # Any part of a layer's name may name a block: both "stage_1" and "block_3"
            # in "stage_1/block_3/fc".
            around = "/".join(parts[:depth])
            block = "/".join(parts[: depth + 1])
            within = "/".join(parts[depth + 1 :])
            kind = (around, _NUMBER.sub("", part))
            blocks = groups.setdefault(kind, {})
            weight = _Weight(within, leaves[layer.path])
            blocks.setdefault(block, []).append(weight)
    for blocks in groups.values():
        # Only blocks whose weights have the same names and shapes are compared.
        alike: dict[tuple, dict[str, list[_Weight]]] = {}
        for name, weights in blocks.items():
            shapes = tuple(sorted((w.name, w.values.shape) for w in weights))
            alike.setdefault(shapes, {})[name] = weights
        for same in alike.values():
            if len(same) > 1:
                yield same
