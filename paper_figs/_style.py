"""How all pictures look: as wide as a column, in the library's colours and marks."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from isometry.plots import COLOURS as COLOURS
from isometry.plots import MARKS as MARKS

# Inches of a column of text.
COLUMN = 3.4

# Matplotlib names its settings in a type of its own, which is not public.
_SETTINGS: Any = {
    "font.size": 7,
    "axes.titlesize": 7,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3,
    # Text in a PDF stays text; the default, Type 3, is refused by some journals.
    "pdf.fonttype": 42,
}


@contextlib.contextmanager
def drawn() -> Iterator[None]:
    """Set the style for what is drawn inside, and set it back."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def panels(
    rows: int = 1,
    columns: int = 1,
    *,
    height: float = 2.4,
    width: float = COLUMN,
    **sharing: Any,
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its panels. No window is opened.

    Args:
        rows: How many panels stand one below another.
        columns: How many stand side by side.
        height: Of one panel, in inches.
        width: Of one panel, in inches.
        **sharing: Passed to `Figure.subplots`, such as `sharex`.

    Returns:
        The figure, and an array of Axes (rows, columns).
    """
    size = (width * columns, height * rows)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **sharing)


def legend(figure: Figure, ax: Axes, *, ncols: int, **how: Any) -> None:
    """Write the legend of one panel above all panels, where it covers nothing.

    Args:
        figure: The figure.
        ax: The panel whose labels are written.
        ncols: The number of columns.
        **how: Passed to `Figure.legend`.
    """
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=ncols, **how)


def dots(
    ax: Axes,
    x: ArrayLike,
    y: ArrayLike,
    error: ArrayLike | None,
    i: int,
    **how: Any,
) -> None:
    """Draw what was measured: marks with error bars.

    Args:
        ax: The panel.
        x: Where along x the marks are.
        y: Their heights.
        error: The lengths of their error bars, or None.
        i: The number of the series, which chooses the mark and the colour.
        **how: Passed to `Axes.errorbar`, over what is chosen here.
    """
    style: dict[str, Any] = {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKS[i % len(MARKS)],
        "ls": "none",
        "capsize": 1.5,
        "lw": 0.8,
        "zorder": 2,
    }
    ax.errorbar(x, y, error, **{**style, **how})


def line(ax: Axes, x: ArrayLike, y: ArrayLike, i: int, **how: Any) -> None:
    """Draw what is predicted: a line over the marks.

    Args:
        ax: The panel.
        x: Where along x the line has its points.
        y: Their heights.
        i: The number of the series, which chooses the colour.
        **how: Passed to `Axes.plot`, over what is chosen here.
    """
    style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "zorder": 3}
    ax.plot(x, y, **{**style, **how})


def ticks(ax: Axes, values: ArrayLike) -> None:
    """Make the x axis logarithmic, and name these values on it and no others.

    Args:
        ax: The panel.
        values: The values.
    """
    places = np.asarray(values, float)
    ax.set_xscale("log")
    ax.set_xticks(places, [f"{place:g}" for place in places])
    ax.minorticks_off()
