"""Predicted signals, put together from what theory knows at each point."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

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
    points = [
        name
        for name in anatomy.points
        if name == "output" or anatomy.place(name) != end
    ]
    num_inputs = len(grams["output"])
    unknown = np.full(num_inputs, np.nan)
    sizes = [int(np.prod(anatomy.shape(name).shape)) for name in points]
    growth = np.stack([apjn.get(name, unknown) for name in points], axis=-1)
    on_every_path = [name == "output" or anatomy.cuts(name) for name in points]
    fields = {
        "q": np.stack([np.diag(grams[name]) for name in points], axis=-1),
        "c": np.stack([_cosines(grams[name]) for name in points], axis=-1),
        "gradient": growth / np.array(sizes),
        "apjn": growth,
        "chi": _chi(growth, points, on_every_path),
    }
    # chi is NaN at the first point in any case, and of what needs no reason.
    needing = fields | {"chi": growth}
    found = [pair for pair in reasons if np.isnan(needing[pair[0]]).any()]
    if not all(on_every_path):
        found.append(("chi", _AROUND))
    if np.isnan(fields["c"]).any() and "c" not in dict(found):
        found.append(("c", _NO_DIRECTION))
    # In float64, as all of theory, whatever the x64 flag says.
    with jax.enable_x64(True):
        arrays = {name: jnp.asarray(value[None]) for name, value in fields.items()}
    return Signals(
        q=arrays["q"],
        c=arrays["c"],
        gradient=arrays["gradient"],
        apjn=arrays["apjn"],
        chi=arrays["chi"],
        points=tuple(points),
        sizes=tuple(sizes),
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
    apjn: Float[np.ndarray, "inputs points"],
    points: Sequence[str],
    on_every_path: Sequence[bool],
) -> Float[np.ndarray, "inputs points"]:
    """Return apjn at the previous point of the same kind, divided by apjn here.

    Results of nonlinearities (":out") are one kind, all other points the other. Points
    around which a path leads have none, and are the previous one of no point.
    """
    chi = np.full_like(apjn, np.nan)
    latest: dict[bool, int] = {}
    for i, name in enumerate(points):
        if not on_every_path[i]:
            continue
        is_out = name.endswith(":out")
        if is_out in latest:
            # Where the output does not move, there is no ratio.
            with np.errstate(divide="ignore", invalid="ignore"):
                chi[:, i] = apjn[:, latest[is_out]] / apjn[:, i]
        latest[is_out] = i
    return chi
