"""Points: the named values of a program.

Each use of a weight is followed by values that get a name: its pre-activation, what the
nonlinearity behind it returns, the sum that the result is added to. Such a kind of
value is a spot. Inside a scan a spot has one point for each iteration.
"""

import itertools
import math
import operator
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

from isometry.structure._branches import Join, is_sum
from isometry.structure._flow import LAYOUT, Flow
from isometry.structure._following import is_wrap
from isometry.structure._layers import Row, Use
from isometry.structure._meetings import size_of
from isometry.structure._origins import Origins
from isometry.structure._reading import Indices, Value
from isometry.structure._unrolling import actual, representative

# For each scan, the iteration of a point minus that of the node that represents it.
Shift = Mapping[int, int]

# Operations that slice or stack the arrays of a scan.
_SLICING = frozenset(("scan_each", "scan_stack"))


# Operations that concatenate a value with others, or pad it.
_JOINING = frozenset(("concatenate", "pad"))


# Sums over pixels or tokens, as the first half of a mean.
_SUMS = frozenset(("reduce_sum", "reduce_window_sum"))


class Spot(NamedTuple):
    """The points of one kind after one use of a weight, in all iterations of scans.

    Attributes:
        base: Their names before the iterations: "blocks/attn".
        tail: Their names after the iterations: "", ":out", "#2:sum".
        styles: For each scan around the use, whether its iteration is written [i] (a
            slice of stacked layers) or @t (a step of a recurrence).
        scans: The scans around the use, outermost first.
        nodes: For each tuple of iterations that has a node, the node of the point.
        single_iteration: If there is a point in one iteration of a scan only: the
            position of that scan in `scans`, and the iteration. Otherwise None.
    """

    base: str
    tail: str
    styles: tuple[bool, ...]
    scans: Indices
    nodes: dict[Indices, int]
    single_iteration: tuple[int, int] | None = None


class Point(NamedTuple):
    """One named value.

    Attributes:
        node: The node that represents it: that of its own iteration, or of another
            inner one.
        value: Index of the value.
        iterations: Its iteration in each scan around the value, outermost first,
            counted in the order of running.
    """

    node: int
    value: int
    iterations: Indices


class PreActivation(NamedTuple):
    """The result of a layer, with its bias if it has one.

    Attributes:
        node: The node of that value.
        biases: Indices of the leaves of biases among the program's values: none, or one
            for each weight that was concatenated.
    """

    node: int
    biases: Indices


def pre_activation(
    flow: Flow,
    origins: Mapping[int, Origins],
    node: int,
) -> PreActivation:
    """Follow the result of a layer to the sum with its bias, if it has one."""
    return _with_bias(flow, origins, node, uses=flow.layer_at[node])


def biases_behind_sums(
    flow: Flow,
    origins: Mapping[int, Origins],
    before_bias: Mapping[int, PreActivation],
) -> dict[int, Indices]:
    """Find the biases that are added to the sum of the results of several layers.

    An example is x @ V + h @ W + b in a recurrence.

    Args:
        flow: The flow.
        origins: The origins of values.
        before_bias: For each node of a layer, its pre-activation.

    Returns:
        A dict from the node of a layer to the leaves of the biases. The bias behind a
        sum belongs to the last of the layers that are added.
    """
    layer_of = {before_bias[node].node: node for node in flow.layer_at}
    biases_of: dict[int, Indices] = {}
    for node in flow.nodes:
        if not is_sum(flow, node):
            continue
        added = {_layer_before(flow, read, layer_of) for read in flow.inputs[node]}
        layers = [layer for layer in added if layer is not None]
        if len(layers) < len(added):
            continue
        last = max(layers)
        behind = _with_bias(flow, origins, node, uses=flow.layer_at[last])
        # A third layer may be added to the sum of two, before the bias or after it.
        layer_of[behind.node] = last
        if behind.biases:
            biases_of[last] = behind.biases
    return biases_of


def _with_bias(
    flow: Flow,
    origins: Mapping[int, Origins],
    node: int,
    *,
    uses: Sequence[tuple[int, Use]],
) -> PreActivation:
    """Follow a result of layers to the sum with its bias, if it has one."""
    scans = flow.value(node).scans
    unbiased = node
    # Casts, transpositions and a factor such as 1/sqrt(n) may come before the bias.
    for reader in flow.chain(node):
        value = flow.value(reader)
        others = flow.from_elsewhere(reader)
        if value.operation == "add" and len(others) == 1:
            biases = _biases(flow, origins, others[0], uses=uses)
            return PreActivation(reader if biases else unbiased, biases)
        # Outside of its scan a value is the last of all iterations, or their stack.
        is_layout = value.operation in LAYOUT and value.scans == scans
        if not (flow.is_scaled(reader) or is_layout):
            break
        # Under vmap a product may be transposed. The point has the axes as f uses them.
        if value.operation == "transpose" and reader in flow.readers[unbiased]:
            unbiased = reader
    return PreActivation(unbiased, ())


def _biases(
    flow: Flow,
    origins: Mapping[int, Origins],
    node: int,
    *,
    uses: Sequence[tuple[int, Use]],
) -> Indices:
    """Return the leaves of params whose sum `node` is, if they are the bias of a layer.

    A bias has one entry for each output of the layer. A position embedding has more,
    and is no bias.
    """
    program = flow.program
    value = flow.unrolled.nodes[node].value
    meetings = [use.meeting for _, use in uses]
    # What is added to an embedding is another embedding, such as that of positions.
    if meetings[0].kind == "embedding" or value not in origins:
        return ()
    # Weights that are concatenated have biases that are concatenated.
    size = 0
    for origin in origins[value]:
        picked = {pick.axis for pick in origin.picks}
        shape = program.values[origin.leaf].shape
        size += math.prod(n for axis, n in enumerate(shape) if axis not in picked)
    num_outputs = sum(size_of(program, met, met.out_axes) for met in meetings)
    num_copies = size_of(program, meetings[0], meetings[0].batch_axes)
    if size not in (num_outputs, num_outputs * num_copies):
        return ()
    return tuple(origin.leaf for origin in origins[value])


def spots(
    flow: Flow,
    rows: Sequence[Row],
    before_bias: Mapping[int, PreActivation],
    *,
    joins: Sequence[Join],
) -> list[Spot]:
    """Name the values after each use of a weight, and the states of recurrences.

    Args:
        flow: The flow.
        rows: The weights.
        before_bias: For each node that is the product of a weight layer, its
            pre-activation.
        joins: The sums in which residual branches return to the stream.
    """
    sum_of_layer = sums(flow, before_bias, joins)
    collected: dict[tuple[str, str], Spot] = {}

    def put(
        name: tuple[str, str],
        use: Use,
        node: int,
        at: int,
    ) -> None:
        """Note that the use whose product is `node` has a point at the node `at`."""
        scans = flow.program.values[use.meeting.value].scans
        spot = Spot(
            *name, use.styles, scans, nodes={}, single_iteration=use.single_iteration
        )
        spot = collected.setdefault(name, spot)
        spot.nodes[flow.unrolled.nodes[node].iterations] = at

    named = [
        (node, row, use) for node, uses in flow.layer_at.items() for row, use in uses
    ]
    for node, row, use in named:
        base, number = _words(rows[row], use)
        here = before_bias[node].node
        put((base, number), use, node, at=here)
        # None if no nonlinearity or norm follows.
        behind = outlet(flow, here)
        if behind is not None:
            put((base, number + ":out"), use, node, at=behind)
        if node in sum_of_layer:
            sum_node = sum_of_layer[node]
            put((base, number + ":sum"), use, node, at=sum_node)
            behind = outlet(flow, sum_node)
            if behind is not None:
                put((base, number + ":sum:out"), use, node, at=behind)
    taken = {row.name for row in rows}
    return [*collected.values(), *_states(flow, taken)]


def sums(
    flow: Flow,
    before_bias: Mapping[int, PreActivation],
    joins: Sequence[Join],
) -> dict[int, int]:
    """Find, for each layer whose result is added to something, the sum.

    The sum is that of a residual branch and the stream, or of the results of several
    layers: embeddings of tokens and positions, or the two products of a recurrence.

    Returns:
        A dict from the node of a layer to the node of its sum. If a sum adds several
        layers, only the last of them has an entry.
    """
    # Reversed, so that the first join of a layer wins.
    sum_of_layer = {join.layers[-1]: join.node for join in reversed(joins)}
    layer_of_join = {join.node: join.layers[-1] for join in joins}
    # For nodes that are the result of a layer, or of the nonlinearity or norm after
    # that: the node of the layer.
    layer_of: dict[int, int] = {}
    for node in flow.nodes:
        if node in flow.layer_at:
            result = before_bias[node].node
            _note_results(flow, result, layer=node, layer_of=layer_of)
        if node in layer_of_join:
            layer = layer_of_join[node]
            _note_results(flow, node, layer=layer, layer_of=layer_of)
        elif is_sum(flow, node):
            operands = flow.inputs[node]
            added = {_layer_before(flow, operand, layer_of) for operand in operands}
            if None not in added and len(added) > 1:
                layer = max(layer for layer in added if layer is not None)
                sum_of_layer.setdefault(layer, node)
                _note_results(flow, node, layer=layer, layer_of=layer_of)
    return sum_of_layer


def _note_results(
    flow: Flow,
    node: int,
    *,
    layer: int,
    layer_of: dict[int, int],
) -> None:
    """Note that a node, and a nonlinearity or norm after it, are results of a layer."""
    layer_of[node] = layer
    behind = outlet(flow, node)
    if behind is not None:
        layer_of[behind] = layer


def _layer_before(
    flow: Flow,
    node: int,
    layer_of: Mapping[int, int],
) -> int | None:
    """Return the layer whose result a node is, as it is, scaled or reshaped; or None.

    Args:
        flow: The flow.
        node: The node.
        layer_of: The layers of the nodes that are known to be a result.
    """
    while node not in layer_of:
        is_layout = flow.operation(node) in LAYOUT
        is_copy = is_layout or flow.is_scaled(node)
        inputs = flow.inputs[node]
        if not is_copy or len(inputs) != 1:
            return None
        (node,) = inputs
    return layer_of[node]


def _states(flow: Flow, taken: Container[str]) -> list[Spot]:
    """Name the states of recurrences, which one step passes to the next."""
    program = flow.program
    # Scans over stacked layers carry the stream, whose points are named by layers.
    recurrent: dict[int, tuple[tuple[bool, ...], Indices]] = {}
    for _, use in itertools.chain.from_iterable(flow.layer_at.values()):
        scans = program.values[use.meeting.value].scans
        for depth, (scan, is_slice) in enumerate(zip(scans, use.styles, strict=True)):
            if not is_slice:
                around = use.styles[: depth + 1], scans[: depth + 1]
                recurrent.setdefault(scan, around)
    spots = []
    for number, (scan, (styles, scans)) in enumerate(recurrent.items()):
        tail = "" if number == 0 else f"#{number + 1}"
        by_value: dict[int, dict[Indices, int]] = {}
        for node in flow.nodes:
            index, iterations, _ = flow.unrolled.nodes[node]
            if index in program.scans[scan].returned and len(iterations) == len(scans):
                by_value.setdefault(index, {})[iterations] = node
        bases = _state_names(flow, scan, sorted(by_value), taken=taken)
        for base, (_, nodes) in zip(bases, sorted(by_value.items()), strict=True):
            spots.append(Spot(base, tail, styles, scans=scans, nodes=nodes))
    return spots


def _state_names(
    flow: Flow,
    scan: int,
    states: Sequence[int],
    *,
    taken: Container[str],
) -> list[str]:
    """Name the states of one recurrence.

    Args:
        flow: The flow.
        scan: Index of its scan.
        states: Indices of the states as one step returns them.
        taken: The names of layers.

    Returns:
        The name that f gives to a state by `jax.ad_checkpoint.checkpoint_name`, or
        "carry". If there are two, and weights multiply one of them alone, they are
        "carry/h", which is that one, and "carry/c", as in an LSTM. Otherwise several
        are numbered in the order in which a step computes them.
    """
    given = [_given_name(flow.program.values[state]) for state in states]
    # A scan may return no state at all, and then there is nothing to name.
    numbered = [f"carry/{part}" for part in range(len(states))]
    if len(states) == 1:
        numbered = ["carry"]
    is_read = [_is_read_by_weights(flow, scan, state) for state in states]
    if sorted(is_read) == [False, True]:
        numbered = ["carry/c", "carry/c"]
        numbered[is_read.index(True)] = "carry/h"
    names = []
    for name, number in zip(given, numbered, strict=True):
        is_own = name is not None and name not in taken and given.count(name) == 1
        names.append(name if is_own else number)
    return names


def _is_read_by_weights(flow: Flow, scan: int, state: int) -> bool:
    """Tell whether a weight multiplies a state itself, alone or beside the input."""
    program = flow.program
    of_scan = program.scans[scan]
    carry = of_scan.carries[of_scan.returned.index(state)]
    pending = []
    for _, use in itertools.chain.from_iterable(flow.layer_at.values()):
        inputs = program.values[use.meeting.value].inputs
        pending += [index for index in inputs if index != use.meeting.weight]
    # The LSTM of Haiku multiplies the input and the state by one weight.
    passed = (LAYOUT | _JOINING) - {"scan_carry", "scan_last", "scan_stack"}
    seen = set()
    while pending:
        index = pending.pop()
        if index == carry:
            return True
        value = program.values[index]
        if index not in seen and value.operation in passed:
            pending += value.inputs
        seen.add(index)
    return False


def _given_name(value: Value) -> str | None:
    """Return the name that f itself gives to a value by `checkpoint_name`, or None."""
    if value.operation != "name":
        return None
    return value.params["name"]


def _words(row: Row, use: Use) -> tuple[str, str]:
    """Return the parts of a point's name before and after the iterations."""
    base = row.name
    if use.index is not None:
        base = f"{base}[{use.index}]"
    # The first use needs no number.
    number = ""
    if use.number > 0:
        number = f"#{use.number + 1}"
    return base, number


def outlet(flow: Flow, node: int) -> int | None:
    """Return the node after the nonlinearity, norm and pooling that follow a node.

    None if nothing follows but reshapes and scalings.
    """
    passage = flow.passage(node)
    scaled = None
    for before, behind in reversed([*zip([node, *passage], passage, strict=False)]):
        if flow.is_scaled(behind):
            scaled = behind
        elif not (flow.operation(behind) in LAYOUT or is_wrap(flow, before, behind)):
            # A mean is a sum that is divided; the sum is no value of the network.
            is_mean = flow.operation(behind) in _SUMS and scaled is not None
            return scaled if is_mean else behind
    return None


def _has_point(spot: Spot, iterations: Sequence[int]) -> bool:
    """Tell whether a spot has a point in these iterations of the scans around it."""
    if spot.single_iteration is None:
        return True
    position, iteration = spot.single_iteration
    return iterations[position] == iteration


class Points:
    """All points of a program.

    Attributes:
        by_name: The points by name, in the order in which they are computed.
    """

    def __init__(
        self,
        flow: Flow,
        spots: Sequence[Spot],
        x_paths: Sequence[Sequence[str]],
    ) -> None:
        """Expand spots to points.

        Args:
            flow: The flow.
            spots: The points after uses of weights, and the states.
            x_paths: For each leaf of x, its path as a sequence of keys.
        """
        self._flow = flow
        self._x_paths = x_paths
        self._program = flow.program
        named = []
        for spot in spots:
            named += list(self._expanded(spot))
        named += list(self._ends())
        named.sort(key=lambda pair: self._key(pair[1]))
        self.by_name = dict(named)
        # If a value has two names, the first one is used.
        self._names: dict[tuple[int, Indices], str] = {}
        for name, point in self.by_name.items():
            self._names.setdefault((point.value, point.iterations), name)

    @property
    def nodes(self) -> frozenset[int]:
        """The nodes that represent points."""
        return frozenset(point.node for point in self.by_name.values())

    def of_node(
        self,
        node: int,
    ) -> list[tuple[str, Shift]]:
        """Return all points that a node represents.

        Returns:
            For each point its name, and its iterations relative to those of the node.
        """
        _, laid_out, _ = self._flow.unrolled.nodes[node]
        scans = self._flow.value(node).scans
        named = []
        for point in dict.fromkeys(self.by_name.values()):
            if point.node == node:
                name = self._names[point.value, point.iterations]
                shift = map(operator.sub, point.iterations, laid_out)
                named.append((name, dict(zip(scans, shift, strict=True))))
        return named

    def written(self, layer: int, shift: Shift) -> str:
        """Write the slice and iterations of a layer as in its points: "[3]", "@5"."""
        _, use = self._flow.layer_at[layer][0]
        index = "" if use.index is None else f"[{use.index}]"
        point = self._point(layer, shift)
        scans = self._program.values[point.value].scans
        return index + self._write(
            use.styles, scans, point.iterations, only=use.single_iteration
        )

    def index_in(self, node: int, shift: Shift) -> dict[int, int]:
        """Return what each scan around a node takes in its iteration, by the scan."""
        point = self._point(node, shift)
        scans = self._program.values[point.value].scans
        return {
            scan: self._program.scans[scan].index_of(iteration)
            for scan, iteration in zip(scans, point.iterations, strict=True)
        }

    def name_before(self, node: int, shift: Shift) -> str | None:
        """Name a value, or the point of which it is a scaled or reshaped copy."""
        while True:
            point = self._point(node, shift)
            name = self._names.get((point.value, point.iterations))
            inputs = self._flow.inputs[node]
            operation = self._flow.operation(node)
            is_layout = operation in LAYOUT and operation not in _SLICING
            is_same = is_layout or self._flow.is_scaled(node)
            if name is not None or not is_same or len(inputs) != 1:
                return name
            (node,) = inputs

    def inputs(self) -> Iterator[tuple[str, int]]:
        """Yield the points that are leaves of x, by name, and their indices."""
        leaves = self._program.x
        for leaf, steps in zip(leaves, self._x_paths, strict=True):
            yield "/".join(["input", *steps]), leaf

    def _ends(self) -> Iterator[tuple[str, Point]]:
        """Yield the points of the inputs and of the output, by name."""
        for name, leaf in self.inputs():
            node = self._flow.unrolled.find(leaf)
            yield name, Point(node, leaf, ())
            behind = outlet(self._flow, node)
            if behind is not None and not self._is_laid_out(node, behind):
                yield f"{name}:out", self._point(behind, {})
        output = self._program.outputs[0]
        yield "output", Point(self._flow.output, output, ())

    def _is_laid_out(
        self,
        start: int,
        end: int,
    ) -> bool:
        """Tell whether only layout, scaling and concatenation lie between two nodes.

        An example is an image to which the time is concatenated as one more channel.
        """
        before = [node for node in self._flow.passage(start) if node <= end]
        return all(
            self._flow.operation(node) in LAYOUT | _JOINING
            or self._flow.is_scaled(node)
            for node in before
        )

    def _expanded(
        self,
        spot: Spot,
    ) -> Iterator[tuple[str, Point]]:
        """Yield the points of a spot in all iterations, by name."""
        lengths = [self._program.scans[scan].length for scan in spot.scans]
        for iterations in itertools.product(*map(range, lengths)):
            laid_out = tuple(map(representative, iterations, lengths))
            if laid_out not in spot.nodes or not _has_point(spot, iterations):
                continue
            # The node may be in other iterations than the product of the layer, but the
            # point is as far from its node as this iteration is from the one laid out.
            shift = {
                scan: iteration - shown
                for scan, iteration, shown in zip(
                    spot.scans, iterations, laid_out, strict=True
                )
            }
            point = self._point(spot.nodes[laid_out], shift)
            written = self._write(
                spot.styles, spot.scans, iterations, only=spot.single_iteration
            )
            yield spot.base + written + spot.tail, point

    def _write(
        self,
        styles: Sequence[bool],
        scans: Sequence[int],
        iterations: Sequence[int],
        *,
        only: tuple[int, int] | None,
    ) -> str:
        """Write iterations as in the name of a point: "[3]" of layers, "@5" of steps.

        The iteration of a scan in which there is a point only once, `only`, is not
        written.
        """
        text = ""
        for i, (is_slice, scan) in enumerate(zip(styles, scans, strict=True)):
            if only is not None and only[0] == i:
                continue
            iteration = iterations[i]
            index = self._program.scans[scan].index_of(iteration)
            text += f"[{index}]" if is_slice else f"@{index}"
        return text

    def _point(self, node: int, shift: Shift) -> Point:
        """Return the point that is `shift` iterations away from a node."""
        index, laid_out, _ = self._flow.unrolled.nodes[node]
        scans = self._program.values[index].scans
        iterations = []
        for scan, iteration in zip(scans, laid_out, strict=True):
            if scan in shift:
                iterations.append(iteration + shift[scan])
            else:
                iterations.append(actual(iteration, self._program.scans[scan].length))
        return Point(node, index, tuple(iterations))

    def _key(self, point: Point) -> Indices:
        """Return a sort key, by which points are in the order of their computation."""
        # The iteration comes right after the start of its scan, so that all iterations
        # precede what follows the scan.
        key: list[int] = []
        scans = self._program.values[point.value].scans
        for scan, iteration in zip(scans, point.iterations, strict=True):
            key += [self._program.scans[scan].start, iteration]
        return (*key, point.value)
