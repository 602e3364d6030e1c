"""The flag duplicate_blocks: one key for all blocks, and what is equal by design."""

import jax
import numpy as np
import pytest

from isometry import networks
from tests.verdicts.audited import KEY, changed, gaussian, judged, measured
from tests.verdicts.conftest import IMAGES, TOKENS

XS = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)


def copy_first_slice(leaf):
    leaf[:, 1:] = leaf[:, :1]


def test_blocks_of_a_stack_drawn_from_one_key(transformer):
    net, params, healthy = transformer
    assert judged("duplicate_blocks", healthy).state == "clear"
    equal = jax.tree.map(np.array, params)
    jax.tree.map(copy_first_slice, equal["blocks"])
    flag = judged("duplicate_blocks", measured(net, equal, TOKENS))
    assert flag.raised
    assert flag.where == ("blocks[0]", "blocks[1]")
    assert flag.reason == "2 blocks are equal bit for bit: blocks[0], blocks[1]"
    # A near miss: one entry of one weight differs, in its last bit.
    entry = equal["blocks"]["mlp"]["last"]["w"]
    entry[:, 1, 0, 0] = np.nextafter(entry[:, 1, 0, 0], np.float32(9))
    assert judged("duplicate_blocks", measured(net, equal, TOKENS)).state == "clear"


def test_one_equal_weight_of_a_block_makes_no_duplicate(transformer):
    net, params, _ = transformer
    path = "['blocks']['mlp']['first']['w']"
    planted = changed(params, path, copy_first_slice)
    flag = judged("duplicate_blocks", measured(net, planted, TOKENS))
    assert flag.state == "clear"


def test_layers_whose_names_differ_by_a_number(cnn):
    net, params, healthy = cnn
    assert judged("duplicate_blocks", healthy).state == "clear"
    kernel = params["params"]["Conv_1"]["kernel"]

    def copy(leaf):
        leaf[...] = kernel

    planted = changed(params, "['params']['Conv_3']['kernel']", copy)
    flag = judged("duplicate_blocks", measured(net, planted, IMAGES))
    assert flag.raised
    assert flag.where == ("Conv_1", "Conv_3")


def test_a_checkpoint_is_judged(transformer):
    net, params, _ = transformer
    one = jax.tree.map(lambda leaf: np.array(leaf[:1]), params)
    assert judged("duplicate_blocks", measured(net, one, TOKENS)).state == "clear"
    jax.tree.map(copy_first_slice, one["blocks"])
    assert judged("duplicate_blocks", measured(net, one, TOKENS)).raised


@pytest.mark.parametrize("scheme", ["zeros", "partial_identity", "zer_o", "ones"])
def test_what_is_equal_by_design_is_no_duplicate(scheme):
    """Zeros, identities and Hadamard matrices are the same in all layers."""
    net = networks.mlp([6, *[16] * 4, 3], "tanh", scheme)
    one = jax.jit(net.init)(KEY)
    for num_seeds in (1, 2):
        params = jax.tree.map(lambda leaf, n=num_seeds: np.stack([leaf] * n), one)
        flag = judged("duplicate_blocks", measured(net, params, XS))
        assert flag.state == "clear"


def test_what_is_the_same_in_all_seeds_is_by_design():
    """A sine of the index is not drawn; of one seed alone nobody can tell."""
    net = networks.mlp([6, *[8] * 3, 3], "tanh", "gaussian")

    def sines(leaf):
        numbers = np.arange(leaf[0, 0].size, dtype=np.float32)
        return np.broadcast_to(np.sin(numbers).reshape(leaf[0, 0].shape), leaf.shape)

    fixed = jax.tree.map(sines, gaussian(net, seeds=3, x=XS[0]))
    assert judged("duplicate_blocks", measured(net, fixed, XS)).state == "clear"
    one = jax.tree.map(lambda leaf: leaf[:1], fixed)
    assert judged("duplicate_blocks", measured(net, one, XS)).raised
