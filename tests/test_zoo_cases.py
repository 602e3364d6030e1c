"""Networks of the zoo that are no perceptrons: their truth, their faults, the count."""

import itertools

import jax
import numpy as np
import pytest

from benchmarks.zoo import _architectures, _plants, _report, _trained
from benchmarks.zoo._architectures import CASES
from benchmarks.zoo._case import FLAGS, path_name
from isometry.verdicts._registry import registered

BY_NAME = {case.name: case for case in CASES}


def weights_of(case):
    """The weights of one seed by path, broken as the case says.

    Numbers are of NumPy, in the shapes of the network's: nothing is compiled.
    """
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(case.build().init, jax.random.key(0))
    params = jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes
    )
    paths = jax.tree_util.tree_leaves_with_path(case._planted_one(params))
    return {path_name(path): leaf for path, leaf in paths}


def test_the_zoo_is_large_and_its_halves_are_fixed():
    """The half depends on the name alone, so it does not move when the zoo grows."""
    assert len(CASES) >= 60
    assert len(BY_NAME) == len(CASES)
    quoted = [case.name for case in CASES if case.quoted]
    assert len(CASES) / 3 < len(quoted) < 2 * len(CASES) / 3
    assert BY_NAME["conv-circular"].quoted == QUOTED["conv-circular"]
    assert BY_NAME["residual-dense"].quoted == QUOTED["residual-dense"]


# The last bit of the first byte of sha256 of the name, by `sha256sum`.
QUOTED = {"conv-circular": False, "residual-dense": True}


def test_truth_speaks_of_the_flags_that_are_registered():
    names = {one.name for one in registered()}
    assert set(FLAGS) <= names
    for case in CASES:
        assert tuple(case.truth) == FLAGS
        asked = set((case.raised + " " + case.unasked + " " + case.also_clear).split())
        assert asked <= set(FLAGS), case.name


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_is_asked_both_ways_in_both_halves(flag):
    asked = {(case.truth[flag], case.quoted) for case in CASES}
    assert asked >= set(itertools.product((True, False), (True, False)))


def test_twins_are_equal_to_the_bit_and_opposites_opposite():
    for name, sign in (("twin", 1), ("opposite", -1)):
        weights = weights_of(BY_NAME[f"recurrent-vanilla-{name}"])
        recurrent = weights["state/recurrent"]
        # Swapping the two units, with their signs, leaves the weights as they are.
        swap = np.eye(8, dtype=recurrent.dtype)
        swap[:2, :2] = [[0, sign], [sign, 0]]
        np.testing.assert_array_equal(swap.T @ recurrent @ swap, recurrent)
        np.testing.assert_array_equal(
            weights["state/input"] @ swap, weights["state/input"]
        )
        np.testing.assert_array_equal(swap @ weights["head/w"], weights["head/w"])


def test_pairs_are_what_their_names_say():
    """One architecture of each kind; the units that are compared are found by names."""
    pairs = {
        "conv-depthwise": ("layers/0/w", "layers/2/w"),
        "residual-dense": ("blocks/first/w", "blocks/second/w"),
        "recurrent-lstm": ("forget/input", "head/w"),
    }
    for name, (into, out) in pairs.items():
        twin, near = (
            weights_of(BY_NAME[f"{name}-{kind}"]) for kind in ("twin", "near_twin")
        )
        block = 1 if name == "residual-dense" else ...
        for weights, bound in ((twin, 0), (near, 5 * _plants.NEAR)):
            columns = weights[into][block]
            rows = weights[out][block]
            # Four standard deviations of the noise are below five of its scales.
            for one, other in (
                (columns[..., 0], columns[..., 1]),
                (rows[..., 0, :], rows[..., 1, :]),
            ):
                difference = np.abs(one - other)
                assert difference.any() == (bound > 0)
                assert (difference <= bound * np.abs(one)).all()


def test_twins_stay_equal_in_training_and_near_twins_do_not():
    """Trained in float64: equal experts to 1e-12, and near ones stay 1e-7 apart."""
    equal = _trained.parting(BY_NAME["experts-twin"])
    assert equal.after < 1e-12
    assert equal.moved > 1e-2
    near = _trained.parting(BY_NAME["experts-near_twin"])
    assert near.after > 1e-7


def test_the_record_counts_what_is_not_the_truth():
    """Made-up verdicts: a planted network that is missed, and one false alarm."""
    planted, healthy = BY_NAME["conv-circular-twin"], BY_NAME["conv-circular"]

    def draws(state):
        verdict = {"state": "clear", "value": 0.0, "line": 1.0}
        return [{flag: dict(verdict) for flag in FLAGS} | {"vanishing": state}]

    clear = {"state": "clear", "value": 0.0, "line": 1.0}
    records = {
        planted: {"draws": draws(clear), "cpu_seconds": 1.0},
        healthy: {"draws": draws(clear | {"state": "raised"}), "cpu_seconds": 2.0},
    }
    record = _architectures.record_of(records, _architectures.SMOKE, "smoke")
    half = {True: "quoted", False: "tuning"}
    missed = record["flags"]["locked_symmetry"][half[planted.quoted]]["misses"]
    assert (missed["errors"], missed["draws"]) == (1, 1)
    alarms = record["flags"]["vanishing"][half[healthy.quoted]]["false_alarms"]
    assert (alarms["errors"], alarms["draws"]) == (1, 1)
    page = "\n".join(_report.section(record))
    assert "| conv-circular-twin |" in page
    assert "0 of 1" in page


@pytest.mark.slow
def test_a_smoke_run_finds_what_was_planted(tmp_path):
    record = _architectures.run(True, tmp_path, lambda text: None)
    found = record["configurations"]
    assert found.keys() == {case.name for case in _architectures.SMOKE_CASES}
    dead = found["residual-dense-zero_branch"]["flags"]["dead_branch"]
    assert dead["states"] == {"raised": 1}
    equal = found["residual-dense-equal_blocks"]["flags"]["duplicate_blocks"]
    assert equal["states"] == {"raised": 1}
