"""What a probe sees of signals: planted ranks, duplicates, distances and growth."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from isometry import networks
from isometry.degeneracy._signals import Signals, _duplicates, _of_classes, observe, rank_of
from isometry.degeneracy._symmetry_flag import certified, locked_symmetry, with_growth

STEPS = np.arange(0, 90, 10)


def signals(spread, least=1.0):
    spread = np.asarray(spread)
    empty = np.zeros((len(spread), len(STEPS), 1), int)
    return Signals(8, STEPS, empty, empty, spread, np.full(spread.shape, least))


def test_ranks_and_duplicates_are_those_planted():
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(2, 20, 5)) @ rng.normal(size=(5, 12))).astype(np.float32)
    assert rank_of(z).tolist() == [5, 5]
    assert rank_of(np.full_like(z, np.nan)).tolist() == [0, 0]
    assert _duplicates(z[0]) == 0
    z[0][:, [3, 7]] = z[0][:, [1]]
    z[0][:, 9] = z[0][:, 0] * np.float32(1 + 2**-23)  # a rounding unit
    z[0][:, 10:] = 0  # null units are no duplicates
    assert _duplicates(z[0]) == 3
    z[0][:, 9] = z[0][:, 0] * np.float32(1 + 2**-16)
    assert _duplicates(z[0]) == 2


def test_distances_within_a_class():
    """Classes (0, 1, 3) with one sign turned, live, and (2, 5), dead; unit 4 is null."""
    units = SimpleNamespace(
        classes=np.array([0, 0, 1, 0, -1, 1]), signs=np.array([1, -1, 1, 1, 1, 1]), live=np.array([True, False])
    )
    z = np.zeros((4, 6))
    z[:, 0], z[:, 1], z[:, 3], z[:, 5] = 2.0, -2.0, 2.5, 9.0
    size = math.sqrt((4 + 4 + 6.25 + 81) / 6)
    apart, least = _of_classes(z, units, (0.0,))
    assert apart == pytest.approx(0.25)
    assert least == pytest.approx(2 / size)
    assert _of_classes(z, units, (-1.0, 2.25))[1] == pytest.approx(0.25 / size)  # of 2, −2 and 2.5: the kink at 2.25
    assert _of_classes(z, units, (-2.0,))[1] == 0
    assert _of_classes(z, units, ()) == (pytest.approx(0.25), np.inf)
    units.live = np.array([False, False])
    assert _of_classes(z, units, (0.0,)) == (0.0, np.inf)
    units.live = np.array([True, False])
    assert _of_classes(z * np.nan, units, (0.0,)) == (np.inf, 0.0)


@pytest.mark.core
def test_growth_is_the_slope_of_the_logarithm():
    rng = np.random.default_rng(0)
    level, held = np.array([[1e-16], [1e-12], [1e-14]]), 0
    exact = signals(level * np.exp(0.07 * STEPS))
    rate, (low, high) = exact.growth()
    assert rate == pytest.approx(0.07, rel=1e-9)
    assert high - low < 1e-9
    for _ in range(400):  # the interval holds the truth in 95 % of draws
        noisy = signals(level * np.exp(0.07 * STEPS + rng.normal(size=(3, len(STEPS)))))
        low, high = noisy.growth()[1]
        held += low <= 0.07 <= high
    assert abs(held / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)
    late = level * np.exp(0.07 * STEPS) * (STEPS > 20)  # exact zeros first, as equal to the bit
    assert signals(late).growth()[0] == pytest.approx(0.07, rel=1e-9)
    assert signals(0 * level * STEPS).growth() is None


def ones(activation):
    """A network of ones, and the parameters of one seed."""
    net = networks.mlp([4, 6, 6, 2], activation, "ones")
    shapes = jax.eval_shape(net.init, jax.random.key(0))["layers"]
    runs = [{"w": np.ones((1, *run["w"].shape), np.float32), "b": np.zeros((1, *run["b"].shape), np.float32)}
            for run in shapes]  # fmt: skip
    return net, {"layers": tuple(runs)}


@pytest.mark.parametrize(
    ("activation", "least", "parts"), [("tanh", np.inf, False), ("relu", 0.0, True), ("relu", 0.1, False)]
)
def test_the_flag_says_how_fast_a_lock_opens(activation, least, parts):
    net, params = ones(activation)
    certificates = certified(net, params)
    flag = locked_symmetry(certificates)
    said = with_growth(flag, certificates, signals(1e-7 * np.exp(0.1 * STEPS)[None], least))
    assert said.raised
    assert said.evidence["growth_rate"] == pytest.approx(0.1)
    assert "after 80 steps their units differ by 0.0003, growing by e^8" in said.reason
    assert said.evidence["may_part_at_once"] == parts
    assert ("part at once" in said.reason) == parts
    rng = np.random.default_rng(0)
    plain = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), params)
    nothing = signals(np.zeros((1, len(STEPS))), np.inf)
    assert with_growth(flag, certified(net, plain), nothing) is flag
    rank, duplicates, spread, least = observe(
        net.function, params, np.eye(4, dtype=np.float32), certificates, net.activation.kinks
    )
    assert rank.tolist() == [[1, 1, 1]]
    assert duplicates.tolist() == [[5, 5]]
    assert spread.tolist() == [0.0]
    assert 0 < least[0] < np.inf if activation == "relu" else np.isinf(least[0])


@pytest.mark.parametrize(("activation", "at"), [("shifted_relu", -1.0), ("hard_tanh", 1.0)])
def test_kinks_may_be_anywhere(activation, at):
    """Equal units of z_1 put on the kink to the bit: W_1 = at, x = 1 on one input and 0 elsewhere."""
    net, params = ones(activation)
    first = {**params["layers"][0], "w": np.full((1, 1, 4, 6), at, np.float32)}
    params = {"layers": (first, *params["layers"][1:])}
    certificates = certified(net, params)
    xs = np.eye(4, dtype=np.float32)
    assert observe(net.function, params, xs, certificates, net.activation.kinks)[3].tolist() == [0.0]
    assert 0.1 < observe(net.function, params, 0.5 * xs, certificates, net.activation.kinks)[3][0] < np.inf


@pytest.mark.slow
def test_ranks_of_signals_stop_at_the_effective_width(pooled_audits):
    """ZerO on 16 inputs: P + N_y = 26 of 32 units; partial identity: N_x = 16; Gaussian: all."""
    last = {name: report.probe.signals.rank[:, -1, :-1].max() for name, report in pooled_audits.items()}
    assert last["partial_identity"] == 16
    assert last["zer_o"] == 26
    assert last["gaussian"] > 26
    function = pooled_audits["gaussian"].probe.signals.rank[:, -1, -1]
    assert (function == 10).all()
    flag = pooled_audits["zer_o"].flags["locked_symmetry"]
    assert flag.evidence["class_spread"].max() < 1e-4
