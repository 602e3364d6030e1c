"""The flags of gradients, ranks and locks judge perceptrons as they did before."""

import jax
import numpy as np
import pytest

import isometry
from isometry import networks
from isometry.degeneracy import _probe as old_probe
from isometry.degeneracy import _symmetry_flag as old_symmetry
from isometry.degeneracy import _task as old_task
from isometry.degeneracy._gradient_flags import zero_gradient as old_zero_gradient
from isometry.verdicts.flags import (
    locked_symmetry,
    rank_constrained_training,
    zero_gradient,
)
from tests.verdicts.planted import KEY, inputs, record

SIZES, STEPS = [6, 12, 12, 12, 3], 60
SCHEMES = ("partial_identity", "ones", "zer_o", "zeros", "orthogonal")


def old_flags(net, params, xs):
    """What the functions of the perceptron judge."""
    task, _ = old_task.make_task(net, xs, None, None, None, STEPS, jax.random.key(2))
    certificates = old_symmetry.certified(net, params)
    proof = old_symmetry.certified_rank(net, certificates)
    limits = isometry.Thresholds()
    ranks, probe = old_probe.judge_ranks(
        net, task, params, limits, KEY, proof, certificates
    )
    gradient = old_zero_gradient(net, task, params, 4, probe, certificates)
    return gradient, ranks, old_symmetry.locked_symmetry(certificates), probe


@pytest.mark.parametrize("scheme", SCHEMES)
def test_flags_and_records_agree(scheme):
    net = networks.mlp(SIZES, "tanh", scheme)
    params = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 2))
    xs = inputs(64, 6)
    result = record(net, params, xs, num_steps=STEPS)
    *old, probe = old_flags(net, params, xs)
    modules = (zero_gradient, rank_constrained_training, locked_symmetry)
    new = [module.judge(result, KEY) for module in modules]
    for mine, theirs in zip(new, old, strict=True):
        assert (mine.state, mine.value, mine.threshold) == (
            theirs.state,
            theirs.value,
            theirs.threshold,
        ), mine.name
    # Batches and steps are the same; sums are rounded in another order.
    np.testing.assert_allclose(result.probe.loss, probe.loss, rtol=1e-5)
    np.testing.assert_array_equal(result.probe.first_signal, probe.first_signal)
    assert result.probe.steps.tolist() == probe.steps.tolist()
    if scheme != "zer_o":
        # What rounding makes of equal units there is counted in one, and not in the
        # other.
        np.testing.assert_array_equal(result.probe.gradient_rank, probe.gradient_rank)
