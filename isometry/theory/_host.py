"""The one place where theory evaluates a function of the user's: in float64, on the host, whoever calls."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks, activations
from isometry.activations import Activation

ActivationLike = str | Activation | Callable[[Any], Any]

_CHUNK = 16384  # one shape, so that phi is compiled once


def on_host(g: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """g(x) in float64 whatever the x64 flag says, and also where the caller is being traced.

    Without the two contexts `jax.nn.gelu` of a float64 is float32, and a theory call inside a jitted `init` fails.
    """
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return np.asarray(g(jnp.asarray(x, jnp.float64)), np.float64)


def record(call: str, given: ActivationLike) -> Activation:
    """The record of `given`, hashable, and known to be a real elementwise function.

    **Raises** `ValueError`: unknown name; phi cannot be traced, is not elementwise or not real.
    """
    with _checks.named(call):
        phi = activations.get(given)
    try:
        hash(phi)
    except TypeError:  # a callable pytree, say: known by this wrapper from here on
        phi = dataclasses.replace(phi, fn=lambda x, fn=phi.fn: fn(x))
    _probe(phi, call)
    return phi


def evaluate(phi: Activation, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """phi(u) and phi'(u). Overflow is inf; NaN is refused.

    **Raises** `ValueError`: phi or phi' is NaN somewhere.
    """
    flat = np.asarray(u, np.float64).ravel()
    rows = max(1, -(-flat.size // _CHUNK))
    chunks = np.pad(flat, (0, rows * _CHUNK - flat.size)).reshape(rows, _CHUNK)
    both = _compiled(phi)
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        found = [both(jnp.asarray(chunk, jnp.float64)) for chunk in chunks]
        _checks.concrete("theory", **{f"what {phi.name} closes over": found})
        found = [tuple(map(np.asarray, pair)) for pair in found]
    value, slope = (np.concatenate(a)[: flat.size].astype(np.float64, copy=False) for a in zip(*found, strict=True))
    bad = np.isnan(value) | np.isnan(slope)
    if bad.any():
        where = "phi" if np.isnan(value[bad][0]) else "phi'"
        raise _checks.InputError(f"theory: {where} of {phi.name} is NaN at u={flat[bad][0]:g}; it must be a number.")
    return value.reshape(u.shape), slope.reshape(u.shape)


@functools.lru_cache(maxsize=128)
def _compiled(phi: Activation) -> Callable[[Any], Any]:
    return jax.jit(lambda u: jax.jvp(phi.fn, (u,), (jnp.ones_like(u),)))


@functools.lru_cache(maxsize=128)
def _probe(phi: Activation, call: str) -> None:
    """Elementwise, real, and a number in the middle of the line."""
    if not phi.named:
        with jax.enable_x64(True):
            _checks.elementwise(call, str(phi.name), phi.fn)
    evaluate(phi, np.linspace(-3.1, 2.7, 64))
