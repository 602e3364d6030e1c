"""Variance of the logarithms of singular values, twice differentiable also where they coincide or are zero."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks
from isometry._internal import precision
from isometry.linalg._dense import matrices, thin_svd


def log_spread(a: Float[Array, "*batch m n"]) -> Float[Array, "*batch"]:
    """Variance of ln s over the singular values that are resolved, s ≥ max(m, n)·eps·s_max: 0 at isometry.

    A regularizer: its value, gradient and Hessian are exact at isometry, at any other equal singular values, and finite
    at zero ones, which are left out as if they were constant. There `Spectrum.log_spread`, the same number, has only a
    gradient: its Hessian goes through the vectors of an SVD, which equal singular values do not determine, and is NaN.
    Third derivatives go through them here too.

    With J = U diag(s) Vᵀ the gradient is U diag(g(s)) Vᵀ, and its derivative along E, M = UᵀEV, needs only the divided
    differences (g_i ∓ g_j)/(s_i ∓ s_j), in which no vector that is not determined is left (Lewis and Sendov, 2001).

    NaN of a matrix that is not finite. jit, vmap, grad. Cost: one SVD with vectors. The Hessian holds 1/s², which
    overflows float32 below s ~ 1e-19.

    Raises:
        ValueError: fewer than two axes, an empty matrix, not real floating.
    """
    with _checks.named("log_spread"):
        a = matrices(a)
    flat = (a if a.shape[-2] >= a.shape[-1] else a.mT).reshape(-1, *sorted(a.shape[-2:], reverse=True))
    with precision.full():
        found = jnp.where(jnp.all(jnp.isfinite(flat), (1, 2)), jax.vmap(_spread)(flat), jnp.nan)
    return found.reshape(a.shape[:-2])


class _Parts(NamedTuple):
    """Of one tall matrix: its thin SVD, which s are resolved, their ln s and 1/s (elsewhere 0), number, mean ln s."""

    u: Any
    s: Any
    vt: Any
    resolved: Any
    logs: Any
    inverse: Any
    count: Any
    mean: Any


def _parts(a: Any) -> _Parts:
    u, s, vt = thin_svd(a)
    resolved = (s > 0) & (s >= max(a.shape) * jnp.finfo(a.dtype).eps * s[:1])
    safe = jnp.where(resolved, s, 1)
    logs, inverse = jnp.log(safe), jnp.where(resolved, 1 / safe, 0)
    count = jnp.maximum(jnp.sum(resolved), 1).astype(a.dtype)
    return _Parts(u, s, vt, resolved, logs, inverse, count, jnp.sum(logs) / count)


@jax.custom_jvp
def _spread(a: Any) -> Any:
    p = _parts(a)
    return jnp.sum(jnp.where(p.resolved, (p.logs - p.mean) ** 2, 0)) / p.count


@_spread.defjvp
def _spread_jvp(primals: Any, tangents: Any) -> Any:
    return _spread(*primals), jnp.sum(_gradient(*primals) * tangents[0])


@jax.custom_jvp
def _gradient(a: Any) -> Any:
    """U diag(g) Vᵀ, g = 2 (ln s − mean) / (count·s)."""
    p = _parts(a)
    return (p.u * (2 / p.count * (p.logs - p.mean) * p.inverse)[None]) @ p.vt


@_gradient.defjvp
def _gradient_jvp(primals: Any, tangents: Any) -> Any:
    p, tangent = _parts(*primals), tangents[0]
    g = (p.logs - p.mean) * p.inverse
    inner = p.u.T @ tangent @ p.vt.T
    symmetric, skew = (inner + inner.T) / 2, (inner - inner.T) / 2
    total = p.s[:, None] + p.s[None]
    plus = (g[:, None] + g[None]) / jnp.where(total > 0, total, 1)
    turned = _divided(p, g) * symmetric + plus * skew
    moved = jnp.diag(jnp.sum(p.inverse * jnp.diag(inner)) / p.count * p.inverse)  # the mean moves with s
    left = tangent @ p.vt.T - p.u @ inner  # what leaves the range of J, of a matrix that is not square
    slope = p.u @ (turned - moved) + left * (g / jnp.where(p.s > 0, p.s, 1))[None]
    return _gradient(*primals), 2 / p.count * slope @ p.vt


def _divided(p: _Parts, g: Any) -> Any:
    """(g_i − g_j)/(s_i − s_j) of g = (ln s − mean)/s, and g' on the diagonal: without cancellation as s_i → s_j.

    With r = (ln s_i − ln s_j)/(s_i − s_j) it is r/s_i − (ln s_j − mean)/(s_i s_j); an unresolved s has g = 0.
    """
    both = p.resolved[:, None] & p.resolved[None]
    gap = p.s[:, None] - p.s[None]
    x = jnp.where(both, gap * p.inverse[None], 0)
    ratio = jnp.where(x == 0, 1, jnp.log1p(x) / jnp.where(x == 0, 1, x)) * p.inverse[None]
    near = ratio * p.inverse[:, None] - g[None] * p.inverse[:, None]
    apart = (g[:, None] - g[None]) / jnp.where(gap == 0, 1, gap)
    return jnp.where(both, near, apart)
