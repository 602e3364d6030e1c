"""Rates with their intervals, and rank correlations with theirs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

CONFIDENCE = 0.95

# Resamples of a bootstrap. Of a normal distribution, the ends of the interval then have
# an error of 0.04 standard deviations. It would be 0.13 with a tenth as many, and 0.01
# with ten times as many, at ten times the cost.
RESAMPLES = 4000

# Of correlations, each of which ranks all networks anew.
_CORRELATION_RESAMPLES = RESAMPLES // 4

Interval = tuple[float, float]
Statistic = Callable[[np.ndarray, np.ndarray], float]


class Rate(TypedDict):
    """Errors as a share of draws.

    Attributes:
        errors: Draws that are wrong.
        draws: All draws.
        configurations: The number of networks from which they come.
        rate: Errors by draws.
        clopper_pearson: The interval that takes all draws for independent.
        cluster_bootstrap: The interval that resamples networks.
    """

    errors: int
    draws: int
    configurations: int
    rate: float
    clopper_pearson: Interval
    cluster_bootstrap: Interval


def clopper_pearson(errors: int, trials: int) -> Interval:
    """Compute the exact two-sided interval of a binomial probability.

    It takes all trials for independent (Clopper and Pearson, 1934).
    """
    from scipy.stats import binomtest

    interval = binomtest(errors, trials).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def cluster_bootstrap(
    errors: Sequence[int], trials: Sequence[int], seed: int = 0
) -> Interval:
    """Compute the percentile interval of a rate over resampled clusters.

    Args:
        errors: The number of errors of each cluster.
        trials: The number of trials of each cluster.
        seed: Of the resampling.

    Returns:
        The interval of sum(errors) / sum(trials). Without errors it has no width, and
        that of `clopper_pearson` says more.
    """
    wrong = np.asarray(errors, float)
    tried = np.asarray(trials, float)
    num_clusters = len(wrong)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, num_clusters, (RESAMPLES, num_clusters))
    return _interval(wrong[picks].sum(1) / tried[picks].sum(1))


def rate(errors: Sequence[int], trials: Sequence[int]) -> Rate | None:
    """Return errors of several clusters as one rate; None without trials."""
    num_errors = int(sum(errors))
    num_trials = int(sum(trials))
    if num_trials == 0:
        return None
    return {
        "errors": num_errors,
        "draws": num_trials,
        "configurations": len(trials),
        "rate": num_errors / num_trials,
        "clopper_pearson": clopper_pearson(num_errors, num_trials),
        "cluster_bootstrap": cluster_bootstrap(errors, trials),
    }


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Compute Kendall's tau-b; 0 where one of the two is constant: it ranks nothing."""
    from scipy.stats import kendalltau

    return _of_ranks(kendalltau, a, b)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Compute Spearman's rho; 0 where one of the two is constant."""
    from scipy.stats import spearmanr

    return _of_ranks(spearmanr, a, b)


def _of_ranks(statistic: Callable[..., Any], a: np.ndarray, b: np.ndarray) -> float:
    """Compute a rank correlation, of ranks because infinite scores are allowed."""
    ranks_a = _ranks(a)
    ranks_b = _ranks(b)
    if ranks_a.max() == 0 or ranks_b.max() == 0:
        return 0.0
    return float(statistic(ranks_a, ranks_b).statistic)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 0; equal values have the same one."""
    _, ranks = np.unique(np.asarray(values, float), return_inverse=True)
    return ranks


def paired(
    statistic: Statistic, scores: Mapping[str, np.ndarray], target: np.ndarray
) -> dict:
    """Compute the correlation of every score with the target, and the first one's lead.

    Args:
        statistic: The correlation.
        scores: The scores of all networks by name.
        target: What the scores are to rank, of all networks.

    Returns:
        Correlations by name, and the lead of the first over each other, with intervals
        over resampled networks. All scores are resampled together.
    """
    rng = np.random.default_rng(0)
    num_networks = len(target)
    values = {name: statistic(score, target) for name, score in scores.items()}
    resampled: dict[str, list[float]] = {name: [] for name in scores}
    for _ in range(_CORRELATION_RESAMPLES):
        pick = rng.integers(0, num_networks, num_networks)
        for name, score in scores.items():
            resampled[name].append(statistic(score[pick], target[pick]))
    samples = {name: np.array(numbers) for name, numbers in resampled.items()}
    first, *others = scores
    correlation = {}
    for name in scores:
        interval = _interval(samples[name])
        correlation[name] = {"value": values[name], "interval": interval}
    lead = {}
    for name in others:
        interval = _interval(samples[first] - samples[name])
        lead[name] = {"value": values[first] - values[name], "interval": interval}
    return {"networks": num_networks, "correlation": correlation, "lead": lead}


def _interval(values: np.ndarray) -> Interval:
    """Return the quantiles that leave out equal shares at both ends."""
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(values, tails)
    return float(low), float(high)
