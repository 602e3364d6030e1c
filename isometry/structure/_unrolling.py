"""Lays out the iterations of scans as nodes, with the dependencies between them.

Of a scan with more than four iterations, four are laid out: the first two and the last
two. The second also stands for all iterations between them. So the cost of reading a
network does not grow with the length of its scans.
"""

import collections
from typing import NamedTuple

from isometry.structure._reading import Indices, Program, Scan, Value

# The number of iterations that are laid out of each scan. The second and third
# represent all inner ones: two are needed to see what one inner iteration passes to the
# next. With fewer the first or last would be taken for an inner one; with more, reading
# takes longer.
_LAID_OUT = 4


class Node(NamedTuple):
    """One value in one iteration of the scans around it.

    Attributes:
        value: Index of the value in the program.
        iterations: For each scan around it, outermost first, which of the iterations
            that are laid out it is in: 0 to 3.
        inputs: Indices of the nodes that it is computed from; all come before it.
    """

    value: int
    iterations: Indices
    inputs: Indices


class Unrolled:
    """The values of a program, a node for each iteration of scans that is laid out.

    Nodes are in an order in which they can be computed.

    Attributes:
        program: The program.
        nodes: All nodes. The inputs of a node come before it.
        readers: For each node, the nodes that are computed from it.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[Node] = []
        self._by_place: dict[tuple[int, Indices], int] = {}
        self._scan_at = {scan.start: scan for scan in program.scans}
        self._feedback = program.feedback
        self._lay_out(0, len(program.values), iterations=())
        self.readers: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for read in dict.fromkeys(node.inputs):
                self.readers[read].append(index)

    def value(self, node: int) -> Value:
        """Return the value of which a node is one iteration."""
        return self.program.values[self.nodes[node].value]

    def find(self, value: int, iterations: Indices = ()) -> int:
        """Return the node of a value.

        Args:
            value: Index of the value in the program.
            iterations: Iterations that are laid out, of the scans around the value,
                outermost first. Those of further, inner scans are ignored.
        """
        # A value outside of a scan is the same in all iterations of the scan.
        num_scans = len(self.program.values[value].scans)
        return self._by_place[value, iterations[:num_scans]]

    def _lay_out(
        self,
        start: int,
        stop: int,
        iterations: Indices,
    ) -> None:
        """Add nodes for the values from `start` to `stop`, and for scans among them."""
        # The values of the body of a scan are contiguous.
        index = start
        while index < stop:
            scan = self._scan_at.get(index)
            is_inside = len(iterations) >= len(self.program.values[index].scans)
            if scan is None or is_inside:
                self._add(index, iterations)
                index += 1
                continue
            for iteration in range(num_laid_out(scan)):
                self._lay_out(scan.start, scan.stop, (*iterations, iteration))
            index = scan.stop

    def _add(self, index: int, iterations: Indices) -> None:
        """Add the node of a value in these iterations of the scans around it."""
        value = self.program.values[index]
        own_iterations = iterations[: len(value.scans)]
        inputs = self._inputs(index, value, own_iterations)
        self._by_place[index, own_iterations] = len(self.nodes)
        self.nodes.append(Node(index, own_iterations, inputs))

    def _inputs(
        self,
        index: int,
        value: Value,
        iterations: Indices,
    ) -> Indices:
        """Return the nodes that a value is computed from, in these iterations."""
        if value.operation == "scan_carry" and iterations[-1] > 0:
            before = (*iterations[:-1], iterations[-1] - 1)
            return (self.find(self._feedback[index], before),)
        if value.operation in ("scan_last", "scan_stack"):
            return self._leaving(value, iterations)
        return tuple(self.find(read, iterations) for read in value.inputs)

    def _leaving(self, value: Value, iterations: Indices) -> Indices:
        """Return the nodes inside a scan of which `value` is the last, or the stack."""
        (returned,) = value.inputs
        num_scans = len(self.program.values[returned].scans)
        if num_scans <= len(iterations):
            # The body returns a value from outside as it is.
            return (self.find(returned, iterations),)
        scan = self.program.scans[self.program.values[returned].scans[len(iterations)]]
        all_iterations = range(num_laid_out(scan))
        # A stack depends on every iteration, a final state on the last one.
        if value.operation == "scan_last":
            all_iterations = all_iterations[-1:]
        return tuple(
            self.find(returned, (*iterations, iteration))
            for iteration in all_iterations
        )

    def after(
        self,
        start: set[int] | frozenset[int],
    ) -> frozenset[int]:
        """Return all nodes that depend on one of `start`, `start` included."""
        seen = set(start)
        for index in range(min(start, default=0), len(self.nodes)):
            if any(read in seen for read in self.nodes[index].inputs):
                seen.add(index)
        return frozenset(seen)

    def before(self, end: int) -> frozenset[int]:
        """Return all nodes on which a node depends, the node included."""
        seen = {end}
        pending = collections.deque(seen)
        while pending:
            for read in self.nodes[pending.popleft()].inputs:
                if read not in seen:
                    seen.add(read)
                    pending.append(read)
        return frozenset(seen)


def num_laid_out(scan: Scan) -> int:
    """Return how many iterations of a scan are laid out."""
    return min(scan.length, _LAID_OUT)


def representative(iteration: int, length: int) -> int:
    """Return which of the iterations that are laid out stands for an iteration.

    Args:
        iteration: The iteration, from 0 to length - 1.
        length: The number of iterations of the scan.

    Returns:
        0 for the first iteration, 1 for the second and all inner ones, 2 and 3 for the
        last two. In a scan of at most four iterations each stands for itself.
    """
    if length <= _LAID_OUT:
        return iteration
    from_end = length - 1 - iteration
    if from_end < _LAID_OUT // 2:
        return _LAID_OUT - 1 - from_end
    return min(iteration, _LAID_OUT // 2 - 1)


def actual(laid_out: int, length: int) -> int:
    """Return the first iteration for which a laid out one stands.

    Args:
        laid_out: Which of the laid out iterations it is, from 0 to 3.
        length: The number of iterations of the scan.
    """
    if length <= _LAID_OUT or laid_out < _LAID_OUT // 2:
        return laid_out
    return length - _LAID_OUT + laid_out
