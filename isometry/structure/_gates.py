"""Gates: leaves and numbers that multiply a residual branch, or its skip.

A gate is a trained scalar, a scale per channel, or the scale of a norm. The gates of a
recurrent cell are something else.
"""

import math
from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from isometry.structure._flow import LAYOUT, PRODUCTS, SUMS, Flow
from isometry.structure._origins import Origins, Pick
from isometry.structure._reading import Indices, Program

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

_SUMS = SUMS | {"sub"}

# Operations after which the picks still say which entries of a leaf a value is made of.
_DIRECT = (LAYOUT - {"scan_carry", "scan_last", "scan_stack"}) | {
    "slice",
    "dynamic_slice",
    "gather",
}

# Indices along the first axes of a leaf; None where the index is not known.
Indexed: TypeAlias = tuple[int | None, ...]

# Which entries of a leaf are meant: () for all; None if nothing is known.
Entry: TypeAlias = Indexed | None


class Read(NamedTuple):
    """Where a leaf multiplies the signal.

    Attributes:
        value: Index of the product, which depends on x.
        operand: Index of the operand that comes from the leaf.
        leaf: Index of the leaf among the program's values.
    """

    value: int
    operand: int
    leaf: int


def leaves(
    flow: Flow,
    end: int,
    cuts: Container[int],
) -> Indices:
    """Find the leaves of params that multiply a branch or a skip.

    Args:
        flow: The flow.
        end: The last node of the branch or skip.
        cuts: Nodes at which the search stops: where the branch begins, and its layers.

    Returns:
        Indices of the leaves among the program's values. If one of them is zero, so is
        `end`, but for what is added on the way. The leaf next to a layer comes first.
    """
    return _zeroed_by(flow, end, cuts, cache={})


def reads(flow: Flow, end: int, cuts: Container[int]) -> frozenset[Read]:
    """Find where the leaves that `leaves` returns, for these arguments, are read."""
    cache: dict[int, Indices] = {}
    gates = _zeroed_by(flow, end, cuts, cache=cache)
    found = set()
    # The search has visited all that lies between the two nodes.
    for node in tuple(cache):
        if not gates or not _depends_on_x(flow, node):
            continue
        value, _, operands = flow.unrolled.nodes[node]
        for operand in operands:
            if _depends_on_x(flow, operand):
                continue
            read = flow.unrolled.nodes[operand].value
            factors = _zeroed_by(flow, operand, cuts, cache=cache)
            found |= {Read(value, read, leaf) for leaf in factors if leaf in gates}
    return frozenset(found)


def shared(program: Program, known: Iterable[Read]) -> frozenset[int]:
    """Find the gates that the program also reads elsewhere.

    An example is g in (1 - g) x + g F(x).

    Args:
        program: The program.
        known: All places where leaves are gates.

    Returns:
        Indices of these leaves.
    """
    bits = {read.leaf: 1 << i for i, read in enumerate(known)}
    allowed: dict[tuple[int, int], int] = {}
    for read in known:
        place = (read.value, read.operand)
        allowed[place] = allowed.get(place, 0) | bits[read.leaf]
    # For each value that does not depend on x, the leaves that it comes from, as bits:
    # all leaves are followed in one pass.
    comes_from = dict(bits)
    elsewhere = 0
    for index, value in enumerate(program.values):
        for operand in value.inputs:
            leaves_of_operand = comes_from.get(operand, 0)
            if index in program.of_x:
                elsewhere |= leaves_of_operand & ~allowed.get((index, operand), 0)
            else:
                comes_from[index] = comes_from.get(index, 0) | leaves_of_operand
    return frozenset(leaf for leaf, bit in bits.items() if elsewhere & bit)


def entry(
    program: Program,
    leaf: int,
    found: Iterable[Read],
    *,
    origins: Mapping[int, Origins],
    index_in: Mapping[int, int],
) -> Entry:
    """Return which entry of a leaf multiplies one branch.

    Args:
        program: The program.
        leaf: Index of the leaf.
        found: Where leaves are gates of this branch.
        origins: The origins of values.
        index_in: For each scan around the branch, which slice its iteration takes.

    Returns:
        The indices along the first axes of the leaf, () for all of it; None if they
        cannot be read, or if several entries multiply the branch.
    """
    entries: set[Entry] = set()
    for read in found:
        if read.leaf == leaf:
            of_leaf = [o for o in origins.get(read.operand, ()) if o.leaf == leaf]
            is_plain = len(of_leaf) == 1 and not of_leaf[0].parts
            if not is_plain:
                return None
            taken = _picked(of_leaf[0].picks, index_in)
            if not _is_direct(program, read.operand, leaf):
                taken = (None,) * len(taken)
            entries.add(taken)
    return entries.pop() if len(entries) == 1 else None


def _picked(picks: Iterable[Pick], index_in: Mapping[int, int]) -> Indexed:
    """Return the indices that picks take along the first axes of a leaf.

    Args:
        picks: The slices that are taken of the leaf.
        index_in: For each scan, which slice its iteration takes.
    """
    by_axis: dict[int, int | None] = {}
    for pick in picks:
        index = pick.index
        if index is None and pick.scan is not None:
            index = index_in.get(pick.scan)
        by_axis[pick.axis] = index
    return tuple(by_axis.get(axis) for axis in range(len(by_axis)))


def _is_direct(program: Program, index: int, leaf: int) -> bool:
    """Tell whether picks alone say which entries of a leaf a value is made of.

    They do not if entries were reversed, summed or scaled on the way, or if a loop
    looks them up by an index that it computes.
    """
    while index != leaf:
        value = program.values[index]
        if value.operation not in _DIRECT or not value.inputs:
            return False
        source = value.inputs[0]
        # An index that is an operand is a number of the program, or a loop's.
        if any(not _is_constant(program, read) for read in value.inputs[1:]):
            return False
        before, after = program.values[source].shape, value.shape
        is_reshaped = value.operation == "reshape" and _wide(before) != _wide(after)
        if is_reshaped:
            return False
        index = source
    return True


def _is_constant(program: Program, index: int) -> bool:
    """Tell whether a value depends on no argument, and is the same in every loop."""
    value = program.values[index]
    if not value.inputs:
        return value.operation == "constant"
    if value.operation.startswith("scan"):
        return False
    return all(_is_constant(program, read) for read in value.inputs)


def _wide(shape: Indices) -> Indices:
    """Return the sizes of axes that have more than one entry."""
    return tuple(size for size in shape if size != 1)


def _zeroed_by(
    flow: Flow,
    node: int,
    cuts: Container[int],
    *,
    cache: dict[int, Indices],
) -> Indices:
    """Return the leaves each of which, if it is zero, makes a node zero.

    Args:
        flow: The flow.
        node: The node.
        cuts: Nodes at which the search stops; of these no leaf is returned.
        cache: The results for nodes that were visited before.
    """
    if node in cuts:
        return ()
    if node not in cache:
        # The recursion is as deep as the chain of operations after the last layer.
        cache[node] = _zeroed_by_operands(flow, node, cuts, cache=cache)
    return cache[node]


def _zeroed_by_operands(
    flow: Flow,
    node: int,
    cuts: Container[int],
    *,
    cache: dict[int, Indices],
) -> Indices:
    """Return what `_zeroed_by` does, for a node that it has not visited before."""
    value = flow.unrolled.nodes[node].value
    inputs = flow.unrolled.nodes[node].inputs
    operation = flow.operation(node)
    program = flow.program
    if value in program.params:
        return (value,)

    def zeroed_by(read: int) -> Indices:
        return _zeroed_by(flow, read, cuts, cache=cache)

    if operation in PRODUCTS:
        factors = [leaf for read in inputs for leaf in zeroed_by(read)]
        return tuple(dict.fromkeys(factors))
    if operation in _SUMS:
        # A bias after a gate is a shift: the branch is then constant, not zero. What
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
    """Return the fixed number that multiplies a skip.

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
    """Return the constant that a node is, perhaps broadcast; None for anything else."""
    while flow.operation(node) in LAYOUT:
        node = flow.unrolled.nodes[node].inputs[0]
    value = flow.value(node)
    if value.number is None or math.prod(value.shape) != 1:
        return None
    return float(np.asarray(value.number).reshape(()))
