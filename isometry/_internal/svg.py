"""Small pictures as SVG: a panel with two axes, bars, lines and marks.

They have no fonts, styles or scripts of their own. Text and axes have the colour of the
text around the picture, so that they are seen on light and dark pages alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool

from isometry._internal import numerals
from isometry._internal.html import Html, element, joined, number

# Pixels around a panel, for ticks and labels.
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 14.0, 8.0, 34.0

# Pixels of a bar of mass beside the panel, and of such a bar with its name.
_BAR, _SLOT, _GAP = 6.0, 22.0, 8.0

_SIZE = 10
_TICK = 4.0
_MARK = 3.0

# More ticks would overlap in the narrowest panel.
_MOST_TICKS = 6

# Decades below which ticks stand within decades too.
_FEW_DECADES = 2.0

# Colours that are told apart by readers of any colour vision, on white and on black.
COLOURS = (
    "#2f8fd8",
    "#e07020",
    "#16a37a",
    "#cf6fa8",
    "#c99400",
    "#8f7fe0",
    "#8a8a8a",
)
MARKS = ("circle", "square", "diamond", "triangle", "cross")

Points: TypeAlias = Sequence[float] | np.ndarray
Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Mass:
    """A share of the mass that has no place on the axis, such as that of zeros.

    Attributes:
        name: Its name: "zeros 25 %".
        share: The share, from 0 to 1.
        colour: The colour of its bar.
        is_solid: Whether the bar is filled.
    """

    name: str
    share: float
    colour: str
    is_solid: bool


@dataclass(frozen=True)
class Panel:
    """A panel over ranges of two numbers.

    Attributes:
        x: The range of the horizontal axis.
        y: The range of the vertical axis.
        width: The width of the picture in pixels.
        height: Its height.
        masses: Bars left of the panel. Their height is the share of the whole panel.
    """

    x: Range
    y: Range
    width: float = 340.0
    height: float = 170.0
    masses: tuple[Mass, ...] = ()

    @property
    def left(self) -> float:
        """The left end of the horizontal axis in pixels."""
        strip = len(self.masses) * _SLOT
        return _LEFT + strip + (_GAP if strip else 0.0)

    @property
    def right(self) -> float:
        """The right end of the horizontal axis."""
        return self.width - _RIGHT

    @property
    def bottom(self) -> float:
        """The lower end of the vertical axis."""
        return self.height - _BOTTOM

    def across(self, x: float) -> float:
        """Return the place of a number along the horizontal axis."""
        share = (x - self.x[0]) / (self.x[1] - self.x[0])
        return self.left + share * (self.right - self.left)

    def up(self, y: float) -> float:
        """Return the place of a number along the vertical axis."""
        share = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.bottom - share * (self.bottom - _TOP)

    def bars(self, edges: Points, heights: Points, **style: object) -> Html:
        """Return a histogram: one outline from the first bin to the last."""
        base = self.up(self.y[0])
        corners = [f"M{number(self.across(edges[0]))} {number(base)}"]
        for i, height in enumerate(heights):
            top = number(self.up(height))
            corners.append(f"V{top}H{number(self.across(edges[i + 1]))}")
        corners.append(f"V{number(base)}Z")
        return element("path", d="".join(corners), **style)

    def line(self, x: Points, y: Points, **style: object) -> Html:
        """Return a line through points; it is cut at the top, and broken at NaN."""
        words = []
        pen = "M"
        for i, height in enumerate(y):
            if math.isnan(height):
                pen = "M"
                continue
            place = self.up(min(max(height, self.y[0]), self.y[1]))
            words.append(f"{pen}{number(self.across(x[i]))} {number(place)}")
            pen = "L"
        return element("path", d="".join(words), fill="none", **style)

    def stem(self, x: float, height: float, **style: object) -> Html:
        """Return a vertical line from the base to a height."""
        place = number(self.across(x))
        top = number(self.up(min(height, self.y[1])))
        path = f"M{place} {number(self.bottom)}V{top}"
        return element("path", d=path, fill="none", **style)

    def mark(self, x: float, y: float, *, index: int, title: str = "") -> Html:
        """Return a mark, in the colour and the form of the series with this index."""
        return mark(self.across(x), self.up(y), index=index, title=title)

    def beyond(self, x: Points, is_higher: Bool[np.ndarray, " x"]) -> Html:
        """Return a triangle below the top of each range in which a line is higher."""
        indices = np.flatnonzero(is_higher)
        # A range ends where the next index is not the next point.
        ends = np.flatnonzero(np.diff(indices) > 1) + 1
        triangles = []
        for run in np.split(indices, ends):
            if run.size:
                middle = float(np.asarray(x)[run].mean())
                place = number(self.across(middle))
                path = f"M{place} {number(_TOP)}l3 6h-6z"
                triangles.append(element("path", d=path, fill="currentColor"))
        return joined(triangles)

    def drawn(
        self,
        *marks: object,
        title: str,
        x_label: str,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]] = (),
    ) -> Html:
        """Return the picture.

        Args:
            *marks: What is drawn in the panel.
            title: What the picture shows, for those who do not see it.
            x_label: The label of the horizontal axis.
            x_ticks: Ticks along the horizontal axis, and what is written there.
            y_ticks: Ticks along the vertical axis.
        """
        frame = f"M{number(self.left)} {number(_TOP)}V{number(self.bottom)}"
        frame += f"H{number(self.right)}"
        parts: list[object] = [element("title", title)]
        parts.append(_stroke(frame))
        for place, words in x_ticks:
            at = self.across(place)
            parts.append(_stroke(f"M{number(at)} {number(self.bottom)}v{_TICK}"))
            parts.append(_text(at, self.bottom + 14, words, anchor="middle"))
        for place, words in y_ticks:
            at = self.up(place)
            parts.append(_stroke(f"M{number(self.left)} {number(at)}h-{_TICK}"))
            parts.append(_text(self.left - 6, at + 3.5, words, anchor="end"))
        middle = (self.left + self.right) / 2
        parts.append(_text(middle, self.height - 5, x_label, anchor="middle"))
        parts += [*self._strip(), *marks]
        return element(
            "svg",
            *parts,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {number(self.width)} {number(self.height)}",
            width=number(self.width),
            height=number(self.height),
            role="img",
            aria_label=title,
            font_size=_SIZE,
            font_family="system-ui, sans-serif",
        )

    def _strip(self) -> list[Html]:
        """Return the bars of mass left of the panel, each with its name."""
        parts = []
        for i, mass in enumerate(self.masses):
            x = _LEFT + (i + 1) * _SLOT - _BAR
            height = mass.share * (self.bottom - _TOP)
            parts.append(
                element(
                    "rect",
                    element("title", mass.name),
                    x=x,
                    y=self.bottom - height,
                    width=_BAR,
                    height=height,
                    fill=mass.colour if mass.is_solid else "none",
                    stroke=mass.colour,
                )
            )
            place = f"translate({number(x - 4)} {number(self.bottom - 2)}) rotate(-90)"
            parts.append(
                element("text", mass.name, transform=place, fill="currentColor")
            )
        return parts


def mark(x: float, y: float, *, index: int, title: str = "") -> Html:
    """Return the mark of the series with this index at a place in pixels.

    When colours repeat, each has the next form.
    """
    style = {"fill": "none", "stroke": colour(index), "stroke_width": "1.5"}
    name = [element("title", title)] if title else []
    form = MARKS[(index + index // len(COLOURS)) % len(MARKS)]
    size = number(_MARK)
    if form == "circle":
        return element("circle", *name, cx=x, cy=y, r=size, **style)
    place = f"{number(x)} {number(y)}"
    steps = {
        "square": f"m-{size} -{size}h{number(2 * _MARK)}v{number(2 * _MARK)}h-6z",
        "diamond": "m0 -4l4 4l-4 4l-4 -4z",
        "triangle": "m0 -4l4 7h-8z",
        "cross": f"m-{size} -{size}l6 6m0 -6l-6 6",
    }
    return element("path", *name, d=f"M{place}{steps[form]}", **style)


def key(index: int) -> Html:
    """Return the line and the mark of a series, to be put beside its name."""
    line = element("path", d="M1 6H23", stroke=colour(index), stroke_width="1.5")
    dot = mark(12.0, 6.0, index=index)
    return element("svg", line, dot, width="24", height="12", aria_hidden="true")


def colour(index: int) -> str:
    """Return the colour of the series with this index; colours repeat."""
    return COLOURS[index % len(COLOURS)]


def decades(low: float, high: float) -> list[tuple[float, str]]:
    """Return ticks between two logarithms to base 10, with the numbers themselves."""
    steps = [0.0]
    stride = 1
    if high - low < _FEW_DECADES:
        steps = [0.0, math.log10(2), math.log10(5)]
    else:
        stride = max(1, math.ceil((high - low) / _MOST_TICKS))
    ticks = []
    for decade in range(math.floor(low), math.ceil(high) + 1):
        if decade % stride:
            continue
        for step in steps:
            place = decade + step
            if low <= place <= high:
                ticks.append((place, numerals.power(place)))
    return ticks


def _stroke(path: str) -> Html:
    return element("path", d=path, fill="none", stroke="currentColor", opacity="0.6")


def _text(x: float, y: float, words: str, *, anchor: str) -> Html:
    return element("text", words, x=x, y=y, text_anchor=anchor, fill="currentColor")
