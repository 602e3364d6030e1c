"""Why a statistic of a spectrum is NaN, in sentences."""

from isometry._internal import checks

# For each statistic that the nodes of a quadrature leave undetermined: what it depends
# on, and what to write instead. All other statistics are estimates with an interval.
_UNDETERMINED = {
    "zero_fraction": ("how many values are zero", "method='dense'"),
    "condition_number": ("the smallest value", "method='dense'"),
    "log_spread": ("ln s of the smallest values", "method='dense'"),
    "cdf": ("how many values lie below a point", "smooth_cdf(grid) for an estimate"),
    "density": ("how many values lie in an interval", "smooth_density(grid)"),
    "quantile": (
        "the value at a rank, but for p = 1, the largest",
        "smooth_cdf(grid), and invert it",
    ),
}

# Statistics whose name and arguments `Spectrum.why` takes.
STATISTICS = (
    "moment",
    "s_max",
    "zero_fraction",
    "condition_number",
    "effective_rank",
    "stable_rank",
    "isometry_deviation",
    "log_spread",
    "cdf",
    "density",
    "quantile",
    "smooth_cdf",
    "smooth_density",
)


def of_quadrature(statistic: str, variable: str, method: object) -> str | None:
    """Return why a quadrature does not determine a statistic; None if it estimates it.

    Args:
        statistic: One of `STATISTICS`.
        variable: Its variable, "lam", "s" or "log_s", where it has one.
        method: The method that measured the spectrum, for the sentence.
    """
    checks.one_of("statistic", statistic, STATISTICS)
    reason = _UNDETERMINED.get(statistic)
    # Moments of s are estimated; those of ln s depend on the smallest values.
    if statistic == "moment" and variable == "log_s":
        reason = _UNDETERMINED["log_spread"]
    if reason is None:
        return None
    what, instead = reason
    return (
        f"{method} finds nodes of quadratures, which are not singular values and do "
        f"not tell {what}; write {instead}."
    )
