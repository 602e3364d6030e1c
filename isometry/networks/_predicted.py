"""Predicted signals, put together from what theory knows at each point."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from isometry._internal import checks, kinds
from isometry.records import Signals
from isometry.structure import Anatomy

Gram: TypeAlias = Float[np.ndarray, "inputs inputs"]
PerInput: TypeAlias = Float[np.ndarray, " inputs"]

_AROUND = "not defined at points around which some path leads."
_NO_DIRECTION = "a value that is zero has no direction."


def signals(
    anatomy: Anatomy,
    grams: Mapping[str, Gram],
    apjn: Mapping[str, PerInput],
    *,
    reasons: Sequence[tuple[str, str]] = (),
) -> Signals:
    """Return the record that `isometry.signals` would measure, in the same order.

    Args:
        anatomy: The anatomy of the network.
        grams: At each point, mean products of the values of any two inputs.
        apjn: At each point, the squared Jacobian of the output over its size. Points
            without one have NaN.
        reasons: Pairs of a field and the reason why it may hold NaN. Those are kept
            that are needed.
    """
    end = anatomy.place("output")
    # The last layer may be the output itself, and is then reported once.
    # Tokens have no signals.
    points = [
        name
        for name in anatomy.points
        if kinds.is_floating(anatomy.shape(name))
        and (name == "output" or anatomy.place(name) != end)
    ]
    num_inputs = len(grams["output"])
    unknown = np.full(num_inputs, np.nan)
    growth = {}
    sizes = {}
    on_every_path = []
    for name in points:
        growth[name] = apjn.get(name, unknown)
        sizes[name] = math.prod(anatomy.shape(name).shape)
        if name == "output" or anatomy.cuts(name):
            on_every_path.append(name)
    # chi is a ratio at neighbouring points, and a path around one of them breaks it.
    bypassed: list[tuple[str, str]] = []
    if len(on_every_path) < len(points):
        bypassed.append(("chi", _AROUND))
    all_growth = np.stack(list(growth.values()))
    if not np.isnan(all_growth).any():
        # chi is NaN at the first point in any case, which needs no reason.
        reasons = [pair for pair in reasons if pair[0] != "chi"]
    return record(
        {name: grams[name] for name in points},
        growth,
        _chi(growth, on_every_path),
        sizes=sizes,
        reasons=[*reasons, *bypassed],
    )


def record(
    grams: Mapping[str, Gram],
    apjn: Mapping[str, PerInput],
    chi: Mapping[str, PerInput],
    *,
    sizes: Mapping[str, int],
    reasons: Sequence[tuple[str, str]],
) -> Signals:
    """Put the fields together, point by point, in the order of `grams`.

    Args:
        grams: As in `signals`.
        apjn: Likewise.
        chi: Ratios of apjn. Points without one have NaN.
        sizes: The number of entries at each point.
        reasons: As in `signals`.
    """
    points = tuple(grams)
    numbers = tuple(sizes[name] for name in points)
    num_inputs = len(grams[points[-1]])
    unknown = np.full(num_inputs, np.nan)
    squares, cosines, growths, ratios = [], [], [], []
    for name, gram in grams.items():
        squares.append(np.diag(gram))
        cosines.append(_cosines(gram))
        growths.append(apjn.get(name, unknown))
        ratios.append(chi.get(name, unknown))
    growth = np.stack(growths, axis=-1)
    fields = {
        "q": np.stack(squares, axis=-1),
        "c": np.stack(cosines, axis=-1),
        "gradient": growth / np.array(numbers),
        "apjn": growth,
        "chi": np.stack(ratios, axis=-1),
    }
    # A reason is given only for a field that does hold NaN.
    has_nan = {name: np.isnan(value).any() for name, value in fields.items()}
    found = [(name, reason) for name, reason in reasons if has_nan[name]]
    if has_nan["c"] and "c" not in dict(found):
        found.append(("c", _NO_DIRECTION))
    # In float64, as all of theory, whatever the x64 flag says.
    arrays = {}
    with jax.enable_x64(True):
        for name, value in fields.items():
            # There is one prediction for all seeds: a first axis of length 1.
            arrays[name] = checks.on_device(value[None])
    return Signals(
        q=arrays["q"],
        c=arrays["c"],
        gradient=arrays["gradient"],
        apjn=arrays["apjn"],
        chi=arrays["chi"],
        points=points,
        sizes=numbers,
        span=(points[0], points[-1]),
        reasons=tuple(found),
    )


def _cosines(gram: Gram) -> Gram:
    """Return the cosines of all pairs of inputs, NaN where a value is zero."""
    squares = np.diag(gram)
    has_direction = squares > 0
    squares = np.where(has_direction, squares, np.nan)
    lengths = np.sqrt(squares)
    cosines = gram / np.outer(lengths, lengths)
    # Rounding must not lead beyond ±1, nor part an input from itself.
    cosines = np.clip(cosines, -1.0, 1.0)
    own = np.where(has_direction, 1.0, np.nan)
    np.fill_diagonal(cosines, own)
    return cosines


def _chi(
    apjn: Mapping[str, PerInput],
    points: Sequence[str],
) -> dict[str, PerInput]:
    """Return apjn at the previous point of the same kind, divided by apjn here.

    Results of nonlinearities (":out") are one kind, all other points the other.

    Args:
        apjn: At each point.
        points: The points that are on every path, in order.
    """
    chi = {}
    latest: dict[bool, str] = {}
    for name in points:
        is_out = name.endswith(":out")
        if is_out in latest:
            before = latest[is_out]
            # Where the output does not move, there is no ratio.
            with np.errstate(divide="ignore", invalid="ignore"):
                chi[name] = apjn[before] / apjn[name]
        latest[is_out] = name
    return chi
