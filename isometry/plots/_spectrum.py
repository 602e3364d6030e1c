"""Picture `spectrum`: the singular values of one measurement."""

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import public
from isometry._internal.numerals import percent
from isometry.measure._histogram import masses
from isometry.measure._record import Spectrum
from isometry.plots._atoms import draw_masses
from isometry.plots._axis import LEAST_RANGE, LN10, Axis, log_floor, smooth_density
from isometry.plots._style import COLOURS, Edges, Line, require_axes, require_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

# Empty space right of the largest value, in decades.
_MARGIN = 0.1

# Points of a line: more than a screen has across a panel.
_POINTS = 400

# How far the axis of a quadrature goes below the floor, in decades: enough to see it.
_SHOWN_BELOW = 0.5


@public("plots.spectrum")
def spectrum(
    sp: Spectrum,
    ax: "Axes",
    *,
    bins: int | ArrayLike = 40,
    **style: object,
) -> "Axes":
    """Draw the density of log10 s, all matrices pooled.

    If the nodes are singular values, this is a histogram of the resolved ones that are
    in the bins; a number of bins covers all of them. The rest of the mass is drawn as
    bars left of it, with a name and a percentage: zeros, unresolved values (below the
    rounding floor), values that are not finite, and "outside", resolved values below or
    above all bins. Their scale is their own: the height of the Axes is all of the mass.
    The spectrum of another measurement may be drawn into the same Axes.

    For a quadrature ("lanczos"), whose nodes are not singular values, it is the smooth
    density with its 95 % band over probes. What it does not resolve is shaded, with the
    share of the mass there.

    Args:
        sp: The spectrum.
        ax: An Axes.
        bins: The number of bins, or their edges in log10 s. For a quadrature, the first
            and last edge are the range that is drawn.
        **style: Passed to `Axes.hist`, or to `Axes.plot` for a quadrature.

    Returns:
        `ax`.

    Raises:
        InputError: `sp` is not a Spectrum, or `ax` not an Axes; `bins` is neither a
            number nor increasing edges.
        TypeError: `sp` is traced.

    Example:
        >>> from matplotlib.figure import Figure
        >>> sp = isometry.Spectrum.of_jacobians(np.diag([10.0, 1.0, 0.0, 0.0]))
        >>> ax = plots.spectrum(sp, Figure().add_subplot(), bins=2)
        >>> float(sum(bar.get_height() * bar.get_width() for bar in ax.patches))
        0.5
        >>> [text.get_text() for text in ax.child_axes[0].texts]
        ['zeros 50 %']
    """
    checks.on_host("sp", sp)
    checks.instance("sp", sp, Spectrum)
    require_axes(ax)
    require_bins(bins)
    if sp.quadrature is None:
        _draw_values(sp, ax, bins=bins, style=style)
    else:
        _draw_quadrature(sp, ax, bins=bins, style=style)
    ax.set_xlabel("log$_{10}$ s")
    ax.set_ylabel("density")
    return ax


def _draw_values(
    sp: Spectrum,
    ax: "Axes",
    *,
    bins: int | ArrayLike,
    style: dict[str, Any],
) -> None:
    """Draw a histogram of the resolved values, and the mass of all others."""
    resolved = np.asarray(sp.resolved)
    logs = np.asarray(sp.log_values)[resolved] / LN10
    mass = np.asarray(sp.weights)[resolved]
    edges = np.asarray(bins)
    if np.ndim(bins) == 0:
        edges = _edges(logs, num_bins=int(edges))
    bin_of_value = np.searchsorted(edges, logs, "right") - 1
    bin_of_value = np.clip(bin_of_value, 0, len(edges) - 2)
    width_of_value = np.diff(edges)[bin_of_value]
    # Each bar is a density: its mass over its width.
    count = max(math.prod(sp.log_values.shape[:-1]), 1)
    heights = mass / count / width_of_value
    _, _, bars = ax.hist(logs, bins=list(edges), weights=heights, **style)
    # Without values there is no height to scale the axis by.
    if not logs.size:
        ax.update_datalim([(edges[0], 0), (edges[-1], 1)])
        ax.autoscale_view()
    # Of a single series, matplotlib returns its bars or its outline.
    bar = cast("list[Patch]", bars)[0]
    draw_masses(ax, masses(sp, edges), _colour(bar))


def _colour(bar: "Patch") -> str:
    """Return the opaque colour of a bar, which may be an outline alone."""
    # Imported here, because matplotlib is an extra.
    from matplotlib.colors import to_hex

    if bar.get_fill():
        return to_hex(bar.get_facecolor())
    return to_hex(bar.get_edgecolor())


def _edges(logs: Line, *, num_bins: int) -> Edges:
    """Return the edges of bins over all values of log10 s."""
    # Without values the axis shows the neighbourhood of isometry, s = 1.
    low = high = 0.0
    if logs.size:
        low = float(logs.min())
        high = float(logs.max())
    # Values that differ by rounding alone are one value for the reader.
    if high - low < LEAST_RANGE:
        middle = (low + high) / 2
        # In the middle of a bin, so that rounding does not move mass between bins.
        if num_bins % 2 == 0:
            middle += 0.5 / num_bins
        low = middle - 0.5
        high = middle + 0.5
    return np.linspace(low, high, num_bins + 1)


def _draw_quadrature(
    sp: Spectrum,
    ax: "Axes",
    *,
    bins: int | ArrayLike,
    style: dict[str, Any],
) -> None:
    """Draw the smooth density, its band, and the range that it does not resolve."""
    axis = Axis("s", "log")
    floor = log_floor(sp) / LN10
    low = floor - _SHOWN_BELOW
    high = float(np.max(np.asarray(sp.log_values[..., 0]))) / LN10 + _MARGIN
    if np.ndim(bins) > 0:
        low, high = np.asarray(bins, float)[[0, -1]]
    x = np.linspace(max(low, floor), high, _POINTS)
    band = smooth_density(sp, axis, x)
    # The style of the caller overrides these.
    line_style = {"color": COLOURS[0], "label": "smooth density", **style}
    (line,) = ax.plot(x, band.mean, **line_style)
    ax.fill_between(
        x,
        band.low,
        band.high,
        color=line.get_color(),
        alpha=0.25,
        lw=0,
        label="95 % over probes",
    )
    ax.set_ylim(bottom=0)
    # The edges of the caller may all be above the floor.
    if low < floor:
        ax.axvspan(low, floor, color="0.88", lw=0, zorder=0, label="not resolved")
        # The mass above is a sum, which rounding may take above 1.
        below = max(0.0, 1 - _mass_above(sp, axis, floor))
        ax.text(
            (low + floor) / 2,
            0.5,
            f"{percent(below)} below",
            transform=ax.get_xaxis_transform(),
            rotation=90,
            ha="center",
            va="center",
            fontsize=7,
        )
    ax.set_xlim(low, high)


def _mass_above(sp: Spectrum, axis: Axis, floor: float) -> float:
    """Return the mass of the smooth density above `floor`, to three digits."""
    top = float(np.max(np.asarray(sp.log_values[..., 0]))) / LN10 + _MARGIN
    x = np.linspace(floor, top, 10 * _POINTS)
    return float(np.trapezoid(smooth_density(sp, axis, x).mean, x))
