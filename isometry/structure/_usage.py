"""What a network does with a weight before it multiplies the signal with it."""

import math
from typing import NamedTuple

import numpy as np

from isometry.structure import _convolutions
from isometry.structure._anatomy import Anatomy
from isometry.structure._convolutions import Convolution
from isometry.structure._layers import Use
from isometry.structure._reading import Program, Value

# Operations that return a number as it is.
_NUMBERS = frozenset(
    ("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "copy")
)

# Operations that make few numbers of many: a norm contains one of them.
_REDUCING = frozenset(("reduce_sum", "reduce_max", "dot_general", "svd", "reduce_prod"))

# Operations that keep a norm away from zero, if one operand is a positive number.
_GUARDS = frozenset(("add", "max"))


class Usage(NamedTuple):
    """What a weight goes through on the way from its leaf to the signal.

    Attributes:
        factor: The product of all numbers that multiply it.
        is_normalized: Whether it is divided by a norm of its own.
        is_zero_safe: Whether the norm is kept away from zero, so that a weight of zeros
            gives no NaN. True without a norm.
        is_added_to: Whether another leaf is added to it, as low-rank updates are.
        is_reversed: Whether axes of it are reversed, as taps of a window may be.
        convolution: Of a kernel, how it goes over its image, axes in the order of the
            window axes of the leaf; None if that cannot be told.
    """

    factor: float = 1.0
    is_normalized: bool = False
    is_zero_safe: bool = True
    is_added_to: bool = False
    is_reversed: bool = False
    convolution: Convolution | None = None

    def note(self) -> str:
        """Say what the user of an initializer should know; "" if there is nothing."""
        parts = []
        if self.is_normalized:
            parts.append("its scale is undone: divided by its own norm")
        elif not math.isclose(self.factor, 1, rel_tol=1e-6):
            parts.append(f"used as {self.factor:.4g} w")
        if self.is_added_to:
            parts.append("only w of the sum w + … is drawn")
        return ", ".join(parts)


def usages(anatomy: Anatomy) -> dict[str, Usage]:
    """Return the usage of each layer at its first use, by the name of the layer."""
    program = anatomy._flow.program
    return {row.name: _usage(program, row.uses[0]) for row in anatomy._rows}


def _usage(program: Program, use: Use) -> Usage:
    """Return what a weight goes through between its leaf and one use of it."""
    leaf = use.meeting.origin.leaf
    index = use.meeting.weight
    usage = Usage(convolution=_convolution(program, use))
    # Most weights are used as they are, and need no search.
    of_leaf: frozenset[int] | None = None
    while index != leaf:
        value = program.values[index]
        if value.operation == "rev":
            usage = usage._replace(is_reversed=True)
        if len(value.inputs) == 1:
            (index,) = value.inputs
            continue
        if of_leaf is None:
            of_leaf = frozenset(program.reached((leaf,)))
        own = [read for read in value.inputs if read in of_leaf]
        if not own:
            break
        # Of w and its mean or norm, the larger one is w.
        index = max(own, key=lambda read: math.prod(program.values[read].shape))
        others = [read for read in value.inputs if read != index]
        if len(others) == 1:
            usage = _with(program, usage, value, other=others[0], of_leaf=of_leaf)
    return usage


def _convolution(program: Program, use: Use) -> Convolution | None:
    """Return how a kernel goes over its image, by the window axes of its leaf."""
    meeting = use.meeting
    convolution = _convolutions.read(program, meeting.value)
    if convolution is None:
        return None
    # JAX names the axes of kernel and image in the same order.
    spatial = program.values[meeting.value].params["dimension_numbers"].rhs_spec[2:]
    sources = [meeting.origin.axes[axis] for axis in spatial]
    if any(len(axes) != 1 for axes in sources):
        return None
    order = sorted(range(len(sources)), key=lambda axis: sources[axis])
    padding = convolution.padding
    if not isinstance(padding, str):
        padding = tuple(padding[axis] for axis in order)
    return convolution._replace(
        size=tuple(convolution.size[axis] for axis in order),
        strides=tuple(convolution.strides[axis] for axis in order),
        dilation=tuple(convolution.dilation[axis] for axis in order),
        spread=tuple(convolution.spread[axis] for axis in order),
        padding=padding,
    )


def _with(
    program: Program,
    usage: Usage,
    value: Value,
    *,
    other: int,
    of_leaf: frozenset[int],
) -> Usage:
    """Return a usage with one more operation on the weight.

    Args:
        program: The program.
        usage: The operations that come later.
        value: The result of the operation.
        other: Index of its operand that is not the weight.
        of_leaf: Indices of all values that depend on the leaf.
    """
    is_product = value.operation in ("mul", "div")
    if is_product and other in of_leaf:
        before = _before(program, other, of_leaf)
        if any(part.operation in _REDUCING for part in before):
            is_safe = any(_is_guard(program, part) for part in before)
            return usage._replace(is_normalized=True, is_zero_safe=is_safe)
    elif is_product:
        number = _number(program, other)
        # A number divided by the weight is no factor of it.
        is_dividend = value.operation == "div" and other == value.inputs[0]
        if number and not is_dividend:
            factor = number if value.operation == "mul" else 1 / number
            return usage._replace(factor=usage.factor * factor)
    elif value.operation in ("add", "add_any", "sub") and other not in of_leaf:
        is_trained = other in program.reached(program.params)
        return usage._replace(is_added_to=usage.is_added_to or is_trained)
    return usage


def _before(program: Program, end: int, of_leaf: frozenset[int]) -> list[Value]:
    """Return the values between a leaf and the value `end`, both included."""
    seen = {end}
    pending = [end]
    while pending:
        inputs = program.values[pending.pop()].inputs
        new = [read for read in inputs if read in of_leaf and read not in seen]
        seen.update(new)
        pending.extend(new)
    return [program.values[index] for index in seen]


def _is_guard(program: Program, value: Value) -> bool:
    """Tell whether a value is another plus a positive number, or their maximum."""
    if value.operation not in _GUARDS:
        return False
    numbers = [_number(program, read) for read in value.inputs]
    return any(number is not None and number > 0 for number in numbers)


def _number(program: Program, index: int) -> float | None:
    """Return a value that is one number fixed by the program, or None."""
    value = program.values[index]
    if value.operation == "constant":
        is_one = value.number is not None and math.prod(value.shape) == 1
        return float(np.asarray(value.number).reshape(())) if is_one else None
    if len(value.inputs) != 1:
        return None
    number = _number(program, value.inputs[0])
    if value.operation in _NUMBERS or number is None:
        return number
    if value.operation == "sqrt" and number >= 0:
        return math.sqrt(number)
    return None
