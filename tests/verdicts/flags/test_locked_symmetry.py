"""locked_symmetry: units, channels, heads, experts and blocks that stay equal."""

import jax
import numpy as np
import pytest

from isometry import networks
from isometry.verdicts._spread import Spread
from isometry.verdicts.flags import locked_symmetry
from isometry.verdicts.flags.locked_symmetry import with_growth
from tests.verdicts import measuring, planted
from tests.verdicts.planted import KEY, inputs, one_seed, record

STEPS = np.arange(0, 90, 10)


def judged(f, params, xs, num_steps=0):
    return locked_symmetry.judge(record(f, params, xs, num_steps=num_steps), KEY)


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_and_opposite_heads_are_locked(sign):
    """Head 3 is head 1; or its values and outputs have the other sign."""
    params = planted.drawn(planted.ATTENTION)
    for name in ("query", "key", "value"):
        params[name][:, 3] = params[name][:, 1] * (sign if name == "value" else 1)
    params["out"][3] = params["out"][1] * sign
    flag = judged(planted.attention, one_seed(params), inputs(8, 4, 8))
    assert flag.raised
    assert (flag.value, flag.threshold) == (6, 8)
    assert {"query", "key", "value"} <= set(flag.where)
    assert "4 heads, 3 distinct" in flag.reason
    assert "in exact arithmetic" in flag.reason


def test_a_near_miss_of_a_millionth_is_clear():
    """Training parts what differs at all."""
    params = planted.drawn(planted.ATTENTION)
    for name in ("query", "key", "value"):
        params[name][:, 3] = params[name][:, 1]
    params["out"][3] = params["out"][1] * np.float32(1 + 1e-6)
    flag = judged(planted.attention, one_seed(params), inputs(8, 4, 8))
    assert flag.state == "clear"
    assert flag.reason == "no equal units found"


def test_equal_and_dead_experts_are_locked():
    params = planted.drawn(planted.EXPERTS)
    params["gate"][:, 2] = params["gate"][:, 0]
    for name in ("first", "second"):
        params[name][2] = params[name][0]
        params[name][3] = 0
    flag = judged(planted.experts, one_seed(params), inputs(8, 6))
    assert flag.raised
    assert {"first", "gate"} <= set(flag.where)
    assert "4 experts, 2 distinct, 1 never moves" in flag.reason


def test_dead_channels_of_a_dirac_network_are_locked_bit_for_bit():
    params = planted.dirac(planted.drawn(planted.KERNELS))
    flag = judged(planted.convolutions, one_seed(params), inputs(8, 5, 5, 1))
    assert flag.raised
    assert (flag.value, flag.threshold) == (1, 6)
    assert "train like 1 of 6 channels" in flag.reason
    assert "bit for bit" in flag.reason


def test_equal_halves_of_a_network_are_locked():
    """Two towers of equal weights, whose outputs are added: whole leaves are equal."""

    def towers(params, x):
        h = [jax.numpy.tanh(x @ params[name]) for name in ("left", "right")]
        return (h[0] + h[1]) @ params["head"]

    params = planted.drawn({"left": (6, 8), "right": (6, 8), "head": (8, 3)})
    params["right"] = params["left"].copy()
    flag = judged(towers, one_seed(params), inputs(8, 6))
    assert flag.raised
    assert "2 equal weights, 1 distinct" in flag.reason


def test_one_locked_seed_is_enough():
    net = networks.mlp([4, 8, 8, 3], "tanh", "gaussian")
    params = measuring.drawn(net, 1.0, seeds=2)
    first, second = params["layers"][0]["w"][1, 0], params["layers"][1]["w"][1, 0]
    first[:, 2], second[2] = first[:, 5], second[5]
    flag = judged(net, params, inputs(8, 4), num_steps=12)
    assert flag.raised
    assert flag.evidence["locked_seeds"] == 1
    assert (flag.value, flag.threshold) == (7, 8)
    assert flag.where == ("layers/0",)
    # Rounding alone parts the two in twelve steps.
    assert flag.evidence["class_spread"].max() < 1e-5


def spreads(spread, least=np.inf):
    spread = np.asarray(spread)
    return Spread(("z",), STEPS, spread, np.full(spread.shape, least))


def test_the_flag_says_how_fast_a_lock_opens():
    params = planted.dirac(planted.drawn(planted.KERNELS))
    flag = judged(planted.convolutions, one_seed(params), inputs(8, 5, 5, 1))
    told = with_growth(flag, spreads(1e-7 * np.exp(0.1 * STEPS)[None]))
    assert told.evidence["growth_rate"] == pytest.approx(0.1)
    assert "after 80 steps their units differ by 0.0003" in told.reason
    assert "growing by e^8" in told.reason
    assert not told.evidence["may_part_at_once"]
    near = with_growth(flag, spreads(np.zeros((1, len(STEPS))), least=1e-8))
    assert near.evidence["may_part_at_once"]
    assert "can part at once" in near.reason
    nothing = Spread((), STEPS, np.zeros((1, 9)), np.full((1, 9), np.inf))
    assert with_growth(flag, nothing) is flag
