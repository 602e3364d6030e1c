"""The matrix of an attention, read as alpha I + beta A - gamma C.

A is the softmax, I the identity, and C is what A becomes at logits of 0: uniform over
the visible tokens. Each of the three numbers is a leaf of params, or fixed by the
program: 0, 1 and 0 of an attention that is A alone.
"""

import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from isometry.structure._flow import LAYOUT, Flow

# The index of a leaf among the program's values, a number, or None if it cannot be
# read.
Coefficient: TypeAlias = int | float | None

# How many units in the last place the entries of C may be off: they are quotients,
# which are rounded once, and may be converted. A thousand times more would take a decay
# with distance for C.
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
    leaves: tuple[int, ...] = ()


def mixture(flow: Flow, weights: int) -> Mixture:
    """Read the coefficients of the matrix that multiplies the values.

    Args:
        flow: The flow.
        weights: The node of the matrix, in which a softmax is known to be.
    """
    found: dict[str, Coefficient] = {}
    for term in _terms(flow, _Term(weights)):
        name = _name(flow, term)
        # Two summands of one kind have no single coefficient.
        if name is None or name in found:
            return UNKNOWN
        # C is what is subtracted.
        sign = -1.0 if name == "gamma" else 1.0
        found[name] = _coefficient(term._replace(number=sign * term.number))
    if "beta" not in found:
        return UNKNOWN
    # The coefficient of what is no summand is 0.
    return Mixture(
        alpha=found.get("alpha", 0.0),
        beta=found["beta"],
        gamma=found.get("gamma", 0.0),
    )


def _terms(flow: Flow, term: _Term) -> list[_Term]:
    """Split a term into the summands that it is made of."""
    operation = flow.operation(term.node)
    inputs = flow.unrolled.nodes[term.node].inputs
    # A matrix that the program fixes is one term, however it is computed.
    if _is_fixed(flow, term.node):
        return [term]
    if operation in LAYOUT and inputs:
        return _terms(flow, term._replace(node=inputs[0]))
    if operation == "neg":
        return _terms(flow, term._replace(node=inputs[0], number=-term.number))
    if operation in _SUMS:
        number = -term.number if operation == "sub" else term.number
        left = term._replace(node=inputs[0])
        right = term._replace(node=inputs[1], number=number)
        return _terms(flow, left) + _terms(flow, right)
    # A softmax is a product or quotient itself, of two values that depend on x.
    if operation in ("mul", "div") and not all(_is_of_x(flow, node) for node in inputs):
        return _of_product(flow, term)
    return [term]


def _of_product(flow: Flow, term: _Term) -> list[_Term]:
    """Split a product of a coefficient and something else; none if it is no such."""
    left, right = flow.unrolled.nodes[term.node].inputs
    pairs = [(left, right), (right, left)]
    is_quotient = flow.operation(term.node) == "div"
    if is_quotient:
        pairs = [(right, left)]
    for factor, other in pairs:
        scaled = _scaled(flow, term, factor, power=-1 if is_quotient else 1)
        if scaled is not None:
            return _terms(flow, scaled._replace(node=other))
    return []


def _scaled(flow: Flow, term: _Term, factor: int, *, power: int) -> _Term | None:
    """Return the term with a leaf or number in front of it, or None if it is neither.

    A leaf has to be one number, or one a head, and not one an entry. `power` is -1 for
    a number that divides.
    """
    node = factor
    is_scalar = _is_scalar(flow, node)
    while flow.operation(node) in LAYOUT:
        node = flow.unrolled.nodes[node].inputs[0]
        is_scalar = is_scalar or _is_scalar(flow, node)
    if not is_scalar:
        return None
    value = flow.unrolled.nodes[node].value
    if value in flow.program.params and power == 1:
        return term._replace(leaves=(*term.leaves, value))
    if not _is_fixed(flow, node):
        return None
    number = float(_evaluated(flow, node).ravel()[0])
    return term._replace(number=term.number * number**power)


def _is_scalar(flow: Flow, node: int) -> bool:
    """Tell whether a value is one number for the whole matrix of a head."""
    shape = flow.value(node).shape
    return math.prod(shape[-2:] if len(shape) > 1 else shape) == 1


def _name(flow: Flow, term: _Term) -> str | None:
    """Tell whose coefficient stands in front of a term, or return None."""
    if _is_of_x(flow, term.node):
        return "beta"
    if not _is_fixed(flow, term.node):
        return None
    matrix = _evaluated(flow, term.node)
    if matrix.ndim < 2:
        return None
    is_identity = _is_all(matrix, np.eye(*matrix.shape[-2:]))
    # The sign comes first: of a single token both matrices are 1.
    if term.number > 0:
        return "alpha" if is_identity else None
    # With more tokens, one that sees itself alone is no reason for an attention.
    if is_identity and matrix.shape[-1] > 1:
        return None
    is_visible = matrix != 0
    uniform = is_visible / np.maximum(is_visible.sum(-1, keepdims=True), 1)
    return "gamma" if _is_all(matrix, uniform) else None


def _is_all(matrix: np.ndarray, expected: np.ndarray) -> bool:
    """Tell whether a matrix, of every head, is the expected one to rounding."""
    tolerance = _ULPS * float(jnp.finfo(matrix.dtype).eps)
    error = np.abs(matrix.astype(float) - expected)
    return bool((error <= tolerance * np.abs(expected)).all())


def _coefficient(term: _Term) -> Coefficient:
    """Return the coefficient in front of a term."""
    if not term.leaves:
        return term.number
    # Twice a leaf is no leaf, and neither is a product of two.
    if term.number != 1.0 or len(term.leaves) > 1:
        return None
    return term.leaves[0]


def _is_of_x(flow: Flow, node: int) -> bool:
    return flow.unrolled.nodes[node].value in flow.program.of_x


def _is_fixed(flow: Flow, node: int) -> bool:
    """Tell whether a value depends on no argument, and how it is computed is known."""
    value = flow.value(node)
    if value.operation == "constant":
        return value.number is not None
    # What a loop or a choice returns is not the result of one operation.
    is_plain = value.eqn is not None and value.eqn.primitive.name == value.operation
    if not is_plain or _is_of_x(flow, node):
        return False
    return all(_is_fixed(flow, read) for read in flow.unrolled.nodes[node].inputs)


def _evaluated(flow: Flow, node: int) -> np.ndarray:
    """Compute a value that depends on no argument."""
    with jax.ensure_compile_time_eval():
        return np.asarray(_run(flow, node))


def _run(flow: Flow, node: int) -> jax.Array:
    value = flow.value(node)
    if value.eqn is None:
        return jnp.asarray(value.number)
    inputs = [_run(flow, read) for read in flow.unrolled.nodes[node].inputs]
    results = value.eqn.primitive.bind(*inputs, **value.params)
    if not value.eqn.primitive.multiple_results:
        return results
    return results[list(value.eqn.outvars).index(value.var)]
