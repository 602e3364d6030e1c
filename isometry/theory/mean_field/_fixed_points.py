"""Fixed points of the variance and the correlation map, and the depths around them.

Poole et al. (2016); Schoenholz et al. (2017), eqs. 9 to 12.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from isometry._internal.errors import NotDefined, public
from isometry.activations import Activation
from isometry.theory.mean_field._host import ActivationLike, record
from isometry.theory.mean_field._maps import scales
from isometry.theory.mean_field._moments import (
    AT_ZERO,
    ROUNDING,
    Moments,
    differentiable,
    moments,
    table,
)
from isometry.theory.mean_field._pair import pair

Variances = Float[np.ndarray, " variances"]
Longer = Float[np.ndarray, " more"]
Heights = Float[np.ndarray, "*points variances"]

# log V(q)/q, or another function of q with roots.
Height = Callable[[Variances], Variances]

# A slope this near to one is one: rounding decides no more.
NEUTRAL = 1e-12

# Below, log V(q)/q is rounding.
_ZERO = 8e-15

# The finest relative error that is asked of a root.
_FINEST = np.float64(1e-15)

# Beyond the logarithm of every float64, which is at most 709.
_OVERFLOWS = 1e3

# The smallest 1 − c that is looked for.
_CLOSEST = 1e-15

# Where dV/dq is below this share of −E phi'², V falls.
_FALLS = 1e-9

# Iterations from q = 1 where V falls somewhere, and the relative change that ends them.
_ITERATIONS = 2000
_SETTLED = 1e-9

# The relative step of the difference that says how slopes change with q.
_STEP = 1e-5


class NoFixedPoint(NotDefined):
    """There is no fixed point of this kind; the message says what happens instead.

    Example:
        >>> try:
        ...     theory.q_fixed_point("relu", sigma_w=1.5, sigma_b=0.1)
        ... except theory.NoFixedPoint as error:
        ...     print("the variance of every layer exceeds the last" in str(error))
        True
    """


@dataclass(frozen=True)
class FixedPoint:
    """A fixed point of a map.

    Attributes:
        value: Its place; 1 where every point is fixed (a homogeneous activation at
            criticality).
        slope: The map's slope there.
        stable: Whether iteration approaches it.
        error: A bound of |value − truth|.

    Example:
        >>> point = theory.q_fixed_point("tanh", sigma_w=1.5, sigma_b=0.1)
        >>> round(point.value, 6), point.stable
        (0.813322, True)
    """

    value: float
    slope: float
    stable: bool
    error: float


@dataclass(frozen=True)
class CorrelationPoint(FixedPoint):
    """The stable fixed point c* of the correlation map.

    Attributes:
        value: c*.
        slope: C'(c*).
        stable: True.
        error: A bound of |value − truth|.
        gap: 1 − c*, to full relative accuracy.

    Example:
        >>> point = theory.c_fixed_point("tanh", sigma_w=2.0, sigma_b=0.3)
        >>> round(point.value, 6), round(point.gap, 6)
        (0.263895, 0.736105)
    """

    gap: float


@dataclass(frozen=True)
class DepthScales:
    """Layers over which a deviation from the fixed point falls by a factor of e.

    inf at criticality, 0 if it is gone after one layer.

    Attributes:
        xi_q: Of the variance.
        xi_c: Of the correlation of two inputs.
        xi_grad: Of the squared gradient.
        error: The largest error among the finite ones.

    Example:
        >>> scales = theory.depth_scales("tanh", sigma_w=1.0, sigma_b=0.3)
        >>> round(scales.xi_q, 3), round(scales.xi_c, 3), round(scales.xi_grad, 3)
        (1.337, 2.807, 2.807)
    """

    xi_q: float
    xi_c: float
    xi_grad: float
    error: float


@public("q_fixed_points")
def q_fixed_points(
    activation: ActivationLike,
    sigma_w: float,
    sigma_b: float,
) -> list[FixedPoint]:
    """Find all fixed points of the variance map up to q = 1e12, by rising q.

    An activation that oscillates for ever (sin) is searched up to q ~ 1e5, one whose E
    phi² leaves float64 (exp, from q = 87 on) up to there. The residual is 1e-13
    relative. It costs tens of milliseconds, for a new activation half a second.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        sigma_w: √(fan_in · Var W), positive.
        sigma_b: Standard deviation of the biases, not negative.

    Returns:
        The fixed points; none if q diverges. q = 0 is among them where V(0) = 0. Where
        every q is fixed (ReLU at sigma_w² = 2), one, with value 1.

    Raises:
        InputError: A number out of range; an activation that is not known, not
            elementwise, or jumps.

    Example:
        >>> points = theory.q_fixed_points("gelu", sigma_w=2.1, sigma_b=0.0)
        >>> [(round(point.value, 4), point.stable) for point in points]
        [(0.0, False)]
    """
    sigma_w, sigma_b = scales(sigma_w, sigma_b)
    return list(all_fixed_points(record(activation), sigma_w, sigma_b))


@public("q_fixed_point")
def q_fixed_point(
    activation: ActivationLike,
    sigma_w: float,
    sigma_b: float,
) -> FixedPoint:
    """Find the fixed point that iterating the variance map from q = 1 reaches.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        sigma_w: √(fan_in · Var W), positive.
        sigma_b: Standard deviation of the biases, not negative.

    Returns:
        The fixed point.

    Raises:
        NoFixedPoint: q diverges, or cycles.
        InputError: As `q_fixed_points`.

    Example:
        >>> point = theory.q_fixed_point("relu", sigma_w=1.0, sigma_b=1.0)
        >>> round(point.value, 12)
        2.0
    """
    sigma_w, sigma_b = scales(sigma_w, sigma_b)
    return reached(record(activation), sigma_w, sigma_b)


@functools.lru_cache(maxsize=512)
def all_fixed_points(
    phi: Activation,
    sigma_w: float,
    sigma_b: float,
) -> tuple[FixedPoint, ...]:
    """Find all fixed points of the variance map, ascending; results are remembered.

    They are the zeros of log V(q)/q, looked for between the points of a grid by
    `roots`. (`q_fixed_points` checks its arguments, and calls this.)
    """
    differentiable(phi, 1.0)

    def growth(q: Variances) -> Variances:
        return log_growth(
            moments(phi, q),
            q,
            sigma_w=sigma_w,
            sigma_b=sigma_b,
        )

    grid, known = table(phi)
    height = log_growth(
        known,
        grid,
        sigma_w=sigma_w,
        sigma_b=sigma_b,
    )
    at_zero = sigma_w**2 * float(moments(phi, 0.0).square[0]) + sigma_b**2
    if 0 < at_zero / 2 < grid[0]:
        # There may be a root below the grid.
        lowest = np.array([at_zero / 2])
        grid = np.concatenate([lowest, grid])
        height = np.concatenate([growth(lowest), height])
    # ReLU at its critical sigma_w: every q is fixed, and q = 1 stands for all.
    if np.all(np.abs(height) <= _ZERO):
        return (FixedPoint(1.0, 1.0, stable=True, error=0.0),)
    found = [_at_zero(phi, sigma_w)] if at_zero == 0 else []
    for q, is_downward in roots(growth, grid, height):
        found.append(_fixed_point(phi, q, sigma_w, sigma_b=sigma_b, falls=is_downward))
    return tuple(found)


def log_growth(
    known: Moments,
    q: Variances,
    *,
    sigma_w: Float[np.ndarray, "..."] | float,
    sigma_b: Float[np.ndarray, "..."] | float,
) -> Heights:
    """Compute log V(q)/q, positive where the variance grows.

    Where E phi² leaves float64 it is 1e3, beyond every logarithm.
    """
    with np.errstate(divide="ignore"):
        height = np.log((sigma_w**2 * known.square + sigma_b**2) / q)
    return np.clip(height, -_OVERFLOWS, _OVERFLOWS)


def roots(
    f: Height,
    grid: Variances,
    height: Variances,
) -> list[tuple[float, bool]]:
    """Find every crossing of zero, and whether it is downward.

    Two crossings between neighbours of the grid leave no change of sign, and are found
    by the dip between them. Values within rounding of zero are no evidence of either
    sign, nor is an overflow: where it begins there is a jump, not a root.
    """
    from scipy.optimize import brentq

    grid, height = _with_dips(f, grid, height)
    is_sure = (np.abs(height) > _ZERO) & (height < _OVERFLOWS)
    grid, height = grid[is_sure], height[is_sure]
    found = []
    for i in np.flatnonzero(height[:-1] * height[1:] < 0):
        x = brentq(
            lambda x: float(f(np.array([math.exp(x)]))[0]),
            math.log(grid[i]),
            math.log(grid[i + 1]),
            xtol=1e-15,
            rtol=_FINEST,
        )
        q = math.exp(float(x))  # pyright: ignore[reportArgumentType]
        found.append((q, bool(height[i] > 0)))
    return found


def _with_dips(
    f: Height,
    grid: Variances,
    height: Variances,
) -> tuple[Longer, Longer]:
    """Add the points where f crosses zero and turns back between points of the grid."""
    from scipy.optimize import minimize_scalar

    # Two roots between neighbours of the grid leave no change of sign there, but |f| is
    # small: its least value is looked for.
    for i in np.flatnonzero(turns(height)):
        sign = np.sign(height[i])
        dip = minimize_scalar(
            lambda x, sign=sign: sign * float(f(np.array([math.exp(x)]))[0]),
            bounds=tuple(np.log(grid[[i - 1, i + 1]])),
            method="bounded",
            options={"xatol": 1e-9},
        )
        if dip.fun < 0:  # pyright: ignore[reportAttributeAccessIssue]
            q = np.array([math.exp(dip.x)])  # pyright: ignore[reportAttributeAccessIssue]
            grid = np.concatenate([grid, q])
            height = np.concatenate([height, f(q)])
    order = np.argsort(grid)
    return grid[order], height[order]


def turns(height: Heights) -> Bool[np.ndarray, "*points variances"]:
    """Tell at which points |height| is least, and may be zero before the next point.

    The points are along the last axis.
    """
    if height.shape[-1] < 3:
        return np.zeros(height.shape, bool)
    before, at, after = height[..., :-2], height[..., 1:-1], height[..., 2:]
    size = np.abs(at)
    rise = np.minimum(np.abs(before), np.abs(after)) - size
    reach = np.maximum(np.abs(before - at), np.abs(after - at))
    has_one_sign = (before * at > 0) & (at * after > 0)
    found = has_one_sign & (rise > 0) & (size <= reach)
    return np.pad(found, [(0, 0)] * (height.ndim - 1) + [(1, 1)])


def _at_zero(phi: Activation, sigma_w: float) -> FixedPoint:
    """Return the fixed point q = 0, whose slope is the limit q → 0 of V'.

    If the slope is one, the next order decides whether it is stable.
    """
    slope = sigma_w**2 * float(moments(phi, 0.0).slope[0])
    if abs(slope - 1) > NEUTRAL:
        return FixedPoint(
            0.0,
            slope,
            stable=slope < 1,
            error=0.0,
        )
    return FixedPoint(
        0.0,
        1.0,
        stable=falls_to_zero(phi, sigma_w),
        error=0.0,
    )


def falls_to_zero(phi: Activation, sigma_w: float) -> bool:
    """Tell whether V(q) <= q at the least q where they differ beyond rounding.

    Then q = 0 is stable although V'(0) = 1.
    """
    grid, known = table(phi)
    height = log_growth(
        known,
        grid,
        sigma_w=sigma_w,
        sigma_b=0.0,
    )
    sure = height[np.abs(height) > _ZERO]
    return bool(not sure.size or sure[0] < 0)


def _fixed_point(
    phi: Activation,
    q: float,
    sigma_w: float,
    *,
    sigma_b: float,
    falls: bool,
) -> FixedPoint:
    """Return the fixed point at a root q > 0 of V(q) − q.

    Args:
        phi: The activation.
        q: The root.
        sigma_w: The scale of the weights.
        sigma_b: The standard deviation of the biases.
        falls: Whether V(q) − q changes from positive to negative at the root.
    """
    at_q = moments(phi, q)
    slope = sigma_w**2 * float(at_q.growth[0])
    next_q = sigma_w**2 * float(at_q.square[0]) + sigma_b**2
    residual = abs(next_q - q) + ROUNDING * q
    # V(q) − q has the slope V' − 1. Where that vanishes, V touches the diagonal as a
    # parabola does, and a relative error of V moves q by the square root of it.
    error = math.sqrt(ROUNDING) * q
    if abs(1 - slope) > NEUTRAL:
        error = residual / abs(1 - slope)
    return FixedPoint(
        q,
        slope,
        stable=falls and slope > -1,
        error=error,
    )


def reached(
    phi: Activation,
    sigma_w: float,
    sigma_b: float,
) -> FixedPoint:
    """Find what `q_fixed_point` returns.

    V rises for most activations, and then the first root on the side that V(1) points
    to is reached.

    Raises:
        NoFixedPoint: There is none.
    """
    points = all_fixed_points(phi, sigma_w, sigma_b)
    at_one = np.ones(1)
    height = float(
        log_growth(moments(phi, 1.0), at_one, sigma_w=sigma_w, sigma_b=sigma_b)[0]
    )
    # Where V falls somewhere, the signs of V(q) − q do not say where iteration goes.
    grid, known = table(phi)
    if np.any(known.growth < -_FALLS * known.slope):
        return _iterated(
            phi,
            sigma_w,
            sigma_b,
            points=points,
        )
    # Every q near 1 is fixed, and iteration stays.
    if abs(height) <= _ZERO:
        neutral = FixedPoint(
            1.0,
            1.0,
            stable=True,
            error=0.0,
        )
        return min(
            points,
            key=lambda p: abs(p.value - 1),
            default=neutral,
        )
    above = [point for point in points if point.value > 1]
    below = [point for point in points if point.value <= 1]
    if height > 0 and above:
        return above[0]
    if height < 0 and below:
        return below[-1]
    what = ""
    if points:
        what = f"; the fixed point at q={points[0].value:.6g} is not reached from 1"
    raise NoFixedPoint(
        f"{phi.name} with sigma_w={sigma_w:g}, sigma_b={sigma_b:g}: "
        f"{_growing(grid, known)}{what}. A smaller sigma_w has a fixed point."
    )


def _growing(grid: Variances, known: Moments) -> str:
    """Return words for a variance that grows from q = 1 on, as far as it is known."""
    is_infinite = np.isinf(known.square)
    if not is_infinite.any():
        return (
            "the variance of every layer exceeds the last, from q=1 to "
            f"{grid[-1]:.3g} at least"
        )
    first = grid[is_infinite][0]
    limit = f"q={first:.3g}, where E phi² diverges or exceeds float64"
    if first <= 1:
        return f"q=1 is beyond {limit}"
    return f"the variance of every layer exceeds the last, from q=1 to {limit}"


def _iterated(
    phi: Activation,
    sigma_w: float,
    sigma_b: float,
    *,
    points: tuple[FixedPoint, ...],
) -> FixedPoint:
    """Iterate the variance map from q = 1, and return the fixed point that it nears."""
    q = 1.0
    for _ in range(_ITERATIONS):
        last = q
        q = float(sigma_w**2 * moments(phi, q).square[0] + sigma_b**2)
        if abs(q - last) <= _SETTLED * q and points:
            reached_q = q
            return min(points, key=lambda p: abs(p.value - reached_q))
        # Beyond the largest q that is searched.
        if not q < 1e12:
            break
    raise NoFixedPoint(
        f"{phi.name}: iterating the variance map from q=1 does not settle; it stands "
        f"at {q:.6g}."
    )


@public("c_fixed_point")
def c_fixed_point(
    activation: ActivationLike,
    sigma_w: float,
    sigma_b: float,
) -> CorrelationPoint:
    """Find the stable fixed point c* of the correlation map, at the q* reached from 1.

    c* = 1 if chi_1 <= 1, below 1 otherwise. C is convex on [0, 1], so there is exactly
    one. For chi_1 > 1 the equation is solved for 1 − c, so that nothing cancels. It
    costs 0.1 to 0.5 s.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        sigma_w: √(fan_in · Var W), positive.
        sigma_b: Standard deviation of the biases, not negative.

    Returns:
        The fixed point. Where every c is fixed (q* = 0, phi smooth there; linear), 1
        with slope 1.

    Raises:
        NoFixedPoint: There is no q*, or phi is zero there.
        InputError: As `q_fixed_points`.

    Example:
        >>> theory.c_fixed_point("tanh", sigma_w=1.0, sigma_b=0.3).value
        1.0
    """
    sigma_w, sigma_b = scales(sigma_w, sigma_b)
    phi = record(activation)
    q = reached(phi, sigma_w, sigma_b).value
    return correlation(
        phi,
        q,
        sigma_w,
        sigma_b=sigma_b,
    )


@functools.lru_cache(maxsize=512)
def correlation(
    phi: Activation,
    q: float,
    sigma_w: float,
    *,
    sigma_b: float,
) -> CorrelationPoint:
    """Find c* at this q*."""
    from scipy.optimize import brentq

    relative_bias = sigma_b**2 / sigma_w**2

    def slope_at(gap: float) -> float:
        """Return C'(c) = sigma_w² q E phi'phi' / V(q)."""
        found = pair(phi, q, gap)
        return max(q, AT_ZERO) * found.slopes / (found.square + relative_bias)

    def excess(log_gap: float) -> float:
        """Return the mean slope of C between c and 1, minus one."""
        gap = math.exp(log_gap)
        found = pair(phi, q, gap)
        return found.gap / (found.square + relative_bias) / gap - 1

    if pair(phi, q, 0.0).square + sigma_b == 0:
        raise NoFixedPoint(
            f"{phi.name} is zero at q*={q:g}: there is nothing to correlate."
        )
    # Up to chi_1 = 1 perturbations do not grow: c* = 1 is stable.
    chi_1 = slope_at(0.0)
    if chi_1 <= 1 + NEUTRAL:
        slope = chi_1 if chi_1 < 1 - NEUTRAL else 1.0
        return CorrelationPoint(1.0, slope, stable=True, error=0.0, gap=0.0)
    # C(0) = 0, as for an odd phi without bias, makes c* = 0.
    if excess(0.0) >= -ROUNDING:
        slope = slope_at(1.0)
        return CorrelationPoint(0.0, slope, stable=True, error=ROUNDING, gap=1.0)
    # c* is nearer to one than float64 tells.
    if excess(math.log(_CLOSEST)) <= 0:
        return CorrelationPoint(1.0, 1.0, stable=True, error=_CLOSEST, gap=0.0)
    log_gap = brentq(excess, math.log(_CLOSEST), 0.0, xtol=1e-15, rtol=_FINEST)
    gap = math.exp(float(log_gap))  # pyright: ignore[reportArgumentType]
    slope = slope_at(gap)
    doubt = pair(phi, q, gap).error + abs(excess(math.log(gap)))
    error = gap * doubt / max(1 - slope, ROUNDING)
    return CorrelationPoint(1 - gap, slope, stable=True, error=error, gap=gap)


@public("depth_scales")
def depth_scales(
    activation: ActivationLike,
    sigma_w: float,
    sigma_b: float,
) -> DepthScales:
    """Compute over how many layers signals relax to their fixed points.

    xi_q = −1/ln|V'(q*)|, xi_c = −1/ln C'(c*), xi_grad = 1/|ln chi_1|: signals survive
    about 6 xi_c layers. q* is the fixed point reached from q = 1, c* the stable one. It
    costs 0.1 to 0.5 s.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        sigma_w: √(fan_in · Var W), positive.
        sigma_b: Standard deviation of the biases, not negative.

    Returns:
        The scales, inf where the slope is one. So is xi_c for a ReLU at criticality,
        where 1 − c_l falls as (9π²/2)/l² and there is no exponential scale.

    Raises:
        NoFixedPoint: There is no q*.
        InputError: As `q_fixed_points`.

    Example:
        >>> theory.depth_scales("relu", sigma_w=2**0.5, sigma_b=0.0).xi_c
        inf
    """
    sigma_w, sigma_b = scales(sigma_w, sigma_b)
    phi = record(activation)
    point = reached(phi, sigma_w, sigma_b)
    c = correlation(
        phi,
        point.value,
        sigma_w,
        sigma_b=sigma_b,
    )
    chi_1 = sigma_w**2 * float(moments(phi, point.value).slope[0])
    xi_q, xi_c, xi_grad = map(_scale, (abs(point.slope), abs(c.slope), chi_1))
    of_q = _sensitivity(phi, point.value, sigma_w) * point.error
    doubt = ROUNDING + of_q + c.error / max(c.gap, _CLOSEST)
    finite = [xi for xi in (xi_q, xi_c, xi_grad) if 0 < xi < math.inf]
    error = max(finite, default=0.0) * doubt
    return DepthScales(
        xi_q=xi_q,
        xi_c=xi_c,
        xi_grad=xi_grad,
        error=error,
    )


def _scale(slope: float) -> float:
    if slope == 0:
        return 0.0
    return math.inf if abs(slope - 1) <= NEUTRAL else 1 / abs(math.log(slope))


def _sensitivity(
    phi: Activation,
    q: float,
    sigma_w: float,
) -> float:
    """Return the largest |d/dq| of the slopes of both maps, by a difference."""
    if q == 0:
        return 0.0
    near = moments(phi, q * np.array([1 - _STEP, 1 + _STEP]))
    changes = [abs(near.slope[1] - near.slope[0]), abs(near.growth[1] - near.growth[0])]
    return sigma_w**2 * float(max(changes)) / (2 * _STEP * q)
