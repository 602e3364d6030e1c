"""Networks of the zoo that are no perceptrons: their truth, their faults, the count."""

import jax
import numpy as np
import pytest

from benchmarks.zoo import _architectures, _plants, _recurrent, _report, _trained
from benchmarks.zoo._architectures import CASES
from benchmarks.zoo._case import FLAGS, path_name
from isometry.verdicts._registry import registered

BY_NAME = {case.name: case for case in CASES}


def weights_of(case, seed=0):
    """The weights of one seed by path, broken as the case says."""
    params = case.planted(jax.random.split(jax.random.key(seed), 1))
    paths = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): np.asarray(leaf)[0] for path, leaf in paths}


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
def test_every_flag_is_asked_of_healthy_networks(flag):
    answers = [case.truth[flag] for case in CASES]
    assert False in answers


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


def test_near_twins_differ_by_a_millionth():
    weights = weights_of(BY_NAME["residual-dense-near_twin"])
    first = weights["blocks/first/w"][1]
    difference = np.abs(first[:, 1] - first[:, 0])
    assert difference.any()
    # Four standard deviations of the noise are below five of its scales.
    assert (difference <= 5 * _plants.NEAR * np.abs(first[:, 0]) + 1e-12).all()


def test_units_of_a_recurrence_are_swapped_without_a_change():
    """A lock of the whole function: swapped units put out the same, gate by gate."""
    for name in ("gru", "lstm"):
        case = BY_NAME[f"recurrent-{name}-twin"]
        weights = weights_of(case)
        units = getattr(_recurrent, f"_{name.upper()}_UNITS")(weights)
        for part in (*units.into, *units.out):
            np.testing.assert_array_equal(part[0], part[1])


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
