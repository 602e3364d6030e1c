"""Normalizations that our own networks share: layer norm, RMS norm, batch norm.

Channels are the last axis of x. Layer norm and RMS norm treat each position (a token, a
pixel) for itself; batch norm divides each channel by its statistics over a batch.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# A vector, or vectors at positions, such as tokens and pixels.
Signal: TypeAlias = Float[Array, "*positions width"]

NORMS = ("layer", "rms", "batch")

# Added to variances, as in torch, Haiku and Equinox. A hundred times larger, it would
# show in the singular values of networks whose signal is weak; at a hundredth, float32
# could no longer tell it from a variance of 1.
EPSILON = 1e-5

# The name of the axis of examples over which a network in training mode is mapped.
BATCH_AXIS = "batch"


def initial_leaves(norm: str, width: int, dtype: DTypeLike) -> dict[str, Array]:
    """Return the trained leaves of a norm before training: scale 1, bias 0.

    Args:
        norm: One of `NORMS`.
        width: The number of channels.
        dtype: The dtype of the leaves.

    Returns:
        "scale" and "bias", each of shape (width,). RMS norm has no bias, because it
        does not subtract the mean.
    """
    leaves = {"scale": jnp.ones(width, dtype)}
    if norm != "rms":
        leaves["bias"] = jnp.zeros(width, dtype)
    return leaves


def initial_statistics(width: int, dtype: DTypeLike) -> dict[str, Array]:
    """Return the statistics of a batch norm before any batch: mean 0, variance 1.

    They are "mean" and "var", each of shape (width,).
    """
    return {
        "mean": jnp.zeros(width, dtype),
        "var": jnp.ones(width, dtype),
    }


def normalize(
    norm: str,
    leaves: dict[str, Array],
    x: Signal,
    *,
    statistics: dict[str, Array] | None = None,
) -> Signal:
    """Normalize x, then scale and shift its channels.

    Args:
        norm: One of `NORMS`.
        leaves: Scale and bias, as in `initial_leaves`.
        x: One example.
        statistics: Of batch norm, the mean and variance of each channel, as in
            `initial_statistics`. None in training: they are then computed from the
            batch, over all positions and over the mapped axis `BATCH_AXIS`.

    Returns:
        An array of the shape of x.
    """
    scale = _on_channels(leaves["scale"], x)
    if norm == "rms":
        power = _mean_over_channels(x * x)
        inverse_length = jax.lax.rsqrt(power + EPSILON)
        unit = x * inverse_length
        return scale * unit
    if norm == "layer":
        unit = _standardized_positions(x)
    else:
        unit = _standardized_channels(x, statistics)
    bias = _on_channels(leaves["bias"], x)
    return scale * unit + bias


def _mean_over_channels(x: Signal) -> Float[Array, "*positions 1"]:
    """Return the mean of each position, with an axis of length 1 for the channels."""
    return jnp.mean(x, axis=-1, keepdims=True)


def _standardized_positions(x: Signal) -> Signal:
    """Return x with mean 0 and variance 1 over the channels of each position."""
    mean = _mean_over_channels(x)
    centred = x - mean
    variance = _mean_over_channels(centred * centred)
    inverse_deviation = jax.lax.rsqrt(variance + EPSILON)
    return centred * inverse_deviation


def _standardized_channels(x: Signal, statistics: dict[str, Array] | None) -> Signal:
    """Subtract each channel's mean, and divide by the root of its variance."""
    if statistics is None:
        statistics = _batch_statistics(x)
    mean = _on_channels(statistics["mean"], x)
    centred = x - mean
    variance = statistics["var"]
    inverse_deviation = jax.lax.rsqrt(variance + EPSILON)
    scale = _on_channels(inverse_deviation, x)
    return centred * scale


def _batch_statistics(x: Signal) -> dict[str, Array]:
    """Return mean and variance of each channel over positions and `BATCH_AXIS`."""
    last = x.ndim - 1
    positions = tuple(range(last))
    of_example = jnp.mean(x, axis=positions)
    mean = jax.lax.pmean(of_example, BATCH_AXIS)
    # From the centred values: the difference of two moments cancels where the mean is
    # large.
    centred = x - _on_channels(mean, x)
    of_example = jnp.mean(centred * centred, axis=positions)
    variance = jax.lax.pmean(of_example, BATCH_AXIS)
    return {"mean": mean, "var": variance}


def _on_channels(leaf: Float[Array, " width"], x: Signal) -> Array:
    """Return a leaf (width,) with as many axes as x, so that it broadcasts against x.

    Under strict rank promotion JAX refuses to add axes by itself.
    """
    num_positions = x.ndim - 1
    ones = (1,) * num_positions
    return leaf.reshape(ones + leaf.shape)
