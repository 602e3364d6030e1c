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
            point. "next": from each point to the next one.
    """

    plan: Plan
    toward: str

    def ends(self) -> dict[str, tuple[str, str]]:
        """Return the names of the first and last point of each span."""
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
        """Group the spans by the shape of their Jacobian; a group is one batch."""
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
    """Return a shape as a string: the keys of a pytree of JAX must be sortable."""
    m, n = shape
    return f"{m}x{n}"


def jacobians(
    spans: Spans,
    constants: list[Array],
    arguments: list[Array],
) -> dict[str, Array]:
    """Return the Jacobians of all spans, one stack for each shape.

    So a program has one batched factorization for each shape, not one for each point.

    Args:
        spans: The spans.
        constants: What f closes over.
        arguments: The leaves of params and of one x.

    Returns:
        For each shape by its label, an array (spans, m, n), the spans in the order of
        `spans.names_of_shape()`.
    """
    passes = {
        "output": _suffixes,
        "input": _prefixes,
        "next": _blocks,
    }
    of_toward = passes[spans.toward]
    by_group = of_toward(spans.plan, constants, arguments)
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
        # Blocks are in the order of groups, and names in that of the computation.
        of_shape = names[shape]
        order = np.array([of_shape.index(name) for name in wanted])
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
    # `canonical` reorders the axes of convolutions, to that which is fast on a CPU.
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
    start = plan.anatomy.place(plan.first.name)
    # No point has an empty name.
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
    """Return the Jacobians from the point before to each point.

    Derivatives stop at every point, so one pass gives all blocks: the bumps at all
    points are perturbed together, and each point depends on that of the one before it
    alone.

    Returns:
        For each group by label, an array (points, m, n): m entries at each point of the
        group, n entries at the widest of all points. Columns beyond the number of
        entries at the point before are zero.
    """
    program = plan.tapped(constants, CUT)
    bumps = plan.bumps()

    def forward(bumps: dict[str, Array]) -> Array:
        given = {}
        for group in plan.groups:
            given[group.label] = bumps[group.label], group.is_point()
        _, readings = program(arguments, given)
        return plan.flat(readings)

    _, push = jax.linearize(forward, bumps)

    def column(entry: Array) -> Array:
        tangents = {}
        for group in plan.groups:
            tangents[group.label] = _moved_together(group, entry)
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
    """Return the unit vector of an entry; zeros if it is not below the size."""
    return (jnp.arange(size) == entry).astype(dtype)


def _moved_together(
    group: Group,
    entry: Array,
) -> Array:
    """Return a tangent that perturbs one entry at all points of a group."""
    unit = _unit(entry, group.size, group.dtype)
    unit = unit.reshape(group.shape)
    # Iterations that are no points are not perturbed: no derivative stops at them.
    is_point = group.is_point()
    is_point = is_point.reshape(*is_point.shape, *(1,) * unit.ndim)
    everywhere = jnp.broadcast_to(unit, group.stacked())
    return jnp.where(is_point, everywhere, 0)


class _Selection(NamedTuple):
    """Spans whose Jacobians are the same submatrix of those read at a group.

    Attributes:
        names: The spans.
        rows: For each span, the index of its point in the group.
        outputs: The rows of the submatrix: entries at the last point of the span.
        inputs: The columns of the submatrix: entries at the first point of the span.
    """

    names: list[str]
    rows: list[int]
    outputs: slice | np.ndarray
    inputs: slice | np.ndarray

    def of(self, stack: Array) -> Array:
        """Select the Jacobians of these spans from those of the whole group."""
        rows = np.array(self.rows)
        # Often these are all rows, and nothing need be copied.
        if not np.array_equal(rows, np.arange(len(stack))):
            stack = stack[rows]
        # One after the other: two arrays of indices would be taken in pairs.
        rows_meant = stack[:, self.outputs]
        return rows_meant[:, :, self.inputs]


def _selections(
    spans: Spans,
    group: Group,
) -> list[_Selection]:
    """Group the spans that are read at a group by the submatrix that they need."""
    row_of = {name: row for row, name in enumerate(group.names)}
    ends = spans.ends()
    shapes = spans.shapes()
    whole: dict[Shape, _Selection] = {}
    selections = []
    for name, reading_point in spans.reading_points().items():
        # The span belongs to another group.
        if reading_point not in row_of:
            continue
        first, last = ends[name]
        m, n = shapes[name]
        outputs = spans.plan.entries(last)
        inputs = spans.plan.entries(first)
        # A pass over suffixes already takes only the part of the last point that is
        # meant, a pass over prefixes that of the first.
        if spans.toward == "output":
            outputs = None
        if spans.toward == "input":
            inputs = None
        # Spans of one shape are taken at once: a scan of many layers adds no more to
        # the program than one of few.
        if outputs is None and inputs is None:
            empty = _Selection(
                [],
                [],
                outputs=slice(m),
                inputs=slice(n),
            )
            selection = whole.setdefault((m, n), empty)
        else:
            # One end may be a whole value.
            if outputs is None:
                outputs = np.arange(m)
            if inputs is None:
                inputs = np.arange(n)
            selection = _Selection(
                [],
                [],
                outputs=outputs,
                inputs=inputs,
            )
            selections.append(selection)
        selection.names.append(name)
        selection.rows.append(row_of[reading_point])
    return [*whole.values(), *selections]
