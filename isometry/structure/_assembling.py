"""Reads all parts of an anatomy from a jaxpr and puts them together."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jax.extend import core

from isometry.structure import _attention, _following, _gates, _roles
from isometry.structure._attention import Heads
from isometry.structure._branches import Join, innermost, is_sum, joins, with_gating
from isometry.structure._copies import with_copies
from isometry.structure._depths import Depths
from isometry.structure._flow import Flow
from isometry.structure._gates import Entry, Read
from isometry.structure._layers import Row, Use, rows
from isometry.structure._meetings import meetings
from isometry.structure._mixture import Coefficient
from isometry.structure._names import Leaf, short_name
from isometry.structure._origins import Origins, origins
from isometry.structure._points import (
    Point,
    Points,
    PreActivation,
    biases_after_sums,
    outlet,
    pre_activation,
    spots,
    sums,
)
from isometry.structure._reading import Program, is_opaque, read
from isometry.structure._records import Attention, Branch, WeightLayer
from isometry.structure._unrolling import Unrolled, representative

# Names that libraries give to an attribute that holds a list of layers.
_LISTS = frozenset(("layers",))

# The slice of stacked layers, as it is written after the name of a point.
_INDEX = re.compile(r"\[(\d+)\]")


class GateUses(NamedTuple):
    """Which entries of leaves multiply residual branches and their skips.

    Such a leaf is called a gate: a trained scalar, a scale per channel, or the scale of
    a norm.

    Attributes:
        of_branch: From the name of a branch, and the key path of one of its `gates`, to
            the entry of that leaf which multiplies the branch.
        of_skip: Likewise, for its `skip_gates`.
        shared: The key paths of gates that the program reads in other places too.
    """

    of_branch: dict[str, dict[str, Entry]]
    of_skip: dict[str, dict[str, Entry]]
    shared: frozenset[str]


class Assembled(NamedTuple):
    """All parts of an anatomy.

    Attributes:
        layers: As in `Anatomy`.
        branches: As in `Anatomy`.
        attentions: As in `Anatomy`.
        unread: As in `Anatomy`.
        depth: As in `Anatomy`.
        flow: The nodes through which the Jacobian is computed.
        points: The named values.
        rows: The weights and their uses, in the order of `layers`.
        gate_uses: Which entries of leaves multiply branches and skips.
        across_loops: The names of branches with several slices of a stack, or with a
            stack in a loop that does not go around their sum. The positions of their
            slices are not in the records.
    """

    layers: tuple[WeightLayer, ...]
    branches: tuple[Branch, ...]
    attentions: tuple[Attention, ...]
    unread: tuple[str, ...]
    depth: int
    flow: Flow
    points: Points
    rows: Sequence[Row]
    gate_uses: GateUses
    across_loops: frozenset[str]


class _Parts(NamedTuple):
    """What the records of an anatomy are written from.

    Attributes:
        flow: The nodes through which the Jacobian is computed.
        leaves: The leaves of params.
        weights: The weights; other fields refer to them by their indices here.
        origins: For each value that is computed from parameters alone, the leaves that
            it comes from.
        pre_activations: For each node that is the product of a weight layer, its
            pre-activation.
        joins: The sums in which residual branches return to the stream.
        heads: The attentions.
        points: The named values.
    """

    flow: Flow
    leaves: Sequence[Leaf]
    weights: Sequence[Row]
    origins: Mapping[int, Origins]
    pre_activations: Mapping[int, PreActivation]
    joins: Sequence[Join]
    heads: Sequence[Heads]
    points: Points


def assemble(
    closed: core.ClosedJaxpr,
    leaves: Sequence[Leaf],
    x_paths: Sequence[Sequence[str]],
) -> Assembled:
    """Return all parts of the anatomy of f.

    Args:
        closed: The jaxpr of f, a function of the leaves of params, then those of x.
        leaves: The leaves of params.
        x_paths: For each leaf of x, its path as a sequence of keys.
    """
    program = read(closed, len(leaves))
    origins_of = origins(program)
    met = with_copies(program, origins_of, meetings(program, origins_of))
    weights = rows(program, met, leaves)
    layers_at: dict[int, list[tuple[int, Use]]] = {}
    for index, row in enumerate(weights):
        for use in row.uses:
            layers_at.setdefault(use.meeting.value, []).append((index, use))
    # From here on everything is read off the nodes: values in iterations of scans,
    # whose edges are true dependencies.
    flow = Flow(Unrolled(program), layers_at)
    pre_activations = {
        node: pre_activation(flow, origins_of, node) for node in flow.layer_at
    }
    joins_of_flow = joins(flow)
    heads = _attention.attentions(flow, [join.node for join in joins_of_flow])
    attending = {node for each in heads for node in (*each.query, *each.key)}
    joins_of_flow = [with_gating(flow, join, attending) for join in joins_of_flow]
    named = spots(flow, weights, pre_activations, joins=joins_of_flow)
    parts = _Parts(
        flow,
        leaves,
        weights=weights,
        origins=origins_of,
        pre_activations=pre_activations,
        joins=joins_of_flow,
        heads=heads,
        points=Points(flow, named, x_paths),
    )
    depths = Depths(program, layers_at)
    branches, gate_uses, across_loops = _branches(parts)
    return Assembled(
        layers=_layers(parts, depths),
        branches=branches,
        attentions=_attentions(parts),
        unread=_unread(program),
        depth=max(depths.last[index] for index in program.outputs),
        flow=flow,
        points=parts.points,
        rows=weights,
        gate_uses=gate_uses,
        across_loops=across_loops,
    )


def _layers(
    parts: _Parts,
    depths: Depths,
) -> tuple[WeightLayer, ...]:
    """Return a record for each weight layer."""
    flow = parts.flow
    biases = _biases(parts)
    branch_of = {}
    stems = _stems(parts)
    for node, join in innermost(parts.joins).items():
        for index, _ in flow.layer_at[node]:
            branch_of.setdefault(index, stems[join.node])
    depth_of = {}
    for index, row in enumerate(parts.weights):
        first = row.uses[0]
        single = first.single_iteration
        iteration = 0 if single is None else single.iteration
        depth_of[index] = depths.of(first.meeting.value, iteration)
    roles = _roles.roles(
        flow,
        parts.weights,
        depth_of,
        on_branch=frozenset(branch_of),
        attentions=parts.heads,
    )
    follows = _follows(parts)
    precedes = _precedes(parts)
    nothing = _Before(None, ())
    return tuple(
        WeightLayer(
            name=row.name,
            path=row.path,
            kind=row.kind,
            shape=row.shape,
            in_axes=row.in_axes,
            out_axes=row.out_axes,
            batch_axes=row.batch_axes,
            window_axes=row.window_axes,
            groups=row.groups,
            fan_in=row.fan_in,
            fan_out=row.fan_out,
            bias=biases.get(index),
            index=index,
            depth=depth_of[index],
            role=roles[index],
            branch=branch_of.get(index),
            stacked=row.stacked,
            stacked_axes=row.stacked_axes,
            stretches=row.stretches,
            tied=row.is_tied,
            reads=precedes.get(row.name, nothing).point,
            before=precedes.get(row.name, nothing).steps,
            then=follows.get(row.name, ()),
            spread=row.spread,
            doubtful_axes=row.doubtful_axes,
        )
        for index, row in enumerate(parts.weights)
    )


def _biases(parts: _Parts) -> dict[int, str]:
    """Return the key path of the bias of each weight that has one, by its index."""
    params = parts.flow.program.params
    path_of = {leaf: parts.leaves[i].path for i, leaf in enumerate(params)}
    biases: dict[int, str] = {}
    for node, uses in parts.flow.layer_at.items():
        biases_here = parts.pre_activations[node].biases
        # Several weights have one bias each, or share one.
        if len(biases_here) == 1:
            biases_here = biases_here * len(uses)
        for (index, _), bias in zip(uses, biases_here, strict=False):
            biases.setdefault(index, path_of[bias])
    after_sums = biases_after_sums(parts.flow, parts.origins, parts.pre_activations)
    for node, biases_here in after_sums.items():
        for index, _ in parts.flow.layer_at[node]:
            biases.setdefault(index, path_of[biases_here[0]])
    return biases


def _branches(
    parts: _Parts,
) -> tuple[tuple[Branch, ...], GateUses, frozenset[str]]:
    """Return a record for each residual branch, one for each iteration of a scan.

    Returns:
        The records, and the fields `gate_uses` and `across_loops` of `Assembled`.
    """
    # A scanned block has one join in the program, and one branch for each iteration.
    stems = _stems(parts)
    by_name: dict[str, Branch] = {}
    of_branch: dict[str, dict[str, Entry]] = {}
    of_skip: dict[str, dict[str, Entry]] = {}
    all_reads: set[Read] = set()
    across_loops: set[str] = set()
    for join in parts.joins:
        positions = _positions(parts, join)
        cuts = {join.fork, *parts.flow.layer_at}
        gates = _gates.leaves(parts.flow, join.end, cuts)
        skip_gates = _gates.leaves(parts.flow, join.skip, cuts)
        reads = _gates.reads(parts.flow, join.end, cuts)
        skip_reads = _gates.reads(parts.flow, join.skip, cuts)
        all_reads |= reads | skip_reads
        for joins_at, shift in parts.points.of_node(join.node):
            suffix = parts.points.suffix(join.layers[-1], shift)
            stem = name = stems[join.node] + suffix
            # The same layers may make several branches, one after the other.
            number = 1
            while name in by_name:
                number += 1
                name = f"{stem}#{number}"
            by_name[name] = Branch(
                name,
                leaves=parts.points.name_before(join.fork, shift),
                joins=joins_at,
                layers=tuple(positions),
                shortcut=_row_names(parts, join.shortcut),
                positions=tuple(positions.values()),
                slice=_slice(parts, join.layers[-1], suffix),
                gates=_paths(parts, gates),
                skip_gates=_paths(parts, skip_gates),
                skip_factor=_gates.factor(parts.flow, join.skip, join.fork),
                gating=_gating(parts, join),
            )
            if _is_across_loops(parts, join):
                across_loops.add(name)
            index_in = parts.points.index_in(join.node, shift)
            of_branch[name] = _entries(parts, gates, reads, index_in=index_in)
            of_skip[name] = _entries(parts, skip_gates, skip_reads, index_in=index_in)
    shared = _paths(parts, sorted(_gates.shared(parts.flow.program, all_reads)))
    uses = GateUses(of_branch, of_skip, frozenset(shared))
    return tuple(by_name.values()), uses, frozenset(across_loops)


def _gating(parts: _Parts, join: Join) -> tuple[str, ...]:
    """Return the names of the weights that gate a branch and do nothing else on it."""
    closing = [node for node in join.layers if node not in join.gating]
    others = _row_names(parts, closing)
    return tuple(name for name in _row_names(parts, join.gating) if name not in others)


def _is_across_loops(parts: _Parts, join: Join) -> bool:
    """Tell whether a branch has layers of more than one slice of a stack.

    Then the stack runs in a loop that does not go around the sum, or the program reads
    several slices by fixed numbers.
    """
    flow = parts.flow
    around = flow.value(join.node).scans
    numbers: set[int] = set()
    for node in join.layers:
        scans = flow.value(node).scans
        for _, use in flow.layer_at[node]:
            if use.index is not None:
                numbers.add(use.index)
            # The other loops around a layer are recurrences, whose steps share a
            # weight.
            stacking = [
                scan for scan, own in zip(scans, use.takes_slices, strict=True) if own
            ]
            if any(scan not in around for scan in stacking):
                return True
    return len(numbers) > 1


def _entries(
    parts: _Parts,
    gates: Sequence[int],
    reads: Iterable[Read],
    *,
    index_in: Mapping[int, int],
) -> dict[str, Entry]:
    """Return the entry of each gate that multiplies one branch, by key path.

    Args:
        parts: What has been read.
        gates: Indices of leaves that multiply the branch.
        reads: Where these leaves are read.
        index_in: For each scan around the branch, which slice its iteration takes.
    """
    program = parts.flow.program
    entries = [
        _gates.entry(program, leaf, reads, origins=parts.origins, index_in=index_in)
        for leaf in gates
    ]
    return dict(zip(_paths(parts, gates), entries, strict=True))


def _positions(parts: _Parts, join: Join) -> dict[str, int]:
    """Return the position of each layer on its branch, by the name of the layer."""
    positions: dict[str, int] = {}
    for node, position in zip(join.layers, join.positions, strict=True):
        for name in _row_names(parts, [node]):
            positions.setdefault(name, position)
    return positions


def _slice(parts: _Parts, layer: int, suffix: str) -> int | None:
    """Return which slice of a stacked layer a point is of; None if it is not stacked.

    Args:
        parts: What has been read.
        layer: The node of the layer.
        suffix: The slices and steps in the name of the point: "[3]@5", "[1][2]".
    """
    indices = [int(index) for index in _INDEX.findall(suffix)]
    if not indices:
        return None
    flow = parts.flow
    _, use = flow.layer_at[layer][0]
    # The one iteration of a leaf that f itself stacked is not written.
    skipped = None if use.single_iteration is None else use.single_iteration.position
    lengths = [
        flow.program.scans[scan].length
        for i, scan in enumerate(flow.value(layer).scans)
        if use.takes_slices[i] and i != skipped
    ]
    # Slices of nested stacks are numbered with the innermost fastest. The length of the
    # outermost is not needed.
    number = indices[0]
    inner = lengths[len(lengths) - len(indices) + 1 :]
    for index, length in zip(indices[1:], inner, strict=True):
        number = number * length + index
    return number


def _paths(parts: _Parts, leaves: Sequence[int]) -> tuple[str, ...]:
    """Return the key paths of leaves, given by their indices among the values."""
    params = parts.flow.program.params
    return tuple(parts.leaves[params.index(leaf)].path for leaf in leaves)


def _stems(parts: _Parts) -> dict[int, str]:
    """Return the name of each branch without the iterations of scans, by its join.

    The name is the common prefix of the names of the layers on the branch, or the name
    of the last layer if a layer outside of the branch has that prefix too. If a branch
    ends with the sum of another one, its name ends with ":sum".
    """
    stems = {}
    ended: set[int] = set()
    for join in parts.joins:
        names = _row_names(parts, (*join.layers, *join.shortcut))
        layers = _row_names(parts, join.layers)
        prefix = _common_prefix([name.split("/") for name in layers])
        # "net/layers" is a list of layers; the branch is named "net".
        if len(prefix) > 1 and prefix[-1] in _LISTS:
            prefix = prefix[:-1]
        stem = "/".join(prefix)
        # "block_0" for both halves of a transformer block would say nothing.
        others = {row.name for row in parts.weights} - set(names)
        is_shared = any(name.startswith(f"{stem}/") for name in others)
        stem = layers[-1] if is_shared or not stem else stem
        # The outer branch of x + (h + F(h)) ends with the sum of the inner one.
        ends_with_sum = join.layers[-1] in ended
        ended.add(join.layers[-1])
        stems[join.node] = f"{stem}:sum" if ends_with_sum else stem
    return stems


def _common_prefix(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return the longest prefix that all paths have."""
    prefix = []
    for steps in zip(*paths, strict=False):
        if len(set(steps)) > 1:
            break
        prefix.append(steps[0])
    return prefix


def _row_names(
    parts: _Parts,
    nodes: Sequence[int],
) -> tuple[str, ...]:
    """Return the names of the weights whose results these nodes are, each once."""
    indices = [index for node in nodes for index, _ in parts.flow.layer_at[node]]
    return tuple(dict.fromkeys(parts.weights[index].name for index in indices))


def _attentions(parts: _Parts) -> tuple[Attention, ...]:
    """Return a record for each attention; equal ones are one record."""
    records = [
        Attention(
            query=_row_names(parts, heads.query),
            key=_row_names(parts, heads.key),
            value=_row_names(parts, heads.value),
            output=_row_names(parts, heads.output),
            head_size=heads.size,
            shares=heads.shares,
            alpha=_coefficient(parts, heads.mixture.alpha),
            beta=_coefficient(parts, heads.mixture.beta),
            gamma=_coefficient(parts, heads.mixture.gamma),
        )
        for heads in parts.heads
    ]
    return tuple(dict.fromkeys(records))


def _coefficient(
    parts: _Parts,
    coefficient: Coefficient,
) -> str | float | None:
    """Return a coefficient as in `Attention`: the key path of a leaf, or the number."""
    # Indices are whole numbers, and what the program fixes is a float.
    if isinstance(coefficient, int):
        return _paths(parts, (coefficient,))[0]
    return coefficient


def _follows(parts: _Parts) -> dict[str, tuple[str, ...]]:
    """Return words for the steps after each weight, by its name.

    For example {"fc": ("batch norm", "relu"), "out": ("sum",)}.
    """
    flow = parts.flow
    names = _leaf_names(parts)
    sum_of_layer = sums(flow, parts.pre_activations, parts.joins)
    sum_of_shortcut = {
        node: join.node for join in parts.joins for node in join.shortcut
    }
    attended = {
        node
        for heads in parts.heads
        for node in (*heads.query, *heads.key, *heads.value)
    }
    # From the name of a weight to the steps after each of its uses.
    steps_of_uses: dict[str, list[tuple[str, ...]]] = {}
    for node, uses in flow.layer_at.items():
        result = parts.pre_activations[node].node
        steps = _words_after(flow, result, names)
        after = outlet(flow, result)
        if node in attended:
            steps.append("attention")
        elif _following.is_multiplied(flow, result if after is None else after):
            steps.append("product")
        sum_maps = (sum_of_shortcut, sum_of_layer)
        sum_nodes = {sum_of[node] for sum_of in sum_maps if node in sum_of}
        for sum_node in sorted(sum_nodes):
            steps.append("sum")
            # What follows the sum of a shortcut and a branch is said once, of the last
            # layer of the branch.
            if sum_of_layer.get(node) == sum_node:
                steps += _words_after(flow, sum_node, names)
                behind = outlet(flow, sum_node)
                # The gates of a GRU: a sigmoid of a sum, and then a product.
                if _following.is_multiplied(
                    flow, sum_node if behind is None else behind
                ):
                    steps.append("product")
        # In some scan around the layer the iterations are time steps, not stacked
        # layers.
        is_recurrent = any(not all(use.takes_slices) for _, use in uses)
        if is_recurrent and not steps:
            # The first of two products that one tanh reads has only their sum behind
            # it, and is no gate.
            steps += _words_of_sum(flow, result, names)
        if is_recurrent and not any(map(_computes, steps)):
            steps += _following.gates(flow, node)
        for index, _ in uses:
            name = parts.weights[index].name
            steps_of_uses.setdefault(name, []).append(tuple(steps))
    # The most frequent steps: the first and last iterations of a scan may differ.
    return {name: statistics.mode(steps) for name, steps in steps_of_uses.items()}


def _computes(step: str) -> bool:
    """Tell whether a step does more than add something."""
    return step != "sum" and not step.startswith("+ ")


def _words_of_sum(
    flow: Flow,
    node: int,
    names: Mapping[int, str],
) -> list[str]:
    """Return ["sum", "tanh"] for a product W h of a recurrence tanh(W h + V x).

    [] if anything but tanh follows the sum, or if the tanh is multiplied by a gate.
    """
    total = next((n for n in flow.chain(node) if is_sum(flow, n)), None)
    if total is None:
        return []
    end = outlet(flow, total)
    if end is None or _following.is_multiplied(flow, end):
        return []
    after = _words_after(flow, total, names)
    return ["sum", *after] if after[-1:] == ["tanh"] else []


def _words_after(
    flow: Flow,
    node: int,
    names: Mapping[int, str],
) -> list[str]:
    """Return words for the nonlinearity and norm that follow a node."""
    end = outlet(flow, node)
    return [] if end is None else _following.words(flow, node, end, names=names)


class _Before(NamedTuple):
    """What comes before a weight.

    Attributes:
        point: The point that the weight reads, or None.
        steps: The operations between that point and the weight.
    """

    point: str | None
    steps: tuple[str, ...]


def _precedes(parts: _Parts) -> dict[str, _Before]:
    """Return the last point before each weight, and the steps between the two.

    A step may be the norm at the beginning of a branch. Keys are the names of weights.
    """
    flow = parts.flow
    named = parts.points.nodes
    names = _leaf_names(parts)
    precedes: dict[str, _Before] = {}
    for node, uses in flow.layer_at.items():
        if node not in flow.inputs or len(flow.inputs[node]) != 1:
            continue
        (operand,) = flow.inputs[node]
        within, sources = flow.back_to(operand, named)
        # A product of two branches has two points before it, so that it has no `point`.
        if len(sources) != 1 and _following.is_product(flow, operand):
            for index, _ in uses:
                precedes[parts.weights[index].name] = _Before(None, ("product",))
        if len(sources) != 1:
            continue
        steps = _following.words(flow, sources[0], operand, names=names, within=within)
        point = parts.points.name_before(sources[0], {})
        for index, _ in uses:
            precedes[parts.weights[index].name] = _Before(point, tuple(steps))
    return precedes


def _leaf_names(parts: _Parts) -> dict[int, str]:
    """Return the name of the leaf that each value comes from, by the value's index."""
    params = parts.flow.program.params
    name_of = {leaf: short_name(parts.leaves[i]) for i, leaf in enumerate(params)}
    return {
        value: name_of[origins_of_value[0].leaf]
        for value, origins_of_value in parts.origins.items()
    }


def _unread(program: Program) -> tuple[str, ...]:
    """Return the names of operations on the signal whose inside cannot be read."""
    names = [
        value.operation
        for index, value in enumerate(program.values)
        if index in program.of_x and is_opaque(value)
    ]
    return tuple(dict.fromkeys(names))


def laid_out_pair(
    unrolled: Unrolled,
    a: Point,
    b: Point,
) -> tuple[int | None, int | None]:
    """Return nodes of two points, with a path between them if `b` depends on `a`.

    Four iterations of a scan are laid out; the second and third stand for all inner
    ones. Of two points in different inner iterations, the earlier gets the node in the
    second, the later the node in the third.

    Args:
        unrolled: The nodes of the program.
        a: A point.
        b: Another point.

    Returns:
        The nodes of `a` and `b`, or (None, None) if `b` is in an earlier iteration, and
        so cannot depend on `a`.
    """
    program = unrolled.program
    scans_a = program.values[a.value].scans
    scans_b = program.values[b.value].scans
    lengths_a = [program.scans[scan].length for scan in scans_a]
    lengths_b = [program.scans[scan].length for scan in scans_b]
    laid_out_a = list(map(representative, a.iterations, lengths_a))
    laid_out_b = list(map(representative, b.iterations, lengths_b))
    # Of the scans around both, the outermost in which their iterations differ decides.
    for i, (scan_a, scan_b) in enumerate(zip(scans_a, scans_b, strict=False)):
        if scan_a != scan_b:
            break
        if a.iterations[i] > b.iterations[i]:
            return None, None
        if a.iterations[i] < b.iterations[i]:
            if laid_out_a[i] == laid_out_b[i]:
                laid_out_b[i] += 1
            break
    start = unrolled.find(a.value, tuple(laid_out_a))
    return start, unrolled.find(b.value, tuple(laid_out_b))
