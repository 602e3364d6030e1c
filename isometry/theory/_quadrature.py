"""Gaussian expectations in float64, to rounding, for smooth and for kinked functions."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks

_REACH = 14.0  # standard deviations integrated over; the tail beyond weighs 1e-44
_TOLERANCE = 1e-14  # of the integral of |g|, shared out over the panels that are still refined
_BATCH = 64  # panels evaluated together
_ROUNDS = 60  # bisections: a jump at an unknown place is cornered to 2**-60


def on_host(g: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """g(x) in float64 whatever the x64 flag says, and also where the caller is being traced.

    Without the two contexts `jax.nn.gelu` of a float64 is float32, and a theory call inside a jitted `init` fails.
    """
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return np.asarray(g(jnp.asarray(x, jnp.float64)), np.float64)


def expectation(g: Callable[[Any], Any], q: float = 1.0, kinks: Iterable[float] = ()) -> float:
    """E g(√q z) for z ~ N(0, 1).

    Gauss-Legendre on panels split at `kinks`, each panel bisected until its two halves agree with it; a kink that was
    not named costs a few dozen bisections and no accuracy. At q = 0 this is g(0).

    **Arguments**
    - `g`: elementwise, array in, array out; jnp or numpy.
    - `q`: variance, at least 0.
    - `kinks`: points where g is not smooth.

    **Raises** `ValueError`: negative or non-finite q, g not elementwise, an expectation that is not finite.
    `TypeError`: traced q. Error: about 1e-13 of E |g|. Cost: milliseconds.
    """
    _checks.concrete("expectation", q=q)
    _checks.number("expectation", low=0.0, q=q)
    scale = float(np.sqrt(q))
    nodes, weights = np.polynomial.legendre.leggauss(20)

    def integrate(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        middle, half = (left + right)[:, None] / 2, (right - left)[:, None] / 2
        z = middle + half * nodes
        padding = -len(z) % _BATCH  # few distinct shapes: eager JAX compiles every operation once a shape
        value = on_host(g, scale * np.pad(z, ((0, padding), (0, 0))))[: len(z)]
        if value.shape != z.shape:
            raise _checks.InputError(f"expectation(): g maps shape {z.shape} to {value.shape}; it must be elementwise.")
        mass = half * weights * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        return (mass * value).sum(-1), (mass * np.abs(value)).sum(-1)

    edges = _panel_edges(scale, kinks)
    left, right = edges[:-1], edges[1:]
    whole, size = integrate(left, right)
    if size[[0, -1]].sum() > _TOLERANCE * size.sum():  # cut off where there is still mass: the tails decide
        raise _checks.InputError(f"expectation(): E g(√q z) at q={q:g} is not finite; g grows too fast.")
    scale_of_error, total = size.sum(), 0.0
    for _ in range(_ROUNDS):
        middle = (left + right) / 2
        a, b = integrate(left, middle)[0], integrate(middle, right)[0]
        rough = np.abs(a + b - whole) > _TOLERANCE * scale_of_error
        total += (a + b)[~rough].sum()
        if not rough.any():
            break
        left, right = np.r_[left[rough], middle[rough]], np.r_[middle[rough], right[rough]]
        whole = np.r_[a[rough], b[rough]]
    else:
        total += whole.sum()
    if not np.isfinite(total):
        raise _checks.InputError(f"expectation(): E g(√q z) at q={q:g} is not finite; g grows too fast or returns NaN.")
    return float(total)


def _panel_edges(scale: float, kinks: Iterable[float]) -> np.ndarray:
    """Panels one standard deviation wide, finer where √q z passes through order one, split at the kinks."""
    edges = [np.linspace(-_REACH, _REACH, 29)]
    if scale > 0:
        powers = 2.0 ** np.arange(-3, max(-2, np.ceil(np.log2(scale)) + 1)) / scale
        edges += [powers, -powers, np.array([float(k) for k in kinks]) / scale, np.zeros(1)]
    inside = np.concatenate(edges)
    return np.unique(inside[np.abs(inside) <= _REACH])
