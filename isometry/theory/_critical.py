"""The critical line: where chi_1 = 1 at a fixed point of the variance map.

Parametrized by the fixed point, sigma_w² = 1/E phi'² and sigma_b² = q − E phi²/E phi'², so that scanning q finds every
solution for a given sigma_b. Source: Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, section 2.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from isometry import _checks
from isometry.activations import Activation
from isometry.theory._fixed_points import NEUTRAL, falls_to_zero, roots
from isometry.theory._host import ActivationLike, record
from isometry.theory._mean_field import check
from isometry.theory._moments import AT_ZERO, ROUNDING, Moments, differentiable, finite, moments, table

_LOWEST = 1e-14  # variances below are the limit q → 0
_NONE = 1e-13  # sigma_b² below this share of q is rounding


class NoCriticalPoint(_checks.NotDefined):
    """There is no critical point of this kind. The message says what exists instead."""


@dataclass(frozen=True)
class CriticalPoint:
    """A point of the critical line: chi_1 = 1 at the fixed point q of the variance map.

    `stable` says whether iterating the variance map approaches q. Where every q is a fixed point (ReLU, leaky ReLU,
    linear: sigma_b = 0) q is reported as 1. `error` bounds the error of sigma_w.
    """

    sigma_w: float
    sigma_b: float
    q: float
    stable: bool
    error: float = 0.0


def critical_at(activation: ActivationLike, q: float) -> CriticalPoint:
    """The critical point whose fixed point is q: sigma_w² = 1/E phi'², sigma_b² = q - E phi²/E phi'².

    **Raises** `NoCriticalPoint`: this q would need sigma_b² < 0 (logistic sigmoid, softplus). `ValueError`: q < 0, an
    activation that is unknown, not elementwise, or jumps. Error: 1e-14 relative. Cost: milliseconds.
    """
    call = "critical_at"
    (q,) = check(call, q=q)
    phi = record(call, activation)
    differentiable(call, phi, q)
    known = moments(phi, q)
    slope = finite(call, phi, q, known.slope[0])
    if slope == 0:
        raise NoCriticalPoint(f"critical_at(): {phi.name} is flat at q={q:g}; chi_1 is 0 for every sigma_w.")
    square_b = finite(call, phi, q, known.excess[0]) / slope
    if square_b < -_NONE * max(q, AT_ZERO):
        raise NoCriticalPoint(
            f"critical_at(): {phi.name} at q={q:g} has chi_1 = 1 only with sigma_b² = {square_b:.4g} < 0. "
            f"theory.critical_points(activation, sigma_b) lists what exists for a given sigma_b: {sigma_b_range(phi)}."
        )
    square_b = 0.0 if abs(square_b) <= _NONE * max(q, AT_ZERO) else square_b
    return _point(phi, q, math.sqrt(square_b))


def critical_points(activation: ActivationLike, sigma_b: float) -> list[CriticalPoint]:
    """All critical points with this sigma_b and q up to 1e12, by rising q; at sigma_b = 0 also the one at q → 0.

    Empty if there is none. An activation that oscillates for ever (sin) is searched up to q ~ 1e5.

    **Raises** `ValueError`: negative or non-finite sigma_b; an activation that is unknown, not elementwise, or jumps.
    Cost: tens of milliseconds, for a new activation half a second.
    """
    call = "critical_points"
    (sigma_b,) = check(call, sigma_b=sigma_b)
    phi = record(call, activation)
    differentiable(call, phi, 1.0)
    return list(_critical_points(phi, sigma_b))


@functools.lru_cache(maxsize=256)
def _critical_points(phi: Activation, sigma_b: float) -> tuple[CriticalPoint, ...]:
    def missing(q: np.ndarray | float) -> np.ndarray:  # sigma_b² that q needs, minus the one asked for, over q
        return _needed(phi, np.atleast_1d(q)) - sigma_b**2 / np.atleast_1d(q)

    grid, needed = _line(phi)
    height = needed - sigma_b**2 / grid
    if sigma_b == 0:
        height = np.where(np.abs(height) <= _NONE, 0.0, height)
        if not height.any():  # homogeneous: every q is a fixed point
            return (_point(phi, 1.0, 0.0),) if np.any(moments(phi, 1.0).slope > 0) else ()
    at_zero = sigma_b == 0 and moments(phi, 0.0).square[0] == 0 and moments(phi, 0.0).slope[0] > 0
    points = [_point(phi, 0.0, 0.0)] if at_zero else []
    return (*points, *(_point(phi, q, sigma_b) for q, _ in roots(missing, grid, height)))


def sigma_b_range(activation: ActivationLike) -> str:
    """In words, the sigma_b for which critical points exist."""
    phi = record("theory.sigma_b_range", activation)
    grid, needed = _line(phi)
    exists = needed > -_NONE
    if not exists.any():
        return f"{phi.name} has none for any sigma_b"
    if np.all(np.abs(needed[exists]) <= _NONE):
        return f"{phi.name} has them for sigma_b = 0 only"
    values = np.sqrt(np.maximum(needed * grid, 0.0)[exists])
    low = 0.0 if not exists.all() or values.min() < 1e-6 else values.min()  # sigma_b² passes zero where it begins
    return f"{phi.name} has them for sigma_b from {low:.4g}" + (
        "" if values.argmax() == len(values) - 1 else f" to {values.max():.4g}"
    )


def _needed(phi: Activation, q: np.ndarray) -> np.ndarray:
    """sigma_b²/q that makes q critical; −inf where phi is flat or the moments are infinite."""
    return _ratio(moments(phi, q), q)


def _ratio(known: Moments, q: np.ndarray) -> np.ndarray:
    good = (known.slope > 0) & np.isfinite(known.slope) & np.isfinite(known.excess)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(good, known.excess / known.slope / q, -1e3)


def _line(phi: Activation) -> tuple[np.ndarray, np.ndarray]:
    grid, known = table(phi)
    keep = (grid >= _LOWEST) & (known.slope > 0) & np.isfinite(known.slope) & np.isfinite(known.excess)
    return grid[keep], _ratio(known, grid)[keep]


def _point(phi: Activation, q: float, sigma_b: float) -> CriticalPoint:
    known = moments(phi, q)
    sigma_w = float(known.slope[0]) ** -0.5
    return CriticalPoint(sigma_w, sigma_b, q, _is_stable(phi, q, sigma_w), ROUNDING * sigma_w)


def _is_stable(phi: Activation, q: float, sigma_w: float) -> bool:
    """|V'(q)| ≤ 1. At q = 0 the slope is exactly one and the next order decides."""
    if q == 0:
        return falls_to_zero(phi, sigma_w)
    return bool(abs(sigma_w**2 * moments(phi, q).growth[0]) <= 1 + NEUTRAL)
