"""Transformed activations hit the targets of their papers, by theory's own maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, activations, networks, schemes, theory
from isometry._internal.errors import NotDefined
from isometry.structure import anatomy
from tests.schemes import models


def slope_of_variance(phi):
    """Q'(1) by Richardson's central difference; its error is 1e-12/h = 1e-9."""
    step = 1e-3
    q = {k: theory.q_map(phi, 1 + k * step, 1.0, 0.0) for k in (-2, -1, 1, 2)}
    return (8 * (q[1] - q[-1]) - (q[2] - q[-2])) / (12 * step)


@pytest.mark.parametrize(("name", "depth"), [("tanh", 7), ("elu", 20)])
def test_dks_keeps_variances_and_spreads_its_slope_over_the_depth(name, depth):
    """Martens et al. (2021), section 12: Q(1) = Q'(1) = 1, C(0) = 0, C'(1)^L = 1.5."""
    phi, scheme = schemes.transformed("dks", name, depth)
    assert theory.q_map(phi, 1.0, 1.0, 0.0) == pytest.approx(1, abs=1e-10)
    assert slope_of_variance(phi) == pytest.approx(1, abs=1e-8)
    assert theory.c_map(phi, 0.0, 1.0, 1.0, 0.0) == pytest.approx(0, abs=1e-10)
    assert theory.chi(phi, 1.0, 1.0) ** depth == pytest.approx(1.5, abs=1e-7)
    assert scheme.transform is None


@pytest.mark.parametrize(("name", "depth"), [("softplus", 9)])
def test_tat_is_critical_and_spreads_its_curvature_over_the_depth(name, depth):
    """Zhang et al. (2022): Q(1) = Q'(1) = C'(1) = 1 and C''(1) = E phi''² = 0.3/L."""
    phi, _ = schemes.transformed("tat", name, depth)
    assert theory.q_map(phi, 1.0, 1.0, 0.0) == pytest.approx(1, abs=1e-10)
    assert slope_of_variance(phi) == pytest.approx(1, abs=1e-8)
    assert theory.chi(phi, 1.0, 1.0) == pytest.approx(1, abs=1e-10)
    curvature = theory.expectation(
        lambda z: jax.vmap(jax.grad(jax.grad(phi)))(z.ravel()).reshape(z.shape) ** 2
    )
    assert curvature * depth == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize(("depth", "expected"), [(40, 0.9), (5, None)])
def test_tat_of_relu_makes_a_stated_correlation_of_none(depth, expected):
    """C applied L times to 0 is 0.9; a shallow network of ReLUs stays below."""
    phi, _ = schemes.transformed("tat", "relu", depth)
    assert theory.q_map(phi, 1.0, 1.0, 0.0) == pytest.approx(1, abs=1e-12)
    c = 0.0
    for _ in range(depth):
        c = theory.c_map(phi, c, 1.0, 1.0, 0.0)
    if expected is None:
        assert c < 0.9
        np.testing.assert_array_equal(phi(jnp.array([-1.0])), 0)
    else:
        assert c == pytest.approx(expected, abs=1e-9)


def test_networks_with_transformed_activations_keep_lengths_and_angles():
    """An orthogonal network of width 200: 9 layers keep |x|² and the angle of 0.

    The mean of 200 squares has a standard error of √(2/200) = 10 % a layer, which
    Q' = 1 does not damp; the band is that of a random walk of 9 such steps, twice.
    """
    phi, scheme = schemes.transformed("dks", "tanh", 9)
    net = networks.mlp([200] * 11, phi, scheme, bias=False)

    @jax.jit
    def last(key):
        a, b = jax.random.normal(key, (2, 200))
        params = net.init(key)
        return jnp.stack([net(params, a), net(params, b)])

    outputs = np.asarray(last(jax.random.key(0)), float)
    gram = outputs @ outputs.T / 200
    assert gram.diagonal() == pytest.approx([1, 1], abs=0.6)
    assert abs(gram[0, 1]) < 0.4


def test_networks_put_the_activation_in_place_and_take_it_back():
    """mlp and cnn count their activations; other schemes see the user's own again."""
    nets = {
        3: networks.mlp([4, 4, 4, 4, 2], "tanh"),
        2: networks.cnn([2, 4, 4], (6,), activation="tanh", head=3),
    }
    for depth, net in nets.items():
        shaped = net.with_scheme("dks")
        assert shaped.activation == schemes.transformed("dks", "tanh", depth)[0]
        assert shaped.with_scheme("dks").activation == shaped.activation
        assert shaped.function.activation == shaped.activation
        assert shaped.with_scheme("kaiming").activation == activations.tanh


# Residual blocks: how many activations on the branch, and its multiplier. In the second
# network a branch alone has more than the whole.
BLOCKS = {"deep": (1, [(2, 0.8), (3, 0.5), (2, 0.6)] * 2), "shallow": (0, [(3, 0.4)])}


def of_subnetworks(step, start, depth, blocks):
    """M(x) of Zhang et al. (2022), appendix B: of the network, and of its branches."""

    def repeat(count, x):
        return x if count == 0 else repeat(count - 1, step(x))

    x = start
    for count, b in blocks:
        x = (1 - b * b) * x + b * b * repeat(count, x)
    return max(repeat(depth, x), *(repeat(count, start) for count, _ in blocks))


@pytest.mark.parametrize("network", BLOCKS)
def test_residual_blocks_have_the_targets_of_the_largest_subnetwork(network):
    """Slopes 1.5, curvatures 0.3 in all and C(0) = 0.9, by theory's own maps."""
    depth, blocks = BLOCKS[network]
    phi, _ = schemes.transformed("dks", "tanh", depth, blocks=blocks)
    slope = theory.chi(phi, 1.0, 1.0)
    whole = of_subnetworks(lambda c: c * slope, 1.0, depth, blocks)
    assert whole == pytest.approx(1.5, abs=1e-7)
    phi, _ = schemes.transformed("tat", "softplus", depth, blocks=blocks)
    curvature = theory.expectation(
        lambda z: jax.vmap(jax.grad(jax.grad(phi)))(z.ravel()).reshape(z.shape) ** 2
    )
    assert theory.chi(phi, 1.0, 1.0) == pytest.approx(1, abs=1e-10)
    whole = of_subnetworks(lambda c: c + curvature, 0.0, depth, blocks)
    assert whole == pytest.approx(0.3, abs=1e-6)


def test_tat_of_relu_counts_residual_blocks():
    blocks = [(2, 0.8)] * 40
    phi, _ = schemes.transformed("tat", "relu", 1, blocks=blocks)
    step = lambda c: theory.c_map(phi, c, 1.0, 1.0, 0.0)  # noqa: E731
    assert of_subnetworks(step, 0.0, 1, blocks) == pytest.approx(0.9, abs=1e-9)


def test_resnet_of_normalized_sums_puts_the_activation_in_place():
    """Its output has the variance of its input, up to 0.17 (the standard deviation)."""
    net = networks.resnet(200, 2, "tanh", "dks", order="v2", branch=0.8, skip=0.6)
    blocks = [(2, 0.8)] * 2
    assert net.activation == schemes.transformed("dks", "tanh", 0, blocks=blocks)[0]
    assert net.with_scheme("kaiming").activation == activations.tanh

    @jax.jit
    def output(key):
        return net(net.init(key), jax.random.normal(key, (200,)))

    y = np.asarray(output(jax.random.key(0)), float)
    assert y @ y / 200 == pytest.approx(1, abs=0.4)


def test_blocks_that_the_network_does_not_have_are_refused():
    with pytest.raises(NotDefined, match=r"block 0: scheme 'dks' needs skip² \+ br"):
        networks.resnet(4, 2, "tanh", "dks")
    net = networks.resnet(4, 2, "tanh", skip=0.6, branch=0.8)
    _, scheme = schemes.transformed("tat", "tanh", 0, blocks=[(1, 0.6)] * 2)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    with pytest.raises(NotDefined, match=r"the skip by 0.6, .* b² *\) = 0.8"):
        schemes.assign(scheme, net.anatomy, shapes)
    _, scheme = schemes.transformed("tat", "tanh", 0, blocks=[(1, 0.8)])
    with pytest.raises(NotDefined, match=r"for 1 residual blocks, and the network has"):
        schemes.assign(scheme, net.anatomy, shapes)
    with pytest.raises(InputError, match=r"blocks\[0\]=0.8 is no pair"):
        schemes.transformed("tat", "tanh", 0, blocks=[0.8])


def test_other_schemes_leave_the_activation():
    phi, scheme = schemes.transformed("kaiming", "relu", 3)
    assert phi is activations.relu
    assert scheme is schemes.get("kaiming")


def test_equal_transformations_are_equal():
    """Programs compiled for one network serve another of the same architecture."""
    first, _ = schemes.transformed("tat", "relu", 4)
    second, _ = schemes.transformed("tat", "relu", 4)
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.parametrize(
    ("scheme", "activation", "message"),
    [
        ("dks", "relu", r"transformed\(\): dks: no alpha and beta give relu"),
        ("tat", "hard_tanh", r"the slope of hard_tanh jumps"),
        ("dks", "linear", r"no alpha and beta give linear"),
    ],
)
def test_activations_that_cannot_be_transformed_are_refused(
    scheme, activation, message
):
    with pytest.raises(NotDefined, match=message):
        schemes.transformed(scheme, activation, 5)


def test_residual_branches_are_refused():
    f, shapes, x = models.scanned()
    _, scheme = schemes.transformed("tat", "relu", 4)
    with pytest.raises(NotDefined, match=r"branch 'second\[0\]': the activation was"):
        schemes.assign(scheme, anatomy(f, shapes, x), shapes)
