"""Signals averaged over networks, inputs and pairs of inputs, point by point."""

import contextlib
from collections.abc import Sequence
from typing import cast

import numpy as np
from jaxtyping import Array, Float, PyTree

from isometry._internal.errors import NotDefined
from isometry.networks import Network
from isometry.records import SIGNALS, Signals
from isometry.sweeps._settings import Results, labelled

_POINT = ("point",)

# Every field of `Signals`, in words.
_MEANINGS = {
    "q": "mean square of the value",
    "c": "cosine between the values of two inputs",
    "gradient": "mean square of the derivative of the loss",
    "apjn": "averaged partial Jacobian norm",
    "chi": "factor by which a squared gradient grows backwards",
}


def of_signals(signals: Signals) -> Results:
    """Average measured signals, each with its standard error over networks."""
    results = {
        "point_name": labelled(_POINT, list(signals.points), "name of the point"),
        "point_size": labelled(_POINT, list(signals.sizes), "entries at the point"),
    }
    for name in SIGNALS:
        by_seed = _by_seed(name, signals)
        num_seeds = len(by_seed)
        error = np.full(by_seed.shape[1:], np.nan)
        if num_seeds > 1:
            error = by_seed.std(axis=0, ddof=1) / np.sqrt(num_seeds)
        mean = f"{_MEANINGS[name]}, mean over networks and inputs"
        results[name] = labelled(_POINT, by_seed.mean(axis=0), mean)
        long_name = f"standard error over networks of {name}"
        results[f"{name}_error"] = labelled(_POINT, error, long_name)
    return results


def of_theory(net: Network, xs: PyTree[Array], points: Sequence[str]) -> Results:
    """Return the signals that mean-field theory predicts, NaN where it does not.

    Args:
        net: The network.
        xs: The examples.
        points: The names of the points that were measured.
    """
    predicted = None
    with contextlib.suppress(NotDefined):
        predicted = net.mean_field(cast(Array, xs))
    results = {}
    for name in SIGNALS:
        values = np.full(len(points), np.nan)
        if predicted is not None:
            by_seed = _by_seed(name, predicted)
            by_point = dict(zip(predicted.points, by_seed.mean(axis=0), strict=True))
            values = np.array([by_point.get(point, np.nan) for point in points])
        long_name = f"{_MEANINGS[name]}, by mean-field theory"
        results[f"theory_{name}"] = labelled(_POINT, values, long_name)
    return results


def _by_seed(name: str, signals: Signals) -> Float[np.ndarray, "seeds points"]:
    """Return a field averaged over the inputs of each network, or over their pairs."""
    values = np.asarray(getattr(signals, name), np.float64)
    num_seeds, num_inputs, *_, num_points = values.shape
    if name == "c":
        # The cosine of an input with itself is always one.
        values = values[:, ~np.eye(num_inputs, dtype=bool)]
    # One input has no pairs, whose mean would be one of nothing.
    if values.size == 0:
        return np.full((num_seeds, num_points), np.nan)
    return values.reshape(num_seeds, -1, num_points).mean(axis=1)
