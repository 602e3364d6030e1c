"""Values beyond the law's upper edge: a few directions that no law of the bulk holds.

A rank-one part of J, such as the mean of a post-activation residual branch, has one
singular value that grows with the width and no mass. The law is that of the others.
"""

from dataclasses import replace

import numpy as np

from isometry._internal.errors import InputError
from isometry.comparison._ranks import LawTable, MeasuredRanks
from isometry.comparison._statistics import ByRank, Statistic, Statistics
from isometry.measure._record import Spectrum
from isometry.theory import Law

# A count is right if it rounds to the expected one. One that is right by a tenth only
# would call a law false whose largest value passes its edge in every tenth draw.
_ROUNDING = 0.5

# The share of the expected outliers that must have left the bulk. The law does not say
# where they lie: at a finite width the smallest of many are still inside.
_LEAST_SHARE = 0.5


def without_outliers(sp: Spectrum, count: int) -> Spectrum:
    """Leave the largest values of each draw out of a spectrum."""
    if count == 0:
        return sp
    if count >= sp.size:
        raise InputError(
            f"law states {count} outliers and sp has {sp.size} singular values; "
            "measure at a greater width."
        )
    log_values = np.asarray(sp.log_values)
    weights = np.asarray(sp.weights)[..., count:]
    # The floor is relative to the largest value.
    fallen = log_values[..., 0] - log_values[..., count]
    return replace(
        sp,
        log_values=log_values[..., count:],
        weights=weights / weights.sum(-1, keepdims=True),
        log_floor=np.asarray(sp.log_floor) + fallen,
        size=sp.size - count,
    )


def outliers(
    sp: Spectrum,
    law: Law,
    *,
    measured: MeasuredRanks,
    table: LawTable,
    by_rank: ByRank,
) -> Statistics:
    """Count the values of each draw above the edge by more than the resolution.

    Args:
        sp: The spectrum, with its outliers.
        law: The law.
        measured: The spectrum without outliers, by rank.
        table: The law.
        by_rank: Both at the compared ranks.
    """
    # The largest of N values is expected in the last 1/N of the law's mass. By as much
    # as that is long it may lie above the edge: further up is the largest value of one
    # draw in 200 at most, measured over 16 laws at widths 32 and 64.
    edge = table.quantile(np.array([1 - measured.step, 1.0]))
    threshold = 2 * edge[1] - edge[0] + measured.rounding
    # A draw that is larger as a whole has no outlier, so its median is a measure of its
    # size. A smaller one must not lower the threshold: an atom may lie at the edge.
    middle = len(by_rank.u) // 2
    larger = by_rank.log_lam[..., middle] - by_rank.predicted[middle]
    thresholds = threshold + np.maximum(larger, 0.0)
    num_seeds, num_nodes = sp.log_values.shape[0], sp.log_values.shape[-1]
    log_lam = 2 * np.asarray(sp.log_values, float).reshape(num_seeds, -1, num_nodes)
    counts = (log_lam > thresholds[..., None]).sum(-1)
    # From half of the expected number to as many as round to it.
    fewest, most = -_ROUNDING, _ROUNDING
    fewest = min(fewest, (_LEAST_SHARE - 1) * law.outliers)
    statistic = Statistic(
        per_seed=counts.mean(1),
        predicted=float(law.outliers),
        expected=(fewest + most) / 2,
        width=(most - fewest) / 2,
    )
    return {"outliers": statistic}
