"""The critical line: where chi_1 = 1 at a fixed point of the variance map.

It is parametrized by the fixed point, sigma_w² = 1/E phi'² and sigma_b² = q − E phi²/E
phi'², so that scanning q finds every solution for a given sigma_b (Pennington,
Schoenholz and Ganguli, 2017, section 2).
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from isometry._internal.errors import NotDefined, public
from isometry.activations import Activation
from isometry.theory.mean_field._fixed_points import NEUTRAL, falls_to_zero, roots
from isometry.theory.mean_field._host import ActivationLike, record
from isometry.theory.mean_field._maps import scale, variance
from isometry.theory.mean_field._moments import (
    AT_ZERO,
    ROUNDING,
    Moments,
    differentiable,
    finite,
    moments,
    table,
)

Variances = Float[np.ndarray, " variances"]

# Variances below are the limit q → 0: there sigma_b² is rounding.
_LOWEST = 1e-14

# sigma_b² below this share of q is rounding.
_NONE = 1e-13

# Stands for sigma_b²/q where the moments do not exist: no sigma_b reaches it.
_MISSING = -1e3


class NoCriticalPoint(NotDefined):
    """There is no critical point of this kind; the message says what exists instead.

    Example:
        >>> try:
        ...     theory.critical_at("softplus", 1.0)
        ... except theory.NoCriticalPoint as error:
        ...     print("softplus has none for any sigma_b" in str(error))
        True
    """


@dataclass(frozen=True)
class CriticalPoint:
    """A point of the critical line: chi_1 = 1 at a fixed point of the variance map.

    Attributes:
        sigma_w: √(fan_in · Var W).
        sigma_b: Standard deviation of the biases.
        q: The fixed point; 1 where every q is one (ReLU, leaky ReLU, linear: sigma_b =
            0).
        stable: Whether iterating the variance map approaches q.
        error: A bound of the error of sigma_w.

    Example:
        >>> (point,) = theory.critical_points("relu", sigma_b=0.0)
        >>> round(point.sigma_w**2, 12), point.q
        (2.0, 1.0)
    """

    sigma_w: float
    sigma_b: float
    q: float
    stable: bool
    error: float = 0.0


@public("critical_at")
def critical_at(activation: ActivationLike, q: float) -> CriticalPoint:
    """Find the critical point whose fixed point is q.

    sigma_w² = 1/E phi'², sigma_b² = q − E phi²/E phi'². The error is 1e-14 relative.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        q: Variance of the pre-activations. Finite and not negative.

    Returns:
        The critical point.

    Raises:
        NoCriticalPoint: This q would need sigma_b² < 0 (sigmoid, softplus), or phi is
            flat there.
        InputError: q is negative; an activation that is not known, not elementwise, or
            jumps.

    Example:
        >>> point = theory.critical_at("tanh", 0.25)
        >>> round(point.sigma_w**2, 6), round(point.sigma_b**2, 6)
        (1.393962, 0.008125)
    """
    q = variance("q", q)
    phi = record(activation)
    differentiable(phi, q)
    known = moments(phi, q)
    slope = finite(phi, q, known.slope[0])
    if slope == 0:
        raise NoCriticalPoint(
            f"{phi.name} is flat at q={q:g}; chi_1 is 0 for every sigma_w."
        )
    square_b = finite(phi, q, known.excess[0]) / slope
    # Where phi is homogeneous, sigma_b² is zero but for rounding, and of either sign.
    rounding = _NONE * max(q, AT_ZERO)
    if square_b < -rounding:
        raise NoCriticalPoint(
            f"{phi.name} at q={q:g} has chi_1 = 1 only with sigma_b² = {square_b:.4g} "
            "< 0. theory.critical_points(activation, sigma_b) lists what exists for a "
            f"given sigma_b: {sigma_b_range(phi)}."
        )
    if abs(square_b) <= rounding:
        square_b = 0.0
    return _point(phi, q, math.sqrt(square_b))


@public("critical_points")
def critical_points(activation: ActivationLike, sigma_b: float) -> list[CriticalPoint]:
    """Find all critical points with this sigma_b and q up to 1e12, by rising q.

    An activation that oscillates for ever (sin) is searched up to q ~ 1e5. It costs
    tens of milliseconds, for a new activation half a second.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        sigma_b: Standard deviation of the biases, not negative.

    Returns:
        The points, in an empty list if there are none; at sigma_b = 0 with the one at
        q → 0.

    Raises:
        InputError: A negative or non-finite sigma_b; an activation that is not known,
            not elementwise, or jumps.

    Example:
        >>> (point,) = theory.critical_points("tanh", sigma_b=0.3)
        >>> round(point.sigma_w, 4), round(point.q, 4), point.stable
        (1.3956, 0.7635, True)
    """
    sigma_b = scale("sigma_b", sigma_b)
    phi = record(activation)
    differentiable(phi, 1.0)
    return list(_critical_points(phi, sigma_b))


@functools.lru_cache(maxsize=256)
def _critical_points(phi: Activation, sigma_b: float) -> tuple[CriticalPoint, ...]:
    def missing(q: Variances) -> Variances:
        """Return sigma_b² that q needs, minus the one asked for, over q."""
        return _relative_bias(moments(phi, q), q) - sigma_b**2 / q

    # A scan of q, which parametrizes the line, finds every solution.
    grid, needed = _line(phi)
    height = needed - sigma_b**2 / grid
    points = []
    if sigma_b == 0:
        height = np.where(
            np.abs(height) <= _NONE,
            0.0,
            height,
        )
        if not height.any():
            # Homogeneous: every q is a fixed point.
            is_flat = moments(phi, 1.0).slope[0] == 0
            return () if is_flat else (_point(phi, 1.0, 0.0),)
        at_zero = moments(phi, 0.0)
        if at_zero.square[0] == 0 and at_zero.slope[0] > 0:
            points = [_point(phi, 0.0, 0.0)]
    points += [_point(phi, q, sigma_b) for q, _ in roots(missing, grid, height)]
    return tuple(points)


@public("sigma_b_range")
def sigma_b_range(activation: ActivationLike) -> str:
    """Say for which sigma_b critical points exist.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.

    Returns:
        A sentence without its full stop.

    Example:
        >>> theory.sigma_b_range("relu")
        'relu has them for sigma_b = 0 only'
    """
    phi = record(activation)
    grid, needed = _line(phi)
    exists = needed > -_NONE
    if not exists.any():
        return f"{phi.name} has none for any sigma_b"
    # Homogeneous: sigma_b² vanishes along the whole line.
    if np.all(np.abs(needed[exists]) <= _NONE):
        return f"{phi.name} has them for sigma_b = 0 only"
    values = np.sqrt(np.maximum(needed * grid, 0.0)[exists])
    low = values.min()
    # Where the line begins inside the grid, sigma_b² passes zero.
    if not exists.all() or low < 1e-6:
        low = 0.0
    sentence = f"{phi.name} has them for sigma_b from {low:.4g}"
    if values.argmax() == len(values) - 1:
        return sentence
    return f"{sentence} to {values.max():.4g}"


def _relative_bias(known: Moments, q: Variances) -> Variances:
    """Return the sigma_b²/q that makes q critical."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = known.excess / known.slope / q
    return np.where(_exists(known), ratio, _MISSING)


def _exists(known: Moments) -> Bool[np.ndarray, " variances"]:
    is_finite = np.isfinite(known.slope) & np.isfinite(known.excess)
    return is_finite & (known.slope > 0)


def _line(phi: Activation) -> tuple[Variances, Variances]:
    """Return the table's variances, and the sigma_b²/q of each."""
    grid, known = table(phi)
    keep = (grid >= _LOWEST) & _exists(known)
    return grid[keep], _relative_bias(known, grid)[keep]


def _point(
    phi: Activation,
    q: float,
    sigma_b: float,
) -> CriticalPoint:
    known = moments(phi, q)
    sigma_w = float(known.slope[0]) ** -0.5
    is_stable = _is_stable(phi, q, sigma_w)
    return CriticalPoint(
        sigma_w,
        sigma_b,
        q=q,
        stable=is_stable,
        error=ROUNDING * sigma_w,
    )


def _is_stable(
    phi: Activation,
    q: float,
    sigma_w: float,
) -> bool:
    """Tell whether iteration approaches the fixed point of a critical point.

    It does where |V'(q)| <= 1. At q = 0 the slope V' is chi_1, which is 1 here, and the
    next order decides.
    """
    if q == 0:
        return falls_to_zero(phi, sigma_w)
    return bool(abs(sigma_w**2 * moments(phi, q).growth[0]) <= 1 + NEUTRAL)
