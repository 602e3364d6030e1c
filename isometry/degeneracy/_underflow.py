"""Signals that leave the range of their dtype at its lower end: what they are in float64, and whether that holds them.

A zero that underflow makes is none: it says nothing of slopes and gradients, which have no scale.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from isometry._spectrum import Spectrum
from isometry.degeneracy._certify import on_host
from isometry.networks import Network

LIFT = 2.0**60  # a loss is scaled by this before differentiation, so that a small gradient is not a zero one
LOG_LIFT = 60 * math.log(2)
_LOG2_PEAK = -60  # of layers brought back: as far below every scale of a phi as above the range's end


class Signals64(NamedTuple):
    """Pre-activations of one seed in float64: `layers`, z_1 … z_depth, (inputs, units) each; `weights`, W_1 … W_depth;
    `lost`, the first layer (from 1) that underflows float64 too, 0 for none."""

    layers: list[np.ndarray]
    weights: list[np.ndarray]
    lost: int


def seeds_of(params: Any) -> Iterator[Any]:
    """The parameters of every seed of stacked `params`, on the host."""
    host = jax.tree.map(on_host, params)
    for seed in range(len(jax.tree.leaves(host)[0])):
        yield jax.tree.map(lambda a, i=seed: a[i], host)


def least(dtype: Any) -> float:
    """tiny/eps: below it numbers of `dtype` lose digits to underflow."""
    return float(jnp.finfo(dtype).tiny) / float(jnp.finfo(dtype).eps)


def activated(net: Network, z: np.ndarray) -> np.ndarray:
    """phi(z) in float64."""
    with jax.enable_x64(True):
        return np.asarray(net.activation(jnp.asarray(z, jnp.float64)), float)


def forward(net: Network, params: Any, xs: Any) -> Signals64:
    """z_1 … z_depth of one seed. A layer is lost where no term of its sums is a normal number, though none is zero."""
    layers, weights, lost = [], [], 0
    h = np.asarray(xs, float)
    for layer in net.layers(params):
        if layers:
            h = activated(net, layers[-1])
        w = np.asarray(layer.w, float)
        z = h @ w + (0 if layer.b is None else np.asarray(layer.b, float))
        largest = [float(np.abs(a).max()) for a in (h, w)]
        if not lost and min(largest) > 0 and np.abs(z).max() < np.finfo(float).tiny:
            lost = layer.index + 1 if np.log2(largest).sum() < np.finfo(float).minexp else 0
        layers.append(z)
        weights.append(w)
    return Signals64(layers, weights, lost)


def visible(z: np.ndarray, dtype: Any) -> np.ndarray:
    """z in `dtype`, brought up by a power of two to a largest entry near 2^-60 if it underflows there.

    For slopes: at numbers as small as that phi' depends on the sign alone.
    """
    peak = np.abs(z).max(initial=0)
    if 0 < peak < least(dtype):
        z = np.ldexp(z, _LOG2_PEAK - np.frexp(peak)[1])
    return z.astype(dtype)


def signals(net: Network, params: Any, points: Any, layers: Sequence[Any]) -> tuple[list[Any], list[Any], str]:
    """(layers to measure, layers to take slopes at, what float64 does not hold either, in words): `layers`, which are
    what `pre_activations` returns for stacked `params`, with those that underflow in float64 instead."""
    plain = [np.asarray(z) for z in layers]
    low = [bool((np.abs(z).max((1, 2)) < least(z.dtype)).any()) for z in plain]
    if not any(low):
        return list(layers), list(layers), ""
    found = [forward(net, one, points) for one in seeds_of(params)]
    raised = [
        np.stack([s.layers[i] for s in found]) if below else z
        for i, (z, below) in enumerate(zip(plain, low, strict=True))
    ]
    shown = [
        np.stack([visible(one, p.dtype) for one in z]) if below else z
        for z, p, below in zip(raised, plain, low, strict=True)
    ]
    lost = max((s.lost for s in found), default=0)
    return raised, shown, f"z_{lost} underflows float64 too, so its zeros say nothing" if lost else ""


def in_jacobian(net: Network, params: Any, sp: Spectrum, units: Sequence[Any]) -> bool:
    """Whether a Jacobian of stacked `params` underflows: it is below tiny/eps, or zero though every layer between has
    weights and units with a slope; `units`: pre-activations that show their slopes."""
    top = np.asarray(sp.log_values[..., 0], float)
    slopes = [np.asarray(net.activation.slope(jnp.asarray(z)) != 0).any(-1) for z in units]
    runs = params["layers"][1:-1] if sp.span == "hidden" else params["layers"]
    weighted = np.all([(np.asarray(run["w"]) != 0).any((2, 3)).all(axis=1) for run in runs], 0)
    passing = np.all([np.broadcast_to(weighted[:, None], top.shape), *slopes], 0)
    return bool(((top < np.log(least(sp.log_values.dtype))) & (passing | np.isfinite(top))).any())


def log_gradients(net: Network, loss: Any, params: Any, xs: Any, targets: Any) -> tuple[np.ndarray, int]:
    """((inputs, depth) ln ‖∂loss/∂W_l‖_F of one example each, the layer that is lost, 0 for none), of one seed.

    That gradient is h_(l-1) ⊗ δ_l, of norm ‖h_(l-1)‖‖δ_l‖. Signals are taken in float64, slopes as the network's dtype
    has them, and δ is brought back to size 1 at every layer: only what its dtype takes for flat is a zero.
    """
    found, kind = forward(net, params, xs), jax.tree.leaves(params)[0].dtype
    with jax.numpy_dtype_promotion("standard"):
        lifted = jax.vmap(jax.grad(lambda y, t: LIFT * loss(y, t)))
        delta = np.asarray(lifted(jnp.asarray(found.layers[-1], kind), targets), float)
    scale, logs = np.full(len(xs), -LOG_LIFT), []
    for i in range(len(found.layers) - 1, -1, -1):
        peak = np.abs(delta).max(1)
        delta = delta / np.where(peak > 0, peak, 1)[:, None]
        scale = scale + _log(peak)
        below = np.asarray(xs, float) if i == 0 else activated(net, found.layers[i - 1])
        logs.append(_log_norm(below) + _log_norm(delta) + scale)
        if i:
            slope = np.asarray(net.activation.slope(jnp.asarray(visible(found.layers[i - 1], kind))), float)
            delta = (delta @ found.weights[i].T) * slope
    return np.stack(logs[::-1], 1), found.lost


def _log(a: np.ndarray) -> np.ndarray:
    return np.where(a > 0, np.log(np.where(a > 0, a, 1)), -np.inf)


def _log_norm(rows: np.ndarray) -> np.ndarray:
    """ln of each row's norm, relative to its largest entry."""
    peak = np.abs(rows).max(1)
    return _log(peak) + np.log(np.maximum(np.linalg.norm(rows / np.where(peak > 0, peak, 1)[:, None], axis=1), 1))
