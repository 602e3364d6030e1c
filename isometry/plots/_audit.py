"""Picture `audit`: spectra, laws and flags of each network, and how it trains."""

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from isometry._internal.errors import public
from isometry.plots._axis import LN10, Axis
from isometry.plots._ranks import REPORT, ranks
from isometry.plots._spectrum import spectrum
from isometry.plots._style import COLOURS, Edges, figures, require_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from isometry.verdicts import Report

_MOST_COLUMNS = 4

# In inches: width and height of a panel, the least width of the figure, and the height
# of the panel of ranks with its legend.
_PANEL = (2.0, 1.75)
_LEAST_WIDTH = 7.2
_RANKS_HEIGHT = 3.5

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
    layers (outline). A line is the law of the hidden layers; if there is none, the
    reason is written. The dotted line is s = 1, isometry.

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
    width = max(_LEAST_WIDTH, _PANEL[0] * num_columns)
    height = _PANEL[1] * num_rows + _RANKS_HEIGHT
    figure = figures().Figure(figsize=(width, height), layout="constrained")
    grid = figure.add_gridspec(
        num_rows + 1, num_columns, height_ratios=[_PANEL[1]] * num_rows + [2.6]
    )
    # The same bins everywhere, so that panels can be compared at a glance.
    edges = np.linspace(*_common_range(reports), 36)
    for index, (name, report) in enumerate(reports.items()):
        row, column = divmod(index, num_columns)
        ax = figure.add_subplot(grid[row, column])
        _draw_panel(ax, report, edges, title=name)
        if column > 0:
            ax.set_ylabel("")
        has_panel_below = index + num_columns < len(reports)
        if has_panel_below:
            ax.set_xlabel("")
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
        ncols=4,
        fontsize=7,
        frameon=False,
    )


def _draw_ranks(ax: "Axes", reports: Mapping[str, "Report"]) -> None:
    """Draw the picture `ranks` in the last row, with a legend below it."""
    ranks(reports, ax)
    ax.tick_params(labelsize=7)
    ax.xaxis.label.set_fontsize(8)
    ax.yaxis.label.set_fontsize(8)
    # A legend of many networks would cover the lines.
    if ax.lines:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
        ax.legend(fontsize=6.5, ncols=3, frameon=False, **below)
    else:
        middle = {"transform": ax.transAxes, "ha": "center"}
        ax.text(0.5, 0.5, "no training probe", **middle)


def _common_range(reports: Mapping[str, "Report"]) -> tuple[float, float]:
    """Return the range of log10 s that all panels share."""
    # Isometry is always in the range.
    logs = [np.zeros(1)]
    for report in reports.values():
        for sp in report.spectra.values():
            resolved = np.asarray(sp.resolved)
            logs.append(np.asarray(sp.log_values)[resolved] / LN10)
    # The few smallest values are left out: they would push all others into a corner.
    low, high = np.quantile(np.concatenate(logs), [0.002, 1.0])
    return min(low - 0.1, -0.5), max(high + 0.1, 0.3)


def _draw_panel(
    ax: "Axes",
    report: "Report",
    edges: Edges,
    *,
    title: str,
) -> None:
    """Draw the spectra and the law of one network, and write its raised flags."""
    for span, style in _SPANS.items():
        if span in report.spectra:
            spectrum(report.spectra[span], ax, bins=edges, **style)
    ax.axvline(0, color="black", ls=":", lw=0.9, label="s = 1 (isometry)")
    words = _words(report)
    _draw_law(ax, report, edges, num_lines=len(words))
    ax.text(
        0.03,
        0.95,
        "\n".join(words),
        transform=ax.transAxes,
        va="top",
        fontsize=5.5,
        color="#A00000",
    )
    ax.set_title(title, fontsize=8)
    ax.tick_params(labelsize=6.5)
    ax.set_yticks([])
    ax.xaxis.label.set_fontsize(7)
    ax.yaxis.label.set_fontsize(7)
    # Room for the words above the bars.
    ax.set_ylim(top=ax.get_ylim()[1] * 1.25)


def _words(report: "Report") -> list[str]:
    """Return what is written in a panel: the share of zeros, and the raised flags."""
    words = []
    if report.spectra:
        zeros = float(np.mean(report.spectra["end_to_end"].zero_fraction()))
        if zeros > 0:
            words.append(f"zeros {100 * zeros:.2g} %")
    raised = [flag.name for flag in report.flags.values() if flag.raised]
    if not raised and report.verdict != "clear":
        raised = ["undecided"]
    return words + raised


def _draw_law(
    ax: "Axes",
    report: "Report",
    edges: Edges,
    *,
    num_lines: int,
) -> None:
    """Draw the law of the hidden layers, or write why there is none.

    An atom is a stem, as high as the bar of its mass in one bin. A reason is written
    below the `num_lines` lines of text that are there already.
    """
    if report.law is None:
        ax.text(
            0.03,
            0.92 - 0.08 * num_lines,
            textwrap.fill(report.no_law, 30),
            transform=ax.transAxes,
            va="top",
            fontsize=5,
            color="0.35",
        )
        return
    x = np.linspace(edges[0], edges[-1], 301)
    top = ax.get_ylim()[1]
    line = np.minimum(Axis("s", "log").law_density(report.law, x), top)
    ax.plot(x, line, color="black", lw=1, label="hidden layers, predicted")
    bin_width = edges[1] - edges[0]
    for atom in report.law.atoms:
        if atom.lam > 0:
            place = math.log10(atom.lam) / 2
            height = min(atom.mass / bin_width, top)
            ax.plot([place, place], [0, height], color="black", lw=1, marker="_")
