"""Mean field theory of wide networks: the variance map, chi_1 and where it is one.

z_l = W_l phi(z_{l-1}) + b_l with Var W = sigma_w²/N and Var b = sigma_b². In the limit of infinite width
q_l = sigma_w² E phi(√q_{l-1} z)² + sigma_b², and perturbations grow by chi_1 = sigma_w² E phi'(√q z)² a layer.

Source: Poole et al. (2016), arXiv:1606.05340; Schoenholz et al. (2017), arXiv:1611.01232.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from isometry import _checks, activations
from isometry.theory._quadrature import expectation
from isometry.theory._host import on_host

ActivationLike = str | activations.Activation | Callable[[Any], Any]

_Q_GRID = np.logspace(-6, 6, 49)  # where critical_points looks for sign changes


class NoCriticalPoint(_checks.NotDefined):
    """There is no critical point of this kind. The message says what exists instead."""


@dataclass(frozen=True)
class CriticalPoint:
    """A point of the critical line: chi_1 = 1 at the fixed point q of the variance map.

    `stable` says whether iterating the variance map approaches q. Where every q is a fixed point (ReLU, leaky ReLU,
    linear: sigma_b = 0) q is reported as 1.
    """

    sigma_w: float
    sigma_b: float
    q: float
    stable: bool


def mean_square(activation: ActivationLike, q: float) -> float:
    """E phi(√q z)²."""
    phi = activations.get(activation, "theory.mean_square")
    return expectation(lambda u: phi(u) ** 2, q, phi.kinks)


def mean_square_slope(activation: ActivationLike, q: float) -> float:
    """E phi'(√q z)²; at q = 0 the limit q → 0+, which at a kink is not phi'(0)²."""
    phi = activations.get(activation, "theory.mean_square_slope")
    return expectation(lambda u: phi.slope(u) ** 2, max(q, 1e-40), phi.kinks)


def q_map(activation: ActivationLike, q: float, sigma_w: float, sigma_b: float) -> float:
    """Variance of the next layer's pre-activations, sigma_w² E phi(√q z)² + sigma_b².

    **Raises** `ValueError`: negative or non-finite q, sigma_w or sigma_b; unknown activation.
    """
    _checks.number("q_map", low=0.0, q=q, sigma_w=sigma_w, sigma_b=sigma_b)
    return sigma_w**2 * mean_square(activation, q) + sigma_b**2


def chi(activation: ActivationLike, q: float, sigma_w: float) -> float:
    """chi_1 = sigma_w² E phi'(√q z)²: the mean squared singular value of one (W, D) pair at variance q.

    Below 1 perturbations and gradients die (ordered), above 1 they grow (chaotic).

    **Raises** `ValueError`: negative or non-finite q or sigma_w; unknown activation.
    """
    _checks.number("chi", low=0.0, q=q, sigma_w=sigma_w)
    return sigma_w**2 * mean_square_slope(activation, q)


def critical_at(activation: ActivationLike, q: float) -> CriticalPoint:
    """The critical point whose fixed point is q: sigma_w² = 1/E phi'², sigma_b² = q - E phi²/E phi'².

    **Raises** `NoCriticalPoint`: this q would need sigma_b² < 0 (logistic sigmoid, softplus). `ValueError`: q < 0.
    """
    _checks.number("critical_at", low=0.0, q=q)
    phi = activations.get(activation, "critical_at")
    slope = mean_square_slope(phi, q)
    if slope == 0:
        raise NoCriticalPoint(f"critical_at(): {phi.name} is flat at q={q:g}; chi_1 is 0 for every sigma_w.")
    square_b = q - mean_square(phi, q) / slope
    if square_b < -1e-12 * max(q, 1e-300):
        raise NoCriticalPoint(
            f"critical_at(): {phi.name} at q={q:g} has chi_1 = 1 only with sigma_b² = {square_b:.4g} < 0. "
            "theory.critical_points(activation, sigma_b) lists what exists for a given sigma_b."
        )
    sigma_w = slope**-0.5
    return CriticalPoint(sigma_w, math.sqrt(max(square_b, 0.0)), float(q), _is_stable(phi, q, sigma_w))


def critical_points(activation: ActivationLike, sigma_b: float) -> list[CriticalPoint]:
    """All critical points with this sigma_b and 1e-6 ≤ q ≤ 1e6, by rising q; at sigma_b = 0 also the one at q → 0.

    Empty if there is none.

    **Raises** `ValueError`: negative or non-finite sigma_b; unknown activation.
    """
    _checks.number("critical_points", low=0.0, sigma_b=sigma_b)
    return list(_critical_points(activations.get(activation, "critical_points"), float(sigma_b)))


@functools.lru_cache(maxsize=256)  # about a second each, and every scheme of an audit asks again
def _critical_points(phi: activations.Activation, sigma_b: float) -> tuple[CriticalPoint, ...]:
    from scipy.optimize import brentq

    def excess(q: float) -> float:  # sigma_b² that q needs, minus the one asked for
        slope = mean_square_slope(phi, q)
        return math.inf if slope == 0 else q - mean_square(phi, q) / slope - sigma_b**2

    values = np.array([excess(q) for q in _Q_GRID])
    if sigma_b == 0 and np.all(np.abs(values) <= 1e-11 * _Q_GRID):  # homogeneous: every q is a fixed point
        return (CriticalPoint(mean_square_slope(phi, 1.0) ** -0.5, 0.0, 1.0, True),)
    points = []
    if sigma_b == 0 and float(on_host(phi, np.zeros(1))[0]) == 0 and mean_square_slope(phi, 0.0) > 0:
        sigma_w = mean_square_slope(phi, 0.0) ** -0.5
        points.append(CriticalPoint(sigma_w, 0.0, 0.0, _is_stable(phi, 0.0, sigma_w)))
    for i in np.flatnonzero(np.isfinite(values[:-1] * values[1:]) & (values[:-1] * values[1:] < 0)):
        if sigma_b == 0 and max(abs(values[i]), abs(values[i + 1])) <= 1e-11 * _Q_GRID[i]:
            continue  # rounding about zero, not a crossing
        q = float(brentq(excess, _Q_GRID[i], _Q_GRID[i + 1], xtol=1e-15, rtol=1e-13))  # pyright: ignore[reportArgumentType]
        sigma_w = mean_square_slope(phi, q) ** -0.5
        points.append(CriticalPoint(sigma_w, sigma_b, float(q), _is_stable(phi, q, sigma_w)))
    return tuple(points)


def _is_stable(phi: activations.Activation, q: float, sigma_w: float) -> bool:
    """|V'(q)| ≤ 1 for the variance map V. V' = sigma_w² E[phi phi' z]/√q needs no second derivative.

    At q = 0 the slope is exactly one and the next order decides: V(q) ≤ q for a small q.
    """
    if q == 0:
        return sigma_w**2 * mean_square(phi, 1e-3) <= 1e-3 * (1 + 1e-9)
    slope = sigma_w**2 * expectation(lambda u: phi(u) * phi.slope(u) * u, q, phi.kinks) / q
    return abs(slope) <= 1 + 1e-9
