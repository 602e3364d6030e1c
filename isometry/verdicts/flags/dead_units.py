"""The flag dead_units: units that no input moves, and that no training revives."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from isometry._internal.types import Key
from isometry.certificates._layers import EVIDENCE
from isometry.verdicts import _activity, _nulls
from isometry.verdicts._activity import Activity
from isometry.verdicts._flag import CLEAR, RAISED, UNDECIDED, Flag, undecided
from isometry.verdicts._measured import Measured
from isometry.verdicts._mode import mode_of_training
from isometry.verdicts._registry import flag

_SOURCE = (
    "binomial with the Gaussian orthant probability at the measured correlation, or of "
    "dead among one-sided units"
)
_CERTIFIED = "values that stay zero whatever is trained: certificate"
_REMEDY = (
    "smaller negative biases, a leaky activation, or weights that reach every unit "
    "(orthogonal, gaussian)"
)

# The most layers that are searched for units that are zero for ever. Each takes a
# second, as it compiles a program of its own.
_MOST_LAYERS = 3

# The null hypothesis is simulated for at most this many points, those with the largest
# shares of dead units. Each takes 50 ms, and a recurrent network has a point for each
# step, hundreds in all.
_MOST_SIMULATED = 32

# The most channels that a reason lists.
_LISTED = 6


@flag("dead_units", threshold="dead_level", rank=40, source=_SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether more units are dead at all inputs than chance explains.

    A unit is dead at an input if nothing downstream depends on it there: the slope of
    its nonlinearity is zero. A channel counts as one unit, dead if it is so at all
    positions. On few inputs healthy units may look dead, so the number of dead units of
    all seeds is compared with a quantile of their number by chance (see `_nulls`). The
    significance level of this test is divided among the layers. Units that a
    certificate shows to be zero for ever raise the flag whatever their number.
    """
    activity = measured.activity
    if not activity:
        evidence = {"inputs": measured.num_inputs, "layers": []}
        return Flag(
            "dead_units", CLEAR, "no hidden units", source=_SOURCE, evidence=evidence
        )
    # Bonferroni: the level is divided among the layers, and by two because each is
    # compared with two null hypotheses.
    level = 1 - (1 - measured.threshold("dead_level")) / len(activity) / 2
    shares = {name: one.is_dead.mean() for name, one in activity.items()}
    simulated = sorted(shares, key=lambda name: shares[name])[-_MOST_SIMULATED:]
    rows = []
    for i, (name, one) in enumerate(activity.items()):
        draw = jax.random.fold_in(key, i) if name in simulated else None
        rows.append(_row(i, name, one, level=level, key=draw))
    evidence: dict[str, Any] = {
        "inputs": measured.num_inputs,
        "layers": rows,
        "active_share_bound": 3 / measured.num_inputs,
    }
    certified = _certified(measured, evidence)
    if certified is not None:
        return certified
    rows = sorted(rows, key=_excess, reverse=True)
    worst = rows[0]
    wrong = _activity.lost(measured.subject, measured.thresholds)
    # If parameters were given, dead units are facts; if not, a matter of the draw.
    is_sure = measured.is_sure or not measured.subject.is_drawn
    judged = Flag(
        "dead_units",
        _state(worst, is_sure=is_sure),
        _reason(worst, activity[worst["point"]], measured),
        remedy=_REMEDY,
        value=worst["dead"] / worst["units"],
        threshold=worst["null_quantile"] / worst["units"],
        source=_SOURCE,
        evidence=evidence,
        where=tuple(row["point"] for row in rows if _excess(row) > 0),
    )
    if judged.state == UNDECIDED:
        return undecided(judged, measured.unsure)
    return undecided(judged, wrong) if wrong else judged


def _row(
    index: int,
    name: str,
    activity: Activity,
    *,
    level: float,
    key: Key | None,
) -> dict[str, Any]:
    """Return the evidence on one layer: its dead units, and how many chance explains.

    Without a key the simulated null hypothesis of `_nulls.dead_quantile` is left out.
    The other one, that a unit is as likely dead for z as for −z, then counts alone.
    """
    num_dead, num_units = int(activity.is_dead.sum()), activity.is_dead.size
    row: dict[str, Any] = {
        "layer": index + 1,
        "point": name,
        "dead": num_dead,
        "units": num_units,
        "null_probability": 0.0,
        "null_quantile": 0,
    }
    if not num_dead:
        return row
    # If all units may be dead by chance, this null hypothesis sets no limit.
    probability = 1.0
    if key is not None:
        probability = _nulls.dead_probability(
            activity.activation, activity.samples, key
        )
    num_mirrored = int(activity.is_mirrored.sum())
    quantile = _nulls.dead_quantile(
        num_units,
        num_dead,
        num_mirrored=num_mirrored,
        probability=probability,
        level=level,
    )
    return row | {
        "mirrored": num_mirrored,
        "null_probability": probability,
        "null_quantile": quantile,
        "channels": [np.flatnonzero(seed).tolist() for seed in activity.is_dead],
    }


def _excess(row: dict[str, Any]) -> float:
    """Return by how much the share of dead units exceeds what chance explains."""
    return (row["dead"] - row["null_quantile"]) / row["units"]


def _state(
    worst: dict[str, Any],
    *,
    is_sure: bool,
) -> str:
    """Return the state of the flag, which that of the worst layer decides."""
    if not is_sure:
        return UNDECIDED
    return RAISED if _excess(worst) > 0 else CLEAR


def _reason(
    worst: dict[str, Any],
    activity: Activity,
    measured: Measured,
) -> str:
    """Return in words how many units are dead; for a single seed also which."""
    noun = "channels" if activity.num_positions > 1 else "units"
    # A layer has as many units as one seed; those of all seeds are counted together.
    seeds = f" in {measured.num_seeds} seeds" if measured.num_seeds > 1 else ""
    reason = (
        f"{worst['dead']} of {worst['units']} {noun} of {worst['point']}{seeds} "
        f"have no slope at any of {measured.num_inputs} inputs"
        f"{mode_of_training(measured)}"
    )
    if worst["dead"] and _excess(worst) <= 0:
        reason += f"; chance alone gives up to {worst['null_quantile']}"
    elif worst["dead"] and measured.num_seeds == 1:
        reason += f": {_listed(worst['channels'][0])}"
    return reason


def _listed(numbers: list[int]) -> str:
    """Return the first of some numbers in words: "0, 3, 5, …"."""
    shown = [str(number) for number in numbers[:_LISTED]]
    if len(numbers) > _LISTED:
        shown.append("…")
    return ", ".join(shown)


def _certified(
    measured: Measured,
    evidence: dict[str, Any],
) -> Flag | None:
    """Return the flag of units that are zero for ever, or None if there are none."""
    by_point = _zero_for_ever(measured)
    counts = {point: int(is_zero.sum()) for point, is_zero in by_point.items()}
    shares = {point: counts[point] / by_point[point].size for point in by_point}
    worst = max(shares, key=lambda point: shares[point], default=None)
    if worst is None or not counts[worst]:
        return None
    numbers = {point: np.flatnonzero(one).tolist() for point, one in by_point.items()}
    evidence["certified"] = numbers
    return Flag(
        "dead_units",
        RAISED,
        f"{counts[worst]} of {by_point[worst].size} units of {worst} are dead at every "
        "step: no weight reaches them",
        remedy=_REMEDY,
        value=shares[worst],
        threshold=0,
        source=_CERTIFIED,
        evidence=evidence,
        where=tuple(point for point in counts if counts[point]),
    )


def _is_value_of(
    layer: str,
    point: str,
) -> bool:
    """Tell whether a point is the value of a layer: "cell", or "cell@3" at one step."""
    return point == layer or point.startswith(f"{layer}@")


def _zero_for_ever(measured: Measured) -> dict[str, Bool[np.ndarray, " channels"]]:
    """Return, by layer, which channels of the first seed are zero for ever."""
    found: dict[str, Bool[np.ndarray, " channels"]] = {}
    if not measured.certificates:
        return found
    certificate = measured.certificates[0]
    # Only a layer with entries that never move can have units that stay zero. A lock
    # whose grade is "evidence" is no proof; its dead units are compared with chance.
    locks = [
        lock
        for lock in certificate.layers
        if lock.never_moves > 0 and lock.grade != EVIDENCE
    ]
    points = measured.subject.anatomy.points
    layers = {layer.name: layer for layer in measured.subject.anatomy.layers}
    locks.sort(key=lambda lock: lock.never_moves, reverse=True)
    for lock in locks:
        steps = [name for name in measured.activity if _is_value_of(lock.name, name)]
        # A recurrence has a point for each step. The last one is enough: a unit that no
        # weight reaches is zero at all steps.
        behind = f"{steps[-1]}:out" if steps else ""
        if behind not in points:
            continue
        if len(found) == _MOST_LAYERS:
            break
        ids = certificate.units(behind).ids
        layer = layers.get(lock.name) or layers[lock.name.rpartition("[")[0]]
        num_channels = ids.shape[-1] if ids.ndim else 1
        # Each expert has units of its own, so with experts, or several axes of outputs,
        # every entry is a unit.
        if layer.batch_axes or len(layer.out_axes) > 1:
            num_channels = ids.size
        rows = ids.reshape(-1, num_channels)
        found[lock.name] = (rows == 0).all(0)
    return found
