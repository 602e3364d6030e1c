"""Picture `phase_diagram`: one variable of a sweep over two of its axes."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.plots._plane import Cells, GridAxis, Plane, read_axis, read_cells
from isometry.plots._style import (
    LEGEND_ABOVE,
    literal,
    new_figure,
    require_axes,
    require_fields,
)
from isometry.plots._theory_curves import Curve, Theory, curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.patheffects import AbstractPathEffect
    from xarray import Dataset

# What is read of a Dataset.
_FIELDS = ("dims", "sizes", "coords", "variables", "attrs")

# In inches: the size of a new figure; the height of a row, or width of a column, for
# each name beyond the first twelve; the room of names along x, which are slanted.
_SIZE = (5.2, 4.0)
_NAME = 0.19
_FREE_NAMES = 12
_SLANTED = 0.9

# The numbers of a logarithmic axis that are written: the most lines along y, and the
# most characters along x. More would overlap in a figure of the size above.
_MOST_LINES = 16
_MOST_CHARACTERS = 42

# The style of cells without a colour, by the field of `Cells`.
_HATCHES = {
    "not_run": {"label": "not run", "hatch": "////", "facecolor": "0.97"},
    "failed": {"label": "failed", "hatch": "xxxx", "facecolor": "0.88"},
    "not_finite": {"label": "not finite", "hatch": "....", "facecolor": "0.97"},
}

# Of the curves of theory, which are all black.
_DASHES = ("-", "--", ":", "-.")


@public("plots.phase_diagram")
def phase_diagram(
    dataset: "Dataset",
    x: str,
    y: str,
    value: str,
    theory: Theory | None = None,
    *,
    ax: "Axes | None" = None,
    over: str | Iterable[str] = ("seed",),
    scale: Mapping[str, str] | None = None,
    norm: "str | Normalize | None" = None,
    cmap: "str | Colormap" = "viridis",
    contours: int | ArrayLike | None = None,
) -> "Axes":
    """Draw a variable of a sweep as a heat map over two of its axes.

    A colour is the mean over the runs of a cell that are done; a dot marks cells of
    which some are not. Cells without a value are hatched: never run, failed, or with a
    mean that is infinite or NaN. Cells reach halfway to their neighbours, so unevenly
    spaced axes are drawn right. Names have a row or column each, in their order.

    Args:
        dataset: What `isometry.sweeps.open` returns, or a Dataset like it. Without a
            variable `state` (0 absent, 1 done, 2 failed) every cell is done.
        x: The horizontal axis, a dimension.
        y: The vertical axis.
        value: The variable.
        theory: An activation, of which mean-field theory draws what it knows: over
            sigma_w and sigma_b the critical line, chi_1 = 1; over depth and one of them
            six times the depth scales of signals, xi_c, and of gradients, xi_grad.
            Networks train up to about 6 xi_c (Schoenholz et al., 2017, Fig. 5). The
            other sigma is a scalar coordinate, as `dataset.sel(sigma_b=0.05)` leaves
            it, or in `dataset.attrs`. This takes about a second. Or curves of your own,
            a mapping of labels to (xs, ys), where the place of a name on its axis is
            its index. The legend says which curves are not within the axes.
        ax: The Axes to draw on; None for one in a new figure, `ax.figure`.
        over: Dimensions over which the mean is taken.
        scale: "linear" or "log" for axes by name. By default an axis is logarithmic
            where the logarithms of its numbers are evenly spaced.
        norm: The colour scale: "linear", "log", or a norm of matplotlib. By default
            logarithmic if all values are positive and span more than two decades.
        cmap: The colour map of matplotlib.
        contours: Values at which contours are drawn, or how many. Both axes must be of
            numbers.

    Returns:
        The Axes.

    Raises:
        InputError: A name that is not known; a value that does not vary along both
            axes, or along another that is not in `over`; an axis that is empty; theory
            knows nothing of these axes, or not the other sigma.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> import xarray
        >>> dataset = xarray.Dataset(
        ...     {"loss": (("depth", "scheme"), [[0.5, 0.1], [0.9, 0.2]])},
        ...     {"depth": [4, 8], "scheme": ["gaussian", "orthogonal"]})
        >>> ax = plots.phase_diagram(dataset, "depth", "scheme", "loss")
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['gaussian', 'orthogonal']
    """
    require_fields("dataset", dataset, kind="Dataset", fields=_FIELDS)
    averaged = _as_names(over)
    _require_names(dataset, x, y, value=value, over=averaged)
    scales = _require_scales(scale, x, y)
    if ax is not None:
        require_axes(ax)
    x_axis = read_axis(dataset, x, scales)
    y_axis = read_axis(dataset, y, scales)
    if contours is not None:
        _require_contours(contours, (x_axis, y_axis))
    cells = read_cells(dataset, value, x=x_axis, y=y_axis, over=averaged)
    plane = Plane(x_axis, y_axis, cells)
    color_scale = _color_scale(norm, cells)
    lines = curves(theory, dataset, x=x_axis, y=y_axis)
    if ax is None:
        ax = _new_axes(x_axis, y_axis)
    _set_axes(ax, x_axis, y_axis)
    for kind, style in _HATCHES.items():
        _draw_hatched(ax, plane, is_hatched=getattr(cells, kind), style=style)
    if cells.finite.size:
        mesh = _draw_values(ax, plane, norm=color_scale, cmap=cmap)
        if contours is not None:
            _draw_contours(ax, plane, contours=contours, mesh=mesh)
    else:
        # There is no colour bar that would say what is missing.
        middle = {"transform": ax.transAxes, "ha": "center", "va": "center"}
        text = f"no value of {cells.label}"
        ax.text(0.5, 0.5, s=text, backgroundcolor="white", **middle)
    for line, dashes in zip(lines, itertools.cycle(_DASHES), strict=False):
        _draw_curve(ax, line, plane, dashes=dashes)
    # Last, when everything has its label.
    if ax.get_legend_handles_labels()[1]:
        ax.legend(ncols=3, fontsize=7, **LEGEND_ABOVE)
    return ax


def _require_names(
    dataset: "Dataset",
    x: str,
    y: str,
    *,
    value: str,
    over: Sequence[str],
) -> None:
    """Require that all names exist, and that no dimension is asked for twice."""
    variables = [
        name for name in map(str, dataset.variables) if name not in dataset.coords
    ]
    if not variables:
        raise InputError("dataset has no data variable; there is nothing to draw.")
    dims = [str(dim) for dim in dataset.dims]
    checks.one_of("x", x, dims)
    checks.one_of("y", y, dims)
    if x == y:
        raise InputError(f"x and y are both {x!r}; write two dimensions.")
    checks.one_of("value", value, variables)
    for dim in over:
        # The default is "seed", whether or not the dataset has seeds.
        checks.one_of("over", dim, [*dims, "seed"])
    # The default does not keep seeds from being an axis.
    asked = [x, y, *(dim for dim in over if dim != "seed")]
    repeated = [dim for dim in dims if max(asked.count(dim), over.count(dim)) > 1]
    if repeated:
        raise InputError(
            f"over={tuple(over)!r} repeats {repeated[0]!r}, or an axis of the plane; "
            "write each dimension once."
        )


def _as_names(over: str | Iterable[str]) -> tuple[str, ...]:
    """Return one name or several as a tuple."""
    if isinstance(over, str):
        return (over,)
    if not isinstance(over, Iterable):
        raise InputError(
            f"over={checks.show(over)} does not name a dimension; write ('seed',)."
        )
    return tuple(over)


def _require_scales(scale: Mapping[str, str] | None, x: str, y: str) -> dict[str, str]:
    """Require scales by the names of axes, and return them."""
    if scale is None:
        return {}
    if not isinstance(scale, Mapping):
        raise InputError(
            f'scale={checks.show(scale)} does not name an axis; write {{"{x}": "log"}}.'
        )
    for name, kind in scale.items():
        checks.one_of("scale", name, (x, y))
        checks.one_of(f"scale[{name!r}]", kind, ("linear", "log"))
    return dict(scale)


def _require_contours(contours: int | ArrayLike, axes: Sequence[GridAxis]) -> None:
    """Require a number of contours or rising values, and axes on which they exist."""
    for axis in axes:
        if axis.names is not None:
            raise InputError(
                f"contours={checks.show(contours)} need two axes of numbers, and "
                f"{axis.name!r} is one of names; write contours=None."
            )
        if len(axis.places) < 2:
            raise InputError(
                f"contours={checks.show(contours)} need two values on every axis, and "
                f"{axis.name!r} has one; write contours=None."
            )
    if np.ndim(contours) == 0:
        checks.integer("contours", contours, low=1)
        return
    levels = np.asarray(contours, float)
    if levels.ndim > 1 or not len(levels) or not np.all(np.diff(levels) > 0):
        raise InputError(
            f"contours={checks.show(contours)} are not rising numbers; "
            "write [0.5, 1.0], for example."
        )


def _color_scale(norm: "str | Normalize | None", cells: Cells) -> "str | Normalize":
    """Return the colour scale: the user's, or the one that the values want."""
    if norm is None:
        return "log" if cells.wants_log else "linear"
    if isinstance(norm, str):
        checks.one_of("norm", norm, ("linear", "log"))
        num_hidden = int((cells.finite <= 0).sum())
        if norm == "log" and num_hidden:
            raise InputError(
                f"norm='log' has no colour for {num_hidden} values that are not "
                "positive; write 'linear', or a SymLogNorm of matplotlib."
            )
    elif not hasattr(norm, "vmin"):
        raise InputError(
            f"norm={checks.show(norm)} is not a colour scale; write 'linear', 'log', "
            "or a norm of matplotlib.colors."
        )
    return norm


def _new_axes(x: GridAxis, y: GridAxis) -> "Axes":
    """Return Axes in a new figure, with room for every name."""
    width = _SIZE[0] + _NAME * max(_num_names(x) - _FREE_NAMES, 0)
    height = _SIZE[1] + _NAME * max(_num_names(y) - _FREE_NAMES, 0)
    if x.names is not None:
        height += _SLANTED
    return new_figure((width, height)).add_subplot()


def _num_names(axis: GridAxis) -> int:
    return 0 if axis.names is None else len(axis.names)


def _set_axes(ax: "Axes", x: GridAxis, y: GridAxis) -> None:
    """Set the scale, ticks, labels and limits of both axes."""
    ax.set_xscale(x.scale)
    ax.set_yscale(y.scale)
    ax.set_xlabel(x.label)
    ax.set_ylabel(y.label)
    ax.set_xlim(x.edges[0], x.edges[-1])
    ax.set_ylim(y.edges[0], y.edges[-1])
    for axis, direction in ((x, ax.xaxis), (y, ax.yaxis)):
        if axis.names is not None:
            names = [literal(name) for name in axis.names]
            direction.set_ticks(axis.places, names)
        elif axis.is_log:
            # Powers of ten alone would leave most of such an axis without a number.
            texts = [_written(place) for place in axis.places]
            crowding = len(texts) / _MOST_LINES
            if axis is x:
                crowding = len(" ".join(texts)) / _MOST_CHARACTERS
            stride = max(math.ceil(crowding), 1)
            direction.set_ticks(axis.places[::stride], texts[::stride])
            direction.set_ticks([], minor=True)
        elif np.array_equal(axis.places, np.round(axis.places)):
            # There is no depth of 2.5.
            ticker = checks.extra("matplotlib.ticker", "plot")
            direction.set_major_locator(ticker.MaxNLocator(integer=True))
    if x.names is not None:
        ax.tick_params(axis="x", labelrotation=60)
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    if y.names is not None:
        # Names are read from the top.
        ax.invert_yaxis()


def _written(number: float) -> str:
    """Write a whole number in full, another to three digits."""
    if number == round(number):
        return f"{number:g}"
    return f"{number:.3g}"


def _draw_values(
    ax: "Axes",
    plane: Plane,
    *,
    norm: "str | Normalize",
    cmap: "str | Colormap",
) -> "QuadMesh":
    """Draw the finite means with their colour bar, and return the mesh."""
    x, y, cells = plane
    mean = np.ma.masked_invalid(cells.mean)
    mesh = ax.pcolormesh(x.edges, y.edges, mean, norm=norm, cmap=cmap, rasterized=True)
    ax.figure.colorbar(mesh, ax=ax, label=cells.label)
    rows, columns = np.nonzero(cells.partial)
    if len(rows):
        ax.plot(
            x.places[columns],
            y.places[rows],
            ls="none",
            marker="o",
            ms=3.5,
            mfc="white",
            mec="black",
            mew=0.6,
            label="some runs missing",
        )
    return mesh


def _draw_hatched(
    ax: "Axes",
    plane: Plane,
    *,
    is_hatched: Bool[np.ndarray, "y x"],
    style: Mapping[str, str],
) -> None:
    """Hatch the cells of one kind, with one entry in the legend."""
    x, y = plane.x, plane.y
    rows, columns = np.nonzero(is_hatched)
    if not len(rows):
        return
    corners = [
        (x.edges[columns + right], y.edges[rows + up])
        for right, up in ((0, 0), (1, 0), (1, 1), (0, 1))
    ]
    # (corners, 2, cells) as matplotlib takes it, (cells, corners, 2).
    outlines = np.moveaxis(np.array(corners), 2, 0)
    collections = checks.extra("matplotlib.collections", "plot")
    hatched = collections.PolyCollection(outlines, edgecolor="0.45", lw=0, **style)
    # Limits are those of the axes, which are set.
    ax.add_collection(hatched, autolim=False)


def _draw_contours(
    ax: "Axes",
    plane: Plane,
    *,
    contours: int | ArrayLike,
    mesh: "QuadMesh",
) -> None:
    """Draw contours of the finite means, with their values."""
    x, y, cells = plane
    levels = np.asarray(contours, float)
    if np.ndim(contours) == 0:
        # Evenly spaced on the colour scale, whatever that is.
        shares = np.linspace(0, 1, int(levels) + 2)[1:-1]
        norm = cast("Normalize", mesh.norm)
        levels = np.asarray(norm.inverse(shares))
    # matplotlib warns of values that no cell reaches; there is nothing to draw of them.
    is_reached = (levels > cells.finite.min()) & (levels < cells.finite.max())
    if not is_reached.any():
        return
    # White with a dark outline, and in front of the curves of theory, with which they
    # should coincide.
    drawn = ax.contour(
        x.places,
        y.places,
        np.ma.masked_invalid(cells.mean),
        levels=levels[is_reached],
        colors="white",
        linewidths=0.7,
        zorder=4,
    )
    outline = _outline(color="0.2", width=1.7)
    drawn.set_path_effects(outline)
    for label in ax.clabel(drawn, fontsize=7, fmt="%.3g", zorder=5):
        label.set_path_effects(outline)


def _draw_curve(
    ax: "Axes",
    curve: Curve,
    plane: Plane,
    *,
    dashes: str,
) -> None:
    """Draw a curve of theory, or say in the legend that it is not within the axes."""
    is_inside = plane.x.holds(curve.x) & plane.y.holds(curve.y)
    if not is_inside.any():
        ax.plot([], ls="none", label=f"{curve.label}: not within these axes")
        return
    marker = "D" if curve.is_point else ""
    ax.plot(
        curve.x,
        curve.y,
        color="black",
        ls=dashes,
        lw=1.6,
        marker=marker,
        ms=4,
        label=curve.label,
        # Black with a white outline stays visible on every colour and on hatching.
        path_effects=_outline(color="white", width=3.2),
        # Above the marks of cells.
        zorder=3,
    )


def _outline(*, color: str, width: float) -> "list[AbstractPathEffect]":
    """Return the effect that draws a line or a text over a wider one of this color."""
    effects = checks.extra("matplotlib.patheffects", "plot")
    return [effects.withStroke(linewidth=width, foreground=color)]
