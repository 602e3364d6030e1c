"""A measured spectrum in numbers, over seeds and inputs, and what its law says they should be."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks
from isometry.comparison._atoms import mass_below_floor
from isometry.comparison._compare import compare
from isometry.measure._record import Spectrum
from isometry.measure._statistics import STATISTICS, quantile
from isometry.theory import Law

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHOWN = ("mean_s2", "isometry_deviation", "log_spread", "condition_number", "effective_rank", "stable_rank",
          "zero_fraction", "exact_zero_fraction")  # fmt: skip


_REASONS = {"mean_s2": "moment", "s_max": "s_max", "exact_zero_fraction": "zero_fraction"}
"""What a statistic is called by `Spectrum.why`, where that is not its name; other names of s_ are quantiles."""


def summary(sp: Spectrum, law: Law | None = None) -> dict[str, dict[str, Any]]:
    """Statistics of a spectrum over (seeds, inputs): for each its mean, its standard error over seeds, the law's value.

    In float64, whatever sp was measured in. Inputs are averaged within their seed first. The quantiles of s count what
    is unresolved as zero. None: no standard error of a single seed or of what is not finite; no law, or one that does
    not say. What the method does not know has no mean, and an entry more, "why". A law is of infinite width: a largest
    s approaches its edge as the width grows.
    """
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, float)), sp)
        values = jax.jit(lambda s: {name: measure(s) for name, measure in _statistics().items()})(exact)
        values = {name: np.asarray(values[name]) for name in _statistics()}  # jit sorts them
    predicted = {} if law is None else _predicted(sp, law)
    return {
        name: {**_over_seeds(found), "law": predicted.get(name), **_reason(sp, name)} for name, found in values.items()
    }


def _reason(sp: Spectrum, name: str) -> dict[str, str]:
    """Why a statistic is not known, if it is not."""
    asked = _REASONS.get(name, "quantile" if name.startswith("s_") else name)
    reason = sp.why(asked)
    return {} if reason is None else {"why": reason}


def verdict(sp: Spectrum, law: Law) -> tuple[dict[str, float] | None, str | None]:
    """(`compare`'s gaps beyond their bands as multiples of them, empty where consistent, None; or None and why)."""
    try:
        return {str(name): float(excess) for name, excess in compare(sp, law).excesses.items()}, None
    except _checks.InputError as error:
        return None, _checks.reason(error)


def _statistics() -> dict[str, Callable[[Spectrum], Any]]:
    ends = {"s_min": STATISTICS["s_min"], "s_max": STATISTICS["s_max"]}
    between = {f"s_{round(100 * p)}%": quantile(p) for p in QUANTILES}
    return {"s_min": ends["s_min"], **between, "s_max": ends["s_max"], **{name: STATISTICS[name] for name in _SHOWN}}


def _over_seeds(values: np.ndarray) -> dict[str, float | None]:
    """Of one number for each (seed, input)."""
    with np.errstate(invalid="ignore"):
        per_seed = values.reshape(len(values), -1).mean(1)
        mean = float(per_seed.mean())
        spread = float(per_seed.std(ddof=1)) / math.sqrt(len(per_seed)) if len(per_seed) > 1 else math.nan
    return {"mean": None if math.isnan(mean) else mean, "standard_error": spread if math.isfinite(spread) else None}


def _predicted(sp: Spectrum, law: Law) -> dict[str, float | None]:
    lost = float(np.mean(mass_below_floor(sp, law)))
    low, high, square = float(law.quantile(0.0, "s")), law.s_max, law.moment(1)
    found = {"s_min": low, "s_max": high} | {f"s_{round(100 * p)}%": float(law.quantile(p, "s")) for p in QUANTILES}
    found |= {
        "mean_s2": square,
        "isometry_deviation": math.sqrt(max(square - 2 * law.moment(1, "s") + 1, 0.0)),
        # the measured one is of what is resolved
        "log_spread": law.moment(2, "log_s") - law.moment(1, "log_s") ** 2 if lost == law.zero_mass else math.nan,
        "condition_number": high / low if low > 0 else math.inf,
        "stable_rank": sp.size * square / high**2 if high > 0 else math.nan,
        "zero_fraction": lost,
        "exact_zero_fraction": law.zero_mass,
    }
    return {name: None if math.isnan(value) else float(value) for name, value in found.items()}
