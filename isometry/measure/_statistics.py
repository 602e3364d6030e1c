"""The statistics of a spectrum that reports and records know by name."""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Array, Float

from isometry.measure import _reasons
from isometry.measure._record import Spectrum

# A function of a spectrum, that returns a number for each matrix, or one for all.
Statistic: TypeAlias = Callable[[Spectrum], Float[Array, "..."]]


def quantile(p: float) -> Statistic:
    """Return a function that computes the quantile of s at p."""

    def of(sp: Spectrum) -> Float[Array, "..."]:
        return sp.quantile(p, "s")

    return of


def _mean_square(sp: Spectrum) -> Float[Array, "..."]:
    return sp.moment(1)


def _mean_fourth_power(sp: Spectrum) -> Float[Array, "..."]:
    return sp.moment(2)


def _exact_zeros(sp: Spectrum) -> Float[Array, "..."]:
    return sp.zero_fraction(exact=True)


STATISTICS: dict[str, Statistic] = {
    "s_min": quantile(0.0),
    "s_median": quantile(0.5),
    "s_max": Spectrum.s_max,
    "mean_s2": _mean_square,
    "mean_s4": _mean_fourth_power,
    "isometry_deviation": Spectrum.isometry_deviation,
    "log_spread": Spectrum.log_spread,
    "effective_rank": Spectrum.effective_rank,
    "stable_rank": Spectrum.stable_rank,
    "condition_number": Spectrum.condition_number,
    "zero_fraction": Spectrum.zero_fraction,
    "exact_zero_fraction": _exact_zeros,
}

# Of these, what nodes of quadratures do not tell, by the names that `_reasons` uses.
_OF_VALUES = {
    "s_min": "quantile",
    "s_median": "quantile",
    "condition_number": "condition_number",
    "log_spread": "log_spread",
    "zero_fraction": "zero_fraction",
    "exact_zero_fraction": "zero_fraction",
}


def why_unknown(name: str, sp: Spectrum) -> str | None:
    """Return why the method of a spectrum cannot tell a statistic; None if it can."""
    if sp.knows_values or name not in _OF_VALUES:
        return None
    return _reasons.of_quadrature(_OF_VALUES[name], "s", sp.method)
