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
_LOGISTIC = {
    0: 1.0,
    2: math.pi**2 / 3,
    4: 7 * math.pi**4 / 15,
    6: 31 * math.pi**6 / 21,
}

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
    size = np.abs(_LOG_ODDS)
    decay = np.exp(-size)
    density = decay / (1 + decay) ** 2
    total = density.sum()
    weights = density / total
    is_found = np.isfinite(log_y)
    mass_lost = weights[~is_found].sum()
    if mass_lost > _FAR_OUT:
        return None
    log_y = _extrapolated(log_y, is_found)
    center = float(weights @ log_y)
    found = np.zeros(highest + 1)
    found[0] = 1.0
    # About the center, as the variance of deep laws is small against their mean.
    for k in range(1, highest + 1):
        from_center = log_y - center
        central = from_center**k
        joint = float(weights @ central)
        # Of E (log x + L)^k all terms but the moment of log x.
        of_lower = []
        for j in range(k):
            power = k - j
            of_logistic = _LOGISTIC.get(power, 0.0)
            ways = math.comb(k, j)
            of_lower.append(ways * of_logistic * found[j])
        found[k] = joint - sum(of_lower)
    powers = range(highest + 1)
    about_zero = [_about_zero(found, center, k) for k in powers]
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
    log_y: Float[np.ndarray, " points"],
    is_found: Bool[np.ndarray, " points"],
) -> Float[np.ndarray, " points"]:
    """Continue as straight lines to both sides, as powers of the odds."""
    x = _LOG_ODDS[is_found]
    y = log_y[is_found]
    slopes = np.diff(y) / np.diff(x)
    first, last = x[0], x[-1]
    low = y[0] + slopes[0] * (_LOG_ODDS - first)
    high = y[-1] + slopes[-1] * (_LOG_ODDS - last)
    is_below = first > _LOG_ODDS
    is_above = last < _LOG_ODDS
    inside = np.interp(_LOG_ODDS, x, y)
    outside = np.where(is_below, low, high)
    is_outside = is_below | is_above
    return np.where(is_outside, outside, inside)
