"""Pictures. Each takes an Axes, draws, and returns it; nothing is saved and no global setting is touched.

Arguments that many of them share:

- `ax`: a matplotlib Axes, which is drawn on and returned. Functions without one return a figure of their own.
- `reports`: name → report of an audit, as `isometry.audit` gives for a mapping of networks.
"""

import math
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from isometry import _checks
from isometry._compare import meet
from isometry._ranks import at_atoms, below_floor, rounding
from isometry.degeneracy import Records, Report
from isometry.measure._record import Spectrum
from isometry.theory import Law

# Okabe and Ito's colours: told apart by readers of any colour vision, and in grey by their marks
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
_LN10 = math.log(10)
_TAIL = 1e-3  # of the mass at the low end that an axis need not reach


def spectrum(sp: Spectrum, ax: Any, *, bins: Any = 40, **style: Any) -> Any:
    """Histogram of log10 s of all matrices of `sp` pooled: probability density, mass 1 − zero fraction.

    Unresolved values are not drawn as data; the zeros are the mass that is missing. `bins`: their number, or
    their edges in log10 s. `style` goes to `Axes.hist`. A tracer is a `TypeError`.

    **Raises** `ValueError`: sp no Spectrum, ax no Axes; bins that are no number and do not rise.
    """
    call = "plots.spectrum"
    _checks.concrete(call, sp=sp)
    _checks.instance(call, Spectrum, sp=sp)
    _axes(call, ax)
    _bins(call, bins)
    resolved = np.asarray(sp.resolved)
    logs, mass = np.asarray(sp.log_values)[resolved] / _LN10, np.asarray(sp.weights)[resolved]
    edges = np.histogram_bin_edges(logs, bins=bins) if np.ndim(bins) == 0 else np.asarray(bins)
    widths = np.diff(edges)[np.clip(np.searchsorted(edges, logs, "right") - 1, 0, len(edges) - 2)]
    count = max(math.prod(sp.log_values.shape[:-1]), 1)
    ax.hist(logs, bins=edges, weights=mass / count / widths, **style)
    ax.set_xlabel("log$_{10}$ s")
    ax.set_ylabel("density")
    return ax


def overlay(
    spectrum: Spectrum, law: Law, ax: Any = None, *, variable: str = "s", scale: str = "log", bins: Any = 40
) -> Any:
    """What was measured (bars) under what is predicted (line): densities of mass 1, atoms apart.

    **Arguments**
    - `spectrum`, `law`: of the same span and number of pairs; all matrices of `spectrum` are pooled.
    - `ax`: an Axes; None makes one in a figure of its own (`ax.figure`, never shown or saved).
    - `variable`: "s" or "lam"; `scale`: "log", density over log10, or "linear".
    - `bins`: a number or the edges, in the units of the axis.

    Atoms are pairs of bars on a mass axis at the right, measured beside predicted, that at 0 left of the smallest
    value; with it counts what the measurement does not resolve. Dotted: edges of the support. Shaded: below the floor.

    **Raises** `ValueError`: a spectrum and a law that are not of the same thing; an unknown variable or scale.
    """
    call = "plots.overlay"
    _checks.concrete(call, spectrum=spectrum)
    _bins(call, bins)
    meet(call, spectrum, law)
    _checks.one_of(call, among=("s", "lam"), variable=variable)
    _checks.one_of(call, among=("log", "linear"), scale=scale)
    if ax is None:
        ax = _checks.extra(call, "matplotlib.figure", "plot").Figure(layout="constrained").add_subplot()
    _axes(call, ax)
    axis = _Axis(variable, scale)
    edges = _edges(spectrum, law, axis, bins)
    _continuous(ax, spectrum, law, axis, edges)
    _floor(ax, spectrum, axis, edges)
    _atom_bars(ax, spectrum, law, axis, edges)
    ax.set_xlabel(axis.label)
    ax.set_ylabel("density")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2, fontsize=7, frameon=False, borderaxespad=0)
    return ax


def laws(named: Mapping[str, Law]) -> Any:
    """A figure of predicted densities of log10 s, a line for each of the `named` laws; atoms are stems of their mass.

    Those stand on an axis of their own, at the right. The lowest thousandth of each continuous part is left out.

    **Raises** `MissingExtra`: matplotlib is not installed. `ValueError`: nothing to draw, or not of the kind named.
    """
    _named("plots.laws", Law, named=named)
    pyplot = _checks.extra("plots.laws", "matplotlib.figure", "plot")
    ax = pyplot.Figure(figsize=(4.4, 3.0), layout="constrained").add_subplot()
    axis = _Axis("s", "log")
    stems = []
    for i, (name, law) in enumerate(named.items()):
        colour, at_zero = COLOURS[i % len(COLOURS)], 1 - law.product.rank
        label = f"{name} (at 0: {at_zero:.3g})" if at_zero > 0 else name
        low = law.quantile(1 - law.product.rank * (1 - _TAIL), "log_s")
        x = np.linspace(axis.place(low), axis.place(law.quantile(1.0, "log_s")), 600)
        ax.plot(x, axis.density(law, x), color=colour, lw=1.3, ls=("-", "--", "-.")[i % 3], label=label)
        stems += [(axis.place(math.log(a.lam) / 2), a.mass, i) for a in law.atoms if a.lam > 0]
    if stems:
        right = ax.twinx()
        right.set_ylabel("mass of atoms")
        right.set_ylim(0, 1.15 * max(mass for _, mass, _ in stems))
        for place, mass, i in stems:
            right.plot(
                [place, place],
                [0, mass],
                color=COLOURS[i % len(COLOURS)],
                lw=2,
                marker=MARKS[i % len(MARKS)],
                markevery=[1],
            )
    ax.set_xlabel(axis.label)
    ax.set_ylabel("density")
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2, fontsize=8, frameon=False, borderaxespad=0)
    return ax.figure


def _axes(call: str, ax: Any) -> None:
    if not hasattr(ax, "set_xlabel"):
        raise _checks.InputError(
            f"{call}(): ax={_checks.show(ax)} is not an Axes; write plt.subplots()[1], for example."
        )


def _bins(call: str, bins: Any) -> None:
    """A number of bins, or edges that rise."""
    if np.ndim(bins) == 0:
        _checks.integer(call, low=1, bins=bins)
    elif len(bins) < 2 or not np.all(np.diff(np.asarray(bins, float)) > 0):
        raise _checks.InputError(f"{call}(): bins={_checks.show(bins)} are not edges; write two or more that rise.")


def _named(call: str, kind: type, **named: Any) -> None:
    """A mapping of names to at least one of this class."""
    for name, value in named.items():
        if not isinstance(value, Mapping) or not value:
            raise _checks.InputError(f'{call}(): {name}={_checks.show(value)} holds no names; write {{"name": ...}}.')
        _checks.instance(call, kind, **{f"{name}[{key!r}]": one for key, one in value.items()})


class _Axis(NamedTuple):
    """What is drawn along x."""

    variable: str
    scale: str

    @property
    def label(self) -> str:
        name = {"s": "singular value s", "lam": "λ = s²"}[self.variable]
        return name if self.scale == "linear" else {"s": "log$_{10}$ s", "lam": "log$_{10}$ λ"}[self.variable]

    def place(self, log_s: Any) -> Any:
        """Where ln s lies."""
        power = 2.0 if self.variable == "lam" else 1.0
        return power * log_s / _LN10 if self.scale == "log" else np.exp(power * log_s)

    def density(self, law: Law, x: Any) -> Any:
        """Of the law's continuous part, a unit of x."""
        if self.scale == "linear":
            return np.asarray(law.density(x, self.variable))
        rate = _LN10 / (2.0 if self.variable == "lam" else 1.0)
        return np.asarray(law.density(x * rate, "log_s")) * rate


def _edges(sp: Spectrum, law: Law, axis: _Axis, bins: Any) -> np.ndarray:
    """Bins over what is resolved and what is predicted; of the lowest end all but a thousandth."""
    if np.ndim(bins):
        return np.asarray(bins, float)
    resolved = np.asarray(sp.log_values)[np.asarray(sp.resolved)]
    rank = 1 - sum(a.mass for a in law.atoms if a.lam == 0)
    ends = [float(q) for q in law.quantile([1 - rank + _TAIL * rank, 1.0], "log_s")]
    if resolved.size:
        ends += [float(np.quantile(resolved, _TAIL)), float(resolved.max())]
    low, high = axis.place(max(min(ends), _highest_floor(sp))), axis.place(max(ends))
    low = low if axis.scale == "log" else 0.0
    margin = 0.05 * (high - low) or 0.1
    return np.linspace(low - margin * (axis.scale == "log"), high + margin, bins + 1)


def _continuous(ax: Any, sp: Spectrum, law: Law, axis: _Axis, edges: np.ndarray) -> None:
    """Histogram of what is resolved and at no atom, the law's density over it, the edges of its support."""
    kept = np.asarray(sp.resolved) & ~at_atoms(sp, law)
    x, mass = axis.place(np.asarray(sp.log_values, float)[kept]), np.asarray(sp.weights, float)[kept]
    count = math.prod(sp.log_values.shape[:-1])
    heights = np.histogram(x, edges, weights=mass)[0] / count / np.diff(edges)
    ax.stairs(heights, edges, fill=True, color=COLOURS[5], alpha=0.6, label="measured")
    fine = np.linspace(edges[0], edges[-1], 801)[1:-1]
    line = axis.density(law, fine)
    ax.plot(fine, line, color="black", lw=1.2, label="predicted")
    top = max(float(heights.max(initial=0)), float(np.quantile(line, 0.98)))
    ax.set_ylim(0, 1.1 * top or 1.0)  # a density that diverges at an edge would flatten everything else
    ax.set_xlim(edges[0], edges[-1])
    with np.errstate(divide="ignore"):
        ends = axis.place(np.log(np.array([e for band in law.support for e in band])) / 2)
    inside = ends[(ends > edges[0]) & (ends < edges[-1])]
    for i, end in enumerate(inside):
        ax.axvline(end, color="black", ls=":", lw=0.8, label=None if i else "edge of the support")


def _floor(ax: Any, sp: Spectrum, axis: _Axis, edges: np.ndarray) -> None:
    """Shade what some matrix does not resolve, if any of it is in sight."""
    floor = axis.place(_highest_floor(sp))
    if floor > edges[0] + 0.005 * (edges[-1] - edges[0]):
        ax.axvspan(edges[0], floor, color="0.85", lw=0, zorder=0, label="below the floor")


def _highest_floor(sp: Spectrum) -> float:
    return float(np.max(np.asarray(sp.log_values[..., 0] + sp.log_floor, float)))


def _atom_bars(ax: Any, sp: Spectrum, law: Law, axis: _Axis, edges: np.ndarray) -> None:
    """Masses on an axis of their own: measured beside predicted."""
    at_zero = float(np.mean(np.asarray(sp.zero_fraction())))
    predicted = {a.lam: a.mass for a in law.atoms}
    below = float(np.mean(below_floor(sp, law)))
    if not predicted and max(at_zero, below) < 0.5 / sp.size:
        return
    predicted[0.0] = below
    span = float(edges[-1] - edges[0])
    width, zero = 0.022 * span, edges[0] - 0.07 * span
    measured, weights = {0.0: at_zero}, np.asarray(sp.weights, float)
    here = np.where(at_atoms(sp, law), 2 * np.asarray(sp.log_values, float), np.nan)
    for lam in [lam for lam in predicted if lam > 0]:
        near = np.abs(here - math.log(lam)) <= rounding(sp, law)
        measured[lam] = float(np.where(near, weights, 0).sum(-1).mean())
    right = ax.twinx()
    right.set_ylabel("mass of atoms")
    right.set_ylim(0, 1.15 * max(*measured.values(), *predicted.values(), 1e-3))
    places = {lam: zero if lam == 0 else axis.place(math.log(lam) / 2) for lam in {**predicted, **measured}}
    for masses, side, colour, label in (
        (measured, -0.5, COLOURS[0], "atom, measured"),
        (predicted, 0.5, COLOURS[1], "atom, predicted"),
    ):
        x = [places[lam] + side * width for lam in masses]
        right.bar(x, list(masses.values()), width, color=colour)
        ax.bar(0, 0, 0, color=colour, label=label)  # for the legend: that of the other axis would hide
    if max(at_zero, below) > 0:
        ax.set_xlim(left=zero - 3 * width)
        right.text(zero, max(at_zero, below), "0", ha="center", va="bottom", fontsize=8)


def ranks(reports: Mapping[str, Report], ax: Any) -> Any:
    """Rank of the accumulated gradient of the middle hidden layer against training steps, a line a network.

    The dashed line is the input dimension. Where training was followed at several widths, each is marked.

    **Raises** `ValueError`: no reports by name; ax no Axes.
    """
    _named("plots.ranks", Report, reports=reports)
    _axes("plots.ranks", ax)
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
    """The statistics of `records`, taken by `isometry.monitor`, against training steps, a line each.

    The band is over inputs. Logarithmic where everything drawn is positive. What is not finite is left out.

    **Raises** `ValueError`: records no `Records`, ax no Axes.
    """
    _checks.instance("plots.timeline", Records, records=records)
    _axes("plots.timeline", ax)
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
    ax.legend(fontsize=7, frameon=False)
    return ax


def audit(reports: Mapping[str, Report]) -> Any:
    """The audit's figure: a small panel a network with its singular values, and the ranks along the probe.

    Filled: end to end; outline: over the hidden layers, the line its law where there is one, else why there is none.
    The dotted line is s = 1, isometry.

    **Raises** `MissingExtra`: matplotlib is not installed. `ValueError`: nothing to draw, or not of the kind named.
    """
    _named("plots.audit", Report, reports=reports)
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
    known = {label: h for ax in figure.axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known.keys(), loc="outside upper center", ncols=4, fontsize=7, frameon=False)
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


def _predicted(ax: Any, report: Report, edges: np.ndarray, lines: int) -> None:
    """The law of the hidden layers as a line, its atoms as stems of their mass over a bin; or why there is none, below
    so many lines of flags."""
    if report.law is None:
        why, top = textwrap.fill(report.no_law, 30), 0.92 - 0.08 * lines
        ax.text(0.03, top, why, transform=ax.transAxes, va="top", fontsize=5, color="0.35")
        return
    fine = np.linspace(edges[0], edges[-1], 301)
    line = _Axis("s", "log").density(report.law, fine)
    top = ax.get_ylim()[1]
    ax.plot(fine, np.minimum(line, top), color="black", lw=1, label="hidden layers, predicted")
    for atom in report.law.atoms:
        if atom.lam > 0:
            place = math.log10(atom.lam) / 2
            ax.plot([place, place], [0, min(atom.mass / (edges[1] - edges[0]), top)], color="black", lw=1, marker="_")


def _small_panel(ax: Any, name: str, report: Report, edges: np.ndarray) -> None:
    for span, style in (
        ("end_to_end", {"color": COLOURS[0], "alpha": 0.65, "label": "end to end"}),
        ("hidden", {"histtype": "step", "color": COLOURS[1], "lw": 1.2, "label": "hidden layers"}),
    ):
        if span in report.spectra:
            spectrum(report.spectra[span], ax, bins=edges, **style)
    ax.axvline(0, color="black", ls=":", lw=0.9, label="s = 1 (isometry)")
    zeros = float(np.mean(report.spectra["end_to_end"].zero_fraction())) if report.spectra else 0
    raised = [flag.name for flag in report.flags.values() if flag.raised]
    words = ([f"zeros {100 * zeros:.2g} %"] if zeros else []) + (
        raised or ([] if report.verdict == "clear" else ["undecided"])
    )
    _predicted(ax, report, edges, len(words))
    ax.text(0.03, 0.95, "\n".join(words), transform=ax.transAxes, va="top", fontsize=5.5, color="#A00000")
    ax.set_title(name, fontsize=8)
    ax.tick_params(labelsize=6.5)
    ax.set_yticks([])
    ax.xaxis.label.set_size(7)
    ax.yaxis.label.set_size(7)
    ax.set_ylim(top=ax.get_ylim()[1] * 1.25)
