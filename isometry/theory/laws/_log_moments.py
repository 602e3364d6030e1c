"""Moments of log λ from the negative axis, for laws that reach down to zero.

With y = −λ on that axis, −ψ(y) = E x/(y + x) falls from the rank to 0 as y grows. As a
function of −ψ, log y has the distribution of log x + L, with L logistic and
independent:

    ∫ g(log y) d(−ψ) = E ∫ g(log y) x dy/(x + y)² = E g(log x + L)        over x > 0

Its integral needs no density, and sees values of x that a density is too thin to show.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

from isometry.theory.laws._product import Product

# E L^k of the standard logistic distribution; odd ones are zero.
_LOGISTIC = {0: 1.0, 2: math.pi**2 / 3, 4: 7 * math.pi**4 / 15, 6: 31 * math.pi**6 / 21}

# Log-odds of −ψ. Beyond 60, which holds 1e-26 of the mass, even sixth powers are lost
# in rounding; half the step changes the moments by 1e-14 of themselves.
_LOG_ODDS = np.linspace(-60.0, 60.0, 961)


# The most mass at points that may be found by extrapolation.
_FAR_OUT = 1e-11


def log_moments(product: Product, highest: int) -> Float[np.ndarray, " powers"] | None:
    """Compute E (log λ)^k over the mass off zero, for k from 0 to the highest.

    Returns:
        The moments; None if the inversion found too few points.
    """
    log_y = product.log_on_negative_axis(_LOG_ODDS)
    # The density of the logistic distribution, to relative accuracy on both sides.
    decay = np.exp(-np.abs(_LOG_ODDS))
    weights = decay / (1 + decay) ** 2
    weights = weights / weights.sum()
    is_found = np.isfinite(log_y)
    if weights[~is_found].sum() > _FAR_OUT:
        return None
    log_y = _extrapolated(log_y, is_found)
    center = float(weights @ log_y)
    found = np.zeros(highest + 1)
    found[0] = 1.0
    # About the center, as the variance of deep laws is small against their mean.
    for k in range(1, highest + 1):
        joint = float(weights @ (log_y - center) ** k)
        of_lower = [
            math.comb(k, j) * _LOGISTIC.get(k - j, 0.0) * found[j] for j in range(k)
        ]
        found[k] = joint - sum(of_lower)
    return np.array([_about_zero(found, center, k) for k in range(highest + 1)])


def _about_zero(
    central: Float[np.ndarray, " powers"],
    center: float,
    k: int,
) -> float:
    """Return the k-th moment about zero, given those about a center."""
    terms = [math.comb(k, j) * central[j] * center ** (k - j) for j in range(k + 1)]
    return float(sum(terms))


def _extrapolated(
    log_y: Float[np.ndarray, " points"],
    is_found: Bool[np.ndarray, " points"],
) -> Float[np.ndarray, " points"]:
    """Continue as straight lines to both sides, as powers of the odds."""
    x, y = _LOG_ODDS[is_found], log_y[is_found]
    low = y[0] + (y[1] - y[0]) / (x[1] - x[0]) * (_LOG_ODDS - x[0])
    high = y[-1] + (y[-1] - y[-2]) / (x[-1] - x[-2]) * (_LOG_ODDS - x[-1])
    inside = np.interp(_LOG_ODDS, x, y)
    outside = np.where(x[0] > _LOG_ODDS, low, high)
    return np.where((x[0] > _LOG_ODDS) | (x[-1] < _LOG_ODDS), outside, inside)
