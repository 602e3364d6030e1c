"""Random members of spaces: each is in its space, of the sizes that it is meant for."""

import numpy as np
import pytest

from isometry.certificates import _members, _partition
from isometry.certificates._gradients import Space

PARAMS = {
    "bias": np.zeros(4),
    "matrix": np.tile([0.5, -0.5, 0.0, 2.0], (64, 1)),
}
SPACE = Space(PARAMS)
EQUAL = _partition.of_equal(SPACE.theta, SPACE.leaf)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kind", range(_members.NUM_KINDS))
def test_exact_points_are_in_the_space(kind):
    """Equal up to sign, and zero, where theta is."""
    point = _members.exact_point(SPACE, EQUAL, kind, rng=RNG)
    bias, matrix = SPACE.arrays(point)
    assert (bias == 0).all()
    assert (matrix[:, 2] == 0).all()
    assert np.array_equal(matrix[:, 0], -matrix[:, 1])
    assert len(np.unique(matrix[:, 0])) == len(np.unique(matrix[:, 3])) == 1
    assert abs(matrix[0, 0]) != abs(matrix[0, 3])


def test_near_points_keep_magnitudes():
    point = _members.exact_point(SPACE, EQUAL, _members.NEAR, rng=RNG)
    ratio = np.abs(point[SPACE.theta != 0] / SPACE.theta[SPACE.theta != 0])
    assert (ratio > 0.74).all()
    assert (ratio < 1.26).all()


def test_fresh_points_keep_signals_near_one():
    """Independent entries add up to their root, and equal ones to their number."""
    alone = Space({"w": np.arange(1.0, 64 * 64 + 1).reshape(64, 64)})
    classes = _partition.of_equal(alone.theta, alone.leaf)
    point = _members.exact_point(alone, classes, _members.FRESH, rng=RNG)
    signal = np.ones(64) @ point.reshape(64, 64)
    # The mean of 64 squares of variance 1/4 is off by a factor of 2 in less than 1e-4.
    assert 0.12 < np.mean(signal**2) < 0.5
    ones = Space({"w": np.ones((64, 64))})
    classes = _partition.of_equal(ones.theta, ones.leaf)
    point = _members.exact_point(ones, classes, _members.FRESH, rng=RNG)
    assert np.abs(np.ones(64) @ point.reshape(64, 64)).max() < 3


def test_tiny_points_are_tiny():
    point = _members.exact_point(SPACE, EQUAL, _members.TINY, rng=RNG)
    assert 0 < np.abs(point).max() < 1e-9


def test_affine_points_are_shrunk_theta_plus_a_member():
    moves = _partition.of_equal(np.tile([0.0, 1.0, 1.0, 0.0], 65), SPACE.leaf)
    gammas = np.array([1.0, 0.25])
    point = _members.affine_point(SPACE, moves, gammas, rng=RNG)
    bias, matrix = SPACE.arrays(point - gammas[SPACE.leaf] * SPACE.theta)
    assert (matrix[:, [0, 3]] == 0).all()
    assert np.allclose(matrix[:, 1], matrix[0, 2], rtol=0, atol=1e-15)
    assert bias[1] == bias[2] != 0


def test_positive_points_keep_signs():
    point = _members.positive_point(SPACE, EQUAL, RNG)
    assert (np.sign(point) == np.sign(SPACE.theta)).all()
