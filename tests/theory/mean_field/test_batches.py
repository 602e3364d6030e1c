"""Batch norm in training: its growth without skips, and its Jacobian."""

import numpy as np
import pytest

from isometry import activations, theory
from isometry.theory.mean_field import _batches
from isometry.theory.mean_field._batches import Crowd
from isometry.theory.mean_field._residual import Block, Norm

RNG = np.random.default_rng(0)


def test_growth_without_skips():
    """x' = BN(W relu(x)): between the ends that of `batch_norm_growth`.

    Each of the five ratios scatters by 0.7 % with 16384 units.
    """
    crowd = Crowd(activations.relu, num_inputs=1, batch=8)
    blocks = [Block(0.0, 1.0, (1.0,))] * 8
    units = crowd.of_values(RNG.standard_normal((1, 8, 64)))
    passages, _ = _batches.follow_batches(
        crowd,
        blocks,
        order="pre_activation",
        units=units,
        norm=Norm("batch", "post", 0.0),
    )
    now, sizes = _batches.at_output(crowd), [1.0]
    for passage in reversed(passages):
        now = _batches.pull_back_batches(passage, now).before
        sizes.append(float(_batches.total(now)[0]))
    # At the output gradients are not yet centred over the batch, and at the input the
    # examples not yet exchangeable.
    growth = (sizes[7] / sizes[2]) ** (1 / 5)
    assert growth == pytest.approx(theory.batch_norm_growth("relu", batch=8), rel=0.015)


def test_jacobian_of_a_norm():
    """J C Jᵀ by differences, with an epsilon that is seen."""
    x = RNG.standard_normal((1, 1, 5))
    norm = _batches._normed(x, epsilon=0.3)
    root = RNG.standard_normal((5, 5))
    found = _batches._through_norm(norm, (root @ root.T)[None, None])
    jacobian = np.empty((5, 5))
    for i, step in enumerate(1e-6 * np.eye(5)):
        ends = [_batches._normed(x + sign * step, 0.3).values for sign in (1, -1)]
        jacobian[:, i] = (ends[0] - ends[1])[0, 0] / 2e-6
    # Differences are right to 1e-9.
    wanted = jacobian.T @ root @ root.T @ jacobian
    np.testing.assert_allclose(found[0, 0], wanted, atol=1e-7)
