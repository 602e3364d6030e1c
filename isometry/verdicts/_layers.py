"""The per-layer table of a report."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isometry._internal import numerals, texts
from isometry.certificates import LayerLock
from isometry.measure._known import log_median
from isometry.verdicts._flag import Flag
from isometry.verdicts._measured import Measured

_HEADINGS = ("layer", "shape", "q", "chi", "gradient", "distinct", "never", "flags")

# Characters of a name in the table; longer ones lose their middle.
_NAME = 22


@dataclass(frozen=True)
class LayerRow:
    """One row of the table: a weight layer. Numbers are medians over seeds and inputs.

    Attributes:
        layer: The name of the layer.
        shape: The shape of the weight.
        q: The mean square of the pre-activations.
        chi: The growth of a squared derivative from the point before; at the end of a
            residual block, over the block. What an average over positions takes away
            is put back.
        gradient: The norm of the loss gradient of the weight; 0 or inf where it leaves
            the range of float64.
        distinct: How many slices along each axis of the weight can ever differ: for
            each axis the least number of any certified seed.
        never_moves: The share of the entries that never move, the largest of any
            certified seed.
        flags: The raised flags that name this layer.
        log_gradient: ln of the norm of the gradient, which no range limits; by default
            that of `gradient`.
    """

    layer: str
    shape: tuple[int, ...]
    q: float | None
    chi: float | None
    gradient: float | None
    distinct: tuple[int, ...] | None
    never_moves: float | None
    flags: tuple[str, ...]
    log_gradient: float | None = None

    def log(self, field: str) -> float:
        """Return ln of a number: -inf of zero, NaN where it is not known.

        Args:
            field: "q", "chi" or "gradient".
        """
        if field == "gradient" and self.log_gradient is not None:
            return self.log_gradient
        value = getattr(self, field)
        if value is None:
            return math.nan
        with np.errstate(divide="ignore"):
            return float(np.log(value))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data for JSON."""
        return dataclasses.asdict(self)


def rows_of(
    measured: Measured,
    flags: Mapping[str, Flag],
) -> tuple[LayerRow, ...]:
    """Return a row for each weight layer, and for each slice of a stacked one."""
    if measured.not_finite:
        return ()
    norms = _gradients(measured)
    shapes = {layer.name: layer.shape for layer in measured.subject.anatomy.layers}
    locks: dict[str, list[LayerLock]] = {}
    for certificate in measured.certificates:
        for lock in certificate.layers:
            locks.setdefault(lock.name, []).append(lock)
    raised = [flag for flag in flags.values() if flag.raised]
    rows = []
    for name, log_norm in norms.items():
        # "blocks/fc[2]" is a slice of the stacked weight "blocks/fc".
        stack = name.rpartition("[")[0]
        row = LayerRow(
            layer=name,
            shape=shapes.get(name, shapes.get(stack, ())),
            q=_at(measured, name, "q"),
            chi=_chi(measured, name),
            gradient=_exp(log_norm),
            log_gradient=log_norm,
            distinct=None,
            never_moves=None,
            flags=tuple(flag.name for flag in raised if name in flag.where),
        )
        rows.append(_with_locks(row, locks.get(name, [])))
    return tuple(rows)


def _with_locks(
    row: LayerRow,
    locks: Sequence[LayerLock],
) -> LayerRow:
    """Return the row with the least `distinct` and most `never_moves` of any seed.

    Args:
        row: The row of one layer.
        locks: What the certificate of each certified seed says of the layer.
    """
    # Without a certificate nothing is known of locks.
    if not locks:
        return row
    # One seed may have few rows that differ, and another few columns.
    by_axis = zip(*(lock.distinct for lock in locks), strict=True)
    return dataclasses.replace(
        row,
        shape=tuple(locks[0].shape),
        distinct=tuple(min(numbers) for numbers in by_axis),
        never_moves=max(lock.never_moves for lock in locks),
    )


def _gradients(measured: Measured) -> dict[str, float | None]:
    """Return ln of the norm of the gradient of each layer; None if it is not finite."""
    gradients = measured.gradients
    # NumPy refuses the median of an empty array.
    if not gradients.layers:
        return {}
    num_layers = len(gradients.layers)
    by_layer = np.reshape(gradients.log_norm, (-1, num_layers)).T
    logs = {}
    for name, of_layer in zip(gradients.layers, by_layer, strict=True):
        log_norm = float(log_median(of_layer))
        logs[name] = None if math.isnan(log_norm) else log_norm
    return logs


def _exp(log_value: float | None) -> float | None:
    """Return e^x; 0 or inf where it leaves the range of float64."""
    if log_value is None:
        return None
    with np.errstate(under="ignore", over="ignore"):
        return float(np.exp(log_value))


def _chi(
    measured: Measured,
    name: str,
) -> float | None:
    """Return the growth at a layer; at the last one of a block, of the whole block."""
    log_chi = measured.growth_by_layer.get(name)
    return None if log_chi is None else math.exp(log_chi)


def _at(
    measured: Measured,
    name: str,
    field: str,
) -> float | None:
    """Return the median of one field of the signals at a point; None if unknown."""
    sig = measured.signals
    if sig is None or name not in sig.points:
        return None
    values = np.asarray(getattr(sig.at(name), field), float)
    # The first point of a path has no chi.
    if np.isnan(values).any():
        return None
    return float(np.median(values))


def table(rows: Sequence[LayerRow]) -> str:
    """Return the rows as text, in lines that fit a screen."""
    return "\n".join(texts.aligned([_HEADINGS, *(_cells(row) for row in rows)]))


def _cells(row: LayerRow) -> tuple[str, ...]:
    """Return the cells of a row; where nothing is locked, the cell stays empty."""
    name = row.layer
    if len(name) > _NAME:
        half = _NAME // 2
        name = f"{name[: half - 1]}…{name[-half:]}"
    distinct = ""
    if row.distinct is not None and row.distinct != row.shape:
        distinct = "×".join(map(str, row.distinct))
    never = ""
    if row.never_moves:
        never = numerals.percent(row.never_moves)
    return (
        name,
        "×".join(map(str, row.shape)),
        _number(row, "q"),
        _number(row, "chi"),
        _number(row, "gradient"),
        distinct,
        never,
        " ".join(row.flags),
    )


def _number(row: LayerRow, field: str) -> str:
    log_value = row.log(field)
    return "" if math.isnan(log_value) else numerals.of_log(log_value)
