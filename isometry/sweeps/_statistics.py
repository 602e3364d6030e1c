"""Statistics of a measured spectrum and of its law, under one set of names."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from isometry._internal.errors import NotDefined
from isometry.measure._record import Spectrum
from isometry.networks import Network
from isometry.sweeps._settings import Labelled, Results, labelled
from isometry.theory import Law, NotConverged

# The probabilities of the quantiles of s: both ends, the quartiles, and the tails.
PROBABILITIES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

# Quantiles lie along this dimension.
_PROBABILITY = ("probability",)

# A number, or the quantiles.
Values: TypeAlias = Mapping[str, float | np.ndarray]

# Every statistic by its name, in words that fit beside a picture. Each is of one
# Jacobian, averaged over networks and inputs.
MEANINGS = {
    "mean_lam": "mean of s²",
    "var_lam": "variance of s²",
    "s_max": "largest singular value",
    "s_min": "smallest singular value",
    "condition_number": "condition number",
    "mean_log_s": "mean of ln s",
    "var_log_s": "variance of ln s",
    "zero_fraction": "share of singular values that are zero",
    "quantile_s": "quantile of the singular values",
}


def of_spectrum(sp: Spectrum) -> Results:
    """Average the statistics of an ensemble, each with its standard error over seeds.

    Args:
        sp: Spectra of shape (seeds, inputs).
    """
    # In float32 the square of a large singular value would overflow, and the variance
    # of an isometry would be rounding.
    with jax.enable_x64(True):
        means, errors = jax.device_get(_averaged(sp))
    meaning = "probability of a quantile"
    # An array named like its dimension holds the labels of it.
    results = {"probability": labelled(_PROBABILITY, PROBABILITIES, meaning)}
    for name, meaning in MEANINGS.items():
        results[name] = _labelled(name, means[name], meaning)
        long_name = f"standard error of {name}"
        results[f"{name}_error"] = _labelled(name, errors[name], long_name)
    return results


# One program for all: each statistic alone would be one of its own.
@jax.jit
def _averaged(sp: Spectrum) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return mean and standard error of each statistic."""
    sp = jax.tree.map(_as_double, sp)
    # Weights of float32 have a sum that is off by its rounding, and so would be the
    # variance, by as much of the squared mean.
    total = jnp.sum(sp.weights, axis=-1, keepdims=True)
    sp = dataclasses.replace(sp, weights=sp.weights / total)
    if sp.knows_values:
        sp = _without_noise(sp)
    mean_lam = sp.moment(1)
    levels = jnp.asarray(PROBABILITIES)
    values = {
        "mean_lam": mean_lam,
        "var_lam": sp.moment(2) - mean_lam**2,
        "s_max": sp.s_max(),
        "s_min": sp.quantile(0.0, "s"),
        "condition_number": sp.condition_number(),
        "mean_log_s": sp.moment(1, "log_s"),
        "var_log_s": sp.log_spread(),
        "zero_fraction": sp.zero_fraction(),
        "quantile_s": sp.quantile(levels, "s"),
    }
    means, errors = {}, {}
    for name, value in values.items():
        # Inputs of one network are not independent: they are averaged first.
        by_seed = jnp.mean(value, axis=1)
        means[name] = jnp.mean(by_seed, axis=0)
        errors[name] = _error(by_seed)
    return means, errors


def _without_noise(sp: Spectrum) -> Spectrum:
    """Return a spectrum with zeros for singular values that are not resolved."""
    # NaN stays NaN: it says that the Jacobian was not finite.
    is_kept = sp.resolved | jnp.isnan(sp.log_values)
    log_values = jnp.where(is_kept, sp.log_values, -jnp.inf)
    return dataclasses.replace(sp, log_values=log_values)


def _as_double(leaf: Array) -> Array:
    """Return a leaf of a spectrum in float64."""
    return jnp.asarray(leaf).astype(np.float64)


def _error(by_seed: Array) -> Array:
    """Return the standard error of the mean over the first axis; NaN of one seed."""
    num_seeds = by_seed.shape[0]
    if num_seeds == 1:
        return jnp.full(by_seed.shape[1:], np.nan)
    return jnp.std(by_seed, axis=0, ddof=1) / np.sqrt(num_seeds)


def of_law(net: Network, span: object, xs: PyTree[Array]) -> Results:
    """Return the same statistics as theory predicts them, NaN where it does not.

    Args:
        net: The network.
        span: The span that was measured.
        xs: The examples.
    """
    predicted = _predicted(net, span, xs)
    results = {}
    unknown = np.full(len(PROBABILITIES), np.nan)
    for name, meaning in MEANINGS.items():
        value = predicted.get(name, np.nan)
        if name == "quantile_s":
            value = predicted.get(name, unknown)
        long_name = f"{meaning}, by theory"
        results[f"law_{name}"] = _labelled(name, value, long_name)
    return results


def _predicted(net: Network, span: object, xs: PyTree[Array]) -> Values:
    """Return the statistics that are known: of the law, two moments, or none."""
    # Theory knows the two spans that have names.
    if not isinstance(span, str):
        return {}
    xs = cast(Array, xs)
    with contextlib.suppress(NotDefined, NotConverged):
        return _of_law(net.law(span, xs))
    # Of some networks two moments are known, and not the law.
    try:
        moments = net.moments(span, xs)
    except NotDefined:
        return {}
    return {"mean_lam": moments.mean, "var_lam": moments.variance}


def _of_law(law: Law) -> Values:
    """Return the statistics of a law."""
    # The probabilities begin with 0: the first quantile is the smallest value.
    quantiles = np.asarray(law.quantile(PROBABILITIES, "s"), float)
    values = {
        "mean_lam": law.moment(1),
        "var_lam": law.variance,
        "s_max": law.s_max,
        "s_min": float(quantiles[0]),
        "zero_fraction": law.zero_mass,
        "quantile_s": quantiles,
    }
    values["condition_number"] = np.inf
    if values["s_min"] > 0:
        values["condition_number"] = law.s_max / values["s_min"]
    mean_log = law.moment(1, "log_s")
    values["mean_log_s"] = mean_log
    values["var_log_s"] = law.moment(2, "log_s") - mean_log**2
    # A law that thins out slowly towards zero has no mean of ln s.
    if not math.isfinite(mean_log):
        values["var_log_s"] = math.inf
    return values


def _labelled(name: str, value: object, long_name: str) -> Labelled:
    """Return a statistic with its dimensions."""
    dims = _PROBABILITY if name == "quantile_s" else ()
    return labelled(dims, value, long_name)
