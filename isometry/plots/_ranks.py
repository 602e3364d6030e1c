"""Picture `ranks`: the rank of the accumulated gradient during training."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from isometry._internal.errors import public
from isometry.plots._style import (
    SMALL,
    colour,
    literal,
    mark,
    nested,
    num_letters,
    require_axes,
    require_named,
    size_in_inches,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from isometry.verdicts import Report
    from isometry.verdicts._probe import Probe

_DASHES = (":", "--", "-.")

# Share of the Axes at the right end for the names of the lines, and the inches beyond
# which no name gains by more.
_NAMES_SHARE = 0.4
_NAMES_WIDTH = 2.1

# Inches between the end of a line and its name: more than half a mark.
_LEADER = 0.15

# Inches: the height of a line of small letters, with the space between two texts.
_LINE_HEIGHT = 0.135

# Two lines coincide for a reader if they do in this share of the records. Lines that
# only cross are told apart by their slopes.
_COINCIDENT = 0.25

# Fields of a report that pictures read.
REPORT = ("flags", "spectra", "probe", "widths")


@public("plots.ranks")
def ranks(reports: Mapping[str, "Report"], ax: "Axes") -> "Axes":
    """Draw the rank of the accumulated gradient of the middle hidden layer.

    The abscissa is training steps. A line is the median over seeds of one network, its
    band the range of seeds. If a network was trained at several widths, each has a thin
    black line. The dashed red line is the input dimension. The names at the right are
    those of all lines that end at this rank. Where lines coincide, later ones are
    thinner, with smaller marks.

    Args:
        reports: Reports of audits by name, as `isometry.audit` gives for a mapping of
            networks.
        ax: An Axes.

    Returns:
        `ax`.

    Raises:
        InputError: There are no reports by name; `ax` is no Axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from types import SimpleNamespace
        >>> flag = SimpleNamespace(evidence={"input_dimension": 4})
        >>> probe = SimpleNamespace(
        ...     layers=["layers/1"], shapes=[(8, 8)], steps=np.arange(3),
        ...     gradient_rank=np.array([[[0], [3], [5]]]))
        >>> report = SimpleNamespace(
        ...     flags={"rank_constrained_training": flag}, spectra={}, probe=probe,
        ...     widths=None)
        >>> ax = plots.ranks({"tanh": report}, Figure().add_subplot())
        >>> ax.get_xlabel()
        'training step'
    """
    require_named("reports", reports, kind="Report", fields=REPORT)
    require_axes(ax)
    # An audit without training steps has no probe.
    probes = {
        name: report.probe
        for name, report in reports.items()
        if report.probe is not None and report.probe.layers
    }
    layers = {probe.layers[_middle(probe)] for probe in probes.values()}
    names = list(reports)
    medians: list[np.ndarray] = []
    ends: dict[float, list[str]] = {}
    for name, probe in probes.items():
        median = _median(probe)
        num_below = sum(_coincide(median, other) for other in medians)
        medians.append(median)
        index = names.index(name)
        style = {
            "color": colour(index),
            "marker": mark(index),
            "label": _label(name, probe, has_layer=len(layers) > 1),
            **nested(num_below),
        }
        _draw_probe(ax, probe, style)
        ends.setdefault(float(median[-1]), []).append(literal(name))
        widths = reports[name].widths
        if widths is not None:
            _draw_widths(ax, name, widths, middle=_middle(probe), ends=ends)
    ax.set_xlabel("training step")
    ax.set_ylabel("rank of accumulated gradient")
    if len(layers) == 1:
        ax.set_ylabel(f"rank of accumulated gradient\nof {literal(layers.pop())}")
    if not probes:
        return ax
    last_steps = [int(probe.steps[-1]) for probe in probes.values()]
    last_step = max(last_steps)
    # The input dimension is the same for all networks, which are audited on the same
    # inputs.
    report = reports[next(iter(probes))]
    flag = report.flags["rank_constrained_training"]
    bound = flag.evidence["input_dimension"]
    label = f"input dimension N$_x$ = {bound}"
    steps = [0, last_step]
    ax.plot(steps, [bound, bound], color="#D00000", ls="--", lw=1, label=label)
    ends.setdefault(float(bound), []).append(label)
    # Below zero there is room for half a mark, and above for a name.
    top = 1.06 * ax.dataLim.y1
    ax.set_ylim(-0.03 * top, top)
    _name_ends(ax, ends, last_step=last_step)
    return ax


def _middle(probe: "Probe") -> int:
    """Return the index of the layer that is drawn."""
    return len(probe.layers) // 2


def _median(probe: "Probe") -> Float[np.ndarray, " records"]:
    """Return the median rank over seeds."""
    # Of an odd number of seeds it is a rank that occurred.
    return np.median(_ranks(probe), 0)


def _ranks(probe: "Probe") -> Int[np.ndarray, "seeds records"]:
    """Return the ranks of the layer that is drawn."""
    return probe.gradient_rank[:, :, _middle(probe)]


def _label(name: str, probe: "Probe", *, has_layer: bool) -> str:
    """Return the entry of a network in the legend."""
    middle = _middle(probe)
    rows, columns = probe.shapes[middle]
    if has_layer:
        layer = literal(probe.layers[middle])
        return f"{literal(name)} ({layer}, {rows}×{columns})"
    return f"{literal(name)} ({rows}×{columns})"


def _coincide(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether two lines hide each other."""
    if first.shape != second.shape:
        return False
    return bool(np.mean(first == second) >= _COINCIDENT)


def _draw_probe(ax: "Axes", probe: "Probe", style: dict[str, Any]) -> None:
    """Draw the rank in the middle layer: the median over seeds, and their range."""
    ax.plot(probe.steps, _median(probe), **style)
    seeds = _ranks(probe)
    low = seeds.min(0)
    high = seeds.max(0)
    ax.fill_between(probe.steps, low, high, color=style["color"], alpha=0.2, lw=0)


def _draw_widths(
    ax: "Axes",
    name: str,
    widths: Mapping[str, Any],
    *,
    middle: int,
    ends: dict[float, list[str]],
) -> None:
    """Draw the rank of networks of other widths, a line for each width.

    Args:
        ax: The Axes.
        name: The name of the network.
        widths: Ranks by width, as a report has them.
        middle: The index of the layer.
        ends: The names of lines by their last rank, to which these are added.
    """
    by_width = widths["gradient_rank"]
    steps = widths["steps"]
    # All widths have one entry in the legend, and names at their ends.
    every = ", ".join(map(str, by_width))
    label = f"{literal(name)}, widths {every}"
    own: dict[float, list[str]] = {}
    for (width, by_layer), dashes in zip(by_width.items(), _DASHES, strict=True):
        # Networks of other widths may be shallower.
        layer = min(middle, by_layer.shape[1] - 1)
        rank = by_layer[:, layer]
        ax.plot(steps, rank, color="black", ls=dashes, lw=0.8, label=label)
        own.setdefault(float(rank[-1]), []).append(str(width))
        label = "_nolegend_"
    for rank, same in own.items():
        words = f"{literal(name)} at width {', '.join(same)}"
        ends.setdefault(rank, []).append(words)


def _name_ends(ax: "Axes", ends: Mapping[float, list[str]], *, last_step: int) -> None:
    """Write the names of the lines right of their ends.

    Args:
        ax: The Axes, with all lines and the lower limit of the ranks.
        ends: The names of all lines that end at a rank.
        last_step: The last training step.
    """
    width, height = size_in_inches(ax)
    names_share = min(_NAMES_SHARE, _NAMES_WIDTH / width)
    first = -0.03 * last_step
    length = (last_step - first) / (1 - names_share)
    # Ticks are for training steps alone.
    ticks = [tick for tick in ax.get_xticks() if 0 <= tick <= last_step]
    ax.set_xticks(ticks)
    ax.set_xlim(first, first + length)
    most_letters = num_letters(names_share * width - _LEADER)
    ranks = np.array(sorted(ends))
    texts = []
    for rank in ranks:
        words = ", ".join(ends[rank])
        texts.append(textwrap.fill(words, most_letters))
    top = ax.get_ylim()[1]
    line_height = _LINE_HEIGHT / height * top
    heights = [line_height * (text.count("\n") + 1) for text in texts]
    places = _spread(ranks, np.array(heights), top=top)
    leader = _LEADER / width * length
    x = last_step + leader * np.array([0.4, 0.9])
    for rank, place, text in zip(ranks, places, texts, strict=True):
        ax.plot(x, [rank, place], color="0.5", lw=0.6, label="_nolegend_")
        ax.text(last_step + leader, place, text, fontsize=SMALL, va="center")


def _spread(
    values: Float[np.ndarray, " texts"],
    heights: Float[np.ndarray, " texts"],
    *,
    top: float,
) -> Float[np.ndarray, " texts"]:
    """Move labels apart so that no two overlap.

    Args:
        values: Where the centres of labels should be, in increasing order.
        heights: The heights of the labels.
        top: The limit for the upper edge of the last label.

    Returns:
        Centres such that all labels are between 0 and `top`. If there is no room for
        all, the first ones are below 0.
    """
    places = values.copy()
    last = len(places) - 1
    distances = (heights[1:] + heights[:-1]) / 2
    places[0] = max(places[0], heights[0] / 2)
    for i in range(last):
        lowest = places[i] + distances[i]
        places[i + 1] = max(places[i + 1], lowest)
    places[last] = min(places[last], top - heights[last] / 2)
    for i in reversed(range(last)):
        highest = places[i + 1] - distances[i]
        places[i] = min(places[i], highest)
    return places
