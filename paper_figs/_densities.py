"""Densities of singular values, as several figures draw them.

Marks are histograms of networks, lines are laws. A triangle is a point mass, at the
height that it has in the histogram.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from paper_figs import _style


class Histogram(NamedTuple):
    """A density by bins.

    Attributes:
        middle: The middle of each bin.
        height: The density in it, the mean over draws.
        error: The standard error of the height.
    """

    middle: Float[np.ndarray, " bins"]
    height: Float[np.ndarray, " bins"]
    error: Float[np.ndarray, " bins"]


def histogram(
    values: Float[np.ndarray, "draws n"],
    edges: Float[np.ndarray, " edges"],
) -> Histogram:
    """Count the values of each draw by bins.

    Args:
        values: The values of one draw a row. Those outside the bins have their share of
            the mass too.
        edges: The edges of equally wide bins, ascending.

    Returns:
        The density.
    """
    draws, n = values.shape
    # Errors come from the spread over draws, because values of one draw repel each
    # other: their counts vary less than independent counts would.
    counts = np.array([np.histogram(draw, edges)[0] for draw in values])
    heights = counts / n / _width(edges)
    return Histogram(
        middle=(edges[1:] + edges[:-1]) / 2,
        height=heights.mean(axis=0),
        error=heights.std(axis=0, ddof=1) / np.sqrt(draws),
    )


def _width(edges: Float[np.ndarray, " edges"]) -> float:
    return float(edges[1] - edges[0])


def draw_values(
    ax: Axes,
    values: Float[np.ndarray, "draws n"],
    edges: Float[np.ndarray, " edges"],
    *,
    i: int,
    label: str | None,
    size: float = 2.0,
) -> None:
    """Draw the density of measured values, with two standard errors.

    Args:
        ax: The axes.
        values: The values of one draw a row.
        edges: The edges of the bins.
        i: The number of the mark and the colour.
        label: What the legend says.
        size: That of the marks.
    """
    density = histogram(values, edges)
    # Empty bins have no place on a logarithmic axis.
    is_drawn = density.height > 0
    _style.dots(
        ax,
        density.middle[is_drawn],
        density.height[is_drawn],
        error=2 * density.error[is_drawn],
        i=i,
        label=label,
        ms=size,
        lw=0.5,
        capsize=0,
    )


def draw_law(
    ax: Axes,
    grid: Float[np.ndarray, " grid"],
    density: Float[np.ndarray, " grid"],
    *,
    i: int,
    label: str | None = None,
    dashes: str = "-",
) -> None:
    """Draw the density of a law where there is one.

    Args:
        ax: The axes.
        grid: Where the density is known.
        density: The density.
        i: The number of the colour.
        label: What the legend says.
        dashes: The style of the line.
    """
    shown = np.where(density > 0, density, np.nan)
    _style.line(ax, grid, y=shown, i=i, label=label, ls=dashes)


def draw_atom(
    ax: Axes,
    place: float,
    mass: float,
    *,
    edges: Float[np.ndarray, " edges"],
    i: int,
    size: float = 6.0,
) -> None:
    """Draw a point mass as a triangle.

    Args:
        ax: The axes.
        place: Where it is.
        mass: Its mass.
        edges: The edges of the bins that the values are drawn in.
        i: The number of the colour.
        size: That of the triangle.
    """
    ax.plot(
        place,
        # As high as a histogram that has all of it in one bin.
        mass / _width(edges),
        marker="v",
        color=_style.COLOURS[i % len(_style.COLOURS)],
        ms=size,
        mfc="none",
        zorder=4,
    )
