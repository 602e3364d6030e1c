"""Mixtures of laws: the spectrum of a Jacobian that is block diagonal."""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry.records import VARIABLES
from isometry.theory.laws._law import Atom, Law
from isometry.theory.laws._product import Product

RealPoints = Float[np.ndarray, " points"]

# Shares whose sum is off by more were not meant to sum to one.
_OFF = 1e-9

# Newton steps, or halvings where they leave the bracket, that find a quantile. Four
# are usual; the rest is for p beside a gap or an atom.
_ROUNDS = 80

# The last Newton step in log λ, after which the error is its square; and the width of a
# bracket, where there is no density. A thousand times larger, quantiles are off by
# 1e-6.
_RESOLVED = 1e-6
_CLOSED = 1e-12

# Where the quantiles of every law are tabulated, log(p/(1 − p)) off zero: the brackets
# in which quantiles are looked for. Twice as many take twice as long to make. The law
# of strong residual blocks has its quantile at 1e-10 so near zero that it is not found,
# so the table ends at 1e-6.
_LOG_ODDS = np.linspace(-14.0, 14.0, 29)

# How far below the table in log λ a quantile may lie: λ falls no faster than the eighth
# power of its rank.
_BELOW = 8 * 14.0

# Probabilities this close to the mass at zero are those of zero.
_LEAST_MASS = 1e-12

# Atoms closer than this, relative to one another, are one: shares of one atom differ by
# rounding.
_ALIKE = 1e-12


class Mixture(Law):
    """The law of blocks that do not mix, each with a law of its own: their average.

    A convolution whose kernels have one tap maps every position by itself, for example,
    and positions of other variances have other laws. It has the methods of `Law`. A
    mixture is not a product of free factors: it has no S-transform and no `product`.

    Args:
        laws: The laws of the blocks.
        shares: The share of singular values of each, which sum to 1, zeros included.
        name: What it is called, for its repr. The default is "mixture".
        zeros: The share of singular values that are zero beside all blocks, as of
            positions that nothing reads.

    Raises:
        InputError: Not as many shares as laws; shares that are negative or do not sum
            to 1; something that is no law.

    Example:
        >>> mix = theory.Mixture(
        ...     [theory.fuss_catalan(1), theory.fuss_catalan(2)], [0.25, 0.75]
        ... )
        >>> round(mix.moment(2), 9)
        2.75
        >>> mix
        Law(mixture: lam has density on [0, 6.75])
    """

    laws: tuple[Law, ...]
    shares: tuple[float, ...]
    zeros: float

    @public("Mixture")
    def __init__(
        self,
        laws: Sequence[Law],
        shares: Sequence[float],
        name: str = "mixture",
        *,
        zeros: float = 0.0,
    ) -> None:
        laws = tuple(laws)
        shares = tuple(map(float, shares))
        for law in laws:
            checks.instance("laws", law, Law)
        for share in shares:
            checks.number("shares", share, low=0.0)
        checks.number("zeros", zeros, low=0.0)
        missing = 1 - math.fsum((*shares, zeros))
        # Negated, so that NaN is refused.
        is_off = not abs(missing) <= _OFF
        if len(laws) != len(shares) or is_off:
            raise InputError(
                f"shares={checks.show(shares)} and zeros={zeros:g} for {len(laws)} "
                "laws; write a share for each law, which with zeros sum to 1."
            )
        spans = {law.span for law in laws}
        depths = {law.pairs for law in laws}
        lacking = {law.structural_zeros for law in laws}
        if len(spans) > 1 or len(lacking) > 1:
            raise InputError(
                f"laws are of spans {sorted(spans)} and have {sorted(lacking)} "
                "structural zeros for each singular value; write blocks of one shape."
            )
        pairs = None
        if len(depths) == 1:
            (pairs,) = depths
        # The class is frozen, as `Law` is, so that plain assignment would raise.
        fields = {
            "laws": laws,
            "shares": shares,
            "zeros": float(zeros),
            "name": name,
            "structural_zeros": lacking.pop(),
            "pairs": pairs,
            "width_rate": None,
            "span": spans.pop(),
            "positions": max(law.positions for law in laws),
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    @property
    def product(self) -> Product:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Refuse: blocks are not free factors.

        Raises:
            NotDefined: Always.

        Example:
            >>> mix = theory.Mixture([theory.fuss_catalan(1)], [1.0])
            >>> try:
            ...     mix.product
            ... except isometry.NotDefined as error:
            ...     print("no product of free factors" in str(error))
            True
        """
        raise NotDefined(
            f"{self.name} is a mixture of {len(self.laws)} laws, which is no product "
            "of free factors and has no S-transform; take those of its `laws`."
        )

    @property
    def zero_mass(self) -> float:
        """The mass at zero, without the structural zeros.

        Example:
            >>> relu = theory.jacobian_law("relu", depth=1, q=1.0)
            >>> theory.Mixture([relu, theory.fuss_catalan(1)], [0.5, 0.5]).zero_mass
            0.25
        """
        of_laws = [law.zero_mass for law in self.laws]
        return self.zeros + self._mean(of_laws)

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        """The point masses, ascending, the one at zero included.

        Example:
            >>> relu = theory.jacobian_law("relu", depth=1, q=1.0)
            >>> mix = theory.Mixture([relu, theory.fuss_catalan(1)], [0.5, 0.5])
            >>> [round(atom.mass, 9) for atom in mix.atoms]
            [0.25, 0.25]
        """
        found: list[Atom] = []
        parts = []
        for law, share in zip(self.laws, self.shares, strict=True):
            for atom in law.atoms:
                part = Atom(atom.lam, share * atom.mass)
                parts.append(part)
        if self.zeros:
            parts.append(Atom(0.0, self.zeros))
        reached = -1.0
        for atom in sorted(parts):
            # Atoms of two laws at one place are one.
            if found and atom.lam <= reached:
                last = found.pop()
                mass = last.mass + atom.mass
                atom = Atom(last.lam, mass)
            found.append(atom)
            reached = atom.lam * (1 + _ALIKE)
        return tuple(found)

    @cached_property
    def support(self) -> tuple[tuple[float, float], ...]:
        """The intervals of λ with a density, ascending; atoms apart.

        Example:
            >>> law = theory.marchenko_pastur(0.01)
            >>> same = theory.Mixture([law, law], [0.5, 0.5])
            >>> [round(edge, 9) for edge in same.support[0]]
            [0.81, 1.21]
        """
        found: list[tuple[float, float]] = []
        parts = []
        for law in self.laws:
            parts += law.support
        for low, high in sorted(parts):
            # An interval that begins before the last one ends continues it.
            if found and low <= found[-1][1]:
                low, last = found.pop()
                high = max(last, high)
            found.append((low, high))
        return tuple(found)

    @property
    def variance(self) -> float:
        """The variance of λ, without cancellation where it is small.

        Example:
            >>> laws = [theory.fuss_catalan(1), theory.fuss_catalan(2)]
            >>> round(theory.Mixture(laws, [0.5, 0.5]).variance, 9)
            1.5
        """
        means = np.array([law.moment(1) for law in self.laws])
        mean = self._mean(means)
        inside = self._mean([law.variance for law in self.laws])
        between = self._mean((means - mean) ** 2)
        return inside + between + self.zeros * mean**2

    @property
    def mean_log_lam(self) -> float:
        """E log λ; −inf if zero has mass.

        Example:
            >>> laws = [theory.fuss_catalan(1), theory.fuss_catalan(2)]
            >>> round(theory.Mixture(laws, [0.5, 0.5]).mean_log_lam, 9)
            -1.5
        """
        if self.zeros:
            return -math.inf
        return self._mean([law.mean_log_lam for law in self.laws])

    @public("Law.moment")
    def moment(self, k: float = 1, variable: str = "lam") -> float:
        """Compute E[variable^k]; of log s over the mass off zero.

        Args:
            k: The power, a positive number; of log s a whole one up to 6.
            variable: "lam", "s" or "log_s".

        Returns:
            The moment.

        Raises:
            InputError: What `Law.moment` refuses.

        Example:
            >>> laws = [theory.fuss_catalan(1), theory.fuss_catalan(2)]
            >>> round(theory.Mixture(laws, [0.5, 0.5]).moment(2), 9)
            2.5
        """
        checks.one_of("variable", variable, VARIABLES)
        values = np.array([law.moment(k, variable) for law in self.laws])
        if variable != "log_s":
            return self._mean(values)
        ranks = np.array([1 - law.zero_mass for law in self.laws])
        return self._mean(ranks * values) / self._mean(ranks)

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
            The density at each point, of the shape of `grid`.

        Example:
            >>> laws = [theory.fuss_catalan(1), theory.fuss_catalan(2)]
            >>> round(theory.Mixture(laws, [0.5, 0.5]).density(5.0), 6)
            0.013403
        """
        parts = zip(self.laws, self.shares, strict=True)
        return sum(share * law.density(grid, variable) for law, share in parts)

    def _mean(self, values: ArrayLike) -> float:
        """Average over the laws, weighted by their shares."""
        # A law with share 0 is left out, because 0 times an infinite moment is NaN.
        of_laws = np.asarray(values, float)
        parts = zip(self.shares, of_laws, strict=True)
        terms = [share * value for share, value in parts if share > 0]
        return float(math.fsum(terms))

    @property
    def _top(self) -> float:
        return max(law._top for law in self.laws)

    def _masses(self, t: RealPoints) -> tuple[RealPoints, RealPoints]:
        """Compute P(x > e^t) and P(x ≤ e^t)."""
        above = np.zeros(t.shape)
        below = np.zeros(t.shape)
        for law, share in zip(self.laws, self.shares, strict=True):
            above_of_law, below_of_law = law._masses(t)
            above += share * above_of_law
            below += share * below_of_law
        return above, below + self.zeros

    def _quantile(self, p: RealPoints) -> RealPoints:
        """Find log λ of the least λ with P(x ≤ λ) ≥ p."""
        ends = []
        for law in self.laws:
            quantile = law._quantile(np.zeros(1))
            ends.append(float(quantile[0]))
        low_end = min(ends)
        if self.zeros:
            low_end = -math.inf
        is_positive = p > self.zero_mass + _LEAST_MASS
        t = np.where(is_positive, self._top, low_end)
        is_inside = is_positive & (p < 1)
        if is_inside.any():
            t[is_inside] = self._solved(p[is_inside])
        return t

    @cached_property
    def _table(self) -> tuple[RealPoints, RealPoints]:
        """Rising log λ, and P(x ≤ λ) there."""
        places = []
        shares = 1 / (1 + np.exp(-_LOG_ODDS))
        for law in self.laws:
            ranks = law.zero_mass + (1 - law.zero_mass) * shares
            places.append(law._quantile(ranks))
        places.append(np.array([self._top]))
        t = np.unique(np.concatenate(places))
        _, below = self._masses(t)
        # Lower ranks are looked for below the table.
        lowest = t[0] - _BELOW
        t = np.append(lowest, t)
        below = np.append(self.zero_mass, below)
        return t, np.maximum.accumulate(below)

    def _solved(self, p: RealPoints) -> RealPoints:
        """Solve P(x ≤ e^t) = p by Newton steps, inside a bracket that only shrinks."""
        places, masses = self._table
        last = np.searchsorted(masses, p)
        last = np.clip(last, 1, len(places) - 1)
        low = places[last - 1].copy()
        high = places[last].copy()
        t = np.interp(p, masses, places)
        t = np.clip(t, low, high)
        active = np.arange(len(p))
        for _ in range(_ROUNDS):
            if not len(active):
                break
            at = t[active]
            _, below = self._masses(at)
            missing = p[active] - below
            is_enough = missing <= 0
            high[active[is_enough]] = at[is_enough]
            low[active[~is_enough]] = at[~is_enough]
            slope = np.atleast_1d(self.density(at / 2, "log_s")) / 2
            with np.errstate(divide="ignore", invalid="ignore"):
                step = missing / slope
            ahead = at + step
            left, right = low[active], high[active]
            size = 1 + np.abs(at)
            # A step out of the bracket is replaced by its middle.
            is_newton = (ahead >= left) & (ahead <= right)
            middle = (left + right) / 2
            t[active] = np.where(is_newton, ahead, middle)
            # Without a density a bracket closes around an atom, whose place is its
            # upper end.
            is_closed = right - left <= _CLOSED * size
            closed = active[is_closed]
            t[closed] = high[closed]
            is_small = np.abs(step) <= _RESOLVED * size
            is_done = is_closed | (is_newton & is_small)
            active = active[~is_done]
        return t
