"""The one place where theory evaluates a user's function: in float64, on the host."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry import activations
from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry._internal.types import Elementwise
from isometry.activations import Activation

# An activation as a user writes it.
ActivationLike: TypeAlias = str | Activation | Elementwise

Values = Float[np.ndarray, "..."]

# Points evaluated together: one shape, so that phi is compiled once. A tenth of it
# spends its time in calls, ten times as many in points that nobody asked for.
_CHUNK = 16384


def on_host(
    g: Callable[[Array], jax.typing.ArrayLike],
    x: np.typing.ArrayLike,
) -> Values:
    """Evaluate g(x) in float64, whatever the x64 flag says and whoever traces.

    Without the two contexts `jax.nn.gelu` of a float64 is float32, and a call of theory
    inside a jitted `init` fails.
    """
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        argument = jnp.asarray(x, jnp.float64)
        return np.asarray(g(argument), np.float64)


def record(activation: ActivationLike) -> Activation:
    """Return the record of an activation, known to be hashable and elementwise.

    Raises:
        InputError: The name is not known; phi cannot be traced, is not elementwise, or
            not real.
    """
    phi = activations.get(activation)
    if not checks.is_hashable(phi):
        # A callable pytree, say. It is known by this wrapper from here on.
        fn = phi.fn
        phi = dataclasses.replace(phi, fn=lambda x: fn(x))
    _probe(phi)
    return phi


def evaluate(phi: Activation, u: Values) -> tuple[Values, Values]:
    """Evaluate phi(u) and phi'(u); overflow is inf.

    Raises:
        InputError: phi or phi' is NaN somewhere.
    """
    array = np.asarray(u, np.float64)
    flat = array.ravel()
    num = flat.size
    rows = max(1, -(-num // _CHUNK))
    padded = np.zeros(rows * _CHUNK)
    padded[:num] = flat
    chunks = padded.reshape(rows, _CHUNK)
    both = _compiled(phi)
    values, slopes = [], []
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        for chunk in chunks:
            pair = both(chunk)  # pyright: ignore[reportArgumentType]
            # A phi that closes over a tracer returns tracers, of which no number is
            # known.
            checks.on_host(f"what {phi.name} closes over", pair)
            value, slope = pair
            values.append(np.asarray(value, np.float64))
            slopes.append(np.asarray(slope, np.float64))
    # Without the points that filled the last chunk.
    value = np.concatenate(values)
    slope = np.concatenate(slopes)
    value, slope = value[:num], slope[:num]
    is_bad = np.isnan(value) | np.isnan(slope)
    if is_bad.any():
        first = np.flatnonzero(is_bad)[0]
        where = "phi'"
        if np.isnan(value[first]):
            where = "phi"
        raise InputError(
            f"{where} of {phi.name} is NaN at u={flat[first]:g}; it must be a number."
        )
    value = value.reshape(u.shape)
    slope = slope.reshape(u.shape)
    return value, slope


@functools.lru_cache(maxsize=128)
def _compiled(phi: Activation) -> Callable[[jax.typing.ArrayLike], tuple[Array, Array]]:
    def both(u: Array) -> tuple[Array, Array]:
        # phi is elementwise, so one tangent of ones has all derivatives.
        ones = jnp.ones_like(u)
        return jax.jvp(phi.fn, (u,), (ones,))

    return jax.jit(both)


@functools.lru_cache(maxsize=128)
def _probe(phi: Activation) -> None:
    """Refuse what is not elementwise, real, and a number in the middle of the line."""
    if not phi.named:
        with jax.enable_x64(True):
            checks.elementwise(str(phi.name), phi.fn)
    points = np.linspace(-3.1, 2.7, 64)
    evaluate(phi, points)
