"""Which values of f one call reads: many points, in one program."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from isometry._internal import kinds, memory
from isometry.measure._function import Reference
from isometry.measure._spans import Point
from isometry.structure import Anatomy
from isometry.structure._anatomy import in_order, tap_of
from isometry.structure._place import Inputs, Place
from isometry.structure._tapping import Mode, Tapped, reading_shape, tapped

Function: TypeAlias = Callable[..., Array]


class Group(NamedTuple):
    """The points whose values one variable of the jaxpr holds.

    A value is read or perturbed at its variable, so the points of a group share the
    operations of the program. Outside of scans a group is one point. In the body of a
    scan, the variable holds one value in each iteration, and some or all of these are
    points. The floating leaves of x together are a group of one point, "input".

    Attributes:
        place: The variable, in all iterations of the scans around it; or the leaves.
        names: The names of the points.
        iterations: For each point, its iteration in each of the scans; empty outside
            scans.
        lengths: The number of iterations of each of the scans, outermost first.
        shape: Shape of the value in one iteration.
        dtype: Dtype of the value.
    """

    place: Place | Inputs
    names: tuple[str, ...]
    iterations: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def label(self) -> str:
        """The name by which the rewritten program knows the group."""
        return self.names[0]

    @property
    def size(self) -> int:
        """The number of entries of the value at one point."""
        return math.prod(self.shape)

    def stacked(self, leading: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return the shape of all iterations: (*leading, *lengths, *shape)."""
        return (*leading, *self.lengths, *self.shape)

    def rows(
        self,
        stacked: Array,
        num_leading: int = 0,
    ) -> Array:
        """Select the values at the points, and flatten each of them.

        Args:
            stacked: The values of all iterations, of shape (*leading, *lengths,
                *shape).
            num_leading: The number of leading axes.

        Returns:
            Shape (*leading, points, size).
        """
        leading = stacked.shape[:num_leading]
        num_iterations = math.prod(self.lengths)
        flat = stacked.reshape(*leading, num_iterations, self.size)
        numbers = self.numbers_of_points()
        # Usually all iterations are points, and nothing need be copied.
        if np.array_equal(numbers, np.arange(num_iterations)):
            return flat
        return jnp.take(flat, numbers, axis=num_leading)

    def is_point(self) -> np.ndarray:
        """Return for each iteration whether its value is a point: shape `lengths`."""
        # A NumPy array, because it does not depend on traced values.
        is_point = np.zeros(math.prod(self.lengths), bool)
        is_point[self.numbers_of_points()] = True
        return is_point.reshape(self.lengths)

    def numbers_of_points(self) -> np.ndarray:
        """Return the numbers of the iterations that are points.

        Iterations of nested scans are numbered with the innermost fastest (C order).
        """
        # Outside loops there is one iteration.
        if not self.lengths:
            return np.zeros(1, int)
        numbers = np.ravel_multi_index(np.array(self.iterations).T, self.lengths)
        return np.asarray(numbers)


def grouped(
    anatomy: Anatomy,
    names: Iterable[str],
) -> tuple[Group, ...]:
    """Group points by the variable of the jaxpr that holds their values.

    The iterations of a scan share a variable, so scanned layers are one group. If two
    points are the same value, only the first is kept.
    """
    # In the order of names, which a dictionary keeps.
    members: dict[tuple, dict[tuple[int, ...], str]] = {}
    groups = []
    for name in names:
        place = tap_of(anatomy, name)
        if isinstance(place, Inputs):
            groups.append(_group_of_inputs(anatomy, name, place))
            continue
        members.setdefault((place.path, place.var), {}).setdefault(
            place.iterations, name
        )
    for (path, var), by_iterations in members.items():
        iterations = tuple(by_iterations)
        # A place without iterations is the variable in all of them.
        all_iterations = Place(path, var, ())
        # What is read there has one leading axis for each scan.
        stacked = reading_shape([anatomy.closed], all_iterations).shape
        lengths = stacked[: len(stacked) - len(var.aval.shape)]
        group = Group(
            place=all_iterations,
            names=tuple(by_iterations.values()),
            iterations=iterations,
            lengths=lengths,
            shape=tuple(var.aval.shape),
            dtype=var.aval.dtype,
        )
        groups.append(group)
    return tuple(groups)


def _group_of_inputs(anatomy: Anatomy, name: str, inputs: Inputs) -> Group:
    """Return the group of the floating leaves of x together."""
    whole = anatomy.shape(name)
    return Group(
        place=inputs,
        names=(name,),
        iterations=((),),
        lengths=(),
        shape=whole.shape,
        dtype=whole.dtype,
    )


@dataclass(frozen=True)
class Plan:
    """Which values of f one call reads.

    Plans are static arguments of compiled programs. They are equal if they read the
    same values of the same program, so that it is compiled once.

    Attributes:
        f: The function.
        shapes: Shapes and dtypes of params and x, and their trees.
        program: Identifies the jaxpr of f, which changes if a flag that f closes over
            does.
        first: The point where the span starts.
        last: The point where it ends.
        names: The names of the points that are read, in the order of the computation.
        dtype: The dtype of the measurement.
        anatomy: The anatomy of f.
        groups: The same points, grouped by the variable that holds them.
    """

    f: Reference
    shapes: tuple
    program: Hashable
    first: Point
    last: Point
    names: tuple[str, ...]
    dtype: np.dtype
    anatomy: Anatomy = field(compare=False)
    groups: tuple[Group, ...] = field(compare=False)

    @property
    def constants(self) -> list[Array]:
        """The arrays that f closes over, in the order of its jaxpr.

        They may change between calls, so that compiled programs take them as an
        argument.
        """
        return self.anatomy.closed.consts

    def tapped(
        self,
        constants: list[Array],
        mode: Mode,
        more: Mapping[str, Place | Inputs] = MappingProxyType({}),
    ) -> Tapped:
        """Return f rewritten to read, and perturb, the values of all groups.

        Args:
            constants: The arrays that f closes over, as in `constants`.
            mode: How values are perturbed: `ADD` or `CUT`.
            more: Other places that are read and perturbed, by labels of their own.

        Returns:
            A function as `structure._tapping.tapped` returns it.
        """
        # As arguments: closed over, they would be copied into the program.
        closed = core.ClosedJaxpr(self.anatomy.closed.jaxpr, constants)
        return tapped(closed, {**self.places, **more}, mode)

    @property
    def places(self) -> dict[str, Place | Inputs]:
        """The place of each group in the program, by its label."""
        return {group.label: group.place for group in self.groups}

    @property
    def order(self) -> np.ndarray:
        """For each of `names`, its index among the points of all groups together."""
        names = [name for group in self.groups for name in group.names]
        position = {name: row for row, name in enumerate(names)}
        return np.array([position[name] for name in self.names])

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of entries of the value at each point, in the order of `names`."""
        by_name = {name: g.size for g in self.groups for name in g.names}
        return tuple(by_name[name] for name in self.names)

    def size_at(self, name: str) -> int:
        """Return the number of entries at a point that the span selects."""
        entries = self.entries(name)
        if entries is not None:
            return len(entries)
        return dict(zip(self.names, self.sizes, strict=True))[name]

    def entries(self, name: str) -> np.ndarray | None:
        """Return which entries of the flattened value at a point the span selects.

        None for all: the index of a span selects entries at its ends only.
        """
        for point in (self.first, self.last):
            if point.name == name and point.index:
                shape = self.anatomy.shape(name).shape
                numbers = np.arange(math.prod(shape)).reshape(shape)
                return numbers[point.index].ravel()
        return None

    def flat(self, values: dict[str, Array]) -> Array:
        """Return the values at all points as one vector, group after group."""
        return jnp.concatenate([row.ravel() for row in self.rows(values)])

    def rows(
        self,
        values: dict[str, Array],
        num_leading: int = 0,
    ) -> list[Array]:
        """Return the values at the points of each group, a row for each point.

        Args:
            values: For each group by label, the values of all iterations.
            num_leading: The number of leading axes that the values have.

        Returns:
            For each group an array (*leading, points, size), in the dtype of the
            measurement.
        """
        return [
            group.rows(values[group.label], num_leading).astype(self.dtype)
            for group in self.groups
        ]

    def split(self, vectors: Array) -> dict[str, Array]:
        """Undo `flat`, for a stack of vectors.

        Args:
            vectors: Shape (vectors, entries at all points).

        Returns:
            For each group by label, an array (vectors, points, size).
        """
        values, start = {}, 0
        for group in self.groups:
            shape = len(group.names), group.size
            stop = start + math.prod(shape)
            values[group.label] = vectors[:, start:stop].reshape(-1, *shape)
            start = stop
        return values

    def bumps(self) -> dict[str, Array]:
        """Return the bumps of all groups by label: zeros of the shapes of their values.

        A bump is added to the value: derivatives with respect to it are those with
        respect to the value.
        """
        bumps = {}
        for group in self.groups:
            bumps[group.label] = jnp.zeros(group.stacked(), group.dtype)
        return bumps

    def bytes_of_direction(self) -> int:
        """Bound the bytes of the derivatives at all points in one direction."""
        closed = self.anatomy.closed
        points = sum(math.prod(g.stacked()) for g in self.groups)
        # The derivatives at all points are held twice, stacked by scans and as rows,
        # and in the worst case there is one copy of the arguments.
        arguments = memory.tree_bytes([*closed.in_avals])
        return 2 * points * np.dtype(self.dtype).itemsize + arguments

    def part(
        self,
        readings: dict[str, Array],
        point: Point,
    ) -> Array:
        """Return the part of the value at an end of the span that the span selects.

        Args:
            readings: For each group by label, the values of all iterations.
            point: The end: `first` or `last`.
        """
        for group in self.groups:
            if point.name in group.names:
                rows = group.rows(readings[group.label])
                value = rows[group.names.index(point.name)]
                return point.of(value.reshape(group.shape))
        raise KeyError(point.name)


def between(
    anatomy: Anatomy,
    first: Point,
    last: Point,
) -> list[str]:
    """Return the names of the points with floating values between two points.

    These lie on paths from `first` to `last`, both ends included. Another name of the
    value at an end is left out.
    """
    places_of_ends = (tap_of(anatomy, first.name), tap_of(anatomy, last.name))
    names = []
    for name in in_order(anatomy, {first.name, last.name, *anatomy.points}):
        # The ends are kept in any case.
        if name in (first.name, last.name):
            names.append(name)
            continue
        is_floating = kinds.is_floating(anatomy.shape(name))
        if not is_floating or tap_of(anatomy, name) in places_of_ends:
            continue
        after_first = anatomy.upstream(first.name, name)
        if after_first and anatomy.upstream(name, last.name):
            names.append(name)
    return names


def previous_of_kind(plan: Plan) -> tuple[int | None, ...]:
    """Return, for each point, the index of the previous point of its kind, or None.

    Results of nonlinearities and norms (":out") are one kind, all other points the
    other. The first point of a kind has no previous one. A point that some path to the
    end of the span leads around has none, and is the previous one of no point.
    """
    indices: list[int | None] = []
    latest: dict[bool, int] = {}
    for i, name in enumerate(plan.names):
        is_on_every_path = name == plan.last.name or plan.anatomy.cuts(name)
        is_out = name.endswith(":out")
        indices.append(latest.get(is_out) if is_on_every_path else None)
        if is_on_every_path:
            latest[is_out] = i
    return tuple(indices)
