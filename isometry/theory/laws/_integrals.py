"""Integrals over a band, by quadrature in variables that remove square-root edges."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from isometry.theory.laws._bands import Band
from isometry.theory.laws._product import NotConverged
from isometry.theory.laws._types import Numbers
from isometry.theory.mean_field._quadrature import bisected, gauss

Panels = Float[np.ndarray, " panels"]
# Two functions at the same points.
Pair = Float[np.ndarray, "2 points"]
Function = Callable[[Num[Numbers, " points"]], Num[Numbers, "..."]]

# Mass that the quadrature may miss, and that times the width of the rest in log λ,
# which is what it changes the integral by: a moment is promised to 1e-9, and such bands
# are rare.
_MOST_MISSED = 0.01
_MOST_WRONG = 1e-8

# Share of an integral that the mass below the lowest point may contribute. A hundredth
# of it would refuse laws whose moments are right to 1e-6; at a hundred times more what
# is left out would show in the digits that are printed.
_MOST_LEFT_OUT = 1e-6

# Quantiles at which panels are cut where mass was missed.
_SHARES = [1e-9, 1e-6, 1e-3, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98]
_SHARES += [1 - 1e-3, 1 - 1e-6, 1 - 1e-9]

# Masses that may be left below a band without lower edge, the first one if it is
# reached: what lies below is beyond the contour's resolution near zero.
_LEFT_BELOW = (1e-14, 1e-8, 1e-6)

# Halves that agree with the whole to this share of the integral are not halved again.
_TOLERANCE = 1e-11

# What is rough on more panels at once, or after more rounds, is noise and no structure.
_MOST_PANELS = 256
_ROUNDS = 15


def integral(band: Band, g: Function) -> float:
    """Compute ∫ g(log λ) dP over a band.

    What is integrated is g less its value at the median: where the band is narrow, mass
    that the quadrature misses then counts little. The integral of the density is known,
    and tells whether any was missed; if so, the panels are cut at quantiles.

    Raises:
        NotConverged: Mass was missed all the same, or what lies below the lowest point
            counts.
    """
    below = 1 - band.above_low
    whole = band.above_low - band.above_high
    ranks = below + whole * np.array([0.05, 0.5, 0.95])
    low, median, high = band.invert(ranks)
    at_median = g(np.array([low, median, high]))
    middle = float(at_median[1])
    width = min(high - low, 1.0)
    for shares in ([], _SHARES):
        ranks = below + whole * np.array(shares)
        cuts = band.invert(ranks)
        parts = _parts(
            band,
            g,
            middle,
            cuts=cuts,
        )
        seen = whole - parts.lost
        missed = abs(seen - parts.mass)
        error = missed * width
        if missed <= _MOST_MISSED and error <= _MOST_WRONG:
            total = float(seen * middle + parts.rest)
            _require_little_below(g, parts, total)
            return total
    raise NotConverged(
        f"the density of the law integrates to {parts.mass:.9g} over a band of mass "
        f"{seen:.9g}; it is too narrow or too rough for that. cdf and quantile need no "
        "integral."
    )


class _Parts(NamedTuple):
    """What a quadrature over a band found.

    Attributes:
        rest: ∫ (g − middle) dP.
        mass: ∫ dP.
        lost: The mass below the lowest point.
        lowest: The log λ of that point, where mass is lost.
    """

    rest: float
    mass: float
    lost: float
    lowest: float


def _require_little_below(g: Function, parts: _Parts, total: float) -> None:
    """Refuse an integral to which the mass below the lowest point may contribute.

    Powers of log λ grow downward, so that g of the lowest point bounds from below what
    is left out; powers of λ vanish there.
    """
    if parts.lost == 0:
        return
    of_lowest = float(g(np.array([parts.lowest]))[0])
    left_out = abs(parts.lost * of_lowest)
    if left_out > _MOST_LEFT_OUT * abs(total):
        raise NotConverged(
            f"a mass of {parts.lost:.2g} lies below log lam = {parts.lowest:.6g}, "
            "farther down than the law can be inverted, and counts in the integral. "
            "cdf and quantile need no integral."
        )


def _parts(
    band: Band,
    g: Function,
    middle: float,
    cuts: Float[np.ndarray, " cuts"],
) -> _Parts:
    """Integrate g − middle and 1 down to the lowest point."""
    is_inside = (cuts > band.low) & (cuts < band.high)
    cuts = cuts[is_inside]
    if band.low > -np.inf:
        width = band.high - band.low

        # Both edges are square roots of t, and smooth in v.
        def bounded(v: Panels) -> Pair:
            t = band.low + width * np.sin(v) ** 2
            value = _weighted(band, g, t, middle=middle)
            return value * width * np.sin(2 * v)

        shares = (cuts - band.low) / width
        angles = np.arcsin(np.sqrt(shares))
        evenly = np.linspace(0, np.pi / 2, 5)
        edges = np.union1d(evenly, angles)
        rest, mass = _adaptive(bounded, edges, middle)
        return _Parts(rest, mass, lost=0.0, lowest=band.low)

    def unbounded(v: Panels) -> Pair:
        t = band.high - v**2
        value = _weighted(band, g, t, middle=middle)
        return value * 2 * v

    def down_to(least: float) -> _Parts:
        depth, lost = band.reach(least)
        # Panels that double from the upper edge down.
        halvings = 2.0 ** np.arange(-4, 0.5)
        panels = np.sqrt(depth) * np.append(0.0, halvings)
        depths = band.high - cuts
        inside = np.sqrt(depths[depths < depth])
        rest, mass = _adaptive(
            unbounded,
            np.union1d(panels, inside),
            middle,
        )
        return _Parts(rest, mass, lost, lowest=band.high - depth)

    for least in _LEFT_BELOW[:-1]:
        with contextlib.suppress(NotConverged):
            return down_to(least)
    return down_to(_LEFT_BELOW[-1])


def _weighted(
    band: Band,
    g: Function,
    t: Float[np.ndarray, " points"],
    middle: float,
) -> Pair:
    """Return (g − middle) times the density of log λ, and the density."""
    state = band.solve(t)
    density = -state.psi.imag / np.pi
    weighted = density * (g(t) - middle)
    return np.stack([weighted, density])


def _adaptive(
    f: Callable[[Panels], Pair],
    edges: Panels,
    unit: float,
) -> tuple[float, float]:
    """Integrate two functions on panels, bisected until halves agree with the whole.

    Args:
        f: Evaluates both functions.
        edges: The ends of the panels to begin with.
        unit: The caller adds `unit` times the second integral to the first. So an error
            of the first counts against the larger of it and this product.
    """

    def integrate(left: Panels, right: Panels) -> Float[np.ndarray, "panels 2"]:
        t, mass = gauss(left, right, order=16)
        values = f(t.ravel())
        by_panel = values.reshape(2, *t.shape)
        return np.sum(mass * by_panel, axis=2).T

    whole = integrate(edges[:-1], edges[1:])
    size = np.abs(whole).sum(axis=0)
    size[0] = max(size[0], abs(unit) * size[1])

    def excuse(
        left: Panels,
        right: Panels,
        integrals: Float[np.ndarray, "panels 2"],
    ) -> Float[np.ndarray, "panels 2"]:
        return np.broadcast_to(_TOLERANCE * size, integrals.shape)

    _, found, _ = bisected(
        integrate,
        excuse,
        edges,
        most=_MOST_PANELS,
        rounds=_ROUNDS,
        known=whole,
    )
    first, second = found.sum(axis=0)
    return float(first), float(second)
