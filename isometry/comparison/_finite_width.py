"""What a true law and a measurement differ by because layers have finitely many units.

A law holds as the width N grows, so a band from resampled seeds alone rejects the truth
once there are enough seeds. Every band is therefore a sum of two terms, an interval
over seeds and a finite-width term. N is the number of units of a layer: of a
convolution channels, because pixels share weights and do not average.

1. Resolution. A measure of N values knows ranks to ±1/(2N): log lam at rank u may be
   anywhere in Q(u ± 1/(2N)), with Q the law's quantile function. Means over many ranks
   are better known, to half of that. For one real Gaussian matrix it is derived: its
   mean count of values is N times the law's plus (δ_low + δ_high)/4 less half an
   arcsine law, so that E tr (WWᵀ)^k exceeds N m_k by 0, 1, 6 for k = 1, 2, 3, as the
   exact N, 2N + 1, 5N + 6 + 4/N do. It is off by at most a quarter of a value, in rank
   by 1/(4N). For products simulation supports it, as `compare` says. Distribution
   functions differ by 1/N and not by 1/√N, because singular values repel each other;
   the p-value of a test of independent values would be void.
2. Curvature. At a given rank log lam is a sum over layers of logarithms of averages
   over N units, each right in the mean. So its own mean is off by half its variance
   between draws, as in E log x ≈ log E x - Var(log x)/2. For the norm of Jv this is
   exact (Hanin and Nica, 2020, arXiv:1812.05994).
3. The norm |J|_F² varies less between draws than |Jv|² does: by L(k - 1)/N against
   L(3k - 1)/N for L Gaussian pairs with k = E phi'^4/(E phi'²)². Where the law has a
   formula for it, `Law.frobenius_fluctuation`, its mean is right at every width, and
   the curvature follows from the formula. Elsewhere the variance is that between the
   measured draws, and the mean is known as far as ranks are: if they are off by
   1/(4N), the mean of lam is off by at most lam_max/(4N).
4. Outliers displace the ranks of the other values, each by at most one rank up or down
   (Weyl's inequalities).
"""

import math

import numpy as np
from jaxtyping import Float

from isometry.comparison._ranks import LawTable, MeasuredRanks, Ranks
from isometry.theory import Law, Mixture


def curvature(log_lam: Float[np.ndarray, "seeds inputs ranks"]) -> Ranks:
    """Return half the variance between draws at each rank."""
    draws = log_lam.reshape(-1, log_lam.shape[-1])
    return draws.var(0, ddof=1) / 2


def resolution(measured: MeasuredRanks, table: LawTable, u: Ranks) -> Ranks:
    """Return how far log lam may be from the law's at each rank.

    A measured value is one of finitely many, so its rank is known to half a step, and
    the law is read at both ends of that step; rounding of the measurement is added.
    """
    half = measured.step / 2 + measured.displaced
    return table.reach(u, half) + measured.rounding


def norm_variance(law: Law, width: int) -> float | None:
    """Return Var log |J|_F² at a width; None where no formula is known.

    The formulas are for all values of dense layers, so they are no use where pixels
    share weights, or where outliers are left out.
    """
    if law.frobenius_fluctuation is None or law.positions > 1 or law.outliers:
        return None
    ratio = law.frobenius_fluctuation(width)
    # Of an isometry the ratio is 1, and rounding may put it below.
    return max(0.0, math.log(ratio))


def norm_resolution(law: Law, measured: MeasuredRanks, mean: float) -> float:
    """Return how far log E lam may be from the law's if ranks are off by 1/(4N)."""
    largest = float(np.asarray(law.quantile(1.0)))
    off_by = measured.step / 4 + measured.displaced
    return largest / mean * off_by


def rank_deficit(law: Law, width: int) -> float:
    """Return by how much the zeros of a finite product exceed the law's.

    Where slopes vanish, as those of ReLU do, a layer l keeps Binomial(N, p_l) units,
    and the product has the rank of the layer that keeps fewest. The mean of this least
    number is below N p_l by the order of √(N log L), of L layers.
    """
    # Not scipy.stats, which takes longer to load than the rest of the package.
    from scipy import special

    if isinstance(law, Mixture):
        parts = zip(law.shares, law.laws, strict=True)
        return sum(share * rank_deficit(part, width) for share, part in parts)
    ranks = np.arange(1, width + 1)
    # P(rank ≥ r), whose sum over r is the mean rank.
    at_least = np.ones(width)
    for mask in law.product.masks:
        num_units = round(width / mask.ratio)
        # P(more than r - 1 units are active), zero of ranks beyond their number.
        of_layer = np.zeros(width)
        is_possible = ranks <= num_units
        others = ranks[is_possible] - 1
        share = 1 - mask.zero_mass
        of_layer[is_possible] = special.bdtrc(others, num_units, share)
        # Of independent layers: all of them keep that many.
        at_least *= of_layer**mask.times
    mean_rank = float(at_least.sum()) / width
    return max(0.0, 1 - law.zero_mass - mean_rank)
