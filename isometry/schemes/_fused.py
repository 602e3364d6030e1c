"""Fused layers: one weight for queries, keys and values, drawn as three weights.

The share of a role is the range of outputs of the fused weight that belongs to it.
"""

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isometry._internal.types import Initializer as Init
from isometry._internal.types import Key
from isometry.initializers import Initializer
from isometry.schemes._layer import Layer
from isometry.schemes._scheme import Scheme

# The share of each role, as (first output, last output + 1).
Shares: TypeAlias = Mapping[str, tuple[int, int]]


def parts(layer: Layer, shares: Shares) -> dict[str, Layer]:
    """Return the part of a fused layer that belongs to each role, as a `Layer`.

    Args:
        layer: The fused layer.
        shares: The shares of its roles.

    Returns:
        The parts by role, in the order of the outputs; empty if the shares do not cover
        all outputs without a gap.
    """
    ordered = sorted(shares.items(), key=lambda pair: pair[1])
    ends = [0, *(stop for _, (_, stop) in ordered)]
    starts = [start for _, (start, _) in ordered]
    if not ordered or starts != ends[:-1] or ends[-1] != layer.num_outputs:
        return {}
    by_role = {}
    for role, (start, stop) in ordered:
        size = stop - start
        heads = layer.heads
        if heads is not None:
            # `layer.heads` counts the heads of queries. In grouped-query attention
            # there are fewer heads of keys and values, all of one size.
            start_of_queries, stop_of_queries = shares["query"]
            heads = max(heads * size // (stop_of_queries - start_of_queries), 1)
        by_role[role] = dataclasses.replace(
            layer, role=role, fan_out=size * layer.num_taps, heads=heads
        )
    return by_role


def initializer(scheme: Scheme, by_role: Mapping[str, Layer]) -> Init:
    """Return the initializer of a fused weight, which draws each part for itself.

    Args:
        scheme: The scheme that chooses the initializer of each part.
        by_role: The parts, as `parts` returns them.
    """
    inits = {role: scheme.initializer(part) for role, part in by_role.items()}

    def draw(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        # Layers of `Scheme.pairs` must draw from the same key. Queries pair with keys.
        # Values pair with the output layer, and both draw from the key of this layer.
        key_query_key = jax.random.fold_in(key, 1)
        drawn = []
        for role, init in inits.items():
            part_shape = (*shape[:-1], by_role[role].num_outputs)
            key_of_role = key if role == "value" else key_query_key
            drawn.append(init(key_of_role, part_shape, dtype))
        return jnp.concatenate(drawn, -1)

    written = ", ".join(map(repr, inits.values()))
    return Initializer("side by side", written, draw, least_axes=2)
