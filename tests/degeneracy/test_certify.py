"""certify: against every partition there is, against training itself, and on the schemes whose symmetry is known."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks
from isometry.activations import Activation
from isometry.degeneracy import _support
from isometry.degeneracy._partition import Classes, Edge, Exact, exact_sums, is_dyadic, of_groups, refine, singletons

ROUND = 2.0**-53


def net_of(weights, activation="tanh", bias=True):
    return networks.mlp([weights[0].shape[0], *(w.shape[1] for w in weights)], activation, "zeros", bias=bias)


def params_of(net, weights, biases=None):
    """Parameters as `net` stores them, from a list of matrices."""
    arrays = [np.asarray(w) for w in weights]
    shapes = [run["w"].shape for run in jax.eval_shape(net.init, jax.random.key(0))["layers"]]
    ends = np.cumsum([0] + [s[0] for s in shapes])
    runs = []
    for start, end in itertools.pairwise(ends):
        run = {"w": np.stack(arrays[start:end])}
        if net.bias:
            chosen = [np.zeros(w.shape[1], w.dtype) for w in arrays] if biases is None else biases
            run["b"] = np.stack(chosen[start:end])
        runs.append(run)
    return {"layers": tuple(runs)}


def certificate(weights, activation="tanh", biases=None, bias=True):
    net = net_of(weights, activation, bias)
    return isometry.certify(net, params_of(net, weights, biases))


# --- the coarsest partition, by trying them all ----------------------------------------------------------------------


def every_partition(units, signed, null):
    """All bases (units, classes) of class vectors, each once; units in no class are null."""

    def grow(unit, columns):
        if unit == units:
            yield np.array(columns, int).reshape(-1, units).T
            return
        if null:
            yield from grow(unit + 1, columns)
        for i, sign in itertools.product(range(len(columns)), (1, -1) if signed else (1,)):
            changed = [list(c) for c in columns]
            changed[i][unit] = sign
            yield from grow(unit + 1, changed)
        yield from grow(unit + 1, [*columns, [int(j == unit) for j in range(units)]])

    return list(grow(0, []))


def holds(basis, vectors):
    """Whether all `vectors`, columns of whole numbers, are in the span of class vectors: exact."""
    sizes = (basis**2).sum(0)
    return (vectors * np.prod(sizes) == basis @ (np.prod(sizes) // sizes[:, None] * (basis.T @ vectors))).all()


@pytest.mark.parametrize(("signed", "null"), [(True, True), (False, True), (False, False)])
def test_the_partition_is_the_coarsest_of_all(signed, null):
    """Whole weights −1, 0, 1 in nets of widths 2, 3, 4, 1, so that sums collide and cancel; integers are exact."""
    random, lists = np.random.default_rng(3), [every_partition(n, signed, null) for n in (3, 4)]
    dimensions = set()
    for _ in range(60):
        w = [random.integers(-1, 2, shape) for shape in ((2, 3), (3, 4), (4, 1))]
        sign = random.choice([1, -1] if signed else [1])
        w[0][:, 1] = sign * w[0][:, 0]
        if random.random() < 0.7:
            w[1][1] = sign * w[1][0]
        if random.random() < 0.5:
            w[1][:, 3], w[2][3] = w[1][:, 0], w[2][0]
        b = [np.zeros(3, int), random.integers(0, 2) * random.integers(-1, 2, 4)]
        below = [p for p in lists[0] if holds(p, np.c_[w[0].T, b[0]])]
        above = [p for p in lists[1] if holds(p, np.c_[w[2], b[1]])]
        equitable = [(p, q) for p, q in itertools.product(below, above) if holds(q, w[1].T @ p) and holds(p, w[1] @ q)]
        least = min(equitable, key=lambda pair: pair[0].shape[1] + pair[1].shape[1])
        edges = [Edge(i, i + 1, a.astype(float)) for i, a in enumerate(w)]
        biases = {i + 1: a.astype(float) for i, a in enumerate(b)}
        found = refine([2, 3, 4, 1], edges, biases, Exact(), signed=[signed] * 2, null=[null] * 2)
        for classes, expected in zip(found[1:3], least, strict=True):
            basis = (classes.ids[:, None] == np.arange(classes.count)[None]) * classes.signs[:, None]
            assert classes.count == expected.shape[1]
            assert holds(expected, basis.astype(int))
        for pair in equitable:  # and every other is finer
            assert holds(pair[0], least[0])
            assert holds(pair[1], least[1])
        dimensions.add((found[1].count, found[2].count))
    assert len(dimensions) > 4  # not the same answer for all


def test_sums_are_exact():
    """Dyadic terms in any order; others as expansions: 1 + 2^-60 − 1 is not 0, as any plain order may have it."""
    classes = of_groups(np.array([0, 0, 0, -1]), np.ones(4))
    rows = np.array([[1.0, 2.0**-60, -1.0, 5.0], [2.0**-60, 0.0, 0.0, 7.0]])
    assert not is_dyadic(rows[:, :3], 3)
    assert (exact_sums(rows, classes) == 2.0**-60).all()
    parts = exact_sums(np.array([[1, 2.0**-60, 0.3, 5], [2.0**-61, 1, 0.3, 5], [1, 0.3, 2.0**-60, 5]]), classes)
    assert parts[0, 0] == parts[1, 0]  # 1.3 both, when rounded
    assert (parts[0] == parts[2]).all()
    assert (parts[0] != parts[1]).any()
    terms = np.random.default_rng(0).standard_normal((5, 7)) * np.logspace(-30, 0, 7)[None]
    for sizes in ((2, 2, 2, 1), (3, 4)):
        classes = of_groups(np.arange(len(sizes)).repeat(sizes), np.ones(7))
        for row, found in zip(terms, exact_sums(terms, classes), strict=True):
            exact = [sum(map(Fraction, part)) for part in np.split(row, np.cumsum(sizes)[:-1])]
            assert found[: len(sizes)].tolist() == [float(e) for e in exact]
            assert sum(map(Fraction, found)) == sum(exact)
    assert is_dyadic(np.full((3, 1000), 0.1, np.float32), 1000)
    assert is_dyadic(np.full((3, 1000), 0.1, np.float32).astype(float), 1000)
    assert not is_dyadic(np.full((3, 1000), 0.1), 1000)
    assert is_dyadic(np.zeros((2, 3)), 3)
    assert exact_sums(rows, Classes(np.arange(4), np.ones(4), 4)) is rows


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


def planted(random, sign, dtype=np.float32):
    """Gaussian, of widths 5, 8, 9, 3; units 0, 3 of layer 1 and 1, 2, 4 of layer 2 are alike up to sign."""
    w = [random.standard_normal(s).astype(dtype) for s in ((5, 8), (8, 9), (9, 3))]
    w[0][:, 3] = sign * w[0][:, 0]
    w[1][3] = sign * w[1][0]
    for j, s in ((2, sign), (4, 1)):
        w[1][:, j] = s * w[1][:, 1]
        w[2][j] = s * w[2][1]
    return w


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


# --- training --------------------------------------------------------------------------------------------------------

SHAPES = {
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: 1.0 * (z > 0)),
}


def gradients(weights, biases, xs, targets, activation):
    """Back-propagation of ½‖y − t‖² in numpy float64: gradients, and activations and signals of every node."""
    phi, slope = SHAPES[activation]
    z, a = [xs], [xs]
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        z.append(a[-1] @ w + b)
        a.append(z[-1] if i == len(weights) - 1 else phi(z[-1]))
    signals = [z[-1] - targets]
    for i in range(len(weights) - 1, 0, -1):
        signals.insert(0, signals[0] @ weights[i].T * slope(z[i]))
    return [u.T @ d for u, d in zip(a[:-1], signals, strict=True)], [d.sum(0) for d in signals], a, [None, *signals]


def train(weights, rule, activation="tanh", steps=12, rate=0.05, decay=0.0, has_bias=True):
    """Yields (weights, gradients, activations, signals) of each step."""
    random = np.random.default_rng(5)
    xs, targets = random.standard_normal((20, len(weights[0]))), random.standard_normal((20, weights[-1].shape[1]))
    weights = [np.array(w, float) for w in weights]
    biases = [np.zeros(w.shape[1]) for w in weights]
    m, v = ([np.zeros_like(p) for p in weights + biases] for _ in range(2))
    for t in range(1, steps + 1):
        g, gb, a, d = gradients(weights, biases, xs, targets, activation)
        yield [w.copy() for w in weights], g, a, d
        for i, (p, grad) in enumerate(zip(weights + biases, g + gb, strict=True)):
            if i >= len(weights) and not has_bias:
                continue
            grad = grad / len(xs) + decay * p  # coupled L2
            m[i] = 0.9 * m[i] + 0.1 * grad
            v[i] = 0.99 * v[i] + 0.01 * grad**2
            adam = m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.99**t)) + 1e-8)
            p -= rate * {"sgd": grad, "momentum": m[i], "adam": adam}[rule]


def balanced(random, sign=1):
    """Widths 4, 9, 9, 2: three classes of three units a layer, blocks whose entries differ and whose sums are exact."""
    at, signs = np.repeat([0, 1, 2], 3), np.tile([1, sign, 1], 3)
    tilt = np.array([1, -1, 0])
    inner = random.integers(-8, 9, (3, 3))[at][:, at] / 16
    inner = inner + np.kron(random.integers(1, 5, (3, 3)), np.outer(tilt, tilt)) / 16
    ends = random.integers(-8, 9, (4, 3))[:, at] / 16, random.integers(-8, 9, (3, 2))[at] / 16
    return [ends[0] * signs, inner * np.outer(signs, signs), ends[1] * signs[:, None]]


def rank(matrix):
    s = np.linalg.svd(matrix, compute_uv=False)
    return int((s > 1e-9 * max(s[0], 1)).sum())


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize(("activation", "sign"), [("tanh", 1), ("tanh", -1), ("relu", 1)])
def test_training_keeps_what_is_certified(activation, sign, rule):
    """Activations and signals stay equal in a class, and no update leaves rank 3 of 9. Rounding: 1e-16, 12 steps."""
    w = balanced(np.random.default_rng(2), sign)
    with jax.enable_x64(True):
        found = certificate(w, activation)
    assert [u.effective_width for u in found.units] == [3, 3]
    assert [b.rank for b in found.bounds] == [3, 3, 2]
    assert not found.true_duplicates
    steps = list(train(w, rule, activation))
    for now, _, a, d in steps:
        for unit in found.units:
            representative = np.unique(unit.classes, return_index=True)[1][unit.classes]
            for values in (a[unit.layer], d[unit.layer]):
                signed = values * unit.signs
                np.testing.assert_allclose(signed, signed[:, representative], atol=1e-9)
        for bound, after, before in zip(found.bounds, now, w, strict=True):
            assert rank(after - before) <= bound.rank
    reached = rank(steps[-1][0][1] - w[1])
    assert reached == 3 if activation == "tanh" else reached >= 2  # by relu but for a class below zero on all inputs
    assert np.ptp(steps[-1][0][1][:3, :3]) > 0.1  # entries of a block do differ


def test_coupled_decay_under_adam_breaks_equal_sums_but_not_duplicates():
    random = np.random.default_rng(2)
    w = balanced(random)
    final = list(train(w, "adam", decay=0.1))[-1][0]
    assert rank(final[1] - w[1]) > 3
    final = list(train(w, "sgd", decay=0.1))[-1][0]
    assert rank(final[1] - (1 - 0.05 * 0.1) ** 11 * w[1]) <= 3 < rank(final[1] - w[1])  # linear in W(0)
    twins = [w[0], w[1].reshape(3, 3, 3, 3).mean((1, 3)).repeat(3, 0).repeat(3, 1), w[2]]
    with jax.enable_x64(True):
        assert certificate(twins).true_duplicates
    final = list(train(twins, "adam", decay=0.1))[-1][0]
    assert rank(final[1] - twins[1]) <= 3


def test_cancelling_units_are_null():
    """A unit fed +1 and −1 by twins and read with +1 and −1 by twins: its activation and signal cancel for ever."""
    random = np.random.default_rng(4)
    w = [np.repeat(random.integers(1, 9, (3, 2)) / 8, 2, 1), np.zeros((4, 5)), np.zeros((5, 5)), np.zeros((5, 2))]
    w[1][:, :4] = np.repeat(np.repeat(random.integers(1, 9, (2, 2)), 2, 0), 2, 1) / 8
    w[1][:2, 4] = 1, -1
    w[2][:4, :4] = np.repeat(np.repeat(random.integers(1, 9, (2, 2)), 2, 0), 2, 1) / 8
    w[2][4, :2] = 1, -1
    w[3] = np.repeat(random.integers(1, 9, (3, 2)), 2, 0)[:5] / 8
    with jax.enable_x64(True):
        found = certificate(w)
    null = found.units[1]
    assert null.classes.tolist() == [0, 0, 1, 1, -1]
    assert not null.dead.any()  # in exact arithmetic only, so not "bit for bit"
    assert [(b.first_gradient, b.exact_first_gradient) for b in found.bounds] == [(1, 1)] * 4
    for _, _, a, d in train(w, "adam"):
        assert max(np.abs(a[2][:, 4]).max(), np.abs(d[2][:, 4]).max()) < 1e-12


def test_a_gradient_that_cancels_is_told_from_one_that_is_zero():
    """A bottleneck fed by twins with +1 and −1, read by twins with +1 and −1: nothing passes, in exact arithmetic."""
    w = [np.array([[0.3, 0.3], [0.7, 0.7]]), np.array([[1.0], [-1.0]]), np.array([[1.0, -1.0]]), np.full((2, 1), 0.5)]
    with jax.enable_x64(True):
        found = certificate(w, bias=False)
    assert [b.first_gradient for b in found.bounds] == [None] * 4
    assert [b.exact_first_gradient for b in found.bounds] == [1] * 4
    assert "never a gradient, in exact arithmetic (bit for bit: gradient from step 1)" in repr(found)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_supports_say_what_training_reaches_and_when(activation, has_bias):
    """Random patterns of zero layers, rows and columns; outside of the supports everything is bitwise zero.

    That a gradient does arrive at the step named is generic, and random weights are generic.
    """
    random, seen = np.random.default_rng(6), set()
    for _ in range(60):
        w = [random.standard_normal(s) for s in ((3, 5), (5, 5), (5, 5), (5, 2))]
        for i in range(4):
            w[i] *= random.choice([0, 1], p=[0.35, 0.65])
            w[i] *= random.choice([0, 1], w[i].shape[1], p=[0.3, 0.7]) if i < 3 else 1
        b = [np.zeros(a.shape[1], bool) if has_bias else None for a in w]
        found = _support.propagate([a != 0 for a in w], b, [True] * 3, [activation == "tanh"] * 3)
        first = [None] * 4
        for t, (_, g, a, d) in enumerate(train(w, "sgd", activation, has_bias=has_bias), 1):
            first = [t if f is None and x.any() else f for f, x in zip(first, g, strict=True)]
            for i in range(1, 4):
                assert not a[i][:, ~found.activation[i]].any()
                assert not d[i][:, ~found.signal[i]].any()
        if activation == "tanh":
            assert first == list(found.first_gradient)
        assert all(f is None or (s is not None and s <= f) for f, s in zip(first, found.first_gradient, strict=True))
        seen |= set(first)
    assert {None, 1, 2} <= seen


def test_without_phi_of_zero_nothing_is_dead():
    found = certificate([np.zeros(s, np.float32) for s in ((4, 5), (5, 5), (5, 2))], "sigmoid")
    assert [u.effective_width for u in found.units] == [1, 1]
    assert [b.first_gradient for b in found.bounds] == [3, 2, 1]
    assert not any(u.dead.any() for u in found.units)
    dead = certificate([np.zeros(s, np.float32) for s in ((4, 5), (5, 5), (5, 2))], "tanh")
    assert [b.first_gradient for b in dead.bounds] == [None] * 3
    assert [b.rank for b in dead.bounds] == [0] * 3
    assert "never a gradient" in repr(dead)


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


def test_classes_are_numbered_by_appearance():
    found = of_groups(np.array([7, -2, 3, 7, 3]), np.array([-1.0, 1, 1, 1, -1]))
    assert found.ids.tolist() == [0, -1, 1, 0, 1]
    assert found.signs.tolist() == [1, 1, 1, -1, -1]
    assert found.sizes.tolist() == [2, 2]
    assert singletons(3).full
