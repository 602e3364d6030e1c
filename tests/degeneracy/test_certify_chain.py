"""certify of chains of networks: by hand, against the one network they are, and against training."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks

PHI = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0), "linear": lambda z: z}


def chain_of(*blocks):
    """Of pairs (widths, activation), in float64."""
    return networks.chain([networks.mlp(w, phi, "zeros", dtype=jnp.float64) for w, phi in blocks])


def params_of(net, weights, biases=None):
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
    biases = [layer.b for layer in net.layers(zeros)] if biases is None else biases
    layers = zip(net.layers(zeros), weights, biases, strict=True)
    return net.with_layers(zeros, [replace(layer, w=np.asarray(w), b=np.asarray(b)) for layer, w, b in layers])


def eye(net):
    return params_of(net, [np.eye(layer.fan_in, layer.fan_out) for layer in net.plan])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_what_follows_each_layer():
    net = chain_of(([3, 5, 5, 4], "tanh"), ([4, 2], "relu"), ([2, 6, 1], "relu"))
    assert [phi.name for phi in net.hidden_activations] == ["tanh", "tanh", "linear", "linear", "relu"]
    nested = networks.chain([networks.chain(net.blocks[:2]), net.blocks[2]])
    assert nested.hidden_activations == net.hidden_activations
    assert [phi.name for phi in net.blocks[0].hidden_activations] == ["tanh", "tanh"]
    with pytest.raises(isometry.InputError, match=r"block 1 of this chain.* plain function"):
        _ = networks.chain([net.blocks[0], lambda p, x: x]).hidden_activations


@pytest.mark.core
@pytest.mark.parametrize(
    ("first", "second", "widths", "ranks"),
    [
        ("tanh", "relu", [4, 4, 4, 4], [4, 4, 4, 4, 4]),
        ("tanh", "tanh", [5, 5, 5, 5], [4, 5, 5, 5, 5]),
        ("relu", "tanh", [4, 4, 5, 5], [4, 4, 4, 5, 5]),
    ],
)
def test_partial_identity_by_hand(first, second, widths, ranks):
    """N_x = 4, N_y = 5. Units 0 to 3 are driven by the inputs. The fifth output's signal goes back through a tanh,
    whose slope at 0 is 1, and the linear units between the blocks, whose biases it drives; relu'(0) = 0 stops it."""
    net = chain_of(([4, 16, 16, 10], first), ([10, 12, 5], second))
    found = isometry.certify(net, eye(net))
    assert [u.effective_width for u in found.units] == widths
    assert [b.rank for b in found.bounds] == ranks
    assert {b.holds for b in found.bounds} == {"bit for bit"}
    assert [u.width for u in found.units] == [16, 16, 10, 12]


def test_a_chain_of_linear_networks_is_one_linear_network():
    random = np.random.default_rng(0)
    w = [random.integers(-1, 2, s).astype(float) for s in ((4, 6), (6, 6), (6, 6), (6, 3))]
    w[0][:, 1], w[1][1] = -w[0][:, 0], -w[1][0]  # in the first block
    w[1][:, 4], w[2][4] = -w[1][:, 2], -w[2][2]  # between the blocks
    w[2][:, 5], w[3][5] = 0, 0
    chained, one = chain_of(([4, 6, 6], "linear"), ([6, 6, 3], "linear")), chain_of(([4, 6, 6, 6, 3], "linear"))
    a, b = (isometry.certify(net, params_of(net, w)) for net in (chained, one))
    assert a.bounds == b.bounds
    for mine, theirs in zip(a.units, b.units, strict=True):
        np.testing.assert_array_equal(mine.classes, theirs.classes)
        np.testing.assert_array_equal(mine.signs, theirs.signs)
        np.testing.assert_array_equal(mine.dead, theirs.dead)
    assert [u.locked for u in a.units] == [2, 2, 0]


def planted(random, net, pairs):
    """Random weights and biases; in each hidden node i of `pairs` units 0 and 1 are alike up to a sign."""
    w = [random.standard_normal((layer.fan_in, layer.fan_out)) for layer in net.plan]
    b = [random.standard_normal(layer.fan_out) for layer in net.plan]
    for i, sign in pairs.items():
        w[i - 1][:, 1], w[i][1], b[i - 1][1] = sign * w[i - 1][:, 0], sign * w[i][0], sign * b[i - 1][0]
    return w, b


def nodes(net, params, xs):
    """Pre-activations of every node in numpy."""
    h, found = np.asarray(xs), []
    for layer, phi in zip(net.layers(params), [*net.hidden_activations, None], strict=True):
        found.append(h @ np.asarray(layer.w) + np.asarray(layer.b))
        h = PHI[phi.name](found[-1]) if phi else None
    return found


def test_units_are_equal_up_to_sign_where_their_own_activation_is_odd():
    """Opposite units: a lock under tanh and between blocks, none under relu."""
    net = chain_of(([3, 6, 5], "tanh"), ([5, 7, 5, 2], "relu"))
    w, b = planted(np.random.default_rng(0), net, {1: -1, 2: -1, 3: -1, 4: 1})
    found = isometry.certify(net, params_of(net, w, b))
    assert [u.effective_width for u in found.units] == [5, 4, 7, 4]
    assert [u.signs[1] for u in found.units] == [-1, -1, 1, 1]
    assert found.true_duplicates


def test_training_keeps_what_is_certified_of_a_chain():
    """Ten steps of SGD; rounding stays near 1e-15."""
    net = chain_of(([3, 6, 6, 5], "tanh"), ([5, 8, 2], "relu"))
    random = np.random.default_rng(1)
    w, b = planted(random, net, {1: -1, 2: 1, 3: -1, 4: 1})
    w, b = [a / 2 for a in w], [a / 2 for a in b]
    w[3][:, 7], w[4][7], b[3][7] = 0, 0, 0  # a dead relu
    start = params = params_of(net, w, b)
    found = isometry.certify(net, params)
    assert [u.effective_width for u in found.units] == [5, 5, 4, 6]
    assert [b.rank for b in found.bounds] == [3, 5, 4, 4, 2]
    assert np.flatnonzero(found.units[3].dead).tolist() == [7]
    xs, ys = jnp.asarray(random.standard_normal((20, 3))), jnp.asarray(random.standard_normal((20, 2)))
    np.testing.assert_allclose(nodes(net, params, xs)[-1], jax.vmap(net, (None, 0))(params, xs), atol=1e-12)
    step = jax.jit(jax.grad(lambda p: jnp.mean((jax.vmap(net, (None, 0))(p, xs) - ys) ** 2)))
    for _ in range(10):
        params = jax.tree.map(lambda p, g: p - 0.02 * g, params, step(params))
    for unit, z in zip(found.units, nodes(net, params, xs), strict=False):
        member = unit.classes >= 0
        first = np.unique(unit.classes, return_index=True)[1][-len(unit.live) :][unit.classes[member]]
        np.testing.assert_allclose((z * unit.signs)[:, member], z[:, first], atol=1e-11)
    assert not nodes(net, params, xs)[3][:, 7].any()
    moved = []
    for bound, after, before in zip(found.bounds, net.layers(params), net.layers(start), strict=True):
        s = np.linalg.svd(np.asarray(after.w - before.w), compute_uv=False)
        moved.append(int((s > 1e-10 * s[0]).sum()))
        assert moved[-1] <= bound.rank
    assert moved == [3, 5, 4, 4, 2]  # and the bounds are reached


def test_null_units_only_where_phi_of_zero_is_zero():
    """Zero weights throughout: sigmoid units are alike and alive, tanh units and those between blocks carry a constant
    that biases alone could bring."""
    net = chain_of(([3, 4, 4], "tanh"), ([4, 5, 2], "sigmoid"))
    found = isometry.certify(net, params_of(net, [np.zeros((p.fan_in, p.fan_out)) for p in net.plan]))
    assert [u.classes.tolist() for u in found.units] == [[-1] * 4, [-1] * 4, [0] * 5]
    assert [u.effective_width for u in found.units] == [0, 0, 1]
    assert [b.first_gradient for b in found.bounds] == [None, None, None, 1]
