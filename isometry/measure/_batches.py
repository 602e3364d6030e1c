"""The matrices of a batch together: pooled, and the standard error over seeds."""

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array

from isometry import linalg
from isometry._internal import compilation
from isometry.measure._evaluating import compiled

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum


@compiled()
def pooled(sp: "Spectrum") -> "Spectrum":
    """Join all matrices to one measure, each with equal mass."""
    batch = sp.log_values.shape[:-1]
    count = math.prod(batch)
    order = jnp.argsort(-sp.log_values.ravel())
    log_floor = jnp.asarray(sp.log_floor)
    floors = sp.log_values[..., :1] + log_floor[..., None]
    # Only the floors of matrices with unresolved values matter.
    absolute = jnp.where(sp.resolved, -jnp.inf, floors)
    top = jnp.max(sp.log_values)
    floor = jnp.maximum(jnp.max(absolute) - top, jnp.min(log_floor))
    return replace(
        sp,
        log_values=sp.log_values.ravel()[order],
        weights=(sp.weights.ravel() / count)[order],
        log_floor=jnp.where(jnp.isfinite(top), floor, jnp.min(log_floor)),
        quadrature=_pooled_rules(sp, count),
    )


def _pooled_rules(sp: "Spectrum", count: int) -> linalg.Quadrature | None:
    """Join the rules of all matrices: rule i has the nodes of their i-th probes."""
    rules = sp.quadrature
    if rules is None:
        return None
    probes, num_nodes = rules.log_values.shape[-2:]

    # Probes of different matrices are independent, so any may be joined.
    def joined(nodes: Array) -> Array:
        stacked = nodes.reshape(count, probes, num_nodes)
        return jnp.moveaxis(stacked, 1, 0).reshape(probes, count * num_nodes)

    return linalg.Quadrature(
        log_values=joined(rules.log_values),
        weights=joined(rules.weights) / count,
        log_floor=jnp.min(jnp.asarray(rules.log_floor)),
        radau_log_values=joined(rules.radau_log_values),
        radau_weights=joined(rules.radau_weights) / count,
        steps=jnp.min(jnp.asarray(rules.steps)),
    )


@functools.partial(compilation.jit, static_argnums=1)
def standard_error(values: Array, num_batch_axes: int) -> Array:
    """Return the standard error over seeds of the mean of a batch.

    Args:
        values: (seeds, inputs, ...): one number for each matrix, or an array.
        num_batch_axes: How many of the axes are those of the batch.
    """
    num_seeds, *inputs = values.shape[:num_batch_axes]
    # Inputs share the weights of their seed, so only seeds are independent.
    trailing = values.shape[num_batch_axes:]
    per_seed = values.reshape(num_seeds, math.prod(inputs), *trailing).mean(1)
    return jnp.std(per_seed, axis=0, ddof=1) / math.sqrt(num_seeds)
