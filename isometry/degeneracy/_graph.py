"""The layers of a network as a graph: its coarsest partition, and what zeros and equal sums let through."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from isometry.degeneracy._partition import Classes, Edge, Exact, Near, exact_sums, near_sums, refine, signed_columns
from isometry.degeneracy._settle import Tolerance, discrepancy, settle
from isometry.degeneracy._support import Support, propagate

BIT, TOLERANCE = "bit", "tolerance"
_TIGHT, _WIDE = 8.0, 1000.0  # rounding units within which sums are taken for equal, and for possibly equal
_COARSE = 2.0**-10  # where the wider of them is above, nothing is told apart: only the bit tier is offered


class AtZero(NamedTuple):
    """What counts of an activation: whether it is odd, phi(0) = 0, phi'(0) ≠ 0."""

    odd: bool
    zero: bool
    slope: bool


@dataclass(frozen=True)
class Graph:
    """Layers as a graph of nodes: node 0 is the input, node l the units of layer l; `units`: of the hidden ones."""

    weights: Sequence[np.ndarray]
    biases: Sequence[np.ndarray | None]
    units: Sequence[AtZero]

    @property
    def sizes(self) -> list[int]:
        return [w.shape[0] for w in self.weights] + [self.weights[-1].shape[1]]

    @property
    def edges(self) -> list[Edge]:
        return [Edge(i, i + 1, w) for i, w in enumerate(self.weights)]

    @property
    def hidden_biases(self) -> dict[int, np.ndarray]:
        return {i + 1: b for i, b in enumerate(self.biases[:-1]) if b is not None}

    def _refined(self, rule: Exact | Near, start: list[Classes] | None = None) -> list[Classes]:
        signed, null = [u.odd and u.zero for u in self.units], [u.zero for u in self.units]
        return refine(self.sizes, self.edges, self.hidden_biases, rule, signed=signed, null=null, start=start)

    def partition(self, unit: float) -> tuple[list[Classes], str, float, tuple[int, ...]]:
        """(classes, tier, discrepancy, undecided layers): the coarsest of the exact and the verified near partition."""
        if _WIDE * unit > _COARSE:
            return self._refined(Exact()), BIT, 0.0, ()
        wide = self._refined(Near(_WIDE * unit))  # never finer than the exact one: equal sums are near
        exact = self._refined(Exact(), start=wide)
        if not _coarser(wide, exact):
            return exact, BIT, 0.0, ()
        possible = self._settled(wide, Tolerance(unit, _WIDE))
        near = self._settled(self._refined(Near(_TIGHT * unit), start=possible), Tolerance(unit))
        verified = _coarser(near, exact) and not _coarser(exact, near)
        best = near if verified else exact
        gap = discrepancy(self.edges, self.hidden_biases, near, unit) if verified else 0.0
        return best, TOLERANCE if verified else BIT, gap, _coarser(possible, best)

    def _settled(self, classes: list[Classes], tolerance: Tolerance) -> list[Classes]:
        return settle(self.edges, self.hidden_biases, classes, tolerance)

    def _quotient(self, classes: list[Classes], tier: str) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        weights, biases = [], []
        for w, b, below, above in zip(self.weights, self.biases, classes[:-1], classes[1:], strict=True):
            rows = w.T if above.full else w.T[above.first]
            weights.append(_nonzero(rows, below, tier).T)
            biases.append(None if b is None else b[above.first] != 0)
        return weights, biases

    def supports(self) -> Support:
        """Of the layers as they are: what zeros alone say."""
        return self._propagated([w != 0 for w in self.weights], [None if b is None else b != 0 for b in self.biases])

    def quotient_supports(self, classes: list[Classes], tier: str) -> Support:
        """Of the network of classes: its weights are the block sums, its biases those of the classes."""
        return self._propagated(*self._quotient(classes, tier))

    def _propagated(self, weights: list[np.ndarray], biases: list[np.ndarray | None]) -> Support:
        return propagate(weights, biases, [u.zero for u in self.units], [u.slope for u in self.units])

    def duplicates(self, classes: list[Classes]) -> bool:
        """Whether weights are constant on blocks, up to signs, and zero where a unit is null."""
        return all(
            _constant_on_blocks(w, below, above)
            for w, below, above in zip(self.weights, classes[:-1], classes[1:], strict=True)
        )


def _coarser(found: list[Classes], than: list[Classes]) -> tuple[int, ...]:
    """Nodes where there are fewer classes."""
    return tuple(i for i, (a, b) in enumerate(zip(found, than, strict=True)) if a.count < b.count)


def _nonzero(rows: np.ndarray, classes: Classes, tier: str) -> np.ndarray:
    """Where block sums are not zero; in the tolerance tier, where rounding could not make them so."""
    if tier == BIT:
        return exact_sums(rows, classes)[:, : classes.count] != 0  # a sum that is rounded once is zero if exactly so
    sums, scale = near_sums(rows, classes)
    slack = Tolerance(float(np.finfo(rows.dtype).eps) / 2).of(scale, classes.sizes)
    return np.abs(sums) > np.where(classes.sizes > 1, slack, 0)


def _constant_on_blocks(w: np.ndarray, below: Classes, above: Classes) -> bool:
    if below.full and above.full:
        return True
    used, heads = below.ids >= 0, above.ids >= 0
    if w[~used].any() or w[:, ~heads].any():
        return False
    w = signed_columns(signed_columns(w, above.signs).T, below.signs).T
    model = w[below.first][:, above.first]
    w = w if used.all() and heads.all() else w[np.ix_(used, heads)]
    rows = model if below.count == 1 else model.take(below.ids[used], 0)  # one row stands for all
    return bool((w == (rows if above.count == 1 else rows.take(above.ids[heads], 1))).all())
