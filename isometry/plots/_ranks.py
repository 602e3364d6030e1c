"""Picture `ranks`: the rank of the accumulated gradient during training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from isometry._internal.errors import public
from isometry.plots._style import colour, mark, require_axes, require_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from isometry.verdicts import Report
    from isometry.verdicts._probe import Probe

_DASHES = (":", "--", "-.")

# Every fourth point of a line has a mark, each line from another point on, so that the
# marks of coinciding lines do not hide each other.
_MARK_EVERY = 4

# Fields of a report that pictures read.
REPORT = ("flags", "spectra", "probe", "widths")


@public("plots.ranks")
def ranks(reports: Mapping[str, "Report"], ax: "Axes") -> "Axes":
    """Draw the rank of the accumulated gradient of the middle hidden layer.

    The abscissa is training steps. A line is the median over seeds of one network, its
    band the range of seeds. The dashed line is the input dimension. If a network was
    trained at several widths, each has a line.

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
    # The input dimension, which bounds the rank. It is the same for all networks, which
    # are audited on the same inputs.
    bound = 0
    for index, (name, report) in enumerate(reports.items()):
        # An audit without training steps has no probe.
        probe = report.probe
        if probe is None or not probe.layers:
            continue
        flag = report.flags["rank_constrained_training"]
        bound = flag.evidence["input_dimension"]
        middle = len(probe.layers) // 2
        _draw_probe(ax, name, probe, middle=middle, index=index)
        if report.widths is not None:
            _draw_widths(ax, name, report.widths, middle=middle)
    if bound:
        label = f"input dimension N$_x$ = {bound}"
        ax.axhline(bound, color="#D00000", ls="--", lw=1, label=label)
    ax.set_xlabel("training step")
    ax.set_ylabel("rank of accumulated gradient")
    ax.set_ylim(bottom=0)
    return ax


def _draw_probe(
    ax: "Axes", name: str, probe: "Probe", *, middle: int, index: int
) -> None:
    """Draw the rank in the middle layer: the median over seeds, and their range."""
    # The median of an odd number of seeds is a rank that occurred.
    seeds = probe.gradient_rank[:, :, middle]
    rows, columns = probe.shapes[middle]
    layer = probe.layers[middle]
    ax.plot(
        probe.steps,
        np.median(seeds, 0),
        color=colour(index),
        marker=mark(index),
        markevery=(index % _MARK_EVERY, _MARK_EVERY),
        ms=4.5,
        lw=1.2,
        label=f"{name} ({layer}, {rows}×{columns})",
    )
    low = seeds.min(0)
    high = seeds.max(0)
    ax.fill_between(probe.steps, low, high, color=colour(index), alpha=0.2, lw=0)


def _draw_widths(
    ax: "Axes", name: str, widths: Mapping[str, Any], *, middle: int
) -> None:
    """Draw the rank of networks of other widths, a line for each width."""
    by_width = widths["gradient_rank"]
    for (width, by_layer), dashes in zip(by_width.items(), _DASHES, strict=True):
        # Networks of other widths may be shallower.
        layer = min(middle, by_layer.shape[1] - 1)
        ax.plot(
            widths["steps"],
            by_layer[:, layer],
            color="black",
            ls=dashes,
            lw=1,
            label=f"{name}, width {width}",
        )
