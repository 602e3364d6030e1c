"""Which units stay equal for ever: the coarsest equitable partition of a network's units, on plain arrays.

An equitable partition puts the units of every node (a layer, before and after its activation) into classes, with a sign
per unit if the activation is odd, such that for any two classes C, D of neighbouring nodes

    s_i Σ_{j ∈ D} s_j w_ji  is the same for all i in C,   s_j Σ_{i ∈ C} s_i w_ji  the same for all j in D,

and so is s_i b_i. Inputs and outputs are their own classes. Units that are in no class are *null*: every such sum over
them is zero, and so are their biases.

**Why it locks training.** Let V_l be the span of the class vectors Σ_{i ∈ C} s_i e_i. The sums say that Wᵀ maps
V_{l-1} into V_l and W maps V_l into V_{l-1}; activations with phi(0) = 0 (or without null units) map V_l into itself.
So activations and back-propagated signals lie in V_l for every input, and the gradient a δᵀ is constant on blocks up to
the signs. Adding such a matrix keeps every sum equal: the partition is as equitable after a step as before it. Entries
within a block may differ; only their sums count.

**Why there is a coarsest one, and how it is found.** Signed partitions with null units are exactly the subspaces
spanned by sign vectors of disjoint supports, and these are closed under intersection. The smallest invariant one is
reached from V = 0 by growing: of each node the least such subspace that contains its bias and the images of its
neighbours, that is, the classes of equal rows (up to sign) of the matrix of those vectors, until nothing grows (colour
refinement, from below). The sweep runs forward first: units told apart by their incoming weights are settled.

Sources: lumpability of Markov chains (Kemeny and Snell, 1960), graph fibrations (Boldi and Vigna, 2002); of networks
Fukumizu and Amari (2000), Simsek et al. (2021), who treat units with equal incoming weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

_PREFIX = 8  # sums that are compared first: generic weights are told apart by them
_PROJECTIONS = 4
_DIGITS = 53  # of a float64


class Edge(NamedTuple):
    """Weights `w`, (units of source, units of target), between two nodes."""

    source: int
    target: int
    w: np.ndarray


@dataclass(frozen=True, eq=False)
class Classes:
    """The units of one node: `ids` of their classes, 0 … count − 1, or −1 for null; `signs` relative to the first."""

    ids: np.ndarray
    signs: np.ndarray
    count: int

    @property
    def sizes(self) -> np.ndarray:
        """(count,) units of each class."""
        return np.bincount(self.ids[self.ids >= 0], minlength=self.count)

    @property
    def full(self) -> bool:
        """Whether every unit is its own class."""
        return self.count == len(self.ids)

    @property
    def shared(self) -> np.ndarray:
        """(units,) whether a unit is null or shares its class."""
        null = self.ids < 0
        return null if not self.count else null | (self.sizes[self.ids] > 1)

    @property
    def first(self) -> np.ndarray:
        """(count,) the first unit of each class, whose sign is +1."""
        members = np.flatnonzero(self.ids >= 0)
        return members[np.unique(self.ids[members], return_index=True)[1]]

    def head(self, count: int) -> "Classes":
        """The first `count` classes alone; what is in the others counts as null."""
        if count >= self.count:
            return self
        return Classes(np.where(self.ids < count, self.ids, -1), self.signs, count)


Terms = list[tuple[np.ndarray, Classes]]
"""What is summed for the units of a node: rows of weights, and the classes of their columns."""


def singletons(units: int) -> Classes:
    """Every unit its own class."""
    return Classes(np.arange(units), np.ones(units), units)


def of_groups(ids: np.ndarray, signs: np.ndarray) -> Classes:
    """`Classes` of arbitrary labels (negative: null), numbered by first appearance."""
    members = np.flatnonzero(ids >= 0)
    _, index, inverse = np.unique(ids[members], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(index))
    found, relative = np.full(len(ids), -1), np.ones(len(ids))
    found[members] = rank[inverse]
    relative[members] = signs[members] * signs[members][index][inverse]
    return Classes(found, relative, len(index))


class Rule(Protocol):
    """What it means that two rows of sums are equal."""

    def holds(self, terms: Terms, classes: Classes) -> bool:
        """Whether units of a class are known to have equal sums, and null units none; False if it is not known."""
        ...

    def group(self, terms: Terms, signed: bool) -> tuple[np.ndarray, np.ndarray]:
        """(ids, signs) of the units with equal sums over all classes, up to sign if `signed`; −1 where all are zero."""
        ...


def refine(
    sizes: Sequence[int],
    edges: Sequence[Edge],
    biases: dict[int, np.ndarray],
    rule: Rule,
    *,
    signed: Sequence[bool],
    null: Sequence[bool],
    start: Sequence[Classes] | None = None,
) -> list[Classes]:
    """The coarsest partition, of nodes of `sizes` units; the first and the last are inputs and outputs.

    Of each node between them, `signed`: classes up to sign (odd activations); `null`: units may belong to no class
    (phi(0) = 0). `start`: a partition that is known to be no finer, from which to grow.

    Cost: a pass over the weights where they are generic; otherwise at most one a new class, in practice a few.
    """
    last = len(sizes) - 1
    classes = [Classes(np.full(n, -1), np.ones(n), 0) for n in sizes] if start is None else list(start)
    classes[0], classes[last] = singletons(sizes[0]), singletons(sizes[last])
    pending = {node for node in range(1, last) if not classes[node].full}
    forward = True
    while pending:
        for node in range(1, last) if forward else range(last - 1, 0, -1):
            if node not in pending:
                continue
            pending.discard(node)
            found = _classify(node, classes, edges, biases, rule, signed[node - 1], null[node - 1])
            if found.count > classes[node].count:
                classes[node] = found
                pending |= {n for e in edges for n in other_end(e, node) if 0 < n < last and not classes[n].full}
        forward = not forward
    return classes


def other_end(edge: Edge, node: int) -> tuple[int, ...]:
    return (edge.target,) if edge.source == node else (edge.source,) if edge.target == node else ()


def _classify(
    node: int,
    classes: list[Classes],
    edges: Sequence[Edge],
    biases: dict[int, np.ndarray],
    rule: Rule,
    signed: bool,
    null: bool,
) -> Classes:
    """The units of `node` whose sums over the classes of its neighbours agree.

    A few sums are compared first; only units that these do not tell apart are compared in all of them.
    """
    terms = terms_of(node, edges, biases, classes)
    units = len(classes[node].ids)
    if not terms:
        return of_groups(np.full(units, -1 if null else 0), np.ones(units))
    if rule.holds(terms, classes[node]):
        return classes[node]
    few = all(c.count <= _PREFIX for _, c in terms)
    ids, signs = rule.group(terms if few else [(w, c.head(_PREFIX)) for w, c in terms[:1]], signed)
    together = (ids < 0) | (np.bincount(ids[ids >= 0], minlength=units)[ids] > 1)
    if together.any() and not few:
        finer, signs[together] = rule.group([(rows_of(w, together), c) for w, c in terms], signed)
        ids[together] = np.where(finer < 0, -1, finer + units)
    return of_groups(ids if null else ids + 1, signs)


def terms_of(node: int, edges: Sequence[Edge], biases: dict[int, np.ndarray], classes: list[Classes]) -> Terms:
    """What is summed for the units of `node`: its weights to both sides, and its biases."""
    terms = [(e.w.T, classes[e.source]) for e in edges if e.target == node and classes[e.source].count]
    terms += [(e.w, classes[e.target]) for e in edges if e.source == node and classes[e.target].count]
    return terms + ([(biases[node][:, None], singletons(1))] if node in biases else [])


def rows_of(w: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return w if chosen.all() else _columns(w.T, np.flatnonzero(chosen)).T


def _columns(w: np.ndarray, index: np.ndarray) -> np.ndarray:
    """w[:, index], read along memory: several times as fast."""
    return w.take(index, 1) if w.flags.c_contiguous else w.T.take(index, 0).T


def signed_columns(w: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """The columns of `w` times their signs."""
    return w if (signs > 0).all() else w * signs.astype(w.dtype)


class Exact:
    """Sums equal as real numbers, without any rounding."""

    def holds(self, terms: Terms, classes: Classes) -> bool:
        chosen = classes.shared
        ids, null = classes.ids[chosen], classes.ids[chosen] < 0
        place = np.cumsum(chosen) - 1  # of a unit among the chosen
        model = np.where(null, 0, place[classes.first[ids]] if classes.count else 0)  # the first of its class
        for w, columns in terms:
            rows = signed_columns(rows_of(w, chosen).T, classes.signs[chosen]).T
            if _alike(rows, null, model):
                continue  # weight by weight, so in their sums
            sums = exact_sums(rows, columns)
            if not _alike(sums, null, model):
                return False
        return True

    def group(self, terms: Terms, signed: bool) -> tuple[np.ndarray, np.ndarray]:
        rows = np.concatenate([exact_sums(w, classes) for w, classes in terms], 1)
        signs = np.ones(len(rows))
        if signed:
            leading = rows[np.arange(len(rows)), np.argmax(rows != 0, 1)]
            signs = np.where(leading < 0, -1.0, 1.0)
        rows = rows * signs.astype(rows.dtype)[:, None] + rows.dtype.type(0)  # −0.0 becomes 0.0
        seen: dict[bytes, int] = {}
        ids = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in rows])
        return np.where(rows.any(1), ids, -1), signs


def _alike(rows: np.ndarray, null: np.ndarray, model: np.ndarray) -> bool:
    """Whether rows are zero where null, and else equal to the row that is their model."""
    if null.any():
        return not rows[null].any() and bool((rows[~null] == rows.take(model[~null], 0)).all())
    return bool((rows == (rows.take(model, 0) if model.any() else rows[:1])).all())


def exact_sums(w: np.ndarray, classes: Classes) -> np.ndarray:
    """(units, classes) sums of the rows of `w` over the classes of its columns, rounded once; then, where some need
    them, further columns with the rounded remainders, so that rows are equal if and only if all exact sums are.

    A sum of floats is exact in any order if all are multiples of one power of two 2^e and n max|w| < 2^(e + 53):
    identities, constants, Hadamard matrices. Others are expansions (Shewchuk, 1997).
    """
    if classes.full:
        return w
    if not len(members := _members(classes)):
        return _columns(w, classes.first)
    out = _columns(w, classes.first).astype(float)
    terms = signed_columns(_columns(w, members), classes.signs[members])
    sizes = classes.sizes[classes.sizes > 1]
    dyadic = is_dyadic(terms, sizes.max())
    out[:, classes.sizes > 1], *rest = (
        [_block_sums(terms.astype(float), sizes)] if dyadic else _expansions(terms, sizes)
    )
    return np.concatenate([out, *rest], 1) if rest else out


def _expansions(terms: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Sums of the columns in runs of `sizes`, each rounded correctly, and what is left of them, until nothing is."""
    if sizes.max() == 2:
        a, b = terms[:, ::2].astype(float), terms[:, 1::2].astype(float)
        total = a + b
        rest = (a - (total - (total - a))) + (b - (total - a))  # exact (Knuth, 1969)
        return [total, rest] if rest.any() else [total]
    ends = np.cumsum(sizes)
    runs = [[row[j - n : j] for n, j in zip(sizes, ends, strict=True)] for row in terms.tolist()]
    found: list[np.ndarray] = []
    while not found or found[-1].any():
        found.append(np.array([[math.fsum(run) for run in row] for row in runs]))
        for row, sums in zip(runs, found[-1].tolist(), strict=True):
            for run, total in zip(row, sums, strict=True):
                run.append(-total)
    return found[: max(len(found) - 1, 1)]


def _members(classes: Classes) -> np.ndarray:
    """Units of classes of two or more, class by class."""
    chosen = np.flatnonzero(classes.shared & (classes.ids >= 0))
    return chosen[np.argsort(classes.ids[chosen], kind="stable")]


def _block_sums(terms: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Sums of the columns in runs of `sizes`, in float64."""
    starts = np.cumsum(sizes) - sizes
    if sizes.max() == 2:
        return _columns(terms, starts) + _columns(terms, starts + 1)
    return np.add.reduceat(np.ascontiguousarray(terms), starts, 1)


def is_dyadic(terms: np.ndarray, count: int) -> bool:
    """Whether float64 sums of `count` of `terms` are exact in any order."""
    size = np.abs(terms)
    top = float(size.max(initial=0)) * count
    least = float(size.min(where=size > 0, initial=np.inf))
    spare = _DIGITS - np.finfo(terms.dtype).nmant - 1  # all are multiples of the last digit of the least of them
    if top <= math.ldexp(least, spare):
        return True
    unit_exponent = math.frexp(top)[1] - _DIGITS  # multiples of this unit up to `top` have at most 53 digits
    scaled = np.ldexp(terms.astype(float), -unit_exponent)
    return bool((scaled == np.rint(scaled)).all())


@dataclass(frozen=True)
class Near:
    """Sums equal up to a tolerance, a multiple of the rounding unit of the weights: a guess, to be verified.

    Clusters by the gaps of a few random projections; an error of one unit in each term moves a projection by about the
    unit times the norm of the terms.
    """

    tolerance: float

    def holds(self, terms: Terms, classes: Classes) -> bool:
        return False  # nothing is settled by a guess

    def group(self, terms: Terms, signed: bool) -> tuple[np.ndarray, np.ndarray]:
        random, units, rounding = np.random.default_rng(0), len(terms[0][0]), 0.0
        values, squares = np.zeros((units, _PROJECTIONS)), np.zeros(units)
        for w, classes in terms:
            member, w = classes.ids >= 0, w.astype(float)
            direction, size = np.zeros((len(member), _PROJECTIONS)), np.zeros(len(member))
            chosen = random.standard_normal((classes.count, _PROJECTIONS))[classes.ids[member]]
            direction[member] = chosen * classes.signs[member][:, None]
            size[member] = classes.sizes[classes.ids[member]]
            values += w @ direction  # of the sums, without forming them
            squares += np.square(w, out=w) @ size  # at least the sum over classes of (Σ|w|)²
            rounding = max(rounding, 8 * math.sqrt(len(member)) * np.finfo(float).eps)  # of w @ direction itself
        slack = (self.tolerance + rounding) * np.sqrt(squares)
        signs = np.where(values[:, 0] < 0, -1.0, 1.0) if signed else np.ones(units)
        ids = np.zeros(units, int)
        for value in (values * signs[:, None]).T:
            order = np.lexsort((value, ids))
            gap = np.diff(value[order]) > np.maximum(slack[order][1:], slack[order][:-1])
            ids[order] = np.concatenate([[0], np.cumsum(gap | (np.diff(ids[order]) != 0))])
        null = np.ones(units, bool)  # of clusters: units with equal sums share it, whatever their slack
        np.logical_and.at(null, ids, (np.abs(values) <= slack[:, None]).all(1))
        return np.where(null[ids], -1, ids), signs


def near_sums(w: np.ndarray, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """(units, classes) sums of the rows of `w` over the classes of its columns in float64, and the sums of |w|."""
    w = w.astype(float)
    if classes.full:
        return w, np.abs(w)
    sums = _columns(w, classes.first)
    scale = np.abs(sums)
    if len(members := _members(classes)):
        shared, sizes = classes.sizes > 1, classes.sizes[classes.sizes > 1]
        terms = signed_columns(_columns(w, members), classes.signs[members])
        sums[:, shared] = _block_sums(terms, sizes)
        scale[:, shared] = _block_sums(np.abs(terms), sizes)
    return sums, scale
