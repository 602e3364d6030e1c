"""The largest distance of the two distribution functions off the atoms."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry.comparison._ranks import LawTable, MeasuredRanks, Points
from isometry.comparison._statistics import ByRank


class Distance(NamedTuple):
    """Both distribution functions, at the law's log lam of the compared ranks.

    Attributes:
        per_seed: The measured one, (seeds, points).
        predicted: The law's.
        width: How far they may differ at this width.
    """

    per_seed: Float[np.ndarray, "seeds points"]
    predicted: Points
    width: float

    @property
    def largest(self) -> float:
        """The largest difference, 0 if there are no points."""
        differences = np.abs(self.per_seed.mean(0) - self.predicted)
        return float(differences.max(initial=0.0))


def distance(measured: MeasuredRanks, table: LawTable, by_rank: ByRank) -> Distance:
    """Evaluate both distribution functions, and bound how width moves them apart."""
    points = np.unique(by_rank.predicted)
    # Inside the window of an atom rounding decides on which side of a point mass lies.
    for low, high in measured.windows.values():
        points = points[(points < low) | (points > high)]
    predicted = table.cdf(points)
    # Ranks are known no better than this, and the curvature of log lam comes on top.
    width = measured.step + measured.displaced
    if len(points):
        shift = np.interp(points, by_rank.predicted, by_rank.curvature)
        width += _change(table, points, shift)
    return Distance(measured.cdf(points), predicted, width)


def _change(table: LawTable, points: Points, shift: Points) -> float:
    """Bound how far the curvature of log lam moves a distribution function.

    At one rank, log lam varies between draws with a variance v. Its mean is off by less
    than v/2, which shifts the distribution function, and the average over draws smears
    it over the standard deviation √v.

    Args:
        table: The law.
        points: Values of log lam.
        shift: v/2 at each of them.
    """
    at_point = table.cdf(points)
    upward = table.cdf(points + shift) - at_point
    downward = at_point - table.cdf(points - shift)
    shifted = np.maximum(upward, downward)
    deviation = np.sqrt(2 * shift)
    # Half of the draws are taken to lie a standard deviation above, half below.
    above = table.cdf(points + deviation)
    below = table.cdf(points - deviation)
    smeared = np.abs((above + below) / 2 - at_point)
    return float((shifted + smeared).max())
