"""Leaves and numbers that multiply a residual branch, or its skip."""

import math
from collections.abc import Container

import numpy as np

from isometry.structure._flow import LAYOUT, Flow
from isometry.structure._reading import Indices

# The result is zero where any operand is.
_PRODUCTS = frozenset(("mul", "dot_general", "conv_general_dilated"))

# The result is zero where the first operand is. `scan_stack` and its kin are in LAYOUT.
_LINEAR = LAYOUT | {
    "div",
    "neg",
    "reduce_sum",
    "reduce_window_sum",
    "cumsum",
    "slice",
    "dynamic_slice",
    "rev",
}

_SUMS = frozenset(("add", "add_any", "sub"))


def leaves(
    flow: Flow,
    end: int,
    cuts: Container[int],
) -> Indices:
    """Find the leaves of params that multiply what is computed between two nodes.

    Args:
        flow: The flow.
        end: The node whose value is multiplied.
        cuts: Nodes at which the search stops: where the branch begins, and its layers.

    Returns:
        Indices of the leaves among the program's values, without which `end` would be
        zero but for what is added to it. The leaf next to a layer comes first.
    """
    return _zeroed_by(flow, end, cuts, cache={})


def _zeroed_by(
    flow: Flow,
    node: int,
    cuts: Container[int],
    *,
    cache: dict[int, Indices],
) -> Indices:
    """Return the leaves of which each makes a node zero if it is zero itself."""
    if node in cuts:
        return ()
    if node not in cache:
        # The recursion is as deep as the chain of operations behind the last layer.
        cache[node] = _zeroed_by_operands(flow, node, cuts, cache=cache)
    return cache[node]


def _zeroed_by_operands(
    flow: Flow,
    node: int,
    cuts: Container[int],
    *,
    cache: dict[int, Indices],
) -> Indices:
    """Return the same from the leaves of the operands, by the rule of the operation."""
    value = flow.unrolled.nodes[node].value
    inputs = flow.unrolled.nodes[node].inputs
    operation = flow.operation(node)
    program = flow.program
    if value in program.params:
        return (value,)

    def zeroed_by(read: int) -> Indices:
        return _zeroed_by(flow, read, cuts, cache=cache)

    if operation in _PRODUCTS:
        factors = [leaf for read in inputs for leaf in zeroed_by(read)]
        return tuple(dict.fromkeys(factors))
    if operation in _SUMS:
        # A bias behind a gate is a shift: the branch is then constant, not zero. What
        # does not depend on x does not count, unless nothing does.
        of_x = [read for read in inputs if _depends_on_x(flow, read)]
        return _common([zeroed_by(read) for read in of_x or inputs])
    if operation in _LINEAR and inputs:
        # Of a scan, all iterations must be zero.
        from_scan = operation.startswith("scan")
        must_be_zero = inputs if from_scan else inputs[:1]
        return _common([zeroed_by(read) for read in must_be_zero])
    return ()


def _depends_on_x(flow: Flow, node: int) -> bool:
    """Tell whether a node depends on x, with a derivative or without."""
    return flow.unrolled.nodes[node].value in flow.program.of_x


def _common(parts: list[Indices]) -> Indices:
    """Return what all of several tuples contain, in the order of the first."""
    first, *others = parts
    return tuple(leaf for leaf in first if all(leaf in other for other in others))


def factor(flow: Flow, end: int, start: int) -> float | None:
    """Return the number that the program multiplies a node with.

    Args:
        flow: The flow.
        end: The node after the multiplication: the skip, as it is added.
        start: The node before it: where the branch leaves.

    Returns:
        The number, 1 if the two nodes are one; None if anything else lies between them
        than numbers and leaves of params.
    """
    product = 1.0
    node = end
    while node != start:
        inputs = flow.inputs.get(node, [])
        if len(inputs) != 1:
            return None
        operation = flow.operation(node)
        others = flow.from_elsewhere(node)
        if operation in ("mul", "div") and len(others) == 1:
            # A leaf of params is reported as a gate, and is no number of the program.
            if not _is_of_params(flow, others[0]):
                number = _number(flow, others[0])
                if number is None:
                    return None
                product = product * number if operation == "mul" else product / number
        elif operation not in LAYOUT:
            return None
        (node,) = inputs
    return product


def _is_of_params(flow: Flow, node: int) -> bool:
    """Tell whether a node is a leaf of params, or a copy or slice of one."""
    while flow.operation(node) in LAYOUT:
        node = flow.unrolled.nodes[node].inputs[0]
    return flow.unrolled.nodes[node].value in flow.program.params


def _number(flow: Flow, node: int) -> float | None:
    """Return a node as a number: a constant that is one, perhaps broadcast; or None."""
    while flow.operation(node) in LAYOUT:
        node = flow.unrolled.nodes[node].inputs[0]
    value = flow.value(node)
    if value.number is None or math.prod(value.shape) != 1:
        return None
    return float(np.asarray(value.number).reshape(()))
