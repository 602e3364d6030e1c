"""zero_gradient: weights without any gradient, and what becomes of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import networks
from isometry.verdicts.flags import zero_gradient
from isometry.verdicts.flags.zero_gradient import _outlook
from tests.verdicts import planted
from tests.verdicts.planted import KEY, inputs, one_seed, record


def judged(*args, **kwargs):
    return zero_gradient.judge(record(*args, **kwargs), KEY)


class Cnn(nn.Module):
    """A convolution, dropout and a head."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(3)(x.mean((-3, -2)))


def test_behind_a_zero_head_the_gradient_arrives_at_the_second_step():
    """Of a Flax model in training mode, from one checkpoint: zeros are a fact of it."""
    net = networks.flax(Cnn(), jnp.zeros((5, 5, 1)))
    params = jax.jit(net.init)(jax.random.key(0))
    params["params"]["Dense_0"]["kernel"] *= 0
    flag = judged(net, one_seed(params), inputs(16, 5, 5, 1))
    assert flag.raised
    assert flag.where == ("Conv_0",)
    assert flag.evidence["layers"].tolist() == [0]
    assert flag.evidence["first_signal"].tolist() == [[2]]
    assert flag.evidence["first_gradient"].tolist() == [[2]]
    assert flag.evidence["kind"] == "recovering"
    assert "recovering: signal arrives by step 2 (in training mode)" in flag.reason
    assert "none is needed" in flag.remedy


def test_a_branch_that_ends_in_zeros_recovers_and_without_a_probe_by_certificate():
    """x + W2 relu(W1 x) with W2 = 0: W2 gets a gradient at once, W1 at step 2."""
    net = networks.resnet(8, 2, "relu", "gaussian", n_in=6, n_out=3)
    params = one_seed(jax.jit(net.init)(jax.random.key(0)))
    params["blocks"]["second"]["w"] = np.zeros_like(params["blocks"]["second"]["w"])
    flag = judged(net, params, inputs(8, 6), num_steps=0)
    assert flag.raised
    assert flag.where == ("blocks/first[0]", "blocks/first[1]")
    assert "by certificate, signal can arrive from step 2" in flag.reason
    assert flag.evidence["kind"] == "recovering"


def test_queries_and_keys_of_zeros_wait_for_each_other_for_ever():
    params = planted.drawn(planted.ATTENTION)
    healthy = judged(planted.attention, one_seed(params), inputs(8, 4, 8))
    assert healthy.state == "clear"
    assert healthy.value == 0
    params["query"] *= 0
    params["key"] *= 0
    flag = judged(planted.attention, one_seed(params), inputs(8, 4, 8))
    assert flag.raised
    assert set(flag.where) == {"query", "key"}
    assert flag.evidence["kind"] == "permanent"
    assert (flag.evidence["first_signal"] == -1).all()
    assert not flag.evidence["first_gradient"].any()


def test_weights_behind_dead_units_are_unknown():
    """The weights let the signal through, and the biases do not: -1000 for relu."""

    def f(params, x):
        h = jax.nn.relu(x @ params["first"] - 1000)
        return jax.nn.relu(h @ params["second"] - 1000) @ params["head"]

    params = planted.drawn({"first": (6, 8), "second": (8, 8), "head": (8, 3)})
    flag = judged(f, one_seed(params), inputs(8, 6))
    assert flag.raised
    assert set(flag.where) == {"first", "second", "head"}
    assert flag.evidence["kind"] == "unknown"
    assert "none arrived within 6 steps" in flag.reason


@pytest.mark.parametrize(
    ("earliest", "arrived", "steps", "kind", "words"),
    [
        ([[2, 3]], [[2, 4]], 9, "recovering", "by step 4"),
        ([[2, 3]], [[0, 0]], 0, "recovering", "signal can arrive from step 3"),
        ([[2, 0]], [[2, -1]], 9, "permanent", "certified"),
        # Rounding or the optimizer broke sums that are zero.
        ([[0, 0]], [[5, 6]], 9, "recovering", "by step 6"),
        # Units without slope at these inputs.
        ([[1, 1]], [[-1, -1]], 9, "unknown", "none arrived within 9 steps"),
        ([[1, 2]], [[0, 0]], 0, "unknown", "no probe was run"),
    ],
)
def test_what_becomes_of_weights_without_gradient(
    earliest, arrived, steps, kind, words
):
    outlook = _outlook(np.array(earliest), np.array(arrived), steps)
    assert outlook.kind == kind
    assert words in outlook.words
