"""certify against training itself: what it says of every step holds at each, by rules of several kinds."""

import jax
import numpy as np
import pytest

from isometry.degeneracy import _support
from tests.degeneracy.certificates import certificate

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
