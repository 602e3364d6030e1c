"""The predicted spectrum: a measure on [0, ∞) with exact edges and atoms, inverted on demand to a stated residual."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from isometry import _checks
from isometry.theory import _edges, _series
from isometry.theory._bands import Band, bands
from isometry.theory._measure import Array
from isometry.theory._product import Product

VARIABLES = ("lam", "s", "log_s")
_PER_LOG = {"lam": 1.0, "s": 0.5, "log_s": 0.5}  # dlog(variable)/dlog λ, for log_s its own derivative


class Atom(NamedTuple):
    """A point mass: its place lam = s² and its weight."""

    lam: float
    mass: float


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
    broadening. Accuracy to depth 128: edges, atoms, quantiles and the density away from edges 1e-9 relative; cdf and
    survival 1e-6 relative down to 1e-8, mostly 1e-8. Where phi' has a zero, mass below 1e-8 (1e-7 where phi'²
    underflows) is not resolved, nor, for one orthogonal pair, anything within 1e-8 of an extremum of phi'². Cost, one
    core: 400 points of a density, with the table that later calls start from, 0.2 s for ReLU and tanh, 0.5 s for gelu;
    then a fifth of it; a path law of 30 distinct q's, which share a Gauss rule exact to some 1e-9, 1.3 s (gelu 2.4 s).

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
            return (*zero, *(Atom(float(np.exp(t)), m) for t, m, _ in self._log_atoms))

    @cached_property
    def support(self) -> tuple[tuple[float, float], ...]:
        """The intervals of lam with a density, ascending; atoms apart. True edges, also where hardly any mass is."""
        with np.errstate(over="ignore"):
            return tuple((float(np.exp(b.low)), float(np.exp(b.high))) for b in self._bands)

    @property
    def s_max(self) -> float:
        """Largest singular value, √ of the top of the support; inf beyond float64."""
        with np.errstate(over="ignore"):
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
        """E[variable^`k`] over the whole mass; for "log_s" over its part off zero, as `Spectrum.moment` has it.

        Whole powers of lam by Lagrange inversion of M⁻¹, others by quadrature of the density (1e-9). Overflow is inf.
        Powers of log_s end at 6: higher ones are carried by singular values so small, and so rare, that float64 does
        not resolve the density there (off by 3e-5 at 12, by all of it at 20, for a product of 32 Gaussian matrices).

        **Raises** `ValueError`: k not a positive number; a power of log_s that is not whole, or above 6.
        """
        _checks.one_of("Law.moment", among=VARIABLES, variable=variable)
        _checks.number("Law.moment", low=0.0, open_low=True, k=k)
        k = float(k)  # not in the precision of JAX's float
        if variable == "log_s":
            _checks.integer("Law.moment", low=1, high=6, k=int(k) if k.is_integer() else k)
            if self.product.bernoulli > 0:  # mass σ0²/|t| below log lam = t: the integral diverges
                return math.inf if k % 2 == 0 else -math.inf
            return self._integral(lambda t: (t / 2) ** k) / self.product.rank
        power = k if variable == "lam" else k / 2
        if power.is_integer() and power <= 40:
            return _series.moment(self.product, int(power))
        top = 0.0 if self.product.is_its_factor else self._top  # as a power of the largest, which alone may overflow
        with np.errstate(over="ignore", under="ignore"):
            share = self._integral(lambda t: np.exp(power * (t - top)))
            return float(np.exp(power * top + math.log(max(share, 1e-300))))

    def density(self, grid: Any, variable: str = "lam") -> Any:
        """Density of the continuous part at each point of `grid`; atoms have none. At lam = 0 it may be inf."""
        t, x = self._log_lam("Law.density", grid, variable)
        flat = t.ravel()
        value = np.zeros(flat.shape)
        for band in self._bands:
            inside = (flat > band.low) & (flat < band.high)
            value[inside] = band.density(flat[inside])
        with np.errstate(over="ignore", invalid="ignore"):
            scale = {"lam": np.exp(-flat), "s": 2 * np.exp(-flat / 2), "log_s": 2.0}[variable]
            value = np.where(value > 0, value * scale, 0.0).reshape(t.shape)
        if variable != "log_s" and np.any(x == 0) and self._bands and self._bands[0].low == -math.inf:
            value = np.where(x == 0, self._density_at_zero(variable), value)
        return value if value.ndim else float(value)

    def cdf(self, grid: Any, variable: str = "lam") -> Any:
        """Mass at or below each point of `grid`."""
        t, x = self._log_lam("Law.cdf", grid, variable)
        value = np.where((x < 0) & (variable != "log_s"), 0.0, self._masses(t.ravel())[1].reshape(t.shape))
        return value if value.ndim else float(value)

    def survival(self, grid: Any, variable: str = "lam") -> Any:
        """Mass above each point of `grid`, accurate also where it is small."""
        t, x = self._log_lam("Law.survival", grid, variable)
        value = np.where((x < 0) & (variable != "log_s"), 1.0, self._masses(t.ravel())[0].reshape(t.shape))
        return value if value.ndim else float(value)

    def quantile(self, p: Any, variable: str = "lam") -> Any:
        """Least x with cdf(x) ≥ `p`. At p = 0 the lower end of the support.

        **Raises** `ValueError`: p outside [0, 1].
        """
        _checks.one_of("Law.quantile", among=VARIABLES, variable=variable)
        _checks.concrete("Law.quantile", p=p)
        wanted = numbers("Law.quantile", float, p=p)
        for value in wanted.ravel():
            _checks.number("Law.quantile", low=0.0, high=1.0, p=float(value))
        t = self._quantile(wanted.ravel()).reshape(wanted.shape)
        with np.errstate(over="ignore"):
            value = t / 2 if variable == "log_s" else np.exp(t * _PER_LOG[variable])
        return value if value.ndim else float(value)

    def sample(self, key: Any, shape: tuple[int, ...] = (), variable: str = "lam") -> Array:
        """Independent draws from `key`, an array of `shape`: quantiles of uniforms."""
        _checks.key("Law.sample", key)
        with jax.enable_x64(True):
            uniform = np.asarray(jax.random.uniform(key, _checks.shape("Law.sample", shape), np.float64))
        return np.asarray(self.quantile(uniform, variable))

    def finite_width(self, width: int) -> LogNormal:
        """The leading correction at finite `width`: ln(|Jv|²/m_1) of a fixed direction v is Normal(−V/2, V).

        V = L (3μ_2/μ_1² − 1)/width for Gaussian and 3 L (μ_2/μ_1² − 1)/width for orthogonal weights, where phi' does
        not depend on the scale of its argument (linear, ReLU, leaky ReLU): 5L/width for ReLU and Gaussian weights.

        Source: Hanin and Nica (2020), arXiv:1812.05994, for Gaussian weights. **Raises** `NotDefined`: other
        activations (the variance of the pre-activations fluctuates too, and no formula is known here), rectangular
        layers, universal laws.
        """
        _checks.integer("Law.finite_width", low=2, width=width)
        width = int(width)
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

    def _integral(self, g: Callable[[Array], Array]) -> float:
        """E g(log λ) over the mass off zero, g analytic."""
        if self.product.is_its_factor:
            return self.product.factors[0].measure.mean_log(lambda t: g(self.product.const + t))
        atoms = sum(m * float(g(np.array([t]))[0]) for t, m, _ in self._log_atoms)
        return atoms + sum(band.integral(g) for band in self._bands)

    @cached_property
    def _log_atoms(self) -> list[_edges.Atom]:
        return _edges.atoms(self.product)

    @cached_property
    def _gaps(self) -> list[_edges.Gap]:
        return _edges.gaps(self.product)

    @cached_property
    def _bands(self) -> list[Band]:
        return bands(self.product, self._gaps, self._log_atoms)

    @property
    def _top(self) -> float:
        return max([b.high for b in self._bands] + [atom.t for atom in self._log_atoms], default=-math.inf)

    def _masses(self, t: Array) -> tuple[Array, Array]:
        """P(x > e^t) and P(x ≤ e^t)."""
        above = np.full(t.shape, self.product.rank)
        above[t >= self._top] = 0.0
        for gap in self._gaps:
            above[(t >= gap.low) & (t < gap.high)] = gap.above
        below = 1 - above
        for band in self._bands:
            inside = (t > band.low) & (t < band.high)
            above[inside], below[inside] = band.masses(t[inside])
            edge = (t == band.low) & (t > -math.inf)
            above[edge], below[edge] = band.above_low, 1 - band.above_low
        for place, _, beyond in self._log_atoms:
            close = np.abs(t - place) <= 1e-14 * (1 + abs(place))
            above[close], below[close] = beyond, 1 - beyond
        return np.clip(above, 0.0, 1.0), np.clip(below, 0.0, 1.0)

    def _quantile(self, p: Array) -> Array:
        """log λ of the least λ with P(x ≤ λ) ≥ p."""
        zero = 1 - self.product.rank
        left = p > zero + 1e-15
        places = [(b.low, b) for b in self._bands] + [(atom.t, None) for atom in self._log_atoms]
        t = np.where(left, self._top, min((at for at, _ in places), default=-math.inf) if zero == 0 else -math.inf)
        for place, band in sorted(places, key=lambda item: item[0]):
            if band is None:
                here = left & (p <= self._masses(np.array([place]))[1] + 1e-14)
                t[here] = place
            else:
                here = left & (p <= 1 - band.above_high)
                t[here] = band.invert(p[here])
            left &= ~here
        return t

    def _density_at_zero(self, variable: str) -> float:
        """Limit at zero, from the power of lam with which the density of log lam vanishes."""
        band = self._bands[0]
        t = band.high - band.reach() * np.array([0.9, 1.0])
        value = band.density(t)
        power = np.log(value[0] / value[1]) / (t[0] - t[1]) if value.min() > 0 else math.inf
        if abs(power - _PER_LOG[variable]) < 1e-3:
            return float(value[1] * np.exp(-_PER_LOG[variable] * t[1]) / _PER_LOG[variable])
        return math.inf if power < _PER_LOG[variable] else 0.0

    @staticmethod
    def _log_lam(call: str, grid: Any, variable: str) -> tuple[Array, Array]:
        """Points of `variable` as log lam, and as they came."""
        _checks.one_of(call, among=VARIABLES, variable=variable)
        _checks.concrete(call, grid=grid)
        x = numbers(call, float, grid=grid)
        if np.isnan(x).any():
            raise _checks.InputError(f"{call}(): grid holds {int(np.isnan(x).sum())} values that are NaN.")
        if variable == "log_s":
            return 2 * x, x
        return np.where(x > 0, np.log(np.where(x > 0, x, 1.0)) / _PER_LOG[variable], -math.inf), x


def numbers(call: str, dtype: type, **named: Any) -> Array:
    """The one named argument as an array of numbers."""
    ((name, given),) = named.items()
    try:
        found = np.asarray(given)
        if not (_checks.is_real(found.dtype) or (dtype is complex and found.dtype.kind == "c")):
            raise TypeError
        return found.astype(dtype)
    except (TypeError, ValueError):
        raise _checks.InputError(f"{call}(): {name}={_checks.show(given)} is not made of numbers.") from None
