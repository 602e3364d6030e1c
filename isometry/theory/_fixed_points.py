"""Fixed points of the variance and the correlation map, and the depths over which they are approached.

Source: Poole et al. (2016), arXiv:1606.05340; Schoenholz et al. (2017), arXiv:1611.01232, eqs. 9 to 12.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from isometry import _checks
from isometry.activations import Activation
from isometry.theory._host import ActivationLike, record
from isometry.theory._mean_field import check
from isometry.theory._moments import AT_ZERO, ROUNDING, Moments, differentiable, moments, table
from isometry.theory._pair import pair

NEUTRAL = 1e-12  # a slope this near to one is one: rounding decides no more
_ZERO = 8e-15  # of log V(q)/q: rounding
_FINEST = np.float64(1e-15)  # of a root, relative
_OVERFLOWS = 1e3  # beyond the logarithm of every float64, which is at most 709
_CLOSEST = 1e-15  # the smallest 1 − c looked for


class NoFixedPoint(_checks.NotDefined):
    """There is no fixed point of this kind. The message says what happens instead."""


@dataclass(frozen=True)
class FixedPoint:
    """A fixed point of a map: its place `value`, the map's `slope` there, whether iteration approaches it (`stable`).

    `error` bounds |value − truth|. Where every point is fixed (a homogeneous activation at criticality) value is 1.
    """

    value: float
    slope: float
    stable: bool
    error: float


@dataclass(frozen=True)
class CorrelationPoint(FixedPoint):
    """The stable c*, with `gap` = 1 − c* to full relative accuracy."""

    gap: float


@dataclass(frozen=True)
class DepthScales:
    """Layers over which a deviation from the fixed point falls by e; inf at criticality, 0 if it is gone after one.

    `xi_q` of the variance, `xi_c` of the correlation of two inputs, `xi_grad` of the squared gradient.

    `error` is the largest relative error among the finite ones.
    """

    xi_q: float
    xi_c: float
    xi_grad: float
    error: float


def q_fixed_points(activation: ActivationLike, sigma_w: float, sigma_b: float) -> list[FixedPoint]:
    """All fixed points of the variance map up to q = 1e12, by rising q. Empty if there is none: q diverges.

    q = 0 is among them where V(0) = 0. Where every q is fixed (ReLU at sigma_w² = 2), one, with value 1.
    An activation that oscillates for ever (sin) is searched up to q ~ 1e5; one whose E phi² leaves float64 (exp, from
    q = 87 on) up to there.

    **Raises** `ValueError`: negative or non-finite sigma_b, sigma_w not positive; an activation that is unknown, not
    elementwise, or jumps. Residual: 1e-13 relative. Cost: tens of milliseconds, for a new activation half a second.
    """
    call = "q_fixed_points"
    sigma_w, sigma_b = check(call, sigma_w=sigma_w, sigma_b=sigma_b)
    phi = record(call, activation)
    return list(all_fixed_points(call, phi, sigma_w, sigma_b))


def q_fixed_point(activation: ActivationLike, sigma_w: float, sigma_b: float) -> FixedPoint:
    """The fixed point that iterating the variance map from q = 1 reaches.

    **Raises** `NoFixedPoint` (a `ValueError`): q diverges, or cycles. `ValueError`: as `q_fixed_points`.
    """
    call = "q_fixed_point"
    sigma_w, sigma_b = check(call, sigma_w=sigma_w, sigma_b=sigma_b)
    return reached(call, record(call, activation), sigma_w, sigma_b)


@functools.lru_cache(maxsize=512)
def all_fixed_points(call: str, phi: Activation, sigma_w: float, sigma_b: float) -> tuple[FixedPoint, ...]:
    """`q_fixed_points`, remembered."""
    differentiable(call, phi, 1.0)

    def growth(q: np.ndarray | float) -> np.ndarray:
        return log_growth(moments(phi, q), np.atleast_1d(q), sigma_w, sigma_b)

    grid, known = table(phi)
    height = log_growth(known, grid, sigma_w, sigma_b)
    floor = sigma_w**2 * float(moments(phi, 0.0).square[0]) + sigma_b**2
    if 0 < floor / 2 < grid[0]:  # a root below the grid
        grid, height = np.r_[floor / 2, grid], np.r_[growth(floor / 2), height]
    if np.all(np.abs(height) <= _ZERO):
        return (FixedPoint(1.0, 1.0, True, 0.0),)
    found = [_at_zero(phi, sigma_w)] if floor == 0 else []
    for q, downward in roots(growth, grid, height):
        found.append(_fixed_point(phi, q, sigma_w, sigma_b, downward))
    return tuple(found)


def log_growth(known: Moments, q: np.ndarray, sigma_w: float, sigma_b: float) -> np.ndarray:
    """log V(q)/q: positive where the variance grows, +`_OVERFLOWS` where E phi² leaves float64."""
    with np.errstate(divide="ignore"):
        height = np.log((sigma_w**2 * known.square + sigma_b**2) / q)
    return np.clip(height, -_OVERFLOWS, _OVERFLOWS)


def roots(f: Callable, grid: np.ndarray, height: np.ndarray) -> list[tuple[float, bool]]:
    """Every crossing of zero, with whether it is downward. Two between neighbours of the grid are found by their dip.

    Values within rounding of zero are no evidence of either sign, nor is an overflow: where it begins there is a jump,
    not a root.
    """
    from scipy.optimize import brentq

    grid, height = _with_dips(f, grid, height)
    sure = (np.abs(height) > _ZERO) & (height < _OVERFLOWS)
    grid, height = grid[sure], height[sure]

    def of_log(x: float) -> float:
        return float(f(math.exp(x))[0])

    found = []
    for i in np.flatnonzero(height[:-1] * height[1:] < 0):
        x = brentq(of_log, math.log(grid[i]), math.log(grid[i + 1]), xtol=1e-15, rtol=_FINEST)
        found.append((math.exp(float(x)), bool(height[i] > 0)))  # pyright: ignore[reportArgumentType]
    return found


def _with_dips(f: Callable, grid: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grid with the places added where f turns back before zero at the neighbours, but may not in between."""
    from scipy.optimize import minimize_scalar

    for i in np.flatnonzero(turns(height)):
        sign, ends = np.sign(height[i]), tuple(np.log(grid[[i - 1, i + 1]]))
        dip = minimize_scalar(
            lambda x, sign=sign: sign * float(f(math.exp(x))[0]), bounds=ends, method="bounded", options={"xatol": 1e-9}
        )
        if dip.fun < 0:  # pyright: ignore[reportAttributeAccessIssue]
            q = math.exp(dip.x)  # pyright: ignore[reportAttributeAccessIssue]
            grid, height = np.r_[grid, q], np.r_[height, f(q)]
    order = np.argsort(grid)
    return grid[order], height[order]


def turns(height: np.ndarray) -> np.ndarray:
    """Where, along the last axis, the height turns back before zero, but so near that it may touch it in between."""
    before, at, after = height[..., :-2], height[..., 1:-1], height[..., 2:]
    size, rise = np.abs(at), np.minimum(np.abs(before), np.abs(after)) - np.abs(at)
    reach = np.maximum(np.abs(before - at), np.abs(after - at))
    found = (before * at > 0) & (at * after > 0) & (rise > 0) & (size <= reach)
    return np.pad(found, [(0, 0)] * (height.ndim - 1) + [(1, 1)])


def _at_zero(phi: Activation, sigma_w: float) -> FixedPoint:
    """q = 0. Its slope is the limit q → 0+; if that is one, the next order decides."""
    slope = sigma_w**2 * float(moments(phi, 0.0).slope[0])
    if abs(slope - 1) > NEUTRAL:
        return FixedPoint(0.0, slope, slope < 1, 0.0)
    return FixedPoint(0.0, 1.0, falls_to_zero(phi, sigma_w), 0.0)


def falls_to_zero(phi: Activation, sigma_w: float) -> bool:
    """Whether V(q) ≤ q at the least q where they differ by more than rounding: q = 0 is stable though V'(0) = 1."""
    grid, known = table(phi)
    height = log_growth(known, grid, sigma_w, 0.0)
    sure = height[np.abs(height) > _ZERO]
    return bool(not sure.size or sure[0] < 0)


def _fixed_point(phi: Activation, q: float, sigma_w: float, sigma_b: float, downward: bool) -> FixedPoint:
    known = moments(phi, q)
    slope = sigma_w**2 * float(known.growth[0])
    residual = abs(sigma_w**2 * float(known.square[0]) + sigma_b**2 - q) + ROUNDING * q
    error = residual / abs(1 - slope) if abs(1 - slope) > NEUTRAL else math.sqrt(ROUNDING) * q
    return FixedPoint(q, slope, downward and slope > -1, error)


def reached(call: str, phi: Activation, sigma_w: float, sigma_b: float) -> FixedPoint:
    """`q_fixed_point`. V rises for most activations, and then the first root on the side V(1) points to is reached."""
    points = all_fixed_points(call, phi, sigma_w, sigma_b)
    height = float(log_growth(moments(phi, 1.0), np.ones(1), sigma_w, sigma_b)[0])
    grid, known = table(phi)
    if np.any(known.growth < -1e-9 * known.slope):
        return _iterated(call, phi, sigma_w, sigma_b, points)
    if abs(height) <= _ZERO:
        return min(points, key=lambda p: abs(p.value - 1), default=FixedPoint(1.0, 1.0, True, 0.0))
    above = [p for p in points if p.value > 1]
    below = [p for p in points if p.value <= 1]
    if height > 0 and above:
        return above[0]
    if height < 0 and below:
        return below[-1]
    what = f"; the fixed point at q={points[0].value:.6g} is not reached from 1" if points else ""
    raise NoFixedPoint(
        f"{call}(): {phi.name} with sigma_w={sigma_w:g}, sigma_b={sigma_b:g}: the variance of every layer exceeds the "
        f"last, from q=1 to {grid[-1]:.3g} at least{what}. A smaller sigma_w has a fixed point."
    )


def _iterated(call: str, phi: Activation, sigma_w: float, sigma_b: float, points: tuple[FixedPoint, ...]) -> FixedPoint:
    q = 1.0
    for _ in range(2000):
        q, last = float(sigma_w**2 * moments(phi, q).square[0] + sigma_b**2), q
        if abs(q - last) <= 1e-9 * q and points:
            return min(points, key=lambda p: abs(p.value - q))
        if not q < 1e12:
            break
    raise NoFixedPoint(
        f"{call}(): {phi.name}: iterating the variance map from q=1 does not settle; it stands at {q:.6g}."
    )


def c_fixed_point(activation: ActivationLike, sigma_w: float, sigma_b: float) -> CorrelationPoint:
    """The stable fixed point c* of the correlation map at the q* reached from 1: 1 if chi_1 ≤ 1, below 1 otherwise.

    C is convex on [0, 1], so there is exactly one. For chi_1 > 1 it is solved in 1 − c, where nothing cancels. Where
    every c is fixed (q* = 0, phi smooth there; linear), it is reported as 1 with slope 1.

    **Raises** `NoFixedPoint`: no q*. `ValueError`: as `q_fixed_points`. Error: in `error`. Cost: 0.1 to 0.5 s.
    """
    call = "c_fixed_point"
    sigma_w, sigma_b = check(call, sigma_w=sigma_w, sigma_b=sigma_b)
    phi = record(call, activation)
    q = reached(call, phi, sigma_w, sigma_b).value
    return correlation(phi, q, sigma_w, sigma_b)


@functools.lru_cache(maxsize=512)
def correlation(phi: Activation, q: float, sigma_w: float, sigma_b: float) -> CorrelationPoint:
    """c* at this q*."""
    from scipy.optimize import brentq

    def slope_at(gap: float) -> float:  # C'(c) = sigma_w² q E phi'phi' / V(q)
        found = pair(phi, q, gap)
        scale = found.square + sigma_b**2 / sigma_w**2
        return max(q, AT_ZERO) * found.slopes / scale

    def excess(log_gap: float) -> float:  # the mean slope of C between c and 1, minus one
        gap = math.exp(log_gap)
        found = pair(phi, q, gap)
        return found.gap / (found.square + sigma_b**2 / sigma_w**2) / gap - 1

    if pair(phi, q, 0.0).square + sigma_b == 0:
        raise NoFixedPoint(f"c_fixed_point(): {phi.name} is zero at q*={q:g}: there is nothing to correlate.")
    chi_1 = slope_at(0.0)
    if chi_1 <= 1 + NEUTRAL:
        return CorrelationPoint(1.0, chi_1 if chi_1 < 1 - NEUTRAL else 1.0, True, 0.0, 0.0)
    if excess(0.0) >= -ROUNDING:  # C(0) = 0: odd phi without bias
        return CorrelationPoint(0.0, slope_at(1.0), True, ROUNDING, 1.0)
    if excess(math.log(_CLOSEST)) <= 0:  # nearer to one than float64 tells
        return CorrelationPoint(1.0, 1.0, True, _CLOSEST, 0.0)
    log_gap = brentq(excess, math.log(_CLOSEST), 0.0, xtol=1e-15, rtol=_FINEST)
    gap = math.exp(float(log_gap))  # pyright: ignore[reportArgumentType]
    slope = slope_at(gap)
    error = gap * (pair(phi, q, gap).error + abs(excess(math.log(gap)))) / max(1 - slope, ROUNDING)
    return CorrelationPoint(1 - gap, slope, True, error, gap)


def depth_scales(activation: ActivationLike, sigma_w: float, sigma_b: float) -> DepthScales:
    """xi_q = −1/ln|V'(q*)|, xi_c = −1/ln C'(c*), xi_grad = 1/|ln chi_1|: signals survive about 6 xi_c layers.

    q* is the fixed point reached from q = 1, c* the stable one. Infinite where the slope is one; so is xi_c for a ReLU
    at criticality, where 1 − c_l falls as (9π²/2)/l² and there is no exponential scale.

    **Raises** `NoFixedPoint`: no q*. `ValueError`: as `q_fixed_points`. Cost: 0.1 to 0.5 s.
    """
    call = "depth_scales"
    sigma_w, sigma_b = check(call, sigma_w=sigma_w, sigma_b=sigma_b)
    phi = record(call, activation)
    point = reached(call, phi, sigma_w, sigma_b)
    c = correlation(phi, point.value, sigma_w, sigma_b)
    chi_1 = sigma_w**2 * float(moments(phi, point.value).slope[0])
    slopes = {"xi_q": abs(point.slope), "xi_c": abs(c.slope), "xi_grad": chi_1}
    scales = {name: _scale(slope) for name, slope in slopes.items()}
    doubt = ROUNDING + (_sensitivity(phi, point.value, sigma_w) * point.error + c.error / max(c.gap, _CLOSEST))
    finite = [xi for xi in scales.values() if 0 < xi < math.inf]
    return DepthScales(**scales, error=max(finite, default=0.0) * doubt)


def _scale(slope: float) -> float:
    if slope == 0:
        return 0.0
    return math.inf if abs(slope - 1) <= NEUTRAL else 1 / abs(math.log(slope))


def _sensitivity(phi: Activation, q: float, sigma_w: float) -> float:
    """Largest |d/dq| of the slopes of both maps, by a difference."""
    if q == 0:
        return 0.0
    near = moments(phi, q * np.array([1 - 1e-5, 1 + 1e-5]))
    return sigma_w**2 * float(max(abs(np.diff(near.slope))[0], abs(np.diff(near.growth))[0])) / (2e-5 * q)
