"""Times of training: how they are estimated, and that their claim can fail."""

import numpy as np
import pytest
import xarray

from paper_figs import _run, _times

TIMED = "pennington2017_training_time"

# Powers of depth with which times grow.
GROWN = {
    "tanh, orthogonal": 0.4,
    "tanh, gaussian": 1.1,
    "relu, orthogonal": 1.2,
    "relu, gaussian": 1.3,
}


def make_times(noise=0.15):
    """Times with these powers, at eight rates, with the best between two of them."""
    rng = np.random.default_rng(3)
    depths = np.array([4, 12])
    power = np.array(list(GROWN.values()))
    middle = np.log(10) + power[:, None] * np.log(depths / 4)
    of_rate = 0.1 * (np.arange(8) - 3.5)[:, None] ** 2
    of_seed = noise * rng.standard_normal(12)
    logs = middle[:, :, None, None] + of_rate + of_seed
    logs = logs + noise * rng.standard_normal(logs.shape)
    wrong = 0.9 + 0.04 * rng.standard_normal((4, 2, 12))
    variance = 1 + 0.1 * rng.standard_normal((4, 2, 12))
    return xarray.Dataset(
        {
            "steps": (("net", "depth", "rate", "seed"), np.exp(logs)),
            "ended": (("net", "depth"), np.full((4, 2), 400)),
            "wrong": (("net", "depth", "seed"), wrong),
            "variance": (("net", "depth", "seed"), variance),
        },
        {"net": list(GROWN), "depth": depths, "rate": 2.0 ** (np.arange(-4, 4) / 2)},
    )


def failing(data):
    """The first words of the comparisons that do not hold."""
    compared, _ = _run.judge(_run.figure(TIMED), data)
    return [c.what.partition(",")[0] for c in compared if not c.holds]


def test_the_claim_holds_of_times_that_grow_as_it_says():
    assert failing(make_times()) == []


def test_exchanged_weights_fail():
    exchanged = [list(GROWN)[i] for i in (1, 0, 2, 3)]
    data = make_times().assign_coords(net=exchanged)
    assert failing(data) == ["power of L"]


def test_times_that_grow_alike_fail():
    data = make_times()
    alike = data.steps.values[[1, 1, 2, 3]]
    data = data.assign(steps=data.steps.copy(data=alike))
    assert failing(data) == ["power of L"]


@pytest.mark.parametrize(("rate", "words"), [(-1, "the same"), (0, "best rate")])
def test_a_best_rate_at_an_edge_fails(rate, words):
    """The best one may lie beyond."""
    data = make_times()
    is_fast = (data.net == "relu, gaussian") & (data.rate == data.rate[rate])
    assert failing(data.assign(steps=data.steps.where(~is_fast, 2.0))) == [words]


def test_too_many_runs_that_do_not_end_fail():
    data = make_times()
    is_late = (data.net == "relu, gaussian") & (data.depth == 12) & (data.seed < 6)
    data = data.assign(steps=data.steps.where(~is_late, np.inf))
    assert failing(data) == ["share of runs not there"]


def test_held_out_times_are_unbiased_and_their_error_covers():
    """At rates that do not differ, the luckiest would be 1.4 deviations low."""
    truth = 2.0
    rng = np.random.default_rng(4)
    logs = truth + rng.standard_normal((300, 8, 12))
    estimate = _times.held_out(logs, 200)
    count = len(estimate.value)
    error = estimate.value.std(ddof=1) / np.sqrt(count)
    assert abs(estimate.value.mean() - truth) < 4 * error
    share_covered = np.mean(np.abs(estimate.value - truth) < estimate.error)
    assert share_covered > 0.95 - 4 * np.sqrt(0.95 * 0.05 / count)


def test_an_exact_power_is_found():
    """Its error is that of a slope of points with errors of 0.1."""
    depths = np.array([3, 6, 24])
    logs = np.log(5 * depths**0.7)
    growth = _times.power(depths, _times.Middle(logs, np.full(3, 0.1)))
    x = np.log(depths) - np.log(depths).mean()
    assert growth.slope == pytest.approx(0.7, rel=1e-12)
    assert growth.error == pytest.approx(0.1 / np.sqrt(x @ x), rel=1e-12)
