"""Probability measures on [0, ∞) with their transforms: what a diagonal factor D² brings to a product.

A measure is kept as atoms and, for its continuous part, nodes and weights on a contour *below* the real axis. The
integrand w(z)/(ζ − d(z)) is analytic on either side of it, so by Cauchy's theorem the sums are right, to rounding, for
ζ in the upper half-plane and on the real axis inside the support, where nodes on the axis would give noise.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any  # a numpy array; typed as such it loses .real and .imag to the checker

_CHUNK = 100_000  # complex numbers held at once by a transform: what a cache holds


@dataclass(frozen=True, eq=False)
class Measure:
    """A probability measure on [0, ∞).

    - `atoms`, `masses`: its atoms, ascending.
    - `nodes`, `weights`: complex; of the continuous part, none below its axis.
    - `pieces`: closed intervals that carry the continuous part.
    - `corners`: where the continuous density may be singular: ends of the pieces and values at extrema within.
    """

    atoms: Array
    masses: Array
    nodes: Array
    weights: Array
    pieces: tuple[tuple[float, float], ...] = ()
    corners: tuple[float, ...] = ()

    @property
    def zero_mass(self) -> float:
        """Weight of the atom at zero."""
        return float(self.masses[self.atoms == 0].sum())

    def transforms(self, zeta: Array) -> tuple[Array, Array, Array]:
        """M(ζ), P(d > 0) + M(ζ) and dM/dlog ζ for ζ of shape (n,); the second keeps relative accuracy."""
        d, w = self._points
        both = np.stack([w, w * d], 1)

        def block(z: Array) -> tuple[Array, Array, Array]:
            share = z[:, None] - d
            np.reciprocal(share, out=share)  # 1 / x takes four times as long
            share *= z[:, None]  # of order one, also where 1/ζ² would overflow
            up, psi = (share @ both).T
            return psi / z, up, (np.multiply(share, share, out=share) @ both[:, 1]) / -z

        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # ζ at an atom, or beyond the exponents
            parts = [block(z) for z in self._chunks(np.asarray(zeta, complex))]
        psi, one_plus, slope = (np.concatenate(p) for p in zip(*parts, strict=True))
        return psi, one_plus, slope

    @functools.cached_property
    def _points(self) -> tuple[Array, Array]:
        off = self.atoms > 0  # an atom at zero adds nothing to M
        return np.r_[self.nodes, self.atoms[off]], np.r_[self.weights, self.masses[off]]

    def log_potential_angle(self, zeta: Array, below: bool = False) -> Array:
        """Im E log(ζ − d)/π for ζ in the closed upper half-plane: the mass above ζ where that is real.

        With `below` one minus that, without cancellation.
        """

        def block(z: Array) -> Array:
            gap = self.atoms - z[:, None] if below else z[:, None] - self.atoms
            total = np.arctan2(np.abs(gap.imag), gap.real) @ self.masses
            if self.nodes.size:  # summed pairwise: a hundred equal layers multiply its rounding
                gap = self.nodes - z[:, None] if below else z[:, None] - self.nodes
                gap = np.where(gap == 0, complex(-1, -0.0) if below else 1, gap)  # both underflowed: d is not above ζ
                smooth = np.sum(np.log(gap) * self.weights, 1).imag
                total = total + (-smooth if below else smooth)
            return total

        return np.concatenate([block(z) for z in self._chunks(np.asarray(zeta, complex))]) / np.pi

    def moment(self, k: int) -> float:
        """E d^k."""
        return float(self.masses @ self.atoms**k + (self.weights @ self.nodes**k).real)

    def mean_log(self, g: Callable[[Array], Array]) -> float:
        """E g(log d) over d > 0, g analytic."""
        d, w = self._points
        return float((w[d != 0] @ (g(np.log(d[d != 0] + 0j)) + np.zeros(1))).real)

    def relative_variance(self) -> float:
        """E d²/(E d)² − 1, without cancellation where d hardly varies."""
        mean = self.moment(1)
        square = self.masses @ (self.atoms - mean) ** 2 + (self.weights @ (self.nodes - mean) ** 2).real
        return float(square) / mean**2

    def gaps(self) -> list[tuple[float, float]]:
        """Open intervals of (0, ∞) without mass, ascending; the last one is unbounded."""
        solid = sorted([*self.pieces, *((float(a), float(a)) for a in self.atoms)])
        found, top = [], 0.0
        for low, high in solid:
            if low > top * (1 + 1e-12):  # else the gap is rounding
                found.append((top, low))
            top = max(top, high)
        return [*found, (top, np.inf)]

    def _chunks(self, zeta: Array) -> list[Array]:
        size = max(1, _CHUNK // max(1, self.nodes.size + self.atoms.size))
        return [zeta[i : i + size] for i in range(0, max(len(zeta), 1), size)]


def discrete(values: Any, masses: Any) -> Measure:
    """The measure Σ mass δ_value; equal values are joined."""
    atoms, index = np.unique(np.asarray(values, float), return_inverse=True)
    joined = np.bincount(index.ravel(), np.asarray(masses, float), len(atoms))
    none = np.zeros(0, complex)
    return Measure(atoms[joined > 0], joined[joined > 0], none, none)
