"""The partition of the units: against every one there is; its sums, against exact ones."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from isometry.degeneracy._partition import Classes, Edge, Exact, exact_sums, is_dyadic, of_groups, refine, singletons


def every_partition(units, signed, null):
    """All bases (units, classes) of class vectors, each once; units in no class are null."""

    def grow(unit, columns):
        if unit == units:
            yield np.array(columns, int).reshape(-1, units).T
            return
        if null:
            yield from grow(unit + 1, columns)
        for i, sign in itertools.product(range(len(columns)), (1, -1) if signed else (1,)):
            changed = [list(c) for c in columns]
            changed[i][unit] = sign
            yield from grow(unit + 1, changed)
        yield from grow(unit + 1, [*columns, [int(j == unit) for j in range(units)]])

    return list(grow(0, []))


def holds(basis, vectors):
    """Whether all `vectors`, columns of whole numbers, are in the span of class vectors: exact."""
    sizes = (basis**2).sum(0)
    return (vectors * np.prod(sizes) == basis @ (np.prod(sizes) // sizes[:, None] * (basis.T @ vectors))).all()


@pytest.mark.parametrize(("signed", "null"), [(True, True), (False, True), (False, False)])
def test_the_partition_is_the_coarsest_of_all(signed, null):
    """Whole weights −1, 0, 1 in nets of widths 2, 3, 4, 1, so that sums collide and cancel; integers are exact."""
    random, lists = np.random.default_rng(3), [every_partition(n, signed, null) for n in (3, 4)]
    dimensions = set()
    for _ in range(60):
        w = [random.integers(-1, 2, shape) for shape in ((2, 3), (3, 4), (4, 1))]
        sign = random.choice([1, -1] if signed else [1])
        w[0][:, 1] = sign * w[0][:, 0]
        if random.random() < 0.7:
            w[1][1] = sign * w[1][0]
        if random.random() < 0.5:
            w[1][:, 3], w[2][3] = w[1][:, 0], w[2][0]
        b = [np.zeros(3, int), random.integers(0, 2) * random.integers(-1, 2, 4)]
        below = [p for p in lists[0] if holds(p, np.c_[w[0].T, b[0]])]
        above = [p for p in lists[1] if holds(p, np.c_[w[2], b[1]])]
        equitable = [(p, q) for p, q in itertools.product(below, above) if holds(q, w[1].T @ p) and holds(p, w[1] @ q)]
        least = min(equitable, key=lambda pair: pair[0].shape[1] + pair[1].shape[1])
        edges = [Edge(i, i + 1, a.astype(float)) for i, a in enumerate(w)]
        biases = {i + 1: a.astype(float) for i, a in enumerate(b)}
        found = refine([2, 3, 4, 1], edges, biases, Exact(), signed=[signed] * 2, null=[null] * 2)
        for classes, expected in zip(found[1:3], least, strict=True):
            basis = (classes.ids[:, None] == np.arange(classes.count)[None]) * classes.signs[:, None]
            assert classes.count == expected.shape[1]
            assert holds(expected, basis.astype(int))
        for pair in equitable:  # and every other is finer
            assert holds(pair[0], least[0])
            assert holds(pair[1], least[1])
        dimensions.add((found[1].count, found[2].count))
    assert len(dimensions) > 4  # not the same answer for all


def test_sums_are_exact():
    """Dyadic terms in any order; others as expansions: 1 + 2^-60 − 1 is not 0, as any plain order may have it."""
    classes = of_groups(np.array([0, 0, 0, -1]), np.ones(4))
    rows = np.array([[1.0, 2.0**-60, -1.0, 5.0], [2.0**-60, 0.0, 0.0, 7.0]])
    assert not is_dyadic(rows[:, :3], 3)
    assert (exact_sums(rows, classes) == 2.0**-60).all()
    parts = exact_sums(np.array([[1, 2.0**-60, 0.3, 5], [2.0**-61, 1, 0.3, 5], [1, 0.3, 2.0**-60, 5]]), classes)
    assert parts[0, 0] == parts[1, 0]  # 1.3 both, when rounded
    assert (parts[0] == parts[2]).all()
    assert (parts[0] != parts[1]).any()
    terms = np.random.default_rng(0).standard_normal((5, 7)) * np.logspace(-30, 0, 7)[None]
    for sizes in ((2, 2, 2, 1), (3, 4)):
        classes = of_groups(np.arange(len(sizes)).repeat(sizes), np.ones(7))
        for row, found in zip(terms, exact_sums(terms, classes), strict=True):
            exact = [sum(map(Fraction, part)) for part in np.split(row, np.cumsum(sizes)[:-1])]
            assert found[: len(sizes)].tolist() == [float(e) for e in exact]
            assert sum(map(Fraction, found)) == sum(exact)
    assert is_dyadic(np.full((3, 1000), 0.1, np.float32), 1000)
    assert is_dyadic(np.full((3, 1000), 0.1, np.float32).astype(float), 1000)
    assert not is_dyadic(np.full((3, 1000), 0.1), 1000)
    assert is_dyadic(np.zeros((2, 3)), 3)
    assert exact_sums(rows, Classes(np.arange(4), np.ones(4), 4)) is rows


def test_classes_are_numbered_by_appearance():
    found = of_groups(np.array([7, -2, 3, 7, 3]), np.array([-1.0, 1, 1, 1, -1]))
    assert found.ids.tolist() == [0, -1, 1, 0, 1]
    assert found.signs.tolist() == [1, 1, 1, -1, -1]
    assert found.sizes.tolist() == [2, 2]
    assert singletons(3).full
