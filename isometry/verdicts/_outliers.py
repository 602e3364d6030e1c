"""Singular values that stand apart from the bulk of a spectrum."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry.measure._record import Spectrum

PerSeed = Float[np.ndarray, " seeds"]

# At most one value in 8 may be an outlier. With one in 2, half of the spectra of
# products of Gaussian matrices had outliers; with one in 50, a network of ten outputs
# could have none.
_MOST = 8


class Outliers(NamedTuple):
    """Singular values above the bulk of a spectrum: medians over inputs for each seed.

    The few largest values are outliers if the gap below them, in ln s, is wider than
    the distance from the largest value of the bulk to the median of the bulk. Values
    that are not resolved are no part of the bulk.

    Attributes:
        share: How much of the sum of s² the outliers make up; 0 without outliers.
        number: The number of outliers.
        log_gain_of_bulk: ½ ln E s² over the values that are no outliers.
    """

    share: PerSeed
    number: PerSeed
    log_gain_of_bulk: PerSeed


def outliers_of(sp: Spectrum) -> Outliers:
    """Return the outliers of a spectrum over (seeds, inputs)."""
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
    share, number, log_gain = medians.T
    return Outliers(share, number, log_gain)


def _of_one(log_s: Float[np.ndarray, " size"]) -> tuple[float, float, float]:
    """Return the fields of `Outliers` for one Jacobian.

    Args:
        log_s: ln of the singular values, the largest first; -inf if not resolved.
    """
    most = len(log_s) // _MOST
    num_outliers = _num_outliers(log_s, most)
    log_max = log_s[0]
    if np.isneginf(log_max):
        return 0.0, 0.0, -np.inf
    # Relative to the largest, so that no square leaves the range of float64.
    squares = np.exp(2 * (log_s - log_max))
    of_outliers = squares[:num_outliers].sum()
    share = float(of_outliers / squares.sum())
    mean_of_bulk = squares[num_outliers:].mean()
    if mean_of_bulk == 0:
        return share, float(num_outliers), -np.inf
    log_gain = log_max + np.log(mean_of_bulk) / 2
    return share, float(num_outliers), float(log_gain)


def _num_outliers(
    log_s: Float[np.ndarray, " size"],
    most: int,
) -> int:
    """Return how many of the largest values are outliers, `most` at most."""
    num_resolved = int(np.isfinite(log_s).sum())
    if not most or not num_resolved:
        return 0
    # So few are resolved that they carry all of E s²: all of them are outliers.
    if num_resolved <= most:
        return num_resolved
    gaps = log_s[:most] - log_s[1 : most + 1]
    num_above_gap = int(np.argmax(gaps)) + 1
    widest_gap = gaps[num_above_gap - 1]
    bulk = log_s[num_above_gap:num_resolved]
    half_of_bulk = bulk[0] - np.median(bulk)
    return num_above_gap if widest_gap > half_of_bulk else 0
