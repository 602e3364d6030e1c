"""Which axes of a weight are its inputs, its outputs, its batch and its window."""

import dataclasses
import math
import operator
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry._internal.types import Axes

# in_axis and out_axis of the layouts that have a name. Negative axes leave room for
# those of a batch in front.
_NAMED: dict[str, tuple[Axes, Axes]] = {
    "jax": (-2, -1),
    "torch": (1, 0),
    "heads_in": (-3, (-2, -1)),
    "heads_out": ((-3, -2), -1),
}

# What the layouts of attention name, in order.
_HEADS = {
    "heads_in": ("in", "heads", "head_dim"),
    "heads_out": ("heads", "head_dim", "out"),
}

NEEDS_FANS = (
    "fans need at least two. For a bias use initializers.zeros() or "
    "initializers.normal(std=...)."
)


class Parts(NamedTuple):
    """The axes of a weight, as non-negative numbers, by the part that they play."""

    batch: tuple[int, ...]
    window: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The axes of a weight as the user names them, and the number of its groups.

    Axes that are not named are the window of a convolution. A grouped weight stores the
    inputs of one group and the outputs of all groups, one group after the other.

    Attributes:
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights.
        groups: The number of groups.
        name: The name that `in_axis` and `out_axis` come from, or None.
    """

    in_axis: Axes = -2
    out_axis: Axes = -1
    batch_axis: Axes = ()
    groups: int = 1
    name: str | None = None

    @classmethod
    def of(
        cls,
        name: str | None,
        in_axis: Axes,
        out_axis: Axes,
        *,
        batch_axis: Axes,
        groups: int,
    ) -> "Layout":
        """Return the layout that a factory's keywords describe.

        `name`, such as "torch", stands for `in_axis` and `out_axis`. Whether axes and
        groups fit is checked later, against the shape of each call.

        Raises:
            InputError: `groups` is not a positive whole number; the name is not known,
                or given beside axes.
        """
        checks.integer("groups", groups, low=1)
        axes = cls(in_axis, out_axis, batch_axis=batch_axis, groups=groups)
        if name is None:
            return axes
        checks.one_of("layout", name, _NAMED)
        given = axes.changed()
        if "in_axis" in given or "out_axis" in given:
            raise InputError(
                f"layout={name!r} comes with in_axis={in_axis} and "
                f"out_axis={out_axis}; write either the layout or the axes."
            )
        in_axis, out_axis = _NAMED[name]
        return cls(in_axis, out_axis, batch_axis=batch_axis, groups=groups, name=name)

    def changed(self) -> dict[str, object]:
        """Return the fields that differ from their defaults, for the repr."""
        changed = {}
        for field in dataclasses.fields(self):
            # The name of a layout stands for two axes, which are listed.
            if field.name == "name":
                continue
            value = getattr(self, field.name)
            # Compared as written: `!=` of an array, given as an axis by mistake, is no
            # truth value.
            if repr(value) != repr(field.default):
                changed[field.name] = value
        return changed

    def parts(self, shape: tuple[int, ...]) -> Parts:
        """Return which axes of `shape` are batch, window, inputs and outputs.

        Raises:
            InputError: The axes do not fit the shape, or one is named twice.
        """
        if self.name in _HEADS and len(shape) < len(_HEADS[self.name]):
            raise InputError(
                f"layout={self.name!r} needs a shape {_HEADS[self.name]}, and "
                f"shape={shape} has {len(shape)} axes. Flax's attention layers flatten "
                "the heads before they draw: leave layout out there."
            )
        inputs = _resolve("in_axis", self.in_axis, len(shape))
        outputs = _resolve("out_axis", self.out_axis, len(shape))
        batch = _resolve("batch_axis", self.batch_axis, len(shape))
        taken = inputs + outputs + batch
        # The one axis of a vector may be both input and output, as it may for
        # jax.nn.initializers.variance_scaling.
        if len(shape) > 1 and len(set(taken)) < len(taken):
            raise InputError(
                f"in_axis={self.in_axis}, out_axis={self.out_axis}, "
                f"batch_axis={self.batch_axis} share an axis of shape={shape}; "
                "an axis can play one part only."
            )
        window = tuple(axis for axis in range(len(shape)) if axis not in taken)
        return Parts(batch=batch, window=window, inputs=inputs, outputs=outputs)

    def outputs_per_group(self, shape: tuple[int, ...]) -> int:
        """Return the number of outputs of one group of a weight of `shape`.

        Raises:
            InputError: The groups do not divide the outputs.
        """
        checks.integer("groups", self.groups, low=1)
        num_outputs = size(shape, self.parts(shape).outputs)
        if num_outputs % self.groups:
            raise InputError(
                f"groups={self.groups} does not divide the {num_outputs} outputs of "
                f"shape={shape}; out_axis holds the outputs of all groups, in_axis the "
                "inputs of one."
            )
        return num_outputs // self.groups

    def fans(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Return (fan_in, fan_out): inputs or outputs of one group times the window.

        fan_in is the number of entries that one output sums, fan_out the number of
        outputs that one input reaches. torch and JAX, which have no groups here, count
        the outputs of all groups in fan_out.
        """
        # A vector has no axis -2. With other axes its fans are those of JAX.
        if isinstance(self.in_axis, int) and self.in_axis == -2:
            checks.shape(shape, least=2, why=NEEDS_FANS)
        parts = self.parts(shape)
        num_inputs = size(shape, parts.inputs)
        num_outputs = size(shape, parts.outputs)
        # Divided in JAX's order, which decides the last bit where axes are shared.
        window = math.prod(shape) / num_inputs / num_outputs / size(shape, parts.batch)
        return num_inputs * window, self.outputs_per_group(shape) * window


def sizes(shape: tuple[int, ...], axes: Iterable[int]) -> tuple[int, ...]:
    """Return the sizes of `axes` in `shape`."""
    return tuple(shape[axis] for axis in axes)


def size(shape: tuple[int, ...], axes: Iterable[int]) -> int:
    """Return the number of entries that `axes` of `shape` span."""
    return math.prod(sizes(shape, axes))


def _resolve(name: str, axes: Axes, rank: int) -> tuple[int, ...]:
    """Return `axes` as distinct, non-negative axes of an array of `rank` axes.

    Raises:
        InputError: The axes, which the message calls `name`, do not fit such an array.
    """
    sequence = axes if isinstance(axes, Sequence) else (axes,)
    try:
        given = [operator.index(axis) for axis in sequence]
    except TypeError:
        shown = checks.show(axes)
        message = f"{name}={shown} is not an axis or a tuple of axes."
        raise InputError(message) from None
    resolved = tuple(axis + rank * (axis < 0) for axis in given)
    in_range = all(0 <= axis < rank for axis in resolved)
    if not in_range or len(set(resolved)) < len(resolved):
        raise InputError(
            f"{name}={checks.show(axes)} does not fit a shape of {rank} axes; "
            f"write distinct axes between {-rank} and {rank - 1}."
        )
    return resolved
