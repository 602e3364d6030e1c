"""The law of one step of a gated cell, J = diag(a) + diag(s) W with a Gaussian W.

With k = a², b = sigma_w² s² at each site, and expectations over sites,

    K = 1 − b/V − k/P,
    P = V (1 + E[k/(P K)]),        λ = V E[1/K],        ψ = E[1/K] − 1.

1/V is the mean of 1/(λ − J Jᵀ), and P is λ less the self-energy of the columns of J:
these are the equations of the resolvent of a matrix whose entries each have a mean and
a variance (Girko, 1990). At λ + i0 both lie in the closed upper half-plane, and so does
K.

The unknowns are log P and log V, and P = V (1 + E[k/(P K)]) is the equation between
them. log det(λ − J Jᵀ) per site, at its stationary point, gives the masses:

    ∫ (1 + ψ) d log λ = log P + E log K + E[b/K]/V.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float
from numpy.typing import ArrayLike

from isometry._internal import blas
from isometry._internal.errors import InputError, public
from isometry.theory.laws import _series
from isometry.theory.laws._diagonal import increasing
from isometry.theory.laws._factor import Atom, Curve, Point
from isometry.theory.laws._gated_moments import checked
from isometry.theory.laws._half_planes import log_below
from isometry.theory.laws._law import Law
from isometry.theory.laws._product import product_of
from isometry.theory.laws._types import Numbers

Points = Complex[Numbers, " points"]
RealPoints = Float[np.ndarray, " points"]
Sites = Float[np.ndarray, " sites"]
Unknowns = Complex[Numbers, "2 points"]

# Points of the table on the negative axis, log |P| up to the end of float64's
# exponents, and denser in the middle. Guesses from a quarter of them are too far off.
_LEVELS = np.linspace(-1, 1, 120)
_TABLE = np.sinh(_LEVELS * np.arcsinh(690.0))

# Halvings of log V in the table, which starts as wide as the table. A guess that is
# right to 1e-5 is enough.
_HALVINGS = 28

# Shares of sites that differ by less are one: sums of a thousand of them miss by that.
_ROUNDING = 1e-13

# Numbers of sites times points that are held at once: 32 MB each.
_TOGETHER = 2_000_000


@public("gated_law")
def gated_law(
    a: ArrayLike,
    s: ArrayLike,
    sigma_w: float,
) -> Law:
    """Return the law of λ = s² of one step h' = a h + s (W h) of a gated cell.

    The Jacobian of the step is diag(a) + diag(s) W, as in `gated_moments`, with a
    Gaussian W and in the limit of many units: a multiplies the old state, s the
    derivative that comes through the weights. Several terms of this kind, through
    several matrices, are one whose s² is the sum of theirs. Of a minimal RNN a = u and
    s = u' (h − z); of an LSTM, from h to the next h, a = 0. In a GRU the reset stands
    between two matrices, so that its step is of this form only where the reset does not
    depend on h.

    The same W in every step changes nothing for one of them. Over several steps no law
    is known, because a meets the same units in each: the law is not a product of those
    of the steps. `gated_moments` has mean and variance.

    A first density takes 0.3 s on one core for a thousand sites.

    Args:
        a: Values of the gate on the state, (sites,): units that are equally likely. It
            may be a sample.
        s: The factors of W h, likewise; pairs with a.
        sigma_w: The scale of W: fan_in · Var(W_ij) = sigma_w².

    Returns:
        The law. Where more sites share one a and have s = 0 than have another s, it has
        an atom at a², of the difference, and a zero for each site with a = s = 0.
        Moments that are not whole raise `freeprob.NotConverged` where few sites make a
        rough density.

    Raises:
        InputError: a and s are not finite numbers of one shape; s or sigma_w is zero
            everywhere, so that the values are those of a².

    Example:
        A gate of 1/2 everywhere is a residual block, with an edge at 27/16:

        >>> law = theory.gated_law([0.5], [0.5], sigma_w=1.0)
        >>> law.support
        ((0.0, 1.6875),)
        >>> round(law.variance, 9)
        0.1875
    """
    kept, fed = checked(a, s, sigma_w)
    if kept.ndim != 1:
        raise InputError(
            f"a has shape {kept.shape}; write (sites,), the gates of one step. Over "
            "several steps theory.gated_moments has mean and variance."
        )
    if not fed.any():
        raise InputError(
            "s or sigma_w is zero everywhere, and the singular values are those of a."
        )
    sites = np.stack([kept, fed])
    pairs, counts = np.unique(sites, axis=1, return_counts=True)
    # A row of J that is zero counts in the rank alone.
    is_used = pairs.any(axis=0)
    step = GatedStep(
        kept=pairs[0, is_used],
        fed=pairs[1, is_used],
        shares=counts[is_used] / len(kept),
        zeros=float(counts[~is_used].sum() / len(kept)),
    )
    return Law(product_of({step: 1}), "one gated step", pairs=1)


class _Sums(NamedTuple):
    """Expectations over sites at given unknowns, with κ = k/P and β = b/V.

    Attributes:
        above_zero: E 1/K over the sites that are not zero.
        of_kept: E κ/K.
        of_fed: E β/K.
        kept_square: E κ/K².
        fed_square: E β/K².
        both: E κ β/K².
        rest_square: E (1 − β)²/K².
    """

    above_zero: Points
    of_kept: Points
    of_fed: Points
    kept_square: Points
    fed_square: Points
    both: Points
    rest_square: Points


@dataclass(frozen=True, eq=False)
class GatedStep(Curve):
    """A step J = diag(a) + diag(s) W: −log S = log ψ − log(1 + ψ) + log λ.

    Attributes:
        kept: k = a² of the sites where a or s is not zero.
        fed: b = sigma_w² s² of them.
        shares: The share of each of them among all sites.
        zeros: The share of the other sites.
    """

    kept: Sites
    fed: Sites
    shares: Sites
    zeros: float

    @property
    def ones(self) -> Mapping[float, float]:
        """The exponent of 1 + ψ."""
        return {1.0: -1.0}

    @property
    def power(self) -> float:
        """The exponent of ψ."""
        return 1.0

    @property
    def log_scale(self) -> float:
        """Zero: the scale is in r."""
        return 0.0

    @property
    def num_unknowns(self) -> int:
        """Two, log P and log V."""
        return 2

    @property
    def rank(self) -> float:
        """The share of sites where a or s is not zero: other rows of J are zero."""
        # A sum of shares would miss 1 by rounding, and leave a mass at zero.
        return 1 - self.zeros

    @property
    def zero_mass(self) -> float:
        """The share of sites where a and s are zero."""
        return self.zeros

    @functools.cached_property
    def touches_zero(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Whether there is no gap at zero.

        diag(s) W has the spectral radius √E b next to 1, so J = diag(a) (1 + diag(s/a)
        W) is invertible if E b/k < 1. With rows of zeros the others are fewer than the
        columns, and there is a gap.
        """
        if self.rank < 1:
            return False
        is_fed = self.fed > 0
        with np.errstate(divide="ignore"):
            ratios = self.fed[is_fed] / self.kept[is_fed]
        return bool(self.shares[is_fed] @ ratios >= 1)

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """One at k, where more sites have this k and s = 0 than have s ≠ 0.

        Vectors of these sites that no row with s ≠ 0 sees belong to the value k. Of the
        other values one lies above k and one below for each row with s ≠ 0, and beside
        these there are those of the other sites with s = 0.
        """
        is_bare = self.fed == 0
        of_fed = float(self.shares[~is_bare].sum())
        found = []
        for place in np.unique(self.kept[is_bare]):
            is_here = is_bare & (self.kept == place)
            mass = float(self.shares[is_here].sum()) - of_fed
            # At the limit of none the density is infinite at this place.
            if mass > -_ROUNDING:
                is_above = is_bare & (self.kept > place)
                above = of_fed + float(self.shares[is_above].sum())
                atom = Atom(math.log(place), lost=1 - mass, above=above)
                found.append(atom)
        return tuple(found)

    @functools.cached_property
    def relative_variance(self) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """E λ²/(E λ)² − 1, from terms that do not cancel."""
        mean_kept = self.shares @ self.kept
        of_kept = self.shares @ (self.kept - mean_kept) ** 2
        # Sites that are zero belong to the variance of k.
        of_kept += self.zeros * mean_kept**2
        of_both = 2 * self.shares @ (self.kept * self.fed)
        of_fed = self.shares @ self.fed**2
        variance = of_kept + of_both + of_fed
        return float(variance / self._mean**2)

    @property
    def _mean(self) -> float:
        """E λ."""
        return float(self.shares @ (self.kept + self.fed))

    def series(self, n: int) -> _series.Series:
        """Expand −log S, which is log(ψ V): by the powers of 1/V in ψ.

        1/K has a series at each site, and P = V (1 + E[k/(P K)]) gives one coefficient
        of 1/P after the other.
        """
        of_inverse_p = np.zeros(n + 2)
        of_inverse_p[1] = 1.0
        powers = np.ones((n + 1, len(self.kept)))
        of_kept = np.zeros(n + 1)
        moments = np.zeros(n)
        weighted = self.shares * self.kept
        for j in range(1, n + 1):
            # K⁻¹ = 1 + (b/V + k/P) K⁻¹ at each site, and E[k/(P K)].
            earlier = powers[j - 1 :: -1]
            through_p = of_inverse_p[1 : j + 1] @ earlier
            of_kept[j] = weighted @ through_p
            powers[j] = self.fed * powers[j - 1]
            powers[j] += self.kept * through_p
            moments[j - 1] = self.shares @ powers[j]
            known = of_inverse_p[j:0:-1]
            of_inverse_p[j + 1] = -of_kept[1 : j + 1] @ known
        total = _series.inverse_transform(moments)
        total[0] = math.log(moments[0])
        if n > 1:
            total[1] = self.relative_variance
        return total

    def start(self, log_odds: RealPoints) -> Unknowns:
        """Look log |P| and log |V| up; on the negative axis both are negative."""
        level, log_p, log_v = self._negative_axis
        rows = [_extended(log_odds, level, row) for row in (log_p, log_v)]
        sizes = np.stack(rows)
        return sizes + 1j * np.pi

    @functools.cached_property
    def _negative_axis(self) -> tuple[RealPoints, ...]:
        """Rising log((rank + ψ)/(−ψ)), and log |P| and log |V|, for λ < 0."""
        log_p = _TABLE + math.log(self._mean)
        # |P| <= |V| <= |P| + the largest k.
        low = log_p.copy()
        with np.errstate(all="ignore"):
            largest = np.log(self.kept.max())
            high = np.logaddexp(log_p, largest)
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                is_low = self._excess(log_p, middle) < 0
                low = np.where(is_low, middle, low)
                high = np.where(is_low, high, middle)
            sizes = np.stack([log_p, low])
            w = sizes + 1j * np.pi
            at = self._sums(w)
            minus_psi = -(at.of_kept + at.of_fed).real
            level = np.log(at.above_zero.real / minus_psi)
        return increasing(level, log_p, low)

    def _excess(
        self,
        log_p: RealPoints,
        log_v: RealPoints,
    ) -> RealPoints:
        """Return E 1/(P/V + k/(V + b)) − 1 at |P| and |V|: it rises with |V|."""
        ratio = np.exp(log_p - log_v)
        sums = np.exp(log_v) + self.fed[:, None]
        rest = self.kept[:, None] / sums
        terms = 1 / (ratio + rest)
        of_zero = self.zeros / ratio
        return self.shares @ terms + of_zero - 1

    # Products with five rows gain nothing from more threads, which take ten times more
    # of the processor: they wait for one another by spinning.
    @blas.single_threaded()
    def _sums(self, w: Unknowns) -> _Sums:
        """Average over sites, some points at a time."""
        of_p, of_v = np.exp(-w)
        parts = []
        for block in self._blocks(w):
            inverse = 1 / self._k(of_p[block], of_v[block])
            once = _mean(self._weights[:3], inverse)
            twice = _mean(self._weights, inverse * inverse)
            parts.append(np.concatenate([once, twice]))
        # Rows 0 to 2 are means of 1/K times 1, k and b; rows 3 to 7 those of 1/K² times
        # 1, k, b, kb and b².
        sums = np.concatenate(parts, axis=1)
        # The mean of (1 − b/V)²/K² has three terms.
        rest_square = sums[3] - 2 * of_v * sums[5]
        rest_square += of_v**2 * sums[7]
        return _Sums(
            above_zero=sums[0],
            of_kept=of_p * sums[1],
            of_fed=of_v * sums[2],
            kept_square=of_p * sums[4],
            fed_square=of_v * sums[5],
            both=of_p * of_v * sums[6],
            rest_square=rest_square,
        )

    @functools.cached_property
    def _weights(self) -> Float[np.ndarray, "5 sites"]:
        """The factors of 1/K and 1/K² in the expectations, times the shares."""
        k, b = self.kept, self.fed
        one = np.ones_like(k)
        factors = np.stack([one, k, b, k * b, b**2])
        return self.shares * factors

    def _k(
        self,
        of_p: Points,
        of_v: Points,
    ) -> Complex[Numbers, "sites points"]:
        """Return K = 1 − b/V − k/P at all sites, from 1/P and 1/V."""
        of_kept = np.outer(self.kept, of_p)
        of_fed = np.outer(self.fed, of_v)
        return 1 - of_kept - of_fed

    def _blocks(self, w: Unknowns) -> list[slice]:
        """Cut the points into parts whose arrays over all sites fit into memory."""
        num = max(1, _TOGETHER // len(self.kept))
        # One block without points, where there are none.
        end = max(w.shape[1], 1)
        starts = range(0, end, num)
        return [slice(start, start + num) for start in starts]

    def at(self, w: Unknowns) -> Point:
        """Evaluate the curve, and the Newton step to P = V (1 + E[k/(P K)])."""
        log_p, log_v = w
        at = self._sums(w)
        one_plus = at.above_zero + self.zeros
        # 1 + E κ/K, without cancellation where it vanishes with λ.
        ratio = one_plus - at.of_fed
        # How far log V + log(1 + E κ/K) is above log P.
        v_over_p = np.exp(log_v - log_p)
        mismatch = np.log(ratio * v_over_p)
        # Derivatives by log P and log V, those of the mismatch times the ratio.
        by_p = -at.rest_square - self.zeros
        by_v = ratio - at.both
        psi_by_p, psi_by_v = -at.kept_square, -at.fed_square
        determinant = by_p * psi_by_v - by_v * psi_by_p
        tangent = np.stack([-by_v, by_p]) / determinant
        step = np.stack([-psi_by_v, psi_by_p]) / determinant
        correction = mismatch * ratio * step
        return Point(
            psi=at.of_kept + at.of_fed,
            above_zero=at.above_zero,
            value=log_v + log_below(one_plus),
            rate=tangent[1] + 1 / one_plus,
            tangent=tangent,
            correction=correction,
            lag=correction[1],
        )

    def potential(
        self,
        w: Unknowns,
        *,
        below: bool,
    ) -> RealPoints:
        """Evaluate Im ∫(1 + ψ) dr / π.

        It is stationary in both unknowns, so that their errors enter squared.
        """
        log_p, log_v = w
        p_over_v = np.exp(log_p - log_v)
        # E[b/K]/V is (λ − P)/V, and λ/V is 1 + ψ.
        of_fed = self._sums(w).above_zero - p_over_v
        angle = log_p.imag + of_fed.imag + self._angle(w)
        total = angle / np.pi
        return 1 - total if below else total

    @blas.single_threaded()
    def _angle(self, w: Unknowns) -> RealPoints:
        """Evaluate Im E log K, each in [0, π]."""
        of_p, of_v = np.exp(-w)
        parts = []
        for block in self._blocks(w):
            k = self._k(of_p[block], of_v[block])
            # Rounding may take it below the axis.
            height = np.maximum(k.imag, 0.0)
            angle = np.arctan2(height, k.real)
            parts.append(self.shares @ angle)
        return np.concatenate(parts)


def _mean(
    weights: Float[np.ndarray, "some sites"],
    values: Complex[Numbers, "sites points"],
) -> Complex[Numbers, "some points"]:
    """Sum over sites, as real numbers: NumPy would make the weights complex."""
    return (weights @ values.view(float)).view(complex)


def _extended(
    x: RealPoints,
    level: RealPoints,
    row: RealPoints,
) -> RealPoints:
    """Interpolate, and go on along a straight line beyond the ends."""
    value = np.interp(x, level, row)
    # What np.interp would hold constant; within the ends nothing is added.
    below = np.minimum(x - level[0], 0.0)
    above = np.maximum(x - level[-1], 0.0)
    first, *_, last = np.diff(row) / np.diff(level)
    return value + first * below + last * above
