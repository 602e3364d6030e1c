"""How all pictures look: a column's width, the same colours and marks as the library's own."""

import contextlib
from collections.abc import Iterator
from typing import Any

from isometry.plots import COLOURS as COLOURS
from isometry.plots import MARKS as MARKS

COLUMN = 3.4
"""Inches of a column of text."""
_RC = {
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


def panels(rows: int = 1, columns: int = 1, *, height: float = 2.4, **sharing: Any) -> tuple[Any, Any]:
    """(figure, array of axes), each panel a column wide at most two to a page; no window is opened."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(COLUMN * columns, 2.1 * COLUMN), height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **sharing)


def close(figure: Any) -> None:
    """Free what a picture holds."""
    figure.clear()
