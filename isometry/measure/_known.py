"""What is known of the statistics of a spectrum, and how it is written.

Every table, page and notebook takes its numbers from here. A value below the floor of
the method has an upper bound and no value of its own; and of the logarithm of a number
nothing is lost where the number itself leaves the range of floats.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import compilation, numerals
from isometry.measure._statistics import STATISTICS, why_unknown

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum

# Quantiles by the names that they have in `STATISTICS`.
_QUANTILES = {"s_min": 0.0, "s_median": 0.5, "s_max": 1.0}

# Statistics that do not change if all s are multiplied by a number. They are in range
# where the singular values are not.
_WITHOUT_SCALE = (
    "log_spread",
    "effective_rank",
    "stable_rank",
    "zero_fraction",
    "exact_zero_fraction",
)


@dataclass(frozen=True)
class Known:
    """What is known of a statistic, of each matrix or of all together.

    No statistic is negative, so logarithms are kept; that of zero is -inf. Both are NaN
    where nothing is known.

    Attributes:
        log_low: ln of a lower bound.
        log_high: ln of an upper bound; equal to `log_low` where the value is known.
        why: Why the value of some matrix is not known, or "".
    """

    log_low: Float[np.ndarray, "*matrices"]
    log_high: Float[np.ndarray, "*matrices"]
    why: str = ""

    @property
    def is_value(self) -> bool:
        """Whether every value is known, and not only bounds of it."""
        return bool((self.log_low == self.log_high).all())

    def over_matrices(self, statistic: Callable[[np.ndarray], np.floating]) -> "Known":
        """Return what is known of a statistic over all matrices.

        Args:
            statistic: A function of ln of the values that never decreases if one of
                them increases, such as `log_median`: what it makes of bounds is a
                bound.
        """
        low, high = (
            np.asarray(statistic(logs.ravel()), float)
            for logs in (self.log_low, self.log_high)
        )
        why = "" if low == high else self.why
        return Known(low, high, why)

    def text(self, digits: int = 3) -> str:
        """Return one number as text: "0.5", "< 1e-07" or "unknown"."""
        low, high = float(self.log_low), float(self.log_high)
        if math.isnan(low) or math.isnan(high):
            return "unknown"
        if low == high:
            return numerals.of_log(low, digits)
        if high == math.inf:
            return numerals.bound(low, is_upper=False)
        return numerals.bound(high, is_upper=True)

    def percent(self, digits: int = 3) -> str:
        """Return one share as text in percent, or "unknown"."""
        if math.isnan(self.log_low):
            return "unknown"
        return numerals.percent(math.exp(self.log_low), digits)


def known(
    sp: "Spectrum", levels: Mapping[str, float] | None = None
) -> dict[str, Known]:
    """Return what is known of every statistic of each matrix, by name.

    All in float64, whatever the spectrum was measured in.

    Args:
        sp: A spectrum with values, not a traced one.
        levels: Levels of more quantiles of s, by the names that they get.
    """
    levels = _QUANTILES | dict(levels or {})
    with jax.enable_x64(True):
        in_float64 = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, float)), sp)
        points = jnp.array(list(levels.values()))
        found = jax.tree.map(np.asarray, _program(in_float64, points))
    logs = {name: _logs(found[name]) for name in _WITHOUT_SCALE}
    logs |= {name: found[name] for name in ("mean_s2", "mean_s4", "isometry_deviation")}
    records = {name: Known(values, values) for name, values in logs.items()}
    # ln of the floor itself, of each matrix.
    top = found["quantiles"][..., list(levels).index("s_max")]
    log_floor = top + np.asarray(sp.log_floor, float)
    for index, name in enumerate(levels):
        records[name] = _above_floor(found["quantiles"][..., index], log_floor)
    records["condition_number"] = _condition(records["s_min"], top)
    return {name: _with_reason(one, name, sp) for name, one in records.items()}


@compilation.jit
def _program(sp: "Spectrum", levels: Float[Array, " levels"]) -> dict[str, Array]:
    """Return statistics without a scale, and ln of the others."""
    found = {name: STATISTICS[name](sp) for name in _WITHOUT_SCALE}
    # ln |s - 1| = ln |e^ln s - 1|, without the overflow of s.
    # Without a floor, since exact zeros are told from what lies below it.
    nodes = replace(sp, log_floor=jnp.full_like(sp.log_floor, -jnp.inf))
    is_large = sp.log_values > 1
    small = jnp.where(is_large, 0, sp.log_values)
    large = jnp.where(is_large, sp.log_values, 1)
    log_deviation = jnp.where(
        is_large,
        large + jnp.log1p(-jnp.exp(-large)),
        jnp.log(jnp.abs(jnp.expm1(small))),
    )
    return {
        **found,
        "quantiles": nodes.quantile(levels, "log_s"),
        "mean_s2": _log_mean(2 * sp.log_values, sp.weights),
        "mean_s4": _log_mean(4 * sp.log_values, sp.weights),
        "isometry_deviation": _log_mean(2 * log_deviation, sp.weights) / 2,
    }


def _log_mean(
    logs: Float[Array, "*matrices nodes"], weights: Float[Array, "*matrices nodes"]
) -> Float[Array, "*matrices"]:
    """Return ln of the mean of numbers that are given by their logarithms."""
    return jax.scipy.special.logsumexp(logs, b=weights, axis=-1)


def _logs(values: Float[np.ndarray, "*matrices"]) -> Float[np.ndarray, "*matrices"]:
    with np.errstate(divide="ignore"):
        return np.log(values)


def _above_floor(
    log_s: Float[np.ndarray, "*matrices"], log_floor: Float[np.ndarray, "*matrices"]
) -> Known:
    """Return what is known of a singular value: below the floor, that it is below."""
    is_unresolved = np.isfinite(log_s) & (log_s < log_floor)
    return Known(
        np.where(is_unresolved, -np.inf, log_s),
        np.where(is_unresolved, log_floor, log_s),
    )


def _condition(least: Known, top: Float[np.ndarray, "*matrices"]) -> Known:
    """Return what is known of s_max/s_min; it is infinite where s_min is zero."""
    is_zero = np.isneginf(least.log_high)
    reference = np.where(is_zero, 0, top)
    return Known(
        np.where(is_zero, np.inf, reference - least.log_high),
        reference - least.log_low,
    )


def _with_reason(record: Known, name: str, sp: "Spectrum") -> Known:
    """Return the same with the reason why some value is not known."""
    return Known(record.log_low, record.log_high, _why(record, name, sp))


def _why(record: Known, name: str, sp: "Spectrum") -> str:
    """Say why a statistic of some matrix is not known; "" if it is of all."""
    if np.isnan(record.log_high).any():
        # All names but those of `STATISTICS` are of quantiles of s.
        named = name if name in STATISTICS else "s_median"
        # The largest value is known of every matrix that is finite.
        return sp.why("s_max") or why_unknown(named, sp) or "it is not defined."
    is_unresolved = record.log_low != record.log_high
    if not is_unresolved.any():
        return ""
    count = f"{is_unresolved.sum()} of {is_unresolved.size} Jacobians"
    words = f"below the floor of the method in {count}."
    if name == "condition_number":
        return f"s_min is {words}"
    return words


def log_median(logs: Float[np.ndarray, " numbers"]) -> np.floating:
    """Return ln of the median of numbers that are given by their logarithms."""
    if np.isnan(logs).any():
        return np.float64(np.nan)
    ascending = np.sort(logs)
    return log_mean(ascending[(len(logs) - 1) // 2 : len(logs) // 2 + 1])


def log_mean(logs: Float[np.ndarray, " numbers"]) -> np.floating:
    """Return ln of the mean of numbers that are given by their logarithms."""
    top = np.max(logs)
    # Also NaN, zeros alone and an infinite one.
    if not np.isfinite(top):
        return top
    return top + np.log(np.mean(np.exp(logs - top)))
