"""Variance of the logarithms of singular values, twice differentiable everywhere.

Also where singular values coincide, and where they are zero.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from isometry._internal import precision
from isometry._internal.errors import public
from isometry.linalg import _graded
from isometry.linalg._dense import largest_entry, matrices, thin_svd


@public("log_spread")
def log_spread(a: ArrayLike) -> Float[Array, "*batch"]:
    """Compute the variance of ln s over the resolved singular values.

    It is 0 at isometry. Resolved are the values s >= max(m, n) eps s_max; the others
    are left out, as if they were constant.

    This is a regularizer: its value, gradient and Hessian are exact at isometry and at
    any other equal singular values, and finite at zero ones. There
    `Spectrum.log_spread`, the same number, has only a gradient: its Hessian goes
    through the vectors of an SVD, which equal singular values do not determine, and is
    NaN. Third derivatives go through them here too.

    With J = U diag(s) Vᵀ the gradient is U diag(g(s)) Vᵀ. Its derivative along E, with
    M = UᵀEV, needs only the divided differences (g_i ∓ g_j)/(s_i ∓ s_j), in which no
    vector that is not determined is left (Lewis and Sendov, 2001, Twice differentiable
    spectral functions).

    Under jit, vmap and grad. Cost: one SVD with vectors. The Hessian holds 1/s², which
    overflows float32 below s = 1e-19.

    Args:
        a: Real floating matrices (..., m, n). bfloat16 and float16 are worked in
            float32.

    Returns:
        The variance of each matrix, NaN for one that is not finite.

    Raises:
        InputError: `a` has fewer than two axes, is empty or not real floating.

    Example:
        >>> linalg.log_spread(jnp.diag(jnp.exp(jnp.array([0.0, 1.0])))).round(4)
        Array(0.25, dtype=float32)
        >>> hessian = jax.jit(jax.hessian(linalg.log_spread))
        >>> hessian(jnp.eye(2))[0, 0].round(2)
        Array([[ 0.5,  0. ],
               [ 0. , -0.5]], dtype=float32)
    """
    a = matrices(a)
    *batch, m, n = a.shape
    tall = a if m >= n else a.mT
    flat = tall.reshape(-1, max(m, n), min(m, n))
    with precision.full():
        # The spread does not depend on the scale, and singular values may lie beyond
        # the range that the entries keep.
        peak = largest_entry(flat)
        is_finite = jnp.isfinite(peak[:, 0, 0])
        scaled, _ = _graded.normalized(flat, peak)
        spreads = jax.vmap(_spread)(scaled)
        spreads = jnp.where(is_finite, spreads, jnp.nan)
    return spreads.reshape(batch)


class _Parts(NamedTuple):
    """What value and derivatives need of one tall matrix.

    Attributes:
        u: Of its thin SVD.
        s: Singular values, descending.
        vt: Vᵀ.
        is_resolved: Which values count.
        logs: ln s of the resolved values, elsewhere 0.
        inverse: 1/s of the resolved values, elsewhere 0.
        num_resolved: Number of resolved values, at least 1.
        mean: Mean of their ln s.
    """

    u: Float[Array, "m n"]
    s: Float[Array, " n"]
    vt: Float[Array, "n n"]
    is_resolved: Bool[Array, " n"]
    logs: Float[Array, " n"]
    inverse: Float[Array, " n"]
    num_resolved: Float[Array, ""]
    mean: Float[Array, ""]


def _parts(a: Float[Array, "m n"]) -> _Parts:
    u, s, vt = thin_svd(a)
    eps = jnp.finfo(a.dtype).eps
    # Also of a matrix of zeros no value is resolved.
    is_positive = s > 0
    is_above_floor = s >= max(a.shape) * eps * s[:1]
    is_resolved = is_positive & is_above_floor
    # Logarithm and quotient of what is not resolved would have infinite derivatives,
    # which times zero are NaN.
    safe = jnp.where(is_resolved, s, 1)
    logs = jnp.log(safe)
    inverse = jnp.where(is_resolved, 1 / safe, 0)
    count = jnp.sum(is_resolved)
    num_resolved = jnp.maximum(count, 1).astype(a.dtype)
    mean = jnp.sum(logs) / num_resolved
    return _Parts(
        u=u,
        s=s,
        vt=vt,
        is_resolved=is_resolved,
        logs=logs,
        inverse=inverse,
        num_resolved=num_resolved,
        mean=mean,
    )


@jax.custom_jvp
def _spread(a: Float[Array, "m n"]) -> Float[Array, ""]:
    p = _parts(a)
    deviation = p.logs - p.mean
    squares = jnp.where(p.is_resolved, deviation**2, 0)
    return jnp.sum(squares) / p.num_resolved


@_spread.defjvp
def _spread_jvp(
    primals: tuple[Float[Array, "m n"]],
    tangents: tuple[Float[Array, "m n"]],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    spread = _spread(*primals)
    gradient = _gradient(*primals)
    return spread, jnp.sum(gradient * tangents[0])


@jax.custom_jvp
def _gradient(a: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """Return U diag(g) Vᵀ with g = 2 (ln s - mean)/(num_resolved s)."""
    p = _parts(a)
    deviation = p.logs - p.mean
    g = 2 / p.num_resolved * deviation * p.inverse
    scaled = p.u * g[None]
    return scaled @ p.vt


@_gradient.defjvp
def _gradient_jvp(
    primals: tuple[Float[Array, "m n"]],
    tangents: tuple[Float[Array, "m n"]],
) -> tuple[Float[Array, "m n"], Float[Array, "m n"]]:
    """Differentiate by divided differences (Lewis and Sendov, 2001)."""
    p = _parts(*primals)
    tangent = tangents[0]
    v = p.vt.T
    g = (p.logs - p.mean) * p.inverse
    inner = p.u.T @ tangent @ v
    symmetric = (inner + inner.T) / 2
    skew = (inner - inner.T) / 2
    sums = _divided_sums(p, g)
    differences = _divided_differences(p, g)
    turned = differences * symmetric + sums * skew
    # The mean moves with the values.
    moved = jnp.diag(_slope_of_mean(p, inner) * p.inverse)
    # What leaves the range of J, if it is not square.
    outside = tangent @ v - p.u @ inner
    ratio = g / jnp.where(p.s > 0, p.s, 1)
    slope = p.u @ (turned - moved) + outside * ratio[None]
    tangent_out = 2 / p.num_resolved * slope @ p.vt
    return _gradient(*primals), tangent_out


def _slope_of_mean(
    p: _Parts,
    inner: Float[Array, "n n"],
) -> Float[Array, ""]:
    """Return the derivative of the mean of ln s, from M = UᵀEV."""
    slopes = p.inverse * jnp.diag(inner)
    return jnp.sum(slopes) / p.num_resolved


def _divided_sums(
    p: _Parts,
    g: Float[Array, " n"],
) -> Float[Array, "n n"]:
    """Return (g_i + g_j)/(s_i + s_j), and 0 for two zeros."""
    column = p.s[:, None]
    total = column + p.s[None]
    sums = g[:, None] + g[None]
    return sums / jnp.where(total > 0, total, 1)


def _divided_differences(
    p: _Parts,
    g: Float[Array, " n"],
) -> Float[Array, "n n"]:
    """Return (g_i - g_j)/(s_i - s_j), and g' on the diagonal, of g = (ln s - mean)/s.

    With r = (ln s_i - ln s_j)/(s_i - s_j) it is r/s_i - (ln s_j - mean)/(s_i s_j),
    without cancellation as s_i → s_j. Where a value is not resolved, its g is 0.
    """
    resolved_i = p.is_resolved[:, None]
    are_resolved = resolved_i & p.is_resolved[None]
    s_i = p.s[:, None]
    gap = s_i - p.s[None]
    inverse_i = p.inverse[:, None]
    inverse_j = p.inverse[None]
    # ln s_i - ln s_j is log1p of this, for any gap.
    x = jnp.where(are_resolved, gap * inverse_j, 0)
    is_zero = x == 0
    log_ratio = jnp.log1p(x) / jnp.where(is_zero, 1, x)
    log_ratio = jnp.where(is_zero, 1, log_ratio)
    ratio = log_ratio * inverse_j
    near = ratio * inverse_i - g[None] * inverse_i
    # Where one is not resolved, g of it is 0.
    differences = g[:, None] - g[None]
    apart = differences / jnp.where(gap == 0, 1, gap)
    return jnp.where(are_resolved, near, apart)
