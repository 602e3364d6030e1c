"""A spectrum and a law by rank: what both have in common when they are compared, or drawn over one another."""

import math
from dataclasses import dataclass

import numpy as np

from isometry import _checks
from isometry.measure._record import Spectrum
from isometry.theory import Law

_MOST_RANKS = 1024
_LEAST_RANKS = 4
_WINDOW = 1e-6  # of log lam around an atom, unless rounding is coarser
_GRID = 1024  # points of log lam at which the law is tabulated


@dataclass(frozen=True)
class Measured:
    """The spectrum by rank, and what lies below its floor."""

    logs: np.ndarray  # log lam (seeds, inputs, nodes), descending, −inf where not resolved
    weights: np.ndarray
    steps: np.ndarray  # mass of each node: what a rank is known to
    size: int
    cut: float  # the rank below which some draw is not resolved
    zeros: np.ndarray  # (seeds,) mass below the floor
    below: np.ndarray  # (seeds,) what the law has there
    windows: dict[float, tuple[float, float]]  # of log lam around each atom off zero
    rounding: float  # half their length

    @classmethod
    def of(cls, sp: Spectrum, law: Law) -> "Measured":
        seeds, nodes = sp.log_values.shape[0], sp.log_values.shape[-1]
        resolved = np.asarray(sp.resolved).reshape(seeds, -1, nodes)
        weights = np.asarray(sp.weights, float).reshape(resolved.shape)
        logs = np.where(resolved, 2 * np.asarray(sp.log_values, float).reshape(resolved.shape), -np.inf)
        zeros = np.where(resolved, 0, weights).sum(-1)
        near = rounding(sp, law)
        windows = {a.lam: (math.log(a.lam) - near, math.log(a.lam) + near) for a in law.atoms if a.lam > 0}
        free = resolved & ~at_atoms(sp, law).reshape(resolved.shape)
        steps = np.where(free, np.maximum(weights, 1 / sp.size), 1 / sp.size)
        cut = max(float(zeros.max()), zero_mass(law))
        below = below_floor(sp, law).reshape(seeds, -1).mean(1)
        return cls(logs, weights, steps, sp.size, cut, zeros.mean(1), below, windows, near)

    @property
    def step(self) -> float:
        """Of the coarsest node."""
        return float(self.steps.max())

    def ranks(self) -> np.ndarray:
        """Midpoints of equal masses, without a node at either end of what is resolved.

        The extreme nodes belong to no law: the largest lies beside its edge by more than it resolves, and one direction
        of each draw, along the signal itself, is contracted by V'(q) instead of chi_1.
        """
        count = min(self.size, _MOST_RANKS)
        u = (np.arange(count) + 0.5) / count
        step = self.steps_at(u)
        u = u[(u > self.cut + step) & (u < 1 - step)]
        if len(u) < _LEAST_RANKS:
            raise _checks.InputError(
                f"compare(): every draw resolves only the top {1 - self.cut:.2g} of {self.size} singular values, too "
                "few to compare; measure with method='product', in float64, or at a greater width."
            )
        return u

    def at_ranks(self, u: np.ndarray) -> np.ndarray:
        """log lam of each matrix at the ranks u, (seeds, inputs, ranks)."""
        return self._picked(self.logs, u)

    def steps_at(self, u: np.ndarray) -> np.ndarray:
        """Mass of the node at each rank, over all matrices: (ranks,)."""
        return self._picked(self.steps, u).mean((0, 1))

    def _picked(self, values: np.ndarray, u: np.ndarray) -> np.ndarray:
        found = np.empty((*values.shape[:-1], len(u)))
        for i in np.ndindex(values.shape[:-1]):
            above = np.cumsum(self.weights[i])
            at = np.searchsorted(above, (1 - u) * above[-1])
            found[i] = values[i][np.minimum(at, len(above) - 1)]
        return found

    def cdf(self, t: np.ndarray) -> np.ndarray:
        """(seeds, points) mass at or below each log lam."""
        found = np.empty((*self.logs.shape[:-1], len(t)))
        for i in np.ndindex(self.logs.shape[:-1]):
            above = np.r_[0, np.cumsum(self.weights[i])]
            found[i] = 1 - above[np.searchsorted(-self.logs[i], -t)] / above[-1]
        return found.mean(1)

    def atom(self, lam: float) -> np.ndarray:
        """(seeds,) mass within the window of an atom."""
        low, high = self.windows[lam]
        return np.where((self.logs >= low) & (self.logs <= high), self.weights, 0).sum(-1).mean(1)


def zero_mass(law: Law) -> float:
    return 1 - law.product.rank


def rounding(sp: Spectrum, law: Law) -> float:
    """Half the window of log lam that counts as an atom: 1e-6, or the rounding of a product of so many layers."""
    eps = float(np.finfo(np.asarray(sp.log_values).dtype).eps)
    return max(_WINDOW, 2 * (law.pairs or 1) * math.sqrt(sp.size) * eps)


def at_atoms(sp: Spectrum, law: Law) -> np.ndarray:
    """(..., nodes) whether a node lies at an atom of the law off zero."""
    logs, near = 2 * np.asarray(sp.log_values, float), rounding(sp, law)
    found = np.zeros(logs.shape, bool)
    for atom in law.atoms:
        if atom.lam > 0:
            found |= np.abs(logs - math.log(atom.lam)) <= near
    return found


def below_floor(sp: Spectrum, law: Law) -> np.ndarray:
    """(...) mass that the law has where each matrix resolves nothing: what its zeros are to be compared with."""
    return np.asarray(law.cdf(np.asarray(sp.log_values[..., 0] + sp.log_floor, float), "log_s"))


class Table:
    """The law's distribution function of log lam on a fine grid, and its inverse: one call of `Law.cdf`."""

    def __init__(self, law: Law, lowest: float, windows: dict[float, tuple[float, float]]):
        low, top = (2 * float(q) for q in np.asarray(law.quantile([lowest, 1.0], "log_s")))
        ends = [t for interval in windows.values() for t in interval]
        t = np.unique(np.r_[np.linspace(low, top, _GRID), ends])
        self.logs, self.mass = t, np.maximum.accumulate(np.asarray(law.cdf(t / 2, "log_s")))
        self.zero = zero_mass(law)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return np.interp(u, self.mass, self.logs)

    def cdf(self, t: np.ndarray) -> np.ndarray:
        return np.where(t < self.logs[0], self.zero, np.interp(t, self.logs, self.mass))

    def reach(self, u: np.ndarray, half: np.ndarray) -> np.ndarray:
        """How far log lam is from its value at rank u where the rank is known to ± half."""
        low = np.maximum(u - half, self.zero + (u - self.zero) / 4)
        at = self.quantile(u)
        return np.maximum(self.quantile(np.minimum(u + half, 1.0)) - at, at - self.quantile(low))
