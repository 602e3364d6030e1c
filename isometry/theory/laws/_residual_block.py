"""The factor of one residual block, s + aX with X = W D or W D W.

X is R-diagonal, and so is s times a Haar matrix; of free R-diagonal elements the
cumulants add (Haagerup and Larsen, 2000):

    ψ = t + u,    u (1 + u) = s² y,    a² σ² y = (1 + t)^p/ζ,    t = M_{D²}(ζ),

and S = y/(ψ (1 + ψ)). p is two minus the number of Gaussian matrices in X. The unknowns
are log ω with u = 1/(ω² − 1), and log η with ζ = η²: both ω and η lie in the closed
upper half-plane, ζ on both sides of the real axis. The rest is r = 2 log(1 + ψ) − log
y, the logarithm of the value of the block itself at this ψ.
"""

import functools
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float

from isometry.theory.laws import _series
from isometry.theory.laws._diagonal import Diagonal
from isometry.theory.laws._factor import Atom, Curve, Point
from isometry.theory.laws._half_planes import log_below
from isometry.theory.laws._measure import Measure, Transforms
from isometry.theory.laws._types import Numbers

Points = Complex[Numbers, " points"]
RealPoints = Float[np.ndarray, " points"]
Unknowns = Complex[Numbers, "2 points"]

# log(u/t) on the negative axis is bisected between ±this, beyond what float64's
# exponents need, so many times. Ten times fewer leave guesses that Newton cannot
# polish.
_FARTHEST = 1500.0
_HALVINGS = 50

# |u| from which the value is computed as s² times a factor near 1, where logarithms of
# both have small arguments. Smaller, they may leave the branch; ten times larger, 1e-4
# of the distance from s² is rounding.
_NEAR_SKIP = 10.0

# |1 + 2t| below which it is known better than t.
_SMALL = 0.5


@dataclass(frozen=True)
class ResidualBlock(Curve):
    """A block s + aX: −log S = log ψ − log(1 + ψ) + r.

    Attributes:
        slopes: The distribution of the entries of D².
        log_skip: log s².
        log_branch: log a²σ², σ² the product over the weight matrices of X.
        num_gaussian: How many of these are Gaussian; the others are Haar.
    """

    slopes: Measure
    log_skip: float
    log_branch: float
    num_gaussian: int

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
        """Two, log ω and log η."""
        return 2

    @property
    def rank(self) -> float:
        """One: a sum with s has no zeros."""
        return 1.0

    @functools.cached_property
    def strength(self) -> float:
        """The share of the branch over that of the skip, κ = a²σ² E d/s²."""
        log_mean = math.log(self.slopes.moment(1))
        log_strength = self.log_branch + log_mean
        return math.exp(log_strength - self.log_skip)

    @functools.cached_property
    def touches_zero(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Whether the spectrum reaches zero.

        It stays away from zero if the skip is stronger than the branch, a² E|X|² < s²,
        or the inverse of the branch weaker than that of the skip, a²/E|X⁻¹|² > s².
        """
        if self.strength < 1:
            return False
        # E|X⁻¹|² is infinite: a square Gaussian matrix has arbitrarily small singular
        # values, and a D with zeros has no inverse.
        if self.num_gaussian or self.slopes.zero_mass:
            return True
        with np.errstate(all="ignore"):
            of_inverse = self.slopes.moment(-1)
        # Off the contour's reach the expectation is not positive, and means nothing.
        is_finite = 0 < of_inverse < math.inf
        least = math.exp(self.log_branch - self.log_skip)
        return not (is_finite and least > of_inverse)

    @property
    def kind(self) -> Hashable:
        """Blocks of as many Gaussian matrices."""
        return type(self), self.num_gaussian

    def shift_from(self, other: Curve) -> Float[np.ndarray, " 2"]:
        """Return the difference at equal y, that of log η."""
        assert isinstance(other, ResidualBlock)
        of_eta = (other.log_branch - self.log_branch) / 2
        return np.array([0.0, of_eta])

    @property
    def is_connected(self) -> bool:
        """Whether no inner gap is to be expected.

        The values of X itself must fill an interval from zero on.
        """
        if self.num_gaussian == 0 or self.slopes.zero_mass > 0:
            return False
        return self.slopes.is_connected

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """One at s², where X has rank below a half.

        J Jᵀ − s² has at most twice the rank of X, half of it positive.
        """
        rank = 1 - self.slopes.zero_mass
        return (Atom(self.log_skip, lost=2 * rank, above=rank),)

    def series(self, n: int) -> _series.Series:
        """Expand −log S."""
        kappa = self.strength
        # One more, because u is divided by ψ.
        length = n + 1
        one, psi = np.eye(length)[:2]
        bend = self._diagonal.series(length)
        bend[0] = 0.0
        exponent = self.num_gaussian - 1
        bend += exponent * _series.one_plus(1.0, length)
        # t exp(−bend(t)) = κ u (1 + u) with u = ψ − t. What is not linear stands on
        # the right, so that each round gains a coefficient.
        t = kappa / (1 + kappa) * psi
        for _ in range(n):
            u = psi - t
            log_shape = -_series.composed(bend, t)
            shape = _series.exponential(log_shape)
            square = np.convolve(u, u)[:length]
            of_shape = np.convolve(t, shape - one)[:length]
            right = kappa * (psi + square) - of_shape
            t = right / (1 + kappa)
        u = psi - t
        one_plus_u = (one + u)[:n]
        u_over_psi = u[1:]
        # r = 2 log(1 + ψ) − log y with y = u (1 + u)/s², and S has one 1 + ψ less.
        total = _series.one_plus(1.0, n)
        total -= _series.logarithm(one_plus_u)
        total -= _series.logarithm((1 + kappa) * u_over_psi)
        total[0] = self.log_skip + math.log1p(kappa)
        if n > 1:
            total[1] = self.relative_variance
        return total

    @functools.cached_property
    def relative_variance(self) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """E λ²/(E λ)² − 1, from terms that do not cancel."""
        kappa = self.strength
        # Of X alone; the skip has none.
        of_branch = self.slopes.relative_variance() + self.num_gaussian
        square = 2 * kappa + kappa**2 * of_branch
        return square / (1 + kappa) ** 2

    def start(self, log_odds: RealPoints) -> Unknowns:
        """Bisect log(u/t) on the negative axis, where u, t and ψ are all negative."""
        log_minus_psi = -np.logaddexp(0, log_odds)
        one_plus = np.exp(-np.logaddexp(0, -log_odds))
        low = np.full_like(log_odds, -_FARTHEST)
        high = -low
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            excess, _, _ = self._excess(middle, log_minus_psi, one_plus)
            # Where t would lie below −P(d > 0), u must be larger; there it is inf.
            is_low = excess > 0
            low = np.where(is_low, middle, low)
            high = np.where(is_low, high, middle)
        _, log_omega, log_eta = self._excess(high, log_minus_psi, one_plus)
        # Both ω and η lie on the positive imaginary axis.
        sizes = np.stack([log_omega, log_eta])
        return sizes + 0.5j * np.pi

    def _excess(
        self,
        log_ratio: RealPoints,
        log_minus_psi: RealPoints,
        one_plus: RealPoints,
    ) -> tuple[RealPoints, RealPoints, RealPoints]:
        """Return log(y of t/y of u), log |ω| and log |η|, at u/t = exp(log_ratio).

        Args:
            log_ratio: log(u/t).
            log_minus_psi: log(−ψ), with ψ = t + u.
            one_plus: 1 + ψ.
        """
        log_minus_u = log_minus_psi - np.logaddexp(0, -log_ratio)
        log_minus_t = log_minus_psi - np.logaddexp(0, log_ratio)
        minus_u = np.exp(log_minus_u)
        minus_t = np.exp(log_minus_t)
        # 1 + u = (1 + ψ) − t and 1 + t = (1 + ψ) − u, without cancellation.
        log_one_plus_u = np.log(one_plus + minus_t)
        log_one_plus_t = np.log(one_plus + minus_u)
        above_zero = one_plus + minus_u - self.slopes.zero_mass
        is_inside = above_zero > 0
        positive = np.where(is_inside, above_zero, 1.0)
        log_zeta = self._log_zeta(np.log(positive) - log_minus_t)
        log_y_u = log_minus_u + log_one_plus_u - self.log_skip
        of_gaussian = self._power * log_one_plus_t
        log_y_t = of_gaussian - log_zeta - self.log_branch
        excess = log_y_t - log_y_u
        excess = np.where(is_inside, excess, np.inf)
        # ω² = (1 + u)/u.
        log_omega = (log_one_plus_u - log_minus_u) / 2
        return excess, log_omega, log_zeta / 2

    def _log_zeta(self, log_odds: RealPoints) -> RealPoints:
        """Look log |ζ| up, where M(ζ) = t is real, at log((rank + t)/(−t))."""
        return self._diagonal.start(log_odds)[0].real

    @functools.cached_property
    def _diagonal(self) -> Diagonal:
        return Diagonal(self.slopes)

    @property
    def _power(self) -> int:
        """The exponent p of 1 + t."""
        return 2 - self.num_gaussian

    def at(self, w: Unknowns) -> Point:
        """Evaluate the curve, and the Newton step that gives u and t the same y."""
        log_omega, log_eta = w
        u, one_plus_u = _of_skip(log_omega)
        branch = self._of_branch(log_eta)
        t = branch.psi
        one_plus_t = branch.above_zero + self.slopes.zero_mass
        one_plus = one_plus_u + t
        mismatch = self._mismatch(log_omega, log_eta, one_plus_t)
        twice = 1 + 2 * u
        # Derivatives of the mismatch and of ψ by the two unknowns.
        by_omega = -2 * twice
        of_gaussian = self._power * branch.rate / one_plus_t
        by_eta = 2 - 2 * of_gaussian
        psi_by_omega = -2 * u * one_plus_u
        psi_by_eta = 2 * branch.rate
        determinant = by_omega * psi_by_eta - by_eta * psi_by_omega
        # Cramer's rule: ψ moves and the mismatch does not, and the other way round.
        tangent = np.stack([-by_eta, by_omega]) / determinant
        downhill = np.stack([-psi_by_eta, psi_by_omega]) / determinant
        correction = mismatch * downhill
        # dr/dψ = 2/(1 + ψ) − dlog y/du (1 − dt/dψ). At an atom u → ∞, and all but
        # 1/u² cancels, here by hand.
        t_rate = psi_by_eta * tangent[1]
        rest = (one_plus + 2 * u * t) / one_plus
        # 1 + 2t vanishes there with P(d > 0) = 1/2, and is small without cancellation.
        # Where it is not small, t may be, which only the first form keeps.
        twice_t = 2 * branch.above_zero + (2 * self.slopes.zero_mass - 1)
        vanishing = (1 + twice * twice_t) / (2 * one_plus)
        rest = np.where(np.abs(twice_t) < _SMALL, vanishing, rest)
        rate = twice * t_rate - rest
        # (1 + ψ)/g is the root of the value, in the quarter where log is continuous.
        g = np.exp(_log_g(log_omega))
        root = np.log(one_plus / g)
        # Near s² it is close to 1: g² = (u + 1/2)² − 1/4, and 2 (1 + ψ) is the sum of
        # 1 + 2u and 1 + 2t.
        near_skip = np.log1p(twice_t / twice) - np.log1p(-1 / twice**2) / 2
        root = np.where(np.abs(u) > _NEAR_SKIP, near_skip, root)
        return Point(
            psi=u + t,
            above_zero=one_plus,
            value=self.log_skip + 2 * root,
            rate=rate / (u * one_plus_u),
            tangent=tangent,
            correction=correction,
            lag=2 * twice * correction[0],
        )

    def potential(self, w: Unknowns, *, below: bool) -> RealPoints:
        """Evaluate Im ∫(1 + ψ) dr / π.

        ∫(1 + ψ) dr = E log(ζ − d) + (2 − p) t + log(1 + u). The mismatch is taken off
        (1 + t) times, so that errors of the unknowns enter squared.
        """
        log_omega, log_eta = w
        branch = self._of_branch(log_eta)
        one_plus_t = branch.above_zero + self.slopes.zero_mass
        mismatch = self._mismatch(log_omega, log_eta, one_plus_t)
        # 1 + u = ωg.
        log_one_plus_u = log_omega + _log_g(log_omega)
        of_gaussian = self.num_gaussian * branch.psi
        rest = log_one_plus_u + of_gaussian - one_plus_t * mismatch
        total = self._angle(log_eta)
        of_rest = rest.imag / np.pi
        total = total + of_rest
        return 1 - total if below else total

    def _mismatch(
        self,
        log_omega: Points,
        log_eta: Points,
        one_plus_t: Points,
    ) -> Points:
        """Return log y of u less log y of t."""
        # 1 + t and ζ lie on opposite sides of the real axis.
        is_lower = log_eta.imag > np.pi / 2
        reflected = np.where(is_lower, np.conj(one_plus_t), one_plus_t)
        log_reflected = log_below(reflected)
        log_one_plus = np.where(is_lower, np.conj(log_reflected), log_reflected)
        log_y_u = 2 * _log_g(log_omega) - self.log_skip
        log_zeta = 2 * log_eta
        of_gaussian = self._power * log_one_plus
        log_y_t = of_gaussian - log_zeta - self.log_branch
        return log_y_u - log_y_t

    def _of_branch(self, log_eta: Points) -> Transforms:
        """Evaluate M at ζ = η² on either side of the real axis."""
        log_zeta, is_lower = _reflected(log_eta)
        at_mirrored = self.slopes.transforms(np.exp(log_zeta))
        fields = []
        for field in at_mirrored:
            own = np.where(is_lower, np.conj(field), field)
            fields.append(own)
        return Transforms(*fields)

    def _angle(self, log_eta: Points) -> RealPoints:
        """Evaluate Im E log(ζ − d)/π, in [0, 2]."""
        log_zeta, is_lower = _reflected(log_eta)
        angle = np.maximum(log_zeta.imag, 0.0)
        # exp of a complex number may round onto the other side of the axis.
        is_real = angle == 0
        phase = np.where(is_real, 1.0, np.exp(1j * angle))
        zeta = np.exp(log_zeta.real) * phase
        total = self.slopes.angle(zeta, below=False)
        return np.where(is_lower, 2 - total, total)


def _reflected(log_eta: Points) -> tuple[Points, np.ndarray]:
    """Return log ζ in the upper half-plane, and whether ζ lies in the lower one."""
    log_zeta = 2 * log_eta
    angle = log_zeta.imag
    is_lower = angle > np.pi
    mirrored = log_zeta.real + 1j * (2 * np.pi - angle)
    return np.where(is_lower, mirrored, log_zeta), is_lower


def _of_skip(log_omega: Points) -> tuple[Points, Points]:
    """Return u = 1/(ω² − 1) and 1 + u."""
    square = np.exp(2 * log_omega)
    u = 1 / np.expm1(2 * log_omega)
    return u, square * u


def _log_g(log_omega: Points) -> Points:
    """Return log ω/(ω² − 1), which lies in the lower half-plane."""
    less = np.expm1(log_omega)
    # ω − 1 lies above the axis; rounding may have put it below.
    is_below = (less.real < 0) & np.signbit(less.imag)
    log_less = np.log(less) + 2j * np.pi * is_below
    log_more = np.log(np.exp(log_omega) + 1)
    return log_omega - log_less - log_more
