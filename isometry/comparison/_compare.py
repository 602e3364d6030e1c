"""The public function `compare`: its checks, and how the statistics come together."""

import numpy as np

from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, NotFinite, public
from isometry._internal.types import Key
from isometry.comparison import _statistics
from isometry.comparison._comparison import Band, Comparison
from isometry.comparison._distance import distance
from isometry.comparison._matching import require_match
from isometry.comparison._outliers import count_outliers, outliers
from isometry.comparison._ranks import LawTable, MeasuredRanks
from isometry.comparison._seeds import Resamples, SeedIntervals, resampled_seeds
from isometry.comparison._statistics import ByRank, Statistic, Statistics
from isometry.measure._record import Spectrum
from isometry.theory import Law

# The chance of calling a true law inconsistent, shared by all tests of one comparison
# (Bonferroni). With a tenth of it, 10 seeds tell laws apart that differ half as much
# again.
_LEVEL = 0.05

# With four seeds a 99.5 % t interval is 7.5 standard errors long on either side.
_LEAST_SEEDS = 5

# With fewer resamples a 99.5 % quantile is the largest of them, and mere chance.
_LEAST_RESAMPLES = 20


@public("compare")
def compare(
    sp: Spectrum,
    law: Law,
    *,
    key: Key | None = None,
    resamples: int = 200,
) -> Comparison:
    """Judge whether a spectrum measured over seeds is one that a law predicts.

    A gap between the two is consistent if it lies no farther from the gap that a true
    law has at this width than an interval over seeds and a finite-width term allow
    together. The width is the number of units of a layer, `sp.size / law.positions`.
    The intervals are t intervals, of 95 % for all gaps together. Inputs of one seed are
    averaged, because only seeds are independent. If the law states outliers, those of
    each draw are left out, and their number is compared by itself.

    What it detects was measured at width 256 with 20 seeds, for ReLU/Gaussian at depth
    20 and tanh/orthogonal at depth 10: sigma_w off by 2 %, a tenth more layers, and
    Gaussian weights instead of orthogonal ones. In smaller steps, with 23 ensembles
    each: 11 ReLU/Gaussian layers instead of 10 in all of them; for tanh/Gaussian at
    depth 8, where q makes up for the scale, a sigma_w 2 % too large in all, and one 2 %
    too small in 22. False alarms were 2 in 880 ensembles of ten true laws, width 32 to
    128, 10 or 20 seeds: below 0.9 % (95 %, Clopper-Pearson).

    It takes a few thousand quantiles of the law, about a second at first.

    Args:
        sp: A spectrum over (seeds, inputs), as `ensemble` returns it, by a method that
            finds the singular values themselves. It has the span of the law, or is of
            given Jacobians.
        law: The law of as many (W, D) pairs: `net.law("hidden", xs)`, or
            `theory.jacobian_law`.
        key: The key of bootstrap samples of the seeds, from which the intervals come.
            Without it they come from standard errors; that of the distribution function
            is then a Bonferroni bound, which is wider.
        resamples: The number of bootstrap samples.

    Returns:
        The gaps and their bands.

    Raises:
        InputError: `sp` is no `Spectrum` or `law` no `Law`; no seeds axis or fewer than
            five seeds; a span, a number of pairs or a shape that the law is not for; so
            few resolved values that there is nothing to compare.
        NotFinite: A Jacobian holds a NaN or an infinity.
        NotDefined: `sp` holds nodes of quadratures instead of singular values.
        TypeError: An argument is traced.

    Example:
        >>> factors = np.random.default_rng(0).standard_normal((2, 8, 64, 64)) / 8
        >>> sp = isometry.Spectrum.of_jacobians(factors[0] @ factors[1])
        >>> isometry.compare(sp, theory.fuss_catalan(2)).consistent
        True
        >>> list(isometry.compare(sp, theory.fuss_catalan(3)).excesses)[:3]
        ['ks', 'mean', 'sd']
    """
    checks.on_host("sp", sp)
    checks.on_host("key", key)
    require_match(sp, law)
    _require_values(sp)
    _require_seeds(sp)
    _require_finite(sp)
    resamples = checks.integer("resamples", resamples, low=_LEAST_RESAMPLES)
    picked = None
    if key is not None:
        checks.key("key", key)
        picked = resampled_seeds(key, resamples, sp.log_values.shape[0])
    return _judged(sp, law, picked)


def _require_values(sp: Spectrum) -> None:
    """Refuse nodes of quadratures, which do not tell ranks, atoms or zeros."""
    if not sp.knows_values:
        raise NotDefined(
            f"unknown, because {sp.method} finds nodes of quadratures, which are not "
            "singular values and do not tell ranks, atoms or zeros; measure with "
            f"method='dense', or Lanczos({sp.size}), which finds all. plots.overlay "
            "draws the smooth density over the law, and sp.interval('moment') bounds "
            "what law.moment(1) predicts."
        )


def _require_seeds(sp: Spectrum) -> None:
    """Refuse too few seeds to say how far one draw is from the next."""
    shape = tuple(sp.log_values.shape)
    came = "no seeds axis"
    if len(shape) > 1:
        came = f"{shape[0]} seeds"
        if shape[0] >= _LEAST_SEEDS:
            return
    raise InputError(
        f"sp has {came} (shape {shape}); at least {_LEAST_SEEDS} are needed to say how "
        "far one draw is from the next; measure 20, for example."
    )


def _require_finite(sp: Spectrum) -> None:
    """Refuse Jacobians that overflowed: NaN has no rank among the values."""
    is_bad = np.isnan(np.asarray(sp.log_values)).any(-1)
    if is_bad.any():
        raise NotFinite(
            f"{is_bad.sum()} of the {is_bad.size} Jacobians of sp are not finite; "
            "leave their seeds out, or measure in float64."
        )


def _judged(sp: Spectrum, law: Law, picked: Resamples | None) -> Comparison:
    """Measure every gap and its band, without further checks."""
    width = sp.size // law.positions
    everything = MeasuredRanks.of(sp, law, width)
    counts = count_outliers(everything, law)
    # Of more outliers than the law states, the others belong to what is compared.
    measured = everything.without_largest(np.minimum(counts, law.outliers))
    u = measured.ranks()
    # The resolution of the first compared rank asks for ranks below it.
    lowest = law.zero_mass + float(u[0] - law.zero_mass) / 8
    table = LawTable(law, lowest, measured.windows)
    by_rank = ByRank.of(measured, table, u)
    apart = distance(measured, table, by_rank)
    statistics: Statistics = {
        **_statistics.log_moments(by_rank),
        **_statistics.log_mean(measured, law, width),
        **outliers(counts, law),
        **_statistics.few_ranks(by_rank),
        **_statistics.atom_masses(measured, law),
        **_statistics.zeros(measured, law, width=width, known_to=apart.width),
    }
    # One for each statistic, and one for the distance of the distribution functions.
    num_tests = len(statistics) + 1
    intervals = SeedIntervals(_LEVEL / num_tests, picked)
    bands = {name: _band(found, intervals) for name, found in statistics.items()}
    bands["ks"] = Band(intervals.largest(apart.per_seed), apart.width)
    log_lam = by_rank.log_lam.mean((0, 1))
    return Comparison(
        ks=apart.largest,
        wasserstein=float(np.abs(log_lam - by_rank.predicted).mean()),
        atom_gaps=_gaps(statistics, "atom"),
        moment_gaps=_moment_gaps(statistics),
        quantile_gaps=_gaps(statistics, "rank"),
        band=bands,
        unresolved=measured.cut,
        seeds=sp.log_values.shape[0],
        size=sp.size,
        law=law.name,
        width=width,
        outliers=float(statistics["outliers"].per_seed.mean()),
        expected_outliers=law.outliers,
    )


def _gaps(statistics: Statistics, kind: str) -> dict[float, float]:
    """Return the gaps at each rank, or of each atom, by its place."""
    return {
        name[1]: statistic.gap
        for name, statistic in statistics.items()
        if isinstance(name, tuple) and name[0] == kind
    }


def _moment_gaps(statistics: Statistics) -> dict[str, float]:
    return {
        name: statistic.gap
        for name, statistic in statistics.items()
        if isinstance(name, str) and name != "outliers"
    }


def _band(statistic: Statistic, intervals: SeedIntervals) -> Band:
    """Return how large the gap of a statistic may be."""
    seeds = intervals.half_length(statistic.per_seed)
    if statistic.variance is not None:
        num_seeds = len(statistic.per_seed)
        seeds = intervals.half_length_known(statistic.variance, num_seeds)
    return Band(seeds, statistic.width, statistic.expected)
