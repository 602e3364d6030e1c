"""The flag dead_branch: branches whose weights never get a gradient."""

import jax
import numpy as np

from isometry import networks
from isometry.certificates import certify
from tests.verdicts.audited import changed, gaussian, judged, measured

XS = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)


def certified(net, params):
    """What is measured of one seed, with its certificate."""
    proof = certify(net, jax.tree.map(lambda leaf: leaf[0], params))
    return measured(net, params, XS, certificates=[proof])


def zero_in_block_one(leaf):
    leaf[:, 1] = 0


def test_two_zero_factors_wait_for_each_other():
    """x + W2 φ(W1 x): with W2 = 0 it starts one step late, with W1 = 0 too never."""
    net = networks.resnet(6, 3, order="two_layer", n_in=6, n_out=2, activation="tanh")
    params = gaussian(net, seeds=1)
    late = changed(params, "['blocks']['second']['w']", zero_in_block_one)
    flag = judged("dead_branch", certified(net, late))
    assert flag.state == "clear"
    assert flag.reason == "all 3 residual branches can get a gradient"
    dead = changed(late, "['blocks']['first']['w']", zero_in_block_one)
    flag = judged("dead_branch", certified(net, dead))
    assert flag.raised
    assert flag.value == 1
    assert flag.where == ("blocks[1]",)
    assert flag.reason == ("1 of 3 residual branches never get a gradient: blocks[1]")


def test_without_a_certificate_nothing_is_known(cnn):
    flag = judged("dead_branch", cnn[2])
    assert flag.state == "undecided"


def test_a_network_without_branches_is_clear():
    net = networks.mlp([6, 8, 3], "tanh", "gaussian")
    flag = judged("dead_branch", measured(net, gaussian(net, x=XS[0]), XS))
    assert flag.state == "clear"
    assert flag.reason == "no residual branches"
