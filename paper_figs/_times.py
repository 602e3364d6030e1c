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


class Mean(NamedTuple):
    """Of ln times at the best rate, (...): the mean over seeds and how far, at 95 %, it may lie from the truth."""

    value: np.ndarray
    error: np.ndarray


def held_out(logs: np.ndarray, draws: int = 1000) -> Mean:
    """(..., rates, seeds) of ln times → (...): each seed at the rate of the least mean over the others.

    So no run chooses the rate that it is measured at. The error is of `draws` resamplings of the seeds, the choice
    made anew in each, all copies of a seed left out of its own; Student's t as for that many seeds.
    """
    from scipy import stats

    seeds = logs.shape[-1]
    counts = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), draws).astype(float)
    spread = np.stack([_held_out(logs, weight) for weight in counts]).std(0, ddof=1)
    widened = stats.t.ppf(0.975, seeds - 1) * np.sqrt(seeds / (seeds - 1))
    return Mean(_held_out(logs, np.ones(seeds)), widened * spread)


def _held_out(logs: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(...): the mean, each seed counted `weight` times."""
    rest = (weight * logs).sum(-1, keepdims=True) - weight * logs
    chosen = np.take_along_axis(logs, rest.argmin(-2)[..., None, :], -2)[..., 0, :]
    return (weight * chosen).sum(-1) / weight.sum()


def power(depths: np.ndarray, mean: Mean) -> Growth:
    """d ln(time)/d ln(depth) by least squares of (depths,) means that are independent of one another."""
    x = np.log(depths) - np.log(depths).mean()
    return Growth(float(x @ mean.value / (x @ x)), float(np.sqrt((x * mean.error) ** 2 @ np.ones_like(x)) / (x @ x)))
