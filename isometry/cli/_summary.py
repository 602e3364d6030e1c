"""A measured spectrum in numbers, over seeds and inputs, beside those of its law."""

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from isometry._internal.errors import FromCall, InputError
from isometry.comparison._atoms import mass_below_floor
from isometry.comparison._compare import compare
from isometry.measure._record import Spectrum
from isometry.measure._statistics import STATISTICS, Statistic, quantile
from isometry.theory import Law

# What is said of one statistic: mean, standard error, law, and perhaps why.
Line: TypeAlias = dict[str, Any]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHOWN = (
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

# What `Spectrum.why` calls a statistic, where that is not its name.
_NAMES_OF_WHY = {
    "mean_s2": "moment",
    "s_max": "s_max",
    "exact_zero_fraction": "zero_fraction",
}


def summary(sp: Spectrum, law: Law | None = None) -> dict[str, Line]:
    """Compute statistics of a spectrum over seeds and inputs, and those of its law.

    All in float64, whatever the spectrum was measured in. Inputs are averaged within
    their seed first, so that the standard error is over seeds. Quantiles of s count
    what is not resolved as zero. The law is of infinite width: a largest s approaches
    its edge as the width grows.

    Args:
        sp: The spectrum, with the axes (seeds, inputs).
        law: The law, or None.

    Returns:
        For each statistic "mean", "standard_error" and "law". None stands for what does
        not exist: the standard error of one seed, the value of no law. A mean that the
        method does not know is None too, and "why" says why.
    """
    statistics = _statistics()
    with jax.enable_x64(True):
        in_float64 = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, float)), sp)
        compute = jax.jit(
            lambda one: {name: of(one) for name, of in statistics.items()}
        )
        values = compute(in_float64)
    predicted = {} if law is None else _predicted(sp, law)
    lines = {}
    # The program returns them sorted by name.
    for name in statistics:
        line = _over_seeds(np.asarray(values[name]))
        line["law"] = predicted.get(name)
        why = _why(sp, name)
        if why is not None:
            line["why"] = why
        lines[name] = line
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


def _why(sp: Spectrum, name: str) -> str | None:
    """Say why a statistic is not known, if it is not."""
    # All others whose name begins so are quantiles of s.
    default = "quantile" if name.startswith("s_") else name
    return sp.why(_NAMES_OF_WHY.get(name, default))


def _statistics() -> dict[str, Statistic]:
    """Return the statistics in the order of the table: s ascending, then the rest."""
    between = {f"s_{round(100 * p)}%": quantile(p) for p in _QUANTILES}
    return {
        "s_min": STATISTICS["s_min"],
        **between,
        "s_max": STATISTICS["s_max"],
        **{name: STATISTICS[name] for name in _SHOWN},
    }


def _over_seeds(values: Float[np.ndarray, "seeds *inputs"]) -> Line:
    """Return the mean of a statistic, and its standard error over seeds."""
    # Infinite minus infinite is NaN, which is what is wanted.
    with np.errstate(invalid="ignore"):
        per_seed = values.reshape(len(values), -1).mean(1)
        mean = float(per_seed.mean())
        standard_error = math.nan
        if len(per_seed) > 1:
            standard_error = float(per_seed.std(ddof=1)) / math.sqrt(len(per_seed))
    line: Line = {"mean": mean, "standard_error": standard_error}
    # A mean may be infinite, as that of a condition number.
    if math.isnan(mean):
        line["mean"] = None
    if not math.isfinite(standard_error):
        line["standard_error"] = None
    return line


def _predicted(sp: Spectrum, law: Law) -> dict[str, float | None]:
    """Return what a law says of the statistics; None where it says nothing."""
    zero_mass = float(np.mean(mass_below_floor(sp, law)))
    low, high = float(law.quantile(0.0, "s")), law.s_max
    mean_square = law.moment(1)
    values = {"s_min": low, "s_max": high}
    for p in _QUANTILES:
        values[f"s_{round(100 * p)}%"] = float(law.quantile(p, "s"))
    square_deviation = mean_square - 2 * law.moment(1, "s") + 1
    values |= {
        "mean_s2": mean_square,
        # Rounding can make it negative where it is zero.
        "isometry_deviation": math.sqrt(max(square_deviation, 0.0)),
        "log_spread": math.nan,
        "condition_number": math.inf,
        "stable_rank": math.nan,
        "zero_fraction": zero_mass,
        "exact_zero_fraction": law.zero_mass,
    }
    if low > 0:
        values["condition_number"] = high / low
    if high > 0:
        values["stable_rank"] = sp.size * mean_square / high**2
    # The measured spread is of what is resolved, the law's of all that is not zero.
    if zero_mass - law.zero_mass < _NEGLIGIBLE_MASS:
        values["log_spread"] = law.moment(2, "log_s") - law.moment(1, "log_s") ** 2
    known: dict[str, float | None] = dict.fromkeys(values)
    known.update(
        {name: float(value) for name, value in values.items() if not math.isnan(value)}
    )
    return known
