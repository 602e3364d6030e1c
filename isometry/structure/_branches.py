"""Residual branches: where they leave the stream, and the sum in which they return.

In y = x + f(x), x is the fork, the sum y is the join, the layers of f are the branch,
and the other operand of the sum is the skip. The stream is what runs from join to join.
"""

import heapq
from collections.abc import Container, Sequence
from typing import NamedTuple

from isometry.structure._flow import PICKING, SUMS, Flow
from isometry.structure._reading import Indices
from isometry.structure._vanishing import gating
from isometry.structure._walking import reached

# What stacks two values, the sum of which is then taken along the new axis.
_STACKS = frozenset(("stack", "concatenate"))

# The most products on a shortcut: a projection, and the change of resolution before it.
# With more it would be a branch; with fewer, those of a U-Net would be none.
_MOST_ON_SHORTCUT = 2

# Marks of a node: the operands of the sum that depend on it. They are bits.
_LEFT = 1
_RIGHT = 2


class Join(NamedTuple):
    """A sum that adds the result of a residual branch to the stream.

    Attributes:
        node: The sum.
        fork: The node where the branch leaves the skip: x in x + f(x).
        layers: The nodes of the weight layers on the branch, in order.
        shortcut: The nodes of the weight layers on the skip, such as a projection.
        positions: For each of `layers`, how many layers of the branch come before it on
            the longest path, without those of `gating`.
        skip: The operand of the sum that is the stream.
        end: The operand of the sum that is the result of the branch.
        way: The branch as all paths from the fork to its end.
        gating: Those of `layers` that do not close the branch if they are zero.
    """

    node: int
    fork: int
    layers: Indices
    shortcut: Indices
    positions: Indices
    skip: int
    end: int
    way: "_Way"
    gating: Indices = ()


def joins(flow: Flow) -> list[Join]:
    """Find every sum in which a residual branch returns to the stream.

    Returns:
        The joins, in the order in which the sums are computed.
    """
    in_order = []
    for node in flow.nodes:
        operands = _summands(flow, node)
        if operands is None:
            continue
        join = _join(flow, node, operands)
        if join is not None and _is_added(flow, join):
            in_order.append(join)
    return in_order


def _summands(flow: Flow, node: int) -> tuple[int, int] | None:
    """Return the two values whose sum or difference a node is, or None.

    A sum may also be written as `x.at[:].add(y)`, or as that of a stack of the two.
    """
    operation = flow.operation(node)
    operands = list(dict.fromkeys(flow.inputs[node]))
    if operation == "reduce_sum" and len(operands) == 1:
        operands = _stacked(flow, node, operands[0])
    elif operation == "scatter-add":
        if not _is_full_scatter(flow, node):
            return None
    elif operation not in SUMS and operation != "sub":
        return None
    if len(operands) != 2:
        return None
    return operands[0], operands[1]


def _stacked(flow: Flow, node: int, stack: int) -> list[int]:
    """Return the values that a node stacks and then adds up; [] if it does not."""
    if flow.operation(stack) not in _STACKS:
        return []
    params = flow.value(stack).params
    axis = params["axis" if "axis" in params else "dimension"]
    shape = flow.value(stack).shape
    is_along_stack = tuple(flow.value(node).params["axes"]) == (axis,)
    # Each of them has one entry along the axis.
    inputs = flow.inputs[stack]
    if is_along_stack and shape[axis] == len(flow.unrolled.nodes[stack].inputs):
        return list(dict.fromkeys(inputs))
    return []


def _is_full_scatter(flow: Flow, node: int) -> bool:
    """Tell whether a scatter adds to every entry, as `x.at[:].add(y)` does."""
    inputs = flow.unrolled.nodes[node].inputs
    indices = flow.value(inputs[1])
    has_no_index = indices.shape[-1:] == (0,)
    return has_no_index and flow.value(inputs[2]).shape == flow.value(node).shape


def _is_added(flow: Flow, join: Join) -> bool:
    """Tell whether the branch is added to the stream, or taken from it.

    F(x) - x is no residual branch. Nor is h - n of a GRU or highway layer, which
    returns n + z (h - n): there the branch n goes its own way too.
    """
    if flow.operation(join.node) != "sub":
        return True
    is_taken_from_stream = flow.inputs[join.node][0] == join.skip
    return is_taken_from_stream and flow.readers[join.end] == [join.node]


def with_gating(flow: Flow, join: Join, attending: Container[int]) -> Join:
    """Return a join with its `gating` layers, which the positions do not count.

    Args:
        flow: The flow.
        join: The join.
        attending: The layers that make queries and keys. One that a closing layer of
            the branch follows is no gate: the positions count it, as in the literature.
    """
    gates = gating(flow, join.way.nodes, join.layers, end=join.end)
    if not gates:
        return join
    uncounted = tuple(
        layer
        for layer in gates
        if layer not in attending or not _is_before(flow, layer, join, gates=gates)
    )
    positions = join.way.positions(flow, uncounted)
    return join._replace(positions=positions, gating=uncounted)


def _is_before(flow: Flow, layer: int, join: Join, *, gates: Indices) -> bool:
    """Tell whether a layer that closes a branch comes after another of its layers."""
    reached = {layer}
    for node in join.way.nodes:
        if any(read in reached for read in flow.inputs[node]):
            reached.add(node)
    return any(other in reached for other in join.layers if other not in gates)


def is_sum(flow: Flow, node: int) -> bool:
    """Tell whether a node is the sum of two different values of the flow."""
    operands = dict.fromkeys(flow.inputs[node])
    return flow.operation(node) in SUMS and len(operands) == 2


class _Way(NamedTuple):
    """All paths from a fork to one operand of a sum.

    Attributes:
        nodes: The nodes after the fork on these paths, in the order of computation.
            Empty if the operand is the fork itself.
        num_products: The number of products, of a weight or of two values, on the path
            that has the fewest.
        end: The node of the operand.
    """

    nodes: Indices
    num_products: int
    end: int

    def layers(self, flow: Flow) -> Indices:
        """Return the nodes on the paths that are results of weight layers."""
        return tuple(node for node in self.nodes if node in flow.layer_at)

    def positions(self, flow: Flow, gating: Indices = ()) -> Indices:
        """Return how many layers come before each of `layers` on the longest path.

        Args:
            flow: The flow.
            gating: Layers that are not counted.
        """
        # Layers up to and including each node; the fork, and what is on no path from
        # it, count for none.
        longest: dict[int, int] = {}
        positions: dict[int, int] = {}
        for node in self.nodes:
            before = max(
                (longest.get(read, 0) for read in flow.inputs[node]), default=0
            )
            positions[node] = before
            is_counted = node in flow.layer_at and node not in gating
            longest[node] = before + is_counted
        return tuple(positions[node] for node in self.layers(flow))


def _join(
    flow: Flow,
    node: int,
    operands: tuple[int, int],
) -> Join | None:
    """Return the join at a sum, or None if the sum adds no branch to the stream."""
    fork, marks = _fork(flow, operands)
    if fork is None:
        return None
    # The sum is a join if one operand is the stream itself and the other has layers.
    ways = _ways(flow, fork, marks, operands=operands)
    if ways[0].num_products > 0:
        # The stream may lie further back: in x + attention(h) + mlp(h), h = norm(x),
        # the last node on which mlp(h) and the sum before it depend is h.
        fork, marks = _fork_on_stream(flow, operands) or (fork, marks)
        ways = _ways(flow, fork, marks, operands=operands)
    skip, branch = ways
    layers = branch.layers(flow)
    if not layers or skip.num_products == branch.num_products:
        return None
    if not all(_is_in_one_step(flow, fork, layer) for layer in layers):
        return None
    shortcut: Indices = ()
    if skip.num_products > 0:
        # A projection is the only thing on the skip, and the branch has more products.
        shortcut = skip.layers(flow)
        is_chain = len(shortcut) == skip.num_products
        if not is_chain or skip.num_products > _MOST_ON_SHORTCUT:
            return None
    # A recurrence without a scan slices its input sequence. Its sum of x_t and of what
    # was computed from an earlier x_s is no skip connection.
    if any(_is_pick(flow, step) for step in skip.nodes):
        return None
    return Join(
        node,
        fork,
        layers=layers,
        shortcut=shortcut,
        positions=branch.positions(flow),
        skip=skip.end,
        end=branch.end,
        way=branch,
    )


def _ways(
    flow: Flow,
    fork: int,
    marks: dict[int, int],
    *,
    operands: tuple[int, int],
) -> list[_Way]:
    """Return the paths to each operand; the operand with fewer products comes first.

    The arguments are those of `_way`, for both operands of a sum.
    """
    ways = [_way(flow, fork, marks, operand=operand) for operand in operands]
    return sorted(ways, key=lambda way: way.num_products)


def _fork_on_stream(
    flow: Flow,
    operands: tuple[int, int],
) -> tuple[int, dict[int, int]] | None:
    """Find the last node that reaches one operand of a sum without any product.

    That operand is then the stream, and the other one may end a branch.

    Returns:
        `(node, marks)`, or None if there is no such node. `marks` has the nodes after
        it on which an operand depends: `_LEFT` on the stream, `_RIGHT` on the other
        side.
    """
    candidates = []
    # Neither operand depends on the other here: `_fork` would have returned the one
    # that comes first as the fork, with no product on its way. So the walk back from
    # one operand cannot meet the other one itself.
    for stream, other in (operands, operands[::-1]):
        unchanged = _without_products(flow, stream)
        marks = {stream: _LEFT, other: _RIGHT}
        # Negated, because heapq pops the smallest and the latest node is wanted first.
        pending = [-other]
        while pending:
            node = -heapq.heappop(pending)
            if node in unchanged:
                candidates.append((node, marks | dict.fromkeys(unchanged, _LEFT)))
                break
            for read in flow.inputs[node]:
                if read not in marks:
                    marks[read] = _RIGHT
                    heapq.heappush(pending, -read)
    return max(candidates, key=lambda pair: pair[0], default=None)


def _without_products(flow: Flow, start: int) -> set[int]:
    """Return the nodes from which some path without products leads to `start`."""

    def inputs(node: int) -> Sequence[int]:
        if node in flow.layer_at or flow.is_product(node):
            return ()
        return flow.inputs[node]

    return reached([start], inputs)


def _fork(
    flow: Flow,
    operands: tuple[int, int],
) -> tuple[int | None, dict[int, int]]:
    """Find the last node on which both operands depend.

    Returns:
        `(fork, marks)`; the fork is None if there is none. `marks` has the nodes after
        it on which an operand depends: on the first `_LEFT`, on the second `_RIGHT`, on
        both the two bits together.
    """
    # The operands are two different nodes, as `is_sum` has checked.
    marks = {operands[0]: _LEFT, operands[1]: _RIGHT}
    # Negated, because heapq pops the smallest and the latest node is wanted first.
    pending = [-operand for operand in operands]
    heapq.heapify(pending)
    while pending:
        node = -heapq.heappop(pending)
        # All nodes still on the heap come earlier, so this common node is the last.
        if marks[node] == _LEFT | _RIGHT:
            return node, marks
        for read in flow.inputs[node]:
            if read not in marks:
                heapq.heappush(pending, -read)
            marks[read] = marks.get(read, 0) | marks[node]
    return None, marks


def _way(
    flow: Flow,
    fork: int,
    marks: dict[int, int],
    *,
    operand: int,
) -> _Way:
    """Return all paths from the fork to one operand.

    Args:
        flow: The flow.
        fork: The fork.
        marks: Has all nodes between the fork and the operands.
        operand: The node of the operand.
    """
    fewest = {fork: 0}
    for node in sorted(marks):
        # Paths that do not start at the fork, such as those of the keys and values of
        # an encoder, do not count.
        before = [fewest[read] for read in flow.inputs[node] if read in fewest]
        if node > fork and before:
            is_product = flow.is_product(node) or node in flow.layer_at
            fewest[node] = min(before) + is_product
    on_way = reached([operand], lambda node: fewest.keys() & flow.inputs[node])
    nodes = tuple(node for node in sorted(on_way) if node != fork)
    return _Way(nodes, fewest[operand], end=operand)


def _is_in_one_step(flow: Flow, fork: int, layer: int) -> bool:
    """Tell whether a layer, if it is recurrent, is in the same step as the fork.

    The stream of a recurrence is its state. A GRU adds V x to W (r * h), where the gate
    r depends on x; an LSTM adds to its state what it computes from that of the step
    before. Neither is a residual branch.
    """
    program = flow.program
    layer_value = flow.unrolled.nodes[layer].value
    fork_value = flow.unrolled.nodes[fork].value
    layer_iterations = flow.unrolled.nodes[layer].iterations
    fork_iterations = flow.unrolled.nodes[fork].iterations
    scans = flow.value(layer).scans
    for _, use in flow.layer_at[layer]:
        for depth, (scan, is_slice) in enumerate(
            zip(scans, use.takes_slices, strict=True)
        ):
            of_state = program.of_states[scan]
            if is_slice or layer_value not in of_state:
                continue
            is_same_step = fork_iterations[: depth + 1] == layer_iterations[: depth + 1]
            if fork_value not in of_state or not is_same_step:
                return False
    return True


def _is_pick(flow: Flow, node: int) -> bool:
    """Tell whether a node takes one entry of an axis: x_t of x."""
    operation = flow.operation(node)
    if operation != "squeeze":
        return operation in PICKING
    before = flow.inputs[node]
    return any(flow.operation(read) == "slice" for read in before)


def innermost(joins: Sequence[Join]) -> dict[int, Join]:
    """Return, for each layer on a branch, the join in which that branch returns.

    Of nested branches a layer belongs to the innermost, which has the fewest layers.
    """
    join_of: dict[int, Join] = {}
    for join in joins:
        for layer in join.layers:
            other = join_of.get(layer)
            if other is None or len(join.layers) < len(other.layers):
                join_of[layer] = join
    return join_of
