"""A diagonal factor D², known by its measure: one unknown, log ζ."""

import functools
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float

from isometry.theory.laws import _series
from isometry.theory.laws._factor import Atom, Curve, Point
from isometry.theory.laws._measure import Measure, discrete
from isometry.theory.laws._types import Numbers

# log ζ, as one row.
Unknown = Complex[Numbers, "1 points"]
RealPoints = Float[np.ndarray, " points"]

# Points of the table of M on the negative axis, log |ζ| up to ±690, the end of
# float64's exponents, and denser in the middle. A guess from half as many lies so far
# off at the ends that Newton may not return.
LOG_TABLE = np.sinh(np.linspace(-1, 1, 250) * np.arcsinh(690.0))

IDENTITY = discrete([1.0], [1.0])


@dataclass(frozen=True)
class Diagonal(Curve):
    """A factor D² with M_{D²}(ζ) = cψ: −log S = log c + log ψ − log(1 + cψ) + log ζ.

    Attributes:
        measure: The distribution of the entries of D².
        ratio: c, min(m, n) of the whole product over the size of D.
    """

    measure: Measure
    ratio: float = 1.0

    @property
    def ones(self) -> Mapping[float, float]:
        """The exponent of 1 + cψ."""
        return {self.ratio: -1.0}

    @property
    def power(self) -> float:
        """The exponent of ψ."""
        return 1.0

    @property
    def log_scale(self) -> float:
        """The logarithm of c."""
        return math.log(self.ratio)

    @property
    def num_unknowns(self) -> int:
        """One, log ζ."""
        return 1

    @functools.cached_property
    def rank(self) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The mass of the positive entries in units of ψ, P(d > 0)/c."""
        positive_mass = 1 - self.measure.zero_mass
        return positive_mass / self.ratio

    @property
    def zero_mass(self) -> float:
        """1 − rank: in full size, the mass of the entries that are zero."""
        if self.ratio == 1:
            return self.measure.zero_mass
        return 1 - self.rank

    @property
    def touches_zero(self) -> bool:
        """Whether positive entries come arbitrarily close to zero."""
        return self.measure.touches_zero

    @functools.cached_property
    def relative_variance(self) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """E d²/(E d)² − 1."""
        return self.measure.relative_variance()

    @property
    def kind(self) -> Hashable:
        """Diagonals of one size."""
        return type(self), self.ratio

    def shift_from(self, other: Curve) -> Float[np.ndarray, " 1"]:
        """Return the difference of the logarithms of the means."""
        return self.series(1) - other.series(1)

    @property
    def is_connected(self) -> bool:
        """Whether the positive support is one interval, or one point."""
        return self.measure.is_connected

    @property
    def ends(self) -> tuple[float, ...]:
        """The values of log ζ at the positive ends of the continuous part."""
        pieces = self.measure.pieces
        # Two pieces may share an end.
        ends = {end for piece in pieces for end in piece if end > 0}
        return tuple(map(math.log, sorted(ends)))

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """The atoms of the measure off zero."""
        return self._atoms

    @functools.cached_property
    def _atoms(self) -> tuple[Atom, ...]:
        """The atoms, computed once."""
        measure = self.measure
        places = measure.atoms
        mass_above = measure.angle(places + 0j, below=False)
        mass_lost = 1 - measure.masses
        if not measure.nodes.size:
            # 1 − mass does not resolve a small mass of the others.
            is_other = 1 - np.eye(len(places))
            mass_lost = is_other @ measure.masses
        # Masses of this factor, in units of ψ.
        above = mass_above / self.ratio
        lost = mass_lost / self.ratio
        found = []
        for i in np.flatnonzero(places):
            atom = Atom(
                log_value=math.log(places[i]),
                lost=float(lost[i]),
                above=float(above[i]),
            )
            found.append(atom)
        return tuple(found)

    def series(self, n: int) -> _series.Series:
        """Expand −log S."""
        powers = range(1, n + 1)
        moments = [self.measure.moment(k) for k in powers]
        moments = np.array(moments)
        # A series in cψ: its coefficients take the powers of c.
        in_psi = self.ratio ** np.arange(n)
        total = _series.inverse_transform(moments) * in_psi
        total -= _series.one_plus(self.ratio, n)
        total[0] = math.log(moments[0])
        if n > 1:
            # From the centred square, which does not cancel where d hardly varies.
            variance = self.measure.relative_variance()
            total[1] = self.ratio * variance
        return total

    def start(self, log_odds: RealPoints) -> Unknown:
        """Look log |ζ| up; on the negative axis ζ < 0."""
        level, log_zeta = self._negative_axis
        log_size = np.interp(log_odds, level, log_zeta)
        return log_size[None] + 1j * np.pi

    @functools.cached_property
    def _negative_axis(
        self,
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Rising log((rank + ψ)/(−ψ)), and log |ζ|, for ζ < 0."""
        zeta = -np.exp(LOG_TABLE) + 0j
        at = self.measure.transforms(zeta)
        with np.errstate(all="ignore"):
            odds = at.above_zero.real / -at.psi.real
            level = np.log(odds)
        level, log_zeta = increasing(level, LOG_TABLE)
        return level, log_zeta

    def at(self, w: Unknown) -> Point:
        """Evaluate ψ = M(ζ)/c and r = log ζ."""
        # There is one unknown, and so no equation between unknowns to correct.
        zeta = np.exp(w[0])
        moment = self.measure.transforms(zeta)
        none = np.zeros_like(w)
        tangent = self.ratio / moment.rate
        return Point(
            psi=moment.psi / self.ratio,
            above_zero=moment.above_zero / self.ratio,
            value=w[0],
            rate=tangent,
            tangent=tangent[None],
            correction=none,
            lag=none[0],
        )

    def potential(self, w: Unknown, *, below: bool) -> RealPoints:
        """Evaluate what log ζ adds to P(x > λ), or, `below`, to P(x ≤ λ).

        It is Im ∫(1 + ψ) dlog ζ / π, or minus that, each from its end of the axis.

        1 + ψ = (1 + M)/c + (1 − 1/c), because M = cψ. The first part integrates to
        E log(ζ − d)/c, as (1 + M) dlog ζ = d E log(ζ − d), and the second to a multiple
        of log ζ.

        Args:
            w: log ζ, with its imaginary part in [0, π].
            below: Whether P(x ≤ λ) is asked for.
        """
        log_size, angle = w[0].real, w[0].imag
        upper_angle = np.maximum(angle, 0.0)
        # exp of a complex number may round onto the other side of the axis, so the
        # exponential of a real one is taken where ζ is real.
        real_zeta = np.exp(log_size) + 0j
        complex_zeta = np.exp(log_size + 1j * upper_angle)
        zeta = np.where(upper_angle == 0, real_zeta, complex_zeta)
        total = self.measure.angle(zeta, below=below) / self.ratio
        if self.ratio == 1:
            return total
        if below:
            angle = np.pi - angle
        rest = 1 - 1 / self.ratio
        return total + rest * angle / np.pi


def increasing(
    level: RealPoints, *rows: RealPoints
) -> tuple[Float[np.ndarray, " some"], ...]:
    """Keep the columns at which `level` rises, seen outward from the middle.

    Interpolation needs a level that rises, and rounding may make it fall far out.
    """
    middle = len(level) // 2
    upper, lower = level[middle:], level[:middle]
    right = _records(upper)
    # Downward from the middle the level falls, so it is negated.
    outward = -lower[::-1]
    left = _records(outward)[::-1]
    keep = np.concatenate([left, right])
    columns = np.stack([level, *rows])[:, keep]
    return tuple(columns)


def _records(x: RealPoints) -> np.ndarray:
    """Mark the values that exceed all before them."""
    # What is not finite is no record.
    is_finite = np.isfinite(x)
    x = np.where(is_finite, x, -np.inf)
    earlier = np.append(-np.inf, x[:-1])
    largest = np.maximum.accumulate(earlier)
    return x > largest
