"""The curve of a product of free factors: ψ, log λ and masses at given unknowns.

README.md has the equations. What is solved for are the unknowns of all curves
together: every curve must have the same ψ, that of the first, and log λ(ψ) must be what
is asked. Newton steps follow from one pass, because each curve gives its own tangent
dw/dψ.
"""

import functools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float

from isometry._internal import blas
from isometry._internal.errors import FromCall
from isometry.theory.laws import _series
from isometry.theory.laws._closed import Powers
from isometry.theory.laws._diagonal import IDENTITY, LOG_TABLE, Diagonal, increasing
from isometry.theory.laws._factor import Closed, Curve, Factor, Point
from isometry.theory.laws._half_planes import angle_below, into_lower, log_below
from isometry.theory.laws._types import Numbers

Points = Complex[Numbers, " points"]
RealPoints = Float[np.ndarray, " points"]
Unknowns = Complex[Numbers, "unknowns points"]

# The largest Newton step in an unknown, which is a logarithm. Twice as large steps
# leave the sheet of the law where the curve bends; with a tenth a solution that lies
# far away is not reached in the rounds there are.
_LARGEST_STEP = 0.7

# Steps below this share of the unknowns are rounding.
_ROUNDING = 1e-14

# The rounding of log λ for each factor. With a hundred times more, the last 1e-10 of a
# deep law before an edge is taken for a gap; with a hundred times less, rounding beside
# an atom is taken for a density.
_ROUNDING_OF_FACTOR = 1e-15

# log((rank + ψ)/(−ψ)) on the negative axis: as far as float64's exponents.
_LOG_ODDS = LOG_TABLE

# Newton steps at a given ψ, from starts that are read off a table.
_CORRECTIONS = 5

# Starts at log odds below this are polished. Ten times deeper, those that are not are
# too rough; higher, nothing is gained.
_NEAR_ZERO = -1.0

# An unknown this near to the real axis, in a gap, is on it. Where a density is too thin
# to be seen ψ is real to 1e-7 of itself, and the mass is wrong by the square of that.
# Were it a thousandth, masses there would keep their rounding.
_OFF_AXIS = 1e-6

# A last step of the unknowns, whose square is the error that it leaves.
_SMALL_STEP = 1e-7


class NotConverged(FromCall, ArithmeticError):
    """The inversion left a residual above its tolerance; no number is returned.

    Example:
        >>> free = theory.freeprob
        >>> try:
        ...     free.inverse_M(theory.fuss_catalan(1), -3.0)
        ... except theory.NotConverged:
        ...     print("psi of one Gaussian layer lies above -1")
        psi of one Gaussian layer lies above -1
    """


class State(NamedTuple):
    """The curve at given unknowns.

    Attributes:
        w: The unknowns of all curves.
        psi: ψ of the first curve.
        above_zero: rank + ψ, to relative accuracy.
        one_plus: 1 + ψ, to relative accuracy.
        log_lam: log λ.
        slope: dlog λ/dψ.
        tangent: dw/dψ.
        correction: The change of w, at this ψ, that gives every curve this ψ.
        lag: The change of log λ with it.
        mismatch: The largest difference between ψ of two curves, or the largest
            correction inside one of them.
    """

    w: Unknowns
    psi: Points
    above_zero: Points
    one_plus: Points
    log_lam: Points
    slope: Points
    tangent: Unknowns
    correction: Unknowns
    lag: Points
    mismatch: RealPoints

    def take(self, which: np.ndarray) -> "State":
        """Return the state at some of the points."""
        return State(*(field[..., which] for field in self))


class Mask(NamedTuple):
    """A diagonal factor with zeros.

    Attributes:
        ratio: min(m, n) of the product over its size.
        zero_mass: The share of zeros.
        times: How often it occurs.
    """

    ratio: float
    zero_mass: float
    times: float


@dataclass(frozen=True, eq=False)
class Product:
    """A product of free factors.

    Attributes:
        factors: Each factor with the number of times that it occurs, which need not be
            whole. The curve of the least rank comes first.
    """

    factors: tuple[tuple[Factor, float], ...]

    @functools.cached_property
    def curves(self) -> list[tuple[Curve, float]]:
        """The factors with unknowns."""
        return [(f, times) for f, times in self.factors if isinstance(f, Curve)]

    @functools.cached_property
    def closed(self) -> list[tuple[Closed, float]]:
        """The factors in closed form."""
        return [(f, times) for f, times in self.factors if isinstance(f, Closed)]

    @functools.cached_property
    def _rests(self) -> list[tuple[Closed, float]]:
        """The factors in closed form that are more than powers."""
        return [(f, times) for f, times in self.closed if not isinstance(f, Powers)]

    @functools.cached_property
    def rank(self) -> float:
        """One minus the mass at zero."""
        ranks = [curve.rank for curve, _ in self.curves]
        # c is the size of the product over that of a factor, whose rank is its size.
        ranks += [1 / c for c in self._all_ones]
        return min(1.0, *ranks)

    @functools.cached_property
    def zero_mass(self) -> float:
        """The mass at zero, to relative accuracy if a factor knows it so."""
        if self.rank == 1:
            return 0.0
        lead, _ = self.curves[0]
        if lead.rank == self.rank:
            return lead.zero_mass
        return 1 - self.rank

    @functools.cached_property
    def touches_zero(self) -> bool:
        """Whether positive values of the law come arbitrarily close to zero.

        They do if those of a factor do that has no more rank than the product. Small
        values of a factor of larger rank do not matter: no singular value of the
        product needs them.
        """
        most = self.rank * (1 + 1e-12)
        return any(
            curve.touches_zero and curve.rank <= most for curve, _ in self.curves
        )

    @functools.cached_property
    def is_connected(self) -> bool:
        """Whether no gap is to be expected inside the support.

        Sums and products of free elements with connected spectra have connected ones
        (Moreillon and Schnelli, 2024, for sums).
        """
        return all(curve.is_connected for curve, _ in self.curves)

    @functools.cached_property
    def sole_diagonal(self) -> Diagonal | None:
        """The only factor, if the law is its measure but for a scale."""
        (curve, times), *others = self.curves
        if others or times != 1 or self._ones or self._power:
            return None
        if self._rests or not isinstance(curve, Diagonal) or curve.ratio != 1:
            return None
        return curve

    @property
    def masks(self) -> list[Mask]:
        """The diagonal factors with zeros, from which a finite product loses rank."""
        found = []
        for curve, times in self.curves:
            if not isinstance(curve, Diagonal):
                continue
            zero_mass = curve.measure.zero_mass
            if zero_mass:
                mask = Mask(curve.ratio, zero_mass, times=times)
                found.append(mask)
        return found

    @functools.cached_property
    def log_scale(self) -> float:
        """The part of log λ that does not depend on ψ."""
        return math.fsum(times * f.log_scale for f, times in self.factors)

    @functools.cached_property
    def rounding(self) -> float:
        """The rounding of log λ, a sum over factors, each of order one."""
        num_terms = 1 + sum(times for _, times in self.factors)
        return _ROUNDING_OF_FACTOR * num_terms

    @functools.cached_property
    def _all_ones(self) -> Counter[float]:
        """The exponents of 1 + cψ, those that cancel included."""
        # (1 + ψ)/ψ stands before the product of 1/S.
        total: Counter[float] = Counter({1.0: 1.0})  # pyright: ignore[reportAssignmentType, reportArgumentType]
        for factor, times in self.factors:
            for c, exponent in factor.ones.items():
                total[c] += times * exponent  # pyright: ignore[reportArgumentType]
        return total

    @functools.cached_property
    def _ones(self) -> list[tuple[float, float]]:
        """The exponents of 1 + cψ that are left."""
        left = []
        for c, exponent in self._all_ones.items():
            whole = _whole(exponent)
            if whole:
                left.append((c, whole))
        return left

    @functools.cached_property
    def _power(self) -> float:
        """The exponent of ψ."""
        total = sum(times * f.power for f, times in self.factors)
        # One less, because (1 + ψ)/ψ stands before the product.
        return _whole(total - 1)

    def log_series(self, n: int) -> _series.Series:
        """Expand log(ψ λ(ψ)) in ψ⁰ … ψⁿ⁻¹."""
        terms = [times * factor.series(n) for factor, times in self.factors]
        of_factors = np.sum(terms, axis=0)
        return _series.one_plus(1.0, n) + of_factors

    @functools.cached_property
    def log_mean(self) -> float:
        """The logarithm of E λ."""
        return float(self.log_series(1)[0])

    @functools.cached_property
    def relative_variance(self) -> float:
        """E λ²/(E λ)² − 1, the sum of what the factors add."""
        terms = []
        for factor, times in self.factors:
            _, of_factor = factor.series(2)
            terms.append(times * of_factor)
        return float(math.fsum(terms))

    # Sums over nodes are products with vectors. With more threads, which wait for one
    # another by spinning, a law of 30 layers took 9 s of the processor instead of 2.
    @blas.single_threaded()
    def state(self, w: Unknowns) -> State:
        """Evaluate the curve. Where the result is not finite there is no solution."""
        with np.errstate(all="ignore"):
            return self._state(w)

    def _state(self, w: Unknowns) -> State:
        points = self._points(w)
        lead = points[0]
        lead_curve, _ = self.curves[0]
        above_zero = lead.above_zero + (self.rank - lead_curve.rank)
        # The smaller of the two knows the imaginary part that both have, the density.
        is_near_zero = np.abs(above_zero) < np.abs(lead.psi)
        imag = np.where(
            is_near_zero,
            above_zero.imag,
            lead.psi.imag,
        )
        psi = lead.psi.real + 1j * imag
        one_plus = above_zero + self.zero_mass
        log_lam, slope = self._powers(
            psi,
            above_zero,
            one_plus,
        )
        for factor, times in self._rests:
            rest, rate = factor.rest(psi, one_plus)
            log_lam = log_lam + times * rest
            slope = slope + times * rate
        lag = np.zeros_like(psi)
        mismatch = np.zeros(len(psi))
        corrections = []
        for (curve, times), point in zip(self.curves, points, strict=True):
            log_lam = log_lam + times * point.value
            slope = slope + times * point.rate
            lag = lag + times * point.lag
            correction = point.correction
            # Where ψ is small, what an error of a logarithm makes of it.
            largest = np.abs(correction).max(axis=0)
            size = np.minimum(np.abs(psi), 1)
            inner = largest * size
            mismatch = np.maximum(mismatch, inner)
            if point is not lead:
                missing = self._missing(curve, point, lead)
                correction = correction + point.tangent * missing
                lag = lag + times * point.rate * missing
                mismatch = np.maximum(mismatch, np.abs(missing))
            corrections.append(correction)
        return State(
            w=w,
            psi=psi,
            above_zero=above_zero,
            one_plus=one_plus,
            log_lam=log_lam,
            slope=slope,
            tangent=np.concatenate([point.tangent for point in points]),
            correction=np.concatenate(corrections),
            lag=lag,
            mismatch=mismatch,
        )

    def _points(self, w: Unknowns) -> list[Point]:
        points, first = [], 0
        for curve, _ in self.curves:
            last = first + curve.num_unknowns
            points.append(curve.at(w[first:last]))
            first = last
        return points

    def _missing(
        self,
        curve: Curve,
        point: Point,
        lead: Point,
    ) -> Points:
        """Return what ψ of a curve lacks to equal that of the first curve.

        Args:
            curve: The curve.
            point: The curve at its unknowns.
            lead: The first curve at its unknowns.
        """
        lead_curve, _ = self.curves[0]
        apart = curve.rank - lead_curve.rank
        # Near −rank the difference is that of rank + ψ, which is known to relative
        # accuracy; ψ itself would cancel. The two ranks may differ.
        from_zero = lead.above_zero - point.above_zero + apart
        is_near = np.abs(lead.above_zero) < 0.5 * curve.rank
        return np.where(
            is_near,
            from_zero,
            lead.psi - point.psi,
        )

    def _powers(
        self,
        psi: Points,
        above_zero: Points,
        one_plus: Points,
    ) -> tuple[Points, Points]:
        """Return what the powers and the constant add to log λ, and its derivative."""
        constant = np.full_like(psi, self.log_scale)
        value = constant + self._power * log_below(psi)
        slope = np.zeros_like(psi)
        of_one = 0.0
        for c, exponent in self._ones:
            one_plus_c = self._one_plus(c, above_zero)
            value = value + exponent * log_below(one_plus_c)
            if c == 1:
                of_one = exponent
            else:
                slope = slope + exponent * c / one_plus_c
        if self._power or of_one:
            # The terms in ψ and 1 + ψ are joined: at an atom ψ → ∞, and they cancel.
            joined = self._power + (of_one + self._power) * psi
            slope = slope + joined / (psi * one_plus)
        return value, slope

    def _one_plus(self, c: float, above_zero: Points) -> Points:
        """Return 1 + cψ, to relative accuracy where it vanishes with rank + ψ."""
        at_zero = self.zero_mass if c == 1 else 1 - c * self.rank
        # At the factor that loses the rank this is 0, and anything else is rounding.
        if abs(at_zero) < 4e-16:
            at_zero = 0.0
        return c * above_zero + at_zero

    def newton_step(self, at: State, target: Points) -> Unknowns:
        """Return the step of the unknowns towards log λ = target."""
        with np.errstate(all="ignore"):
            missing = target - at.log_lam - at.lag
            psi_step = missing / at.slope
            return at.correction + at.tangent * psi_step

    @blas.single_threaded()
    def newton(
        self,
        w: Unknowns,
        target: Points,
        rounds: int,
        largest: float = _LARGEST_STEP,
    ) -> State:
        """Solve log λ = target from a guess; points that have converged stay.

        Args:
            w: The guess.
            target: log λ, complex.
            rounds: The number of steps at most.
            largest: The largest step in an unknown.
        """
        w = np.array(w, complex)
        active = np.arange(w.shape[1])
        before = np.zeros(w.shape[1])
        for _ in range(rounds):
            at = self.state(w[:, active])
            step = self.newton_step(at, target[active])
            size = np.abs(step).max(axis=0)
            # What is not finite stays so, and is no solution.
            with np.errstate(invalid="ignore"):
                share = largest / np.maximum(size, 1e-300)
                capped = step * np.minimum(1, share)
            w[:, active] += capped
            left = _left_by_newton(size, before[active])
            before[active] = size
            scale = 1 + np.abs(w[:, active]).max(axis=0)
            active = active[left > _ROUNDING * scale]
            if not len(active):
                break
        return self.state(w)

    def follow(
        self,
        w: Unknowns,
        psi: Points,
        above_zero: Points | None = None,
        *,
        rounds: int = 12,
    ) -> State:
        """Solve for the unknowns at given ψ by Newton steps; λ follows from them.

        `newton` solves at given λ instead, and divides by dlog λ/dψ. That is zero at a
        turning point of λ(ψ), so turning points are searched for along ψ.

        Args:
            w: The guess.
            psi: The ψ that every curve shall have.
            above_zero: rank + ψ, where it is so small that ψ does not resolve it.
            rounds: The number of steps at most.
        """
        if above_zero is None:
            above_zero = psi + self.rank
        before = np.zeros(w.shape[1])
        for _ in range(rounds):
            at = self.state(w)
            with np.errstate(all="ignore"):
                # Linear in 1/ψ, not in ψ, because ζ is where ψ is infinite.
                missing = _difference(at, psi, above_zero)
                change = missing * at.psi / psi
                step = at.correction + at.tangent * change
            size = np.abs(step).max(axis=0)
            share = 0.5 / np.maximum(size, 1e-300)
            w = w + step * np.minimum(1, share)
            left = _left_by_newton(size, before)
            before = size
            scale = 1 + np.abs(w).max(axis=0)
            if not np.any(left > _ROUNDING * scale):
                break
        return self.state(w)

    def on_negative_axis(self, t: RealPoints) -> Unknowns:
        """Return the unknowns at λ = −e^t, where ψ is real in (−rank, 0)."""
        level, *rows = self._negative_axis
        sizes = [np.interp(t, level, row) for row in rows]
        # Every unknown keeps its angle along the negative axis.
        angles = self._start[:, :1].imag
        guess = np.stack(sizes) + 1j * angles
        at = self.newton(guess, t + 1j * np.pi, rounds=30)
        return at.w

    def log_on_negative_axis(self, log_odds: RealPoints) -> RealPoints:
        """Return log |λ| where (rank + ψ)/(−ψ) is exp(log_odds).

        Far out, where starts are too rough, points may not be found, and are NaN.
        """
        psi, above_zero = self._psi_at(log_odds)
        at = self.state(self._polished(self._start_at(log_odds), log_odds))
        missing = _difference(at, psi, above_zero)
        log_lam = at.log_lam + at.lag + at.slope * missing
        # Newton squares an error, so the last step tells that of the result.
        last_step = at.correction + at.tangent * missing
        size = np.abs(last_step).max(axis=0)
        is_found = size < _SMALL_STEP
        return np.where(is_found, log_lam.real, np.nan)

    def _psi_at(self, log_odds: RealPoints) -> tuple[RealPoints, RealPoints]:
        """Return ψ and rank + ψ where (rank + ψ)/(−ψ) is exp(log_odds)."""
        # −ψ and rank + ψ are shares of the rank, each to relative accuracy.
        log_of_below = -np.logaddexp(0.0, log_odds)
        log_of_above = -np.logaddexp(0.0, -log_odds)
        psi = -self.rank * np.exp(log_of_below)
        return psi, self.rank * np.exp(log_of_above)

    def _polished(self, w: Unknowns, log_odds: RealPoints) -> Unknowns:
        """Return starts after Newton steps at the ψ that they are for."""
        psi, above_zero = self._psi_at(log_odds)
        for _ in range(_CORRECTIONS):
            at = self.state(w)
            missing = _difference(at, psi, above_zero)
            step = at.correction + at.tangent * missing
            w = w + step
        return w

    @functools.cached_property
    def _start(self) -> Unknowns:
        """The unknowns on the negative axis, at rising |λ|."""
        return self._start_at(_LOG_ODDS)

    def _start_at(self, log_odds: RealPoints) -> Unknowns:
        """Return the unknowns where (rank + ψ)/(−ψ) is exp(log_odds)."""
        starts = []
        for curve, _ in self.curves:
            # (rank_k + ψ)/(−ψ) is (rank + ψ)/(−ψ), shifted and scaled.
            scale = curve.rank / self.rank
            own = log_odds + math.log(scale)
            if scale > 1 + 1e-12:
                own = np.logaddexp(own, math.log(scale - 1))
            starts.append(curve.start(own))
        return np.concatenate(starts)

    @functools.cached_property
    def _negative_axis(self) -> tuple[RealPoints, ...]:
        """Rising log |λ| on the negative axis, and the unknowns' real parts."""
        start = self._start
        if any(curve.num_unknowns > 1 for curve, _ in self.curves):
            # Near zero rank + ψ is a difference of what belongs to the unknowns, and
            # starts that are read off a table are too rough for it.
            is_near = _LOG_ODDS < _NEAR_ZERO
            rough = start[:, is_near]
            with np.errstate(all="ignore"):
                polished = self._polished(rough, _LOG_ODDS[is_near])
            is_better = np.isfinite(polished).all(axis=0)
            change = np.where(is_better, polished - rough, 0.0)
            is_better &= np.abs(change).max(axis=0) < _LARGEST_STEP
            start = start.copy()
            start[:, is_near] = np.where(is_better, polished, rough)
        log_lam = self.state(start).log_lam.real
        return increasing(log_lam, *start.real)

    @blas.single_threaded()
    def mass(
        self,
        at: State,
        t: RealPoints,
        *,
        below: bool = False,
    ) -> RealPoints:
        """Compute P(x > e^t), or P(x ≤ e^t), the smaller of which is accurate.

        P(x > λ) = Im H/π, with H(λ) = E log(λ − x) approached from above. H + (1 + ψ)(t
        − log λ) is stationary in ψ and in every unknown, so that their errors, which
        great depth multiplies, enter squared.
        """
        error = t - at.log_lam
        return self._mass(
            at.w,
            at.psi,
            at.above_zero,
            error=error,
            below=below,
        )

    @blas.single_threaded()
    def mass_above_gap(self, at: State, t: RealPoints) -> RealPoints:
        """Compute P(x > e^t) in a gap, where the solution is real.

        What rounding adds off the real axis is left out. Beside an atom, where ψ is
        large, it would be taken for mass: 1e-8 at 64 layers.
        """
        angle = at.w.imag
        # In a gap an unknown is the logarithm of a real number, of either sign.
        on_axis = np.pi * np.round(angle / np.pi)
        is_on_axis = np.abs(angle - on_axis) <= _OFF_AXIS
        is_real = is_on_axis.all(axis=0)
        w = np.where(is_real, at.w.real + 1j * on_axis, at.w)
        psi = np.where(is_real, at.psi.real, at.psi)
        above_zero = np.where(is_real, at.above_zero.real, at.above_zero)
        error = np.where(is_real, 0.0, t - at.log_lam)
        return self._mass(w, psi, above_zero, error=error, below=False)

    def _mass(
        self,
        w: Unknowns,
        psi: Points,
        above_zero: Points,
        *,
        error: Points,
        below: bool,
    ) -> RealPoints:
        """Compute P(x > λ), or, `below`, P(x ≤ λ).

        Args:
            w: The unknowns.
            psi: ψ.
            above_zero: rank + ψ.
            error: By how much log λ at these is less than what was asked for.
            below: Whether P(x ≤ λ) is asked for.
        """
        psi = into_lower(psi)
        above_zero = into_lower(above_zero)
        one_plus = above_zero + self.zero_mass
        angle = angle_below(psi)
        if below:
            # From −π, because there ψ comes from the negative axis.
            angle = np.arctan2(np.abs(psi.imag), -psi.real)
        total = self._power * (angle + psi.imag)
        for c, exponent in self._ones:
            one_plus_c = self._one_plus(c, above_zero)
            own = angle_below(one_plus_c)
            term = psi.imag + (1 - 1 / c) * own
            total = total + exponent * term
        # The part that makes H stationary: zero, but for the error of the solution.
        correction = one_plus * error
        total = total + correction.imag
        sign = -1 if below else 1
        total = sign * total / np.pi
        for factor, times in self._rests:
            term = factor.potential(psi, one_plus, below=below)
            total = total + times * term
        first = 0
        for curve, times in self.curves:
            last = first + curve.num_unknowns
            term = curve.potential(w[first:last], below=below)
            total = total + times * term
            first = last
        return total


def product_of(counts: Mapping[Factor, float]) -> Product:
    """Make a product from its factors and how often each occurs.

    Where no curve is as small as the rank, the identity takes part, S = 1, so that the
    first curve's ψ ends at −rank, as that of the product does.
    """
    factors = [(factor, float(times)) for factor, times in counts.items() if times]
    rank = Product(tuple(factors)).rank
    least = min((curve.rank for curve, _ in _curves(factors)), default=math.inf)
    if not least <= rank * (1 + 1e-12):
        ratios = [1.0]
        for factor, _ in factors:
            ratios += factor.ones
        # An identity of size 1/c has the rank 1/c.
        ratio = min(ratios, key=lambda c: abs(c * rank - 1))
        identity = Diagonal(IDENTITY, ratio)
        factors.append((identity, 1.0))
    curves = sorted(_curves(factors), key=lambda pair: pair[0].rank)
    others = [pair for pair in factors if not isinstance(pair[0], Curve)]
    return Product((*curves, *others))


def multiplied(*products: Product) -> Product:
    """Return the free product of products."""
    counts: Counter[Factor] = Counter()
    for product in products:
        for factor, times in product.factors:
            # `product_of` adds an identity again where the new product needs one.
            is_diagonal = isinstance(factor, Diagonal)
            is_identity = is_diagonal and factor.measure is IDENTITY
            if not is_identity:
                counts[factor] += times  # pyright: ignore[reportArgumentType]
    return product_of(counts)


def _curves(factors: list[tuple[Factor, float]]) -> list[tuple[Curve, float]]:
    return [(f, times) for f, times in factors if isinstance(f, Curve)]


def _left_by_newton(size: RealPoints, last: RealPoints) -> RealPoints:
    """Return the error after a step: Newton squares it, so it need not be computed.

    Args:
        size: The size of the step.
        last: That of the step before; 0 if there was none.
    """
    shrinks = np.minimum(size, last) / np.maximum(last, 1e-300)
    ratio = np.where(last > 0, shrinks, 1.0)
    return size * ratio


def _whole(exponent: float) -> float:
    """Remove the rounding of shares from an exponent that should be whole."""
    nearest = round(exponent)
    if abs(exponent - nearest) < 1e-9:
        return float(nearest)
    return exponent


def _difference(
    at: State,
    psi: RealPoints | Points,
    above_zero: RealPoints | Points,
) -> Points:
    """Return what ψ lacks, by the smaller of ψ and rank + ψ, which has no rounding."""
    is_near_zero = np.abs(above_zero) < np.abs(psi)
    of_above_zero = above_zero - at.above_zero
    of_psi = psi - at.psi
    return np.where(is_near_zero, of_above_zero, of_psi)
