"""Mean field quantities that can be differentiated: jnp, the caller's dtype, under jit, vmap and grad.

For tuning: the gradient of chi_1, or of the fixed point, with respect to sigma_w, sigma_b and whatever parameters the
activation closes over. Accuracy is that of the dtype (about 1e-5 in float32); `theory.chi` and `theory.q_fixed_point`
are for numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from isometry import _checks, activations
from isometry.activations import Activation
from isometry.theory.mean_field import _host
from isometry.theory.mean_field._pieces import pieces

ActivationLike = str | Activation | Callable[[Any], Any]

_REACH, _ORDER = 8.5, 16
_LOW, _HIGH = 1e-10, 1e8  # variances in which a fixed point is looked for
_POINTS = 73  # four a decade
_BISECTIONS, _NEWTON = 24, 3


def chi(
    activation: ActivationLike, q: ArrayLike, sigma_w: ArrayLike, *, kinks: Sequence[Any] | None = None
) -> Float[Array, ""]:
    """chi_1 = sigma_w² E phi'(√q z)², differentiable in q, sigma_w and what the activation closes over.

    **Arguments**
    - `activation`: a name, an elementwise callable, an `Activation`.
    - `q`, `sigma_w`: positive scalars; batch by `jax.vmap`. Bad values cannot be refused when they are traced.
    - `kinks`: where phi is not smooth, traced or not. None: an `Activation`'s own and those found numerically, which a
      phi that closes over traced values does not allow: then they must be given, `kinks=()` if phi is smooth.

    **Raises** `ValueError`: a concrete q or sigma_w that is not positive; kinks that must be given.
    """
    _checks.number("traced.chi", low=0.0, open_low=True, q=q, sigma_w=sigma_w)
    phi, cuts = _known("traced.chi", activation, kinks)
    q, sigma_w = _floats(q, sigma_w)
    return sigma_w**2 * _mean(lambda u: phi.slope(u) ** 2, q, cuts)


def q_fixed_point(
    activation: ActivationLike, sigma_w: ArrayLike, sigma_b: ArrayLike, *, kinks: Sequence[Any] | None = None
) -> Float[Array, ""]:
    """The fixed point q* of the variance map that iteration from q = 1 reaches, for maps that rise with q.

    0 if the variance dies, inf if it diverges (searched: 1e-10 to 1e8); there the gradient is 0. Elsewhere it is the
    implicit one, dq* = dV/(1 − V'(q*)), whatever the iteration did.

    **Arguments**: `activation`, `sigma_w` and `kinks` as `chi`; `sigma_b` at least 0.

    **Raises** `ValueError`: as `chi`.
    """
    _checks.number("traced.q_fixed_point", low=0.0, open_low=True, sigma_w=sigma_w)
    _checks.number("traced.q_fixed_point", low=0.0, sigma_b=sigma_b)
    phi, cuts = _known("traced.q_fixed_point", activation, kinks)
    sigma_w, sigma_b = _floats(sigma_w, sigma_b)

    def growth(x: Array) -> Array:  # log V(q)/q at q = e^x
        square = _mean(lambda u: phi(u) ** 2, jnp.exp(x), cuts)
        return jnp.log(jnp.maximum(sigma_w**2 * square + sigma_b**2, jnp.finfo(x.dtype).tiny)) - x

    grid = jnp.asarray(np.linspace(np.log(_LOW), np.log(_HIGH), _POINTS), sigma_w.dtype)
    height = jax.lax.map(growth, jax.lax.stop_gradient(grid))
    low, high, found, above = _bracket(jax.lax.stop_gradient(height), grid)

    def solve(f: Callable, _: Array) -> Array:
        return _bisect_newton(f, low, high)

    def divide(g: Callable, y: Array) -> Array:
        return y / g(jnp.ones_like(y))

    def anchored(x: Array) -> Array:  # where there is no root, an equation whose solution does not move
        return jnp.where(found, growth(x), low - x)

    x = jax.lax.custom_root(anchored, low, solve, divide)
    return jnp.where(found, jnp.exp(x), jnp.where(above, jnp.inf, 0.0).astype(x.dtype))


def _floats(*values: ArrayLike) -> tuple[Array, ...]:
    floating = [d for d in map(jnp.result_type, values) if jnp.issubdtype(d, jnp.floating)]
    dtype = jnp.result_type(*floating) if floating else jnp.result_type(float)
    with np.errstate(over="ignore"):
        return tuple(jnp.asarray(v, dtype) for v in values)


def _known(call: str, given: ActivationLike, kinks: Sequence[Any] | None) -> tuple[Activation, Sequence[Any]]:
    """The record, and its kinks: given, or found on the host."""
    with _checks.named(call):
        phi = activations.get(given)
    if kinks is not None:
        return phi, kinks
    try:
        with jax.ensure_compile_time_eval():
            traced = _checks.is_traced(jax.jit(phi.fn)(jnp.zeros(2)))
    except TypeError:  # strict promotion, say: the host will tell
        traced = False
    if traced:
        raise _checks.InputError(
            f"{call}(): {phi.name} closes over traced values, so its kinks cannot be looked for. Write kinks=(...), "
            "the points where phi is not smooth, or kinks=() if there are none."
        )
    return phi, tuple(float(k) for k in pieces(_host.record(phi)).kinks)


def _mean(g: Callable, q: Array, kinks: Sequence[Any]) -> Array:
    """E g(√q z): Gauss-Legendre on panels of z cut at the kinks, and finer where √q z passes through order one."""
    scale = jnp.sqrt(q)
    dyadic = 2.0 ** np.arange(-1, 5)
    in_z = jnp.asarray(np.linspace(-_REACH, _REACH, 10), q.dtype)
    in_u = jnp.asarray(np.r_[-dyadic, 0.0, dyadic], q.dtype)
    in_u = jnp.concatenate([in_u, *[jnp.asarray(k, q.dtype)[None] for k in kinks]])
    edges = jnp.sort(jnp.concatenate([in_z, jnp.clip(in_u / scale, -_REACH, _REACH)]))
    nodes, weights = (jnp.asarray(a, q.dtype) for a in np.polynomial.legendre.leggauss(_ORDER))
    half, middle = (edges[1:] - edges[:-1]) / 2, (edges[1:] + edges[:-1]) / 2
    z = middle[:, None] + half[:, None] * nodes[None, :]
    mass = half[:, None] * weights[None, :] * jnp.exp(-(z**2) / 2) / np.sqrt(2 * np.pi).astype(q.dtype)
    return jnp.sum(mass * g(scale * z))


def _bracket(height: Array, grid: Array) -> tuple[Array, Array, Array, Array]:
    """Ends of the first crossing from q = 1, whether there is one, and whether it is sought above."""
    one = int(np.argmin(np.abs(np.linspace(np.log(_LOW), np.log(_HIGH), _POINTS))))
    index = jnp.arange(_POINTS)
    rises = height[one] > 0
    up = (index > one) & (height <= 0)
    down = (index < one) & (height >= 0)
    first_up, last_down = jnp.argmax(up), _POINTS - 1 - jnp.argmax(down[::-1])
    low = jnp.where(rises, first_up - 1, last_down)
    found = jnp.where(rises, up.any(), down.any())
    low = jnp.where(found, low, one)
    return grid[low], grid[low + 1], found, rises


def _bisect_newton(f: Callable, low: Array, high: Array) -> Array:
    sign = jnp.sign(f(low))

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = ends
        middle = (a + b) / 2
        same = jnp.sign(f(middle)) == sign
        return jnp.where(same, middle, a), jnp.where(same, b, middle)

    def step(_: Any, x: Array) -> Array:
        value, slope = jax.jvp(f, (x,), (jnp.ones_like(x),))
        return jnp.clip(x - jnp.where(slope == 0, 0, value / jnp.where(slope == 0, 1, slope)), low, high)

    a, b = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    return jax.lax.fori_loop(0, _NEWTON, step, (a + b) / 2)
