"""Where a free product has no mass: gaps, edges and atoms of its law, from the real solutions of its inverse.

Outside the support ψ is real and falls as λ rises, each ζ_k lying in a gap of its own measure. So the gaps of the law
are the stretches of real ζ with λ > 0 and dλ/dψ < 0, and its edges are their ends: stationary points of λ(ψ)
(Silverstein and Choi 1995 in the additive case), or the end of a gap of D² itself, where an atom or a hard edge sits.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from isometry.theory._measure import Array
from isometry.theory._product import Factor, NotConverged, Product, State, records

_SCAN = np.linspace(-32.0, 32.0, 385)  # position within a gap, on a logistic scale: down to 1e-14 of its ends
_AROUND = np.r_[-np.geomspace(0.1, 1e-9, 12), np.geomspace(1e-9, 0.1, 12)]
_ROUNDING = 1e-14
_LEAST = 1e-13  # mass and width below which an atom or a gap is rounding
_SAME = 1e-8  # masses that differ by no more are one
_MOST = 256  # combinations of gaps that are tried at one ψ


@dataclass(frozen=True)
class Gap:
    """An open interval of log λ without mass, and P(x > λ) in it."""

    low: float
    high: float
    above: float


class Atom(NamedTuple):
    """A point mass at log λ = t, and P(log x > t)."""

    t: float
    mass: float
    above: float


def atoms(product: Product) -> list[Atom]:
    """The atoms off zero: at a product of atoms a_k, of mass 1 − Σ (1 − w_k) if that is positive.

    Source: Belinschi (2003) for two factors. Weights count by their dimension, and so do the masses above: at an atom
    ψ is infinite and every ζ_k is a_k, so that in H only the terms E log(ζ_k − d) are left.
    """
    if sum(a for _, a in product.ones) + product.power != 0 or product.smooth > 0:
        return []
    start = product.const + product.bernoulli + sum(a * math.log(c) for c, a in product.ones)
    found = {(): (start, product.budget - product.bernoulli, 0.0)}
    for number, factor in enumerate(product.factors):
        places, masses = factor.measure.atoms, factor.measure.masses
        higher = factor.measure.log_potential_angle(places) / factor.ratio
        for _ in range(math.ceil(factor.times)):
            grown = {}
            for path, (t, mass, above) in found.items():
                for i in np.flatnonzero(places):
                    if (rest := mass - (1 - masses[i]) / factor.ratio) > _LEAST:
                        grown[*path, (number, i)] = (t + math.log(places[i]), rest, above + higher[i])
            found = grown
    return sorted(Atom(float(t), float(m), float(above) if above > _LEAST else 0.0) for t, m, above in found.values())


def gaps(product: Product) -> list[Gap]:
    """All gaps in log λ, ascending; the last one reaches to infinity."""
    found = [gap for combination in _combinations(product) for gap in _Branch(product, combination).gaps()]
    found = [g for g in found if g.high - g.low > _LEAST and g.above <= product.rank + _SAME]
    return _from_atoms(_joined(sorted(found, key=lambda g: g.low)), atoms(product))


def _combinations(product: Product) -> list[tuple[tuple[float, float], ...]]:
    """One gap of every factor, such that at some real ψ each M_k(ζ_k) = c_k ψ has a solution there, and λ > 0."""
    # where rank is lost, ζ may be negative at positive λ
    per_factor = [[(-math.inf, 0.0), *f.measure.gaps()] for f in product.factors]
    ends = {-1 / c for c, _ in product.ones} | {-_rank(f) for f in product.factors}
    cuts = np.array([2 * min(ends), *sorted(ends), 0.0])
    found: dict[tuple[tuple[float, float], ...], None] = {}
    for psi in [1.0, *(cuts[1:] + cuts[:-1]) / 2]:
        choices = [[g for g in gaps if _takes(f, g, psi)] for f, gaps in zip(product.factors, per_factor, strict=True)]
        if math.prod(len(c) for c in choices) > _MOST:  # a gap left out costs its edges, not the numbers: the
            choices = [c[:1] if psi < 0 else c[-1:] for c in choices]  # inversion finds zero density there
        for combination in itertools.product(*choices):
            negative = sum(f.times for f, g in zip(product.factors, combination, strict=True) if g[1] == 0)
            if product.turns(psi, _whole(negative)) == 0:
                found[combination] = None
    return list(found)


def _whole(negative: Any) -> Any:
    """A count of factors without the rounding of their shares."""
    return np.round(negative, 9)


def _rank(factor: Factor) -> float:
    return (1 - factor.measure.zero_mass) / factor.ratio


def _takes(factor: Factor, gap: tuple[float, float], psi: float) -> bool:
    """Whether M(ζ) = cψ for some ζ in the gap: M falls there, from ∞ above an atom or an edge to −∞ below one."""
    low, high = gap
    if high == 0:
        return -_rank(factor) < psi < 0
    if low == 0:
        return psi < -_rank(factor)
    return psi > 0 or high < math.inf


def _from_atoms(found: list[Gap], points: list[Atom]) -> list[Gap]:
    """Gaps down to the atom below them: one far below the others is nearer to its gap than the scan begins."""
    lows = [
        max([a.t for a in points if a.t < g.low and abs(a.above - g.above) <= _LEAST], default=g.low) for g in found
    ]
    return [replace(gap, low=low) for gap, low in zip(found, lows, strict=True)]


def _joined(found: list[Gap]) -> list[Gap]:
    """Gaps without mass between them are one: a ζ passed through zero or infinity."""
    out: list[Gap] = []
    for gap in found:
        if out and abs(out[-1].above - gap.above) <= 1e-12:
            out[-1] = Gap(out[-1].low, max(out[-1].high, gap.high), gap.above)
        else:
            out.append(gap)
    return out


class _Branch:
    """The real solutions with each ζ_k in a given gap of its measure, by the position x of the first one."""

    def __init__(self, product: Product, combination: tuple[tuple[float, float], ...]):
        self.product, self.combination = product, combination
        low, high = combination[0]
        self.scan = _SCAN if len(combination) < 3 else _SCAN[::3]  # many factors cost much and leave few gaps
        self.tables = [self._table(f, gap) for f, gap in zip(product.factors, combination, strict=True)][1:]
        if self.tables and low > 0 and high < math.inf:
            self.scan = np.unique(np.r_[self.scan, self._pole() + _AROUND])

    def _pole(self) -> float:
        """Where ψ = 0 within the gap of the first factor: others may pass through ζ = ∞ there, into another branch."""
        lead, gap = self.product.factors[0].measure, self.combination[0]
        level = lambda x: np.arcsinh(lead.transforms(_place(gap, np.atleast_1d(x)))[0].real)  # noqa: E731
        known = self.scan[np.isfinite(level(self.scan))]  # at its ends a position may be rounded to the gap's
        return _root(lambda x: float(level(x)[0]), known[0], known[-1], xtol=1e-14)

    def _table(self, factor: Factor, gap: tuple[float, float]) -> Any:
        """Position within the gap as a function of −arcsinh ψ."""
        from scipy.interpolate import CubicHermiteSpline

        zeta = _place(gap, self.scan)
        value, _, slope = factor.measure.transforms(zeta)
        psi = value.real / factor.ratio
        rate = slope.real * _log_rate(gap, self.scan, zeta) / (factor.ratio * np.hypot(1, psi))
        with np.errstate(all="ignore"):
            inverse = 1 / rate
        keep = records(np.where(np.isfinite(inverse), -np.arcsinh(psi), -math.inf))
        return CubicHermiteSpline(-np.arcsinh(psi[keep]), self.scan[keep], -inverse[keep])

    def state(self, x: Array) -> State:
        """The state at positions x of ζ_0, the others matched to its ψ: by a table, then by Newton."""
        w = np.log(np.stack([_place(gap, x) for gap in self.combination]) + 0j)
        if len(w) == 1:
            return self.product.state(w)
        lead = self.product.factors[0]
        psi = lead.measure.transforms(np.exp(w[0]))[0].real / lead.ratio
        for k, (gap, table) in enumerate(zip(self.combination[1:], self.tables, strict=True), start=1):
            w[k] = np.log(_place(gap, self._matched(k, gap, table, psi)) + 0j)
        return self.product.state(w)

    def _matched(self, k: int, gap: tuple[float, float], table: Any, psi: Array) -> Array:
        factor, aim = self.product.factors[k], np.arcsinh(psi)
        x = np.clip(table(np.clip(-aim, *table.x[[0, -1]])), self.scan[0], self.scan[-1])
        active = np.arange(len(x))
        for _ in range(6):
            zeta = _place(gap, x[active])
            value, _, slope = factor.measure.transforms(zeta)
            dx = (aim[active] - np.arcsinh(value.real / factor.ratio)) * np.hypot(1, psi[active]) * factor.ratio
            rate = slope.real * _log_rate(gap, x[active], zeta)
            dx = np.clip(dx / np.where(rate == 0, -1e300, rate), -0.5, 0.5)
            x[active] = np.clip(x[active] + dx, self.scan[0], self.scan[-1])
            active = active[np.abs(dx) > 1e-9]  # quadratic: the next step would be rounding
            if not len(active):
                break
        return x

    def gaps(self) -> list[Gap]:
        """Maximal runs of physical positions, their ends refined."""
        at = self.state(self.scan)
        sheet, falling = self._sheet(at), at.slope.real < -self._noise(at)
        good = np.isfinite(at.log_lam.real) & falling & (sheet == 0) & _matches(at)
        edges = np.flatnonzero(np.diff(np.r_[False, good, False].astype(int)))
        found = []
        for first, stop in zip(edges[::2], edges[1::2], strict=True):
            middle = self.state(self.scan[[(first + stop - 1) // 2]])
            low = self._end(at, sheet, first, first - 1)
            high = self._end(at, sheet, stop - 1, stop)
            above = float(self.product.mass(middle, middle.log_lam.real)[0])
            gap = Gap(low, high, above if above > _LEAST else 0.0)
            if self._is_physical(gap, at.log_lam.real[first:stop], at.psi.real[first:stop]):
                found.append(gap)
        return found

    def _is_physical(self, gap: Gap, logs: Array, psi: Array) -> bool:
        """Whether the continuation from the negative axis, which is unique, finds the same ψ; else it is another sheet.

        Factors of unequal size only. Where the contour resolves too little, the outer gaps are known by their mass.
        """
        if len({f.ratio for f in self.product.factors}) == 1:
            return True
        width = min(2.0, gap.high - gap.low)
        start = gap.low if gap.low > -math.inf else gap.high - width
        i = np.unique([np.argmin(np.abs(logs - start - width * share)) for share in (0.1, 0.3, 0.5, 0.7, 0.9)])
        at, good = self.product.attempt(logs[i], np.minimum(logs[i] - gap.low, gap.high - logs[i]), patient=True)
        good &= at.slope.real < 0  # ζ near zero may land on a sheet where ψ rises
        if (good & (np.abs(at.psi - psi[i]) <= 1e-6 * np.abs(psi[i]))).any():
            return True
        lowest = gap.low == -math.inf and abs(gap.above - self.product.rank) <= _SAME
        return not good.any() and (lowest or gap.above == 0)

    def _noise(self, at: State) -> Array:
        """Rounding of dlog λ/dψ: near a zero of d its terms are as 1/ζ, and cancel."""
        counts = [[f.times] for f in self.product.factors]
        return _ROUNDING * np.sum(counts / np.abs(at.rates), 0)

    def _sheet(self, at: State) -> Array:
        """−Im log λ/π on the real axis, which must vanish."""
        negative = sum(f.times * (w.imag > 0) for f, w in zip(self.product.factors, at.w, strict=True))
        return self.product.turns(at.psi.real, _whole(negative), at.one_plus.real)

    def _end(self, at: State, sheet: Array, inside: int, outside: int) -> float:
        """log λ at the end of a run between two neighbouring positions."""
        if outside < 0:  # the lower end of the gaps: λ → 0 if that is 0, else a hard edge or an atom
            return -math.inf if all(low <= 0 for low, _ in self.combination) else float(at.log_lam.real[0])
        if outside == len(self.scan):
            return math.inf if all(high == math.inf for _, high in self.combination) else float(at.log_lam.real[-1])
        if not _matches(at)[outside]:
            return float(at.log_lam.real[inside])
        through_zero = at.psi.real[outside] * at.psi.real[inside] > 0  # of λ(ψ); else of ψ, with a ζ at infinity
        if sheet[outside] != sheet[inside] and outside < inside and through_zero:
            return -math.inf
        slope, noise = at.slope.real[outside], self._noise(at)[outside]
        if sheet[outside] != sheet[inside] or not slope >= -noise:
            return float(at.log_lam.real[inside])
        if slope <= noise:
            return float(at.log_lam.real[outside])

        def bend(x: float) -> float:
            return float((self.state(np.array([x])).slope * at.psi.real[inside] ** 2).real[0])

        x = _root(bend, *sorted((self.scan[inside], self.scan[outside])), xtol=1e-13)
        return float(self.state(np.array([x])).log_lam.real[0])


def _root(f: Callable[[float], float], low: float, high: float, xtol: float) -> float:
    """Where f changes its sign between two positions.

    **Raises** `NotConverged`: it does not, by rounding: the positions are those of ζ as float64 resolves them.
    """
    from scipy.optimize import brentq

    if not np.sign(f(low)) * np.sign(f(high)) <= 0:
        raise NotConverged("Law: an edge of it is not resolved in float64; the values of a factor lie too far apart.")
    root: Any = brentq(f, low, high, xtol=xtol)
    return float(root)


def _matches(at: State) -> Array:
    """Where every ζ_k belongs to the ψ of ζ_0: none may, of unequal size, and where ψ passes zero none is resolved."""
    with np.errstate(invalid="ignore"):
        return np.abs(at.mismatch).max(0) <= 1e-6 * np.abs(at.psi)


def _place(gap: tuple[float, float], x: Array) -> Array:
    """Positions on a logistic scale within a gap; beyond the last one on an exponential scale above its end."""
    low, high = gap
    if low == -math.inf:
        return -np.exp(-x)
    if high == math.inf:
        return low * (1 + np.exp(x))
    below = (high - low) / (1 + np.exp(-x))
    return np.where(x < 0, low + below, high - (high - low) / (1 + np.exp(x)))


def _log_rate(gap: tuple[float, float], x: Array, zeta: Array) -> Array:
    """dlog ζ/dx."""
    low, high = gap
    if low == -math.inf:
        return -np.ones_like(x)
    if high == math.inf:
        return low * np.exp(x) / zeta
    return (high - low) / ((1 + np.exp(-x)) * (1 + np.exp(x))) / zeta
