"""How far a mean over seeds may be from that over all draws."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from isometry._internal import randomness
from isometry._internal.types import Key

PerSeed = Float[np.ndarray, " seeds"]
Resamples = Int[np.ndarray, "resamples seeds"]

# A t distribution of so many degrees of freedom is the normal one.
_NORMAL = 10**9


def resampled_seeds(key: Key, resamples: int, num_seeds: int) -> Resamples:
    """Draw bootstrap samples of the seeds, as their indices."""
    generator = randomness.host_generator(key)
    shape = (resamples, num_seeds)
    return generator.integers(0, num_seeds, shape)


@dataclass(frozen=True)
class SeedIntervals:
    """Intervals for means over seeds, of one level.

    Attributes:
        level: The chance that one of them misses.
        resamples: Bootstrap samples of the seeds; None takes standard errors.
    """

    level: float
    resamples: Resamples | None

    def half_length(self, per_seed: PerSeed) -> float:
        """Return half the length of the t interval for a mean over seeds."""
        num_seeds = len(per_seed)
        # Both tails together have the level.
        factor = t_quantile(1 - self.level / 2, num_seeds - 1)
        if self.resamples is None:
            deviation = float(per_seed.std(ddof=1))
            return factor * deviation / math.sqrt(num_seeds)
        resampled = per_seed[self.resamples]
        means = resampled.mean(1)
        deviation = float(means.std())
        return factor * deviation * _correction(num_seeds)

    def half_length_known(self, variance: float, num_seeds: int) -> float:
        """Return half the length where the variance of a draw is known."""
        factor = t_quantile(1 - self.level / 2, _NORMAL)
        return factor * math.sqrt(variance / num_seeds)

    def largest(self, per_seed: Float[np.ndarray, "seeds points"]) -> float:
        """Return how far the mean may be off at the worst of many points."""
        num_seeds, num_points = per_seed.shape
        if num_points == 0:
            return 0.0
        if self.resamples is None:
            # Bonferroni: an interval for each of the points.
            level = self.level / num_points
            factor = t_quantile(1 - level / 2, num_seeds - 1)
            deviations = per_seed.std(0, ddof=1)
            deviation = float(deviations.max())
            return factor * deviation / math.sqrt(num_seeds)
        mean = per_seed.mean(0)
        distances = []
        for picked in self.resamples:
            resampled = per_seed[picked]
            resampled_mean = resampled.mean(0)
            distance = np.abs(resampled_mean - mean)
            distances.append(distance.max())
        quantile = np.quantile(
            distances,
            1 - self.level,
            method="higher",
        )
        # Few seeds have the tails of t, which the bootstrap does not.
        p = 1 - self.level / 2
        of_t = t_quantile(p, num_seeds - 1)
        of_normal = t_quantile(p, _NORMAL)
        tails = of_t / of_normal
        return float(quantile) * tails * _correction(num_seeds)


def _correction(num_seeds: int) -> float:
    """Return the factor by which the deviation of resampled means is too small."""
    # Their variance is a sum of squares over n, and an unbiased one is over n - 1.
    return math.sqrt(num_seeds / (num_seeds - 1))


def t_quantile(p: float, freedom: int) -> float:
    """Return a quantile of Student's t."""
    # Not scipy.stats, which takes longer to load than the rest of the package.
    from scipy import special

    return float(special.stdtrit(freedom, p))
