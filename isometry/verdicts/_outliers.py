"""Singular values that stand apart from the bulk of a spectrum."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry.measure._record import Spectrum

PerSeed = Float[np.ndarray, " seeds"]

# At most every eighth value is an outlier: with more, what is called the bulk would not
# be one. With a half every second spectrum of a product of Gaussian matrices had some,
# with a fiftieth a network of ten outputs could have none.
_MOST = 8


class Outliers(NamedTuple):
    """Values above the bulk of a span, for each seed the median over inputs.

    The few largest values are outliers if the gap below them, in ln s, is wider than
    the upper half of the bulk below the gap: the largest of the bulk is nearer to its
    median than to them. The bulk is made of the values that are resolved.

    Attributes:
        share: Their part of the sum of s²; 0 without outliers.
        number: How many they are.
        log_gain_of_bulk: ½ ln E s² over the values that are no outliers.
    """

    share: PerSeed
    number: PerSeed
    log_gain_of_bulk: PerSeed


def outliers_of(sp: Spectrum) -> Outliers:
    """Return what stands apart in a spectrum over (seeds, inputs)."""
    log_s = np.asarray(sp.log_values, float)
    resolved = np.asarray(sp.resolved)
    rows = []
    batch = log_s.shape[:-1]
    for index in np.ndindex(batch):
        row = np.where(resolved[index], log_s[index], -np.inf)
        descending = np.sort(row)[::-1]
        rows.append(_of_one(descending))
    table = np.array(rows)
    table = table.reshape(*batch, 3)
    medians = np.median(table, axis=1)
    share, count, log_gain = medians.T
    return Outliers(share, count, log_gain)


def _of_one(log_s: Float[np.ndarray, " size"]) -> tuple[float, float, float]:
    """Return share, count and gain of the bulk of one Jacobian, largest value first."""
    most = len(log_s) // _MOST
    count = _count(log_s, most)
    log_max = log_s[0]
    if np.isneginf(log_max):
        return 0.0, 0.0, -np.inf
    # Relative to the largest, so that no square leaves the range of float64.
    squares = np.exp(2 * (log_s - log_max))
    of_outliers = squares[:count].sum()
    share = float(of_outliers / squares.sum())
    mean_of_bulk = squares[count:].mean()
    if mean_of_bulk == 0:
        return share, float(count), -np.inf
    log_gain = log_max + np.log(mean_of_bulk) / 2
    return share, float(count), float(log_gain)


def _count(
    log_s: Float[np.ndarray, " size"],
    most: int,
) -> int:
    """Return how many of the largest values are outliers."""
    num_resolved = int(np.isfinite(log_s).sum())
    if not most or not num_resolved:
        return 0
    # All other values are zero: what is left is no bulk, but nothing else counts.
    if num_resolved <= most:
        return num_resolved
    gaps = log_s[:most] - log_s[1 : most + 1]
    count = int(np.argmax(gaps)) + 1
    bulk = log_s[count:num_resolved]
    half_of_bulk = bulk[0] - np.median(bulk)
    return count if gaps[count - 1] > half_of_bulk else 0
