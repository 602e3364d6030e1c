"""Signals that leave the range of their dtype at its lower end: the same layer pass in float64, and what that holds.

A zero that underflow makes is none: it says nothing of slopes and gradients, which have no scale.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from isometry._internal import precision
from isometry.degeneracy._certify import on_host
from isometry.degeneracy._unit_flags import all_layers, slopes
from isometry.measure._record import Spectrum
from isometry.networks._mlp import Mlp as Network

LIFT = 2.0**60  # a loss is scaled by this before differentiation, so that a small gradient is not a zero one
LOG_LIFT = 60 * math.log(2)
_LOG2_PEAK = -60  # of layers brought back: as far below every scale of a phi as above the range's end


class LayerPass(NamedTuple):
    """Of stacked parameters, in float64.

    Attributes:
        below: What each layer takes, x and phi(z_1) … phi(z_(depth-1)): (seeds, inputs, units) each.
        layers: Pre-activations z_1 … z_depth, alike.
        lost: The first layer (from 1) that underflows float64 too, in any seed; 0 for none.
    """

    below: list[np.ndarray]
    layers: list[np.ndarray]
    lost: int


def seeds_of(params: Any) -> Iterator[Any]:
    """The parameters of every seed of stacked `params`, on the host."""
    host = jax.tree.map(on_host, params)
    for seed in range(len(jax.tree.leaves(host)[0])):
        yield jax.tree.map(lambda a, i=seed: a[i], host)


def least(dtype: Any) -> float:
    """tiny/eps: below it numbers of `dtype` lose digits to underflow."""
    return float(jnp.finfo(dtype).tiny) / float(jnp.finfo(dtype).eps)


def layer_pass(net: Network, params: Any, xs: Any) -> LayerPass:
    """Run the network in float64, of stacked parameters."""
    with jax.enable_x64(True), precision.full():
        params, xs = precision.cast((params, xs), jnp.float64)
        *hidden, outputs = all_layers(net.function, params, xs)
        activated = [np.asarray(net.activation(z)) for z in hidden]
    layers = [np.asarray(z) for z in (*hidden, outputs)]
    below = [np.broadcast_to(np.asarray(xs), (len(outputs), *np.shape(xs))), *activated]
    weights = np.concatenate([np.abs(np.asarray(w)).max((2, 3)) for w in net.function.weights(params)], 1)
    return LayerPass(below, layers, _first_lost(_peaks(below), weights, _peaks(layers)))


def _peaks(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Return the largest modulus of each seed and layer, (seeds, layers)."""
    return np.stack([np.abs(z).reshape(len(z), -1).max(1) for z in layers], 1)


def _first_lost(below: np.ndarray, weights: np.ndarray, layers: np.ndarray) -> int:
    """Find the first layer, from 1, where no term of the sums is a normal number though none is zero; 0 for none."""
    with np.errstate(divide="ignore"):
        largest_term = np.log2(below) + np.log2(weights)
    limits = np.finfo(float)
    is_lost = (below > 0) & (weights > 0) & (layers < limits.tiny) & (largest_term < limits.minexp)
    first = np.where(is_lost.any(1), is_lost.argmax(1) + 1, 0)
    return int(first.max(initial=0))


@functools.partial(jax.jit, static_argnames=("dtype",))
def visible(z: Any, dtype: Any) -> Any:
    """z in `dtype`, brought up by a power of two to a largest entry near 2^-60 if it underflows there.

    For slopes: at numbers as small as that phi' depends on the sign alone.
    """
    peak = jnp.max(jnp.abs(z), initial=0)
    is_low = (peak > 0) & (peak < least(dtype))
    shift = jnp.where(is_low, _LOG2_PEAK - jnp.frexp(peak)[1], 0)
    return jnp.ldexp(z, shift).astype(dtype)


def signals(net: Network, params: Any, points: Any, layers: Sequence[Any]) -> tuple[list[Any], list[Any], str]:
    """(layers to measure, layers to take slopes at, what float64 does not hold either, in words): `layers`, which are
    what `pre_activations` returns for stacked `params`, with those that underflow in float64 instead."""
    plain = [np.asarray(z) for z in layers]
    low = [bool((np.abs(z).max((1, 2)) < least(z.dtype)).any()) for z in plain]
    if not any(low):
        return list(layers), list(layers), ""
    found = layer_pass(net, params, points)
    raised, shown = list(plain), list(plain)
    for i in np.flatnonzero(low):
        raised[i] = found.layers[i]
        with jax.enable_x64(True):
            shown[i] = np.stack([np.asarray(visible(jnp.asarray(one), plain[i].dtype)) for one in raised[i]])
    said = f"z_{found.lost} underflows float64 too, so its zeros say nothing" if found.lost else ""
    return raised, shown, said


def in_jacobian(net: Network, params: Any, sp: Spectrum, units: Sequence[Any]) -> bool:
    """Whether a Jacobian of stacked `params` underflows: it is below tiny/eps, or zero though every layer between has
    weights and units with a slope; `units`: pre-activations that show their slopes."""
    top = np.asarray(sp.log_values, float)[..., 0]
    sloping = [(np.asarray(slopes(net.activation, z)) != 0).any(-1) for z in units]
    weights = net.function.weights(params)
    runs = weights[1:-1] if sp.span == "hidden" else weights
    weighted = np.all([(np.asarray(run) != 0).any((2, 3)).all(axis=1) for run in runs], 0)
    passing = np.all([np.broadcast_to(weighted[:, None], top.shape), *sloping], 0)
    return bool(((top < np.log(least(sp.log_values.dtype))) & (passing | np.isfinite(top))).any())


@functools.partial(jax.jit, static_argnames=("loss",))
def _lifted(loss: Callable[..., Any], outputs: Any, targets: Any) -> Any:
    """Gradients of the lifted loss, over seeds × inputs."""
    gradient = jax.grad(lambda y, t: LIFT * loss(y, t))
    return jax.vmap(jax.vmap(gradient), (0, None))(outputs, targets)


def log_gradients(net: Network, loss: Any, params: Any, xs: Any, targets: Any) -> tuple[np.ndarray, int]:
    """Take ln ‖∂loss/∂W_l‖_F of one example each in float64, of stacked parameters.

    That gradient is h_(l-1) ⊗ δ_l, of norm ‖h_(l-1)‖‖δ_l‖. Slopes are those that the network's dtype has, so that what
    it takes for flat is a zero here too. δ starts at size 1, whatever the loss.

    Returns:
        (seeds, inputs, depth) logarithms, and the layer that is lost, 0 for none.
    """
    found, kind = layer_pass(net, params, xs), jax.tree.leaves(params)[0].dtype
    with jax.numpy_dtype_promotion("standard"):
        last = np.asarray(_lifted(loss, found.layers[-1].astype(kind), targets), float)
    peak = np.abs(last).max(2, keepdims=True)
    with jax.enable_x64(True), precision.full():
        params, xs = precision.cast((params, xs), jnp.float64)
        back = jax.vmap(jax.vmap(_deltas(net, kind), (None, 0, 0)), (0, None, 0))
        deltas = back(params, xs, last / np.where(peak > 0, peak, 1))
    scale = _log(peak[..., 0]) - LOG_LIFT
    logs = [_log_norm(h) + _log_norm(np.asarray(d)) + scale for h, d in zip(found.below, deltas, strict=True)]
    return np.stack(logs, 2), found.lost


def _deltas(net: Network, kind: Any) -> Callable[[Any, Any, Any], list[Any]]:
    """Return the map of one example's gradient at the output to those at z_1 … z_depth."""

    def of_one(params: Any, x: Any, last: Any) -> list[Any]:
        layers = list(net.layers(params))

        def output(bumps: list[Any]) -> Any:
            z = None
            for layer, bump in zip(layers, bumps, strict=True):
                h = x if z is None else _as_steep_as(net, z, kind)
                z = h @ layer.w + (0 if layer.b is None else layer.b) + bump
            return z

        return jax.vjp(output, [jnp.zeros(layer.fan_out) for layer in layers])[1](last)[0]

    return of_one


def _as_steep_as(net: Network, z: Any, kind: Any) -> Any:
    """Return phi(z) in float64 with the slope that phi has in `kind`."""
    at = jax.lax.stop_gradient(z)
    slope = net.activation.slope(visible(at, kind)).astype(z.dtype)
    return net.activation(at) + slope * (z - at)


def _log(a: np.ndarray) -> np.ndarray:
    return np.where(a > 0, np.log(np.where(a > 0, a, 1)), -np.inf)


def _log_norm(rows: np.ndarray) -> np.ndarray:
    """ln of each row's norm, relative to its largest entry."""
    peak = np.abs(rows).max(-1)
    relative = rows / np.where(peak > 0, peak, 1)[..., None]
    return _log(peak) + np.log(np.maximum(np.linalg.norm(relative, axis=-1), 1))
