"""certify: schemes whose symmetry is known, sums that are equal up to rounding, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks
from isometry.activations import Activation
from tests.degeneracy.certificates import certificate, net_of, params_of, planted

ROUND = 2.0**-53


# --- schemes whose symmetry is known ---------------------------------------------------------------------------------

maximum = Activation(lambda x: jnp.maximum(x, 0), kinks=(0.0,), name="maximum")


def eye(*sizes):
    return [np.eye(m, n, dtype=np.float32) for m, n in itertools.pairwise(sizes)]


@pytest.mark.core
@pytest.mark.parametrize(("activation", "rank"), [("tanh", 10), ("linear", 10), ("relu", 4), (maximum, 10)])
def test_partial_identity(activation, rank):
    """N_x = 4, N_y = 10: max(N_x, N_y) where phi'(0) ≠ 0, and N_x, the paper's bound, only where phi'(0) = 0."""
    found = certificate(eye(4, 32, 32, 32, 10), activation)
    assert [b.rank for b in found.bounds[1:3]] == [rank, rank]
    assert [u.effective_width for u in found.units] == [rank] * 3
    assert {b.holds for b in found.bounds[1:3]} == {"bit for bit"}
    assert [int(u.dead.sum()) for u in found.units] == [32 - rank] * 3
    assert found.tier == "bit"
    assert [u.layer for u in found.locked] == [1, 2, 3]
    assert f"effective width {rank} of 32" in repr(found)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_zer_o_has_p_plus_n_y_classes(activation):
    """Rows i ≡ j mod P of the Hadamard layer coincide, and units from N_y on have no outgoing weight."""
    net = networks.mlp([12, 64, 64, 5], activation, "zer_o")
    found = isometry.certify(net, net.init(jax.random.key(0)))
    assert [len(u.live) for u in found.units] == [16 + 5] * 2
    assert found.bounds[1].rank == 21
    assert found.bounds[1].holds == "in exact arithmetic"
    assert [u.locked_live for u in found.units] == [64 - 5] * 2
    ids = found.units[0].classes
    assert (ids[5:48] == ids[21:64]).all()
    assert not found.true_duplicates  # the identity between them is not constant on blocks


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_constant_weights_are_one_class_a_layer(activation):
    """0.1 in float32, sums of 7 and 9 of them: exact all the same."""
    found = certificate([np.full(s, 0.1, np.float32) for s in ((6, 7), (7, 9), (9, 3))], activation)
    assert [len(u.live) for u in found.units] == [1, 1]
    assert [b.rank for b in found.bounds] == [1, 1, 1]
    assert found.true_duplicates
    assert "excepted" in found.void_for


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
@pytest.mark.parametrize("scheme", ["gaussian", "orthogonal"])
def test_random_weights_are_clear(activation, scheme):
    random = np.random.default_rng(0)
    w = [random.standard_normal(s) for s in ((6, 12), (12, 12), (12, 3))]
    if scheme == "orthogonal":
        w = [np.linalg.svd(a, full_matrices=False)[0] @ np.linalg.svd(a, full_matrices=False)[2] for a in w]
    found = certificate([a.astype(np.float32) for a in w], activation)
    assert found.clear
    assert not any(b.rank < min(b.shape) for b in found.bounds)
    assert {b.first_gradient for b in found.bounds} == {1}
    assert "no lock found" in repr(found)


@pytest.mark.parametrize(("activation", "sign", "locked"), [("tanh", 1, 2), ("tanh", -1, 2), ("relu", 1, 2)])
def test_planted_duplicates_are_found(activation, sign, locked):
    found = certificate(planted(np.random.default_rng(0), sign), activation)
    assert [u.effective_width for u in found.units] == [7, 7]
    assert len(found.locked) == locked
    first, second = found.units
    assert first.classes[0] == first.classes[3]
    assert first.signs[[0, 3]].tolist() == [1, sign]
    assert second.signs[[1, 2, 4]].tolist() == [1, sign, 1]
    assert found.true_duplicates
    assert found.bounds[1].rank == 7


def test_relu_does_not_lock_opposite_units_and_half_a_duplicate_is_none():
    random = np.random.default_rng(0)
    opposite = certificate(planted(random, -1), "relu")
    assert len(opposite.units[0].live) == 8
    assert [u.locked for u in opposite.units] == [0, 2]  # those of equal sign, 1 and 4
    w = planted(random, 1)
    w[1][3] += 1  # equal incoming weights alone do not lock
    assert [u.locked for u in certificate(w).units] == [0, 3]
    biases = [np.zeros(8, np.float32), np.arange(9, dtype=np.float32), np.zeros(3, np.float32)]
    assert [u.locked for u in certificate(planted(random, 1), biases=biases).units] == [2, 0]


# --- two tiers -------------------------------------------------------------------------------------------------------


def rounded(size):
    """Blocks of equal sums up to `size` relative: two classes of four units a layer, with random entries."""
    random = np.random.default_rng(1)
    at = np.repeat([0, 1], 4)
    outer = [random.standard_normal((3, 2))[:, at], random.standard_normal((2, 2))[at]]
    inner = random.standard_normal((2, 2))[at][:, at]
    for _ in range(2):
        a, b = (np.kron(np.eye(2), random.standard_normal((4, 1))) @ np.ones((2, 1)) for _ in range(2))
        a, b = (v - v.reshape(2, 4).mean(1).repeat(4)[:, None] for v in (a, b))
        inner = inner + a @ b.T
    return [outer[0], inner * (1 + size * random.choice([-1, 1], inner.shape)), outer[1]]


@pytest.mark.parametrize(
    ("size", "tier", "widths", "undecided"),
    [(0, "tolerance", [2, 2], ()), (60 * ROUND, "bit", [8, 8], (1, 2)), (1e-6, "bit", [8, 8], ())],
)
def test_sums_equal_up_to_rounding(size, tier, widths, undecided):
    """Verified below u·Σ|w|, undecided up to a thousand times that, and not equal above."""
    with jax.enable_x64(True):
        found = certificate(rounded(size))
    assert found.tier == tier
    assert [u.effective_width for u in found.units] == widths
    assert found.undecided == undecided
    assert found.discrepancy <= 1
    assert found.clear == (size > 1e-9)
    assert tier == "bit" or found.discrepancy > 0
    assert not found.true_duplicates or tier == "bit"


def balanced_blocks(random, classes, size):
    """Blocks of `size` with equal row sums and column sums, entries that differ, each rounded once to float32."""
    blocks = random.standard_normal((classes, classes, size, size))
    sums = random.standard_normal((classes, classes, 1))
    blocks[:, :, -1] = sums - blocks[:, :, :-1].sum(2)
    blocks[:, :, :, -1] = sums - blocks[:, :, :, :-1].sum(3)
    return blocks.transpose(0, 2, 1, 3).reshape(classes * size, -1).astype(np.float32)


def test_noise_above_the_rounding_of_one_weight_is_no_lock():
    """A constant block of 256 with noise of 4e-5: within n·u·Σ|w|, yet Adam trains it in three directions."""
    random, n = np.random.default_rng(0), 256
    w = [np.full((1, n), 0.5), 1 / n * (1 + 4e-5 * random.standard_normal((n, n))), np.full((n, 1), 1 / n)]
    found = certificate([a.astype(np.float32) for a in w])
    assert [u.effective_width for u in found.units] == [n, n]
    assert (found.tier, found.undecided) == ("bit", (1, 2))
    w[1] = 1 / n * (1 + ROUND * 2**29 * random.uniform(-1, 1, (n, n)))  # what rounding to float32 does
    with jax.enable_x64(True):
        exact = certificate([np.asarray(a, float) for a in w])
    assert (exact.tier, exact.undecided) == ("bit", ())  # far above the rounding of float64


def test_a_near_pair_does_not_hide_the_locks_elsewhere():
    """Classes of three by sums equal up to rounding; two units of z_3 differ only in one weight, 1e-9 and 2e-9."""
    random = np.random.default_rng(1)
    w = [random.standard_normal((4, 4)).repeat(3, 1), balanced_blocks(random, 4, 3)]
    w += [random.standard_normal((4, 12)).repeat(3, 0), random.standard_normal((12, 3))]
    w[2][:, 1], w[3][1], w[3][:2, 2] = w[2][:, 0], w[3][0], (1e-9, 2e-9)
    found = certificate([a.astype(np.float32) for a in w])
    assert (found.tier, found.undecided) == ("tolerance", ())
    assert [u.effective_width for u in found.units] == [4, 4, 12]
    assert 0 < found.discrepancy <= 1
    w[3][:2, 2] = 1, 1 + 1e-5  # 42 rounding units apart: neither
    found = certificate([a.astype(np.float32) for a in w])
    assert [u.effective_width for u in found.units] == [4, 4, 12]
    assert (found.tier, found.undecided) == ("tolerance", (3,))


def test_small_weights_are_alive_and_low_precision_has_one_tier():
    """Tolerances are relative; where n·u is large they would tell nothing apart."""
    tiny = [(1e-6 * w).astype(np.float32) for w in planted(np.random.default_rng(0), -1)]
    assert [u.effective_width for u in certificate(tiny).units] == [7, 7]
    half = [jnp.asarray(w, jnp.bfloat16) for w in planted(np.random.default_rng(0), -1)]
    found = certificate(half)
    assert found.tier == "bit"
    assert [u.effective_width for u in found.units] == [7, 7]


# --- what is refused -------------------------------------------------------------------------------------------------


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_refused():
    w = planted(np.random.default_rng(0), 1)
    w[1][3, 2] = np.nan
    with pytest.raises(isometry.InputError, match=r"w of layer 2 is nan at \(3, 2\); nothing follows from weights"):
        certificate(w)
    biases = [np.zeros(8), np.zeros(9), np.array([0, np.inf, 0])]
    with pytest.raises(isometry.InputError, match=r"b of layer 3 is inf at \(1,\)"):
        certificate(planted(np.random.default_rng(0), 1), biases=biases)
    chain = networks.chain([lambda p, x: x @ p])
    with pytest.raises(isometry.InputError, match=r"certify\(\): block 0 of this chain, .* Write networks.mlp"):
        isometry.certify(chain, (jnp.eye(2),))
    with pytest.raises(isometry.InputError, match=r"net=<function .* is not a Network whose units are known; write"):
        isometry.certify(lambda p, x: x, (jnp.eye(2),))
    net = net_of(planted(np.random.default_rng(0), 1))
    with pytest.raises(TypeError, match="params is traced; certify runs on the host"):
        jax.jit(lambda p: isometry.certify(net, p))(params_of(net, planted(np.random.default_rng(0), 1)))


def no_derivative():
    """A sigmoid that has a reverse derivative only."""
    phi = jax.custom_vjp(jax.nn.sigmoid)
    phi.defvjp(lambda x: (phi(x), x), lambda x, g: (g,))
    return networks.mlp([4, 8, 2], phi, "zeros")


MLP = networks.mlp([4, 8, 2], "tanh", "orthogonal")


@pytest.mark.parametrize(
    ("net", "params", "message"),
    [
        (MLP, {"a": 1}, r"certify\(\): params\['a'\] is not there in this network, and params has \(\)"),
        (MLP, None, r"params\['layers'\]\[0\]\['b'\] is of shape \(1, 8\) in this network, and params lacks it"),
        (MLP, {"layers": []}, "lacks it"),
        (MLP, networks.mlp([4, 9, 2], "tanh", "zeros").init(jax.random.key(0)), r"params has \(1, 9\)"),
        (MLP, networks.mlp([4, 8, 2], "tanh", "zeros", bias=False).init(jax.random.key(0)), r"\['b'\].* lacks it"),
        (MLP, jax.vmap(MLP.init)(jax.random.split(jax.random.key(0), 3)), r"\(3, 1, 8\); .* one seed of stacked"),
        (
            no_derivative(),
            no_derivative().init(jax.random.key(0)),
            r"activation 'sigmoid' raised TypeError at 0, for its value or its slope; write",
        ),
        (
            networks.chain([MLP, MLP]),
            (MLP.init(jax.random.key(0)),) * 2,
            r"layer 2 returns 2 numbers and the next takes 4",
        ),
        (networks.chain([MLP, MLP]), (MLP.init(jax.random.key(0)),), r"params\[1\]\['layers'\].* lacks it"),
    ],
)
def test_parameters_and_networks_that_do_not_fit(net, params, message):
    with pytest.raises(isometry.InputError, match=message):
        isometry.certify(net, params)
