"""What a factor of a law answers: its S-transform, as README.md explains.

A product of free factors inverts

    log λ(ψ) = log(1 + ψ) − log ψ − Σ_k log S_k(ψ).

A factor says −log S_k in two parts: powers of ψ and of 1 + cψ, which cancel between
factors and are counted before anything is computed, and a rest. A `Closed` factor knows
its rest as a function of ψ. A `Curve` knows ψ and the rest as functions of unknowns,
and the unknowns of all factors are solved for together.
"""

import abc
from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float

from isometry.theory.laws._types import Numbers


class Atom(NamedTuple):
    """A value of a factor with positive mass, where ψ is infinite.

    There −log S_k(ψ) = log_value − lost/ψ + O(1/ψ²). A product of atoms is an atom of
    mass 1 − Σ lost, if that is positive (Belinschi, 2003).

    Attributes:
        log_value: The logarithm of the value.
        lost: One minus its mass, of a factor of full size.
        above: The mass above it, in units of ψ.
    """

    log_value: float
    lost: float
    above: float


class Point(NamedTuple):
    """A curve at given unknowns, for several points at once.

    Attributes:
        psi: ψ.
        above_zero: rank + ψ, to relative accuracy.
        value: The rest r.
        rate: dr/dψ along the curve.
        tangent: dw/dψ along the curve.
        correction: The Newton step of w, at fixed ψ, that solves the equations between
            the unknowns. Zero where there are none.
        lag: The change of r with that step.
    """

    psi: Complex[Numbers, " points"]
    above_zero: Complex[Numbers, " points"]
    value: Complex[Numbers, " points"]
    rate: Complex[Numbers, " points"]
    tangent: Complex[Numbers, "unknowns points"]
    correction: Complex[Numbers, "unknowns points"]
    lag: Complex[Numbers, " points"]


class Factor(abc.ABC):
    """A factor: −log S(ψ) = Σ_c a_c log(1 + cψ) + b log ψ + log_scale + rest."""

    @property
    @abc.abstractmethod
    def ones(self) -> Mapping[float, float]:
        """The exponents a_c by c, which is min(m, n) over the factor's dimension."""

    # Powers are declared, not evaluated: as ψ → ∞ they diverge one by one, and only
    # after they have been counted does it show which of them cancel.
    @property
    def power(self) -> float:
        """The exponent b."""
        return 0.0

    @property
    @abc.abstractmethod
    def log_scale(self) -> float:
        """The constant."""

    @property
    @abc.abstractmethod
    def atoms(self) -> tuple[Atom, ...]:
        """The positive values with mass; none where −log S diverges with ψ."""

    @abc.abstractmethod
    def series(self, n: int) -> Float[np.ndarray, " n"]:
        """Expand −log S in ψ⁰ … ψⁿ⁻¹.

        The first coefficient is the logarithm of the mean, and the second
        E λ²/(E λ)² − 1, which must not cancel where it is small.
        """


class Closed(Factor):
    """A factor whose rest is a function of ψ."""

    @abc.abstractmethod
    def rest(
        self,
        psi: Complex[Numbers, " points"],
        one_plus: Complex[Numbers, " points"],
    ) -> tuple[Complex[Numbers, " points"], Complex[Numbers, " points"]]:
        """Evaluate r and dr/dψ; `one_plus` is 1 + ψ to relative accuracy."""

    @abc.abstractmethod
    def potential(
        self,
        psi: Complex[Numbers, " points"],
        one_plus: Complex[Numbers, " points"],
        *,
        below: bool,
    ) -> Float[np.ndarray, " points"]:
        """Evaluate what the rest adds to P(x > λ), or, `below`, to P(x ≤ λ).

        The first is Im ∫(1 + ψ) dr / π from λ = +∞, the other minus that from λ = 0.
        """


# M⁻¹ of a general measure is not known in closed form, and neither are the equations of
# a block. But at a point ζ of the plane all of it is, so ζ becomes an unknown.
class Curve(Factor):
    """A factor that knows ψ and its rest as functions of unknowns.

    The unknowns are logarithms of points of the closed upper half-plane: their
    imaginary parts lie in [0, π] on the sheet of the law.
    """

    @property
    @abc.abstractmethod
    def num_unknowns(self) -> int:
        """How many unknowns there are."""

    @property
    @abc.abstractmethod
    def rank(self) -> float:
        """The mass off zero, in units of ψ: as λ → 0 from below, ψ → −rank.

        It is 1 where no singular value vanishes, of a factor of full size.
        """

    @property
    def zero_mass(self) -> float:
        """1 − rank, which overrides this where it is known to relative accuracy."""
        return 1 - self.rank

    @property
    @abc.abstractmethod
    def touches_zero(self) -> bool:
        """Whether positive values come arbitrarily close to zero."""

    @property
    def relative_variance(self) -> float:
        """E λ²/(E λ)² − 1."""
        # Where E λ² − (E λ)² would cancel, a factor overrides this.
        return float(self.series(2)[1])

    @property
    def kind(self) -> Hashable:
        """A name that curves share whose unknowns are near one another's.

        Where a product has many curves of one kind, it is solved first with all of them
        replaced by one, and that solution is the guess. By default no two are alike.
        """
        return self

    def shift_from(self, other: "Curve") -> Float[np.ndarray, " unknowns"]:
        """Return how far the unknowns lie from those of another of this kind."""
        return np.zeros(self.num_unknowns)

    @property
    def is_connected(self) -> bool:
        """Whether its positive values are known to fill one interval.

        A product of such factors has no gap inside, and none is looked for.
        """
        return False

    @property
    def ends(self) -> tuple[float, ...]:
        """The values of the first unknown at the ends of the factor's support.

        They are asked for where a law's density is too thin to be seen: an edge is then
        where an unknown arrives at one of them.
        """
        return ()

    @abc.abstractmethod
    def start(
        self, log_odds: Float[np.ndarray, " points"]
    ) -> Complex[Numbers, "unknowns points"]:
        """Guess the unknowns at points λ < 0, where ψ is real and in (−rank, 0).

        Args:
            log_odds: log((rank + ψ)/(−ψ)) of each point, which rises from −∞ to ∞ with
                |λ|.

        Returns:
            The guess, from which Newton steps find the solution.
        """

    @abc.abstractmethod
    def at(self, w: Complex[Numbers, "unknowns points"]) -> Point:
        """Evaluate the curve."""

    @abc.abstractmethod
    def potential(
        self, w: Complex[Numbers, "unknowns points"], *, below: bool
    ) -> Float[np.ndarray, " points"]:
        """Evaluate what the rest adds to P(x > λ), or, `below`, to P(x ≤ λ).

        The first is Im ∫(1 + ψ) dr / π from λ = +∞, the other minus that from λ = 0.
        """
