"""The plane of a sweep that a picture shows: two axes, and what is known of each cell.

A sweep's Dataset has a dimension with a coordinate for each axis of its grid. Values of
a coordinate stand in the order in which they were added, so numbers are sorted here.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry.plots._style import Edges, Line, literal

if TYPE_CHECKING:
    from xarray import Dataset, Variable

# What `state` holds of a cell.
_ABSENT, _DONE, _FAILED = 0, 1, 2

_LETTERS = {"sigma_w": "$\\sigma_w$", "sigma_b": "$\\sigma_b$"}

# An axis is logarithmic if its numbers span this factor, and the largest of the steps
# between their logarithms is at most so many times the smallest. 4, 8, 16 is, and so is
# 6, 10, 16, 25, whose steps are rounded. With a ratio of 3, axes of numbers that were
# set by hand, narrower around a transition, would be taken for logarithmic.
_LOG_SPAN = 4.0
_LOG_EVEN = 1.5

# A colour scale is logarithmic if positive values span more than this factor: on a
# linear one, more than half of them could not be told from zero.
_LOG_VALUES = 100.0


class GridAxis(NamedTuple):
    """An axis of the plane, in the order in which it is drawn.

    Attributes:
        name: The dimension.
        label: What is written along the axis.
        places: The centres of cells: the numbers, or 0, 1, 2, … for names.
        edges: The edges of cells, one more than there are places.
        scale: "linear" or "log".
        names: The names; None for an axis of numbers.
        order: Where each place stands in the Dataset.
    """

    name: str
    label: str
    places: Line
    edges: Edges
    scale: str
    names: tuple[str, ...] | None
    order: Shaped[np.ndarray, " x"]

    @property
    def is_log(self) -> bool:
        """Whether the axis is logarithmic."""
        return self.scale == "log"

    def position(self, value: ArrayLike) -> Float[np.ndarray, "..."]:
        """Return where values are on the axis, from 0 to 1; others are moved to an end.

        NaN stays NaN.
        """
        low, high = self.edges[0], self.edges[-1]
        clipped = np.clip(np.asarray(value, float), low, high)
        if self.is_log:
            return np.asarray(np.log(clipped / low) / np.log(high / low))
        return np.asarray((clipped - low) / (high - low))

    def at(self, position: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Return the values at positions from 0 to 1."""
        low, high = self.edges[0], self.edges[-1]
        if self.is_log:
            return low * (high / low) ** position
        return low + (high - low) * position

    def holds(self, value: Float[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
        """Tell which values are within the axis; NaN is not."""
        return (value >= self.edges[0]) & (value <= self.edges[-1])


class Cells(NamedTuple):
    """What is known of each cell of the plane.

    A cell is of one of the four kinds, by the runs over which it is averaged: `finite`
    if some are done and their mean is finite.

    Attributes:
        label: What the values are.
        mean: The mean over runs that are done; NaN unless the cell is finite.
        not_finite: Some are done, and their mean is infinite or NaN.
        failed: None is done, and some failed.
        not_run: None was run.
        partial: Whether a finite cell lacks some of the runs.
    """

    label: str
    mean: Float[np.ndarray, "y x"]
    not_finite: Bool[np.ndarray, "y x"]
    failed: Bool[np.ndarray, "y x"]
    not_run: Bool[np.ndarray, "y x"]
    partial: Bool[np.ndarray, "y x"]

    @property
    def finite(self) -> Float[np.ndarray, " values"]:
        """The values that are drawn as colours."""
        return self.mean[np.isfinite(self.mean)]

    @property
    def wants_log(self) -> bool:
        """Whether the values want a logarithmic scale: positive, over two decades."""
        low = self.finite.min(initial=np.inf)
        high = self.finite.max(initial=0.0)
        return bool(low > 0 and high > _LOG_VALUES * low)


class Plane(NamedTuple):
    """The plane of a sweep: its axes, and the cells between them."""

    x: GridAxis
    y: GridAxis
    cells: Cells


def read_axis(
    dataset: "Dataset",
    name: str,
    scales: Mapping[str, str],
) -> GridAxis:
    """Read an axis of the plane.

    Args:
        dataset: The Dataset.
        name: The dimension.
        scales: Maps names of axes to "linear" or "log". Others get a scale chosen from
            their numbers.

    Raises:
        InputError: The axis is empty, holds a number twice or one that is not finite,
            or a scale is given that it cannot have.
    """
    size = dataset.sizes[name]
    if size == 0:
        raise InputError(f"the dimension {name!r} is empty; there is nothing to draw.")
    # A dimension without a coordinate is numbered.
    label = literal(name)
    values = np.arange(size)
    if name in dataset.coords:
        label = label_of(name, dataset.variables[name])
        values = np.asarray(dataset.variables[name].values)
    if not checks.is_real(values.dtype):
        if name in scales:
            raise InputError(
                f"scale has {name!r}, but its values are no numbers; leave it out."
            )
        # The order of names is the one in which they were given.
        return GridAxis(
            name,
            label,
            places=np.arange(size, dtype=float),
            edges=np.arange(size + 1) - 0.5,
            scale="linear",
            names=tuple(str(value) for value in values),
            order=np.arange(size),
        )
    order = np.argsort(values)
    places = values[order].astype(float)
    _require_distinct(name, places)
    scale = scales.get(name, _natural_scale(places))
    if scale == "log" and places[0] <= 0:
        raise InputError(
            f"scale has {name!r} as log, but the axis holds {places[0]:g}; "
            'write "linear".'
        )
    return GridAxis(
        name,
        label,
        places=places,
        edges=_edges(places, scale=scale),
        scale=scale,
        names=None,
        order=order,
    )


def label_of(name: str, variable: "Variable") -> str:
    """Return the long name of a variable with its unit, or the name it goes by."""
    # The field knows these two by their letters.
    if name in _LETTERS:
        return _LETTERS[name]
    # A long name is written for pictures, and may hold a formula.
    label = str(variable.attrs.get("long_name", literal(name)))
    units = str(variable.attrs.get("units", ""))
    # "1" is how files say that a quantity has no unit.
    if units in ("", "1"):
        return label
    return f"{label} ({units})"


def _require_distinct(name: str, places: Line) -> None:
    """Require numbers, in rising order, that are finite and differ."""
    if not np.isfinite(places).all():
        raise InputError(f"the axis {name!r} holds a number that is not finite.")
    is_repeated = np.diff(places) == 0
    if is_repeated.any():
        repeated = places[:-1][is_repeated][0]
        raise InputError(
            f"the axis {name!r} holds {repeated:g} twice; select one of the two with "
            f"dataset.drop_duplicates({name!r})."
        )


def _natural_scale(places: Line) -> str:
    """Return "log" for numbers whose logarithms are evenly spaced, as in 4, 8, 16."""
    if len(places) < 3 or places[0] <= 0 or places[-1] / places[0] < _LOG_SPAN:
        return "linear"
    linear = np.diff(places)
    log = np.diff(np.log(places))
    log_unevenness = log.max() / log.min()
    is_even = log_unevenness <= _LOG_EVEN
    if is_even and log_unevenness < linear.max() / linear.min():
        return "log"
    return "linear"


def _edges(places: Line, *, scale: str) -> Edges:
    """Return the edges of cells, halfway between their centres on the scale."""
    if scale == "log":
        return np.exp(_edges(np.log(places), scale="linear"))
    if len(places) == 1:
        # A single cell has no neighbour, and any width shows where it is.
        return places[0] + np.array([-0.5, 0.5])
    inner = (places[:-1] + places[1:]) / 2
    first = 2 * places[0] - inner[0]
    last = 2 * places[-1] - inner[-1]
    return np.r_[first, inner, last]


def read_cells(
    dataset: "Dataset",
    value: str,
    *,
    x: GridAxis,
    y: GridAxis,
    over: Sequence[str],
) -> Cells:
    """Return a variable's mean over the completed runs in each cell of the plane.

    Args:
        dataset: The Dataset.
        value: The variable.
        x: The horizontal axis.
        y: The vertical axis.
        over: Dimensions over which the mean is taken.

    Raises:
        InputError: The variable does not vary along an axis, or varies along a
            dimension that is neither an axis nor in `over`; it does not hold numbers;
            `state` holds something else than 0, 1 and 2.
    """
    variable = dataset.variables[value]
    for name, axis in (("x", x.name), ("y", y.name)):
        if axis not in variable.dims:
            raise InputError(
                f"value={value!r} does not vary along {name}={axis!r}; "
                f"its dimensions are {', '.join(map(str, variable.dims))}."
            )
    averaged = [str(dim) for dim in variable.dims if dim not in (x.name, y.name)]
    for dim in averaged:
        if dim not in over:
            raise InputError(_leftover(dataset, value, dim, over=over))
    if not checks.holds_numbers(np.empty(0, variable.dtype)):
        raise InputError(f"value={value!r} holds {variable.dtype}, not numbers.")
    dims = [y.name, x.name, *averaged]
    values = _arranged(variable, dims)
    if np.iscomplexobj(values):
        raise InputError(f"value={value!r} is complex; write its abs or real part.")
    # Without a state every cell is done.
    states = np.array(_DONE)
    if "state" in dataset.variables:
        state = dataset.variables["state"]
        # The mean over seeds may have been taken before, and the state still has them.
        extra = [str(dim) for dim in state.dims if dim not in dims]
        states = _arranged(state, [*dims, *extra])
        _require_states(states)
        values = values.reshape(values.shape + (1,) * len(extra))
    values, states = np.broadcast_arrays(values, states)
    # One axis for all the runs of a cell, in place of those that are averaged over.
    cells = np.ix_(y.order, x.order)
    shape = (len(y.order), len(x.order), -1)
    by_run = values[cells].astype(float).reshape(shape)
    label = _label(dataset, value, averaged)
    return _summarized(by_run, states[cells].reshape(shape), label)


def _arranged(
    variable: "Variable", dims: Sequence[str]
) -> Shaped[np.ndarray, "*lengths"]:
    """Return an array with these dimensions in order, of length 1 where it has none."""
    own = [dim for dim in dims if dim in variable.dims]
    array = np.asarray(variable.transpose(*own).values)
    missing = [i for i, dim in enumerate(dims) if dim not in own]
    return np.expand_dims(array, tuple(missing))


def _require_states(states: Shaped[np.ndarray, "..."]) -> None:
    """Require the numbers that stand for absent, done and failed."""
    is_known = np.isin(states, (_ABSENT, _DONE, _FAILED))
    if not is_known.all():
        raise InputError(
            f"dataset.state holds {states[~is_known][0]}, and not only 0 (absent), 1 "
            "(done) and 2 (failed); was the dataset averaged? Pass it as it was opened "
            "and name the axes of the mean: over=('seed',)."
        )


def _leftover(
    dataset: "Dataset",
    value: str,
    dim: str,
    *,
    over: Sequence[str],
) -> str:
    """Return the error message for a dimension that is neither an axis nor averaged."""
    select = f"dataset.isel({dim}=0)"
    if dim in dataset.coords:
        first = dataset.variables[dim].values[:1].tolist()
        if first:
            select = f"dataset.sel({dim}={first[0]!r})"
    every = (*over, dim)
    return (
        f"value={value!r} also varies along {dim!r} ({dataset.sizes[dim]} values); "
        f"select one, as in {select}, or take the mean: over={every!r}."
    )


def _label(dataset: "Dataset", value: str, averaged: Sequence[str]) -> str:
    """Return the label of the values, which names what they are averaged over."""
    label = label_of(value, dataset.variables[value])
    several = [dim for dim in averaged if dataset.sizes[dim] > 1]
    if not several:
        return label
    counts = [f"{dataset.sizes[dim]} {literal(dim)}s" for dim in several]
    return f"{label}\n(mean of {' × '.join(counts)})"


def _summarized(
    by_run: Float[np.ndarray, "y x runs"],
    states: Shaped[np.ndarray, "y x runs"],
    label: str,
) -> Cells:
    """Average the runs of each cell that are done, and judge those that are not."""
    is_done = states == _DONE
    num_done = is_done.sum(-1)
    # A run that is done and not finite makes its mean infinite or NaN: to leave it out
    # would show the mean of survivors.
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.where(is_done, by_run, 0.0).sum(-1)
        mean = total / np.maximum(num_done, 1)
    has_done = num_done > 0
    has_failed = (states == _FAILED).any(-1)
    is_finite = has_done & np.isfinite(mean)
    return Cells(
        label,
        mean=np.where(is_finite, mean, np.nan),
        not_finite=has_done & ~is_finite,
        failed=~has_done & has_failed,
        not_run=~has_done & ~has_failed,
        partial=is_finite & (num_done < states.shape[-1]),
    )
