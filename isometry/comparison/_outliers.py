"""Values beyond the law's upper edge: a few directions that no law of the bulk holds.

A rank-one part of J, such as the mean of a post-activation residual branch, has one
singular value that grows with the width and no mass. The law is that of the others.
"""

import numpy as np
from jaxtyping import Int

from isometry.comparison._ranks import MeasuredRanks
from isometry.comparison._statistics import Statistic, Statistics
from isometry.theory import Law

Counts = Int[np.ndarray, "seeds inputs"]

# A count is right if it rounds to the expected one. One that is right by a tenth only
# would call a law false whose largest value passes its edge in every tenth draw.
_ROUNDING = 0.5


def count_outliers(measured: MeasuredRanks, law: Law) -> Counts:
    """Count the values of each draw above the edge by more than the resolution."""
    # A draw that is larger as a whole has no outlier, so the median of what is resolved
    # measures its size. A smaller one must not lower the threshold: an atom may lie at
    # the edge.
    middle = (1 + measured.cut) / 2
    ranks = [middle, 1 - measured.step, 1.0]
    median, below_edge, edge = 2 * np.asarray(law.quantile(ranks, "log_s"))
    larger = measured.at(np.array([middle])) - median
    # The largest of N values is expected in the last 1/N of the law's mass. By as much
    # as that is long it may lie above the edge: further up is the largest value of one
    # draw in 200 at most, measured over 16 laws at widths 32 and 64.
    resolution = edge - below_edge + measured.rounding
    threshold = edge + resolution + np.maximum(larger, 0.0)
    return (measured.log_lam > threshold).sum(-1)


def outliers(counts: Counts, law: Law) -> Statistics:
    """Compare the number of outliers that were counted with the number in the law.

    A law says how many outliers there are, not where. At a finite width some of them
    lie inside the bulk, and cannot be counted: attention over 4 tokens has 12, of which
    5 lie outside the bulk at width 64. So any count from one to the law's number is
    consistent with the law.
    """
    # Measured less predicted: at most 0, and at least 1 − the law's number.
    most = _ROUNDING
    fewest = min(-_ROUNDING, _ROUNDING - law.outliers)
    statistic = Statistic(
        per_seed=counts.mean(1),
        predicted=float(law.outliers),
        expected=(fewest + most) / 2,
        width=(most - fewest) / 2,
    )
    return {"outliers": statistic}
