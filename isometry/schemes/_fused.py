"""One weight that makes queries, keys and values, drawn as three side by side."""

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

# Where along the outputs of a weight each role begins and ends.
Shares: TypeAlias = Mapping[str, tuple[int, int]]


def parts(layer: Layer, shares: Shares) -> dict[str, Layer]:
    """Return the layer of each role, in the order of the outputs.

    Args:
        layer: The fused layer.
        shares: Its shares.

    Returns:
        The layers by role; empty if the shares do not fill the outputs.
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
    """Return the initializer that draws the weights of all roles side by side."""
    inits = {role: scheme.initializer(part) for role, part in by_role.items()}

    def draw(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        # Layers of a pair must draw from the same key. Values pair with the output
        # layer, which draws from the key of this layer; queries pair with keys.
        key_query_key = jax.random.fold_in(key, 1)
        drawn = []
        for role, init in inits.items():
            part_shape = (*shape[:-1], by_role[role].num_outputs)
            key_of_role = key if role == "value" else key_query_key
            drawn.append(init(key_of_role, part_shape, dtype))
        return jnp.concatenate(drawn, -1)

    written = ", ".join(map(repr, inits.values()))
    return Initializer("side by side", written, draw, least_axes=2)
