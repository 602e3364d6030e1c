"""How all pictures look: a column's width, the same colours and marks as the library's own."""

import contextlib
from collections.abc import Iterator
from typing import Any

from isometry.plots import COLOURS as COLOURS
from isometry.plots import MARKS as MARKS

COLUMN = 3.4
"""Inches of a column of text."""
_RC: Any = {
    "font.size": 7,
    "axes.titlesize": 7,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3,
    "pdf.fonttype": 42,
}


@contextlib.contextmanager
def drawn() -> Iterator[None]:
    """The style, for what is drawn inside; nothing stays set."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        yield


def panels(rows: int = 1, columns: int = 1, *, height: float = 2.4, width: float = COLUMN, **sharing: Any) -> Any:
    """(figure, array of axes), panels of `width` × `height` inches; no window is opened."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **sharing)


def legend(figure: Any, ax: Any, *, ncols: int, **how: Any) -> None:
    """The legend of one panel, for all of them, above the panels: it covers nothing."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=ncols, **how)


def dots(ax: Any, x: Any, y: Any, error: Any, i: int, **how: Any) -> None:
    """Measured: the i-th mark in the i-th colour, with its error bars."""
    style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)], "ls": "none", "capsize": 1.5}
    ax.errorbar(x, y, error, **{**style, "lw": 0.8, "zorder": 2, **how})


def line(ax: Any, x: Any, y: Any, i: int, **how: Any) -> None:
    """Predicted: a line in the i-th colour, over the data."""
    ax.plot(x, y, **{"color": COLOURS[i % len(COLOURS)], "zorder": 3, **how})


def ticks(ax: Any, values: Any) -> None:
    """A logarithmic x axis that names these values and no others."""
    ax.set_xscale("log")
    ax.set_xticks([float(v) for v in values], [f"{float(v):g}" for v in values])
    ax.minorticks_off()
