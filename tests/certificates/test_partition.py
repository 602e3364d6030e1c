"""Partitions of entries: what a vector splits, against a comparison of all pairs."""

import numpy as np
import pytest

from isometry.certificates import _partition

GROUP = np.zeros(12, np.int32)


def same_classes(labels, others):
    """Whether two labellings have the same classes, and the same class of zeros."""
    pairs = labels[:, None] == labels[None]
    other_pairs = others[:, None] == others[None]
    return (pairs == other_pairs).all() and ((labels == 0) == (others == 0)).all()


def _with_positive_lead(column):
    lead = column[column != 0]
    sign = np.sign(lead[0]) if len(lead) else 1.0
    # Zeros lose their signs.
    return tuple(sign * column + 0.0)


def test_equal_magnitudes_are_one_class_and_zeros_another():
    values = np.array([2.0, -2.0, 0.0, 5.0, -0.0, 2.0])
    entries = _partition.of_equal(values)
    assert entries.labels().tolist() == [1, 1, 0, 2, 0, 1]
    assert entries.num_classes == 2
    assert (entries.signs[[0, 1, 5]] == [1, -1, 1]).all()


def test_smallest_difference_parts_entries():
    """Theta is compared bit for bit, whatever its size."""
    values = np.array([1.0, 1 + 2.0**-52, 1e-300, 0.0])
    assert _partition.of_equal(values).labels().tolist() == [1, 2, 3, 0]


def test_splits_are_those_of_comparing_all_pairs():
    """Entries are in one class if all vectors agree there, up to one sign."""
    rng = np.random.default_rng(0)
    entries = _partition.all_zero(12)
    vectors = rng.integers(-1, 2, (4, 12)).astype(float)
    # Entries are equal if their columns are, once the first number is positive.
    keys = [_with_positive_lead(column) for column in vectors.T]
    known = sorted(set(keys) - {(0.0,) * 4})
    numbers = {key: i + 1 for i, key in enumerate(known)}
    wanted = np.array([numbers.get(key, 0) for key in keys])
    for vector in vectors:
        entries = _partition.split(entries, vector, np.zeros(12), group=GROUP)
    assert same_classes(entries.labels(), wanted)


def test_vectors_of_the_space_split_nothing():
    """A member of the space is in it."""
    rng = np.random.default_rng(1)
    values = rng.choice([0.0, 1.0, -2.0, 3.0], 40)
    entries = _partition.of_equal(values)
    member = rng.standard_normal(40)
    entries.spread(member, rng.standard_normal(len(entries.starts)))
    again = _partition.split(entries, member, np.zeros(40), group=np.zeros(40, int))
    assert same_classes(again.labels(), entries.labels())


def test_entries_of_different_groups_are_never_equal():
    group = np.array([0, 0, 1, 1])
    entries = _partition.of_equal(np.ones(4), group)
    assert entries.labels().tolist() == [1, 1, 2, 2]


def test_groups_may_be_of_any_order():
    """Leaves that are equal share a group, and others lie between them."""
    group = np.array([0, 1, 0, 1])
    entries = _partition.of_equal(np.ones(4), group)
    assert entries.labels().tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize("together", [1, 7, 20, 1000])
def test_number_of_groups_that_are_cut_together_changes_nothing(together, monkeypatch):
    """Against a labelling by pairs of group and magnitude."""
    rng = np.random.default_rng(3)
    group = rng.integers(0, 30, 100)
    values = rng.choice([1.0, -1.0, 2.0], 100)
    pairs = list(zip(group, np.abs(values), strict=True))
    wanted = np.array([1 + pairs.index(pair) for pair in pairs])
    monkeypatch.setattr(_partition, "_TOGETHER", together)
    entries = _partition.of_equal(values, group)
    assert same_classes(entries.labels(), wanted)
    batches = [ends for _, ends in _partition._by_group(np.arange(100), group)]
    num_groups = len(np.unique(group))
    assert len(batches) == {1: num_groups, 1000: 1}.get(together, len(batches))


def test_gaps_within_the_tolerance_split_nothing():
    """1e-15 is within 1e-14, and 1e-13 is not."""
    values = np.array([1.0, 1 + 1e-15, 1 + 1e-13, 5.0])
    entries = _partition.of_equal(np.ones(4))
    split = _partition.split(entries, values, np.full(4, 1e-14), group=GROUP[:4])
    assert split.labels().tolist() == [1, 1, 2, 3]


def test_one_noisy_entry_does_not_merge_the_others_for_ever():
    """Once it is cut off, the class has the tolerance of those that are left."""
    values = np.array([1.0, 2.0, 1.0, 100.0])
    tolerance = np.array([1e-9, 1e-9, 1e-9, 10.0])
    entries = _partition.of_equal(np.ones(4))
    split = _partition.split(entries, values, tolerance, group=GROUP[:4])
    assert split.labels().tolist() == [1, 2, 1, 3]


@pytest.mark.parametrize("num_equal", [0, 50, 15_000])
def test_large_classes_are_split_as_small_ones(num_equal):
    """Above 10,000 entries only those with a close neighbour are ordered."""
    rng = np.random.default_rng(2)
    values = rng.standard_normal(30_000)
    values[:num_equal] = np.repeat(values[: num_equal // 2], 2)
    rng.shuffle(values)
    zeros = np.zeros(30_000)
    group = zeros.astype(np.int32)
    found = _partition.split(_partition.all_zero(30_000), values, zeros, group=group)
    _, wanted = np.unique(np.abs(values), return_inverse=True)
    assert found.num_classes == wanted.max() + 1
    assert len(found.members) == num_equal
    assert np.array_equal(np.bincount(found.labels())[1:].max(), 1 + bool(num_equal))


def test_entries_that_are_alone_are_in_no_list():
    entries = _partition.of_equal(np.arange(1.0, 6.0))
    assert not entries.is_open
    assert len(entries.members) == len(entries.zeros) == 0
