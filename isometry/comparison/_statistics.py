"""The statistics that are judged: measured, predicted, and what width does to them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry.comparison import _finite_width
from isometry.comparison._comparison import GapName
from isometry.comparison._ranks import LawTable, MeasuredRanks, PerSeed, Ranks
from isometry.theory import Law

# Shares of the compared ranks: where scale shows that a mean of log lam buries under
# its low end.
_SHARES = (0.1, 0.5, 0.9)


class Statistic(NamedTuple):
    """A statistic of every seed, and what it is compared with.

    Attributes:
        per_seed: (seeds,) the measured values.
        predicted: The law's value.
        expected: Measured - predicted at this width, if the law is true.
        width: How well `expected` is known.
        variance: The variance of one draw, where a formula gives it.
    """

    per_seed: PerSeed
    predicted: float
    expected: float
    width: float
    variance: float | None = None

    @property
    def gap(self) -> float:
        """Measured - predicted."""
        return float(self.per_seed.mean() - self.predicted)


Statistics = dict[GapName, Statistic]


@dataclass(frozen=True)
class ByRank:
    """Both spectra at the compared ranks.

    Attributes:
        u: The ranks.
        log_lam: What is measured, (seeds, inputs, ranks).
        predicted: What the law says.
        resolution: How far log lam may be from the law's at each rank.
        curvature: Half the variance of log lam between draws, at each rank.
    """

    u: Ranks
    log_lam: Float[np.ndarray, "seeds inputs ranks"]
    predicted: Ranks
    resolution: Ranks
    curvature: Ranks

    @classmethod
    def of(cls, measured: MeasuredRanks, table: LawTable, u: Ranks) -> "ByRank":
        """Evaluate both at the ranks u."""
        log_lam = measured.at(u)
        return cls(
            u=u,
            log_lam=log_lam,
            predicted=table.quantile(u),
            resolution=_finite_width.resolution(measured, table, u),
            curvature=_finite_width.curvature(log_lam),
        )


def log_moments(by_rank: ByRank) -> Statistics:
    """Return the mean, the standard deviation and the spread of log lam."""
    return {
        "mean": _mean(by_rank),
        "sd": _standard_deviation(by_rank),
        "spread": _spread(by_rank),
    }


def _mean(by_rank: ByRank) -> Statistic:
    """Return the mean of log lam over ranks.

    If log lam is off by up to its resolution at every rank, the mean is off by the mean
    resolution. A finite width also lowers E log lam, by half the variance between draws
    (the logarithm is concave): the curvature. It is known to its own size only, because
    the variances of the pre-activations drift by as much.
    """
    curvature = float(by_rank.curvature.mean())
    per_matrix = by_rank.log_lam.mean(-1)
    return Statistic(
        per_seed=per_matrix.mean(1),
        predicted=float(by_rank.predicted.mean()),
        expected=-curvature,
        width=float(by_rank.resolution.mean()) + curvature,
    )


def _standard_deviation(by_rank: ByRank) -> Statistic:
    """Return the standard deviation of log lam over ranks.

    An error a(u) of log lam at each rank moves it by √E a² at most.
    """
    predicted = float(by_rank.predicted.std())
    # The expected log lam at this width: the law's, lowered by the curvature.
    bent = by_rank.predicted - by_rank.curvature
    # Draws differ in shape, so each of them varies by more than their mean does.
    shapes = by_rank.log_lam - by_rank.log_lam.mean((0, 1))
    variance = float(bent.var() + shapes.var(-1).mean())
    change = math.sqrt(variance) - predicted
    mean_square = float((by_rank.resolution**2).mean())
    per_matrix = by_rank.log_lam.std(-1)
    return Statistic(
        per_seed=per_matrix.mean(1),
        predicted=predicted,
        expected=change,
        width=math.sqrt(mean_square) + abs(change),
    )


def _spread(by_rank: ByRank) -> Statistic:
    """Return the mean of the upper half of the ranks less that of the lower.

    Its finite-width term is half the sum of the mean resolution and the curvature.
    Measured for ten true laws, the gap is off the expected one by at most 0.55 of that
    sum, on average.
    """
    # A finite width lowers log lam by the curvature, at each rank by another amount.
    change = -float(_difference(by_rank.curvature))
    low, high = _halves(len(by_rank.u))
    resolution = by_rank.resolution
    mean_resolution = float(resolution[low].mean() + resolution[high].mean()) / 2
    per_matrix = _difference(by_rank.log_lam)
    return Statistic(
        per_seed=per_matrix.mean(1),
        predicted=float(_difference(by_rank.predicted)),
        expected=change,
        width=(mean_resolution + abs(change)) / 2,
    )


def _halves(num_ranks: int) -> tuple[slice, slice]:
    """Return the lower and the upper ranks without the outermost tenths.

    What finite width does at the edges of a spectrum shows in the standard deviation,
    and is to be left out of the spread.
    """
    tenth = num_ranks // 10
    half = num_ranks // 2
    return slice(tenth, half), slice(half, num_ranks - tenth)


def _difference(
    log_lam: Float[np.ndarray, "*batch ranks"],
) -> Float[np.ndarray, "*batch"]:
    """Return the mean of the upper ranks less that of the lower."""
    low, high = _halves(log_lam.shape[-1])
    of_upper = log_lam[..., high].mean(-1)
    of_lower = log_lam[..., low].mean(-1)
    # Of one matrix a number: an array like the others.
    return np.asarray(of_upper - of_lower)


def few_ranks(by_rank: ByRank) -> Statistics:
    """Return log lam at a few ranks."""
    last = len(by_rank.u) - 1
    statistics: Statistics = {}
    for share in _SHARES:
        i = round(share * last)
        # As for the mean: it lowers log lam, and is known to its own size only.
        curvature = float(by_rank.curvature[i])
        statistics["rank", float(by_rank.u[i])] = Statistic(
            per_seed=by_rank.log_lam[..., i].mean(1),
            predicted=float(by_rank.predicted[i]),
            expected=-curvature,
            width=float(by_rank.resolution[i]) + curvature,
        )
    return statistics


def log_mean(measured: MeasuredRanks, law: Law, width: int) -> Statistics:
    """Return the logarithm of the mean of lam, |J|_F²/size.

    It is left out where the law's mean is zero or beyond float64, or a measured
    Jacobian is zero.
    """
    mean = law.moment(1)
    # Outliers have no weight.
    log_lam = np.where(measured.weights > 0, measured.log_lam, -np.inf)
    tops = log_lam.max(-1, keepdims=True)
    if not (np.isfinite(tops).all() and 0 < mean < math.inf):
        return {}
    # Relative to the largest: lam itself may overflow.
    shares = measured.weights * np.exp(log_lam - tops)
    log_means = tops[..., 0] + np.log(shares.sum(-1))
    # Where no formula gives the variance between draws, the draws themselves do.
    known = _finite_width.norm_variance(law, width)
    if known is not None:
        variance = known
        resolution = 0.0
    else:
        variance = float(log_means.var(ddof=1))
        resolution = _finite_width.norm_resolution(law, measured, mean)
    statistic = Statistic(
        per_seed=log_means.mean(1),
        predicted=math.log(mean),
        expected=-variance / 2,
        width=variance / 2 + resolution + measured.rounding,
        variance=known,
    )
    return {"log_mean": statistic}


def atom_masses(measured: MeasuredRanks, law: Law) -> Statistics:
    """Return the mass of each atom, but for one at lam = 0.

    The mass outside of an atom varies between draws by a factor, as lam does. Then its
    mean may be off by a share as large as its relative variance, Var/mean², which is
    Var/mean of mass.
    """
    statistics: Statistics = {}
    for atom in law.atoms:
        if atom.lam > 0:
            mass = measured.atom_mass(atom.lam)
            # At least one unit, so that an atom of mass 1 divides by something.
            mass_outside = max(1 - atom.mass, measured.step)
            variance = float(mass.var(ddof=1))
            statistics["atom", atom.lam] = Statistic(
                per_seed=mass,
                predicted=atom.mass,
                expected=0.0,
                width=measured.step + variance / mass_outside,
            )
    return statistics


def zeros(
    measured: MeasuredRanks, law: Law, *, width: int, known_to: float
) -> Statistics:
    """Return how much more mass lies below the floor than the law has there.

    Each draw has its own floor, and `measured` has taken off what the law has below it.
    The statistic is left out where neither the law nor a draw has such mass.

    Args:
        measured: The spectrum.
        law: The law.
        width: The number of units of a layer.
        known_to: How far distribution functions may differ at this width.
    """
    has_zeros = bool(law.zero_mass > 0 or measured.zeros.any())
    if not has_zeros and measured.law_below.max() <= measured.step:
        return {}
    statistic = Statistic(
        per_seed=measured.zeros.mean(1) - measured.law_below,
        predicted=0.0,
        expected=0.0,
        width=_finite_width.rank_deficit(law, width) + known_to,
    )
    return {("atom", 0.0): statistic}
