"""Mass that has no place on a logarithmic axis, such as zeros."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from isometry._internal.numerals import percent
from isometry.plots._style import SMALL, size_in_inches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The label of the axes that hold the bars, by which a second spectrum finds them.
MASSES = "masses"

# In inches: the width of a bar, the width of a bar with its text, and the distance of
# the bars from the data. With twice as much, the bars of two spectra would take half of
# a narrow panel; with half as much, texts would be on bars.
_BAR = 0.045
_SLOT = 0.17
_GAP = 0.06

# Empty space beside the data and the bars, of their length, as matplotlib leaves it.
_MARGINS = 1.1

# A solid bar holds zeros. A hollow one holds values that may be zeros or not, or that
# are no zeros.
_STYLES = {
    "unresolved": {"hatch": "//////", "fill": False},
    "not finite": {"hatch": "xxxxxx", "fill": False},
    "outside": {"hatch": "......", "fill": False},
}


def draw_masses(ax: "Axes", shares: Mapping[str, float], colour: str) -> None:
    """Draw mass that a histogram cannot show as bars left of it, each with its name.

    The bars are in an inset Axes, one of `ax.child_axes`, as high as `ax`, whose y axis
    is the mass from 0 to 1. Later calls put their bars beside the earlier ones.

    Args:
        ax: The Axes, which has the histogram already.
        shares: The shares by their names, as of `masses`. A share of 0 has no bar.
        colour: The colour of the histogram.
    """
    if not any(shares.values()):
        return
    strip = _strip(ax)
    for kind, share in shares.items():
        if share == 0:
            continue
        style = {"fc": colour, "ec": colour, "lw": 0.8, **_STYLES.get(kind, {})}
        # `_place` moves the bars side by side.
        strip.bar(0, share, **style)
        strip.text(
            0,
            0.03,
            f"{kind} {percent(share)}",
            color=colour,
            fontsize=SMALL,
            rotation=90,
            ha="right",
            va="bottom",
        )
    _place(ax, strip)


def separate(ax: "Axes", place: float) -> None:
    """Draw the line left of which the horizontal axis means nothing."""
    ax.axvline(place, color="0.6", lw=0.8, ls=(0, (4, 2)))


def _strip(ax: "Axes") -> "Axes":
    """Return the axes of the bars, which share the horizontal axis of `ax`."""
    for child in ax.child_axes:
        if child.get_label() == MASSES:
            return cast("Axes", child)
    strip = ax.inset_axes((0, 0, 1, 1), sharex=ax, label=MASSES)
    strip.set_axis_off()
    strip.set_navigate(False)
    strip.set_ylim(0, 1)
    separate(strip, 0)
    return strip


def _place(ax: "Axes", strip: "Axes") -> None:
    """Move all bars to the left of the data that `ax` has by now."""
    low = ax.dataLim.x0
    width, _ = size_in_inches(ax)
    # Half of a very narrow panel is left for the data.
    taken = min(_GAP + _SLOT * len(strip.patches), width / 2)
    length = _MARGINS * ax.dataLim.width
    # Units of the horizontal axis.
    inch = length / (width - taken)
    separator = low - _GAP / 2 * inch
    strip.lines[0].set_xdata([separator, separator])
    left = low - _GAP * inch
    for bar, text in zip(strip.patches, strip.texts, strict=True):
        bar.set(x=left - _BAR * inch, width=_BAR * inch)
        text.set_x(left - 1.3 * _BAR * inch)
        left -= _SLOT * inch
    # The limits follow the bars, unless the caller has fixed them.
    strip.relim()
    strip.update_datalim([(left, 0)])
    if not ax.get_autoscalex_on() and ax.get_xlim()[0] > left:
        ax.set_xlim(left=left)
