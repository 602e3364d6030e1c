"""Which of the units that seem equal are equal up to rounding: a partition is verified, and split where it fails."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from isometry.degeneracy._partition import Classes, Edge, near_sums, of_groups, other_end, rows_of, terms_of


class Tolerance(NamedTuple):
    """How far sums may lie from the middle of their class: `factor` times their rounding.

    `unit` is the rounding unit u of the weights. Weights that were each rounded once move a sum by at most u·Σ|w|, and
    float64 forms it of n of them to within n·2⁻⁵³·Σ|w| (Higham, 2002, eq. 4.4). Not n·u·Σ|w|, the bound of a sum formed
    in the weights' precision: no such sum is formed, and n times too much passes for equal what training soon parts.
    """

    unit: float
    factor: float = 1.0

    def of(self, scale: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """What is allowed of sums of `terms` weights whose absolute values add up to `scale`."""
        return scale * (self.factor * (self.unit + np.where(terms > 1, terms, 0) * np.finfo(float).eps / 2))[None]


def discrepancy(edges: Sequence[Edge], biases: dict[int, np.ndarray], classes: list[Classes], unit: float) -> float:
    """How far from equitable a partition is: the largest distance of a block sum from the middle of its class, or from
    zero for null units, in units of its rounding (see `Tolerance`).
    """
    nodes = range(len(classes))
    apart = (
        _apart(signed, classes[i], allowed)
        for i in nodes
        for signed, allowed in _sums(i, edges, biases, classes, Tolerance(unit))
    )
    return max((float(a.max(initial=0)) for a in apart), default=0.0)


def settle(
    edges: Sequence[Edge], biases: dict[int, np.ndarray], classes: list[Classes], tolerance: Tolerance
) -> list[Classes]:
    """A partition no coarser than `classes` whose block sums agree to within `tolerance`.

    Classes that fail are split, along the sum that fails most, and what their parts no longer agree in is split in
    turn, until all hold; a failure elsewhere takes nothing from a class that holds. Cost: a few passes, each over the
    weights of shared units.
    """
    classes, pending = list(classes), set(range(1, len(classes) - 1))
    while pending:
        node = min(pending)
        pending.discard(node)
        for signed, allowed in _sums(node, edges, biases, classes, tolerance):
            found = _split(signed, classes[node], allowed)
            if found is not classes[node]:
                classes[node] = found
                pending |= {node, *(n for e in edges for n in other_end(e, node) if 0 < n < len(classes) - 1)}
                break
    return classes


def _sums(
    node: int, edges: Sequence[Edge], biases: dict[int, np.ndarray], classes: list[Classes], tolerance: Tolerance
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(sums times signs, what is allowed) of the units of `node` that are null or share a class, a term at a time."""
    shared = classes[node].shared
    if not shared.any():
        return
    signs = classes[node].signs[shared][:, None]
    for w, columns in terms_of(node, edges, biases, classes):
        sums, scale = near_sums(rows_of(w, shared), columns)
        yield sums * signs, tolerance.of(scale, columns.sizes)


def _apart(signed: np.ndarray, classes: Classes, allowed: np.ndarray) -> np.ndarray:
    """(shared units, sums) distance from the middle of their class over what is allowed; at most 1 if, and only if,
    some value, zero for null units, is within what each of them allows."""
    ids = classes.ids[classes.shared]
    found, first = np.unique(ids, return_index=True)
    model = np.zeros((classes.count + 1, signed.shape[1]))
    model[found[found >= 0]] = signed[first[found >= 0]]
    offset = signed - model[ids]  # exact between neighbours, and zero where all are equal
    low, high = np.full((2, *model.shape), [[[-np.inf]], [[np.inf]]])
    np.maximum.at(low, ids, offset - allowed)
    np.minimum.at(high, ids, offset + allowed)
    low[-1] = high[-1] = 0  # of null units
    distance = np.abs(offset - (low[ids] / 2 + high[ids] / 2))
    ratio = np.full_like(distance, np.inf)
    np.divide(distance, allowed, out=ratio, where=allowed > 0)
    return np.where(distance > 0, ratio, 0)


def _split(signed: np.ndarray, classes: Classes, allowed: np.ndarray) -> Classes:
    """With the classes that fail split where units are apart by more than is allowed; `classes` itself if all hold."""
    apart, members = _apart(signed, classes, allowed), np.flatnonzero(classes.shared)
    found, fresh = classes.ids.copy(), classes.count
    for c in np.unique(classes.ids[members[(apart > 1).any(1)]]):
        at = np.flatnonzero(classes.ids[members] == c)
        column = np.argmax(apart[at].max(0))
        parts = _parts(signed[at, column], allowed[at, column], c < 0)
        found[members[at]] = np.where(parts == 0, c, parts - 1 + fresh)
        fresh += parts.max()
    return classes if fresh == classes.count else of_groups(found, classes.signs)


def _parts(values: np.ndarray, allowed: np.ndarray, null: bool) -> np.ndarray:
    """Numbers of the parts of a class, split at gaps that are wider than both ends allow, or else at the widest; for
    null units part 0 is of those that are zero."""
    if null:
        zero = np.abs(values) <= allowed
        return np.where(zero, 0, 1)
    order = np.argsort(values, kind="stable")
    gaps, slack = np.diff(values[order]), allowed[order][1:] + allowed[order][:-1]
    wide = gaps > slack
    if not wide.any():
        wide = np.arange(len(gaps)) == np.argmax(gaps)
    parts = np.empty(len(values), int)
    parts[order] = np.concatenate([[0], np.cumsum(wide)])
    return parts
