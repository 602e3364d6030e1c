"""Picture `timeline`: statistics during training."""

from typing import TYPE_CHECKING

import numpy as np

from isometry._internal.errors import public
from isometry.plots._style import (
    SMALL,
    colour,
    literal,
    mark,
    nested,
    require_axes,
    require_fields,
    size_in_inches,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from isometry._monitor import Records


# The fields of records that are drawn.
_FIELDS = ("steps", "values", "missed")

# Statistics of the same unit, which share a panel. Any other has its own.
_SHARES = ("zero_fraction", "exact_zero_fraction", "dead_units")
_RANKS = ("effective_rank", "stable_rank")
_GROUPS = (
    ("s_min", "s_median", "s_max"),
    ("mean_s2", "mean_s4"),
    _RANKS,
    _SHARES,
)

# Shares and ranks are read in absolute terms.
_LINEAR = (*_SHARES, *_RANKS)

# A logarithmic axis is for values that differ by this factor. Within a decade it would
# have no two labels of powers of ten.
_LOG_FACTOR = 10

# Of a line with more records only some have a mark, so that marks do not touch.
_MOST_MARKS = 12

# Points between an Axes and its title, for the legend.
_TITLE_PAD = 18

# The height of crosses, in units of the panel's, and their size in points: beyond the
# frame they would be on the ticks, and a row of larger ones would be a band.
_CROSS_HEIGHT = 0.05
_CROSS_SIZE = 3.5

# Inches for a tick of the vertical axis: below a third of it, labels would overlap.
_TICK_HEIGHT = 0.6

# Inches above a panel for its legend, and the most of the panel's height that it takes.
_LEGEND_HEIGHT = 0.2
_LEGEND_SHARE = 0.4


@public("plots.timeline")
def timeline(records: "Records", ax: "Axes") -> "Axes":
    """Draw statistics against training steps, one line for each.

    A line is the mean over inputs; its band reaches from the smallest to the largest
    input. Records in which a statistic is not finite at some input are not in its line;
    crosses at the bottom mark their steps.

    Statistics of one unit share a vertical axis: singular values, their moments, ranks,
    shares. If there are several units, `ax` is divided into panels, one above the
    other, with a height of half an inch or more for each to be legible. They are
    `ax.child_axes`, from the top, in the order of the records. A statistic that is not
    positive everywhere has a panel apart from those that are. Axes are logarithmic if
    the values are positive and span a decade, except those of ranks and shares.

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
        >>> values = {
        ...     "s_max": np.array([1.0, 20.0]), "stable_rank": np.array([4.0, 3.0])}
        >>> records = types.SimpleNamespace(
        ...     steps=np.array([0, 10]), missed=0, values=values)
        >>> ax = plots.timeline(records, Figure().add_subplot())
        >>> [panel.get_yscale() for panel in ax.child_axes]
        ['log', 'linear']
    """
    require_fields("records", records, kind="Records", fields=_FIELDS)
    require_axes(ax)
    groups = _groups(records)
    panels = [ax]
    if len(groups) > 1:
        panels = _panels(ax, num_panels=len(groups))
    for panel, names in zip(panels, groups, strict=False):
        _draw_group(panel, records, names)
    panels[-1].set_xlabel("training step")
    title_pad = None
    # Several units have no common name, and their legends are inside `ax`.
    if len(panels) == 1:
        ax.set_ylabel("statistic of the Jacobian")
        title_pad = _TITLE_PAD
    # Without this the end of training would seem to be the end of the records.
    if records.missed:
        title = f"the buffer was full: {records.missed} later records are missing"
        ax.set_title(title, fontsize=8, pad=title_pad)
    return ax


def _groups(records: "Records") -> list[list[str]]:
    """Return the names of the statistics of each panel."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for name in records.values:
        unit = name
        for names in _GROUPS:
            if name in names:
                unit = names[0]
        # On a common axis with large values a reader could not tell zero from small.
        is_apart = name not in _LINEAR and not _is_positive(records, name)
        groups.setdefault((unit, is_apart), []).append(name)
    return list(groups.values())


def _finite(records: "Records", name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return which records of a statistic are finite, and their values by input."""
    values = records.values[name].reshape(len(records.steps), -1)
    # The mean is not finite if one input is not.
    is_finite = np.asarray(np.isfinite(values).all(1))
    return is_finite, values[is_finite]


def _is_positive(records: "Records", name: str) -> bool:
    """Tell whether all finite values of a statistic are positive."""
    _, values = _finite(records, name)
    return bool((values > 0).all())


def _panels(ax: "Axes", *, num_panels: int) -> list["Axes"]:
    """Divide an Axes into panels with common steps, the first at the top."""
    ax.set_axis_off()
    _, height = size_in_inches(ax)
    slot = 1 / num_panels
    legend = min(_LEGEND_HEIGHT / height, _LEGEND_SHARE * slot)
    panels: list[Axes] = []
    for index in range(num_panels):
        bottom = 1 - (index + 1) * slot
        shared = panels[0] if panels else None
        panel = ax.inset_axes((0, bottom, 1, slot - legend), sharex=shared)
        is_last = index == num_panels - 1
        panel.tick_params(labelsize=SMALL, labelbottom=is_last)
        panels.append(panel)
    return panels


def _draw_group(ax: "Axes", records: "Records", names: list[str]) -> None:
    """Draw statistics of one unit, with a legend above them."""
    values = [_finite(records, name)[1].ravel() for name in names]
    drawn = np.concatenate(values)
    is_linear = any(name in _LINEAR for name in names)
    is_log = not is_linear and drawn.size > 0 and drawn.min() > 0
    if is_log and drawn.max() >= _LOG_FACTOR * drawn.min():
        ax.set_yscale("log")
    _, height = size_in_inches(ax)
    most_ticks = 3 + int(height / _TICK_HEIGHT)
    if ax.get_yscale() == "log":
        ax.locator_params(axis="y", numticks=most_ticks)
    else:
        ax.locator_params(axis="y", nbins=most_ticks)
    ax.yaxis.get_offset_text().set_fontsize(SMALL)
    every = list(records.values)
    for depth, name in enumerate(names):
        _draw_line(ax, records, name, index=every.index(name), depth=depth)
    # At the right, because at the left matplotlib writes the power of the ticks.
    ax.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1.0),
        borderaxespad=0.1,
        ncols=len(ax.get_legend_handles_labels()[1]),
        fontsize=SMALL,
        frameon=False,
        handlelength=2.4,
        handletextpad=0.4,
        columnspacing=0.9,
    )


def _draw_line(
    ax: "Axes", records: "Records", name: str, *, index: int, depth: int
) -> None:
    """Draw a statistic.

    Args:
        ax: Its panel.
        records: All records.
        name: Its name.
        index: Its index among all statistics.
        depth: How many lines of the panel are drawn below it.
    """
    is_finite, values = _finite(records, name)
    steps = records.steps[is_finite]
    style = {"color": colour(index), **nested(depth)}
    stride = -(-len(steps) // _MOST_MARKS) or 1
    mean = values.mean(1)
    style |= {"marker": mark(index), "label": literal(name)}
    ax.plot(steps, mean, markevery=stride, **style)
    if values.shape[1] > 1:
        low = values.min(1)
        high = values.max(1)
        ax.fill_between(steps, low, high, color=colour(index), alpha=0.2, lw=0)
    if is_finite.all():
        return
    missing = records.steps[~is_finite]
    ax.plot(
        missing,
        np.full(len(missing), _CROSS_HEIGHT * (1 + depth)),
        transform=ax.get_xaxis_transform(),
        color=colour(index),
        marker="x",
        ms=_CROSS_SIZE,
        ls="none",
        label="not finite",
    )
