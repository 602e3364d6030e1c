"""Colours and marks of all pictures, and the checks of their arguments."""

import functools
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

# Numbers along x, and the edges of bins.
Line: TypeAlias = Float[np.ndarray, " x"]
Edges: TypeAlias = Float[np.ndarray, " edges"]

# Okabe and Ito's colours, which readers of any colour vision tell apart; in grey they
# are told apart by their marks.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
MARKS = ("o", "s", "^", "D", "v", "P", "X")

# The size of marks, the width of the line and its dashes, for lines that may coincide.
_NESTED = (
    (7.5, 2.3, "-"),
    (5.7, 1.7, (0, (3, 1.5))),
    (4.0, 1.2, (0, (5, 2, 1, 2))),
    (2.6, 0.9, (0, (1, 1.5))),
)

# The most names along an axis. More would overlap; with a third of them a reader would
# have to count ticks between names.
_MOST_NAMES = 16

# Points: the smallest letters that are legible in print.
SMALL = 6.5

# The mean width of a letter, in units of its size.
_LETTER_WIDTH = 0.56

_POINTS_PER_INCH = 72

# Keyword arguments of a legend above the axes, where it hides no data.
LEGEND_ABOVE = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1.01),
    "borderaxespad": 0,
    "frameon": False,
}


def colour(index: int) -> str:
    """Return the colour of the line with this index; colours repeat."""
    return COLOURS[index % len(COLOURS)]


def mark(index: int) -> str:
    """Return the mark of the line with this index.

    When colours repeat, each has the next mark: 49 lines differ in colour or mark.
    """
    return MARKS[(index + index // len(COLOURS)) % len(MARKS)]


def nested(index: int) -> dict[str, Any]:
    """Return the style of one of several lines that may coincide.

    Later lines are thinner, dashed and have smaller marks that are open, so that they
    do not hide those below them.

    Args:
        index: The index of the line, in the order in which they are drawn.
    """
    depth = index % len(_NESTED)
    size, width, dashes = _NESTED[depth]
    return {"ms": size, "lw": width, "ls": dashes, "mfc": "none", "mew": 0.9}


def size_in_inches(ax: "Axes") -> tuple[float, float]:
    """Return the width and height of an Axes, as they are before the layout."""
    figure = ax.figure.get_figure(root=True)
    pixels = ax.get_window_extent()
    return pixels.width / figure.dpi, pixels.height / figure.dpi


def num_letters(width: float) -> int:
    """Return how many small letters fit into a width in inches, about."""
    points = _POINTS_PER_INCH * width
    return int(points / (_LETTER_WIDTH * SMALL))


def new_figure(size: tuple[float, float] | None = None) -> "Figure":
    """Return a figure that a notebook shows.

    Args:
        size: Width and height in inches; Matplotlib's own by default.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    module = checks.extra("matplotlib.figure", "plot")
    figure = module.Figure(figsize=size, layout="constrained")
    # Notebooks learn from pyplot how to show a figure, and nothing here imports it.
    figure._repr_png_ = functools.partial(_png, figure)
    return figure


def _png(figure: "Figure") -> bytes:
    """Draw a figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def axes_of_its_own(ax: "Axes | None") -> "Axes":
    """Return `ax`, or Axes in a new figure if it is None."""
    if ax is None:
        return new_figure().add_subplot()
    require_axes(ax)
    return ax


def require_axes(ax: object) -> None:
    """Require an Axes to draw on."""
    if not hasattr(ax, "set_xlabel"):
        raise InputError(
            f"ax={checks.show(ax)} is not an Axes; write plt.subplots()[1], for "
            "example."
        )


def require_fields(
    name: str, value: object, *, kind: str, fields: Sequence[str]
) -> None:
    """Require the attributes that a picture reads; any class will do.

    Args:
        name: The name of the argument.
        value: Its value.
        kind: The name of the usual class, such as "Signals", for the error message.
        fields: The names of the fields.
    """
    missing = [field for field in fields if not hasattr(value, field)]
    if missing:
        raise InputError(
            f"{name}={checks.show(value)} is not a {kind}: it has no "
            f"{', '.join(missing)}."
        )


def require_named(
    name: str, values: Mapping[str, T], *, kind: str, fields: Sequence[str]
) -> None:
    """Require a mapping that is not empty, whose values have these fields.

    The arguments are those of `require_fields`; `kind` is the usual class of a value.
    """
    if not isinstance(values, Mapping) or not values:
        raise InputError(
            f'{name}={checks.show(values)} holds no names; write {{"name": ...}}.'
        )
    for key, value in values.items():
        require_fields(f"{name}[{key!r}]", value, kind=kind, fields=fields)


def require_bins(bins: int | ArrayLike) -> None:
    """Require a number of bins, or increasing edges."""
    if np.ndim(bins) == 0:
        checks.integer("bins", bins, low=1)
        return
    edges = np.asarray(bins, float)
    if len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise InputError(
            f"bins={checks.show(bins)} are not edges; write two or more that rise."
        )


def literal(text: str) -> str:
    """Return a text of the user's, in which no dollar begins a formula of matplotlib.

    A name such as "a_$x$" would be set as a formula, or raise if it is none.
    """
    return text.replace("$", r"\$")


def name_points(ax: "Axes", names: Sequence[str]) -> None:
    """Label the ticks along x with the first point of each layer.

    It is usually the pre-activation. Labels that would overlap are left out. The other
    points of a layer, such as "layers/0:out", have a tick without a label.
    """
    layers = [name.partition(":")[0] for name in names]
    places = [i for i, layer in enumerate(layers) if layer not in layers[:i]]
    stride = -(-len(places) // _MOST_NAMES) or 1
    places = places[::stride]
    labels = [literal(names[i]) for i in places]
    ax.set_xticks(places, labels, rotation=60, ha="right")
    ax.tick_params(axis="x", labelsize=7)
    ax.set_xlim(-0.5, len(names) - 0.5)
