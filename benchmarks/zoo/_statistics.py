"""Rates with their intervals, and rank correlations with theirs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 4000


def clopper_pearson(errors: int, trials: int) -> tuple[float, float]:
    """The exact two-sided interval of a binomial probability, which takes all trials for independent."""
    from scipy.stats import binomtest

    found = binomtest(errors, trials).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


def cluster_bootstrap(errors: Sequence[int], trials: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """Percentile interval of Σ errors / Σ trials over resampled clusters. Without errors it has no width: read
    Clopper-Pearson's then."""
    wrong, tried = np.asarray(errors, float), np.asarray(trials, float)
    picks = np.random.default_rng(seed).integers(0, len(wrong), (RESAMPLES, len(wrong)))
    return _interval(wrong[picks].sum(1) / tried[picks].sum(1))


def rate(errors: Sequence[int], trials: Sequence[int]) -> dict[str, Any] | None:
    """Errors of several clusters as one rate with both intervals; None without trials."""
    wrong, tried = int(sum(errors)), int(sum(trials))
    if not tried:
        return None
    return {
        "errors": wrong,
        "draws": tried,
        "configurations": len(trials),
        "rate": wrong / tried,
        "clopper_pearson": clopper_pearson(wrong, tried),
        "cluster_bootstrap": cluster_bootstrap(errors, trials),
    }


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-b; 0 where one of the two is constant, for it ranks nothing."""
    from scipy.stats import kendalltau

    return _defined(kendalltau, a, b)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho; 0 where one of the two is constant."""
    from scipy.stats import spearmanr

    return _defined(spearmanr, a, b)


def _defined(statistic: Callable[..., Any], a: np.ndarray, b: np.ndarray) -> float:
    # ranks: infinities are legitimate scores
    ranked = [np.unique(np.asarray(v, float), return_inverse=True)[1] for v in (a, b)]
    return float(statistic(*ranked).statistic) if all(r.max() > 0 for r in ranked) else 0.0


def paired(
    statistic: Callable[[np.ndarray, np.ndarray], float], scores: dict[str, np.ndarray], target: np.ndarray
) -> dict[str, Any]:
    """`statistic` of every score with the target, and the first score's lead over each other, resampled together."""
    draw = np.random.default_rng(0)
    count = len(target)
    found = {name: [statistic(score, target)] for name, score in scores.items()}
    for _ in range(RESAMPLES // 4):
        pick = draw.integers(0, count, count)
        for name, score in scores.items():
            found[name].append(statistic(score[pick], target[pick]))
    first, *others = found
    resampled = {name: np.array(values[1:]) for name, values in found.items()}
    return {
        "networks": count,
        "correlation": {n: {"value": v[0], "interval": _interval(resampled[n])} for n, v in found.items()},
        "lead": {
            n: {"value": found[first][0] - found[n][0], "interval": _interval(resampled[first] - resampled[n])}
            for n in others
        },
    }


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
