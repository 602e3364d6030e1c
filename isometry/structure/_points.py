"""Points: the named values of a program.

Each use of a weight is followed by values that get a name: its pre-activation, the
result of the nonlinearity after it, the sum in which it is added to something. Each of
these is a spot: "blocks/attn:out". Inside a scan a spot has one point for each
iteration: "blocks/attn[3]:out".
"""

import itertools
import math
import operator
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

from isometry.structure._branches import Join, is_sum
from isometry.structure._flow import LAYOUT, Flow
from isometry.structure._following import ends, is_wrap
from isometry.structure._layers import Row, SingleIteration, Use
from isometry.structure._meetings import size_of
from isometry.structure._origins import Origins
from isometry.structure._reading import Indices, Value
from isometry.structure._unrolling import actual, representative
from isometry.structure._walking import reached

# For each scan, the iteration of a point minus that of the node that stands for it.
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
        base: The part of the names before the iterations: "blocks/attn".
        tail: The part after them: "", ":out", "#2:sum".
        takes_slices: For each scan around the use: True if its iterations take slices
            of stacked layers, written [i]; False if they are steps, written @t.
        scans: The scans around the use, outermost first.
        nodes: From iterations of these scans that are laid out to the node there.
        single_iteration: The only iteration that has a point, if there is only one.
    """

    base: str
    tail: str
    takes_slices: tuple[bool, ...]
    scans: Indices
    nodes: dict[Indices, int]
    single_iteration: SingleIteration | None = None


class Point(NamedTuple):
    """One named value.

    Attributes:
        node: The node that stands for it: that of its own iteration, or of another
            iteration, where only four of a long scan are laid out.
        value: Index of the value in the program.
        iterations: The iteration in each scan around the value, outermost first,
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
    """Return the pre-activation of the layers whose product is a node."""
    return _with_bias(flow, origins, node, uses=flow.layer_at[node])


def biases_after_sums(
    flow: Flow,
    origins: Mapping[int, Origins],
    pre_activations: Mapping[int, PreActivation],
) -> dict[int, Indices]:
    """Find the biases that are added to the sum of the results of several layers.

    An example is x @ V + h @ W + b in a recurrence.

    Args:
        flow: The flow.
        origins: The origins of values.
        pre_activations: For each node of a layer, its pre-activation.

    Returns:
        From the node of a layer to the leaves of the biases. The bias after a sum
        belongs to the last of the layers that are added.
    """
    layer_of = {pre_activations[node].node: node for node in flow.layer_at}
    biases_of: dict[int, Indices] = {}
    for node in flow.nodes:
        if not is_sum(flow, node):
            continue
        added = {_layer_before(flow, read, layer_of) for read in flow.inputs[node]}
        layers = [layer for layer in added if layer is not None]
        if len(layers) < len(added):
            continue
        last = max(layers)
        following = _with_bias(flow, origins, node, uses=flow.layer_at[last])
        # A third layer may be added to the sum of two, before the bias or after it.
        layer_of[following.node] = last
        if following.biases:
            biases_of[last] = following.biases
    return biases_of


def _with_bias(
    flow: Flow,
    origins: Mapping[int, Origins],
    node: int,
    *,
    uses: Sequence[tuple[int, Use]],
) -> PreActivation:
    """Return the sum of a result of layers with its bias, or the result alone.

    Args:
        flow: The flow.
        origins: The origins of values.
        node: The result: a product with a weight, or a sum of such products.
        uses: The weights, each as (index of the weight, its `Use`).
    """
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
    """Return the leaves that `node` is made of, if they are the biases of a layer.

    A bias has one entry for each output of the layer. A position embedding has more,
    and is no bias. () if the node is no bias.
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
    pre_activations: Mapping[int, PreActivation],
    *,
    joins: Sequence[Join],
) -> list[Spot]:
    """Return the spots after each use of a weight, and those of recurrent states.

    Args:
        flow: The flow.
        rows: The weights and their uses.
        pre_activations: For each node that is the product of a weight layer, its
            pre-activation.
        joins: The sums in which residual branches return to the stream.
    """
    sum_of_layer = sums(flow, pre_activations, joins)
    # A branch that ends with another branch, as in x + (h + F(h)), has the same last
    # layer.
    joins_of_layer: dict[int, list[int]] = {}
    for join in joins:
        joins_of_layer.setdefault(join.layers[-1], []).append(join.node)
    collected: dict[tuple[str, str], Spot] = {}

    def put(
        name: tuple[str, str],
        use: Use,
        node: int,
        at: int,
    ) -> None:
        """Add the node `at` to the spot `name`, for the use whose product is `node`."""
        scans = flow.program.values[use.meeting.value].scans
        spot = Spot(
            *name,
            use.takes_slices,
            scans=scans,
            nodes={},
            single_iteration=use.single_iteration,
        )
        spot = collected.setdefault(name, spot)
        spot.nodes[flow.unrolled.nodes[node].iterations] = at

    named = [
        (node, row, use) for node, uses in flow.layer_at.items() for row, use in uses
    ]
    for node, row, use in named:
        base, number = _name_parts(rows[row], use)
        here = pre_activations[node].node
        put((base, number), use, node, at=here)
        # None if no nonlinearity or norm follows.
        following = outlet(flow, here)
        if following is not None:
            put((base, number + ":out"), use, node, at=following)
        if node in sum_of_layer:
            sum_node = sum_of_layer[node]
            put((base, number + ":sum"), use, node, at=sum_node)
            following = outlet(flow, sum_node)
            if following is not None:
                put((base, number + ":sum:out"), use, node, at=following)
        for i, sum_node in enumerate(joins_of_layer.get(node, ())[1:], start=2):
            put((base, number + i * ":sum"), use, node, at=sum_node)
    taken = {row.name for row in rows}
    return [*collected.values(), *_states(flow, taken)]


def sums(
    flow: Flow,
    pre_activations: Mapping[int, PreActivation],
    joins: Sequence[Join],
) -> dict[int, int]:
    """Find the sums in which the results of layers are added to something.

    Such a sum is that of a residual branch and the stream, or of the results of several
    layers: embeddings of tokens and positions, or the two products of a recurrence.

    Returns:
        From the node of a layer to the node of its sum. If a sum adds several layers,
        only the last of them has an entry.
    """
    # Reversed, so that the first join of a layer wins.
    sum_of_layer = {join.layers[-1]: join.node for join in reversed(joins)}
    layer_of_join = {join.node: join.layers[-1] for join in joins}
    # For nodes that are the result of a layer, or of the nonlinearity or norm after
    # that: the node of the layer.
    layer_of: dict[int, int] = {}
    for node in flow.nodes:
        if node in flow.layer_at:
            result = pre_activations[node].node
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
    """Note a node, and the nonlinearity or norm after it, as results of a layer."""
    layer_of[node] = layer
    following = outlet(flow, node)
    if following is not None:
        layer_of[following] = layer


def _layer_before(
    flow: Flow,
    node: int,
    layer_of: Mapping[int, int],
) -> int | None:
    """Return the layer of which a node is the result, perhaps scaled or reshaped.

    Args:
        flow: The flow.
        node: The node.
        layer_of: From nodes that are known to be results of layers to these layers.

    Returns:
        The node of the layer, or None if the node is something else.
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
    """Return the spots of recurrent states, which one step passes to the next.

    Args:
        flow: The flow.
        taken: The names of layers, which no state may have.
    """
    program = flow.program
    # Scans over stacked layers carry the stream, whose points are named by layers.
    recurrent: dict[int, tuple[tuple[bool, ...], Indices]] = {}
    for _, use in itertools.chain.from_iterable(flow.layer_at.values()):
        scans = program.values[use.meeting.value].scans
        for depth, (scan, is_slice) in enumerate(
            zip(scans, use.takes_slices, strict=True)
        ):
            if not is_slice:
                around = use.takes_slices[: depth + 1], scans[: depth + 1]
                recurrent.setdefault(scan, around)
    spots = []
    for number, (scan, (takes_slices, scans)) in enumerate(recurrent.items()):
        tail = "" if number == 0 else f"#{number + 1}"
        by_value: dict[int, dict[Indices, int]] = {}
        for node in flow.nodes:
            index, iterations, _ = flow.unrolled.nodes[node]
            if index in program.scans[scan].returned and len(iterations) == len(scans):
                by_value.setdefault(index, {})[iterations] = node
        bases = _state_names(flow, scan, sorted(by_value), taken=taken)
        for base, (_, nodes) in zip(bases, sorted(by_value.items()), strict=True):
            spots.append(Spot(base, tail, takes_slices, scans=scans, nodes=nodes))
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
        A name for each state: the one that f gives it by
        `jax.ad_checkpoint.checkpoint_name`, or "carry". If there are two, and weights
        multiply one of them alone, this one is "carry/h" and the other "carry/c", as in
        an LSTM. Otherwise several are "carry/0", "carry/1", ... in the order in which a
        step computes them.
    """
    given = [_given_name(flow.program.values[state]) for state in states]
    # Empty if the scan returns no state.
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
    read_first = []
    for _, use in itertools.chain.from_iterable(flow.layer_at.values()):
        operands = program.values[use.meeting.value].inputs
        read_first += [index for index in operands if index != use.meeting.weight]
    # The LSTM of Haiku multiplies the input and the state by one weight.
    passed = (LAYOUT | _JOINING) - {"scan_carry", "scan_last", "scan_stack"}

    def inputs(index: int) -> Sequence[int]:
        value = program.values[index]
        if value.operation in passed:
            return value.inputs
        return ()

    return carry in reached(read_first, inputs)


def _given_name(value: Value) -> str | None:
    """Return the name that f itself gives to a value by `checkpoint_name`, or None."""
    if value.operation != "name":
        return None
    return value.params["name"]


def _name_parts(row: Row, use: Use) -> tuple[str, str]:
    """Return the parts of a pre-activation's name around the iterations: "fc", "#2"."""
    base = row.name
    if use.index is not None:
        base = f"{base}[{use.index}]"
    # The first use needs no number.
    number = ""
    if use.number > 0:
        number = f"#{use.number + 1}"
    return base, number


def outlet(flow: Flow, node: int) -> int | None:
    """Return the result of the nonlinearity, norm and pooling that follow a node.

    None if nothing follows but reshapes and scalings.
    """
    passage = flow.passage(node)
    scaled = None
    # From the end of the passage, so that the last result is found first.
    for before, after in reversed([*zip([node, *passage], passage, strict=False)]):
        if flow.is_scaled(after):
            scaled = after
        elif not (flow.operation(after) in LAYOUT or is_wrap(flow, before, after)):
            # A mean is a sum that is divided; the sum is no value of the network.
            is_mean = flow.operation(after) in _SUMS and scaled is not None
            if is_mean:
                return scaled
            # A number may belong to the nonlinearity, as in z (1 + erf(z/√2)) · 1/2.
            return min(end for end in ends(flow, node, passage) if end >= after)
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
        """List the points of all spots, and those of x and of the output.

        Args:
            flow: The flow.
            spots: Those of weights, and of recurrent states.
            x_paths: For each leaf of x, its path as a sequence of keys.
        """
        self._flow = flow
        self._x_paths = x_paths
        self._program = flow.program
        named = []
        for spot in spots:
            named += list(self._expanded(spot))
        named += list(self._ends())
        named.sort(key=lambda pair: self._order(pair[1]))
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
        """Return all points for which a node stands.

        Returns:
            For each point its name, and the difference between its iterations and those
            of the node.
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

    def suffix(self, layer: int, shift: Shift) -> str:
        """Return slice and iterations as in the names of a layer's points: "[3]@5".

        Args:
            layer: The node of the layer.
            shift: From the iterations of the node to those that are meant.
        """
        _, use = self._flow.layer_at[layer][0]
        index = "" if use.index is None else f"[{use.index}]"
        point = self._point(layer, shift)
        scans = self._program.values[point.value].scans
        return index + self._iteration_suffix(
            use.takes_slices, scans, point.iterations, single=use.single_iteration
        )

    def index_in(self, node: int, shift: Shift) -> dict[int, int]:
        """Return, for each scan around a node, which slice of its arrays is taken.

        Args:
            node: The node.
            shift: From the iterations of the node to those that are meant.
        """
        point = self._point(node, shift)
        scans = self._program.values[point.value].scans
        return {
            scan: self._program.scans[scan].index_of(iteration)
            for scan, iteration in zip(scans, point.iterations, strict=True)
        }

    def name_before(self, node: int, shift: Shift) -> str | None:
        """Return the name of a value, or of the point that it is a scaled copy of.

        Args:
            node: The node of the value.
            shift: From the iterations of the node to those that are meant.

        Returns:
            The name, or None if the value is neither a point nor a copy of one.
        """
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
        """Yield the name of the point of each leaf of x, and the index of its value."""
        leaves = self._program.x
        for leaf, steps in zip(leaves, self._x_paths, strict=True):
            yield "/".join(["input", *steps]), leaf

    def _ends(self) -> Iterator[tuple[str, Point]]:
        """Yield the names and points of the inputs and of the output.

        An input that a nonlinearity, norm or pooling reads first has "NAME:out" too.
        """
        for name, leaf in self.inputs():
            node = self._flow.unrolled.find(leaf)
            yield name, Point(node, leaf, ())
            following = outlet(self._flow, node)
            if following is not None and not self._is_laid_out(node, following):
                yield f"{name}:out", self._point(following, {})
        output = self._program.outputs[0]
        yield "output", Point(self._flow.output, output, ())

    def _is_laid_out(
        self,
        start: int,
        end: int,
    ) -> bool:
        """Tell whether only layout, scaling and concatenation lead from start to end.

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
        """Yield the names and points of a spot, one for each iteration."""
        lengths = [self._program.scans[scan].length for scan in spot.scans]
        for iterations in itertools.product(*map(range, lengths)):
            laid_out = tuple(map(representative, iterations, lengths))
            if laid_out not in spot.nodes or not _has_point(spot, iterations):
                continue
            # The node may be in another iteration than the product of the layer. The
            # point is as many iterations from its node as `iterations` is from
            # `laid_out`.
            shift = {
                scan: iteration - shown
                for scan, iteration, shown in zip(
                    spot.scans, iterations, laid_out, strict=True
                )
            }
            point = self._point(spot.nodes[laid_out], shift)
            suffix = self._iteration_suffix(
                spot.takes_slices, spot.scans, iterations, single=spot.single_iteration
            )
            yield spot.base + suffix + spot.tail, point

    def _iteration_suffix(
        self,
        takes_slices: Sequence[bool],
        scans: Sequence[int],
        iterations: Sequence[int],
        *,
        single: SingleIteration | None,
    ) -> str:
        """Return iterations as they stand in the name of a point: "[3]" or "@5".

        Args:
            takes_slices: As in `Spot`: True for a slice, [i], False for a step, @t.
            scans: Indices of the scans.
            iterations: The iteration in each scan.
            single: Names a scan with a point in one iteration only, which is left out.
        """
        text = ""
        for i, (is_slice, scan) in enumerate(zip(takes_slices, scans, strict=True)):
            if single is not None and single.position == i:
                continue
            iteration = iterations[i]
            index = self._program.scans[scan].index_of(iteration)
            text += f"[{index}]" if is_slice else f"@{index}"
        return text

    def _point(self, node: int, shift: Shift) -> Point:
        """Return the point `shift` iterations after a node.

        In scans that `shift` does not hold, it is in an iteration that the node stands
        for.
        """
        index, laid_out, _ = self._flow.unrolled.nodes[node]
        scans = self._program.values[index].scans
        iterations = []
        for scan, iteration in zip(scans, laid_out, strict=True):
            if scan in shift:
                iterations.append(iteration + shift[scan])
            else:
                iterations.append(actual(iteration, self._program.scans[scan].length))
        return Point(node, index, tuple(iterations))

    def _order(self, point: Point) -> Indices:
        """Return a sort key: points are sorted in the order of their computation."""
        # The iteration comes right after the start of its scan, so that all iterations
        # precede what follows the scan.
        key: list[int] = []
        scans = self._program.values[point.value].scans
        for scan, iteration in zip(scans, point.iterations, strict=True):
            key += [self._program.scans[scan].start, iteration]
        return (*key, point.value)
