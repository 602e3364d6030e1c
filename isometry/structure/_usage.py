"""What a network does with a weight before it multiplies the signal with it."""

import math
from typing import NamedTuple

import jax
import numpy as np

from isometry._internal import checks, kinds
from isometry.structure import _convolutions, _nonlinearity
from isometry.structure._anatomy import Anatomy
from isometry.structure._convolutions import Convolution
from isometry.structure._flow import LAYOUT
from isometry.structure._layers import Use
from isometry.structure._reading import Program, Value
from isometry.structure._walking import reached

# Operations that return a number as it is.
_NUMBERS = frozenset(
    ("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "copy")
)

# Operations that make few numbers of many: a norm contains one of them.
_REDUCING = frozenset(("reduce_sum", "reduce_max", "dot_general", "svd", "reduce_prod"))

# Operations that keep a norm away from zero, if one operand is a positive number.
_GUARDS = frozenset(("add", "max"))

# Operations that keep the entries of a weight, some of them or all.
_KEEPING = LAYOUT | {
    "concatenate",
    "cond_choice",
    "dynamic_slice",
    "dynamic_update_slice",
    "gather",
    "optimization_barrier",
    "pad",
    "rev",
    "slice",
    "split",
    "stack",
    "stop_gradient",
    "unstack",
}

# Entries that a fixed array may have, at most, and its zeros be counted. With ten times
# more, counting takes longer than reading the rest of the network.
_MOST_COUNTED = 2**22

_BY_LEAF = "multiplied by another leaf"
_ELSE = "the law of the leaf is not that of the weight"


class Usage(NamedTuple):
    """What a weight goes through on the way from its leaf to the signal.

    Attributes:
        factor: The product of all numbers that multiply it.
        is_normalized: Whether it is divided by a norm of its own.
        is_zero_safe: Whether the norm is kept away from zero, so that a weight of zeros
            gives no NaN. True without a norm.
        is_added_to: Whether another leaf is added to it, as low-rank updates are.
        form: The function of w that multiplies the signal, "softplus(w)", if it is not
            w itself, up to numbers and what the other fields say; otherwise "".
        others: What else is done to its entries, in words.
        is_reversed: Whether axes of it are reversed, as taps of a window may be.
        convolution: Of a kernel, how it goes over its image, axes in the order of the
            window axes of the leaf; None if that cannot be told.
    """

    factor: float = 1.0
    is_normalized: bool = False
    is_zero_safe: bool = True
    is_added_to: bool = False
    form: str = ""
    others: tuple[str, ...] = ()
    is_reversed: bool = False
    convolution: Convolution | None = None

    def note(self) -> str:
        """Say what the user of an initializer should know; "" if there is nothing."""
        parts = []
        is_scaled = not math.isclose(self.factor, 1, rel_tol=1e-6)
        if self.is_normalized:
            parts.append("its scale is undone: divided by its own norm")
        if self.form:
            number = f"{self.factor:.4g} " if is_scaled else ""
            parts.append(f"used as {number}{self.form}: {_ELSE}")
        elif is_scaled and not self.is_normalized:
            parts.append(f"used as {self.factor:.4g} w")
        if self.is_added_to:
            parts.append("only w of the sum w + … is drawn")
        return ", ".join((*parts, *dict.fromkeys(self.others)))

    def also(self, remark: str) -> "Usage":
        """Return the usage with one more remark."""
        return self._replace(others=(*self.others, remark))


def usages(anatomy: Anatomy) -> dict[str, Usage]:
    """Return the usage of each layer at its first use, by the name of the layer."""
    program = anatomy._flow.program
    return {row.name: _usage(program, row.uses[0]) for row in anatomy._rows}


def _usage(program: Program, use: Use) -> Usage:
    """Return what a weight goes through between its leaf and one use of it.

    The walk goes back from the use to the leaf, and adds each operation on its way.
    """
    leaf = use.meeting.origin.leaf
    index = use.meeting.weight
    usage = Usage(convolution=_convolution(program, use))
    # Found only when needed: most weights are used as they are.
    of_leaf: frozenset[int] | None = None
    while index != leaf:
        value = program.values[index]
        if value.operation == "rev":
            usage = usage._replace(is_reversed=True)
        if len(value.inputs) == 1 and value.operation in _KEEPING:
            (index,) = value.inputs
            continue
        if of_leaf is None:
            of_leaf = frozenset(program.reached((leaf,)))
        own = [read for read in value.inputs if read in of_leaf]
        if not own:
            break
        # If an operand is the mean or the norm of w, w itself is the larger one.
        larger = max(own, key=lambda read: math.prod(program.values[read].shape))
        others = [read for read in value.inputs if read != larger]
        step = _step(
            program,
            usage,
            index,
            operand=larger,
            others=others,
            of_leaf=of_leaf,
        )
        if step is None:
            # No number, norm or mask: what is left is one function of the leaf.
            return _with_function(program, usage, leaf, end=index, of_leaf=of_leaf)
        usage = step
        index = larger
    return usage


def _step(
    program: Program,
    usage: Usage,
    index: int,
    *,
    operand: int,
    others: list[int],
    of_leaf: frozenset[int],
) -> Usage | None:
    """Add one operation to a usage; None if `Usage` has no field for it.

    Args:
        program: The program.
        usage: What comes after the operation, up to the signal.
        index: Index of its result.
        operand: Index of the operand that comes from the weight.
        others: Indices of its other operands.
        of_leaf: Indices of the values that are computed from the leaf.
    """
    value = program.values[index]
    if value.operation in _KEEPING:
        return usage
    if value.operation == "neg":
        return usage._replace(factor=-usage.factor)
    if value.operation == "select_n" and value.inputs[0] not in of_leaf:
        # A choice between two functions of w is another function of it.
        if any(read in of_leaf for read in others):
            return None
        return _selected(program, usage, value, operand=operand)
    if len(others) != 1:
        return None
    return _with(program, usage, value, other=others[0], of_leaf=of_leaf)


def _with_function(
    program: Program,
    usage: Usage,
    leaf: int,
    *,
    end: int,
    of_leaf: frozenset[int],
) -> Usage:
    """Add all operations between a leaf and the value `end`, as one function."""
    between = _before(program, end, of_leaf)
    # The argument of the function is the leaf, or a slice or reshaped copy of it.
    start = leaf
    while True:
        readers = [read for read in program.readers[start] if read in between]
        if len(readers) != 1 or program.values[readers[0]].operation not in _KEEPING:
            break
        (start,) = readers
    function = _nonlinearity.of_values(program, start, end)
    if function is not None:
        name, number = function
        if name == "linear":
            return usage._replace(factor=usage.factor * number)
        return usage._replace(form=_written(program, start, end, name=name))
    return usage._replace(form=_whole_function(program, leaf, end, of_leaf=of_leaf))


def _written(program: Program, start: int, end: int, *, name: str) -> str:
    """Return words for an elementwise function of w: "exp(w)"."""
    value = program.values[end]
    if name:
        return f"{name}(w)"
    # One operation has a name, and several have none.
    if value.inputs == (start,) and "y" not in value.params:
        return f"{value.operation}(w)"
    return "a function of w, entry by entry"


def _whole_function(
    program: Program,
    leaf: int,
    index: int,
    *,
    of_leaf: frozenset[int],
) -> str:
    """Return words for a function of w that is not elementwise: "(w + wᵀ)".

    Only sums and differences of w and its transpose are told; any other is "a function
    of w".
    """
    value = program.values[index]
    signs = {"add": "+", "add_any": "+", "sub": "-"}
    if value.operation in signs and all(read in of_leaf for read in value.inputs):
        turned = [_is_turned(program, leaf, read) for read in value.inputs]
        names = {True: "wᵀ", False: "w"}
        if None not in turned and turned[0] != turned[1]:
            first, second = (names[bool(one)] for one in turned)
            return f"({first} {signs[value.operation]} {second})"
    return "a function of w"


def _is_turned(program: Program, leaf: int, index: int) -> bool | None:
    """Tell whether a value is the transpose of a leaf, or the leaf; None if neither."""
    is_turned = False
    while index != leaf:
        value = program.values[index]
        is_matrix = len(value.shape) == 2
        if len(value.inputs) != 1 or value.operation not in LAYOUT or not is_matrix:
            return None
        if value.operation == "transpose":
            is_turned = not is_turned
        (index,) = value.inputs
    return is_turned


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
) -> Usage | None:
    """Return a usage with one more operation: on the weight and one other operand.

    Args:
        program: The program.
        usage: What comes after the operation, up to the signal.
        value: The result of the operation.
        other: Index of the other operand.
        of_leaf: Indices of the values that are computed from the leaf.

    Returns:
        The usage; None if it cannot hold the operation: anything but a multiple, a norm
        or a sum, and a sum with a number other than 0.
    """
    is_dividend = value.operation == "div" and other == value.inputs[0]
    is_product = value.operation == "mul" or (
        value.operation == "div" and not is_dividend
    )
    is_sum = value.operation in ("add", "add_any", "sub")
    if other in of_leaf:
        if not _is_reduced(program, other, of_leaf, size=math.prod(value.shape)):
            return None
        if is_product:
            before = [program.values[n] for n in _before(program, other, of_leaf)]
            is_safe = any(_is_guard(program, part) for part in before)
            return usage._replace(is_normalized=True, is_zero_safe=is_safe)
        return usage.also("its mean is taken off") if is_sum else None
    number = _number(program, other)
    is_trained = number is None and other in program.reached(program.params)
    if is_product:
        if number:
            factor = number if value.operation == "mul" else 1 / number
            return usage._replace(factor=usage.factor * factor)
        if is_trained:
            # The gain behind a norm belongs to the norm.
            return usage if usage.is_normalized else usage.also(_BY_LEAF)
        return _masked(program, usage, other, is_divided=value.operation == "div")
    if not is_sum:
        return None
    # In a - w the weight has the factor -1.
    if value.operation == "sub" and value.inputs[0] == other:
        usage = usage._replace(factor=-usage.factor)
    if is_trained:
        return usage._replace(is_added_to=True)
    if number is None:
        return usage.also("a constant array is added")
    return usage if number == 0 else None


def _masked(program: Program, usage: Usage, mask: int, *, is_divided: bool) -> Usage:
    """Add a product with an array that the program fixes, or a division by one."""
    array = _fixed(program, mask)
    if array is None or array.size == 0:
        return usage.also("multiplied by an array that is not trained")
    if is_divided:
        # A weight that is divided by zero is the network's own fault.
        with np.errstate(divide="ignore"):
            array = 1 / array
    if np.all(array == array.ravel()[0]):
        return usage._replace(factor=usage.factor * float(array.ravel()[0]))
    if np.all(array != 0):
        return usage.also("its entries are multiplied by numbers that differ")
    return usage.also(_share_used(array != 0))


def _selected(
    program: Program, usage: Usage, value: Value, *, operand: int
) -> Usage | None:
    """Add a choice, entry by entry, between the weight and another value."""
    which, *cases = value.inputs
    others = [case for case in cases if case != operand]
    is_zero = len(others) == 1 and _number(program, others[0]) == 0
    if not is_zero:
        return usage.also("only some of its entries are used")
    array = _fixed(program, which)
    if array is None:
        return usage.also("masked: only some of its entries are used")
    chosen = np.asarray(array, int) == cases.index(operand)
    if chosen.all():
        return usage
    return usage.also(_share_used(chosen))


def _share_used(used: np.ndarray) -> str:
    """Say how many entries of a weight a mask lets through."""
    return f"masked: only {np.count_nonzero(used)} of {used.size} entries are used"


def _fixed(program: Program, index: int) -> np.ndarray | None:
    """Compute a value that depends on no argument; None if that cannot be done."""
    value = program.values[index]
    # Random keys and effect tokens are no numbers.
    has_numbers = hasattr(value.aval, "dtype") and not kinds.is_typed_key(value.aval)
    if not has_numbers or math.prod(value.shape) > _MOST_COUNTED:
        return None
    if value.operation == "constant":
        if value.number is None or checks.is_traced(value.number):
            return None
        return np.asarray(value.number)
    # Values that no equation computes are arguments, or those of loops. Equations with
    # several results return a list.
    eqn = value.eqn
    if eqn is None or value.operation != eqn.primitive.name or len(eqn.outvars) > 1:
        return None
    operands = [_fixed(program, read) for read in value.inputs]
    if any(operand is None for operand in operands):
        return None
    with jax.ensure_compile_time_eval():
        return np.asarray(eqn.primitive.bind(*operands, **eqn.params))


def _is_reduced(
    program: Program, end: int, of_leaf: frozenset[int], *, size: int
) -> bool:
    """Tell whether a value is made of sums of a weight alone, as a norm or a mean is.

    Of w + w @ w the product is none: it has as many entries as w.
    """
    seen = {end}
    pending = [end]
    while pending:
        value = program.values[pending.pop()]
        is_small = math.prod(value.shape) < size or value.operation != "dot_general"
        if value.operation in _REDUCING and is_small:
            continue
        new = [read for read in value.inputs if read in of_leaf]
        # The leaf itself.
        if not new:
            return False
        pending += [read for read in new if read not in seen]
        seen.update(new)
    return True


def _before(
    program: Program,
    end: int,
    of_leaf: frozenset[int],
) -> set[int]:
    """Return the values between a leaf and the value `end`, both included."""

    def inputs(index: int) -> frozenset[int]:
        return of_leaf.intersection(program.values[index].inputs)

    return reached([end], inputs)


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
