"""The matrix of an attention, read as alpha I + beta A - gamma C.

A is the softmax, I the identity, and C is what A becomes at logits of 0: uniform over
the visible tokens. Each of the three numbers is a leaf of params, or fixed by the
program: 0, 1 and 0 of an attention that is A alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from isometry.structure._flow import LAYOUT, Flow
from isometry.structure._reading import Indices, Value

# The index of a leaf among the program's values, a number, or None if it cannot be
# read.
Coefficient: TypeAlias = int | float | None

# How many units in the last place the entries of C may be off: they are quotients,
# which are rounded, and may be converted. With ten times fewer a rounded C is refused;
# with a million times more a slow decay with distance is taken for C.
_ULPS = 4

_SUMS = ("add", "add_any", "sub")


class Mixture(NamedTuple):
    """The coefficients of I, of A, and of -C."""

    alpha: Coefficient = 0.0
    beta: Coefficient = 1.0
    gamma: Coefficient = 0.0


UNKNOWN = Mixture(None, None, None)


class _Term(NamedTuple):
    """A summand of the matrix: a number, times leaves of params, times a node.

    Attributes:
        node: The node of the flow.
        number: The product of the numbers in front of it.
        leaves: The leaves in front of it, by their indices among the program's values.
    """

    node: int
    number: float = 1.0
    leaves: Indices = ()


def mixture(
    flow: Flow,
    weights: int,
) -> Mixture:
    """Read the coefficients of the matrix that multiplies the values.

    Args:
        flow: The flow.
        weights: The node of the matrix, in which a softmax is known to be.

    Returns:
        The coefficients; `UNKNOWN` if the matrix is not such a sum.
    """
    found: dict[str, Coefficient] = {}
    for term in _terms(flow, _Term(weights)):
        name = _name(flow, term)
        # Two summands of one kind have no single coefficient.
        if name is None or name in found:
            return UNKNOWN
        # The coefficient of C is -gamma.
        if name == "gamma":
            term = term._replace(number=-term.number)
        found[name] = _coefficient(term)
    if "beta" not in found:
        return UNKNOWN
    # The coefficient of what is no summand is 0.
    return Mixture(
        alpha=found.get("alpha", 0.0),
        beta=found["beta"],
        gamma=found.get("gamma", 0.0),
    )


def _terms(
    flow: Flow,
    term: _Term,
) -> list[_Term]:
    """Split a term into the summands that it is made of."""
    operation = flow.operation(term.node)
    inputs = _inputs(flow, term.node)
    # A matrix that the program fixes is one term, however it is computed.
    if _is_fixed(flow, term.node):
        return [term]
    if operation in LAYOUT and inputs:
        return _terms(flow, term._replace(node=inputs[0]))
    if operation == "neg":
        return _terms(flow, term._replace(node=inputs[0], number=-term.number))
    if operation in _SUMS:
        left = term._replace(node=inputs[0])
        right = term._replace(node=inputs[1])
        if operation == "sub":
            right = right._replace(number=-term.number)
        return _terms(flow, left) + _terms(flow, right)
    # A softmax is a product or quotient itself, of two values that depend on x.
    is_of_coefficient = not all(_is_of_x(flow, node) for node in inputs)
    if operation == "mul" and is_of_coefficient:
        return _of_product(flow, term)
    if operation == "div" and is_of_coefficient:
        return _of_quotient(flow, term)
    return [term]


def _of_product(
    flow: Flow,
    term: _Term,
) -> list[_Term]:
    """Split a coefficient times something else; no terms if it is no such product."""
    left, right = _inputs(flow, term.node)
    for factor, other in ((left, right), (right, left)):
        source = _scalar(flow, factor)
        if source is None:
            continue
        rest = term._replace(node=other)
        leaf = flow.unrolled.nodes[source].value
        if leaf in flow.program.params:
            return _terms(flow, rest._replace(leaves=(*term.leaves, leaf)))
        if _is_fixed(flow, source):
            number = term.number * _number(flow, source)
            return _terms(flow, rest._replace(number=number))
    return []


def _of_quotient(
    flow: Flow,
    term: _Term,
) -> list[_Term]:
    """Split something divided by a number; no terms if it is no such quotient."""
    over, under = _inputs(flow, term.node)
    source = _scalar(flow, under)
    if source is None or not _is_fixed(flow, source):
        return []
    divisor = _number(flow, source)
    if divisor == 0:
        return []
    return _terms(flow, term._replace(node=over, number=term.number / divisor))


def _scalar(
    flow: Flow,
    node: int,
) -> int | None:
    """Return the node of the number that is broadcast to a factor of the matrix.

    None if the factor is more than one number for each head.
    """
    is_scalar = _is_scalar(flow, node)
    while flow.operation(node) in LAYOUT:
        node = _inputs(flow, node)[0]
        is_scalar = is_scalar or _is_scalar(flow, node)
    return node if is_scalar else None


def _is_scalar(
    flow: Flow,
    node: int,
) -> bool:
    """Tell whether a value is the same in all entries of the matrix of a head."""
    return math.prod(flow.value(node).shape[-2:]) == 1


def _name(
    flow: Flow,
    term: _Term,
) -> str | None:
    """Return which coefficient a term has: "alpha", "beta" or "gamma"; or None."""
    if _is_of_x(flow, term.node):
        return "beta"
    if not _is_fixed(flow, term.node):
        return None
    matrix = _evaluated(flow, term.node)
    if matrix.ndim < 2:
        return None
    # The sign tells first: of a single token both matrices are 1.
    if term.number > 0 and _is_identity(matrix):
        return "alpha"
    if term.number < 0 and _is_uniform(matrix):
        return "gamma"
    return None


def _is_identity(matrix: np.ndarray) -> bool:
    num_rows, num_columns = matrix.shape[-2:]
    return _is_all(matrix, np.eye(num_rows, num_columns))


def _is_uniform(matrix: np.ndarray) -> bool:
    """Tell whether rows are uniform over the tokens that they see."""
    is_visible = matrix != 0
    num_visible = np.count_nonzero(matrix, -1, keepdims=True)
    # A matrix of tokens that see themselves alone is I, and no C.
    if num_visible.max() == 1 and matrix.shape[-1] > 1:
        return False
    return _is_all(matrix, is_visible / np.maximum(num_visible, 1))


def _is_all(
    matrix: np.ndarray,
    expected: np.ndarray,
) -> bool:
    """Tell whether the matrix of every head is the expected one, up to rounding."""
    tolerance = _ULPS * float(jnp.finfo(matrix.dtype).eps)
    error = np.abs(matrix.astype(float) - expected)
    return bool((error <= tolerance * np.abs(expected)).all())


def _coefficient(term: _Term) -> Coefficient:
    """Return the coefficient of a term; None if it is no leaf and no number alone."""
    if not term.leaves:
        return term.number
    # Twice a leaf is no leaf, and neither is a product of two.
    if term.number == 1.0 and len(term.leaves) == 1:
        return term.leaves[0]
    return None


def _inputs(
    flow: Flow,
    node: int,
) -> Indices:
    """Return the nodes that a node is computed from, in the flow or outside it."""
    return flow.unrolled.nodes[node].inputs


def _is_of_x(
    flow: Flow,
    node: int,
) -> bool:
    return flow.unrolled.nodes[node].value in flow.program.of_x


def _is_fixed(
    flow: Flow,
    node: int,
) -> bool:
    """Tell whether a node depends on no argument, and can be computed here."""
    # Most values depend on x, and are told without a walk.
    if _is_of_x(flow, node):
        return False
    return all(_is_known(flow.value(read)) for read in flow.unrolled.before(node))


def _is_known(value: Value) -> bool:
    """Tell whether a value is a number, or the result of one operation on others."""
    if value.operation == "constant":
        return value.number is not None
    # What a loop or a choice returns is neither; arguments have no equation.
    return value.eqn is not None and value.eqn.primitive.name == value.operation


def _number(
    flow: Flow,
    node: int,
) -> float:
    return float(_evaluated(flow, node).ravel()[0])


def _evaluated(
    flow: Flow,
    node: int,
) -> np.ndarray:
    """Compute a node that depends on no argument."""
    results: dict[int, jax.Array] = {}
    # A network may be read for the first time while a function of it is compiled.
    with jax.ensure_compile_time_eval():
        # Nodes are numbered in an order in which they can be computed.
        for read in sorted(flow.unrolled.before(node)):
            operands = [results[operand] for operand in _inputs(flow, read)]
            results[read] = _result(flow.value(read), operands)
        return np.asarray(results[node])


def _result(
    value: Value,
    operands: Sequence[jax.Array],
) -> jax.Array:
    if value.eqn is None:
        return jnp.asarray(value.number)
    returned = value.eqn.primitive.bind(*operands, **value.params)
    if not value.eqn.primitive.multiple_results:
        return returned
    # Values are told apart by the variable that they are assigned to.
    places = {var: place for place, var in enumerate(value.eqn.outvars)}
    assert value.var is not None, "only literals have no variable"
    return returned[places[value.var]]
