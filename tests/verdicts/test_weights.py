"""Where the weights of a network lie in its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks
from isometry.verdicts import _weights
from isometry.verdicts._objective import Split
from tests.verdicts import planted
from tests.verdicts.measuring import drawn


@pytest.fixture(scope="module")
def stacked():
    """(parameters, weights) of a transformer whose blocks are stacked."""
    net = networks.transformer(8, 2, 2, vocabulary=5, length=3)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), net.shapes
    )
    return params, _weights.weights_of(net.anatomy, params)


def test_slices_of_stacked_weights_are_the_blocks_own(stacked):
    params, weights = stacked
    by_name = {weight.layer.name: weight for weight in weights}
    query = by_name["blocks/attention/query"]
    leaf = Split.floating(params)[query.leaf]
    assert query.names == ("blocks/attention/query[0]", "blocks/attention/query[1]")
    np.testing.assert_array_equal(
        query.slices(leaf), params["blocks"]["attention"]["query"]["w"]
    )
    assert query.matrix_shape == (8, 8)


def test_names_are_those_of_the_certificate():
    """So that what is measured and what is certified can be laid side by side."""
    net = networks.mlp([4, 8, 8, 3], "tanh")
    params = jax.tree.map(lambda leaf: leaf[0], drawn(net, 1.0, seeds=1))
    names = _weights.names_of(_weights.weights_of(net.anatomy, params))
    certificate = isometry.certify(net, params)
    assert names == tuple(layer.name for layer in certificate.layers)


def test_replaced_is_the_inverse_of_slices(stacked):
    params, weights = stacked
    floating = [np.array(leaf) for leaf in Split.floating(params)]
    for weight in weights:
        leaf = floating[weight.leaf]
        slices = np.asarray(weight.slices(jnp.asarray(leaf)))
        assert slices.shape[1:] == weight.shape
        np.testing.assert_array_equal(weight.replaced(leaf, slices), leaf)
        doubled = weight.replaced(leaf, 2 * slices)
        np.testing.assert_array_equal(weight.slices(jnp.asarray(doubled)), 2 * slices)


def test_stretches_of_a_fused_weight_are_weights_of_their_own():
    def f(params, x):
        q, k = jnp.split(params["qk"], 2, axis=1)
        return jnp.tanh(x @ q) @ jnp.tanh(x @ k).T

    params = {"qk": jnp.arange(24.0).reshape(4, 6)}
    anatomy = isometry.anatomy(f, params, jnp.ones((2, 4)))
    weights = _weights.weights_of(anatomy, params)
    parts = [np.asarray(weight.slices(params["qk"])[0]) for weight in weights]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), params["qk"])


def test_kernels_are_matrices_by_tap():
    params = planted.drawn(planted.KERNELS)
    anatomy = isometry.anatomy(planted.convolutions, params, jnp.ones((5, 5, 1)))
    (weight,) = [one for one in _weights.weights_of(anatomy, params) if one.leaf == 2]
    assert weight.layer.name == "second"
    assert (weight.tap_shape, weight.num_taps, weight.matrix_shape) == (
        (6, 6),
        9,
        (54, 6),
    )
    by_tap = weight.matrices(np.asarray(params["second"])[None])
    np.testing.assert_array_equal(by_tap[0, 0, 4], params["second"][1, 1])
    assert _weights.input_features(anatomy) == (1, 9)


def test_leaves_that_are_not_floating_are_left_alone():
    params = {"w": jnp.ones(2), "count": jnp.zeros((), int), "key": jax.random.key(0)}
    split = Split(params)
    (w,) = Split.floating(params)
    joined = split.joined([2 * w])
    assert joined["w"].tolist() == [2, 2]
    assert joined["count"] is params["count"]
    assert split.trained([w]) == {"w": w, "count": None, "key": None}


@pytest.mark.parametrize(
    ("rows", "log_norm"),
    [
        ([[3e30, 4e30]], np.log(5e30)),
        ([[3e-30, 4e-30]], np.log(5e-30)),
        ([[0.0, 0.0]], -np.inf),
    ],
)
def test_no_square_leaves_the_range(rows, log_norm):
    found = _weights._log_norm_of_rows(jnp.asarray(rows, jnp.float32))
    np.testing.assert_allclose(found, [log_norm], rtol=1e-6)
