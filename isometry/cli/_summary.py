"""A measured spectrum in numbers, over seeds and inputs, beside those of its law."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from isometry._internal import numerals
from isometry._internal.errors import FromCall, InputError
from isometry.comparison._atoms import mass_below_floor
from isometry.comparison._compare import compare
from isometry.measure._known import Known, known, log_mean
from isometry.measure._record import Spectrum
from isometry.theory import Law

_QUANTILES = {f"s_{round(100 * p)}%": p for p in (0.05, 0.25, 0.5, 0.75, 0.95)}

# The statistics in the order of the table: s ascending, then the rest.
_SHOWN = (
    "s_min",
    *_QUANTILES,
    "s_max",
    "mean_s2",
    "isometry_deviation",
    "log_spread",
    "condition_number",
    "effective_rank",
    "stable_rank",
    "zero_fraction",
    "exact_zero_fraction",
)

# Mass of a law below the floor that its log spread may hold: its ln s are within 20 of
# the others, so that it changes the spread by 4e-7. A thousand times more would show in
# the digits that are printed; rounding in the law's own mass is a thousand times less.
_NEGLIGIBLE_MASS = 1e-9

# Digits of the numbers in the table.
_DIGITS = 5

# Why a law says nothing of a statistic that it may not say anything of.
_NO_LAW = {
    "effective_rank": "it grows with the width, and the law is of infinite width",
    "stable_rank": "it grows with the width, and the law is of infinite width",
    "log_spread": "the law has mass below the floor of the method, and the measured "
    "spread is of what is resolved",
}


@dataclass(frozen=True)
class Line:
    """What is said of one statistic.

    Attributes:
        mean: Its mean over seeds and inputs.
        log_error: ln of the standard error of the mean; None where there is none.
        law: The value of the law; None where it has none, or there is no law.
        no_law: Why the law has none, or "".
    """

    mean: Known
    log_error: float | None = None
    law: float | None = None
    no_law: str = ""

    @property
    def why(self) -> str:
        """Why there is no mean as a number, or ""."""
        log_value = float(self.mean.log_low)
        if self.mean.is_value and _number(log_value) is None:
            log10_value = log_value / math.log(10)
            return f"its log10 is {log10_value:.5g}, beyond the range of float64."
        return self.mean.why

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; a reason stands only beside a None."""
        plain: dict[str, Any] = {
            "mean": _number(float(self.mean.log_low)),
            "standard_error": None,
            "law": self.law,
        }
        if not self.mean.is_value:
            plain["mean"] = None
        if self.log_error is not None:
            plain["standard_error"] = _number(self.log_error)
        if self.why:
            plain["why"] = self.why
        if self.no_law:
            plain["why_no_law"] = self.no_law
        return plain

    def cells(self) -> tuple[str, str, str]:
        """Return mean, standard error and law as texts."""
        error = ""
        if self.log_error is not None:
            error = numerals.of_log(self.log_error, _DIGITS)
        law = ""
        if self.law is not None:
            law = f"{self.law:.{_DIGITS}g}"
        return self.mean.text(_DIGITS), error, law


def _number(log_value: float) -> float | None:
    """Return e^x as a float; None where it is NaN or leaves the range of float64."""
    if math.isinf(log_value):
        return math.exp(log_value)
    with np.errstate(over="ignore", under="ignore"):
        value = float(np.exp(log_value))
    # Numbers below the normal range have lost digits.
    is_in_range = np.finfo(float).tiny <= value < math.inf
    return value if is_in_range else None


def summary(sp: Spectrum, law: Law | None = None) -> dict[str, Line]:
    """Compute statistics of a spectrum over seeds and inputs, and those of its law.

    All in float64, whatever the spectrum was measured in. Inputs are averaged within
    their seed first, so that the standard error is over seeds. A mean over values of
    which some are below the floor has an upper bound, and no value. The law is of
    infinite width: a largest s approaches its edge as the width grows.

    Args:
        sp: The spectrum, with the axes (seeds, inputs).
        law: The law, or None.

    Returns:
        What is said of each statistic, by name.
    """
    records = known(sp, _QUANTILES)
    predicted: dict[str, float | None] = {}
    if law is not None:
        predicted = _predicted(sp, law)
    lines = {}
    for name in _SHOWN:
        record = records[name]
        no_law = ""
        if name in predicted and predicted[name] is None:
            no_law = _NO_LAW[name]
        mean = record.over_matrices(log_mean)
        error = None
        if mean.is_value:
            error = _log_error(record.log_low)
        lines[name] = Line(
            mean=mean, log_error=error, law=predicted.get(name), no_law=no_law
        )
    return lines


def excesses(sp: Spectrum, law: Law) -> tuple[dict[str, float] | None, str | None]:
    """Compare a spectrum with its law.

    Returns:
        How many times its band each gap is beyond it, empty where all are within; and
        None. Or None, and why the two cannot be compared.
    """
    try:
        beyond = compare(sp, law).excesses
    except InputError as error:
        return None, reason(error)
    return {str(name): float(ratio) for name, ratio in beyond.items()}, None


def reason(error: Exception) -> str:
    """Return what an error says, without the name of the function that raised it."""
    return error.message if isinstance(error, FromCall) else str(error)


def _log_error(logs: Float[np.ndarray, "seeds *inputs"]) -> float | None:
    """Return ln of the standard error over seeds of a mean, from ln of the values."""
    per_seed = np.array([log_mean(of_seed.ravel()) for of_seed in logs])
    top = float(per_seed.max())
    # One seed has no standard error, and infinite values have none.
    if len(per_seed) < 2 or top == math.inf:
        return None
    if top == -math.inf:
        return top
    relative = np.exp(per_seed - top).std(ddof=1) / math.sqrt(len(per_seed))
    return top + math.log(relative) if relative else -math.inf


def _predicted(sp: Spectrum, law: Law) -> dict[str, float | None]:
    """Return what a law says of the statistics; None where it says nothing."""
    zero_mass = float(np.mean(mass_below_floor(sp, law)))
    low, high = float(law.quantile(0.0, "s")), law.s_max
    mean_square = law.moment(1)
    values = {"s_min": low, "s_max": high}
    for name, p in _QUANTILES.items():
        values[name] = float(law.quantile(p, "s"))
    square_deviation = mean_square - 2 * law.moment(1, "s") + 1
    values |= {
        "mean_s2": mean_square,
        # Rounding can make it negative where it is zero.
        "isometry_deviation": math.sqrt(max(square_deviation, 0.0)),
        "log_spread": math.nan,
        "condition_number": math.inf,
        "zero_fraction": zero_mass,
        "exact_zero_fraction": law.zero_mass,
    }
    if low > 0:
        values["condition_number"] = high / low
    # The measured spread is of what is resolved, the law's of all that is not zero.
    if zero_mass - law.zero_mass < _NEGLIGIBLE_MASS:
        values["log_spread"] = law.moment(2, "log_s") - law.moment(1, "log_s") ** 2
    predicted: dict[str, float | None] = dict.fromkeys(_SHOWN)
    predicted.update(
        {name: float(value) for name, value in values.items() if not math.isnan(value)}
    )
    return predicted
