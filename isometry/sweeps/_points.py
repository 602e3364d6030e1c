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

# Every field of `Signals`, in words that fit beside a picture.
_MEANINGS = {
    "q": "mean square of the value",
    "c": "cosine between the values of two inputs",
    "gradient": "mean square of the gradient",
    "apjn": "averaged partial Jacobian norm",
    "chi": "growth of a squared gradient",
}


def of_signals(signals: Signals) -> Results:
    """Average measured signals, each with its standard error over networks."""
    names, sizes = list(signals.points), list(signals.sizes)
    # No array named "point": networks of other depths have other names in its places.
    results = {
        "point_name": labelled(_POINT, names, "name of the point"),
        "point_size": labelled(_POINT, sizes, "entries at the point"),
    }
    for name in SIGNALS:
        by_seed = _by_seed(name, signals)
        mean = by_seed.mean(axis=0)
        error = _error(by_seed)
        results[name] = labelled(_POINT, mean, _MEANINGS[name])
        long_name = f"standard error of {name}"
        results[f"{name}_error"] = labelled(_POINT, error, long_name)
    return results


def _error(
    by_seed: Float[np.ndarray, "seeds points"],
) -> Float[np.ndarray, " points"]:
    """Return the standard error of the mean over seeds; NaN of one seed."""
    num_seeds = len(by_seed)
    if num_seeds == 1:
        return np.full(by_seed.shape[1:], np.nan)
    spread = by_seed.std(axis=0, ddof=1)
    return spread / np.sqrt(num_seeds)


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
            mean = _by_seed(name, predicted).mean(axis=0)
            by_point = dict(zip(predicted.points, mean, strict=True))
            # Theory may leave out points that were measured.
            known = [by_point.get(point, np.nan) for point in points]
            values = np.array(known)
        long_name = f"{_MEANINGS[name]}, by theory"
        results[f"theory_{name}"] = labelled(_POINT, values, long_name)
    return results


def _by_seed(name: str, signals: Signals) -> Float[np.ndarray, "seeds points"]:
    """Return a field averaged over the inputs of each network, or over their pairs."""
    field = getattr(signals, name)
    values = np.asarray(field, np.float64)
    num_seeds, num_inputs, *_, num_points = values.shape
    if name == "c":
        # The cosine of an input with itself is always one.
        values = values[:, ~np.eye(num_inputs, dtype=bool)]
    # One input has no pairs, whose mean would be one of nothing.
    if values.size == 0:
        return np.full((num_seeds, num_points), np.nan)
    return values.reshape(num_seeds, -1, num_points).mean(axis=1)
