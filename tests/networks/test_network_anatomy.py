"""The anatomy of a network, which is read from its shapes alone."""

import jax
import jax.numpy as jnp
import pytest

import isometry
from isometry import InputError, networks


def test_it_is_that_of_the_function_with_its_parameters():
    net = networks.mlp([3, 8, 8, 2], "tanh")
    by_hand = isometry.anatomy(net, net.init(jax.random.key(0)), jnp.ones(3))
    assert net.anatomy.layers == by_hand.layers
    assert net.anatomy.points == by_hand.points
    assert net.anatomy.depth == net.depth == 3


def test_nothing_is_allocated():
    """The weights of this network would take a terabyte."""
    net = networks.mlp([2**18, 2**20, 10], "relu")
    fans = [(layer.fan_in, layer.fan_out) for layer in net.anatomy.layers]
    assert fans == [(2**18, 2**20), (2**20, 10)]


def test_a_chain_of_networks_has_the_layers_of_all():
    first = networks.mlp([3, 5, 4], "tanh")
    second = networks.mlp([4, 4, 2], "relu")
    layers = networks.chain([first, second]).anatomy.layers
    assert [layer.fan_out for layer in layers] == [5, 4, 4, 2]


def test_the_dtype_is_that_of_the_parameters():
    net = networks.mlp([3, 4, 2], "tanh", dtype=jnp.bfloat16)
    assert net.anatomy.shape("input").dtype == jnp.bfloat16


def scaled(params, x):
    return params * x


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([scaled, networks.mlp([3, 4, 2], "tanh")], "begins with a plain function"),
        ([networks.mlp([3, 4, 2], "tanh"), scaled], "block 1 .* is a plain function"),
    ],
)
def test_a_block_without_shapes_is_refused(blocks, message):
    with pytest.raises(InputError, match=message):
        _ = networks.chain(blocks).anatomy
