"""Residual branches: where a skip leaves the stream, and where it joins it again."""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from isometry.structure._flow import Flow
from isometry.structure._reading import Indices

# A difference is no join: the gate of a GRU takes the new state from the old one.
_SUMS = frozenset(("add", "add_any"))

# Operations that pick one entry of an axis, as a step of a recurrence does.
_PICKING = frozenset(("scan_each", "dynamic_slice", "gather"))

# The most products on a shortcut: a projection, and the change of resolution before it.
# With more it would be a branch; with fewer, those of a U-Net would be none.
_MOST_ON_SHORTCUT = 2


class Join(NamedTuple):
    """A sum in which a branch joins the stream that it has left.

    Attributes:
        node: The sum.
        fork: The node at which the skip leaves: the last one that both ways come from.
        layers: The nodes of the weight layers on the branch, in order.
        shortcut: Those on the skip.
    """

    node: int
    fork: int
    layers: Indices
    shortcut: Indices


def joins(flow: Flow) -> list[Join]:
    """Find every join of a program, in order."""
    found = []
    for node in flow.nodes:
        if is_sum(flow, node):
            left, right = flow.inputs[node]
            join = _join(flow, node, (left, right))
            if join is not None:
                found.append(join)
    return found


def is_sum(flow: Flow, node: int) -> bool:
    """Tell whether a node is the sum of two different values of the flow."""
    operands = dict.fromkeys(flow.inputs[node])
    return flow.operation(node) in _SUMS and len(operands) == 2


class _Way(NamedTuple):
    """The nodes between a fork and one operand of a sum.

    Attributes:
        nodes: The nodes behind the fork, in order; empty for the fork itself.
        num_products: The fewest products (of a weight or of two values) on a path.
    """

    nodes: Indices
    num_products: int

    def layers(self, flow: Flow) -> Indices:
        return tuple(node for node in self.nodes if node in flow.layer_at)


def _join(
    flow: Flow,
    node: int,
    operands: tuple[int, int],
) -> Join | None:
    """Return the join that a sum is, or None if it is none."""
    fork, behind = _fork(flow, operands)
    if fork is None:
        return None
    # The sum is a join if one way is the bare stream and the other has layers on it.
    ways = _ways(flow, fork, behind, operands=operands)
    if ways[0].num_products > 0:
        # The stream may lie further back: in x + attention(h) + mlp(h), h = norm(x),
        # the last node on which mlp(h) and the sum before it depend is h.
        fork, behind = _fork_on_stream(flow, operands) or (fork, behind)
        ways = _ways(flow, fork, behind, operands=operands)
    skip, branch = ways
    layers = branch.layers(flow)
    if not layers or skip.num_products == branch.num_products:
        return None
    shortcut: Indices = ()
    if skip.num_products > 0:
        # Projections stand on a way of their own, beside more products.
        shortcut = skip.layers(flow)
        is_chain = len(shortcut) == skip.num_products
        if not is_chain or skip.num_products > _MOST_ON_SHORTCUT:
            return None
    # Steps of a recurrence that is written out take their input apart: x_t is added to
    # what was made of x_s, and that is no skip.
    if any(_is_pick(flow, step) for step in skip.nodes):
        return None
    return Join(node, fork, layers=layers, shortcut=shortcut)


def _ways(
    flow: Flow,
    fork: int,
    behind: dict[int, int],
    *,
    operands: tuple[int, int],
) -> list[_Way]:
    """Return the ways to both operands, that with fewer products first."""
    ways = [_way(flow, fork, behind, operand=operand) for operand in operands]
    return sorted(ways, key=lambda way: way.num_products)


def _fork_on_stream(
    flow: Flow,
    operands: tuple[int, int],
) -> tuple[int, dict[int, int]] | None:
    """Find the last node that is in one operand unchanged, and in the other changed."""
    found = []
    for stream, other in (operands, operands[::-1]):
        unchanged = _without_products(flow, stream)
        behind = {stream: 1, other: 2}
        pending = [-other]
        while pending:
            node = -heapq.heappop(pending)
            if node in unchanged:
                found.append((node, behind | dict.fromkeys(unchanged, 1)))
                break
            for read in flow.inputs[node]:
                if read not in behind:
                    behind[read] = 2
                    heapq.heappush(pending, -read)
    return max(found, key=lambda pair: pair[0], default=None)


def _without_products(flow: Flow, start: int) -> set[int]:
    """Return the nodes that come to a node by a way without products."""
    seen = {start}
    pending = [start]
    while pending:
        node = pending.pop()
        if node in flow.layer_at or flow.is_product(node):
            continue
        new = [read for read in flow.inputs[node] if read not in seen]
        seen.update(new)
        pending.extend(new)
    return seen


def _fork(
    flow: Flow,
    operands: tuple[int, int],
) -> tuple[int | None, dict[int, int]]:
    """Find the last node on which both operands depend.

    Returns:
        The fork, or None, and all nodes behind it on which an operand depends: for
        each, 1 for the first operand, 2 for the second, 3 for both.
    """
    marks = {operands[0]: 1}
    marks[operands[1]] = marks.get(operands[1], 0) | 2
    pending = [-operand for operand in operands]
    heapq.heapify(pending)
    while pending:
        node = -heapq.heappop(pending)
        # The latest common ancestor: all that is still on the heap comes before it.
        if marks[node] == 3:
            return node, marks
        for read in flow.inputs[node]:
            if read not in marks:
                heapq.heappush(pending, -read)
            marks[read] = marks.get(read, 0) | marks[node]
    return None, marks


def _way(
    flow: Flow,
    fork: int,
    behind: dict[int, int],
    *,
    operand: int,
) -> _Way:
    """Collect the nodes on all paths from the fork to one operand."""
    fewest = {fork: 0}
    for node in sorted(behind):
        # Ways that come from elsewhere (keys and values of an encoder) do not count.
        before = [fewest[read] for read in flow.inputs[node] if read in fewest]
        if node > fork and before:
            is_product = flow.is_product(node) or node in flow.layer_at
            fewest[node] = min(before) + is_product
    on_way = _between(flow, fewest, operand)
    nodes = tuple(node for node in sorted(on_way) if node != fork)
    return _Way(nodes, fewest[operand])


def _between(
    flow: Flow,
    reached: dict[int, int],
    end: int,
) -> set[int]:
    """Return the reached nodes on which `end` depends."""
    seen = {end}
    pending = [end]
    while pending:
        inputs = flow.inputs[pending.pop()]
        new = [read for read in inputs if read in reached and read not in seen]
        seen.update(new)
        pending.extend(new)
    return seen


def _is_pick(flow: Flow, node: int) -> bool:
    """Tell whether a node takes one entry of an axis: x_t of x."""
    operation = flow.operation(node)
    if operation != "squeeze":
        return operation in _PICKING
    before = flow.inputs[node]
    return any(flow.operation(read) == "slice" for read in before)


def innermost(joins: Sequence[Join]) -> dict[int, Join]:
    """Return, for each layer on a branch, the branch with the fewest layers."""
    of_layer: dict[int, Join] = {}
    for join in joins:
        for layer in join.layers:
            known = of_layer.get(layer)
            # Of nested branches a layer belongs to the innermost.
            if known is None or len(join.layers) < len(known.layers):
                of_layer[layer] = join
    return of_layer
