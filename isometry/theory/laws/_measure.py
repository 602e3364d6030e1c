"""Probability measures on [0, ∞) and their transforms: what a diagonal D² has.

A measure is kept as atoms and, for its continuous part, nodes and weights on a contour
below the real axis. The integrand of E d/(ζ − d) is analytic on either side of it. So
by Cauchy's theorem the sums are right, to rounding, for ζ in the upper half-plane and
on the real axis inside the support, where nodes on the axis would give noise.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float, Num

from isometry.theory.laws._types import Numbers
from isometry.theory.mean_field._quadrature import Rule

Points = Complex[Numbers, " points"]
RealPoints = Float[np.ndarray, " points"]

# Complex numbers held at once by a transform. Ten times as many leave the processor's
# cache and take twice as long; a tenth as many spend their time in Python.
_CHUNK = 50_000

# From here on a Gauss rule of so many nodes is right: 1.85^−64 is 1e-17. With twice as
# many nodes more points are far, and each costs twice as much; with half as many, only
# those of |ζ| above 1.7 times the largest d.
RULE_NODES = 32
_FAR = 1.85

# An interval between pieces narrower than this share of its place is rounding, not a
# gap.
_NARROWEST_GAP = 1e-12


class Transforms(NamedTuple):
    """The moment transform M(ζ) = E d/(ζ − d) of a measure at several points.

    Attributes:
        psi: M(ζ).
        above_zero: P(d > 0) + M(ζ) = E ζ/(ζ − d) over d > 0, to relative accuracy.
        rate: dM/dlog ζ.
    """

    psi: Points
    above_zero: Points
    rate: Points


@dataclass(frozen=True, eq=False)
class Measure:
    """A probability measure on [0, ∞).

    Attributes:
        atoms: Places of the atoms, ascending.
        masses: Masses of the atoms.
        nodes: Points of the contour of the continuous part, none above the axis.
        weights: Weights of the nodes.
        pieces: Closed intervals that carry the continuous part.
        rule: A Gauss rule of the continuous part, that takes the contour's place far
            from the support.
    """

    atoms: Float[np.ndarray, " atoms"]
    masses: Float[np.ndarray, " atoms"]
    nodes: Complex[Numbers, " nodes"]
    weights: Complex[Numbers, " nodes"]
    pieces: tuple[tuple[float, float], ...] = ()
    rule: Rule | None = None

    @functools.cached_property
    def zero_mass(self) -> float:
        """The mass of the atom at zero."""
        is_zero = self.atoms == 0
        return float(self.masses[is_zero].sum())

    @property
    def touches_zero(self) -> bool:
        """Whether positive values come arbitrarily close to zero."""
        lows = [low for low, _ in self.pieces]
        return 0 in lows

    @property
    def is_connected(self) -> bool:
        """Whether the positive support is one interval, or one point."""
        intervals = self.intervals()
        atoms = self.atoms[self.atoms > 0]
        if not intervals:
            return len(atoms) == 1
        if len(intervals) > 1:
            return False
        low, high = intervals[0]
        is_inside = (atoms >= low) & (atoms <= high)
        return bool(is_inside.all())

    @property
    def constant(self) -> float | None:
        """The only value of a point mass, None for other measures."""
        is_continuous = self.nodes.size > 0
        if is_continuous or len(self.atoms) != 1:
            return None
        return float(self.atoms[0])

    def transforms(self, zeta: Points) -> Transforms:
        """Evaluate the moment transform in the closed upper half-plane."""
        is_far = self._is_far(zeta)
        if not is_far.any():
            return _transforms(zeta, self._positive)
        if is_far.all():
            return _transforms(zeta, self._positive_of_rule)
        shape = (3, len(zeta))
        found = Transforms(*np.empty(shape, complex))
        far = _transforms(zeta[is_far], self._positive_of_rule)
        near = _transforms(zeta[~is_far], self._positive)
        fields = zip(found, far, near, strict=True)
        for whole, of_far, of_near in fields:
            whole[is_far] = of_far
            whole[~is_far] = of_near
        return found

    def _is_far(self, zeta: Points) -> Bool[np.ndarray, " points"]:
        """Tell where the Gauss rule is right to rounding.

        Its error falls as ρ^−2n, where ζ lies on the ellipse of sum of axes ρ around
        the support, in units of half its length (Trefethen, 2008, theorem 4.5).
        """
        if self.rule is None:
            return np.zeros(len(zeta), bool)
        lows, highs = zip(*self.pieces, strict=True)
        low, high = min(lows), max(highs)
        # Where ζ leaves the exponents, x is infinite and the rule is right.
        with np.errstate(all="ignore"):
            length = high - low
            from_middle = 2 * zeta - (low + high)
            x = from_middle / length
            # On an ellipse of that ρ, |x − 1| + |x + 1| = ρ + 1/ρ.
            to_foci = np.abs(x - 1) + np.abs(x + 1)
            return to_foci > _FAR + 1 / _FAR

    @functools.cached_property
    def _positive_of_rule(self) -> "_Terms":
        """The atoms that are not zero, and the Gauss rule for the continuous part."""
        rule = self.rule
        assert rule is not None
        return self._with_positive_atoms(rule.nodes + 0j, rule.weights)

    def angle(self, zeta: Points, *, below: bool) -> RealPoints:
        """Compute Im E log(ζ − d)/π, which at real ζ is the mass above ζ.

        Args:
            zeta: Points of the closed upper half-plane.
            below: Compute one minus that, without cancellation.
        """
        is_far = self._is_far(zeta)
        total = np.empty(len(zeta))
        if is_far.any():
            rule = self.rule
            assert rule is not None
            places = np.concatenate([self.atoms, rule.nodes])
            masses = np.concatenate([self.masses, rule.weights])
            total[is_far] = _angle_of_points(
                zeta[is_far],
                places,
                masses,
                below=below,
            )
        if not is_far.all():
            near = zeta[~is_far]
            size = self.nodes.size + self.atoms.size
            chunks = _chunks(near, size=size)
            parts = [self._angle(z, below) for z in chunks]
            total[~is_far] = np.concatenate(parts)
        return total / np.pi

    def _angle(self, zeta: Points, below: bool) -> RealPoints:
        total = _angle_of_points(
            zeta,
            self.atoms,
            self.masses,
            below=below,
        )
        if not self.nodes.size:
            return total
        sign = -1 if below else 1
        gap = sign * (zeta[:, None] - self.nodes)
        # Where ζ and the node both underflow, d is not above ζ.
        at_node = complex(-1, -0.0) if below else 1
        gap = np.where(gap == 0, at_node, gap)
        # A sum, not a matrix product: that is not summed pairwise, and a hundred equal
        # layers multiply its rounding.
        terms = np.log(gap) * self.weights
        of_nodes = np.sum(terms, axis=1)
        angles = of_nodes.imag
        return total + sign * angles

    def moment(self, k: int) -> float:
        """Compute E d^k."""
        powers = self.nodes**k
        discrete = self.masses @ self.atoms**k
        continuous = self.weights @ powers
        return float(discrete + continuous.real)

    def mean_of_log(
        self,
        g: Callable[[Complex[Numbers, " nodes"]], Num[Numbers, "..."]],
    ) -> float:
        """Compute E g(log d) over d > 0 for an analytic g."""
        values, columns = self._positive
        weights = columns[:, 0]
        is_off_zero = values != 0
        logs = np.log(values[is_off_zero] + 0j)
        # A constant g may return one number.
        value = g(logs) + np.zeros(len(logs))
        mean = weights[is_off_zero] @ value
        return float(mean.real)

    def relative_variance(self) -> float:
        """Compute E d²/(E d)² − 1 without cancellation where d hardly varies."""
        mean = self.moment(1)
        of_atoms = (self.atoms - mean) ** 2
        of_nodes = (self.nodes - mean) ** 2
        discrete = self.masses @ of_atoms
        continuous = self.weights @ of_nodes
        variance = float(discrete + continuous.real)
        return variance / mean**2

    def intervals(self) -> list[tuple[float, float]]:
        """Return the positive support as ascending intervals, atoms apart."""
        joined: list[tuple[float, float]] = []
        reached = -1.0
        for low, high in sorted(self.pieces):
            # A piece that begins before the last one ends continues it.
            if joined and low <= reached:
                low, top = joined.pop()
                high = max(high, top)
            joined.append((low, high))
            reached = high * (1 + _NARROWEST_GAP)
        return joined

    @functools.cached_property
    def _positive(self) -> "_Terms":
        """The atoms that are not zero, and the nodes of the continuous part."""
        return self._with_positive_atoms(self.nodes, self.weights)

    def _with_positive_atoms(
        self,
        nodes: Complex[Numbers, " nodes"],
        weights: Numbers,
    ) -> "_Terms":
        """Return the terms of a continuous part, and of the atoms that are not zero."""
        is_positive = self.atoms > 0
        values = np.concatenate([nodes, self.atoms[is_positive]])
        return _terms(values, np.concatenate([weights, self.masses[is_positive]]))


class _Terms(NamedTuple):
    """The terms of a sum over d > 0.

    Attributes:
        values: The values of d.
        columns: Their weights, and their weights times d.
    """

    values: Complex[Numbers, " values"]
    columns: Complex[Numbers, "values 2"]


def _terms(
    values: Complex[Numbers, " values"],
    weights: Num[Numbers, " values"],
) -> _Terms:
    weighted = weights * values
    columns = np.stack([weights, weighted], axis=1)
    return _Terms(values, columns.astype(complex))


def _transforms(zeta: Points, terms: _Terms) -> Transforms:
    """Evaluate the moment transform as a sum."""
    values, columns = terms
    chunks = list(_chunks(zeta, size=len(values)))
    # Buffers for all chunks: fresh memory costs as much as the arithmetic.
    shape = (2, len(chunks[0]), len(values))
    buffers = np.empty(shape, complex)
    parts = []
    # At an atom, or where ζ leaves the exponents, the result is not finite.
    with np.errstate(all="ignore"):
        for z in chunks:
            inverse, share = buffers[:, : len(z)]
            column = z[:, None]
            np.subtract(column, values, out=inverse)
            # np.reciprocal takes a quarter of the time of 1 / inverse.
            np.reciprocal(inverse, out=inverse)
            # ζ/(ζ − d) is of order one also where 1/(ζ − d)² would overflow.
            np.multiply(inverse, column, out=share)
            above_zero, weighted = (share @ columns).T
            share *= inverse
            # dM/dlog ζ = −E ζ d/(ζ − d)².
            rate = -(share @ columns[:, 1])
            parts.append((weighted / z, above_zero, rate))
    fields = zip(*parts, strict=True)
    return Transforms(*map(np.concatenate, fields))


def _angle_of_points(
    zeta: Points,
    places: Float[np.ndarray, " places"],
    masses: Float[np.ndarray, " places"],
    *,
    below: bool,
) -> RealPoints:
    """Evaluate Im E log(ζ − d), or π less that, of point masses on the real axis."""
    gap = zeta[:, None] - places
    real = -gap.real if below else gap.real
    # By the modulus, so that rounding does not put ζ below the axis.
    height = np.abs(gap.imag)
    angles = np.arctan2(height, real)
    return np.sum(angles * masses, axis=1)


def discrete(values: np.typing.ArrayLike, masses: np.typing.ArrayLike) -> Measure:
    """Return the measure Σ mass δ_value; equal values are joined."""
    places = np.asarray(values, float)
    atoms, index = np.unique(places, return_inverse=True)
    masses = np.asarray(masses, float)
    joined = np.bincount(
        index.ravel(),
        masses,
        minlength=len(atoms),
    )
    # Of no values at all `bincount` returns integers.
    joined = joined.astype(float)
    has_mass: Bool[np.ndarray, " atoms"] = joined > 0
    none = np.zeros(0, complex)
    return Measure(
        atoms[has_mass],
        joined[has_mass],
        nodes=none,
        weights=none,
    )


def _chunks(zeta: Points, size: int) -> Iterator[Complex[Numbers, " some"]]:
    """Cut points into parts whose table of (points, size) stays in the cache."""
    size = max(size, 1)
    step = max(_CHUNK // size, 1)
    # One part without points, where there are none.
    end = max(len(zeta), 1)
    for first in range(0, end, step):
        yield zeta[first : first + step]
