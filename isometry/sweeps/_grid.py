"""The grid of a sweep: named axes, and the points where they cross."""

import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from isometry._internal import checks
from isometry._internal.errors import InputError

Label: TypeAlias = bool | int | float | str
# The position of a cell on each axis.
Index: TypeAlias = tuple[int, ...]
# What `run` gets: the value on each axis.
Point: TypeAlias = dict[str, object]

# Variables of the store that no axis may be named like.
RESERVED = ("state", "error")

# The axis of a grid that is given as a mapping from labels to networks.
_NETWORK = "network"

# Files of zarr in a folder of an array or a group.
_METADATA = "zarr.json"
_PARTIAL = ".partial"

# Integers beyond this have no exact float, and no int64 soon after.
LARGEST_INTEGER = 2**53


@dataclass(frozen=True)
class Axis:
    """One axis of a grid.

    Attributes:
        name: The name.
        labels: Numbers or names, all different: the coordinates in the store.
        objects: What `run` gets at each label, of an axis that was given as a mapping
            from labels to objects; None if it gets the labels.
    """

    name: str
    labels: tuple[Label, ...]
    objects: tuple[object, ...] | None = None

    @property
    def values(self) -> tuple[object, ...]:
        """What `run` gets at each label."""
        if self.objects is None:
            return self.labels
        return self.objects

    @property
    def kind(self) -> type:
        """The type of the labels: bool, int, float or str."""
        return type(self.labels[0])

    def arranged(self, labels: Sequence[Label]) -> "Axis":
        """Return this axis with its labels in another order, and as they are there."""
        objects = None
        if self.objects is not None:
            positions = [self.labels.index(label) for label in labels]
            objects = tuple(self.objects[position] for position in positions)
        return Axis(self.name, tuple(labels), objects)


@dataclass(frozen=True)
class Grid:
    """All combinations of the values on several axes.

    Attributes:
        axes: The axes, in the order of the dimensions in the store.
    """

    axes: tuple[Axis, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the axes."""
        return tuple(axis.name for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values on each axis."""
        return tuple(len(axis.labels) for axis in self.axes)

    @property
    def size(self) -> int:
        """The number of cells."""
        return math.prod(self.shape)

    def point(self, index: Index) -> Point:
        """Return the values at a cell."""
        pairs = zip(self.axes, index, strict=True)
        return {axis.name: axis.values[position] for axis, position in pairs}

    def labels(self, index: Index) -> dict[str, Label]:
        """Return the coordinates of a cell."""
        pairs = zip(self.axes, index, strict=True)
        return {axis.name: axis.labels[position] for axis, position in pairs}

    def show(self, index: Index) -> str:
        """Return the coordinates of a cell as they stand in a message."""
        labels = self.labels(index)
        return ", ".join(f"{name}={label!r}" for name, label in labels.items())

    def identity(self, index: Index) -> str:
        """Return a text that is the same for equal coordinates, whatever the grid.

        The random key of a cell is made from it. It does not depend on the order of
        the axes, on the other values of the grid, or on whether a whole number is
        written as an int or as a float.
        """
        items = sorted(self.labels(index).items())
        return json.dumps([[name, _canonical(label)] for name, label in items])


def grid_of(given: Mapping[str, object]) -> Grid:
    """Make a grid from what the user passes.

    Args:
        given: Names of axes and their values; or labels and networks, which are then
            the values of one axis "network".

    Raises:
        InputError: `given` is no mapping, names nothing, or an axis cannot be used.
    """
    if not isinstance(given, Mapping) or not given:
        raise InputError(
            f"grid={checks.show(given)} has no axes; write a mapping such as "
            '{"sigma_w": [1.0, 1.5], "seed": range(3)}.'
        )
    # Networks and other models can be called; values of an axis, which are several,
    # cannot.
    if all(callable(value) for value in given.values()):
        given = {_NETWORK: given}
    axes = tuple(_axis_of(name, values) for name, values in given.items())
    return Grid(axes)


def _axis_of(name: object, values: object) -> Axis:
    """Make an axis, or say what is wrong with it."""
    if not isinstance(name, str) or not is_name(name) or name in RESERVED:
        reserved = " and ".join(RESERVED)
        raise InputError(
            f"grid has an axis {checks.show(name)}; an axis is named by a text without "
            f"'/' and spaces around it, other than {reserved}."
        )
    where = f"grid[{name!r}]"
    if isinstance(values, Mapping):
        labels = [_label(where, label) for label in values]
        objects = tuple(values.values())
    else:
        labels = [_label(where, value) for value in _several(where, values)]
        objects = None
    labels = _of_one_kind(where, labels)
    if not labels:
        raise InputError(f"{where} is empty; write at least one value.")
    seen: set[object] = set()
    for label in labels:
        text = _canonical(label)
        if text in seen:
            raise InputError(f"{where} holds {label!r} more than once.")
        seen.add(text)
    return Axis(name, tuple(labels), objects)


def is_name(text: str) -> bool:
    """Tell whether a text can name an axis or a variable, and so a folder."""
    is_bare = text.strip() == text and 0 < len(text.encode(errors="replace")) <= 200
    is_plain = not any(character in text for character in "/\\\0")
    is_folder = not text.startswith(".") and not text.endswith(_PARTIAL)
    return is_bare and is_plain and is_folder and is_unicode(text) and text != _METADATA


def is_unicode(text: str) -> bool:
    """Tell whether a text has bytes, which halves of surrogate pairs have not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _several(where: str, values: object) -> Iterable[object]:
    """Return the values of an axis, once it is clear that they are several.

    Raises:
        InputError: They are a single value, a text, or an array that is not
            one-dimensional.
    """
    ndim = getattr(values, "ndim", 1)
    # A text is iterable, but its letters are not values.
    is_text = isinstance(values, str | bytes)
    if isinstance(values, Iterable) and not is_text and ndim == 1:
        return values
    raise InputError(
        f"{where}={checks.show(values)} is no list of numbers or names; write "
        f"[{checks.show(values)}], or a mapping from labels to objects."
    )


def _label(where: str, value: object) -> Label:
    """Return a number or a name as Python's own type."""
    if isinstance(value, str) and is_unicode(value):
        return str(value)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if getattr(value, "ndim", 0) == 0:
        try:
            return operator.index(value)  # pyright: ignore[reportArgumentType]
        except TypeError:
            pass
        dtype = getattr(value, "dtype", None)
        is_real = dtype is None or np.issubdtype(np.asarray(value).dtype, np.floating)
        # Also numbers of NumPy and JAX, which know how to become a float.
        if hasattr(value, "__float__") and is_real:
            number = float(value)  # pyright: ignore[reportArgumentType]
            if not math.isnan(number):
                return number
    raise InputError(
        f"{where} holds {checks.show(value)}, which is no number and no name; write a "
        "mapping from labels to objects."
    )


def _of_one_kind(where: str, labels: list[Label]) -> list[Label]:
    """Require labels of one kind; integers beside floats become floats."""
    kinds = {type(label) for label in labels}
    if kinds == {int, float}:
        return [float(label) for label in labels]
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InputError(f"{where} holds values of several kinds ({names}).")
    if kinds == {int} and any(abs(int(label)) > LARGEST_INTEGER for label in labels):
        raise InputError(f"{where} holds integers beyond 2**53; write their names.")
    return labels


def _canonical(label: Label) -> bool | int | float | str:
    """Return one representative of all labels that are equal."""
    # 0.0 and -0.0, 1 and 1.0 are equal, and have one representative: the integer.
    if not isinstance(label, float) or not label.is_integer():
        return label
    if abs(label) > LARGEST_INTEGER:
        return label
    return int(label)
