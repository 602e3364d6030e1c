"""Learning times: when a curve first falls to a level, the fastest learning rate, the power of depth they grow with."""

from typing import NamedTuple

import numpy as np


class Growth(NamedTuple):
    """d ln(time)/d ln(depth): the mean over seeds, and how far 95 % of such means lie from the truth at most."""

    slope: float
    error: float


def crossing(curve: np.ndarray, level: float) -> np.ndarray:
    """(..., steps) → (...): the step, interpolated, at which the curve first is at most `level`; inf: never.

    Linear between two steps. A curve that is not a number from some step on has not crossed after it.
    """
    below = curve <= level
    at = below.argmax(-1)
    now, before = (np.take_along_axis(curve, np.maximum(i, 0)[..., None], -1)[..., 0] for i in (at, at - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        back = np.where((at > 0) & np.isfinite(before), (level - now) / (before - now), 0.0)
    return np.where(below.any(-1), at - back, np.inf)


def fastest(times: np.ndarray) -> np.ndarray:
    """(..., rates, seeds) → (...): the rate of the least median; where no median is finite, that of most ends."""
    middle = np.sort(times, -1)[..., times.shape[-1] // 2]
    ends = np.isfinite(times).sum(-1)
    return np.where(np.isfinite(middle).any(-1), middle.argmin(-1), ends.argmax(-1))


def at_rate(times: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """(..., rates, seeds) → (..., seeds)."""
    return np.take_along_axis(times, rate[..., None, None], -2)[..., 0, :]


def growth(depths: np.ndarray, times: np.ndarray, last: float) -> Growth:
    """Of (depths, seeds) times, each seed fitted by itself. Runs that did not end count as ending at the `last` step.

    Where there are such at the greater depths, the slope is below the true one.
    """
    from scipy import stats

    x = np.log(depths) - np.log(depths).mean()
    slopes = x @ np.log(np.minimum(times, last)) / (x @ x)
    seeds = len(slopes)
    return Growth(float(slopes.mean()), float(stats.t.ppf(0.975, seeds - 1) * slopes.std(ddof=1) / np.sqrt(seeds)))


class Middle(NamedTuple):
    """Of ln times at the best rate, (...): the median over seeds and how far, at 95 %, it may lie from the truth."""

    value: np.ndarray
    error: np.ndarray


def best_for_others(logs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(..., rates, seeds) of ln times → (..., seeds): the rate of the least mean over the other seeds.

    So no run chooses the rate that it is measured at. `counts` (..., 1, seeds): how often a seed is there.
    """
    counted = counts * logs
    return (counted.sum(-1, keepdims=True) - counted).argmin(-2)


def at_rates(values: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """(..., rates, seeds) → (..., seeds): every seed at a rate of its own."""
    return np.take_along_axis(values, rates[..., None, :], -2)[..., 0, :]


def held_out(logs: np.ndarray, draws: int = 1000) -> Middle:
    """(..., rates, seeds) of ln times → (...): the median over seeds, each at the rate best for the others.

    The error is of `draws` resamplings of the seeds, the rates chosen anew in each, all copies of a seed left out of
    its own choice; Student's t as for that many seeds.
    """
    from scipy import stats

    def middle(drawn: np.ndarray) -> np.ndarray:
        counts = (drawn[..., None] == np.arange(seeds)).sum(-2)[..., None, :]
        times = at_rates(logs, best_for_others(logs, counts))
        return np.median(np.take_along_axis(times, np.broadcast_to(drawn, times.shape), -1), -1)

    seeds, rng = logs.shape[-1], np.random.default_rng(0)
    spread = np.stack([middle(rng.integers(seeds, size=(*logs.shape[:-2], seeds))) for _ in range(draws)]).std(
        0, ddof=1
    )
    widened = stats.t.ppf(0.975, seeds - 1) * np.sqrt(seeds / (seeds - 1))
    return Middle(middle(np.arange(seeds)), widened * spread)


def power(depths: np.ndarray, middle: Middle) -> Growth:
    """d ln(time)/d ln(depth) by least squares through (depths,) medians that are independent of one another."""
    x = np.log(depths) - np.log(depths).mean()
    return Growth(float(x @ middle.value / (x @ x)), float(np.linalg.norm(x * middle.error) / (x @ x)))
