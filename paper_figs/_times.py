"""Learning times: when a curve falls to a level, and how that grows with depth."""

from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

# One number for each setting, such as a kind of network at a depth.
Settings: TypeAlias = Float[np.ndarray, "*settings"]
BySeed: TypeAlias = Float[np.ndarray, "*settings seeds"]
ByRate: TypeAlias = Float[np.ndarray, "*settings rates seeds"]
ByDepth: TypeAlias = Float[np.ndarray, " depths"]
# The index of a rate for each setting, or for each seed of it.
Rate: TypeAlias = Int[np.ndarray, "*settings"]
Rates: TypeAlias = Int[np.ndarray, "*settings seeds"]


class Growth(NamedTuple):
    """The power of depth that a time grows with.

    Attributes:
        slope: d ln(time)/d ln(depth).
        error: How far it lies from the truth at most, at 95 %.
    """

    slope: float
    error: float


class Middle(NamedTuple):
    """The medians of ln times at the best rate.

    Attributes:
        value: The medians over seeds.
        error: How far they lie from the truth at most, each at 95 %.
    """

    value: Settings
    error: Settings


def crossing(curve: Float[np.ndarray, "*settings steps"], level: float) -> Settings:
    """Return the step at which curves are first at most at a level.

    Args:
        curve: One curve, or several.
        level: The level.

    Returns:
        The steps, interpolated linearly; inf where a curve never falls to the level. A
        curve that is NaN from some step on does not cross after it.
    """
    is_below = curve <= level
    after = is_below.argmax(axis=-1)
    value_after = _at(curve, after)
    value_before = _at(curve, np.maximum(after - 1, 0))
    # Curves that are below from the start, or that jump down from infinity, cross at
    # the step itself.
    is_between = (after > 0) & np.isfinite(value_before)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (level - value_after) / (value_before - value_after)
    step = after - np.where(is_between, share, 0.0)
    return np.where(is_below.any(axis=-1), step, np.inf)


def _at(
    values: Float[np.ndarray, "*settings n"],
    index: Int[np.ndarray, "*settings"],
) -> Settings:
    """Return one value along the last axis, each with an index of its own."""
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def fastest(
    times: ByRate,
) -> Rate:
    """Return the index of the rate at which the median over seeds is least.

    Args:
        times: Times, inf where a run did not end.

    Returns:
        The index; where no median is finite, that of the rate at which most runs end.
    """
    seeds = times.shape[-1]
    median = np.sort(times, axis=-1)[..., seeds // 2]
    num_ended = np.isfinite(times).sum(axis=-1)
    return np.where(
        np.isfinite(median).any(axis=-1),
        median.argmin(axis=-1),
        num_ended.argmax(axis=-1),
    )


def at_rate(times: ByRate, rate: Rate) -> BySeed:
    """Return the times of all seeds at one rate.

    Args:
        times: Times.
        rate: The index of the rate.
    """
    return np.take_along_axis(times, rate[..., None, None], axis=-2)[..., 0, :]


def growth(
    depths: ByDepth,
    times: Float[np.ndarray, "depths seeds"],
    last: float,
) -> Growth:
    """Fit the exponent p of times ∝ depth^p, for each seed by itself.

    Args:
        depths: The depths.
        times: Times, inf where a run did not end.
        last: The step at which runs are cut off. It stands for the time of those that
            did not end. If these are mainly deep, p is underestimated.

    Returns:
        The mean exponent over seeds.
    """
    x = _centred_log(depths)
    slopes = x @ np.log(np.minimum(times, last)) / (x @ x)
    seeds = len(slopes)
    quantile = stats.t.ppf(0.975, seeds - 1)
    error = quantile * slopes.std(ddof=1) / np.sqrt(seeds)
    return Growth(slope=float(slopes.mean()), error=float(error))


def _centred_log(depths: ByDepth) -> ByDepth:
    """Return ln depth, less its mean."""
    logs = np.log(depths)
    return logs - logs.mean()


def best_for_others(
    logs: ByRate,
    counts: Float[np.ndarray, "..."],
) -> Rates:
    """Return for each seed the rate at which the mean over the other seeds is least.

    So no run chooses the rate that it is measured at.

    Args:
        logs: ln times.
        counts: How often each seed is there, (seeds,) or (..., 1, seeds).

    Returns:
        The indices of the rates.
    """
    counted = counts * logs
    of_others = counted.sum(axis=-1, keepdims=True) - counted
    return of_others.argmin(axis=-2)


def at_rates(
    values: ByRate,
    rates: Rates,
) -> BySeed:
    """Return the values of all seeds, each at a rate of its own.

    Args:
        values: What was measured.
        rates: The indices of the rates.
    """
    return np.take_along_axis(values, rates[..., None, :], axis=-2)[..., 0, :]


def held_out(logs: ByRate, draws: int = 1000) -> Middle:
    """Compute medians of times over seeds, each at the rate best for the others.

    Args:
        logs: ln times.
        draws: The number of resamplings of the seeds that the error comes from. Rates
            are chosen anew in each, and all copies of a seed are left out of the choice
            of its own. A tenth of 1000 would leave an uncertainty of 7 % in the error.

    Returns:
        The medians.
    """
    seeds = logs.shape[-1]
    # The error is the same whenever it is computed again.
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(draws):
        chosen = rng.integers(seeds, size=(*logs.shape[:-2], seeds))
        resampled.append(_median(logs, chosen))
    spread = np.stack(resampled).std(axis=0, ddof=1)
    # Of so few seeds, resampling has the spread of the biased variance, and a quantile
    # is Student's.
    quantile = stats.t.ppf(0.975, seeds - 1)
    widened = quantile * np.sqrt(seeds / (seeds - 1))
    return Middle(value=_median(logs, np.arange(seeds)), error=widened * spread)


def _median(logs: ByRate, chosen: Int[np.ndarray, "..."]) -> Settings:
    """Return the median over the chosen seeds, each at the rate best for the others."""
    seeds = logs.shape[-1]
    is_seed = chosen[..., None] == np.arange(seeds)
    counts = is_seed.sum(axis=-2)[..., None, :]
    times = at_rates(logs, best_for_others(logs, counts))
    chosen = np.broadcast_to(chosen, times.shape)
    return np.median(np.take_along_axis(times, chosen, axis=-1), axis=-1)


def power(depths: ByDepth, middle: Middle) -> Growth:
    """Fit the power of depth that medians grow with, by least squares.

    Args:
        depths: The depths.
        middle: Medians at these depths, which are independent of one another.

    Returns:
        The power.
    """
    x = _centred_log(depths)
    square = x @ x
    return Growth(
        slope=float(x @ middle.value / square),
        error=float(np.linalg.norm(x * middle.error) / square),
    )
