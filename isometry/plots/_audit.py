"""Picture `audit`: spectra, laws and flags of each network, and how it trains."""

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from isometry._internal.errors import public
from isometry.plots._atoms import draw_masses
from isometry.plots._axis import LN10, Axis
from isometry.plots._ranks import REPORT, ranks
from isometry.plots._spectrum import spectrum
from isometry.plots._style import (
    COLOURS,
    SMALL,
    Edges,
    Line,
    literal,
    new_figure,
    num_letters,
    require_named,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from isometry.verdicts import Report

_MOST_COLUMNS = 4

# In inches: the width of the figure, which is that of a page, and the heights of a row
# of panels and of the panel of ranks with its legend.
_WIDTH = 7.2
_ROW_HEIGHT = 1.9
_RANKS_HEIGHT = 3.2

# Share of the resolved values of a spectrum that may be left of the axis. With ten
# times more the lower end of a histogram would be cut off; with ten times less a few
# small values would push all others into a corner.
_TAIL = 0.002

# Empty space beside the values, in decades.
_RANGE_MARGIN = 0.1

# The height of a panel in units of what is highest in it, as matplotlib leaves it.
_HEADROOM = 1.05

# The place of the triangles, in units of the height of the panel: below the frame.
_TRIANGLE_HEIGHT = 0.96

# Points.
_TITLE_SIZE = 8

# The height of a line of text, in units of the size of its letters.
_LINE_HEIGHT = 1.25

# Letters of the reason why there is no law: two lines of a panel.
_MOST_LETTERS = 56

_SPANS = {
    "end_to_end": {"color": COLOURS[0], "alpha": 0.65, "label": "end to end"},
    "hidden": {
        "histtype": "step",
        "color": COLOURS[1],
        "lw": 1.2,
        "label": "hidden layers",
    },
}


@public("plots.audit")
def audit(reports: Mapping[str, "Report"]) -> "Figure":
    """Draw an audit: a panel of spectra for each network, and one of gradient ranks.

    A panel has two histograms of singular values: end to end (filled) and of the hidden
    layers (outline). Zeros and unresolved values are bars at the left, as in
    `plots.spectrum`, and so are the values left of the axis, at most 0.2 % of those of
    a histogram. A line is the density of the law of the hidden layers, a stem one of
    its atoms, as high as the bar of its mass in one bin, and a black bar its zeros. A
    triangle marks where the line is higher than the panel. The dotted line is s = 1,
    isometry. Above a panel are the flags that are raised, and
    in grey why there is no law. All panels have the same horizontal axis; each has its
    own scale of density.

    Args:
        reports: Reports of audits by name, as `isometry.audit` gives for a mapping of
            networks.

    Returns:
        A figure.

    Raises:
        InputError: There are no reports by name.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> from types import SimpleNamespace
        >>> sp = isometry.Spectrum.of_jacobians(np.eye(4)[None, None])
        >>> report = SimpleNamespace(
        ...     flags={}, spectra={"end_to_end": sp}, probe=None, widths=None,
        ...     law=None, no_law="no law is known", verdict="clear")
        >>> figure = plots.audit({"identity": report})
        >>> figure.axes[0].get_title()
        'identity'
    """
    fields = (*REPORT, "law", "no_law", "verdict")
    require_named("reports", reports, kind="Report", fields=fields)
    # Few networks get wide panels, many a grid.
    num_columns = min(_MOST_COLUMNS, len(reports))
    num_rows = -(-len(reports) // num_columns)
    height = _ROW_HEIGHT * num_rows + _RANKS_HEIGHT
    figure = new_figure((_WIDTH, height))
    grid = figure.add_gridspec(
        num_rows + 1,
        num_columns,
        height_ratios=[_ROW_HEIGHT] * num_rows + [_RANKS_HEIGHT],
    )
    # The same bins everywhere, so that panels can be compared at a glance.
    edges = np.linspace(*_common_range(reports), 36)
    for index, (name, report) in enumerate(reports.items()):
        row, column = divmod(index, num_columns)
        ax = figure.add_subplot(grid[row, column])
        _draw_panel(ax, report, edges)
        _write_header(ax, report, name, width=0.9 * _WIDTH / num_columns)
        if column > 0:
            ax.set_ylabel("")
        has_panel_below = index + num_columns < len(reports)
        if has_panel_below:
            ax.set_xlabel("")
    _share_limits(figure.axes)
    _common_legend(figure)
    _draw_ranks(figure.add_subplot(grid[num_rows, :]), reports)
    return figure


def _common_legend(figure: "Figure") -> None:
    """Write each label once, above all panels."""
    by_label = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        by_label.update(zip(labels, handles, strict=True))
    figure.legend(
        by_label.values(),
        by_label.keys(),
        loc="outside upper center",
        ncols=5,
        fontsize=SMALL,
        frameon=False,
    )


def _share_limits(panels: "list[Axes]") -> None:
    """Give all panels the same horizontal axis, wide enough for every bar of zeros."""
    limits = np.array([ax.get_xlim() for ax in panels])
    for ax in panels:
        ax.set_xlim(limits[:, 0].min(), limits[:, 1].max())


def _draw_ranks(ax: "Axes", reports: Mapping[str, "Report"]) -> None:
    """Draw the picture `ranks` in the last row, with a legend below it."""
    ranks(reports, ax)
    _small_letters(ax)
    # A legend of many networks would cover the lines.
    if ax.lines:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
        ax.legend(fontsize=SMALL, ncols=4, frameon=False, **below)
    else:
        middle = {"transform": ax.transAxes, "ha": "center"}
        ax.text(0.5, 0.5, "no training probe", **middle)


def _small_letters(ax: "Axes") -> None:
    """Set the size of ticks and labels."""
    ax.tick_params(labelsize=SMALL)
    ax.xaxis.label.set_fontsize(SMALL + 0.5)
    ax.yaxis.label.set_fontsize(SMALL + 0.5)


def _common_range(reports: Mapping[str, "Report"]) -> tuple[float, float]:
    """Return the range of log10 s that all panels share."""
    # Isometry is always in the range.
    low = -0.5
    high = 0.3
    for report in reports.values():
        for sp in report.spectra.values():
            resolved = np.asarray(sp.resolved)
            logs = np.asarray(sp.log_values, float)[resolved] / LN10
            if not logs.size:
                continue
            # Of each spectrum for itself: of all together, a small network could lose
            # all of its values.
            lowest = np.quantile(logs, _TAIL, method="lower")
            low = min(low, float(lowest) - _RANGE_MARGIN)
            high = max(high, float(logs.max()) + _RANGE_MARGIN)
    return low, high


def _draw_panel(ax: "Axes", report: "Report", edges: Edges) -> None:
    """Draw the measured spectra of one network, and its law, over log10 s."""
    if not report.spectra:
        ax.set_xlim(edges[0], edges[-1])
        ax.set_yticks([])
        _small_letters(ax)
        centred = {"transform": ax.transAxes, "ha": "center", "va": "center"}
        ax.text(0.5, 0.5, "not measured", fontsize=SMALL, **centred)
        return
    for span, style in _SPANS.items():
        if span in report.spectra:
            spectrum(report.spectra[span], ax, bins=edges, **style)
    ax.axvline(0, color="black", ls=":", lw=0.9, label="s = 1 (isometry)")
    _draw_law(ax, report, edges)
    ax.locator_params(axis="y", nbins=4)
    ax.locator_params(axis="x", nbins=6, integer=True)
    _small_letters(ax)


def _write_header(ax: "Axes", report: "Report", name: str, *, width: float) -> None:
    """Write above a panel the network's name, its raised flags and why it has no law.

    Args:
        ax: The panel.
        report: The report of its network.
        name: The name of the network.
        width: The width of the panel in inches.
    """
    most_letters = num_letters(width)
    height = _LINE_HEIGHT * SMALL
    offset = 3.0
    # From the axes upwards.
    blocks = ((_no_law(report), "0.35"), (", ".join(_flags(report)), "#A00000"))
    for words, colour in blocks:
        if not words:
            continue
        lines = textwrap.wrap(words, most_letters, break_long_words=False)
        ax.annotate(
            literal("\n".join(lines)),
            (0, 1),
            xytext=(0, offset),
            xycoords="axes fraction",
            textcoords="offset points",
            va="bottom",
            fontsize=SMALL,
            linespacing=1.1,
            color=colour,
            # The title reserves the height. A long word may reach beyond the panel,
            # which is to stay as wide as the others.
            in_layout=False,
        )
        offset += height * len(lines)
    ax.set_title(literal(name), fontsize=_TITLE_SIZE, pad=offset + 1)


def _flags(report: "Report") -> list[str]:
    """Return the names of the raised flags, or "undecided" where one may be."""
    raised = [flag.name for flag in report.flags.values() if flag.raised]
    if not raised and report.verdict != "clear":
        raised = ["undecided"]
    return raised


def _no_law(report: "Report") -> str:
    """Return in a few words why there is no law, "" if there is one."""
    if report.law is not None:
        return ""
    # After the colon there is often advice, which is in the report. Before it there may
    # be nothing but "no law".
    reason, _, _ = report.no_law.partition(": there is")
    return textwrap.shorten(reason, _MOST_LETTERS, placeholder=" ...")


def _draw_law(ax: "Axes", report: "Report", edges: Edges) -> None:
    """Draw the law of the hidden layers, if there is one.

    An atom is a stem, as high as the bar of its mass in one bin. The atom at zero is a
    bar beside those of the measured zeros. The density may diverge at an edge of its
    support, so the panel is only as high as the measured bars and the atoms.
    """
    if report.law is None:
        return
    draw_masses(ax, {"zeros predicted": report.law.zero_mass}, "black")
    top = ax.get_ylim()[1]
    bin_width = edges[1] - edges[0]
    for atom in report.law.atoms:
        if atom.lam > 0:
            place = math.log10(atom.lam) / 2
            height = atom.mass / bin_width
            ax.plot([place, place], [0, height], color="black", lw=1, marker="_")
            top = max(top, _HEADROOM * height)
    x = np.linspace(edges[0], edges[-1], 301)
    density = Axis("s", "log").law_density(report.law, x)
    ax.plot(x, density, color="black", lw=1, label="hidden layers, predicted")
    ax.set_ylim(0, top)
    is_higher = density > top
    if is_higher.any():
        _draw_triangles(ax, x, is_higher)


def _draw_triangles(ax: "Axes", x: Line, is_higher: Bool[np.ndarray, " x"]) -> None:
    """Mark the middle of each range of x in which the line is above the panel."""
    indices = np.flatnonzero(is_higher)
    # A range ends where the next index is not the next point.
    ends = np.flatnonzero(np.diff(indices) > 1) + 1
    middles = [x[run].mean() for run in np.split(indices, ends)]
    ax.plot(
        middles,
        np.full(len(middles), _TRIANGLE_HEIGHT),
        transform=ax.get_xaxis_transform(),
        color="black",
        marker="^",
        ms=3,
        ls="none",
        label="beyond the panel",
    )
