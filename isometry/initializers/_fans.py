"""fan_in and fan_out of a weight, and the matrix it acts as."""

import math
from collections.abc import Sequence

from isometry import _checks

Axes = int | Sequence[int]

TWO_AXES = "fans need at least two. For a bias use initializers.zeros() or initializers.normal(std=...)."


def axes_of(call: str, axis: Axes, rank: int, name: str) -> tuple[int, ...]:
    """`axis` as non-negative, distinct axes of an array with `rank` axes."""
    try:
        wanted = tuple(axis) if isinstance(axis, Sequence) else (axis,)
        found = tuple(a + rank if a < 0 else a for a in wanted)
    except TypeError:
        raise _checks.InputError(f"{call}(): {name}={_checks.show(axis)} is not an axis or a tuple of axes.") from None
    if any(not 0 <= a < rank for a in found) or len(set(found)) != len(found):
        raise _checks.InputError(f"{call}(): {name}={_checks.show(axis)} does not fit a shape of {rank} axes.")
    return found


def fans(
    call: str, shape: tuple[int, ...], in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()
) -> tuple[int, int]:
    """(fan_in, fan_out): the size of `in_axis` or `out_axis` times the window; batch axes count in neither."""
    rank = len(shape)
    groups = [
        axes_of(call, a, rank, n) for a, n in ((in_axis, "in_axis"), (out_axis, "out_axis"), (batch_axis, "batch_axis"))
    ]
    listed = [a for group in groups for a in group]
    if len(set(listed)) != len(listed):
        raise _checks.InputError(
            f"{call}(): in_axis={in_axis}, out_axis={out_axis}, batch_axis={batch_axis} overlap for shape={shape}."
        )
    sizes = [math.prod(shape[a] for a in group) for group in groups]
    window = math.prod(shape) // math.prod(sizes)
    return sizes[0] * window, sizes[1] * window
