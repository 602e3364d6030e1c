"""Singular values of an operator from products alone: guarded Golub-Kahan bidiagonalization."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from isometry import _checks
from isometry._internal import precision
from isometry.linalg._dense import thin_svd
from isometry.linalg._operator import Operator, checked

_BREAKDOWN = 64
"""Couplings below this many eps of the norm are rounding: a new direction starts there, and the coupling is zero."""
_STRIDE = 8
"""Steps between two looks at the residual bounds, each a small SVD."""


class Bidiagonal(NamedTuple):
    """J V = U B and Jᵀ U = V Bᵀ + β v eᵀ after k steps, but for rounding: B upper bidiagonal, U and V by rows."""

    diagonal: Float[Array, " k"]
    above: Float[Array, " k"]  # the last one is β, the coupling to what lies outside
    left: Float[Array, "k m"]
    right: Float[Array, "k+1 n"]  # the last one is v
    norm: Float[Array, ""]  # largest ‖J v‖, ‖Jᵀ u‖ met: at most s_max
    lost: Float[Array, ""]  # root of the sum of squares of the couplings dropped as rounding

    def scaled(self) -> Float[Array, "k k"]:
        """B over `norm`, so that no scale of J under- or overflows in its SVD."""
        scale = jnp.where(self.norm > 0, self.norm, 1)
        return (jnp.diag(self.diagonal) + jnp.diag(self.above[:-1], 1)) / scale


class Extremes(NamedTuple):
    """The largest and the smallest singular value, in this order, and how far to believe them.

    `values`; `bounds`, the distance within which a singular value lies of each; `converged`, for each; `steps` taken:
    see `extreme_singular_values`.
    """

    values: Float[Array, "2"]
    bounds: Float[Array, "2"]
    converged: Bool[Array, "2"]
    steps: Int[Array, ""]


class Quadrature(NamedTuple):
    """`log_values`, ln s descending, and `weights`, the mass of each node, one measure of mass 1 per probe; −inf for
    what is below `log_floor`."""

    log_values: Float[Array, "probes k"]
    weights: Float[Array, "probes k"]
    log_floor: float


def bidiagonalize(
    operator: Operator, start: Float[Array, " n"], key: Any, steps: int, outside: bool = True
) -> Bidiagonal:
    """`steps` ≤ n steps of Golub-Kahan from the unit vector `start`, for m ≥ n. jit and vmap; `key` for restarts.

    Without `outside` the last product with Jᵀ, which gives β and v alone, is left out: β = 0.

    Both bases are orthogonalized in full, twice (twice is enough: Giraud et al., 2005), each step. Where nothing but
    rounding is left the recursion has found an invariant subspace, as it does after one step on an isometry: it goes on
    from a random direction in the complement, with a zero in B.
    """
    unread = None if outside else steps - 1
    step = functools.partial(_step, operator, key, unread=unread)
    return jax.lax.fori_loop(0, steps, step, _started(start, operator, steps))


def _started(start: Any, operator: Operator, steps: int) -> Bidiagonal:
    (m, n), zero = operator.shape, jnp.zeros((), operator.dtype)
    right = jnp.zeros((steps + 1, n), operator.dtype).at[0].set(start)
    row = jnp.zeros(steps, operator.dtype)
    return Bidiagonal(row, row, jnp.zeros((steps, m), operator.dtype), right, zero, zero)


def _step(operator: Operator, key: Any, j: Any, b: Bidiagonal, unread: int | None = None) -> Bidiagonal:
    keys = jax.random.split(jax.random.fold_in(key, j))
    u, down, norm, lost = _next(operator.matvec(b.right[j]), b.left, b.norm, keys[0])
    if unread is None:
        image = operator.rmatvec(u)
    else:
        image = jax.lax.cond(j == unread, lambda u: jnp.zeros_like(b.right[0]), operator.rmatvec, u)
    v, up, norm, missed = _next(image, b.right, norm, keys[1])
    lost = jnp.sqrt(b.lost**2 + lost**2 + missed**2)
    diagonal, above = b.diagonal.at[j].set(down), b.above.at[j].set(up)
    return Bidiagonal(diagonal, above, b.left.at[j].set(u), b.right.at[j + 1].set(v), norm, lost)


def _next(w: Any, basis: Any, norm: Any, key: Any) -> Any:
    """(unit vector along the part of w outside `basis`, its length, the norm so far, the length if it was dropped)."""
    size = length(w)
    norm = jnp.maximum(norm, size)
    rest = _outside(basis, w / jnp.where(size > 0, size, 1))
    coupling = size * length(rest)
    broken = coupling <= _BREAKDOWN * float(jnp.finfo(w.dtype).eps) * norm  # false for NaN, which goes on as NaN

    def fresh() -> Any:
        return _outside(basis, unit(jax.random.normal(key, w.shape, w.dtype)))

    direction = unit(jax.lax.cond(broken, fresh, lambda: rest))
    return direction, jnp.where(broken, 0, coupling), norm, jnp.where(broken, coupling, 0)


def _outside(basis: Any, w: Any) -> Any:
    for _ in range(2):
        w = w - (basis @ w) @ basis
    return w


def length(w: Float[Array, " n"]) -> Float[Array, ""]:
    """Euclidean norm of a vector, whatever its scale."""
    peak = jnp.max(jnp.abs(w))
    peak = jnp.where(peak > 0, peak, 1)
    return peak * jnp.linalg.norm(w / peak)


def unit(w: Float[Array, " n"]) -> Float[Array, " n"]:
    """`w` over its length; zero stays zero."""
    size = length(w)
    return w / jnp.where(size > 0, size, 1)


def extreme_singular_values(operator: Operator, *, key: Any, steps: int) -> Extremes:
    """The largest and the smallest of the min(m, n) singular values, by Golub-Kahan from a random direction.

    Stops once both are converged, after at most `steps` (clamped to min(m, n), where both are exact to rounding).

    **Returns** `Extremes`
    - `values`: largest, smallest. They approach from inside: values[0] ≤ s_max and values[1] ≥ s_min, to rounding.
    - `bounds`: a singular value lies within `bounds` of each: the residual (last component of B's left singular vector
      times the last coupling), what restarts dropped, and 4 √max(m, n) eps s_max for rounding of the products.
    - `converged`: residual below √eps of the value itself, or below that rounding. The error of the value is then
      mostly of second order in the residual. A residual proves that a singular value is near, not that none is beyond.
    - `steps`: how many were taken.

    The smallest values converge late (many steps where s_min/s_max is small and its neighbours are near): read
    `converged`. jit and vmap; no gradient. Cost a step: one product with J and Jᵀ, 8 (m + n) `steps` FLOP. Memory:
    `steps` vectors of each side. Outside jit each call compiles anew.

    Source: Golub and Kahan (1965); Baglama and Reichel (2005), section 2, for the residual.

    **Raises** `ValueError`: not an `Operator`, or one whose products do not fit its shape; no single key; steps < 1.
    """
    call = "extreme_singular_values"
    operator = checked(call, operator).tall
    _checks.key(call, key)
    _checks.integer(call, low=1, steps=steps)
    steps = min(steps, operator.shape[1])
    first, key = jax.random.split(key)

    def unfinished(state: Any) -> Any:
        _, found = state
        return (found.steps < steps) & ~found.converged.all()

    def more(state: Any) -> Any:
        b, found = state
        done = jnp.minimum(found.steps + _STRIDE, steps)
        b = jax.lax.fori_loop(found.steps, done, functools.partial(_step, operator, key), b)
        return b, _extremes(b, done)

    with precision.full():
        b = _started(unit(jax.random.normal(first, operator.shape[1:], operator.dtype)), operator, steps)
        nothing = Extremes(b.right[0, :1].repeat(2), b.right[0, :1].repeat(2), jnp.zeros(2, bool), jnp.zeros((), int))
        return jax.lax.while_loop(unfinished, more, (b, nothing))[1]


def _extremes(b: Bidiagonal, done: Any) -> Extremes:
    """Of the leading `done` rows of B. The rest is filled with B[0, 0], which lies between the extremes."""
    index = jnp.arange(len(b.diagonal))
    inside = b._replace(
        diagonal=jnp.where(index < done, b.diagonal, b.diagonal[0]), above=jnp.where(index < done - 1, b.above, 0)
    )
    ends = jnp.array([0, -1])
    left, s, _ = thin_svd(inside.scaled())
    residual = b.above[done - 1] * jnp.abs(left[done - 1, ends])
    values = b.norm * s[ends]
    eps = float(jnp.finfo(s.dtype).eps)
    rounding = 4 * math.sqrt(max(b.left.shape[1], b.right.shape[1])) * eps * values[0]
    converged = residual <= jnp.maximum(math.sqrt(eps) * values, rounding)
    return Extremes(values, residual + b.lost + rounding, converged, done)


def _nodes(b: Any) -> tuple[Any, Any]:
    """Singular values of B, and what its right singular vectors have of the starting vector."""
    _, s, right = thin_svd(b)
    return s, right[:, 0]


def spectral_quadrature(operator: Operator, *, key: Any, steps: int, probes: int) -> Quadrature:
    """The density of the min(m, n) singular values by stochastic Lanczos quadrature: `steps` for each of `probes`.

    Each probe is uniform on the sphere and its measure has mass 1. ∫ f over the mean of the probes estimates (1/n) Σ
    f(s_i²) without bias for polynomials f of degree ≤ 2 k − 1 in s². The standard deviation over probes, divided by
    √probes, is the standard error; it is √(2/(n + 2)) times that of f over the spectrum, so 0 on an isometry.

    **Returns** `Quadrature`, (probes, k) with k = min(steps, m, n). Structural zeros (|m − n|) are apart from the mass;
    nodes below `log_floor` = ln(max(64, m, n)·eps), relative to the largest of all probes, are −inf with their mass.

    jit and vmap; no gradient (nodes coincide at isometry; use `spectral_moments`). Cost: probes × k products with J and
    k − 1 with Jᵀ, probes × 8 (m + n) k² FLOP. Memory: probes × k vectors of each side. Outside jit each call compiles
    anew.

    Source: Ubaru, Chen, Saad (2017), algorithm 1, with Golub-Kahan on J in place of Lanczos on JᵀJ, whose nodes are
    blind below √eps.

    **Raises** `ValueError`: as `extreme_singular_values`; probes < 1.
    """
    call = "spectral_quadrature"
    operator = checked(call, operator).tall
    _checks.key(call, key)
    _checks.integer(call, low=1, steps=steps, probes=probes)
    steps = min(steps, operator.shape[1])

    def one(key: Any) -> Any:
        first, key = jax.random.split(key)
        start = unit(jax.random.normal(first, operator.shape[1:], operator.dtype))
        b = bidiagonalize(operator, start, key, steps, outside=False)
        s, right = _nodes(b.scaled())
        logs = jnp.where(s > 0, jnp.log(jnp.where(s > 0, s, 1)), jnp.where(s == 0, -jnp.inf, s))
        size = jnp.where(b.norm == 0, 1, b.norm)
        return logs + jnp.log(size), right**2

    with precision.full():
        logs, weights = jax.vmap(one)(jax.random.split(key, probes))
    floor = math.log(max(_BREAKDOWN, *operator.shape) * float(jnp.finfo(logs.dtype).eps))
    logs = jnp.where(logs < jnp.max(logs) + floor, -jnp.inf, logs)  # NaN stays NaN, never a zero
    return Quadrature(logs, weights / jnp.sum(weights, -1, keepdims=True), floor)
