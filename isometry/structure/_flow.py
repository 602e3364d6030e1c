"""The flow: the nodes of a program through which the Jacobian is computed.

These are floating values that depend on x, or on the embedding of an x of whole
numbers, by a path that has a derivative, and on which the first output depends.
"""

import functools
import heapq
import math
from collections.abc import Container, Iterator, Mapping, Sequence

from isometry.structure._layers import Use
from isometry.structure._reading import Program, Value
from isometry.structure._unrolling import Unrolled, representative
from isometry.structure._walking import reached

# Operations whose derivative is zero or none.
_CUTTING = frozenset(("stop_gradient", "sign", "floor", "ceil", "round"))

# Scaling by a number leaves the direction of a value as it is.
_SCALINGS = frozenset(("mul", "div"))

# Sums of two values. A difference is a sum too, but no join of a residual branch.
SUMS = frozenset(("add", "add_any"))

# Operations whose result vanishes where one of the operands does.
PRODUCTS = frozenset(
    (
        "mul",
        "dot_general",
        "conv_general_dilated",
    )
)

# Operations that pick one entry of an axis, as a step of a recurrence does.
PICKING = frozenset(
    (
        "scan_each",
        "dynamic_slice",
        "gather",
    )
)

# Operations that move or rename values and compute nothing.
LAYOUT = frozenset(
    (
        "reshape",
        "transpose",
        "squeeze",
        "expand_dims",
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "copy_p",
        "name",
        "reduce_precision",
        "sharding_constraint",
        "scan_carry",
        "scan_each",
        "scan_last",
        "scan_stack",
    )
)


class Flow:
    """The nodes of a program through which the derivative of its output passes.

    A node is one value in one iteration of the scans around it.

    Attributes:
        program: The program.
        unrolled: Its values, one node for each iteration of a scan.
        layer_at: From a node that is the result of weight layers to those layers, each
            as (index of the weight, its `Use`). There are several where the program has
            concatenated weights.
        stream: The nodes that depend on x by a path that has a derivative.
        output: The node of the first output, the one whose Jacobian is meant.
        nodes: The nodes of the flow: those of the stream on which the first output
            depends, in an order in which they can be computed.
        inside: The same nodes, as a set.
    """

    def __init__(
        self,
        unrolled: Unrolled,
        layers: Mapping[int, Sequence[tuple[int, Use]]],
    ) -> None:
        """Find the nodes of the flow.

        Args:
            unrolled: The program, laid out as nodes.
            layers: From the index of a value that is the result of weight layers to
                those layers, each as (index of the weight, its `Use`).
        """
        self.unrolled = unrolled
        self.program = program = unrolled.program
        self.layer_at = {
            index: self._uses_at(index, layers[node.value])
            for index, node in enumerate(unrolled.nodes)
            if node.value in layers
        }
        # Functions that are measured return one array. Of several, the first leaf is
        # taken, because auxiliary results usually come after the output.
        self.output = unrolled.find(program.outputs[0])
        self.stream = self._stream(program)
        self.nodes = sorted(self._before_output())
        self.inside = frozenset(self.nodes)

    def value(self, node: int) -> Value:
        """Return the value of the program that a node is, in some iteration."""
        return self.unrolled.value(node)

    def operation(self, node: int) -> str:
        """Return the name of the operation that makes a node."""
        return self.unrolled.value(node).operation

    def _uses_at(
        self,
        node: int,
        uses: Sequence[tuple[int, Use]],
    ) -> list[tuple[int, Use]]:
        """Return those uses of a node's value that happen in the node's iteration."""
        iterations = self.unrolled.nodes[node].iterations
        scans = self.unrolled.value(node).scans
        uses_here = []
        for index, use in uses:
            if use.single_iteration is not None:
                position, iteration = use.single_iteration
                length = self.unrolled.program.scans[scans[position]].length
                if representative(iteration, length) != iterations[position]:
                    continue
            uses_here.append((index, use))
        return uses_here

    def _stream(self, program: Program) -> frozenset[int]:
        """Return the nodes that depend on x by a path that has a derivative."""
        x = frozenset(program.x)
        stream = set()
        # All that depends on x, with a derivative or without.
        signal = self.unrolled.after({self.unrolled.find(leaf) for leaf in x})
        for index, node in enumerate(self.unrolled.nodes):
            value = program.values[node.value]
            # Whole numbers and booleans have no derivative: a mask made of tokens is no
            # way around the layers.
            if not value.is_floating or value.operation in _CUTTING:
                continue
            # The stream begins at x, or at an embedding that looks up whole numbers.
            is_source = node.value in x or (index in self.layer_at and index in signal)
            if is_source or any(read in stream for read in node.inputs):
                stream.add(index)
        return frozenset(stream)

    def _before_output(self) -> set[int]:
        """Return the nodes of the stream on which the output depends."""
        nodes = self.unrolled.nodes

        def in_stream(node: int) -> frozenset[int]:
            return self.stream.intersection(nodes[node].inputs)

        return reached({self.output} & self.stream, in_stream)

    @functools.cached_property
    def _stream_values(self) -> frozenset[int]:
        """The values that belong to the stream in some iteration."""
        return frozenset(self.unrolled.nodes[node].value for node in self.stream)

    @functools.cached_property
    def inputs(self) -> dict[int, list[int]]:
        """For each node of the flow, the nodes of the flow that it is computed from."""
        nodes = self.unrolled.nodes
        return {
            index: [read for read in nodes[index].inputs if read in self.inside]
            for index in self.nodes
        }

    @functools.cached_property
    def readers(self) -> dict[int, list[int]]:
        """For each node of the flow, those of the flow that are computed from it."""
        readers = self.unrolled.readers
        return {
            index: [reader for reader in readers[index] if reader in self.inside]
            for index in self.nodes
        }

    def is_product(self, node: int) -> bool:
        """Tell whether a node is a product or convolution, with weights or without."""
        return self.operation(node) in ("dot_general", "conv_general_dilated")

    def chain(self, start: int) -> Iterator[int]:
        """Yield the only reader of `start`, then the only reader of that, and so on."""
        node = start
        while node != self.output and len(self.readers.get(node, ())) == 1:
            (node,) = self.readers[node]
            yield node

    def is_scaled(self, node: int) -> bool:
        """Tell whether a node is another node times a number that the program fixes."""
        is_scaling = self.unrolled.value(node).operation in _SCALINGS
        return is_scaling and self.has_number(node)

    def has_number(self, node: int) -> bool:
        """Tell whether one operand of a node is a number that the program fixes."""
        others = self.from_elsewhere(node)
        return len(others) == 1 and self._is_number(others[0])

    def from_elsewhere(self, node: int) -> list[int]:
        """Return the operands of a node outside the flow, such as parameters."""
        inputs = self.unrolled.nodes[node].inputs
        return [read for read in inputs if read not in self.inside]

    def _is_number(self, node: int) -> bool:
        """Tell whether a node is one number that depends on no argument."""
        value = self.unrolled.value(node)
        if value.operation == "constant":
            return math.prod(value.shape) == 1
        # JAX broadcasts a number before it multiplies, and leaves the root in x /
        # sqrt(16) to the program.
        is_broadcast = value.operation == "broadcast_in_dim"
        holds_one_number = is_broadcast or math.prod(value.shape) == 1
        inputs = self.unrolled.nodes[node].inputs
        if not holds_one_number or not inputs:
            return False
        return all(map(self._is_number, inputs))

    def passage(
        self,
        start: int,
        within: Container[int] | None = None,
    ) -> list[int]:
        """Return the nodes through which every path onward from `start` runs.

        They are the results of the activations and norms that are applied to `start`
        alone: the search stops before a weight layer, a product, or an operation that
        also reads another value of the stream.

        Args:
            start: The node.
            within: The nodes of the flow that may be followed; all of them by default.

        Returns:
            These bottlenecks, in order.
        """
        followed = self.inside if within is None else within
        if start not in self.inside:
            return []
        # Nodes come off the heap in the order in which they can be computed, so when
        # one does, all that it is computed from has been seen.
        inside = {start}
        bottlenecks = []
        pending = [node for node in self.readers[start] if node in followed]
        heapq.heapify(pending)
        while pending:
            node = heapq.heappop(pending)
            if node in inside:
                continue
            # Another value or a layer comes in here, so no later node is computed from
            # `start` alone.
            if not self._is_alone(node, inside):
                break
            inside.add(node)
            for reader in self.readers[node]:
                if reader in followed:
                    heapq.heappush(pending, reader)
            if self._is_bottleneck(node, inside, pending):
                bottlenecks.append(node)
            if node == self.output:
                break
        return bottlenecks

    def _is_alone(self, node: int, inside: set[int]) -> bool:
        """Tell whether a node is no product and reads no other part of the stream."""
        if node in self.layer_at or self.is_product(node):
            return False
        nodes = self.unrolled.nodes
        # The initial state of a recurrence may be a constant. It counts as stream,
        # because the state of every later iteration is.
        return all(
            read in inside or nodes[read].value not in self._stream_values
            for read in nodes[node].inputs
        )

    def _is_bottleneck(
        self,
        node: int,
        inside: set[int],
        pending: list[int],
    ) -> bool:
        """Tell whether every path on from the visited nodes runs through `node`.

        Args:
            node: The node that was visited last.
            inside: All nodes that have been visited.
            pending: Readers of visited nodes; some may have been visited too.
        """
        next_nodes = {reader for reader in pending if reader not in inside}
        # The output has no readers, but paths that end there must pass the node too.
        others = inside - {node}
        if self.output in others:
            return False
        return all(others.isdisjoint(self.inputs[reader]) for reader in next_nodes)

    def back_to(
        self,
        start: int,
        ends: Container[int],
    ) -> tuple[set[int], list[int]]:
        """Walk back from a node, on every path as far as the first of `ends`.

        Returns:
            All nodes that were visited, and those of them at which a path ended.
        """

        def inputs(node: int) -> Sequence[int]:
            if node in ends:
                return ()
            return self.inputs[node]

        visited = reached([start], inputs)
        sources = [node for node in sorted(visited) if node in ends]
        return visited, sources

    @functools.cached_property
    def cuts(self) -> frozenset[int]:
        """The nodes through which every path from x to the output runs."""
        # Every node lies on some path from x to the output, so one is a cut if and only
        # if no edge runs past it: an edge from u to v past a node gives a path around.
        position = {node: i for i, node in enumerate(self.nodes)}
        # How much the number of edges that run past a position differs from that of the
        # position before.
        change = [0] * (len(self.nodes) + 1)
        for node in self.nodes:
            inputs = self.inputs[node]
            starts = [position[read] for read in inputs]
            if not starts:
                # Paths begin here: an edge from before all nodes.
                starts.append(-1)
            end = position[node]
            for start in starts:
                change[start + 1] += 1
                change[end] -= 1
        cuts = []
        num_past = 0
        for i, node in enumerate(self.nodes):
            num_past += change[i]
            if num_past == 0:
                cuts.append(node)
        return frozenset(cuts)
