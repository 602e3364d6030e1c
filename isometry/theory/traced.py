"""Mean-field quantities that can be differentiated, in the caller's dtype.

They run under jit, vmap and grad. They are for tuning: the gradient of chi_1, or of the
fixed point, with respect to sigma_w, sigma_b and whatever parameters the activation
closes over. Accuracy is that of the dtype (about 1e-5 in float32); `theory.chi` and
`theory.q_fixed_point` are for numbers.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from isometry import activations
from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.activations import Activation
from isometry.theory.mean_field import _host
from isometry.theory.mean_field._pieces import pieces

# An activation as a user writes it.
ActivationLike = _host.ActivationLike

_Scalar = Float[Array, ""]
_Grid = Float[Array, " points"]

# Standard deviations that are integrated over, and nodes a panel. Beyond 8.5 lies 2e-17
# of the mass; with half the nodes float64 is good to 1e-9 only.
_REACH = 8.5
_ORDER = 16

# Where z passes the places that u = √q z of order one has: panels end at these u.
_DYADIC = 2.0 ** np.arange(-1, 5)

# Variances in which a fixed point is looked for, four a decade: two closer than a
# factor of 1.8 would be taken for none.
_LOW = 1e-10
_HIGH = 1e8
_POINTS = 73

# Halvings of the bracket, then Newton steps: to the rounding of float64.
_BISECTIONS = 24
_NEWTON = 3


@public("traced.chi")
def chi(
    activation: ActivationLike,
    q: ArrayLike,
    sigma_w: ArrayLike,
    *,
    kinks: Sequence[ArrayLike] | None = None,
) -> Float[Array, ""]:
    """Compute chi_1 = sigma_w² E phi'(√q z)², differentiable in all that it depends on.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`. It may close over traced values.
        q: Variance of the pre-activations, a positive scalar; batch by `jax.vmap`. Bad
            values cannot be refused when they are traced.
        sigma_w: √(fan_in · Var W), a positive scalar.
        kinks: Where phi is not smooth, traced or not. By default an `Activation`'s own,
            and those found numerically. A phi that closes over traced values does not
            allow that: then they must be given, `kinks=()` if it is smooth.

    Returns:
        chi_1.

    Raises:
        InputError: A concrete q or sigma_w that is not positive; kinks that must be
            given.

    Example:
        >>> slope = jax.jit(jax.grad(theory.traced.chi, argnums=2), static_argnums=0)
        >>> round(float(slope("relu", 1.0, 2.0)), 4)
        2.0
    """
    checks.number("q", q, above=0.0)
    checks.number("sigma_w", sigma_w, above=0.0)
    phi, cuts = _known(activation, kinks)
    q, sigma_w = _floats(q, sigma_w)
    return sigma_w**2 * _mean(lambda u: phi.slope(u) ** 2, q, cuts)


@public("traced.q_fixed_point")
def q_fixed_point(
    activation: ActivationLike,
    sigma_w: ArrayLike,
    sigma_b: ArrayLike,
    *,
    kinks: Sequence[ArrayLike] | None = None,
) -> Float[Array, ""]:
    """Find the fixed point q* of the variance map that iteration from q = 1 reaches.

    It is for maps that rise with q. The gradient is the implicit one, dq* = dV/(1 −
    V'(q*)), whatever the iteration did.

    Args:
        activation: As in `chi`.
        sigma_w: √(fan_in · Var W), a positive scalar.
        sigma_b: Standard deviation of the biases, a scalar, not negative.
        kinks: As in `chi`.

    Returns:
        q*: 0 if the variance dies, inf if it diverges (1e-10 to 1e8 is searched), with
        gradient 0.

    Raises:
        InputError: As `chi`.

    Example:
        >>> fixed_point = jax.jit(theory.traced.q_fixed_point, static_argnums=0)
        >>> round(float(fixed_point("relu", 1.0, 1.0)), 4)
        2.0
    """
    checks.number("sigma_w", sigma_w, above=0.0)
    checks.number("sigma_b", sigma_b, low=0.0)
    phi, cuts = _known(activation, kinks)
    sigma_w, sigma_b = _floats(sigma_w, sigma_b)

    def growth(log_q: _Scalar) -> _Scalar:
        """Compute log V(q)/q."""
        square = _mean(
            lambda u: phi(u) ** 2,
            jnp.exp(log_q),
            cuts,
        )
        next_q = sigma_w**2 * square + sigma_b**2
        # The log of zero would be infinite, and its gradient NaN.
        tiny = jnp.finfo(log_q.dtype).tiny
        next_q = jnp.maximum(next_q, tiny)
        return jnp.log(next_q) - log_q

    points = np.linspace(
        np.log(_LOW),
        np.log(_HIGH),
        _POINTS,
    )
    grid = jnp.asarray(points, sigma_w.dtype)
    height = jax.lax.map(growth, jax.lax.stop_gradient(grid))
    # The bracket is a choice of a place, through which no gradient passes.
    height = jax.lax.stop_gradient(height)
    low, high, exists, is_above = _bracket(height, grid)

    def solve(f: Callable[[_Scalar], _Scalar], _: _Scalar) -> _Scalar:
        return _bisect_newton(f, low, high)

    def divide(g: Callable[[_Scalar], _Scalar], y: _Scalar) -> _Scalar:
        return y / g(jnp.ones_like(y))

    def anchored(log_q: _Scalar) -> _Scalar:
        # Where there is no root, an equation whose solution does not move.
        return jnp.where(
            exists,
            growth(log_q),
            low - log_q,
        )

    log_q = jax.lax.custom_root(
        anchored,
        low,
        solve=solve,
        tangent_solve=divide,
    )
    missing = jnp.where(is_above, jnp.inf, 0.0).astype(log_q.dtype)
    return jnp.where(exists, jnp.exp(log_q), missing)


def _floats(*values: ArrayLike) -> tuple[_Scalar, ...]:
    """Return values in their common floating dtype, or in JAX's default."""
    dtypes = [jnp.result_type(value) for value in values]
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    dtype = jnp.result_type(float)
    if floating:
        dtype = jnp.result_type(*floating)
    # A number beyond float32 is inf there, which is what it means.
    with np.errstate(over="ignore"):
        return tuple(jnp.asarray(value, dtype) for value in values)


def _known(
    activation: ActivationLike, kinks: Sequence[ArrayLike] | None
) -> tuple[Activation, Sequence[ArrayLike]]:
    """Return the record, and its kinks: given, or found on the host.

    Raises:
        InputError: phi closes over traced values, so that they cannot be looked for.
    """
    phi = activations.get(activation)
    if kinks is not None:
        return phi, kinks
    closes_over_tracers = False
    try:
        with jax.ensure_compile_time_eval():
            closes_over_tracers = checks.is_traced(jax.jit(phi.fn)(jnp.zeros(2)))
    except TypeError:
        # It fails with strict promotion, say. Evaluation on the host then decides.
        pass
    if closes_over_tracers:
        raise InputError(
            f"{phi.name} closes over traced values, so its kinks cannot be looked for. "
            "Write kinks=(...), the points where phi is not smooth, or kinks=() if "
            "there are none."
        )
    found = pieces(_host.record(phi)).kinks
    return phi, tuple(float(kink) for kink in found)


def _mean(
    g: Callable[[Array], Array],
    q: _Scalar,
    kinks: Sequence[ArrayLike],
) -> _Scalar:
    """Compute E g(√q z): Gauss-Legendre on panels of z that end at the kinks."""
    scale = jnp.sqrt(q)
    in_z = jnp.asarray(np.linspace(-_REACH, _REACH, 10), q.dtype)
    fixed = np.concatenate([-_DYADIC, [0.0], _DYADIC])
    in_u = [jnp.asarray(fixed, q.dtype)]
    in_u += [jnp.asarray(kink, q.dtype)[None] for kink in kinks]
    # Kinks may be traced, so panels are sorted and some have no width.
    cuts = jnp.clip(
        jnp.concatenate(in_u) / scale,
        -_REACH,
        _REACH,
    )
    edges = jnp.sort(jnp.concatenate([in_z, cuts]))
    rule = np.polynomial.legendre.leggauss(_ORDER)
    nodes, weights = (jnp.asarray(array, q.dtype) for array in rule)
    column = edges[:, None]
    left, right = column[:-1], column[1:]
    half = (right - left) / 2
    middle = (right + left) / 2
    z = middle + half * nodes[None, :]
    norm = np.sqrt(2 * np.pi).astype(q.dtype)
    bell = jnp.exp(-(z**2) / 2) / norm
    masses = half * weights[None, :] * bell
    return jnp.sum(masses * g(scale * z))


def _bracket(height: _Grid, grid: _Grid) -> tuple[_Scalar, _Scalar, Array, Array]:
    """Find the first crossing that iteration from q = 1 meets.

    It goes upward where the height at q = 1 is positive, and downward elsewhere.

    Returns:
        Both ends of the crossing, whether there is one, and whether the way is upward.
    """
    points = np.linspace(
        np.log(_LOW),
        np.log(_HIGH),
        _POINTS,
    )
    one = int(np.argmin(np.abs(points)))
    index = jnp.arange(_POINTS)
    rises = height[one] > 0
    crosses_above = (index > one) & (height <= 0)
    crosses_below = (index < one) & (height >= 0)
    first_above = jnp.argmax(crosses_above)
    last_below = _POINTS - 1 - jnp.argmax(crosses_below[::-1])
    low = jnp.where(rises, first_above - 1, last_below)
    exists = jnp.where(
        rises,
        crosses_above.any(),
        crosses_below.any(),
    )
    low = jnp.where(exists, low, one)
    return grid[low], grid[low + 1], exists, rises


def _bisect_newton(
    f: Callable[[_Scalar], _Scalar],
    low: _Scalar,
    high: _Scalar,
) -> _Scalar:
    """Solve f = 0 in a bracket, by halvings and then Newton steps."""
    sign = jnp.sign(f(low))

    def halve(_: int, ends: tuple[_Scalar, _Scalar]) -> tuple[_Scalar, _Scalar]:
        a, b = ends
        middle = (a + b) / 2
        is_same = jnp.sign(f(middle)) == sign
        return jnp.where(is_same, middle, a), jnp.where(is_same, b, middle)

    def step(_: int, x: _Scalar) -> _Scalar:
        value, slope = jax.jvp(
            f,
            (x,),
            (jnp.ones_like(x),),
        )
        is_flat = slope == 0
        newton = jnp.where(
            is_flat,
            0,
            value / jnp.where(is_flat, 1, slope),
        )
        return jnp.clip(x - newton, low, high)

    a, b = jax.lax.fori_loop(0, _BISECTIONS, body_fun=halve, init_val=(low, high))
    middle = (a + b) / 2
    return jax.lax.fori_loop(0, _NEWTON, body_fun=step, init_val=middle)
