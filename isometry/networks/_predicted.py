"""Predicted signals, put together from what theory knows at each point."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from isometry._internal import checks
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
        if jnp.issubdtype(anatomy.shape(name).dtype, jnp.floating)
        and (name == "output" or anatomy.place(name) != end)
    ]
    unknown = np.full(len(grams["output"]), np.nan)
    growth = {name: apjn.get(name, unknown) for name in points}
    on_every_path = [name for name in points if name == "output" or anatomy.cuts(name)]
    bypassed: list[tuple[str, str]] = []
    if len(on_every_path) < len(points):
        bypassed.append(("chi", _AROUND))
    is_known = not any(np.isnan(values).any() for values in growth.values())
    if is_known:
        # chi is NaN at the first point in any case, which needs no reason.
        reasons = [pair for pair in reasons if pair[0] != "chi"]
    return record(
        {name: grams[name] for name in points},
        growth,
        _chi(growth, on_every_path),
        sizes={name: math.prod(anatomy.shape(name).shape) for name in points},
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
    unknown = np.full(len(grams[points[-1]]), np.nan)
    growth = np.stack([apjn.get(name, unknown) for name in points], axis=-1)
    fields = {
        "q": np.stack([np.diag(grams[name]) for name in points], axis=-1),
        "c": np.stack([_cosines(grams[name]) for name in points], axis=-1),
        "gradient": growth / np.array(numbers),
        "apjn": growth,
        "chi": np.stack([chi.get(name, unknown) for name in points], axis=-1),
    }
    found = [pair for pair in reasons if np.isnan(fields[pair[0]]).any()]
    if np.isnan(fields["c"]).any() and "c" not in dict(found):
        found.append(("c", _NO_DIRECTION))
    # In float64, as all of theory, whatever the x64 flag says.
    with jax.enable_x64(True):
        arrays = {name: checks.on_device(value[None]) for name, value in fields.items()}
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
    lengths = np.sqrt(np.where(squares > 0, squares, np.nan))
    cosines = np.clip(gram / np.outer(lengths, lengths), -1.0, 1.0)
    # Rounding must not part an input from itself.
    np.fill_diagonal(cosines, np.where(squares > 0, 1.0, np.nan))
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
            # Where the output does not move, there is no ratio.
            with np.errstate(divide="ignore", invalid="ignore"):
                chi[name] = apjn[latest[is_out]] / apjn[name]
        latest[is_out] = name
    return chi
