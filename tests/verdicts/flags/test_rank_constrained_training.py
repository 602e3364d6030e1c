"""rank_constrained_training: by proof, beside controls, and when it must be silent."""

import jax
import numpy as np
import optax
import pytest

from isometry import networks
from isometry.verdicts.flags import rank_constrained_training
from tests.verdicts import planted
from tests.verdicts.planted import KEY, inputs, one_seed, record

SIZES = [4, 12, 12, 12, 3]


def judged(result):
    return rank_constrained_training.judge(result, KEY)


def perceptron(scheme, **settings):
    """What is measured of one seed of a small tanh network."""
    net = networks.mlp(SIZES, "tanh", scheme)
    params = one_seed(jax.jit(net.init)(jax.random.key(0)))
    return record(net, params, inputs(64, 4), **settings)


@pytest.fixture(scope="module")
def confined():
    """Partial identity, after 40 steps."""
    return perceptron("partial_identity", num_steps=40)


def test_partial_identity_is_raised_by_proof(confined):
    """Theorem 1 of the ZerO paper: hidden weights move in N_x directions."""
    flag = judged(confined)
    assert flag.raised
    assert flag.value == flag.threshold == 4
    assert flag.where == ("layers/1[0]", "layers/1[1]")
    assert (
        "cannot train in more than 4 of 12 directions, N_x = 4; bit for" in flag.reason
    )
    assert flag.evidence["certified_rank"].tolist() == [4, 4]
    assert (confined.probe.gradient_rank <= 4).all()
    # A proof needs no controls.
    assert "control_rank" not in flag.evidence


def test_without_a_proof_controls_tell(confined):
    """The same probe without certificates, beside Gaussian networks of equal norms."""
    result = perceptron(
        "partial_identity", num_steps=40, certificates=(), lines={"controls": 3}
    )
    result.parts["probe"] = confined.probe
    flag = judged(result)
    assert flag.raised
    assert flag.value == 4
    assert (flag.evidence["control_rank"] > 4).all()
    assert "Gaussian controls reach" in flag.reason


def test_a_probe_that_breaks_the_bound_is_believed(confined):
    """Rounding or the optimizer has undone what the bound rests on."""
    import dataclasses

    broken = dataclasses.replace(
        confined.probe, gradient_rank=np.full_like(confined.probe.gradient_rank, 7)
    )
    result = perceptron(
        "partial_identity", num_steps=40, certificates=confined.certificates
    )
    result.parts["probe"] = broken
    flag = judged(result)
    assert flag.state == "clear"
    assert flag.value == 7


def test_a_gaussian_network_is_clear():
    flag = judged(perceptron("gaussian", num_steps=40, certificates=()))
    assert flag.state == "clear"
    assert flag.value > 4


def test_a_probe_too_short_for_its_controls_is_undecided():
    """One step on two examples: no gradient of any network has a rank above 2."""
    net = networks.mlp(SIZES, "tanh", "partial_identity")
    params = one_seed(jax.jit(net.init)(jax.random.key(0)))
    result = record(net, params, inputs(2, 4), num_steps=1, certificates=())
    flag = judged(result)
    assert flag.state == "undecided"
    assert "control networks reach only" in flag.reason


def test_without_steps_nothing_is_run():
    result = perceptron("gaussian", num_steps=0, certificates=())
    flag = judged(result)
    assert flag.state == "not_run"
    assert result.probe is None


def test_a_bound_needs_no_probe(confined):
    result = perceptron(
        "partial_identity", num_steps=0, certificates=confined.certificates
    )
    assert judged(result).raised


def test_a_network_as_wide_as_its_input_has_nothing_to_constrain():
    net = networks.mlp([4, 4, 4, 3], "tanh", "gaussian")
    params = one_seed(jax.jit(net.init)(jax.random.key(0)))
    flag = judged(record(net, params, inputs(32, 4), certificates=()))
    assert flag.state == "clear"
    assert "nothing to constrain" in flag.reason


def test_a_probe_that_overflows_is_undecided():
    targets = np.asarray(inputs(64, 3))
    result = perceptron(
        "gaussian",
        num_steps=20,
        certificates=(),
        targets=targets,
        optimizer=optax.sgd(1e30),
    )
    flag = judged(result)
    assert flag.state == "undecided"
    assert "overflowed" in flag.reason


def test_heads_and_their_channels_are_one_axis_of_the_matrix():
    """Queries of zeros: rank 0 of 8, of a weight of shape (8, 4, 2).

    Values and outputs move in 6 directions, those of the three heads that are not dead;
    two channels of one head alone would not let them.
    """
    params = planted.drawn(planted.ATTENTION | {"stem": (3, 8)})
    params["query"] *= 0
    params["key"] *= 0
    params["value"][:, 3] = 0
    params["out"][3] = 0

    def f(params, x):
        return planted.attention(params, jax.numpy.tanh(x @ params["stem"]))

    result = record(f, one_seed(params), inputs(16, 4, 3), num_steps=10)
    flag = judged(result)
    assert flag.raised
    assert set(flag.where) == {"query", "key"}
    assert flag.value == 0
    bounds = dict(
        zip(result.probe.layers, flag.evidence["certified_rank"], strict=True)
    )
    assert bounds == {"query": 0, "key": 0, "value": 6, "out": 6}


@pytest.mark.parametrize("is_planted", [True, False])
def test_dirac_kernels_move_in_the_channels_of_the_input(is_planted):
    """Channels beyond the first have neither signal nor gradient: tanh(0) = 0."""
    params = planted.drawn(planted.KERNELS)
    if is_planted:
        params = planted.dirac(params)
    result = record(
        planted.convolutions, one_seed(params), inputs(16, 5, 5, 1), num_steps=20
    )
    flag = judged(result)
    assert flag.raised == is_planted
    assert flag.evidence["input_channels"] == 1
    if is_planted:
        assert flag.where == ("second",)
        assert flag.value == 1
        assert result.probe.tap_rank[:, -1].tolist() == [[1]]
    else:
        assert result.probe.tap_rank[0, -1, 0] > 1
