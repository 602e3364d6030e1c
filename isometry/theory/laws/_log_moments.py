"""Moments of log λ from the negative axis, for laws that reach down to zero.

With y = −λ on that axis, −ψ(y) = E x/(y + x) falls from the rank to 0 as y grows. As a
function of −ψ, log y has the distribution of log x + L, with L logistic and
independent:

    ∫ g(log y) d(−ψ) = E ∫ g(log y) x dy/(x + y)² = E g(log x + L)        over x > 0

Its integral needs no density, and sees values of x that a density is too thin to show.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from isometry.theory.laws._product import Product

# E L^k of the standard logistic distribution; odd ones are zero.
_LOGISTIC = {
    0: 1.0,
    2: math.pi**2 / 3,
    4: 7 * math.pi**4 / 15,
    6: 31 * math.pi**6 / 21,
}

# The largest |log-odds| of −ψ. Beyond it lies 1e-26 of the mass, so that even sixth
# powers are lost in rounding.
_FARTHEST = 60.0

# Steps of the first rule. Of smooth laws it is right to 1e-14 of a moment; with a tenth
# of them most laws would need the next rules.
_STEPS = 960

# How often steps are halved at most. Factors of values far apart, such as the two
# slopes of a leaky ReLU, bend log y within a hundredth of the log-odds, and need three.
_HALVINGS = 6

# Change of a moment, as a share of that of absolute values, up to which half the step
# is enough. The error falls exponentially, so what is left is far smaller. At a tenth
# of it the mass that is extrapolated would count, which no step makes better.
_SETTLED = 1e-9


# The most mass at points that may be found by extrapolation.
_FAR_OUT = 1e-11


def log_moments(product: Product, highest: int) -> Float[np.ndarray, " powers"] | None:
    """Compute E (log λ)^k over the mass off zero, for k from 0 to the highest.

    Returns:
        The moments; None if the inversion found too few points, or log y bends too
        sharply for the finest rule.
    """
    before = None
    for halvings in range(_HALVINGS + 1):
        joint = _joint_moments(product, highest, steps=_STEPS * 2**halvings)
        if joint is None:
            return None
        if before is not None and _has_settled(before, joint):
            return _without_logistic(joint)
        before = joint
    return None


class _Joint(NamedTuple):
    """Moments of log y = log x + L, for powers from 0 to the highest.

    Attributes:
        center: The mean.
        central: E (log y − center)^k.
        sizes: E |log y − center|^k.
    """

    center: float
    central: Float[np.ndarray, " powers"]
    sizes: Float[np.ndarray, " powers"]


def _joint_moments(product: Product, highest: int, *, steps: int) -> _Joint | None:
    """Compute moments of log y by the trapezoidal rule; None if points are missing."""
    log_odds = np.linspace(-_FARTHEST, _FARTHEST, steps + 1)
    log_y = product.log_on_negative_axis(log_odds)
    # The density of the logistic distribution, to relative accuracy on both sides.
    size = np.abs(log_odds)
    decay = np.exp(-size)
    density = decay / (1 + decay) ** 2
    total = density.sum()
    weights = density / total
    is_found = np.isfinite(log_y)
    mass_lost = weights[~is_found].sum()
    if mass_lost > _FAR_OUT:
        return None
    log_y = _extrapolated(log_odds, log_y, is_found)
    # About the center, as the variance of deep laws is small against their mean.
    center = float(weights @ log_y)
    powers = np.arange(highest + 1)[:, None]
    central = (log_y - center) ** powers
    return _Joint(center, central @ weights, np.abs(central) @ weights)


def _has_settled(before: _Joint, joint: _Joint) -> bool:
    """Tell whether half the step has left all moments as they were."""
    spread = abs(joint.center) + joint.sizes[1]
    moved = abs(joint.center - before.center)
    changes = np.abs(joint.central - before.central)
    is_same = changes <= _SETTLED * joint.sizes
    return moved <= _SETTLED * spread and bool(is_same.all())


def _without_logistic(joint: _Joint) -> Float[np.ndarray, " powers"]:
    """Return the moments of log x about zero."""
    powers = range(len(joint.central))
    found = np.ones(len(powers))
    for k in powers[1:]:
        # Of E (log x + L)^k all terms but the moment of log x.
        of_lower = []
        for j in range(k):
            power = k - j
            of_logistic = _LOGISTIC.get(power, 0.0)
            ways = math.comb(k, j)
            of_lower.append(ways * of_logistic * found[j])
        found[k] = joint.central[k] - sum(of_lower)
    about_zero = [_about_zero(found, joint.center, k) for k in powers]
    return np.array(about_zero)


def _about_zero(
    central: Float[np.ndarray, " powers"],
    center: float,
    k: int,
) -> float:
    """Return the k-th moment about zero, given those about a center."""
    terms = []
    for j in range(k + 1):
        power = center ** (k - j)
        ways = math.comb(k, j)
        terms.append(ways * central[j] * power)
    return float(sum(terms))


def _extrapolated(
    log_odds: Float[np.ndarray, " points"],
    log_y: Float[np.ndarray, " points"],
    is_found: Bool[np.ndarray, " points"],
) -> Float[np.ndarray, " points"]:
    """Continue as straight lines to both sides, as powers of the odds."""
    x = log_odds[is_found]
    y = log_y[is_found]
    slopes = np.diff(y) / np.diff(x)
    first, last = x[0], x[-1]
    low = y[0] + slopes[0] * (log_odds - first)
    high = y[-1] + slopes[-1] * (log_odds - last)
    is_below = first > log_odds
    is_above = last < log_odds
    inside = np.interp(log_odds, x, y)
    outside = np.where(is_below, low, high)
    is_outside = is_below | is_above
    return np.where(is_outside, outside, inside)
