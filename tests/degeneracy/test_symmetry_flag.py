"""locked_symmetry, and what certificates add to the flags of ranks and units."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks
from isometry.degeneracy import _probe, _task
from isometry.degeneracy._symmetry_flag import broken, certified, certified_rank, locked_symmetry
from isometry.degeneracy._unit_flags import dead_units, pre_activations
from isometry.schemes import Scheme

SIZES, KEY = [6, 12, 12, 12, 3], jax.random.key(0)


@functools.cache
def drawn(scheme, seeds=2):
    """A network and its parameters for some seeds."""
    net = networks.mlp(SIZES, "tanh", scheme)
    return net, jax.jit(jax.vmap(net.init))(jax.random.split(KEY, seeds))


@pytest.mark.parametrize(
    ("scheme", "value", "words"),
    [
        ("partial_identity", 6, "z_1 to z_3 train like 6 of 12 units (6 dead share a class)"),
        ("ones", 1, "z_1 to z_3 train like 1 of 12 units (12 live share a class)"),
        ("zer_o", 11, "z_1 to z_3 train like 11 of 12 units (2 live share a class)"),  # P = 8: units 3 and 11
        ("zeros", 0, "z_1 to z_3 train like 0 of 12 units (12 dead share a class)"),
    ],
)
def test_symmetric_schemes_raise_it(scheme, value, words):
    net, params = drawn(scheme)
    flag = locked_symmetry(certified(net, params))
    assert flag.raised
    assert (flag.value, flag.threshold) == (value, 12)
    assert flag.reason == words
    assert flag.evidence["locked_layers"] == [1, 2, 3]
    assert flag.evidence["locked_seeds"] == 2
    assert [s["tier"] for s in flag.evidence["seeds"]] == ["bit", "bit"]
    assert flag.evidence["seeds"][0]["effective_width"] == [value] * 3


def test_random_schemes_are_clear():
    net, params = drawn("gaussian")
    certificates = certified(net, params)
    flag = locked_symmetry(certificates)
    assert flag.state == "clear"
    assert flag.evidence["seeds"][1]["rank_bound"] == [6, 12, 12, 3]
    assert certified_rank(net, certificates) is None
    assert certified_rank(net, []) is None


def test_one_locked_seed_is_enough_and_an_undecided_one_is_said():
    net, params = drawn("gaussian")
    first = jax.tree.map(np.array, params)  # of which units 4 and 7 of layer 1 are made equal in seed 1
    into, out_of = first["layers"][0]["w"][1, 0], first["layers"][1]["w"][1, 0]
    into[:, 4], out_of[4] = into[:, 7], out_of[7]
    flag = locked_symmetry(certified(net, first))
    assert flag.raised
    assert flag.evidence["locked_seeds"] == 1
    assert flag.reason.startswith("z_1 trains like 11 of 12 units (2 live")
    into[:, 4] *= 1 + 3e-6  # 50 rounding units of float32
    flag = locked_symmetry(certified(net, first))
    assert flag.state == "undecided"
    assert flag.reason.startswith("z_1: units equal to within 1000 rounding bounds")


def test_a_bound_is_a_proof_with_or_without_a_probe():
    """One step on two examples: the probe alone is undecided. A probe that breaks the bound is believed instead."""
    net, params = drawn("partial_identity")
    params = jax.tree.map(lambda a: a[:1], params)
    certificates = certified(net, params)
    proof = certified_rank(net, certificates)
    assert proof is not None
    assert "W_2 to W_3 cannot train in more than 6 of 12 directions, N_x = 6; bit for bit" in proof.reason
    xs = jax.random.normal(jax.random.key(3), (2, 6))
    task, _ = _task.make_task(net, xs, None, None, None, 1, jax.random.key(1))
    limits = isometry.Thresholds()
    flag, probe = _probe.judge_ranks(net, None, params, limits, KEY, proof)
    assert flag.raised
    assert probe is None
    assert flag.evidence["slope_at_zero"] == 1
    flag, probe = _probe.judge_ranks(net, task, params, limits, KEY, proof)
    assert flag.raised
    assert flag.value == flag.threshold == 6
    assert probe is not None
    assert flag.evidence["certified_rank"].tolist() == [6, 6]
    assert "control_rank" not in flag.evidence
    proof.evidence["certified_rank"] = np.zeros(2, int)
    flag, _ = _probe.judge_ranks(net, task, params, limits, KEY, proof)
    assert flag.state == "undecided"


def test_a_bound_above_the_input_dimension_proves_nothing():
    net, params = drawn("zer_o")
    assert certified_rank(net, certified(net, params)) is None


def test_units_without_weights_are_certified_dead():
    """tanh has slope everywhere, so that no statistic finds them."""
    net, params = drawn("partial_identity")
    xs = jax.random.normal(jax.random.key(1), (4, 6))
    units = pre_activations(net.function, params, xs)
    assert not dead_units(net, units, isometry.Thresholds(), KEY).raised
    flag = dead_units(net, units, isometry.Thresholds(), KEY, certified(net, params))
    assert flag.raised
    assert flag.value == 0.5
    assert flag.reason == "6 of 12 units of z_1 are dead at every step: no weight reaches them"
    assert flag.evidence["certified"] == [[6, 6, 6]] * 2


def test_weights_that_are_not_finite_are_a_finding_of_the_audit():
    def choose(layer, sigma_w):
        return lambda key, shape, dtype=None, out_sharding=None: jnp.full(shape, jnp.nan if layer.index == 3 else 0.1)

    scheme = Scheme("broken", choose, "NaN in layer 4")
    net = networks.mlp(SIZES, "tanh", scheme)
    keys, xs = jax.random.split(KEY, 2), np.ones((3, 6), np.float32)
    report = isometry.audit(net, keys, xs, train_steps=0)
    assert report.flags["exploding"].raised
    assert report.flags["exploding"].reason == "w of layer 4 is nan at (0, 0) in seed 0"
    assert {f.state for name, f in report.flags.items() if name != "exploding"} == {"undecided"}
    assert "w of layer 4 is nan" in report.table()
    said = " ".join(report.table(width=200).split())  # what to do, and by what threshold
    assert "exploding: finite parameters" in said
    assert "Judged by: numbers that are not finite: exact." in said
    assert "saturated_units:" not in said
    assert "NaN" not in report.to_json()
    params = jax.tree.map(np.array, jax.vmap(net.init)(keys))
    params["layers"][-1]["w"][:] = 0
    assert broken(net, params) == ""
    params["layers"][1]["b"][1, 0, 3] = -np.inf
    assert broken(net, params) == "b of layer 2 is -inf at (3,) in seed 1"
