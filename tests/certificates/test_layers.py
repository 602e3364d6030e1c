"""Rows of certificates: slices that differ, ranks, and stacked or cut leaves."""

import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry.certificates import _layers
from isometry.certificates._gradients import Space

# Classes of entries times signs; 0 never moves.
COLUMNS_OPPOSITE = np.array([[1, -1, 2], [3, -3, 4]])
PERMUTED = np.array([[1, 2], [2, 1]])
MASKED = np.array([[1, 0], [2, 3]])


@pytest.mark.parametrize(
    ("code", "distinct", "never", "rank", "is_product"),
    [
        (np.arange(1, 7).reshape(2, 3), (2, 3), 0, 2, True),
        (COLUMNS_OPPOSITE, (2, 2), 0, 2, True),
        (np.full((3, 4), 5), (1, 1), 0, 1, True),
        (np.zeros((3, 4), int), (0, 0), 1, 0, True),
        # Two numbers in four entries: a lock that spectral functions do not keep.
        (PERMUTED, (2, 2), 0, 2, False),
        (MASKED, (2, 2), 0.25, 2, False),
        # A diagonal has full rank, an anti-symmetric matrix of odd size has not.
        (np.diag([1, 2, 3]), (3, 3), 6 / 9, 3, False),
        (np.array([[0, 1, 2], [-1, 0, 3], [-2, -3, 0]]), (3, 3), 3 / 9, 2, False),
        # A kernel of two taps is a matrix of 4 × 3: its taps are among the rows.
        (np.arange(12).reshape(2, 2, 3), (2, 2, 3), 1 / 12, 3, False),
    ],
)
def test_counts_are_those_of_the_classes(code, distinct, never, rank, is_product):
    """Known by hand; the rank is that of a generic matrix of the pattern."""
    found = _layers.counts(code)
    assert found.distinct == distinct
    assert found.never_moves == pytest.approx(never)
    assert found.rank_bound == rank
    assert found.is_product == is_product


def test_equal_slices_share_a_number_and_dead_ones_have_none():
    code = np.array([[1, -2], [-1, 2], [0, 0], [1, 2]])
    assert _layers.slice_ids(code, 0).tolist() == [0, 0, -1, 1]


def test_slices_of_a_stacked_leaf_have_rows_of_their_own():
    """A network scans over blocks whose weights are stacked on a first axis."""
    net = isometry.networks.mlp([3, 4, 4, 4, 2], "tanh")
    params = {"layers": ({"w": np.ones((1, 3, 4))}, {"w": np.ones((2, 4, 4))})}
    space = Space(params)
    rows = _layers.slices(net.anatomy, space)
    assert [row.name for row in rows] == ["layers/0", "layers/1[0]", "layers/1[1]"]
    stacked = space.arrays(np.arange(44.0))[1]
    assert np.array_equal(stacked[rows[2].within], stacked[1])


def test_stretches_of_a_leaf_have_rows_of_their_own():
    """One leaf holds two weights, side by side."""

    def f(params, x):
        first, second = jnp.split(params["w"], 2, axis=1)
        return jnp.tanh(x @ first) @ second

    params = {"w": np.ones((3, 6), np.float32)}
    anatomy = isometry.anatomy(f, params, np.ones(3, np.float32))
    rows = _layers.slices(anatomy, Space(params))
    code = np.arange(18).reshape(3, 6)
    assert [code[row.within].tolist() for row in rows] == [
        code[:, :3].tolist(),
        code[:, 3:].tolist(),
    ]
