"""Pictures of the report: spectra with laws, numbers along depth, training."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float

from isometry._internal import numerals, svg
from isometry._internal.html import Html, element
from isometry.measure import _display, _histogram
from isometry.theory.freeprob import NotConverged
from isometry.theory.laws._display import zeros

if TYPE_CHECKING:
    from isometry.theory import Law
    from isometry.verdicts._probe import Probe
    from isometry.verdicts._report import Report

Line: TypeAlias = Float[np.ndarray, " x"]
Heights: TypeAlias = Float[np.ndarray, " bins"]
Edges: TypeAlias = _histogram.Edges

_LN10 = math.log(10)

# Bins and points of a law: about four pixels for a bin, and one for a point.
_NUM_BINS = 60
_POINTS = 241

# Range of log10 s that all panels show at least: s = 1, isometry, is in it.
_NARROWEST = (-0.5, 0.3)

# Share of the resolved values of a spectrum that may be left of the axis. With ten
# times more the lower end of a histogram would be cut off; with ten times less a few
# small values would push all others into a corner. They are named beside the panel.
_TAIL = 0.002

# Empty space beside the values, in decades.
_MARGIN = 0.1

# The height of a panel, in units of what is highest in it.
_HEADROOM = 1.05

# Mass of a law beyond the ends of the axis that is not shown, as it may be rounding. A
# thousand times more would hide a tenth of a percent of the values.
_LEAST_MASS = 1e-6

_SPANS = {"end_to_end": "end to end", "hidden": "hidden layers"}


def common_edges(reports: Iterable["Report"]) -> Edges:
    """Return the edges in log10 s of the bins that all networks' histograms share."""
    low, high = _NARROWEST
    for report in reports:
        for sp in report.spectra.values():
            # Quadrature nodes are no values.
            if not sp.knows_values:
                continue
            extent = _histogram.extent(sp, _TAIL)
            # There is none where no value is resolved.
            if extent is not None:
                low = min(low, extent[0] - _MARGIN)
                high = max(high, extent[1] + _MARGIN)
    return np.linspace(low, high, _NUM_BINS + 1)


def spectra(report: "Report", edges: Edges) -> tuple[Html | None, list[str]]:
    """Draw the spectra of a network, and the law of its hidden layers.

    Returns:
        The picture, None if there is nothing to draw; and what is not in it, in words.
    """
    words = []
    drawn = {}
    masses: tuple[svg.Mass, ...] = ()
    for index, (span, label) in enumerate(_SPANS.items()):
        sp = report.spectra.get(span)
        if sp is None:
            continue
        # What is no histogram is not drawn as one.
        if not sp.knows_values:
            words.append(f"{label}: {sp.why('density')}")
            continue
        drawn[span] = _histogram.heights(sp, edges)
        masses += _display.masses(sp, edges, index=index)
    if not report.spectra:
        words.append("no Jacobian was measured")
    if not drawn:
        return None, words
    if report.law is None:
        words.append(report.no_law)
    law = Predicted()
    if report.law is not None:
        try:
            law = _predicted(report.law, edges)
        except NotConverged as error:
            words.append(f"the law is not drawn: {error}")
    masses += law.masses
    tops = [float(heights.max()) for heights in drawn.values()]
    tops += [height for _, height in law.stems]
    panel = svg.Panel(
        x=(float(edges[0]), float(edges[-1])),
        y=(0.0, _HEADROOM * max(*tops, 1e-9)),
        masses=masses,
    )
    picture = panel.drawn(
        *_histograms(panel, drawn, edges),
        *_lines_of_law(panel, law),
        title=_in_words(report, drawn, edges=edges),
        x_label="s (dotted: s = 1, isometry)",
        x_ticks=svg.decades(*panel.x),
    )
    return picture, words


def _histograms(
    panel: svg.Panel, drawn: Mapping[str, Heights], edges: Edges
) -> list[Html]:
    """Return filled bars end to end, an outline of the hidden layers, and s = 1."""
    styles = {
        "end_to_end": {"fill": svg.colour(0), "fill_opacity": "0.55"},
        "hidden": {"fill": "none", "stroke": svg.colour(1), "stroke_width": "1.4"},
    }
    parts = []
    for span, heights in drawn.items():
        parts.append(panel.bars(edges, heights, **styles[span]))
    dots = {"stroke": "currentColor", "stroke_dasharray": "1.5 2.5"}
    return [*parts, panel.stem(0.0, panel.y[1], **dots)]


@dataclass(frozen=True)
class Predicted:
    """What is drawn of a law.

    Attributes:
        density: Its density of log10 s, along the panel; None where there is no law.
        stems: The place and height of each atom off zero, as high as a bar of its mass.
        masses: Bars of its mass at zero and beyond the ends of the panel, if any.
    """

    density: Line | None = None
    stems: tuple[tuple[float, float], ...] = ()
    masses: tuple[svg.Mass, ...] = ()


def _predicted(law: "Law", edges: Edges) -> Predicted:
    """Return what is drawn of a law.

    Raises:
        NotConverged: The law misses its residual.
    """
    x = np.linspace(edges[0], edges[-1], _POINTS)
    width = float(edges[1] - edges[0])
    atoms = [atom for atom in law.atoms if atom.lam > 0]
    bars = [
        svg.Mass(f"law: {mass.name}", mass.share, mass.colour, is_solid=True)
        for mass in zeros(law, "currentColor")
    ]
    below = float(law.cdf(edges[0] * _LN10, "log_s")) - law.zero_mass
    outside = below + float(law.survival(edges[-1] * _LN10, "log_s"))
    if outside > _LEAST_MASS:
        name = f"law: outside {numerals.percent(outside)}"
        bars.append(svg.Mass(name, outside, "currentColor", is_solid=False))
    return Predicted(
        density=np.asarray(law.density(x * _LN10, "log_s")) * _LN10,
        stems=tuple((math.log10(atom.lam) / 2, atom.mass / width) for atom in atoms),
        masses=tuple(bars),
    )


def _lines_of_law(panel: svg.Panel, law: Predicted) -> list[Html]:
    """Return the line of a law, its atoms, and triangles where it leaves the panel."""
    style = {"stroke": "currentColor", "stroke_width": "1.4"}
    inside = [stem for stem in law.stems if panel.x[0] <= stem[0] <= panel.x[1]]
    parts = [panel.stem(*stem, **style) for stem in inside]
    if law.density is not None:
        x = np.linspace(*panel.x, len(law.density))
        parts.append(panel.line(x, law.density, **style))
        parts.append(panel.beyond(x, law.density > panel.y[1]))
    return parts


def _in_words(report: "Report", drawn: Mapping[str, Heights], *, edges: Edges) -> str:
    """Say what the picture shows, for those who do not see it."""
    parts = []
    for span in drawn:
        sp = report.spectra[span]
        shares = _histogram.masses(sp, edges)
        named = [
            f"{kind} {numerals.percent(share)}"
            for kind, share in shares.items()
            if share
        ]
        parts.append(", ".join([_SPANS[span], *named]))
    if report.law is not None:
        parts.append("with the law of the hidden layers")
    return f"Histograms of singular values: {'; '.join(parts)}"


def depth(reports: Mapping[str, "Report"], field: str, title: str) -> Html | None:
    """Draw one quantity of each layer along depth, a line for each network.

    The axis is logarithmic, so a zero is marked on the lower edge. Where a value is not
    known, the line is broken.

    Args:
        reports: The reports by name.
        field: The field of a layer's row: "q", "chi" or "gradient".
        title: The name of the quantity.
    """
    series = {}
    for name, report in reports.items():
        series[name] = [row.log(field) / _LN10 for row in report.rows]
    known = [log for logs in series.values() for log in logs if log < math.inf]
    if not known:
        return None
    finite = [log for log in known if math.isfinite(log)]
    # Numbers that are all equal lie in the middle of two decades.
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    low, high = min(low, high - 1) - 0.2, high + 0.2
    most = max(map(len, series.values()))
    panel = svg.Panel(x=(-0.4, most - 0.6), y=(low, high))
    marks = []
    for index, (name, values) in enumerate(series.items()):
        logs = [_place(log, low) for log in values]
        places = np.arange(len(logs))
        style = {"stroke": svg.colour(index), "stroke_width": "1.5"}
        marks.append(panel.line(places, np.array(logs), **style))
        rows = reports[name].rows
        for place, log in zip(places, logs, strict=True):
            if not math.isnan(log):
                number = numerals.of_log(rows[place].log(field))
                words = f"{name}, {rows[place].layer}: {number}"
                marks.append(panel.mark(float(place), log, index=index, title=words))
    return panel.drawn(
        *marks,
        title=f"{title}, along the layers",
        x_label="layer",
        x_ticks=_whole(most),
        y_ticks=svg.decades(low, high),
    )


def _place(log: float, low: float) -> float:
    """Return a logarithm; the lower edge for a zero, NaN where it has no place."""
    if log == -math.inf:
        return low
    # Infinity has no place; the table of layers has it.
    return log if math.isfinite(log) else math.nan


def _whole(count: int) -> list[tuple[float, str]]:
    """Return ticks at some of so many indices."""
    stride = max(1, -(-count // 8))
    return [(float(i), str(i)) for i in range(0, count, stride)]


def losses(probes: Mapping[str, "Probe"], indices: Mapping[str, int]) -> Html | None:
    """Draw the median loss over seeds along the training of each network."""
    return _along_training(
        probes,
        indices,
        of=lambda probe: np.median(probe.loss, axis=0),
        title="loss on the batch of a step",
    )


def ranks(probes: Mapping[str, "Probe"], indices: Mapping[str, int]) -> Html | None:
    """Draw the rank of the accumulated gradient of the middle hidden layer."""
    with_layers = {name: probe for name, probe in probes.items() if probe.layers}
    return _along_training(
        with_layers,
        indices,
        of=lambda probe: np.median(probe.gradient_rank[..., middle(probe)], axis=0),
        title="rank of the accumulated gradient",
    )


def middle(probe: "Probe") -> int:
    """Return the index of the middle layer of a probe."""
    return len(probe.layers) // 2


def _along_training(
    probes: Mapping[str, "Probe"],
    indices: Mapping[str, int],
    *,
    of: Callable[["Probe"], np.ndarray],
    title: str,
) -> Html | None:
    """Draw a line for each network over the steps of its probe."""
    series = {name: np.asarray(of(probe), float) for name, probe in probes.items()}
    finite = [v for values in series.values() for v in values if math.isfinite(v)]
    if not finite:
        return None
    # Numbers that are all zero lie on the axis of a panel from 0 to 1.
    top = max(finite) * _HEADROOM
    if top <= 0:
        top = 1.0
    last = max(int(probe.steps[-1]) for probe in probes.values())
    panel = svg.Panel(x=(0.0, max(last, 1)), y=(min(0.0, *finite), top))
    marks = []
    for name, values in series.items():
        index = indices[name]
        # A loss that is not finite has no place, and breaks the line.
        places = np.where(np.isfinite(values), values, np.nan)
        style = {"stroke": svg.colour(index), "stroke_width": "1.5"}
        steps = probes[name].steps
        marks.append(panel.line(steps, places, **style))
        for step, value in zip(steps, places, strict=True):
            if not math.isnan(value):
                words = f"{name}, step {step}: {value:.3g}"
                marks.append(
                    panel.mark(float(step), float(value), index=index, title=words)
                )
    ticks = _round_ticks(panel.y[1])
    return panel.drawn(
        *marks,
        title=f"{title}, along training",
        x_label="training step",
        x_ticks=_round_ticks(float(last)),
        y_ticks=ticks,
    )


def _round_ticks(top: float) -> list[tuple[float, str]]:
    """Return at most six ticks at round numbers from zero up to `top`, with labels."""
    step = 10.0 ** math.floor(math.log10(max(top, 1e-9)))
    # With 2 there are always few enough: `top` is below ten steps.
    factors = (0.2, 0.5, 1.0, 2.0)
    step *= next(factor for factor in factors if top / (factor * step) <= 5)
    # 0.3 / 0.1 is just below 3.
    count = math.floor(top / step * (1 + 1e-9))
    return [(i * step, f"{i * step:.3g}") for i in range(count + 1)]


def legend(names: Iterable[str]) -> Html:
    """Return the legend: line and mark of each network, in the order of drawing."""
    items = []
    for index, name in enumerate(names):
        label = element("span", name)
        items.append(element("li", svg.key(index), label))
    return element("ul", *items, class_="keys")
