"""The Jacobians of many spans of one f, from one pass of differentiation."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isometry._internal.types import DTypeLike
from isometry.linalg._convolution import canonical
from isometry.measure._points import Group, Plan
from isometry.structure._tapping import ADD, CUT

Shape = tuple[int, int]

TOWARD = ("output", "input", "next")


class Spans(NamedTuple):
    """The spans of a profile, each named by a point.

    Attributes:
        plan: Which points are read.
        toward: "output": from each point to the end. "input": from the start to each
            point. "next": from each point to the one behind it.
    """

    plan: Plan
    toward: str

    def ends(self) -> dict[str, tuple[str, str]]:
        """Return where each span starts and ends."""
        names = self.plan.names
        if self.toward == "output":
            return {name: (name, names[-1]) for name in names[:-1]}
        if self.toward == "input":
            return {name: (names[0], name) for name in names[1:]}
        return {a: (a, b) for a, b in itertools.pairwise(names)}

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of each span's Jacobian."""
        plan = self.plan
        sizes = dict(zip(plan.names, plan.sizes, strict=True))
        for point in (plan.first, plan.last):
            sizes[point.name] = plan.size_at(point.name)
        shapes = {}
        for name, (first, last) in self.ends().items():
            shapes[name] = sizes[last], sizes[first]
        return shapes

    def names_of_shape(self) -> dict[Shape, list[str]]:
        """Return the spans by the shape of their Jacobian: a shape is one batch."""
        names: dict[Shape, list[str]] = {}
        for name, shape in self.shapes().items():
            names.setdefault(shape, []).append(name)
        return names

    def reading_points(self) -> dict[str, str]:
        """Return, for each span, the point at which a pass finds its Jacobian."""
        ends = self.ends()
        if self.toward == "next":
            return {name: last for name, (_, last) in ends.items()}
        return {name: name for name in ends}


def label_of(shape: Shape) -> str:
    """Return the name of a shape: a program sorts the keys of its dictionaries."""
    m, n = shape
    return f"{m}x{n}"


def jacobians(
    spans: Spans, constants: list[Array], arguments: list[Array]
) -> dict[str, Array]:
    """Return the Jacobians of all spans, one stack for each shape.

    So a program has as many factorizations as there are shapes, not as points.

    Args:
        spans: The spans.
        constants: What f closes over.
        arguments: The leaves of params and of one x.

    Returns:
        By the label of their shape, the Jacobians of `spans.names_of_shape()`, of shape
        (spans, m, n).
    """
    passes = {"output": _suffixes, "input": _prefixes, "next": _blocks}
    by_group = passes[spans.toward](spans.plan, constants, arguments)
    names: dict[Shape, list[str]] = {}
    parts: dict[Shape, list[Array]] = {}
    for group in spans.plan.groups:
        for selection in _selections(spans, group):
            block = selection.of(by_group[group.label])
            _, m, n = block.shape
            shape = (m, n)
            names.setdefault(shape, []).extend(selection.names)
            parts.setdefault(shape, []).append(block)
    stacks = {}
    for shape, wanted in spans.names_of_shape().items():
        order = np.array([names[shape].index(name) for name in wanted])
        stacks[label_of(shape)] = jnp.concatenate(parts[shape])[order]
    return stacks


def _suffixes(
    plan: Plan, constants: list[Array], arguments: list[Array]
) -> dict[str, Array]:
    """Return the Jacobians from each point to the end, (points, m, n) a group."""
    program = plan.tapped(constants, ADD)

    def forward(bumps: dict[str, Array]) -> Array:
        _, readings = program(arguments, bumps)
        return plan.part(readings, plan.last).ravel()

    output, pull = jax.vjp(forward, plan.bumps())

    def row(entry: Array) -> Array:
        (gradients,) = pull(_unit(entry, output.size, output.dtype))
        return plan.flat(gradients)

    rows = jax.vmap(canonical(row))(jnp.arange(output.size))
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), plan.split(rows))


def _prefixes(
    plan: Plan, constants: list[Array], arguments: list[Array]
) -> dict[str, Array]:
    """Return the Jacobians from the start to each point, (points, m, n)."""
    start = plan.anatomy.place(plan.first.name)
    # No point has an empty name.
    program = plan.tapped(constants, ADD, more={"": start})
    whole = plan.anatomy.shape(plan.first.name)
    num_inputs = plan.size_at(plan.first.name)

    def forward(z: Array) -> Array:
        zero = jnp.zeros(whole.shape, whole.dtype)
        part = z.reshape(plan.first.of(zero).shape)
        bump = part
        if plan.first.index:
            bump = zero.at[plan.first.index].set(part)
        _, readings = program(arguments, {"": bump})
        return plan.flat(readings)

    _, push = jax.linearize(forward, jnp.zeros(num_inputs, whole.dtype))

    def column(entry: Array) -> Array:
        return push(_unit(entry, num_inputs, whole.dtype))

    columns = jax.vmap(canonical(column))(jnp.arange(num_inputs))
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), plan.split(columns))


def _blocks(
    plan: Plan, constants: list[Array], arguments: list[Array]
) -> dict[str, Array]:
    """Return the Jacobians from the point before to each point, (points, m, n).

    Derivatives stop at every point, so one pass may push all blocks at once: the bumps
    at all points move together, and no point sees more than the one before it. n is
    that of the widest point; columns beyond a block's own width are zero.
    """
    program = plan.tapped(constants, CUT)
    bumps = plan.bumps()

    def forward(bumps: dict[str, Array]) -> Array:
        given = {g.label: (bumps[g.label], g.is_point()) for g in plan.groups}
        _, readings = program(arguments, given)
        return plan.flat(readings)

    _, push = jax.linearize(forward, bumps)

    def column(entry: Array) -> Array:
        return push({g.label: _moved_together(g, entry) for g in plan.groups})

    widest = max(group.size for group in plan.groups)
    columns = jax.vmap(canonical(column))(jnp.arange(widest))
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), plan.split(columns))


def _unit(entry: Array, size: int, dtype: DTypeLike) -> Array:
    """Return a unit vector; zero if the entry is beyond the size."""
    return (jnp.arange(size) == entry).astype(dtype)


def _moved_together(group: Group, entry: Array) -> Array:
    """Return a tangent that moves one entry at all points of a group."""
    unit = _unit(entry, group.size, group.dtype).reshape(group.shape)
    # An iteration that is no point must stay still: nothing cuts behind it.
    is_point = group.is_point()
    is_point = is_point.reshape(*is_point.shape, *(1,) * unit.ndim)
    return jnp.where(is_point, jnp.broadcast_to(unit, group.stacked()), 0)


class _Selection(NamedTuple):
    """Spans whose Jacobians are the same part of what a pass finds at a group.

    Attributes:
        names: The spans.
        rows: Of each, the row of the group.
        outputs: Which entries of the last point are meant.
        inputs: Which entries of the first point are meant.
    """

    names: list[str]
    rows: list[int]
    outputs: slice | np.ndarray
    inputs: slice | np.ndarray

    def of(self, stack: Array) -> Array:
        """Return the Jacobians from those of the whole group."""
        rows = np.array(self.rows)
        # Often all rows are meant, and need not be copied.
        if not np.array_equal(rows, np.arange(len(stack))):
            stack = stack[rows]
        return stack[:, self.outputs][:, :, self.inputs]


def _selections(spans: Spans, group: Group) -> list[_Selection]:
    """Sort the spans that a pass finds at a group by the part that is theirs."""
    row_of = {name: row for row, name in enumerate(group.names)}
    ends, shapes = spans.ends(), spans.shapes()
    whole: dict[Shape, _Selection] = {}
    selections = []
    for name, reading_point in spans.reading_points().items():
        if reading_point not in row_of:
            continue
        first, last = ends[name]
        m, n = shapes[name]
        outputs, inputs = spans.plan.entries(last), spans.plan.entries(first)
        # A pass over suffixes already takes only the part of the last point that is
        # meant, a pass over prefixes that of the first.
        if spans.toward == "output":
            outputs = None
        if spans.toward == "input":
            inputs = None
        # Spans of one shape are taken at once: a scan of many layers adds no more to
        # the program than one of few.
        if outputs is None and inputs is None:
            empty = _Selection([], [], outputs=slice(m), inputs=slice(n))
            selection = whole.setdefault((m, n), empty)
        else:
            outputs = np.arange(m) if outputs is None else outputs
            inputs = np.arange(n) if inputs is None else inputs
            selection = _Selection([], [], outputs=outputs, inputs=inputs)
            selections.append(selection)
        selection.names.append(name)
        selection.rows.append(row_of[reading_point])
    return [*whole.values(), *selections]
