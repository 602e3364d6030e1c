"""Picture `signals`: how large signals and gradients are, and how alike."""

import math
import textwrap
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float

from isometry._internal.errors import public
from isometry.plots._style import (
    COLOURS,
    Line,
    literal,
    name_points,
    new_figure,
    require_fields,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from isometry.records import Signals

# Each field with its title, and whether its axis is logarithmic.
_PANELS = {
    "q": ("q: mean square of the signal", True),
    "c": ("c: cosine between inputs", False),
    "gradient": ("gradient: mean square", True),
    "apjn": ("apjn: ‖∂output/∂point‖² per output", True),
    "chi": ("χ: growth of the gradient per step", False),
}

_FIELDS = ("points", *_PANELS)

# The style of predictions. Kinds of points have other marks than crosses.
_PREDICTED: dict[str, Any] = {
    "color": "black",
    "marker": "x",
    "ls": "--",
    "ms": 4,
    "lw": 1,
}

# Values at points, and their means over inputs.
ByInput: TypeAlias = Float[np.ndarray, "seeds inputs points"]
BySeed: TypeAlias = Float[np.ndarray, "seeds points"]

# The height of crosses, in units of the panel's, and their size in points: beyond the
# frame they would be on the ticks, and larger ones would touch at many points.
_CROSS_HEIGHT = 0.05
_CROSS_SIZE = 3.5

# Kinds of points by the end of their names, each with the label, colour and mark of its
# line. A single line of all points would jump at every activation.
_KINDS = {
    "": ("layers", COLOURS[0], "o"),
    "out": ("after what follows them (:out)", COLOURS[1], "s"),
    "sum": ("after the join of a branch (:sum)", COLOURS[2], "^"),
}


@public("plots.signals")
def signals(measured: "Signals", predicted: "Signals | None" = None) -> "Figure":
    """Draw signals and gradients at the points of a network.

    There is a panel for each of q, c, gradient, apjn and χ, against the points in
    order. It has a line for the pre-activations of layers, one for the results of the
    nonlinearities and norms after them (":out"), and one for the sums that end residual
    branches (":sum"). A line is the mean over seeds and inputs; its band is the range
    of seeds. Both have a gap where a value of some seed and input is not finite, and a
    cross at the bottom marks the point. There is no cross where all values are NaN: the
    field is not known there. If it is not known at any point, the panel says why.
    Predictions are dashed, at the points of the same name.

    Args:
        measured: What `isometry.signals` measured: `points` and the five fields, with
            the points on the last axis and seeds on the first.
        predicted: Signals of the same fields, as `net.mean_field` gives them.

    Returns:
        A figure.

    Raises:
        InputError: An argument lacks one of these fields.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> from types import SimpleNamespace
        >>> unknown = np.full((1, 1, 2), np.nan)
        >>> measured = SimpleNamespace(
        ...     points=("layers/0", "layers/1"), q=np.ones((1, 1, 2)), apjn=unknown,
        ...     c=np.ones((1, 1, 1, 2)), gradient=unknown, chi=unknown)
        >>> figure = plots.signals(measured)
        >>> figure.axes[0].get_title()
        'q: mean square of the signal'
    """
    require_fields("measured", measured, kind="Signals", fields=_FIELDS)
    if predicted is not None:
        require_fields("predicted", predicted, kind="Signals", fields=_FIELDS)
    # As wide as a page, so that letters keep their size in print.
    figure = new_figure((7.2, 4.8))
    panels = figure.subplots(2, 3)
    for ax, (field, (title, is_log)) in zip(panels.flat, _PANELS.items(), strict=False):
        _draw_panel(ax, measured, predicted, field=field, is_log=is_log)
        ax.set_title(title, fontsize=7.5)
        ax.tick_params(labelsize=6.5)
        name_points(ax, measured.points)
    # Five panels hold the fields. The sixth holds the legend, the same for all of them.
    last = panels.flat[-1]
    last.set_axis_off()
    by_label = {}
    for ax in panels.flat:
        handles, labels = ax.get_legend_handles_labels()
        by_label.update(zip(labels, handles, strict=True))
    num_seeds = len(_by_input(measured, "q"))
    if num_seeds > 1:
        # The shaded bands have no entry in the legend, so they are named above it.
        words = f"bands: range of {num_seeds} seeds"
        last.text(0.5, 0.75, words, ha="center", fontsize=7)
    last.legend(
        by_label.values(),
        by_label.keys(),
        loc="center",
        fontsize=7,
        frameon=False,
    )
    return figure


def _draw_panel(
    ax: "Axes",
    measured: "Signals",
    predicted: "Signals | None",
    *,
    field: str,
    is_log: bool,
) -> None:
    """Draw one field: a line for each kind of points, and the predictions."""
    values = _by_input(measured, field)
    by_seed = _mean_over_inputs(values)
    if not np.isfinite(by_seed).any():
        _write_reason(ax, measured, field)
    # The mean over other seeds would be one of survivors.
    is_missing = ~np.isfinite(by_seed).all(0)
    by_seed = np.where(is_missing, np.nan, by_seed)
    is_known = ~np.isnan(values).all((0, 1))
    _draw_crosses(ax, np.flatnonzero(is_missing & is_known))
    kinds = np.array([_kind(name) for name in measured.points])
    prediction = None
    if predicted is not None:
        prediction = _at_points(predicted, field, measured.points)
    for kind, (label, colour, mark) in _KINDS.items():
        x = np.flatnonzero(kinds == kind)
        if not x.size:
            continue
        style = {"color": colour, "marker": mark, "label": label}
        _draw_measured(ax, x, by_seed[:, x], style=style)
        if prediction is not None:
            ax.plot(x, prediction[x], **_PREDICTED)
    drawn = by_seed
    if prediction is not None:
        # An empty line, so that all predictions have one entry in the legend.
        ax.plot([], label="predicted", **_PREDICTED)
        drawn = np.concatenate([by_seed, prediction[None]])
    # The logarithmic axis is for positive values alone.
    drawn = drawn[np.isfinite(drawn)]
    if is_log and drawn.size and (drawn > 0).all():
        ax.set_yscale("log")
    if field == "chi":
        # Criticality, χ = 1.
        ax.axhline(1, color="0.4", ls=":", lw=0.9)
    if field == "c" and drawn.size:
        ax.set_ylim(min(-0.05, drawn.min() - 0.05), 1.05)


def _kind(name: str) -> str:
    """Return the part of a point's name after the colon, "" if there is none."""
    _, _, kind = name.partition(":")
    return kind


def _draw_measured(
    ax: "Axes",
    x: np.ndarray,
    by_seed: BySeed,
    *,
    style: dict[str, Any],
) -> None:
    """Draw the mean over seeds, and the band of their range."""
    ax.plot(x, by_seed.mean(0), ms=3.5, lw=1.4, **style)
    if len(by_seed) > 1:
        low = by_seed.min(0)
        high = by_seed.max(0)
        ax.fill_between(x, low, high, color=style["color"], alpha=0.2, lw=0)


def _draw_crosses(ax: "Axes", x: np.ndarray) -> None:
    """Mark points at the bottom of a panel, whatever its scale."""
    if not x.size:
        return
    ax.plot(
        x,
        np.full(len(x), _CROSS_HEIGHT),
        transform=ax.get_xaxis_transform(),
        color="0.3",
        marker="x",
        ms=_CROSS_SIZE,
        ls="none",
        label="not finite in some seed",
    )


def _write_reason(ax: "Axes", measured: "Signals", field: str) -> None:
    """Write into a panel why its field has no finite value, as `Signals.why` says."""
    reason = "not known"
    if field == "c":
        reason = "of a single input there is no other"
    if hasattr(measured, "why"):
        reason = measured.why(field) or reason
    ax.set_yticks([])
    ax.text(
        0.5,
        0.5,
        literal(textwrap.fill(reason, 32)),
        transform=ax.transAxes,
        ha="center",
        va="center",
        fontsize=7,
    )


def _by_input(signals: "Signals", field: str) -> ByInput:
    """Return a field by seed and input, or for "c" by pair of different inputs."""
    values = np.asarray(getattr(signals, field), float)
    if field == "c" and values.ndim >= 3:
        # Predictions have no seeds.
        if values.ndim == 3:
            values = values[None]
        # The cosine of an input with itself is always one.
        is_same = np.eye(values.shape[-2], dtype=bool)
        values = values[..., ~is_same, :]
    if values.ndim < 2:
        values = values[None]
    num_seeds, *batch, num_points = values.shape
    return values.reshape(num_seeds, math.prod(batch), num_points)


def _mean_over_inputs(values: ByInput) -> BySeed:
    """Return the mean of each seed, NaN if there is nothing to average."""
    num_seeds, num_inputs, num_points = values.shape
    # Of one input there are no pairs.
    if num_inputs == 0:
        return np.full((num_seeds, num_points), np.nan)
    # The mean of infinities may be infinite or NaN, and neither is drawn.
    with np.errstate(invalid="ignore", over="ignore"):
        return values.mean(1)


def _at_points(signals: "Signals", field: str, points: tuple[str, ...]) -> Line:
    """Return a field at points: the mean over seeds and inputs, NaN where missing."""
    by_seed = _mean_over_inputs(_by_input(signals, field))
    index = {name: i for i, name in enumerate(signals.points)}
    means = np.full(len(points), np.nan)
    for i, name in enumerate(points):
        if name in index:
            means[i] = np.mean(by_seed[:, index[name]])
    return means
