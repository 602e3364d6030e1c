"""Histograms of singular values over log10 s, and the mass that they leave out."""

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum

Edges: TypeAlias = Float[np.ndarray, " edges"]

_LN10 = math.log(10)


def masses(sp: "Spectrum", edges: Edges) -> dict[str, float]:
    """Return the mass of the values that a histogram of log s leaves out.

    Args:
        sp: A spectrum of singular values.
        edges: The edges of the bins in log10 s.

    Returns:
        The shares "zeros" (exact ones), "unresolved" (not zero, below the rounding
        floor), "not finite" and "outside" (resolved, but below the first edge or above
        the last), of all values of all matrices.
    """
    log_values = np.asarray(sp.log_values)
    weights = np.asarray(sp.weights, float)
    is_zero = np.isneginf(log_values)
    is_finite = np.isfinite(log_values)
    is_resolved = np.asarray(sp.resolved)
    places = log_values / _LN10
    is_in_bins = (places >= edges[0]) & (places <= edges[-1])
    kinds = {
        "zeros": is_zero,
        "unresolved": is_finite & ~is_resolved,
        "not finite": ~is_finite & ~is_zero,
        "outside": is_resolved & ~is_in_bins,
    }
    total = weights.sum()
    return {
        kind: float(np.sum(weights, where=is_kind) / total)
        for kind, is_kind in kinds.items()
    }


def heights(sp: "Spectrum", edges: Edges) -> Float[np.ndarray, " bins"]:
    """Return the density of the resolved values in each bin, for a unit of log10 s.

    Args:
        sp: A spectrum of singular values.
        edges: The edges of the bins in log10 s.
    """
    is_resolved = np.asarray(sp.resolved)
    weights = np.asarray(sp.weights, float)
    places = np.asarray(sp.log_values, float)[is_resolved] / _LN10
    mass, _ = np.histogram(places, edges, weights=weights[is_resolved])
    return mass / weights.sum() / np.diff(edges)


def extent(sp: "Spectrum", tail: float = 0.0) -> tuple[float, float] | None:
    """Return the least and the largest log10 s of the resolved values, if any.

    Args:
        sp: A spectrum of singular values.
        tail: The share of the values that may be below the least.
    """
    is_resolved = np.asarray(sp.resolved)
    places = np.asarray(sp.log_values, float)[is_resolved] / _LN10
    if not places.size:
        return None
    low = float(np.quantile(places, tail, method="lower"))
    return low, float(places.max())
