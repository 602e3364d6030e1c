"""What a notebook shows of a spectrum: its numbers, and a small histogram."""

import math
from typing import TYPE_CHECKING

import numpy as np

from isometry._internal import checks, numerals, svg
from isometry._internal.html import Html, element, note, notebook, table
from isometry.measure import _histogram
from isometry.measure._known import Known, known, log_median

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum

# The statistics that are shown, and what they are called there.
_SHOWN = {
    "s_min": "smallest s",
    "s_median": "median of s",
    "s_max": "largest s",
    "mean_s2": "E s²",
    "isometry_deviation": "√E(s − 1)²",
    "condition_number": "s_max/s_min",
    "effective_rank": "effective rank",
    "zero_fraction": "zeros, or below the floor",
}

# Digits of the numbers.
_DIGITS = 4

_NUM_BINS = 40

# Decades beside the values, so that the outermost bars are not at the frame.
_MARGIN = 0.1

# Decades: values that differ by less are one bar, in the middle of a wider axis.
_LEAST_RANGE = 0.2


def show(sp: "Spectrum") -> str | None:
    """Return the HTML of a spectrum; None of a traced one, which has no numbers."""
    if checks.is_traced(sp):
        return None
    rows = []
    records = known(sp)
    for name, label in _SHOWN.items():
        record = records[name]
        rows.append((label, in_words(record), record.why))
    # Without reasons there is no column of them.
    if not any(why for _, _, why in rows):
        rows = [row[:2] for row in rows]
    parts = [table((), rows), picture(sp)]
    num_matrices = math.prod(sp.log_values.shape[:-1])
    if num_matrices > 1:
        words = f"medians over {num_matrices} matrices, with the range in brackets"
        parts.insert(1, note(words))
    return notebook(repr(sp), *parts)


def in_words(record: Known) -> str:
    """Return the median of a statistic over matrices as text, and its range."""
    text = record.over_matrices(log_median).text(_DIGITS)
    low = record.over_matrices(np.min).text(_DIGITS)
    high = record.over_matrices(np.max).text(_DIGITS)
    # NaN of one matrix makes all three unknown.
    if low != high:
        text += f" [{low}, {high}]"
    return text


def picture(sp: "Spectrum") -> Html:
    """Return a histogram of log10 s, with bars of the mass that it leaves out."""
    if not sp.knows_values:
        return note(f"no histogram: {sp.why('density')}")
    extent = _histogram.extent(sp)
    if extent is None:
        return note("no histogram: no singular value is above the floor")
    low, high = extent
    if high - low < _LEAST_RANGE:
        middle = (low + high) / 2
        low, high = middle - _LEAST_RANGE, middle + _LEAST_RANGE
    edges = np.linspace(low - _MARGIN, high + _MARGIN, _NUM_BINS + 1)
    heights = _histogram.heights(sp, edges)
    panel = svg.Panel(
        x=(float(edges[0]), float(edges[-1])),
        y=(0.0, 1.05 * float(heights.max())),
        masses=masses(sp, edges),
    )
    bars = panel.bars(edges, heights, fill=svg.colour(0), fill_opacity="0.6")
    drawn = panel.drawn(
        bars,
        title="histogram of the singular values, over a logarithmic axis",
        x_label="s",
        x_ticks=svg.decades(*panel.x),
    )
    return element("div", drawn)


def masses(
    sp: "Spectrum",
    edges: _histogram.Edges,
    *,
    index: int = 0,
) -> tuple[svg.Mass, ...]:
    """Return the bars of the mass that a histogram of these bins leaves out.

    Args:
        sp: A spectrum of singular values.
        edges: The edges of the bins in log10 s.
        index: The index of the colour.
    """
    shares = _histogram.masses(sp, edges)
    return tuple(
        svg.Mass(
            f"{kind} {numerals.percent(share)}",
            share=share,
            colour=svg.colour(index),
            # A solid bar holds zeros; what is in a hollow one may be none.
            is_solid=kind == "zeros",
        )
        for kind, share in shares.items()
        if share > 0
    )
