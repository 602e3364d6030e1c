"""A spectrum and a law by rank: log lam at a given mass below."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from isometry._internal.errors import InputError
from isometry.comparison._atoms import mass_below_floor, window
from isometry.measure._record import Spectrum
from isometry.theory import Law

Ranks = Float[np.ndarray, " ranks"]
PerSeed = Float[np.ndarray, " seeds"]
Points = Float[np.ndarray, " points"]

# Ranks at which a spectrum and a law are compared. With ten times fewer, the largest
# distance of the distribution functions may fall between two of them; more cost time.
_MOST_RANKS = 1024

# With fewer there are no halves to compare without their outermost tenths.
_LEAST_RANKS = 4

# Points of log lam at which the law is tabulated. Linear interpolation errs by 1e-6 of
# its range, far below any band; with ten times fewer by 1e-4, which large widths see.
_POINTS = 1024


@dataclass(frozen=True)
class MeasuredRanks:
    """The measured spectrum by rank, and what lies below its floor.

    Attributes:
        log_lam: (seeds, inputs, nodes), descending, -inf where not resolved.
        weights: (seeds, inputs, nodes), the mass of each node.
        size: The number of singular values of a matrix.
        step: What a rank is known to: the mass of one unit of a layer. Pixels share
            the weights of a unit, so that their values are not independent.
        displaced: How far outliers may displace the ranks of all others.
        law_zeros: The law's mass at zero.
        law_below: (seeds,) the law's mass below the floor.
        windows: The ends in log lam of what counts as an atom, by its lam.
        rounding: Half the length of such a window.
    """

    log_lam: Float[np.ndarray, "seeds inputs nodes"]
    weights: Float[np.ndarray, "seeds inputs nodes"]
    size: int
    step: float
    displaced: float
    law_zeros: float
    law_below: PerSeed
    windows: Mapping[float, tuple[float, float]]
    rounding: float

    @classmethod
    def of(cls, sp: Spectrum, law: Law, width: int) -> "MeasuredRanks":
        """Order a spectrum over (seeds, inputs).

        Args:
            sp: The spectrum.
            law: The law.
            width: The number of units of a layer.
        """
        num_seeds, *_, num_nodes = sp.log_values.shape
        # All axes between seeds and values count as inputs.
        shape = (num_seeds, -1, num_nodes)
        is_resolved = np.asarray(sp.resolved)
        is_resolved = is_resolved.reshape(shape)
        weights = np.asarray(sp.weights, float)
        weights = weights.reshape(shape)
        log_values = np.asarray(sp.log_values, float)
        log_lam = 2 * log_values.reshape(shape)
        of_matrices = mass_below_floor(sp, law)
        below = of_matrices.reshape(num_seeds, -1)
        below = below.mean(1)
        half = window(sp, law)
        windows = {}
        for atom in law.atoms:
            if atom.lam > 0:
                place = math.log(atom.lam)
                ends = (place - half, place + half)
                windows[atom.lam] = ends
        largest_weight = float(weights.max())
        return cls(
            log_lam=np.where(is_resolved, log_lam, -np.inf),
            weights=weights,
            size=sp.size,
            step=max(largest_weight, 1 / width),
            displaced=law.outliers / sp.size,
            law_zeros=law.zero_mass,
            law_below=below,
            windows=windows,
            rounding=half,
        )

    @property
    def zeros(self) -> Float[np.ndarray, "seeds inputs"]:
        """The mass below the floor."""
        is_resolved = np.isfinite(self.log_lam)
        lost = np.where(is_resolved, 0, self.weights)
        return lost.sum(-1)

    @property
    def cut(self) -> float:
        """The rank below which some draw, or the law, has zeros."""
        most_measured = float(self.zeros.max())
        # A rank is compared only if every draw resolves it.
        return max(most_measured, self.law_zeros)

    def without_largest(
        self, counts: Int[np.ndarray, "seeds inputs"]
    ) -> "MeasuredRanks":
        """Leave out as many of the largest values of each draw as `counts` says."""
        num_nodes = self.log_lam.shape[-1]
        position = np.arange(num_nodes)
        is_left_out = position < counts[..., None]
        weights = np.where(is_left_out, 0, self.weights)
        # What is left has mass 1 again, as the law has without its outliers.
        total = weights.sum(-1, keepdims=True)
        return replace(self, weights=weights / total)

    def ranks(self) -> Ranks:
        """Return midpoints of equal masses, without a unit at either end.

        The extreme values belong to no law: the largest lies beside its edge by more
        than it resolves, and one direction of each draw, along the signal itself, is
        contracted by V'(q) instead of chi_1.

        Raises:
            InputError: Too few ranks are resolved.
        """
        count = min(self.size, _MOST_RANKS)
        u = (np.arange(count) + 0.5) / count
        is_resolved = u > self.cut + self.step
        is_inside = u < 1 - self.step
        u = u[is_resolved & is_inside]
        if len(u) < _LEAST_RANKS:
            raise InputError(
                f"every draw resolves only the top {1 - self.cut:.2g} of {self.size} "
                "singular values, too few to compare; measure with method='product', "
                "in float64, or at a greater width."
            )
        return u

    def at(self, u: Ranks) -> Float[np.ndarray, "seeds inputs ranks"]:
        """Return log lam of each matrix at the ranks u."""
        matrices = self.log_lam.shape[:-1]
        log_lam = np.empty((*matrices, len(u)))
        for matrix in np.ndindex(matrices):
            weights = self.weights[matrix]
            mass_above = np.cumsum(weights)
            wanted = (1 - u) * mass_above[-1]
            node = np.searchsorted(mass_above, wanted)
            # Rounding may put the last rank behind the end.
            last = len(mass_above) - 1
            node = np.minimum(node, last)
            log_lam[matrix] = self.log_lam[matrix][node]
        return log_lam

    def cdf(self, points: Points) -> Float[np.ndarray, "seeds points"]:
        """Return the mass at or below each log lam, averaged over the inputs."""
        matrices = self.log_lam.shape[:-1]
        mass = np.empty((*matrices, len(points)))
        for matrix in np.ndindex(matrices):
            weights = self.weights[matrix]
            mass_above = np.append(0, np.cumsum(weights))
            descending = self.log_lam[matrix]
            # `searchsorted` asks for what rises.
            rising = -descending
            node = np.searchsorted(rising, -points)
            share_above = mass_above[node] / mass_above[-1]
            mass[matrix] = 1 - share_above
        return mass.mean(1)

    def atom_mass(self, lam: float) -> PerSeed:
        """Return the mass within the window of an atom."""
        low, high = self.windows[lam]
        is_above_low = self.log_lam >= low
        is_below_high = self.log_lam <= high
        is_inside = is_above_low & is_below_high
        weights = np.where(is_inside, self.weights, 0)
        of_matrices = weights.sum(-1)
        return of_matrices.mean(1)


class LawTable:
    """The law's distribution function of log lam on a fine grid, and its inverse.

    It costs one call of `Law.cdf`.
    """

    def __init__(
        self,
        law: Law,
        lowest: float,
        windows: Mapping[float, tuple[float, float]],
    ):
        """Tabulate a law.

        Args:
            law: The law.
            lowest: The lowest mass that will be asked for.
            windows: The ends of atoms, which become points of the grid.
        """
        ranks = [lowest, 1.0]
        log_s = law.quantile(ranks, "log_s")
        low, top = 2 * np.asarray(log_s)
        grid = np.linspace(low, top, _POINTS)
        # Both ends of an atom are points, so that its mass lies between the two.
        ends = list(windows.values())
        self.log_lam = np.union1d(grid, ends)
        log_s = self.log_lam / 2
        mass = law.cdf(log_s, "log_s")
        # Rounding must not make it fall.
        self.mass = np.maximum.accumulate(mass)
        self.zero = law.zero_mass

    def quantile(self, u: Ranks) -> Ranks:
        """Return log lam at the ranks u."""
        return np.interp(u, self.mass, self.log_lam)

    def cdf(self, points: Points) -> Points:
        """Return the mass at or below each log lam."""
        mass = np.interp(points, self.log_lam, self.mass)
        # Below the grid `interp` would repeat its first mass.
        lowest = self.log_lam[0]
        is_below = points < lowest
        return np.where(is_below, self.zero, mass)

    def reach(self, u: Ranks, half: float) -> Ranks:
        """Return by how much log lam may change if u is known to ± half only."""
        # At the mass at zero log lam is −inf. So a rank moves down by three quarters of
        # its distance from that mass at most, and the change stays finite.
        above_zero = u - self.zero
        lowest = self.zero + above_zero / 4
        low = np.maximum(u - half, lowest)
        high = np.minimum(u + half, 1.0)
        log_lam = self.quantile(u)
        upward = self.quantile(high) - log_lam
        downward = log_lam - self.quantile(low)
        return np.maximum(upward, downward)
