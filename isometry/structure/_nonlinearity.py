"""Tells activations by what they compute: gelu from its tanh approximation.

Names of functions and their operations are not enough. `jax.nn.gelu` is two functions
under one name, and a sigmoid times its argument may be silu, or x * sigmoid(1.702 x). A
nonlinearity is therefore evaluated, on a few numbers in NumPy, and compared.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from isometry import activations
from isometry._internal import checks
from isometry.activations import Activation
from isometry.structure import _reading
from isometry.structure._flow import LAYOUT, Flow
from isometry.structure._reading import Program, Value

Numbers: TypeAlias = Float[np.ndarray, " points"]

# Functions of `jax.nn` and `jax.numpy` that networks use as activations, and that have
# no name in `activations`.
FURTHER = {
    "relu6": Activation(jax.nn.relu6, kinks=(0.0, 6.0)),
    "hard_silu": Activation(jax.nn.hard_silu, kinks=(-3.0, 3.0), name="hard_silu"),
    "mish": Activation(jax.nn.mish),
    "abs": Activation(jnp.abs, kinks=(0.0,), name="abs"),
    "cos": Activation(jnp.cos, name="cos"),
}

# No number here is a kink of any activation. Functions that differ anywhere differ
# here: gelu and its approximation by 5e-4 at 2.
_POINTS = np.linspace(-6.13, 6.37, 41)

# How many units in the last place of the program's dtype two functions may differ, at
# most, and be the same: constants in a program are rounded, and rounded constants
# multiplied. With a hundred times fewer selu is not known again in float64, whose
# constants are finer; with a thousand times more a slope of 0.0101 is taken for 0.01.
_ULPS = 16

# How much the values of an affine function may bend, relative to the largest. In double
# precision they bend by 1e-15; sin(x / 100) is as straight as 1e-6 here.
_FLAT = 1e-9

# How many operations a nonlinearity may have. The longest of the package, softplus, has
# some 20; a limit ten times higher would walk through a network without layers.
_MOST_OPERATIONS = 100

# Operations that leave every entry of a value as it is, and in its place.
SHAPING = LAYOUT - {
    "transpose",
    "scan_carry",
    "scan_each",
    "scan_last",
    "scan_stack",
}


class _Unknown(Exception):
    """A value that does not depend on the numbers given, and constants, alone."""


def name(flow: Flow, start: int, end: int) -> str | None:
    """Return the name of the activation between two nodes.

    Args:
        flow: The flow.
        start: The node before it.
        end: The node after it.

    Returns:
        A name of `activations.names()` or of `FURTHER`; "" if it is none of them, as
        leaky_relu of another slope is none; None if it is not an elementwise function
        of the node, or has parameters.
    """
    values = computed(flow, start, end)
    if values is None:
        return None
    return _nearest(values, flow.value(start))


def computed(flow: Flow, start: int, end: int) -> Numbers | None:
    """Return a node at fixed numbers put in at another node.

    None if it is not an elementwise function of that node, or has parameters.
    """
    nodes = flow.unrolled.nodes
    given = {start: _POINTS}
    try:
        return _evaluated(end, flow.value, lambda n: nodes[n].inputs, given=given)
    except _Unknown:
        return None


def factor(flow: Flow, node: int) -> float:
    """Return the number that a scaled node is multiplied by; NaN if it is divided."""
    nodes = flow.unrolled.nodes
    (other,) = flow.from_elsewhere(node)
    try:
        numbers = _evaluated(other, flow.value, lambda n: nodes[n].inputs, given={})
    except _Unknown:
        return math.nan
    if flow.operation(node) == "mul":
        return float(numbers[0])
    is_dividend = nodes[node].inputs[0] == other
    return math.nan if is_dividend else 1 / float(numbers[0])


def multiple(values: Numbers, name: str, inner: float) -> float | None:
    """Return c if values at the fixed numbers z are c phi(inner z); None if not.

    Args:
        values: What `computed` returns.
        name: The name of phi.
        inner: The number that multiplies z.
    """
    if inner == 0 or not math.isfinite(inner):
        return None
    of_phi = _values_at_multiples(name, inner)
    largest = np.argmax(np.abs(of_phi))
    number = float(values[largest] / of_phi[largest])
    eps = float(jnp.finfo(jnp.float32).eps)
    error = np.max(np.abs(values - number * of_phi)) / np.max(np.abs(values))
    return number if error < _ULPS * eps else None


def of_values(program: Program, start: int, end: int) -> tuple[str, float] | None:
    """Return the name and the slope at 0 of a function between two values.

    Args:
        program: The program.
        start: The value before it.
        end: The value after it.

    Returns:
        The name, as `name` returns it; for a multiple of its argument "linear" and the
        number that multiplies it, for all else a name or "" and 1. None if it is not an
        elementwise function of the value before it.
    """
    values = program.values
    try:
        numbers = _evaluated(
            end,
            values.__getitem__,
            lambda n: values[n].inputs,
            given={start: _POINTS},
        )
    except _Unknown:
        return None
    slope = float(numbers[-1] / _POINTS[-1])
    if np.allclose(numbers, slope * _POINTS, rtol=1e-6, atol=0):
        return "linear", slope
    return _nearest(numbers, values[start]), 1.0


def _nearest(values: Numbers, argument: Value) -> str:
    """Return the activation that has these values at the points, or ""."""
    # The constants of the package's own functions are those of float32.
    own_eps = float(jnp.finfo(argument.aval.dtype).eps)
    tolerance = _ULPS * max(own_eps, float(jnp.finfo(jnp.float32).eps))
    errors = {
        known: np.max(np.abs(values - of_known) / np.maximum(np.abs(of_known), 1))
        for known, of_known in _known().items()
    }
    # In bfloat16 several may be within rounding.
    nearest = min(errors, key=lambda known: errors[known])
    if errors[nearest] > tolerance:
        return ""
    return nearest


def is_affine(flow: Flow, start: int, end: int) -> bool:
    """Tell whether a node is a number times another, plus a number, entry by entry.

    Args:
        flow: The flow.
        start: The node before it.
        end: The node after it.
    """
    values = computed(flow, start, end)
    if values is None:
        return False
    # Second differences at points of equal distance.
    bends = np.diff(values, 2)
    return bool(np.max(np.abs(bends)) <= _FLAT * max(np.max(np.abs(values)), 1.0))


def record(name: str) -> Activation:
    """Return an activation by its name in `activations.names()` or `FURTHER`."""
    return FURTHER[name] if name in FURTHER else activations.get(name)


@functools.cache
def _known() -> dict[str, Numbers]:
    """Return the values of every activation of the package at the points."""
    names = (*activations.names(), *FURTHER)
    return {known: _values(record(known).fn) for known in names}


@functools.cache
def _values_at_multiples(name: str, inner: float) -> Numbers:
    """Return the values of an activation at the points times a number."""
    return _values(record(name).fn, inner * _POINTS)


def _values(fn: Callable[[jax.Array], jax.Array], points: Numbers = _POINTS) -> Numbers:
    with jax.ensure_compile_time_eval():
        closed = jax.make_jaxpr(fn)(jax.ShapeDtypeStruct((), jnp.float32))
    program = _reading.read(closed, 0)
    given = {program.x[0]: points}
    values = program.values
    (output,) = program.outputs
    return _evaluated(
        output, values.__getitem__, lambda n: values[n].inputs, given=given
    )


def _evaluated(
    end: int,
    value_of: Callable[[int], Value],
    inputs_of: Callable[[int], tuple[int, ...]],
    *,
    given: Mapping[int, Numbers],
) -> Numbers:
    """Return the values of a node at the points, in double precision.

    Shapes do not matter: all operations are elementwise, and what they broadcast is one
    number.

    Args:
        end: The node.
        value_of: From a node to its value.
        inputs_of: From a node to those that it is computed from.
        given: The points, at the node where they are put in.

    Raises:
        _Unknown: The node depends on anything else, is not computed entry by entry, or
            takes more than `_MOST_OPERATIONS` operations.
    """
    results: dict[int, Any] = dict(given)
    # Depth first: a node is computed when it comes up for the second time.
    pending = [end]
    while pending:
        node = pending[-1]
        missing = [read for read in inputs_of(node) if read not in results]
        if node not in results and missing and len(results) < _MOST_OPERATIONS:
            # This raises if the operation is not elementwise, before its operands are
            # visited.
            _operation(value_of(node))
            pending += missing
            continue
        if node not in results:
            if missing:
                raise _Unknown
            operands = [results[read] for read in inputs_of(node)]
            results[node] = _result(value_of(node), operands)
        pending.pop()
    return np.broadcast_to(np.asarray(results[end], float), _POINTS.shape)


def _result(value: Value, operands: list[Any]) -> Any:
    """Compute one value from its operands."""
    if value.operation == "constant":
        return _one_number(value)
    operation = _operation(value)
    _require_entries_kept(value, operands)
    # Functions are evaluated where they overflow, too.
    with np.errstate(all="ignore"):
        if value.operation == "integer_pow":
            return operands[0] ** float(value.params["y"])
        return operation(*operands)


def _require_entries_kept(value: Value, operands: list[Any]) -> None:
    """Raise if an operation repeats entries, or rounds them to whole numbers.

    With repeated entries z_i sigmoid(z_j) would be taken for silu.
    """
    assert value.eqn is not None, "constants and arguments are no operations"
    sizes = {
        math.prod(getattr(variable.aval, "shape", ()))
        for variable, operand in zip(value.eqn.invars, operands, strict=True)
        if np.ndim(operand) > 0
    }
    # What is made of constants alone may be repeated.
    is_as_large = sizes <= {math.prod(value.shape)}
    is_boolean = jnp.issubdtype(value.aval.dtype, jnp.bool_)
    if not is_as_large or not (value.is_floating or is_boolean):
        raise _Unknown


def _one_number(value: Value) -> float:
    """Return a constant that is one number, however often it is repeated."""
    if value.number is None or checks.is_traced(value.number):
        raise _Unknown
    entries = np.asarray(value.number).ravel()
    # Random keys and the like have no numbers.
    if entries.size == 0 or not np.all(entries == entries[0]):
        raise _Unknown
    return entries[0].astype(float)


def _operation(value: Value) -> Callable[..., Any]:
    """Return the NumPy function of an elementwise operation."""
    functions = _functions()
    if value.operation not in functions:
        raise _Unknown
    return functions[value.operation]


@functools.cache
def _functions() -> dict[str, Callable[..., Any]]:
    """Return NumPy functions by the names of JAX's elementwise operations."""
    # Imported late, because it takes as long as all of this package.
    from scipy import special

    return dict.fromkeys(SHAPING, _first) | {
        "stop_gradient": _first,
        "integer_pow": np.power,
        "add": np.add,
        "add_any": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide,
        "neg": np.negative,
        "abs": np.abs,
        "sign": np.sign,
        "floor": np.floor,
        "ceil": np.ceil,
        "cbrt": np.cbrt,
        "max": np.maximum,
        "min": np.minimum,
        "clamp": _clamped,
        "select_n": _selected,
        "exp": np.exp,
        "exp2": np.exp2,
        "expm1": np.expm1,
        "log": np.log,
        "log1p": np.log1p,
        "logistic": special.expit,
        "erf": special.erf,
        "erfc": special.erfc,
        "sqrt": np.sqrt,
        "rsqrt": _inverse_root,
        "square": np.square,
        "pow": np.power,
        "sin": np.sin,
        "cos": np.cos,
        "atan": np.arctan,
        "atan2": np.arctan2,
        "tanh": np.tanh,
        "tan": np.tan,
        "asin": np.arcsin,
        "acos": np.arccos,
        "asinh": np.arcsinh,
        "acosh": np.arccosh,
        "atanh": np.arctanh,
        "sinh": np.sinh,
        "cosh": np.cosh,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
        "eq": np.equal,
        "ne": np.not_equal,
        "and": np.logical_and,
        "or": np.logical_or,
        "not": np.logical_not,
        "is_finite": np.isfinite,
    }


def _first(operand: Any, *_: Any) -> Any:
    return operand


def _clamped(low: Any, operand: Any, high: Any) -> Any:
    return np.minimum(np.maximum(operand, low), high)


def _selected(which: Any, *cases: Any) -> Any:
    return np.choose(np.asarray(which, int), cases)


def _inverse_root(operand: Any) -> Any:
    return 1 / np.sqrt(operand)
