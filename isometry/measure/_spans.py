"""Spans between named points: maps from the value at one to that at another."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from isometry import structure
from isometry._internal import checks, kinds, precision
from isometry._internal.errors import InputError
from isometry._internal.types import Params
from isometry.networks._network import SPANS
from isometry.structure import Anatomy
from isometry.structure._anatomy import is_joined_behind, tap_of
from isometry.structure._tapping import Tapped, replacing, tapped

# The name of a point, alone or with an index into the leading axes of the value there.
End: TypeAlias = str | tuple[str, int | tuple[int, ...]]
Span: TypeAlias = str | tuple[End, End]


@dataclass(frozen=True)
class Point:
    """One end of a span.

    Attributes:
        name: The name of a point of the anatomy.
        index: Indices into the leading axes of the value there, which select a part.
            Empty for the whole value.
    """

    name: str
    index: tuple[int, ...] = ()

    def of(self, value: Array) -> Array:
        """Return the part of a value that the index selects."""
        if not self.index:
            return value
        return value[self.index]

    def __str__(self) -> str:
        if not self.index:
            return repr(self.name)
        index = self.index
        # As the user writes it: a single index is no tuple.
        if len(index) == 1:
            (index,) = index
        return f"({self.name!r}, {index})"


@dataclass(frozen=True, eq=False)
class PointSpan:
    """The map from the value at one point to the value at another.

    The value at the first point is replaced, and everything downstream is computed from
    it. Values that do not depend on it, such as a skip around it, stay as they are. If
    every path runs through the first point, the map is the rest of the network.

    Attributes:
        f: The function that was read.
        anatomy: Its anatomy, in the dtype of the measurement.
        first: The point where the span starts.
        last: The point where it ends.
        shape_in: Shape and dtype of the value at the first point.
        shape_out: Shape and dtype of the value at the last point.
    """

    f: Callable[..., Array]
    anatomy: Anatomy
    first: Point
    last: Point
    shape_in: jax.ShapeDtypeStruct
    shape_out: jax.ShapeDtypeStruct
    _programs: dict[object, Tapped] = field(default_factory=dict, repr=False)

    def start(
        self,
        params: Params,
        x: PyTree[Array],
    ) -> Array:
        """Return the value at the first point."""
        _, readings = self._program(params, x)(jax.tree.leaves((params, x)), {})
        return self.first.of(readings["first"])

    def apply(
        self,
        params: Params,
        x: PyTree[Array],
        z: Array,
    ) -> Array:
        """Return the value at the last point if the value at the first is z."""
        program = self._program(params, x)
        _, readings = program(jax.tree.leaves((params, x)), {"first": z})
        return self.last.of(readings["last"])

    def _program(
        self,
        params: Params,
        x: PyTree[Array],
    ) -> Tapped:
        """Return f, rewritten to replace the value at the first point and to read both.

        The program of the anatomy was traced for fixed shapes and dtypes. For others,
        as in a measurement at another precision, f is traced again.
        """
        leaves = jax.tree.leaves((params, x))
        shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if shapes not in self._programs:
            anatomy = self.anatomy
            traced_for = tuple((a.shape, a.dtype) for a in anatomy.closed.in_avals)
            if shapes != traced_for:
                with precision.full():
                    anatomy = structure.anatomy(self.f, params, x)
            places = {
                "first": tap_of(anatomy, self.first.name),
                "last": tap_of(anatomy, self.last.name),
            }
            mode = replacing(self.first.index)
            self._programs[shapes] = tapped(anatomy.closed, places, mode)
        return self._programs[shapes]


def resolve(
    f: Callable[..., Array],
    anatomy: Anatomy,
    span: Span,
) -> PointSpan:
    """Return the map between the two points of a span.

    Args:
        f: The function, f(params, x).
        anatomy: Its anatomy, read in the dtype and precision of the measurement.
        span: Two points, each a name or (name, index), "input" being all floating
            leaves of x together; "end_to_end", which is ("input", "output"); or
            "hidden", from the first pre-activation to the last but the output, or with
            residual branches from where the first leaves the stream to where the last
            joins it; from the layer before if a class token was joined to the stream
            there.

    Returns:
        The map whose Jacobian is measured.

    Raises:
        InputError: Not a span; no such point; an index out of range; the first point is
            not upstream of the last, or is not floating.
    """
    first, last = ends(anatomy, span)
    # An unknown name is reported before a missing dependence.
    shape_in = _shape_at(anatomy, first)
    shape_out = _shape_at(anatomy, last)
    require_upstream(anatomy, first, last)
    return PointSpan(
        f=f,
        anatomy=anatomy,
        first=first,
        last=last,
        shape_in=shape_in,
        shape_out=shape_out,
    )


def require_named(span: str) -> str:
    """Refuse a string that is no span, as the name of one point alone."""
    first, last = span, "output"
    if span == "output":
        first = "input"
    try:
        return checks.one_of("span", span, SPANS)
    except InputError as error:
        raise InputError(
            f"{error.message} If it is the name of a point, write two, "
            f'span=("{first}", "{last}").'
        ) from None


def ends(
    anatomy: Anatomy,
    span: Span,
) -> tuple[Point, Point]:
    """Return the two points between which a span lies, as the user wrote it.

    Raises:
        InputError: It is not a span, or starts at the input of an x that has no
            derivative.
    """
    if isinstance(span, str):
        require_named(span)
        if span == "end_to_end":
            span = ("input", "output")
        else:
            span = _hidden(anatomy)
    first, last = between(span)
    if first.name == "input":
        first = Point(_floating_input(anatomy), first.index)
    return first, last


def between(span: tuple[End, End]) -> tuple[Point, Point]:
    """Return the two points of a span that is written as two.

    Raises:
        InputError: It is not.
    """
    if not (isinstance(span, (tuple, list)) and len(span) == 2):
        raise InputError(
            f"span={checks.show(span)} is not a span; write two points, such as "
            '("input", "output"), or one of end_to_end, hidden.'
        )
    first, last = map(_point, span)
    return first, last


def _point(end: End) -> Point:
    """Return one end of a span, a name or (name, index), as a point."""
    if isinstance(end, str):
        return Point(end)
    is_pair = isinstance(end, (tuple, list)) and len(end) == 2
    if not (is_pair and isinstance(end[0], str)):
        raise InputError(
            f"span holds {checks.show(end)}, not a point; write its name, or a pair of "
            'its name and an index, ("output", -1).'
        )
    name, index = end
    try:
        if isinstance(index, (tuple, list)):
            parts = tuple(index)
        else:
            parts = (index,)
        # operator.index takes NumPy's integers too, and refuses floats.
        return Point(name, tuple(operator.index(part) for part in parts))
    except TypeError:
        raise InputError(
            f"span holds the index {checks.show(index)} at {name!r}; write a whole "
            "number, or a tuple of them."
        ) from None


def _shape_at(
    anatomy: Anatomy,
    point: Point,
) -> jax.ShapeDtypeStruct:
    """Return the shape of the value at a point; refuse one that is not floating."""
    # This raises for an unknown name, with similar ones.
    whole = anatomy.shape(point.name)
    if len(point.index) > len(whole.shape):
        raise InputError(
            f"span holds {point}, but the value there has shape {whole.shape}; write "
            f"at most {len(whole.shape)} indices."
        )
    for index, size in zip(point.index, whole.shape, strict=False):
        if not -size <= index < size:
            raise InputError(
                f"span holds {point}, but the value there has shape {whole.shape}; "
                f"write an index between {-size} and {size - 1}."
            )
    if not kinds.is_floating(whole):
        raise InputError(
            f"span holds {point.name!r}, where the value is {whole.dtype}, which has "
            "no derivative; write a point behind it."
        )
    return jax.eval_shape(point.of, whole)


def require_upstream(
    anatomy: Anatomy,
    first: Point,
    last: Point,
) -> None:
    """Refuse a span whose last point does not depend on the first; name others."""
    if first.name != last.name and anatomy.upstream(first.name, last.name):
        return
    upstream = [
        name
        for name in floating_points(anatomy)
        if name != last.name and anatomy.upstream(name, last.name)
    ]
    raise InputError(
        f"span=({first}, {last}): {last.name!r} does not depend on {first.name!r}. "
        f"Upstream of {last.name!r} are: {_listed(upstream)}."
    )


# The most names in a message: enough to see their pattern.
_NAMED = 12


def _listed(names: list[str]) -> str:
    """Return names in one line; of many, those in the middle are left out."""
    if len(names) > _NAMED:
        half = _NAMED // 2
        names = [*names[:half], "...", *names[-half:]]
    if not names:
        return "no points"
    return ", ".join(names)


def _floating_input(anatomy: Anatomy) -> str:
    """Return the name of the floating leaves of x: "input", or that of the only one.

    Random keys and whole numbers beside them, such as labels, have no derivative.
    """
    leaves = _leaves_of_x(anatomy)
    num_floating = sum(map(kinds.is_floating, leaves))
    if num_floating == 0:
        raise without_derivative(leaves, advice=where_to_start(anatomy))
    require_no_tokens(anatomy)
    # Their names are not counted: {"a": ..., "params": {"a": ...}} has one name twice.
    if num_floating > 1:
        return "input"
    (name,) = floating_leaves_of_x(anatomy)
    return name


def without_derivative(
    leaves: Sequence[Array | jax.ShapeDtypeStruct],
    advice: str,
) -> InputError:
    """Return the error that x, which has these leaves, holds no floating array."""
    description = f"a tree of {len(leaves)} arrays, none of them floating"
    if len(leaves) == 1:
        description = f"{leaves[0].dtype}, which has no derivative"
    return InputError(f"x is {description}, and the span starts at x; {advice}.")


def holds_tokens(anatomy: Anatomy) -> bool:
    """Tell whether x holds whole numbers that select rows of an embedding."""
    holds_whole_numbers = any(map(kinds.is_whole, _leaves_of_x(anatomy)))
    return holds_whole_numbers and bool(anatomy.embeddings)


def require_no_tokens(anatomy: Anatomy) -> None:
    """Refuse an x of tokens with floating arrays beside them, such as a mask.

    The derivative would be with respect to the mask alone, which nobody means.
    """
    if not holds_tokens(anatomy):
        return
    beside = floating_leaves_of_x(anatomy)
    spans = " or ".join(f'span=("{name}", "output")' for name in beside)
    raise InputError(
        f"x holds whole numbers that select rows of {anatomy.embeddings[0].name!r}, "
        "and the span starts at x, whose floating arrays alone have a derivative; "
        f"{where_to_start(anatomy)}. With respect to what lies beside the tokens: "
        f"{spans}."
    )


def _leaves_of_x(anatomy: Anatomy) -> list[jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of the leaves of x."""
    arguments = anatomy.closed.in_avals[anatomy.params_tree.num_leaves :]
    return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments]


def floating_leaves_of_x(anatomy: Anatomy) -> list[str]:
    """Return the names of the points that are floating leaves of x."""
    # A layer may be called "input/kernel" too: only the anatomy tells them apart.
    return [name for name in floating_points(anatomy) if name in anatomy.inputs]


def where_to_start(anatomy: Anatomy) -> str:
    """Advise where a span can start, if x is not floating or not a single array.

    If x selects rows of an embedding, the span should start after the embedding:
    floating numbers would be cast to integers, and the Jacobian would be zero.
    """
    for layer in anatomy.embeddings:
        # Uses of a stacked embedding, or at steps of a recurrence, have names of their
        # own: "embed[0]", "embed@0".
        uses = (f"{layer.name}[", f"{layer.name}@")
        for name in anatomy.points:
            is_use = name == layer.name or name.startswith(uses)
            if is_use and _leads_to_output(anatomy, name):
                return f'write span=("{name}", "output")'
    advice = "give f floating numbers if it computes with them"
    for name in floating_points(anatomy):
        if _leads_to_output(anatomy, name):
            return f'{advice}, or write span=("{name}", "output")'
    return f"{advice}, or write f as a function of the first value that it makes of x"


def _leads_to_output(
    anatomy: Anatomy,
    name: str,
) -> bool:
    """Tell whether the output depends on a point that is no end of the network."""
    is_inner = name in anatomy.points and name not in ("input", "output")
    return is_inner and anatomy.upstream(name, "output")


def floating_points(anatomy: Anatomy) -> list[str]:
    """Return the names of the points whose values are floating."""
    shapes = {name: anatomy.shape(name) for name in anatomy.points}
    return [n for n, a in shapes.items() if kinds.is_floating(a)]


def _hidden(anatomy: Anatomy) -> tuple[str, str]:
    """Return the names of the ends of the hidden span, which theory describes."""
    # The theory of residual networks describes the stream (x in x + f(x)) from the
    # first branch to the last.
    if anatomy.branches:
        leaves = anatomy.branches[0].leaves
        if leaves is None:
            raise InputError(
                'span="hidden" starts where the first branch leaves the stream, and '
                "that place has no name here; write two points of "
                "isometry.anatomy(f, params, x).points."
            )
        return _start_of_signal(anatomy, leaves), anatomy.branches[-1].joins
    names = [name for name in anatomy.points if is_layer(anatomy, name)]
    # Fewer than three weight layers leave no pair of a weight and a derivative of the
    # activation between the first pre-activation and the last one.
    if len(names) < 3:
        raise InputError(
            'span="hidden" runs from the first pre-activation to the last before the '
            f"output and needs three weight layers{_instead_of_hidden(anatomy, names)}"
        )
    return names[0], names[-2]


def _start_of_signal(anatomy: Anatomy, leaves: str) -> str:
    """Return where the stream starts that the first branch leaves at a point.

    If a class token was joined to the stream, a row of it is a parameter: no signal
    comes in there, and a perturbation of it alone would be measured against the size at
    which that parameter is drawn. The span then starts at the layer before.
    """
    layer, _, kind = leaves.rpartition(":")
    if kind == "out" and is_joined_behind(anatomy, layer):
        return layer
    return leaves


def _instead_of_hidden(anatomy: Anatomy, names: list[str]) -> str:
    """Return why there is no hidden span, and what to write instead."""
    states = [name for name in anatomy.points if state(anatomy, name)]
    # All steps of a recurrence share their weights, so none has a layer of its own.
    if len(states) > 1:
        # The last one is what the output reads: of an LSTM its h.
        last = states[-1]
        same = [name for name in states if state(anatomy, name) == state(anatomy, last)]
        return (
            " outside of recurrences; of a recurrence write two of its states, "
            f'span=("{same[0]}", "{last}").'
        )
    known = f"; this function has {len(names)}"
    if names and _leads_to_output(anatomy, names[0]):
        return f'{known}. Write two points, such as span=("{names[0]}", "output").'
    return f'{known}. Write "end_to_end".'


def state(anatomy: Anatomy, name: str) -> str | None:
    """Return the name of a recurrent state from that of a point: "carry" of "carry@3".

    None for points that are no states.
    """
    # Other points with a step are those of weight layers: "cell/input@3", "embed[0]@3",
    # and "cell/input@3:sum" for what follows them.
    base, _, step = name.partition("@")
    layer = base.partition("[")[0]
    is_layer = any(layer == known.name for known in anatomy.layers)
    if not step or ":" in step or is_layer:
        return None
    return base + step.lstrip("0123456789")


def is_layer(anatomy: Anatomy, name: str) -> bool:
    """Tell whether a point is the pre-activation of a weight layer."""
    is_end = name in ("input", "output") or name in anatomy.inputs
    return not is_end and ":" not in name and "@" not in name
