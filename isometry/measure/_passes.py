"""The Jacobians of many spans of one f, from one pass of differentiation.

At each point a bump is added to the value: an array of zeros, with respect to which f
is differentiated. The derivative with respect to a bump is that with respect to the
value. A group is the points whose values one variable of the jaxpr holds (`_points`).
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isometry._internal.types import DTypeLike
from isometry.linalg._convolution import canonical
from isometry.measure._plan import Group, Plan
from isometry.structure._anatomy import tap_of
from isometry.structure._tapping import ADD, CUT

Shape = tuple[int, int]

TOWARD = ("output", "input", "next")


class Spans(NamedTuple):
    """The spans of a profile, each named by a point.

    Attributes:
        plan: Which points are read.
        toward: "output": from each point to the end. "input": from the start to each
            point. "next": from each point to the next one.
    """

    plan: Plan
    toward: str

    def ends(self) -> dict[str, tuple[str, str]]:
        """Return the names of the first and last point of each span, by its name."""
        names = self.plan.names
        first = names[0]
        last = names[-1]
        if self.toward == "output":
            return {name: (name, last) for name in names[:-1]}
        if self.toward == "input":
            return {name: (first, name) for name in names[1:]}
        return {a: (a, b) for a, b in itertools.pairwise(names)}

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of each span's Jacobian."""
        plan = self.plan
        pairs = zip(plan.names, plan.sizes, strict=True)
        sizes = dict(pairs)
        # An index selects a part of the value at an end of the whole span only.
        for point in (plan.first, plan.last):
            sizes[point.name] = plan.size_at(point.name)
        shapes = {}
        for name, (first, last) in self.ends().items():
            shapes[name] = sizes[last], sizes[first]
        return shapes

    def names_of_shape(self) -> dict[Shape, list[str]]:
        """Return the names of the spans by the shape of their Jacobian."""
        names: dict[Shape, list[str]] = {}
        for name, shape in self.shapes().items():
            names.setdefault(shape, []).append(name)
        return names

    def reading_points(self) -> dict[str, str]:
        """Return, for each span, the point at which its Jacobian is read."""
        ends = self.ends()
        if self.toward == "next":
            # Derivatives stop at each point, so the next one depends on this one alone.
            return {name: last for name, (_, last) in ends.items()}
        return {name: name for name in ends}


def label_of(shape: Shape) -> str:
    """Return a shape as a string, "3x4", to be a key of a dict that JAX can sort."""
    m, n = shape
    return f"{m}x{n}"


def jacobians(
    spans: Spans,
    constants: list[Array],
    arguments: list[Array],
) -> dict[str, Array]:
    """Return the Jacobians of all spans, one stack for each shape.

    The caller factorizes each stack as one batch, so a program has one factorization
    for each shape and not one for each point.

    Args:
        spans: The spans.
        constants: The arrays that f closes over.
        arguments: The leaves of params, then those of one x.

    Returns:
        From the label of a shape to an array (spans, m, n), the spans in the order of
        `spans.names_of_shape()`.
    """
    passes = {
        "output": _suffixes,
        "input": _prefixes,
        "next": _blocks,
    }
    run_pass = passes[spans.toward]
    by_group = run_pass(spans.plan, constants, arguments)
    # For each shape, the Jacobians and the names of their spans, group after group.
    names: dict[Shape, list[str]] = {}
    parts: dict[Shape, list[Array]] = {}
    for group in spans.plan.groups:
        for selection in _selections(spans, group):
            jacobians_of_spans = selection.of(by_group[group.label])
            _, m, n = jacobians_of_spans.shape
            shape = (m, n)
            names.setdefault(shape, []).extend(selection.names)
            parts.setdefault(shape, []).append(jacobians_of_spans)
    stacks = {}
    for shape, ordered_names in spans.names_of_shape().items():
        # From the order of groups to that of the computation.
        order = np.array([names[shape].index(name) for name in ordered_names])
        stack = jnp.concatenate(parts[shape])
        stacks[label_of(shape)] = stack[order]
    return stacks


def _suffixes(
    plan: Plan,
    constants: list[Array],
    arguments: list[Array],
) -> dict[str, Array]:
    """Return the Jacobians from each point to the end of the span.

    Returns:
        For each group by label, an array (points, m, n): m entries at the end of the
        span, n entries at each point of the group.
    """
    program = plan.tapped(constants, ADD)

    def forward(bumps: dict[str, Array]) -> Array:
        _, readings = program(arguments, bumps)
        value = plan.part(readings, plan.last)
        return value.ravel()

    output, pull = jax.vjp(forward, plan.bumps())

    def row(entry: Array) -> Array:
        cotangent = _unit(entry, output.size, output.dtype)
        (gradients,) = pull(cotangent)
        return plan.flat(gradients)

    entries = jnp.arange(output.size)
    # `canonical` puts the axes of convolutions into the order that is fast on a CPU.
    rows = jax.vmap(canonical(row))(entries)
    by_group = plan.split(rows)
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), by_group)


def _prefixes(
    plan: Plan,
    constants: list[Array],
    arguments: list[Array],
) -> dict[str, Array]:
    """Return the Jacobians from the start of the span to each point.

    Returns:
        For each group by label, an array (points, m, n): m entries at each point of the
        group, n entries at the start of the span.
    """
    start = tap_of(plan.anatomy, plan.first.name)
    # The start may be a point too, so it gets a label that no point has.
    program = plan.tapped(constants, ADD, more={"": start})
    whole = plan.anatomy.shape(plan.first.name)
    num_inputs = plan.size_at(plan.first.name)

    def forward(z: Array) -> Array:
        zero = jnp.zeros(whole.shape, whole.dtype)
        part = z.reshape(plan.first.of(zero).shape)
        # If the span starts at a part of a value, the rest is not perturbed.
        bump = part
        if plan.first.index:
            bump = zero.at[plan.first.index].set(part)
        _, readings = program(arguments, {"": bump})
        return plan.flat(readings)

    _, push = jax.linearize(forward, jnp.zeros(num_inputs, whole.dtype))

    def column(entry: Array) -> Array:
        tangent = _unit(entry, num_inputs, whole.dtype)
        return push(tangent)

    entries = jnp.arange(num_inputs)
    columns = jax.vmap(canonical(column))(entries)
    by_group = plan.split(columns)
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), by_group)


def _blocks(
    plan: Plan,
    constants: list[Array],
    arguments: list[Array],
) -> dict[str, Array]:
    """Return the Jacobian from each point to the next one, at the later point.

    One pass gives all of them. Derivatives stop at every point, so the bumps at all
    points can be perturbed together: the value at a point changes with the bump at the
    point before it alone.

    Returns:
        For each group by label, an array (points, m, n): m entries at each point of the
        group, n entries at the widest of all points. Columns beyond the number of
        entries at the point before are zero.
    """
    program = plan.tapped(constants, CUT)
    bumps = plan.bumps()

    def forward(bumps: dict[str, Array]) -> Array:
        # With each bump goes a flag: which iterations are points, and stop derivatives.
        given = {}
        for group in plan.groups:
            given[group.label] = bumps[group.label], group.is_point()
        _, readings = program(arguments, given)
        return plan.flat(readings)

    _, push = jax.linearize(forward, bumps)

    def column(entry: Array) -> Array:
        tangents = {}
        for group in plan.groups:
            tangents[group.label] = _unit_at_points(group, entry)
        return push(tangents)

    widest = max(group.size for group in plan.groups)
    entries = jnp.arange(widest)
    columns = jax.vmap(canonical(column))(entries)
    by_group = plan.split(columns)
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), by_group)


def _unit(
    entry: Array,
    size: int,
    dtype: DTypeLike,
) -> Array:
    """Return the unit vector of an entry; zeros if there is no such entry."""
    return (jnp.arange(size) == entry).astype(dtype)


def _unit_at_points(
    group: Group,
    entry: Array,
) -> Array:
    """Return the tangent of a group's bump: 1 at one entry, at all points alike."""
    unit = _unit(entry, group.size, group.dtype)
    unit = unit.reshape(group.shape)
    # Iterations that are no points are not perturbed: no derivative stops at them.
    is_point = group.is_point()
    is_point = is_point.reshape(*is_point.shape, *(1,) * unit.ndim)
    everywhere = jnp.broadcast_to(unit, group.stacked())
    return jnp.where(is_point, everywhere, 0)


class _Selection(NamedTuple):
    """Spans that need the same rows and columns of the Jacobians at their points.

    A pass gives one Jacobian for each point of a group. A span needs all of it, or if
    it ends at a part of a value, some rows or columns.

    Attributes:
        names: The spans.
        positions: For each span, the position of its point in the group.
        outputs: The rows that are needed: entries at the last point of the span.
        inputs: The columns that are needed: entries at the first point of the span.
    """

    names: list[str]
    positions: list[int]
    outputs: slice | np.ndarray
    inputs: slice | np.ndarray

    def of(self, stack: Array) -> Array:
        """Select the Jacobians of these spans from those at all points of the group."""
        positions = np.array(self.positions)
        # Often these are all points, and nothing need be copied.
        if not np.array_equal(positions, np.arange(len(stack))):
            stack = stack[positions]
        # One after the other: two arrays of indices would be taken in pairs.
        needed_rows = stack[:, self.outputs]
        return needed_rows[:, :, self.inputs]


def _selections(
    spans: Spans,
    group: Group,
) -> list[_Selection]:
    """Return the spans whose Jacobians are read at a group, as selections.

    Spans that need the same rows and columns are one selection, so that one operation
    cuts them out.
    """
    position_of = {name: position for position, name in enumerate(group.names)}
    ends = spans.ends()
    shapes = spans.shapes()
    # Spans between whole values, by the shape of their Jacobian; and the others.
    whole: dict[Shape, _Selection] = {}
    partial = []
    for name, reading_point in spans.reading_points().items():
        # The Jacobian of this span is read at another group.
        if reading_point not in position_of:
            continue
        first, last = ends[name]
        m, n = shapes[name]
        outputs = spans.plan.entries(last)
        inputs = spans.plan.entries(first)
        # A pass toward the output starts from the selected part of the last point, a
        # pass toward the input from that of the first. There is nothing left to cut.
        if spans.toward == "output":
            outputs = None
        if spans.toward == "input":
            inputs = None
        # Taken at once for all layers of a scan, so that the program does not grow with
        # their number. Blocks are padded to the widest point, so they are cut to shape.
        if outputs is None and inputs is None:
            empty = _Selection([], [], outputs=slice(m), inputs=slice(n))
            selection = whole.setdefault((m, n), empty)
        else:
            # One end may be a whole value.
            if outputs is None:
                outputs = np.arange(m)
            if inputs is None:
                inputs = np.arange(n)
            selection = _Selection([], [], outputs=outputs, inputs=inputs)
            partial.append(selection)
        selection.names.append(name)
        selection.positions.append(position_of[reading_point])
    return [*whole.values(), *partial]
