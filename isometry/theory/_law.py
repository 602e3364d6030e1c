"""The predicted spectrum: a measure on [0, ∞) with exact edges and atoms, inverted on demand to a stated residual."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from isometry import _checks
from isometry.theory import _edges, _series
from isometry.theory._measure import Array
from isometry.theory._product import NotConverged, Product, State

VARIABLES = ("lam", "s", "log_s")
_PER_LOG = {"lam": 1.0, "s": 0.5, "log_s": 0.5}  # dlog(variable)/dlog λ, for log_s its own derivative
_BESIDE = 2e-14  # nearest to an edge that anything is evaluated
_TINY = 1e-8  # mass left below the lowest node of a table; phi'² near its zeros resolves not much less


class Atom(NamedTuple):
    """A point mass: its place lam = s² and its weight."""

    lam: float
    mass: float


class Band(NamedTuple):
    """An interval of log λ with a density, and P(x > λ) at its two ends, atoms there outside of it."""

    low: float
    high: float
    above_low: float
    above_high: float


class LogNormal(NamedTuple):
    """ln(|Jv|²/m_1) ~ Normal(mean, variance) over weights, v a fixed unit vector."""

    mean: float
    variance: float


@dataclass(frozen=True, eq=False, repr=False)
class Law:
    """The law of lam = s² for the singular values s of a Jacobian of infinite width; mass 1 over min(m, n) of them.

    - `product`: the free product behind it (`theory.freeprob`).
    - `name`: for its repr.
    - `structural_zeros`: |m − n|/min(m, n), counted apart from the mass.
    - `pairs`: how many (W, D) pairs it is the law of, None if that is not a number.
    - `width_rate`: variance of ln |Jv|² times the width, None where no formula is known.
    - `span`: the part of a network it is for, "hidden" (pairs of W and D) or "end_to_end" (one W more).

    `variable` is "lam" (the default), "s" or "log_s" in every method that takes it. Host only, float64, no NaN, no
    broadening. Accuracy: edges, atoms and quantiles 1e-9 relative; cdf 2e-15 a pair, absolute, so 1e-5 relative at 1e-8
    and depth 128; density 1e-9 away from edges. Where phi' has a zero, mass below 1e-8 is not resolved, and for
    one orthogonal pair nothing within 1e-8 of an extremum of phi'². Cost, one core: 400 points of a density, with the
    table that later calls start from, 0.2 s for ReLU and tanh, 1 s for gelu; then a tenth of it; a path law 0.1 s more
    a layer.

    **Raises** (all methods) `ValueError`: unknown variable, non-finite points; `TypeError`: a traced argument;
    `freeprob.NotConverged`: an inversion above its residual. No number is returned then.
    """

    product: Product
    name: str
    structural_zeros: float = 0.0
    pairs: int | None = None
    width_rate: float | None = None
    span: str = "hidden"

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        """Point masses, ascending, the one at zero included."""
        zero = [Atom(0.0, 1 - self.product.rank)] if self.product.rank < 1 else []
        with np.errstate(over="ignore"):
            return (*zero, *(Atom(float(np.exp(t)), m) for t, m in self._log_atoms))

    @cached_property
    def support(self) -> tuple[tuple[float, float], ...]:
        """The intervals of lam with a density, ascending; atoms apart. True edges, also where hardly any mass is."""
        with np.errstate(over="ignore"):
            return tuple((float(np.exp(b.low)), float(np.exp(b.high))) for b in self._bands)

    @property
    def s_max(self) -> float:
        """Largest singular value, √ of the top of the support."""
        return float(np.exp(self._top / 2))

    @property
    def variance(self) -> float:
        """Variance of lam: m_1² (L(μ_2/μ_1² − 1 − s_1)) for L equal pairs, without cancellation where it is small."""
        with np.errstate(over="ignore"):
            return float(np.exp(2 * _series.log_mean(self.product)) * _series.relative_variance(self.product))

    @property
    def mean_log_lam(self) -> float:
        """E log lam; −inf if zero has mass."""
        return -math.inf if self.product.rank < 1 else 2 * self.moment(1, variable="log_s")

    def moment(self, k: float = 1, variable: str = "lam") -> float:
        """E[variable^k] over the whole mass; for "log_s" over its part off zero, as `Spectrum.moment` has it.

        Whole powers of lam by Lagrange inversion of M⁻¹, others by quadrature of the density (1e-9). Overflow is inf.

        **Raises** `ValueError`: k not a positive number; a power of log_s that is not whole.
        """
        _checks.one_of("Law.moment", among=VARIABLES, variable=variable)
        _checks.number("Law.moment", low=0.0, open_low=True, k=k)
        if variable == "log_s":
            _checks.integer("Law.moment", low=1, k=int(k) if float(k).is_integer() else k)
            if self.product.bernoulli > 0:  # mass σ0²/|t| below log lam = t: the integral diverges
                return math.inf if k % 2 == 0 else -math.inf
            return self._integral(lambda t: (t / 2) ** k) / self.product.rank
        power = k if variable == "lam" else k / 2
        if float(power).is_integer() and power <= 40:
            return _series.moment(self.product, int(power))
        with np.errstate(over="ignore"):
            return self._integral(lambda t: np.exp(power * t))

    def density(self, grid: Any, variable: str = "lam") -> Any:
        """Density of the continuous part at each point; atoms have none. At a hard edge (lam = 0) it may be inf."""
        t, x = self._log_lam("Law.density", grid, variable)
        flat = t.ravel()
        value = np.zeros(flat.shape)
        for band in self._bands:
            inside = (flat > band.low) & (flat < band.high)
            value[inside] = np.maximum(-self._solve(band, flat[inside]).psi.imag, 0.0) / np.pi
        with np.errstate(over="ignore", invalid="ignore"):
            scale = {"lam": np.exp(-flat), "s": 2 * np.exp(-flat / 2), "log_s": 2.0}[variable]
            value = np.where(value > 0, value * scale, 0.0).reshape(t.shape)
        if variable != "log_s" and np.any(x == 0) and self._bands and self._bands[0].low == -math.inf:
            value = np.where(x == 0, self._density_at_zero(variable), value)
        return value if value.ndim else float(value)

    def cdf(self, grid: Any, variable: str = "lam") -> Any:
        """Mass at or below each point."""
        t, x = self._log_lam("Law.cdf", grid, variable)
        value = np.where((x < 0) & (variable != "log_s"), 0.0, 1 - self._above(t.ravel()).reshape(t.shape))
        return value if value.ndim else float(value)

    def survival(self, grid: Any, variable: str = "lam") -> Any:
        """Mass above each point, accurate also where it is small."""
        t, x = self._log_lam("Law.survival", grid, variable)
        value = np.where((x < 0) & (variable != "log_s"), 1.0, self._above(t.ravel()).reshape(t.shape))
        return value if value.ndim else float(value)

    def quantile(self, p: Any, variable: str = "lam") -> Any:
        """Least x with cdf(x) ≥ p. At p = 0 the lower end of the support.

        **Raises** `ValueError`: p outside [0, 1].
        """
        _checks.one_of("Law.quantile", among=VARIABLES, variable=variable)
        _checks.concrete("Law.quantile", p=p)
        wanted = np.asarray(p, float)
        for value in wanted.ravel():
            _checks.number("Law.quantile", low=0.0, high=1.0, p=float(value))
        t = self._quantile(wanted.ravel()).reshape(wanted.shape)
        with np.errstate(over="ignore"):
            value = t / 2 if variable == "log_s" else np.exp(t * _PER_LOG[variable])
        return value if value.ndim else float(value)

    def sample(self, key: Any, shape: tuple[int, ...] = (), variable: str = "lam") -> Array:
        """Independent draws: quantiles of uniforms."""
        _checks.key("Law.sample", key)
        with jax.enable_x64(True):
            uniform = np.asarray(jax.random.uniform(key, _checks.shape("Law.sample", shape), np.float64))
        return np.asarray(self.quantile(uniform, variable))

    def finite_width(self, width: int) -> LogNormal:
        """The leading correction at finite width: ln(|Jv|²/m_1) of a fixed direction v is Normal(−V/2, V).

        V = L (3μ_2/μ_1² − 1)/width for Gaussian and 3 L (μ_2/μ_1² − 1)/width for orthogonal weights, where phi' does
        not depend on the scale of its argument (linear, ReLU, leaky ReLU): 5L/width for ReLU and Gaussian weights.

        Source: Hanin and Nica (2020), arXiv:1812.05994. **Raises** `NotDefined`: other activations (the variance of the
        pre-activations fluctuates too, and no formula is known here), rectangular layers, universal laws.
        """
        _checks.integer("Law.finite_width", low=2, width=width)
        if self.width_rate is None:
            raise _checks.NotDefined(
                f"Law.finite_width(): no formula is known for {self.name}; there is one for dense square layers with "
                "linear, ReLU or leaky ReLU activation. Compare with isometry.ensemble at widths n, 2n and 4n instead."
            )
        variance = self.width_rate / width
        return LogNormal(-variance / 2, variance)

    def __repr__(self) -> str:
        pieces = ", ".join(f"[{low:.6g}, {high:.6g}]" for low, high in self.support)
        points = ", ".join(f"{a.mass:.6g} at {a.lam:.6g}" for a in self.atoms)
        text = f"density on {pieces}" if pieces else "no density"
        return f"Law({self.name}: lam has {text}" + (f", atoms {points})" if points else ")")

    @cached_property
    def _log_atoms(self) -> list[tuple[float, float]]:
        return _edges.atoms(self.product)

    @cached_property
    def _gaps(self) -> list[_edges.Gap]:
        return _edges.gaps(self.product)

    @property
    def _top(self) -> float:
        return max([b.high for b in self._bands] + [t for t, _ in self._log_atoms], default=-math.inf)

    @cached_property
    def _bands(self) -> list[Band]:
        """The complement of the gaps, cut at atoms inside."""
        bands, low, above = [], -math.inf, self.product.rank
        for gap in self._gaps:
            if gap.low - low > 1e-12 * (1 + abs(gap.low)):
                bands += self._cut(low, gap.low, above, gap.above)
            low, above = gap.high, gap.above
        return bands

    def _cut(self, low: float, high: float, above: float, end: float) -> list[Band]:
        """The band between two gaps; atoms at its ends are taken off its mass, atoms inside divide it."""
        near = 1e-9
        end += sum(m for t, m in self._log_atoms if abs(t - high) <= near)
        above -= sum(m for t, m in self._log_atoms if abs(t - low) <= near)
        bands = []
        for t, m in self._log_atoms:
            if low + near < t < high - near:  # only D² itself has such: the law is its own
                (factor,) = self.product.factors
                beyond = float(factor.measure.log_potential_angle(np.exp(np.array([t - self.product.const])))[0])
                bands.append(Band(low, t, above, beyond + m))
                low, above = t, beyond
        return [*bands, Band(low, high, above, end)]

    @cached_property
    def _tables(self) -> dict[Band, tuple[Array, State, Array]]:
        """For each band nodes in log λ, their states and P(x > λ): where queries start from."""
        return {band: self._table(band) for band in self._bands}

    def _table(self, band: Band) -> tuple[Array, State, Array]:
        if band.low > -math.inf:
            return self._tabulated(band, self._nodes(band, math.inf))
        reach = self._reach(band)
        try:
            return self._tabulated(band, self._nodes(band, reach))
        except NotConverged:  # near zero only, where the contour ends: queries start from what there is
            return self._tabulated(band, self._nodes(band, reach / 4))

    def _tabulated(self, band: Band, t: Array) -> tuple[Array, State, Array]:
        at = self.product.solve(t, np.minimum(t - band.low, band.high - t))
        return t, at, self.product.mass_above(at)

    def _nodes(self, band: Band, reach: float) -> Array:
        if band.low > -math.inf:
            return band.low + (band.high - band.low) * np.sin(np.pi / 2 * np.arange(1, 64) / 64) ** 2
        return np.unique(band.high - np.r_[np.geomspace(1e-5, reach, 48), np.linspace(reach / 32, reach, 24)])

    def _reach(self, band: Band, least: float = _TINY) -> float:
        """How far below its top a band without lower edge carries more than `least` mass."""
        reach, left = 0.25, 1.0
        while reach < 2**15:
            try:
                at = self.product.solve(np.array([band.high - reach]), reach)
            except NotConverged:  # below what the contour resolves: the bound there is the mass left before
                if left > 1e-6:
                    raise
                return reach / 2
            before, left = left, abs(band.above_low - float(self.product.mass_above(at)[0]))
            if left <= least or 0.9 * before < left < 1e-6:  # the latter: what the contour resolves is reached
                break
            reach *= 2
        return reach

    def _solve(self, band: Band, t: Array) -> State:
        """The states at t inside a band, started from its table."""
        nodes, at, _ = self._tables[band]
        if band.low > -math.inf:
            t = np.maximum(t, band.low + _BESIDE * (1 + abs(band.low)))
        t = np.minimum(t, band.high - _BESIDE * (1 + abs(band.high)))
        guess = np.stack([np.interp(t, nodes, row.real) + 1j * np.interp(t, nodes, row.imag) for row in at.w])
        return self.product.solve(t, np.minimum(t - band.low, band.high - t), guess)

    def _above(self, t: Array) -> Array:
        """P(x > e^t)."""
        value = np.full(t.shape, self.product.rank)
        value[t >= self._top] = 0.0
        for gap in self._gaps:
            value[(t >= gap.low) & (t < gap.high)] = gap.above
        for band in self._bands:
            inside = (t > band.low) & (t < band.high)
            found = self.product.mass_above(self._solve(band, t[inside]))
            value[inside] = np.clip(found, min(band.above_high, band.above_low), band.above_low)
            value[(t == band.low) & (t > -math.inf)] = band.above_low
        for place, _ in self._log_atoms:
            close = np.abs(t - place) <= 1e-14 * (1 + abs(place))
            value[close] = self._above(np.full(close.sum(), place + 1e-9)) if close.any() and place < self._top else 0.0
        return np.clip(value, 0.0, 1.0)

    def _quantile(self, p: Array) -> Array:
        """log λ of the least λ with P(x > λ) ≤ 1 − p."""
        above = 1 - p
        t = np.full(p.shape, -math.inf)
        t[above < self.product.rank - 1e-15] = self._top
        places = [(b.low, b) for b in self._bands] + [(place, None) for place, _ in self._log_atoms]
        left = above < self.product.rank - 1e-15
        lowest = min([place for place, _ in places], default=-math.inf)
        t[~left] = lowest if self.product.rank == 1 else -math.inf
        for place, band in sorted(places, key=lambda item: item[0]):
            if band is None:
                here = left & (above >= self._above(np.array([place]))[0] - 1e-14)
                t[here] = place
            else:
                here = left & (above >= band.above_high)
                t[here] = self._invert(band, above[here])
            left &= ~here
        return t

    def _invert(self, band: Band, above: Array) -> Array:
        """t in a band with P(x > e^t) = above: Newton within a bracket that only shrinks."""
        if not len(above):
            return above
        nodes, _, levels = self._tables[band]
        at = np.searchsorted(-levels, -above)
        ends = np.r_[band.low if band.low > -math.inf else nodes[0] - 64 * (band.high - nodes[0]), nodes, band.high]
        low, high = ends[at].copy(), ends[at + 1].copy()
        known = np.r_[band.above_low, levels, band.above_high]
        share = np.clip((known[at] - above) / np.maximum(known[at] - known[at + 1], 1e-300), 0.01, 0.99)
        if (
            band.low == -math.inf
        ):  # below the table the cdf is convex: from its end Newton walks down and never overshoots
            share[at == 0] = 1 - 1e-9
        t, active = low + share * (high - low), np.arange(len(above))
        for _ in range(80):
            state = self._solve(band, t[active])
            excess = self.product.mass_above(state) - above[active]
            low[active] = np.where(excess > 0, t[active], low[active])
            high[active] = np.where(excess > 0, high[active], t[active])
            new = t[active] + excess * np.pi / np.maximum(-state.psi.imag, 1e-300)
            outside = (new <= low[active]) | (new >= high[active])
            new = np.where(outside, (low[active] + high[active]) / 2, new)
            done = np.abs(new - t[active]) <= 2e-14 * (1 + np.abs(new))
            t[active] = new
            active = active[~done]
            if not len(active):
                break
        return t

    def _integral(self, g: Callable[[Array], Array]) -> float:
        """E g(log λ) over the mass off zero: quadrature in variables that remove square-root edges."""
        total = sum(m * float(g(np.array([t]))[0]) for t, m in self._log_atoms)
        for band in self._bands:
            for low, high in self._smooth_parts(band):
                total += self._part(band, low, high, g)
        return total

    def _part(self, band: Band, low: float, high: float, g: Callable[[Array], Array]) -> float:
        def mass(v: Array) -> Array:
            if low > -math.inf:
                t, jacobian = low + (high - low) * np.sin(v) ** 2, (high - low) * np.sin(2 * v)
            else:
                t, jacobian = high - v**2, 2 * v
            return -self._solve(band, t).psi.imag / np.pi * g(t) * jacobian

        if low > -math.inf:
            return _adaptive(mass, np.linspace(0, np.pi / 2, 5))
        panels = np.r_[0, 2.0 ** np.arange(-4, 0.5)]
        try:
            return _adaptive(mass, np.sqrt(self._reach(band, 1e-14)) * panels)
        except NotConverged:  # what lies below is beyond the contour's resolution of phi'² near zero
            return _adaptive(mass, np.sqrt(self._reach(band)) * panels)

    def _smooth_parts(self, band: Band) -> list[tuple[float, float]]:
        """A band cut where its density is singular inside: for one orthogonal pair, at extrema of phi'²."""
        lead, *others = self.product.factors
        if others or self.product.power or any(a for _, a in self.product.ones) or self.product.smooth:
            return [(band.low, band.high)]
        corners = [c for c in lead.measure.corners if c > 0]
        t: Array = self.product.const + np.log(np.array(corners)) if corners else np.zeros(0)
        cuts = [band.low, *t[(t > band.low + 1e-9) & (t < band.high - 1e-9)], band.high]
        return list(itertools.pairwise(cuts))

    def _density_at_zero(self, variable: str) -> float:
        """Limit at zero, from the power of lam with which the density of log lam vanishes."""
        band = self._bands[0]
        t = band.high - self._reach(band) * np.array([0.9, 1.0])
        value = -self._solve(band, t).psi.imag / np.pi
        power = np.log(value[0] / value[1]) / (t[0] - t[1]) if value.min() > 0 else math.inf
        if abs(power - _PER_LOG[variable]) < 1e-3:
            return float(value[1] * np.exp(-_PER_LOG[variable] * t[1]) / _PER_LOG[variable])
        return math.inf if power < _PER_LOG[variable] else 0.0

    @staticmethod
    def _log_lam(call: str, grid: Any, variable: str) -> tuple[Array, Array]:
        """Points of `variable` as log lam, and as they came."""
        _checks.one_of(call, among=VARIABLES, variable=variable)
        _checks.concrete(call, grid=grid)
        x = np.asarray(grid, float)
        if np.isnan(x).any():
            raise _checks.InputError(f"{call}(): grid holds {int(np.isnan(x).sum())} values that are NaN.")
        if variable == "log_s":
            return 2 * x, x
        return np.where(x > 0, np.log(np.where(x > 0, x, 1.0)) / _PER_LOG[variable], -math.inf), x


def _adaptive(f: Callable[[Array], Array], edges: Array) -> float:
    """∫ f by Gauss-Legendre on panels bisected until halves agree with the whole to 1e-11 of it all."""
    gauss, weight = np.polynomial.legendre.leggauss(16)

    def panels(left: Array, right: Array) -> Array:
        half = (right - left)[:, None] / 2
        values = f(((left + right)[:, None] / 2 + half * gauss).ravel()).reshape(len(left), -1)
        return np.sum(half * weight * values, 1)

    left, right = edges[:-1], edges[1:]
    whole, total = panels(left, right), 0.0
    size = np.abs(whole).sum()
    for _ in range(16):
        middle = (left + right) / 2
        a, b = panels(left, middle), panels(middle, right)
        rough = np.abs(a + b - whole) > 1e-11 * size
        total += float((a + b)[~rough].sum())
        if not rough.any():
            return total
        if rough.sum() > 128:  # noise, not structure
            return total + float((a + b)[rough].sum())
        left, right, whole = (
            np.r_[left[rough], middle[rough]],
            np.r_[middle[rough], right[rough]],
            np.r_[a[rough], b[rough]],
        )
    return total + float(whole.sum())
