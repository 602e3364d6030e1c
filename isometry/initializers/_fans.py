"""fan_in and fan_out of a weight in any layout; the table of layouts is in the package's docstring."""

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from isometry import _checks

Axes = int | Sequence[int]

TWO_AXES = "fans need at least two. For a bias use initializers.zeros() or initializers.normal(std=...)."


class Layout(NamedTuple):
    """Which axes of a weight are its inputs, its outputs and its batch, and how many groups the outputs fall into."""

    in_axis: Axes = -2
    out_axis: Axes = -1
    batch_axis: Axes = ()
    groups: int = 1

    def changed(self) -> dict[str, Any]:
        """The fields that are not the default, for a repr."""
        same = {name for name, value in self._field_defaults.items() if _is(getattr(self, name), value)}
        return {name: value for name, value in self._asdict().items() if name not in same}


def _is(value: object, default: Axes) -> bool:
    """Equality that an array, wrongly given as an axis, does not make ambiguous."""
    return isinstance(value, int | tuple) and value == default


def axes_of(call: str, axis: Axes, rank: int, name: str) -> tuple[int, ...]:
    """`axis` as non-negative, distinct axes of an array with `rank` axes."""
    try:
        wanted = [operator.index(a) for a in (axis if isinstance(axis, Sequence) else (axis,))]
    except TypeError:
        raise _checks.InputError(f"{call}(): {name}={_checks.show(axis)} is not an axis or a tuple of axes.") from None
    found = tuple(a + rank if a < 0 else a for a in wanted)
    if any(not 0 <= a < rank for a in found) or len(set(found)) != len(found):
        raise _checks.InputError(
            f"{call}(): {name}={_checks.show(axis)} does not fit a shape of {rank} axes; "
            f"write distinct axes between {-rank} and {rank - 1}."
        )
    return found


def parts(
    call: str, shape: tuple[int, ...], in_axis: Axes, out_axis: Axes, batch_axis: Axes
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The input, output and batch axes of a weight, of which none is in two parts; what is in none is the window."""
    named = {"in_axis": in_axis, "out_axis": out_axis, "batch_axis": batch_axis}
    inputs, outputs, batch = (axes_of(call, axis, len(shape), name) for name, axis in named.items())
    if len({*inputs, *outputs, *batch}) != len(inputs + outputs + batch):
        written = ", ".join(f"{name}={axis}" for name, axis in named.items())
        raise _checks.InputError(f"{call}(): {written} share an axis of shape={shape}; an axis can play one part only.")
    return inputs, outputs, batch


def fans(
    call: str,
    shape: tuple[int, ...],
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
) -> tuple[int, int]:
    """(fan_in, fan_out): the size of `in_axis` or `out_axis` times the window; batch axes count in neither.

    A grouped weight stores the inputs of one group and the outputs of all. `groups` divides fan_out, which makes it the
    number of outputs that an input reaches; with groups=1 it is what torch and JAX take, who never divide.
    """
    axes = parts(call, shape, in_axis, out_axis, batch_axis)
    inputs, outputs, batch = (math.prod(shape[a] for a in part) for part in axes)
    _checks.integer(call, low=1, groups=groups)
    if outputs % groups:
        raise _checks.InputError(
            f"{call}(): groups={groups} does not divide the {outputs} outputs of shape={shape}; "
            "out_axis holds the outputs of all groups, in_axis the inputs of one."
        )
    window = math.prod(shape) // (inputs * outputs * batch)
    return inputs * window, outputs // groups * window
