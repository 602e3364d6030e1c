"""The intervals of log λ that carry a density, and what is asked of one: states, masses, quantiles, integrals.

Queries start from a table of states. It is interpolated in a variable in which square-root edges are smooth, with the
derivative dlog ζ/dlog λ that every state knows.
"""

import contextlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from isometry.theory._edges import Atom, Gap
from isometry.theory._measure import Array
from isometry.theory._product import NotConverged, Product, State
from isometry.theory._quadrature import bisected, gauss

_BESIDE = 2e-14  # nearest to an edge that anything is evaluated
_ROUNDING = 4e-15  # of a mass
_TINY = 1e-8  # mass left below the lowest node of a table; phi'² near its zeros resolves not much less
_MOST_LOST = 1e-6  # mass below the lowest log λ that is inverted: what a cdf is right to
# Masses below deeper and deeper points fall, but for their rounding: 5e-14 of a product of 16 factors. On another
# branch of the solution they are off by a share of the mass.
_FALLING = 1 + 1e-9
_MOST_MISSED, _WRONG = 0.01, 1e-8  # mass that quadrature may miss, and that times the width of the rest in log λ
_SHARES = np.array([1e-9, 1e-6, 1e-3, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1 - 1e-3, 1 - 1e-6, 1 - 1e-9])
_DEPTHS = 0.25 * 2.0 ** np.arange(18)  # in log λ below the top
_NEAR = 1e-9  # an atom this close to an edge sits there


@dataclass(frozen=True, eq=False)
class Band:
    """An interval of log λ with a density, and P(x > λ) at its two ends, atoms there outside of it."""

    product: Product
    low: float
    high: float
    above_low: float
    above_high: float

    def density(self, t: Array) -> Array:
        """Density of log λ at t inside; 0 below what can be inverted, where at most `_MOST_LOST` of mass is left."""
        value = np.zeros(len(t))
        at, found = self._reached(t)
        value[found] = np.maximum(-at.psi.imag, 0.0) / np.pi
        return value

    def masses(self, t: Array) -> tuple[Array, Array]:
        """P(x > e^t) and P(x ≤ e^t) at t inside, the smaller one to relative accuracy; as `density` at the far end."""
        above, below = np.full(len(t), self.above_low), np.full(len(t), 1 - self.above_low)
        at, found = self._reached(t)
        above[found], below[found] = self._masses(at, t[found])
        low, high = min(self.above_high, self.above_low), self.above_low
        return np.clip(above, low, high), np.clip(below, 1 - high, 1 - low)

    def solve(self, t: Array) -> State:
        """The states at t inside."""
        if self.low > -math.inf:
            t = np.maximum(t, self.low + _BESIDE * (1 + abs(self.low)))
        t = np.minimum(t, self.high - _BESIDE * (1 + abs(self.high)))
        nodes, at, _ = self._table
        return self.product.solve(t, self._distance(t), self._interpolated(t, nodes, at))

    def _reached(self, t: Array) -> tuple[State, Array]:
        """The states at t, and where there are any: all but far below the table."""
        nodes, table, below = self._table
        lost = below - (1 - self.above_low)
        first = int(np.argmax(lost > _MOST_LOST))  # node: below it no more is left than may be lost
        far = (t < nodes[first]) & (self.low == -math.inf) & (lost[0] <= _MOST_LOST)
        if not far.any():
            return self.solve(t), ~far
        deep, good = self.product.attempt(t[far], self._distance(t[far]), self._interpolated(t[far], nodes, table))
        good &= self._left(deep, t[far]) <= lost[first]  # else it is another branch
        found = ~far
        found[far] = good
        order = np.argsort(np.r_[np.flatnonzero(~far), np.flatnonzero(far)[good]])
        near = self.solve(t[~far])
        return State(
            *(np.concatenate([n, d[..., good]], -1)[..., order] for n, d in zip(near, deep, strict=True))
        ), found

    def invert(self, p: Array) -> Array:
        """t with P(x ≤ e^t) = p: Newton within a bracket that only shrinks."""
        if not len(p):
            return p
        nodes, _, below = self._table
        at = np.searchsorted(below, p)
        ends = np.r_[self.low if self.low > -math.inf else nodes[0] - 64 * (self.high - nodes[0]), nodes, self.high]
        low, high = ends[at].copy(), ends[at + 1].copy()
        known = np.r_[1 - self.above_low, below, 1 - self.above_high]
        share = np.clip((p - known[at]) / np.maximum(known[at + 1] - known[at], 1e-300), 0.01, 0.99)
        if self.low == -math.inf:  # below the table the cdf is convex: from its end Newton never overshoots
            share[at == 0] = 1 - 1e-9
        t = low + share * (high - low)
        at_edge = np.abs(1 - self.above_high - p) <= _ROUNDING  # there the density vanishes, and Newton is lost
        t[at_edge] = self.high
        active = np.flatnonzero(~at_edge)
        for _ in range(80):
            if not len(active):
                break
            state = self.solve(t[active])
            lack = self._lack(state, t[active], p[active])
            low[active] = np.where(lack > 0, t[active], low[active])
            high[active] = np.where(lack > 0, high[active], t[active])
            new = t[active] + lack * np.pi / np.maximum(-state.psi.imag, 1e-300)
            outside = (new <= low[active]) | (new >= high[active])
            new = np.where(outside, (low[active] + high[active]) / 2, new)
            done = np.abs(new - t[active]) <= 2e-14 * (1 + np.abs(new))
            t[active] = new
            active = active[~done]
        return t

    def integral(self, g: Callable[[Array], Array]) -> float:
        """∫ g dP over the band: quadrature in variables that remove square-root edges.

        Of g less its value at the median, as mass that is missed then counts little where the band is narrow. Mass says
        whether all was seen; if not, the panels are cut at quantiles.
        """
        whole = self.above_low - self.above_high
        t = self.invert(1 - self.above_low + whole * np.array([0.05, 0.5, 0.95]))
        middle, width = float(g(t)[1]), min(t[2] - t[0], 1.0)
        for shares in (np.zeros(0), _SHARES):
            inside = self.invert(1 - self.above_low + whole * shares)
            parts = [self._part(*ends, g, middle, inside) for ends in self._smooth_parts()]
            rest, mass, lost = np.sum(parts, 0)
            missed = abs(whole - lost - mass)
            if missed <= _MOST_MISSED and missed * width <= _WRONG:
                return float((whole - lost) * middle + rest)
        raise NotConverged(
            f"Law: its density integrates to {mass:.9g} over a band of mass {whole - lost:.9g}; it is too narrow "
            "or too rough for that. cdf and quantile need no integral."
        )

    def reach(self, least: float = _TINY) -> float:
        """How far below its top a band without lower edge carries more than `least` mass."""
        left, start = 1.0, self._shallow(least)
        for first in range(start, len(_DEPTHS), 4):  # points are solved together, but not all: the deep ones cost most
            depths = _DEPTHS[first : first + 4]
            good, below = self._left_below(depths)
            for depth, found, mass in zip(depths, good, below, strict=True):
                # Another branch; below what the contour resolves, the mass left is a bound.
                if not found or mass > left * _FALLING:
                    return float(depth) / 2 if left <= _MOST_LOST else self._deepest(float(depth) / 2, left)
                if mass <= least or 0.9 * left < mass < _MOST_LOST:  # the latter: what the contour resolves is reached
                    return float(depth)
                left = mass
        return float(_DEPTHS[-1])

    def _left_below(self, depths: Array) -> tuple[Array, Array]:
        """Where the law could be inverted so far below the top, and the mass that lies below."""
        t = self.high - depths
        at, good = self.product.attempt(t, depths)
        return good, self._left(at, t)

    def _left(self, at: State, t: Array) -> Array:
        return np.abs(self._masses(at, t)[1] - (1 - self.above_low))

    def _deepest(self, depth: float, left: float) -> float:
        """The deepest that can be inverted between `depth`, below which `left` is left, and twice as deep."""
        depths = depth * 2.0 ** (np.arange(1, 16) / 16)
        good, below = self._left_below(depths)
        falls = good & (below <= np.r_[left, below[:-1]] * _FALLING)
        last = int(np.argmin(np.r_[falls, False])) - 1
        if last < 0 or below[last] > _MOST_LOST:
            raise NotConverged(
                f"Law: it could not be inverted at log lam = {self.high - depths[min(last + 1, len(depths) - 1)]:.6g}."
            )
        return float(depths[last])

    def _shallow(self, least: float) -> int:
        """How many depths a product of few factors says are not enough, less one."""
        coarse = self.product.coarse
        if coarse is None:
            return 0
        at, good = coarse[0].attempt(self.high - _DEPTHS, _DEPTHS)
        below = replace(self, product=coarse[0])._masses(at, self.high - _DEPTHS)[1] - (1 - self.above_low)
        return max(0, int(np.flatnonzero(np.r_[True, good & (below > least)])[-1]) - 2)

    @cached_property
    def _table(self) -> tuple[Array, State, Array]:
        """Nodes in log λ, their states and P(x ≤ λ): every fifth by continuation, the rest from those."""
        t = self._nodes()
        few = np.unique(np.r_[t[::5], t[-1]])
        at, good = self.product.attempt(few, self._distance(few))
        few, at = few[good], State(*(x[..., good] for x in at))
        if len(few) > 1:
            at, good = self.product.attempt(t, self._distance(t), self._interpolated(t, few, at))
            t, at = t[good], State(*(x[..., good] for x in at))  # near zero the contour may end
        if not len(few) or not len(t):
            raise NotConverged(f"Law: it could not be inverted between log lam = {self.low:g} and {self.high:g}.")
        return t, at, self._masses(at, t)[1]

    def _nodes(self) -> Array:
        if self.low > -math.inf:
            return self.low + (self.high - self.low) * np.sin(np.pi / 2 * np.arange(1, 64) / 64) ** 2
        reach = self.reach()
        return np.unique(self.high - np.r_[np.geomspace(1e-5, reach, 48), np.linspace(reach / 32, reach, 24)])

    def _interpolated(self, t: Array, nodes: Array, at: State) -> Array:
        """log ζ at t, (K, n), by cubic Hermite pieces from states at nodes."""
        from scipy.interpolate import CubicHermiteSpline

        x, rate = self._smooth(nodes)
        slope = rate / (at.slope * at.rates)
        order = np.argsort(x)
        low, high = x[order][[0, -1]] if self.low == -math.inf else (0.0, np.pi / 2)
        spline = CubicHermiteSpline(x[order], at.w[:, order], slope[:, order], axis=1)
        return spline(np.clip(self._smooth(t)[0], low, high))

    def _smooth(self, t: Array) -> tuple[Array, Array]:
        """A variable x in which square-root edges are smooth, and dt/dx."""
        if self.low == -math.inf:
            x = np.sqrt(np.maximum(self.high - t, 0.0))
            return x, -2 * x
        x = np.arcsin(np.sqrt(np.clip((t - self.low) / (self.high - self.low), 0, 1)))
        return x, (self.high - self.low) * np.sin(2 * x)

    def _distance(self, t: Array) -> Array:
        return np.minimum(t - self.low, self.high - t)

    def _masses(self, at: State, t: Array) -> tuple[Array, Array]:
        above = self.product.mass(at, t)
        below = 1 - above
        lower = np.flatnonzero(above > 0.5)
        if len(lower):
            below[lower] = self.product.mass(State(*(x[..., lower] for x in at)), t[lower], below=True)
            above[lower] = 1 - below[lower]
        return above, below

    def _lack(self, at: State, t: Array, p: Array) -> Array:
        """p − P(x ≤ e^t), from the smaller masses."""
        above, below = self._masses(at, t)
        return np.where(below < above, p - below, above - (1 - p))

    def _part(self, low: float, high: float, g: Callable[[Array], Array], middle: float, inside: Array) -> Array:
        """∫ (g − middle) dP, ∫ dP and the mass below what is reached."""

        def both(v: Array) -> Array:
            if low > -math.inf:
                t, jacobian = low + (high - low) * np.sin(v) ** 2, (high - low) * np.sin(2 * v)
            else:
                t, jacobian = high - v**2, 2 * v
            mass = -self.solve(t).psi.imag / np.pi * jacobian
            return np.stack([mass * (g(t) - middle), mass])

        inside = inside[(inside > low) & (inside < high)]
        if low > -math.inf:
            cuts = np.arcsin(np.sqrt((inside - low) / (high - low)))
            return np.r_[_adaptive(both, np.unique(np.r_[np.linspace(0, np.pi / 2, 5), cuts]), middle), 0.0]
        panels, cuts = np.r_[0, 2.0 ** np.arange(-4, 0.5)], np.sqrt(high - inside)

        def down_to(least: float) -> Array:
            depth = self.reach(least)
            edges = np.sqrt(depth) * np.unique(np.r_[panels, cuts[cuts**2 < depth] / np.sqrt(depth)])
            return np.r_[_adaptive(both, edges, middle), self._left_below(np.array([depth]))[1]]

        for least in (1e-14, _TINY):
            with contextlib.suppress(NotConverged):  # what lies below is beyond the contour's resolution near zero
                return down_to(least)
        return down_to(_MOST_LOST)

    def _smooth_parts(self) -> list[tuple[float, float]]:
        """The band cut where its density is singular inside: for one orthogonal pair, at extrema of phi'²."""
        lead, *others = self.product.factors
        if others or self.product.power or any(a for _, a in self.product.ones) or self.product.smooth:
            return [(self.low, self.high)]
        corners = [c for c in lead.measure.corners if c > 0]
        t: Array = self.product.const + np.log(np.array(corners)) if corners else np.zeros(0)
        cuts = [self.low, *t[(t > self.low + _NEAR) & (t < self.high - _NEAR)], self.high]
        return list(itertools.pairwise(cuts))


def bands(product: Product, gaps: list[Gap], atoms: list[Atom]) -> list[Band]:
    """The complement of the gaps, cut at atoms inside."""
    found, low, above = [], -math.inf, product.rank
    for gap in gaps:
        alone = gap.low - low <= 2 * _NEAR and any(abs(atom.t - low) <= 2 * _NEAR for atom in atoms)
        if gap.low - low > 1e-12 * (1 + abs(gap.low)) and not alone:
            found += _cut(product, low, gap.low, above, gap.above, atoms)
        low, above = gap.high, gap.above
    return found


def _cut(product: Product, low: float, high: float, above: float, end: float, atoms: list[Atom]) -> list[Band]:
    """The band between two gaps; atoms at its ends are taken off its mass, atoms inside divide it."""
    end += sum(m for t, m, _ in atoms if abs(t - high) <= _NEAR)
    above -= sum(m for t, m, _ in atoms if abs(t - low) <= _NEAR)
    found = []
    for t, m, beyond in atoms:
        if low + _NEAR < t < high - _NEAR:
            found.append(Band(product, low, t, above, beyond + m))
            low, above = t, beyond
    return [*found, Band(product, low, high, above, end)]


def _adaptive(f: Callable[[Array], Array], edges: Array, unit: float) -> Array:
    """Integrate f, (2, n) → (2,), on panels bisected until halves agree with the whole to 1e-11 of it all.

    The first integral is to be added to the second times `unit`.
    """

    def integrate(left: Array, right: Array) -> Array:
        t, mass = gauss(left, right, order=16)
        return np.sum(mass * f(t.ravel()).reshape(2, *t.shape), 2).T

    whole = integrate(edges[:-1], edges[1:])
    size = np.abs(whole).sum(0)
    size[0] = max(size[0], abs(unit) * size[1])

    def excuse(left: Array, right: Array, whole: Array) -> Array:
        return np.broadcast_to(1e-11 * size, whole.shape)

    # What is rough on more than 128 panels at once, or after 15 rounds, is noise and no structure.
    _, found, _ = bisected(integrate, excuse, edges, most=256, rounds=15, known=whole)
    return found.sum(0)
