"""Picture `timeline`: statistics during training."""

from typing import TYPE_CHECKING

import numpy as np

from isometry._internal.errors import public
from isometry.plots._style import colour, mark, require_axes, require_fields

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from isometry._monitor import Records


# The fields of records that are drawn.
_FIELDS = ("steps", "values", "missed")


@public("plots.timeline")
def timeline(records: "Records", ax: "Axes") -> "Axes":
    """Draw statistics against training steps, one line for each.

    A line is the mean over inputs; its band reaches from the smallest to the largest
    input. Records in which a statistic is not finite at some input are left out of its
    line. The axis is logarithmic if everything that is drawn is positive.

    Args:
        records: Records of `isometry.monitor`, with the fields `steps`, of shape
            (records,); `values`, which maps the name of each statistic to an array
            (records, inputs), or (records,) for a statistic of all inputs together; and
            `missed`, the number of records that were due when the buffer was full.
        ax: The Axes to draw on.

    Returns:
        `ax`.

    Raises:
        InputError: `records` lacks one of these fields; `ax` is not an Axes.

    Example:
        >>> import types
        >>> from matplotlib.figure import Figure
        >>> records = types.SimpleNamespace(
        ...     steps=np.array([0, 10]), missed=0,
        ...     values={"s_max": np.array([1.0, 2.0])})
        >>> ax = plots.timeline(records, Figure().add_subplot())
        >>> ax.get_yscale()
        'log'
    """
    require_fields("records", records, kind="Records", fields=_FIELDS)
    require_axes(ax)
    num_records = len(records.steps)
    # A logarithmic axis would hide the first statistic that is zero somewhere.
    is_positive = True
    for index, (name, taken) in enumerate(records.values.items()):
        values = taken.reshape(num_records, -1)
        # The mean is not finite if one input is not.
        is_drawn = np.isfinite(values).all(1)
        steps = records.steps[is_drawn]
        values = values[is_drawn]
        is_positive = is_positive and bool((values > 0).all())
        ax.plot(
            steps,
            values.mean(1),
            color=colour(index),
            marker=mark(index),
            ms=3.5,
            lw=1.2,
            label=name,
        )
        if values.shape[1] > 1:
            low = values.min(1)
            high = values.max(1)
            ax.fill_between(steps, low, high, color=colour(index), alpha=0.2, lw=0)
    if is_positive and num_records:
        ax.set_yscale("log")
    # Without this the end of training would seem to be the end of the records.
    if records.missed:
        title = f"the buffer was full: {records.missed} later records are missing"
        ax.set_title(title, fontsize=8)
    ax.set_xlabel("training step")
    ax.set_ylabel("statistic of the Jacobian")
    ax.legend(fontsize=7, frameon=False)
    return ax
