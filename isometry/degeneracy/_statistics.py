"""The statistics of a spectrum that reports and records know by name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from isometry.measure._record import Spectrum


def quantile(p: float) -> Callable[[Spectrum], Any]:
    """A quantile of s, 0 where it is zero or unresolved: nothing below the floor is reported as a value."""
    return lambda sp: replace(
        sp, log_values=jnp.where(sp.resolved | jnp.isnan(sp.log_values), sp.log_values, -jnp.inf)
    ).quantile(p, "s")


STATISTICS: dict[str, Callable[[Spectrum], Any]] = {
    "s_min": quantile(0.0),
    "s_median": quantile(0.5),
    "s_max": lambda sp: sp.quantile(1.0, "s"),
    "mean_s2": lambda sp: sp.moment(1),
    "mean_s4": lambda sp: sp.moment(2),
    "isometry_deviation": Spectrum.isometry_deviation,
    "log_spread": Spectrum.log_spread,
    "effective_rank": Spectrum.effective_rank,
    "stable_rank": Spectrum.stable_rank,
    "condition_number": Spectrum.condition_number,
    "zero_fraction": Spectrum.zero_fraction,
    "exact_zero_fraction": lambda sp: sp.zero_fraction(exact=True),
}
