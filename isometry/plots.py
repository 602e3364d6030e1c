"""Pictures. Each takes an Axes, draws, and returns it; nothing is saved and no global setting is touched."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from isometry import _checks
from isometry._spectrum import Spectrum
from isometry.degeneracy import Records, Report

# Okabe and Ito's colours: told apart by readers of any colour vision, and in grey by their marks
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
_LN10 = math.log(10)


def spectrum(sp: Spectrum, ax: Any, *, bins: Any = 40, **style: Any) -> Any:
    """Histogram of log10 s of all matrices of `sp` pooled: probability density, mass 1 − zero fraction.

    Unresolved values are not drawn as data; the zeros are the mass that is missing. `style` goes to `Axes.hist`.
    """
    _checks.concrete("plots.spectrum", sp=sp)
    resolved = np.asarray(sp.resolved)
    logs, mass = np.asarray(sp.log_values)[resolved] / _LN10, np.asarray(sp.weights)[resolved]
    edges = np.histogram_bin_edges(logs, bins=bins) if np.ndim(bins) == 0 else np.asarray(bins)
    widths = np.diff(edges)[np.clip(np.searchsorted(edges, logs, "right") - 1, 0, len(edges) - 2)]
    count = max(math.prod(sp.log_values.shape[:-1]), 1)
    ax.hist(logs, bins=edges, weights=mass / count / widths, **style)
    ax.set_xlabel("log$_{10}$ s")
    ax.set_ylabel("density")
    return ax


def ranks(reports: Mapping[str, Report], ax: Any) -> Any:
    """Rank of the accumulated gradient of the middle hidden layer against training steps, a line a network.

    The dashed line is the input dimension. Where partial identity was followed at several widths, each is marked.
    """
    bound = 0
    for i, (name, report) in enumerate(reports.items()):
        probe = report.probe
        if probe is None or not probe.layers:
            continue
        bound = report.flags["rank_constrained_training"].evidence["input_dimension"]
        middle = len(probe.layers) // 2
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        shown = probe.gradient_rank[:, :, middle]
        label = f"{name} (W$_{{{probe.layers[middle] + 1}}}$, {probe.shapes[middle][0]}×{probe.shapes[middle][1]})"
        staggered = (i % 4, 4)  # so that the marks of coinciding lines do not hide each other
        ax.plot(
            probe.steps,
            np.median(shown, 0),
            color=colour,
            marker=mark,
            markevery=staggered,
            ms=4.5,
            lw=1.2,
            label=label,
        )
        ax.fill_between(probe.steps, shown.min(0), shown.max(0), color=colour, alpha=0.2, lw=0)
        if report.widths is not None:
            for (width, found), style in zip(report.widths["gradient_rank"].items(), (":", "--", "-."), strict=True):
                line = found[:, min(middle, found.shape[1] - 1)]
                ax.plot(report.widths["steps"], line, color="black", ls=style, lw=1, label=f"{name}, width {width}")
    if bound:
        ax.axhline(bound, color="#D00000", ls="--", lw=1, label=f"input dimension N$_x$ = {bound}")
    ax.set_xlabel("training step")
    ax.set_ylabel("rank of accumulated gradient")
    ax.set_ylim(bottom=0)
    return ax


def timeline(records: Records, ax: Any) -> Any:
    """The statistics that `isometry.monitor` recorded against training steps, a line each; the band is over inputs.

    Logarithmic where everything drawn is positive. What is not finite is left out.
    """
    positive = True
    for i, name in enumerate(records.values):
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        values = records.values[name].reshape(len(records), -1)
        drawn = np.isfinite(values).all(1)
        steps, values = records.steps[drawn], values[drawn]
        positive &= bool((values > 0).all())
        ax.plot(steps, values.mean(1), color=colour, marker=mark, ms=3.5, lw=1.2, label=name)
        if values.shape[1] > 1:
            ax.fill_between(steps, values.min(1), values.max(1), color=colour, alpha=0.2, lw=0)
    if positive and len(records):
        ax.set_yscale("log")
    if records.missed:
        ax.set_title(f"the buffer was full: {records.missed} later records are missing", fontsize=8)
    ax.set_xlabel("training step")
    ax.set_ylabel("statistic of the Jacobian")
    return ax


def audit(reports: Mapping[str, Report]) -> Any:
    """The audit's figure: a small panel a network with its singular values, and the ranks along the probe.

    Filled: end to end; outline: over the hidden layers. The dotted line is s = 1, isometry.
    """
    pyplot = _checks.extra("plots.audit", "matplotlib.figure", "plot")
    columns = min(4, len(reports))
    rows = -(-len(reports) // columns)
    figure = pyplot.Figure(figsize=(max(7.2, 2.0 * columns), 1.75 * rows + 3.5), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1.75] * rows + [2.6])
    low, high = _common_range(reports)
    edges = np.linspace(low, high, 36)
    for i, (name, report) in enumerate(reports.items()):
        ax = figure.add_subplot(grid[i // columns, i % columns])
        _small_panel(ax, name, report, edges)
        if i % columns:
            ax.set_ylabel("")
        if i // columns < rows - 1 and i + columns < len(reports):
            ax.set_xlabel("")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=7, frameon=False
    )
    below = figure.add_subplot(grid[rows, :])
    ranks(reports, below)
    below.tick_params(labelsize=7)
    below.xaxis.label.set_size(8)
    below.yaxis.label.set_size(8)
    if below.lines:
        below.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    else:
        below.text(0.5, 0.5, "no training probe", transform=below.transAxes, ha="center")
    return figure


def _common_range(reports: Mapping[str, Report]) -> tuple[float, float]:
    found = [
        np.asarray(sp.log_values)[np.asarray(sp.resolved)] / _LN10
        for r in reports.values()
        for sp in r.spectra.values()
    ]
    logs = np.concatenate([*found, np.zeros(1)])
    low, high = np.quantile(logs, [0.002, 1.0])
    return min(low - 0.1, -0.5), max(high + 0.1, 0.3)


def _small_panel(ax: Any, name: str, report: Report, edges: np.ndarray) -> None:
    for span, style in (
        ("end_to_end", {"color": COLOURS[0], "alpha": 0.65, "label": "end to end"}),
        ("hidden", {"histtype": "step", "color": COLOURS[1], "lw": 1.2, "label": "hidden layers"}),
    ):
        if span in report.spectra:
            spectrum(report.spectra[span], ax, bins=edges, **style)
    ax.axvline(0, color="black", ls=":", lw=0.9, label="s = 1 (isometry)")
    zeros = float(np.mean(report.spectra["end_to_end"].zero_fraction()))
    raised = [flag.name for flag in report.flags.values() if flag.raised]
    words = ([f"zeros {100 * zeros:.2g} %"] if zeros else []) + (
        raised or ([] if report.verdict == "clear" else ["undecided"])
    )
    ax.text(0.03, 0.95, "\n".join(words), transform=ax.transAxes, va="top", fontsize=5.5, color="#A00000")
    ax.set_title(name, fontsize=8)
    ax.tick_params(labelsize=6.5)
    ax.set_yticks([])
    ax.xaxis.label.set_size(7)
    ax.yaxis.label.set_size(7)
    ax.set_ylim(top=ax.get_ylim()[1] * 1.25)
