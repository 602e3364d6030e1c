"""The predicted spectrum: a measure on [0, ∞), inverted where it is asked for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry._internal.types import Key
from isometry.records import VARIABLES
from isometry.theory.laws import _display, _edges, _integrals, _series
from isometry.theory.laws._arguments import numbers
from isometry.theory.laws._bands import Band
from isometry.theory.laws._closed import Bernoulli
from isometry.theory.laws._log_moments import log_moments
from isometry.theory.laws._product import Product

RealPoints = Float[np.ndarray, " points"]
RealArray = Float[np.ndarray, "..."]

# d log(variable)/d log λ; of log_s its own derivative.
_PER_LOG = {"lam": 1.0, "s": 0.5, "log_s": 0.5}

# Powers of λ up to this one come from the power series, which float64 holds so far;
# higher ones from the density.
_HIGHEST_POWER = 40

# Powers of log s end here. Higher ones are carried by singular values so small, and so
# rare, that float64 does not resolve the density there: off by 3e-5 at 12, by all of it
# at 20, for a product of 32 Gaussian matrices.
_HIGHEST_LOG_POWER = 6

# Probabilities that differ by less are those of one point.
_ROUNDING = 1e-15
_ATOM_ROUNDING = 1e-14


class Atom(NamedTuple):
    """A point mass.

    Attributes:
        lam: Its place, λ = s².
        mass: Its mass.
    """

    lam: float
    mass: float


class LogNormal(NamedTuple):
    """The distribution of ln(|Jv|²/E λ) over weights, for a fixed unit vector v.

    Attributes:
        mean: The mean.
        variance: The variance.
    """

    mean: float
    variance: float


@dataclass(frozen=True, eq=False, repr=False)
class Law:
    """The law of λ = s² for the singular values s of a Jacobian of infinite width.

    It has mass 1 over the min(m, n) singular values. In every method that takes it,
    `variable` is "lam" (the default), "s" or "log_s". Everything is computed on the
    host in float64, without NaN and without broadening.

    Quantiles and densities are right to 1e-6 relative, edges, atoms and moments to
    1e-9, cdf and survival to 1e-6 relative down to 1e-8; mostly all are right to 1e-9.
    Where phi' has a zero, mass below 1e-8 (1e-7 where phi'² underflows) is not
    resolved, nor, for one orthogonal pair, what lies within 1e-8 of an extremum of
    phi'². All methods raise `freeprob.NotConverged` rather than return a number that
    misses its residual.

    Args:
        product: The free product behind it.
        name: What it is called, for its repr.
        structural_zeros: |m − n|/min(m, n), counted apart from the mass.
        pairs: How many (W, D) pairs it is the law of, None if that is not a number.
        width_rate: Variance of ln |Jv|² times the width, None where no formula is
            known.
        span: The part of a network that it is for, "hidden" (pairs of W and D) or
            "end_to_end" (one W more).
        positions: How many singular values there are for each unit of a layer, at the
            narrower end of the span: of a convolution the pixels, times the groups; of
            attention the tokens. `compare` takes their number over this as the width.
        outliers: How many singular values of each draw leave the support as the width
            grows, without mass in the limit: 1 for the mean of a post-activation
            residual branch, T(T − 1) for the query-key part of attention over T tokens.
        frobenius_fluctuation: E |J|_F⁴/(E |J|_F²)² at a width, where E |J|_F² is that
            of the law at every width; None where no formula is known.

    Example:
        >>> law = theory.jacobian_law("tanh", depth=8, q=0.25)
        >>> law
        Law(tanh, depth 8, orthogonal: lam has density on [0, 4.20084])
        >>> round(law.quantile(0.5, "s"), 4)
        0.7735
    """

    product: Product
    name: str
    structural_zeros: float = 0.0
    pairs: int | None = None
    width_rate: float | None = None
    span: str = "hidden"
    positions: int = 1
    outliers: int = 0
    frobenius_fluctuation: Callable[[int], float] | None = None

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        """The point masses, ascending, the one at zero included.

        Example:
            >>> atoms = theory.jacobian_law("relu", depth=1, q=1.0).atoms
            >>> [(round(atom.lam, 12), atom.mass) for atom in atoms]
            [(0.0, 0.5), (2.0, 0.5)]
        """
        found = []
        if self.zero_mass:
            found.append(Atom(0.0, self.zero_mass))
        # Beyond float64 a place is inf.
        with np.errstate(over="ignore"):
            for t, mass, _ in self._log_atoms:
                if mass > 0:
                    lam = float(np.exp(t))
                    found.append(Atom(lam, mass))
        return tuple(found)

    @cached_property
    def support(self) -> tuple[tuple[float, float], ...]:
        """The intervals of λ with a density, ascending; atoms apart.

        A gap that is narrower than a fiftieth of the support, in log λ, may be missing.
        Where a density thins out for long before it ends, the edge may be given where
        it falls below 1e-7 of its surroundings.

        Example:
            >>> theory.marchenko_pastur(0.25).support
            ((0.25, 2.25),)
        """
        intervals = []
        with np.errstate(over="ignore"):
            for band in self._bands:
                low = float(np.exp(band.low))
                high = float(np.exp(band.high))
                intervals.append((_tidy(low), _tidy(high)))
        return tuple(intervals)

    @property
    def zero_mass(self) -> float:
        """The mass at zero, without the structural zeros.

        Example:
            >>> theory.jacobian_law("relu", depth=1, q=1.0).zero_mass
            0.5
        """
        return self.product.zero_mass

    @property
    def s_max(self) -> float:
        """The largest singular value; inf beyond float64.

        Example:
            >>> round(theory.fuss_catalan(1).s_max, 6)
            2.0
        """
        with np.errstate(over="ignore"):
            return float(np.exp(self._top / 2))

    @property
    def variance(self) -> float:
        """The variance of λ, without cancellation where it is small.

        For L equal pairs it is m_1² L (μ_2/μ_1² − 1 − s_1).

        Example:
            >>> law = theory.jacobian_law("relu", depth=4, q=1.0, weights="gaussian")
            >>> round(law.variance, 9)
            8.0
        """
        with np.errstate(over="ignore"):
            square_of_mean = np.exp(2 * self.product.log_mean)
            return float(square_of_mean * self.product.relative_variance)

    @property
    def mean_log_lam(self) -> float:
        """E log λ; −inf if zero has mass.

        Example:
            >>> round(theory.fuss_catalan(3).mean_log_lam, 9)
            -3.0
        """
        if self.product.rank < 1:
            return -math.inf
        return 2 * self.moment(1, variable="log_s")

    @public("Law.moment")
    def moment(self, k: float = 1, variable: str = "lam") -> float:
        """Compute E[variable^k].

        Whole powers of λ follow from the power series of the law by Lagrange inversion,
        others by quadrature of the density. The mass at zero takes part, but for
        powers of log s, which are over the mass off zero, as in `Spectrum.moment`.

        Args:
            k: The power, a positive number; of log s a whole one up to 6.
            variable: "lam", "s" or "log_s".

        Returns:
            The moment; inf on overflow.

        Raises:
            InputError: k is not a positive number; a power of log s that is not whole,
                or above 6.

        Example:
            >>> round(theory.fuss_catalan(2).moment(3), 9)
            12.0
        """
        checks.one_of("variable", variable, VARIABLES)
        # A scalar of JAX would compute in its own precision.
        k = float(checks.number("k", k, above=0.0))
        if variable == "log_s":
            whole = k
            if k.is_integer():
                whole = int(k)
            n = checks.integer(
                "k",
                whole,
                low=1,
                high=_HIGHEST_LOG_POWER,
            )
            return self._moment_of_log(n)
        power = k * _PER_LOG[variable]
        if power.is_integer() and power <= _HIGHEST_POWER:
            n = int(power)
            return _series.moment(self.product.log_series(n), n)
        # As a power of the largest value, which alone may overflow.
        top = self._top if self.product.sole_diagonal is None else 0.0
        with np.errstate(over="ignore", under="ignore"):
            share = self._integral(lambda t: np.exp(power * (t - top)))
            positive_share = max(share, 1e-300)
            log_share = math.log(positive_share)
            log_moment = power * top + log_share
            return float(np.exp(log_moment))

    def _moment_of_log(self, k: int) -> float:
        # At great depth P(log λ < t) falls as 1/|t| in this class: the integral
        # diverges.
        if self._has_bernoulli_class:
            return math.inf if k % 2 == 0 else -math.inf
        # Towards zero a density ends before all of its mass is seen: where it thins
        # out, and at great depth, where log λ goes farther down than the contour.
        product = self.product
        if self._reaches_zero and product.sole_diagonal is None:
            moments = log_moments(product, k)
            if moments is not None:
                return float(moments[k]) / 2**k
        return self._integral(lambda t: (t / 2) ** k) / product.rank

    @public("Law.density")
    def density(
        self, grid: ArrayLike, variable: str = "lam"
    ) -> Float[np.ndarray, "..."] | float:
        """Compute the density of the continuous part; atoms have none.

        Args:
            grid: Points, of any shape.
            variable: "lam", "s" or "log_s": what the points are, and the density is
                per unit of.

        Returns:
            The density at each point, of the shape of `grid`. At λ = 0 it may be inf.

        Example:
            >>> round(theory.fuss_catalan(1).density(1.0, "s"), 6)
            0.551329
        """
        t, x = _log_lam(grid, variable)
        flat = t.ravel()
        value = np.zeros(flat.shape)
        for band in self._bands:
            is_inside = (flat > band.low) & (flat < band.high)
            value[is_inside] = band.density(flat[is_inside])
        # Far down λ underflows, and 1/λ is inf where the density is 0.
        with np.errstate(over="ignore", invalid="ignore"):
            # d log λ/d(variable), from a density of log λ to one of the variable.
            per_log = {
                "lam": np.exp(-flat),
                "s": 2 * np.exp(-flat / 2),
                "log_s": 2.0,
            }
            scaled = value * per_log[variable]
        value = np.where(value > 0, scaled, 0.0)
        value = value.reshape(t.shape)
        is_zero = (x == 0) & (variable != "log_s")
        if self._reaches_zero and is_zero.any():
            limit = self._density_at_zero(variable)
            value = np.where(is_zero, limit, value)
        return _as_given(value)

    @public("Law.cdf")
    def cdf(
        self, grid: ArrayLike, variable: str = "lam"
    ) -> Float[np.ndarray, "..."] | float:
        """Compute the mass at or below each point.

        Args:
            grid: Points, of any shape.
            variable: "lam", "s" or "log_s": what the points are.

        Returns:
            The masses, of the shape of `grid`.

        Example:
            >>> round(theory.fuss_catalan(1).cdf(2.0), 6)
            0.81831
        """
        _, below = self._masses_at(grid, variable)
        return _as_given(below)

    @public("Law.survival")
    def survival(
        self, grid: ArrayLike, variable: str = "lam"
    ) -> Float[np.ndarray, "..."] | float:
        """Compute the mass above each point, accurate also where it is small.

        Args:
            grid: Points, of any shape.
            variable: "lam", "s" or "log_s": what the points are.

        Returns:
            The masses, of the shape of `grid`.

        Example:
            >>> round(theory.fuss_catalan(1).survival(3.9999), 9)
            5.3e-08
        """
        above, _ = self._masses_at(grid, variable)
        return _as_given(above)

    @public("Law.quantile")
    def quantile(
        self, p: ArrayLike, variable: str = "lam"
    ) -> Float[np.ndarray, "..."] | float:
        """Find the least x with cdf(x) >= p.

        Args:
            p: Probabilities in [0, 1], of any shape.
            variable: "lam", "s" or "log_s": what is returned.

        Returns:
            The quantiles, of the shape of `p`. At p = 0 the lower end of the support.

        Raises:
            InputError: A probability is outside [0, 1].

        Example:
            >>> round(theory.fuss_catalan(1).quantile(0.5), 6)
            0.652776
        """
        checks.one_of("variable", variable, VARIABLES)
        wanted = numbers("p", checks.on_host("p", p))
        for value in wanted.ravel():
            checks.number(
                "p",
                float(value),
                low=0.0,
                high=1.0,
            )
        t = self._quantile(wanted.ravel())
        t = t.reshape(wanted.shape)
        # A logarithm exists where λ itself overflows.
        if variable == "log_s":
            return _as_given(t / 2)
        with np.errstate(over="ignore"):
            return _as_given(np.exp(t * _PER_LOG[variable]))

    @public("Law.sample")
    def sample(
        self,
        key: Key,
        shape: tuple[int, ...] = (),
        variable: str = "lam",
    ) -> Float[np.ndarray, "..."]:
        """Draw independent values: quantiles of uniform numbers.

        Args:
            key: A random key.
            shape: How many values, as a shape.
            variable: "lam", "s" or "log_s": what is returned.

        Returns:
            An array of float64 of this shape.

        Example:
            >>> theory.fuss_catalan(1).sample(jax.random.key(0), (3,)).round(4)
            array([0.449 , 0.1166, 3.2756])
        """
        checks.key("key", key)
        # A uniform of float32 would know quantiles to 1e-7 only.
        with jax.enable_x64(True):
            uniform = jax.random.uniform(
                key,
                checks.shape(shape),
                np.float64,
            )
        p = np.asarray(uniform)
        return np.asarray(self.quantile(p, variable))

    @public("Law.finite_width")
    def finite_width(self, width: int) -> LogNormal:
        """Compute the leading correction at finite width, for a fixed direction.

        ln(|Jv|²/E λ) is Normal(−V/2, V), with V = L (3μ_2/μ_1² − 1)/width for Gaussian
        and 3 L (μ_2/μ_1² − 1)/width for orthogonal weights, where phi' does not depend
        on the scale of its argument (linear, ReLU, leaky ReLU): 5L/width for ReLU and
        Gaussian weights (Hanin and Nica, 2020).

        Args:
            width: The number of units of every layer, at least 2; of a convolution
                channels, not pixels.

        Returns:
            Mean and variance.

        Raises:
            NotDefined: Another activation: the variance of its pre-activations
                fluctuates too, and no formula is known. Rectangular layers, and laws
                that belong to no network.

        Example:
            >>> law = theory.jacobian_law("relu", depth=20, q=1.0, weights="gaussian")
            >>> law.finite_width(50)
            LogNormal(mean=-1.0, variance=2.0)
        """
        width = checks.integer("width", width, low=2)
        if self.width_rate is None:
            raise NotDefined(
                f"no formula is known for {self.name}; there is one for dense square "
                "layers with linear, ReLU or leaky ReLU activation. Compare with "
                "isometry.ensemble at widths n, 2n and 4n instead."
            )
        variance = self.width_rate / width
        # So that the mean of |Jv|² is that of the law.
        mean = -variance / 2
        return LogNormal(mean, variance)

    def __repr__(self) -> str:
        intervals = [f"[{low:.6g}, {high:.6g}]" for low, high in self.support]
        points = [f"{atom.mass:.6g} at {atom.lam:.6g}" for atom in self.atoms]
        parts = ["no density"]
        if intervals:
            parts = [f"density on {', '.join(intervals)}"]
        if points:
            parts.append(f"atoms {', '.join(points)}")
        return f"Law({self.name}: lam has {', '.join(parts)})"

    def _repr_html_(self) -> str:
        return _display.show(self)

    def _integral(self, g: Callable[[RealPoints], RealPoints]) -> float:
        """Integrate an analytic function of log λ over the mass off zero."""
        # The law of one D² alone is integrated on its contour, without inversion.
        sole = self.product.sole_diagonal
        if sole is not None:
            scale = self.product.log_scale
            return sole.measure.mean_of_log(lambda t: g(scale + t))
        total = 0.0
        for atom in self._log_atoms:
            if atom.mass > 0:
                value = g(np.array([atom.t]))
                total += atom.mass * float(value[0])
        of_bands = [_integrals.integral(band, g) for band in self._bands]
        return total + sum(of_bands)

    @cached_property
    def _log_atoms(self) -> list[_edges.LawAtom]:
        return _edges.find_atoms(self.product)

    @cached_property
    def _bands(self) -> list[Band]:
        intervals = _edges.find_intervals(self.product, self._log_atoms)
        return [
            Band(
                self.product,
                low=interval.low,
                high=interval.high,
                above_low=interval.above_low,
                above_high=interval.above_high,
            )
            for interval in intervals
        ]

    @property
    def _reaches_zero(self) -> bool:
        """Whether positive values come arbitrarily close to zero."""
        return bool(self._bands) and self._bands[0].low == -math.inf

    @property
    def _has_bernoulli_class(self) -> bool:
        return any(isinstance(f, Bernoulli) for f, _ in self.product.closed)

    @property
    def _top(self) -> float:
        tops = [band.high for band in self._bands]
        tops += [atom.t for atom in self._log_atoms]
        return max(tops, default=-math.inf)

    def _masses_at(self, grid: ArrayLike, variable: str) -> tuple[RealArray, RealArray]:
        """Compute the mass above each point, and that at or below it."""
        t, x = _log_lam(grid, variable)
        above, below = self._masses(t.ravel())
        # A negative λ or s is below all mass, and has no logarithm.
        is_negative = (x < 0) & (variable != "log_s")
        above = above.reshape(t.shape)
        below = below.reshape(t.shape)
        above = np.where(is_negative, 1.0, above)
        below = np.where(is_negative, 0.0, below)
        return above, below

    def _masses(self, t: RealPoints) -> tuple[RealPoints, RealPoints]:
        """Compute P(x > e^t) and P(x ≤ e^t)."""
        above = np.zeros(t.shape)
        # First the bands and atoms that lie above a point as a whole.
        for band in self._bands:
            is_under = t <= band.low
            above[is_under] += band.above_low - band.above_high
        for atom in self._log_atoms:
            is_under = t < atom.t
            above[is_under] += atom.mass
        # Nothing but the mass at zero lies below everything, to the last digit.
        starts = [band.low for band in self._bands]
        starts += [atom.t for atom in self._log_atoms]
        first = min(starts, default=math.inf)
        above[t < first] = self.product.rank
        above[t >= self._top] = 0.0
        below = 1 - above
        for band in self._bands:
            is_inside = (t > band.low) & (t < band.high)
            masses = band.masses(t[is_inside])
            above[is_inside], below[is_inside] = masses
        for atom in self._log_atoms:
            rounding = _ATOM_ROUNDING * (1 + abs(atom.t))
            is_here = np.abs(t - atom.t) <= rounding
            above[is_here] = atom.above
            below[is_here] = 1 - atom.above
        above = np.clip(above, 0.0, 1.0)
        below = np.clip(below, 0.0, 1.0)
        return above, below

    def _quantile(self, p: RealPoints) -> RealPoints:
        """Find log λ of the least λ with P(x ≤ λ) ≥ p."""
        zero = self.product.zero_mass
        is_left = p > zero + _ROUNDING
        # Bands and atoms from the lowest on; each takes the ranks that it reaches.
        starts = [(band.low, band) for band in self._bands]
        starts += [(atom.t, None) for atom in self._log_atoms]
        starts.sort(key=lambda start: start[0])
        top = self._top
        t = np.full(p.shape, top)
        t[~is_left] = -math.inf
        if zero == 0 and starts:
            t[~is_left] = starts[0][0]
        for place, band in starts:
            if band is None:
                _, below = self._masses(np.array([place]))
                is_here = is_left & (p <= below + _ATOM_ROUNDING)
                t[is_here] = place
            else:
                is_here = is_left & (p <= 1 - band.above_high)
                t[is_here] = band.invert(p[is_here])
            is_left &= ~is_here
        return t

    def _density_at_zero(self, variable: str) -> float:
        """Return the density's limit at zero.

        It follows from the power of λ with which the density of log λ falls there.
        """
        band = self._bands[0]
        depth = band.reach().depth
        # Two points near the end of what is resolved, whose slope is the power.
        t = band.high - depth * np.array([0.9, 1.0])
        value = band.density(t)
        wanted = _PER_LOG[variable]
        power = math.inf
        if value.min() > 0:
            log_ratio = np.log(value[0] / value[1])
            power = log_ratio / (t[0] - t[1])
        if abs(power - wanted) < 1e-3:
            density = value[1] * np.exp(-wanted * t[1])
            return float(density / wanted)
        return math.inf if power < wanted else 0.0


def _log_lam(grid: ArrayLike, variable: str) -> tuple[RealArray, RealArray]:
    """Return points of a variable as log λ, and as an array of the variable itself."""
    checks.one_of("variable", variable, VARIABLES)
    x = numbers("grid", checks.on_host("grid", grid))
    num_nan = int(np.isnan(x).sum())
    if num_nan:
        raise InputError(f"grid holds {num_nan} values that are NaN.")
    if variable == "log_s":
        return np.asarray(2 * x), x
    is_positive = x > 0
    # log of 1 in the place of numbers that have none.
    positive = np.where(is_positive, x, 1.0)
    logs = np.log(positive) / _PER_LOG[variable]
    t = np.where(is_positive, logs, -math.inf)
    return t, x


def _as_given(value: ArrayLike) -> RealArray | float:
    """Return a float where a single number was given, else the array."""
    array = np.asarray(value)
    return array if array.ndim else float(array)


def _tidy(edge: float) -> float:
    """Round an edge to fifteen digits, because those of exp(log λ) beyond are wrong."""
    return float(f"{edge:.15g}")
