"""The parts of an anatomy, read one after another."""

import statistics
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from jax.extend import core

from isometry.structure import _attention, _following, _roles
from isometry.structure._attention import Heads
from isometry.structure._branches import Join, innermost, joins
from isometry.structure._depths import Depths
from isometry.structure._flow import Flow
from isometry.structure._layers import Row, Use, rows
from isometry.structure._meetings import meetings
from isometry.structure._names import Leaf, short_name
from isometry.structure._origins import Origins, origins
from isometry.structure._points import (
    Point,
    Points,
    PreActivation,
    outlet,
    pre_activation,
    spots,
    sums,
)
from isometry.structure._reading import Program, is_opaque, read
from isometry.structure._records import Attention, Branch, WeightLayer
from isometry.structure._unrolling import Unrolled, representative

# What libraries call a list of layers in what holds it.
_LISTS = frozenset(("layers",))


class Assembled(NamedTuple):
    """The parts; fields as of `Anatomy`."""

    layers: tuple[WeightLayer, ...]
    branches: tuple[Branch, ...]
    attentions: tuple[Attention, ...]
    unread: tuple[str, ...]
    depth: int
    follows: dict[str, str]
    precedes: dict[str, str]
    flow: Flow
    points: Points


class _Parts(NamedTuple):
    """What has been read so far.

    Attributes:
        flow: The flow.
        leaves: The leaves of params.
        weights: The weights.
        origins: What values show of leaves.
        before_bias: The pre-activation behind each node where a weight meets the
            signal.
        joins: The joins of branches.
        heads: The attentions.
        points: The named values.
    """

    flow: Flow
    leaves: Sequence[Leaf]
    weights: Sequence[Row]
    origins: Mapping[int, Origins]
    before_bias: Mapping[int, PreActivation]
    joins: Sequence[Join]
    heads: Sequence[Heads]
    points: Points


def assemble(
    closed: core.ClosedJaxpr,
    leaves: Sequence[Leaf],
    x_paths: Sequence[Sequence[str]],
) -> Assembled:
    """Read a program.

    Args:
        closed: The program, a function of the leaves of params, then those of x.
        leaves: The leaves of params.
        x_paths: The path of each leaf of x, step by step.
    """
    program = read(closed, len(leaves))
    traced = origins(program)
    weights = rows(program, meetings(program, traced), leaves)
    layers_at: dict[int, list[tuple[int, Use]]] = {}
    for index, row in enumerate(weights):
        for use in row.uses:
            layers_at.setdefault(use.meeting.value, []).append((index, use))
    # From here on all is read off the nodes, where every path is a path.
    flow = Flow(Unrolled(program), layers_at)
    before_bias = {node: pre_activation(flow, traced, node) for node in flow.layer_at}
    found = joins(flow)
    named = spots(flow, weights, before_bias, joins=found)
    parts = _Parts(
        flow,
        leaves,
        weights=weights,
        origins=traced,
        before_bias=before_bias,
        joins=found,
        heads=_attention.attentions(flow, [join.node for join in found]),
        points=Points(flow, named, x_paths),
    )
    depths = Depths(program, layers_at)
    return Assembled(
        layers=_layers(parts, depths),
        branches=_branches(parts),
        attentions=_attentions(parts),
        unread=_unread(program),
        depth=max(depths.last[index] for index in program.outputs),
        follows=_follows(parts),
        precedes=_precedes(parts),
        flow=flow,
        points=parts.points,
    )


def _layers(
    parts: _Parts,
    depths: Depths,
) -> tuple[WeightLayer, ...]:
    """Write the records of the layers."""
    flow = parts.flow
    biases = _biases(parts)
    of_layer = {}
    stems = _stems(parts)
    for node, join in innermost(parts.joins).items():
        for index, _ in flow.layer_at[node]:
            of_layer.setdefault(index, stems[join.node])
    depth_of = {}
    for index, row in enumerate(parts.weights):
        first = row.uses[0]
        turn = 0 if first.turn is None else first.turn[1]
        depth_of[index] = depths.of(first.meeting.value, turn)
    roles = _roles.roles(
        flow,
        parts.weights,
        depth_of,
        on_branch=frozenset(of_layer),
        attentions=parts.heads,
    )
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
            branch=of_layer.get(index),
            stacked=row.stacked,
            tied=row.is_tied,
        )
        for index, row in enumerate(parts.weights)
    )


def _biases(parts: _Parts) -> dict[int, str]:
    """Return the key path of the bias of each weight that has one."""
    params = parts.flow.program.params
    path_of = {leaf: parts.leaves[i].path for i, leaf in enumerate(params)}
    biases: dict[int, str] = {}
    for node, uses in parts.flow.layer_at.items():
        found = parts.before_bias[node].biases
        # Several weights have one bias each, or share one.
        if len(found) == 1:
            found = found * len(uses)
        for (index, _), bias in zip(uses, found, strict=False):
            biases.setdefault(index, path_of[bias])
    return biases


def _branches(parts: _Parts) -> tuple[Branch, ...]:
    """Write the records of the branches, in all turns."""
    # A scanned block has one join in the program and one branch a turn.
    stems = _stems(parts)
    by_name: dict[str, Branch] = {}
    for join in parts.joins:
        layers = _row_names(parts, join.layers)
        for joins_at, shift in parts.points.of_node(join.node):
            name = stems[join.node] + parts.points.written(join.layers[-1], shift)
            by_name[name] = Branch(
                name,
                leaves=parts.points.name_before(join.fork, shift),
                joins=joins_at,
                layers=layers,
                shortcut=_row_names(parts, join.shortcut),
            )
    return tuple(by_name.values())


def _stems(parts: _Parts) -> dict[int, str]:
    """Name the branch of each join, without its turns.

    It is what the names of its layers have in common, if no other layer has that too,
    or else the name of the last one.
    """
    stems = {}
    for join in parts.joins:
        own = _row_names(parts, (*join.layers, *join.shortcut))
        layers = _row_names(parts, join.layers)
        common = _common([name.split("/") for name in layers])
        # A list of layers is named for what holds it.
        if len(common) > 1 and common[-1] in _LISTS:
            common = common[:-1]
        stem = "/".join(common)
        # "block_0" for both halves of a transformer block would say nothing.
        others = {row.name for row in parts.weights} - set(own)
        is_shared = any(name.startswith(f"{stem}/") for name in others)
        stems[join.node] = layers[-1] if is_shared or not stem else stem
    return stems


def _common(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return the steps with which all paths begin."""
    steps = []
    for alike in zip(*paths, strict=False):
        if len(set(alike)) > 1:
            break
        steps.append(alike[0])
    return steps


def _row_names(
    parts: _Parts,
    nodes: Sequence[int],
) -> tuple[str, ...]:
    """Return the names of the weights at these nodes, each once."""
    indices = [index for node in nodes for index, _ in parts.flow.layer_at[node]]
    return tuple(dict.fromkeys(parts.weights[index].name for index in indices))


def _attentions(parts: _Parts) -> tuple[Attention, ...]:
    """Write the records of the attentions, each once."""
    records = [
        Attention(
            query=_row_names(parts, heads.query),
            key=_row_names(parts, heads.key),
            value=_row_names(parts, heads.value),
            output=_row_names(parts, heads.output),
        )
        for heads in parts.heads
    ]
    return tuple(dict.fromkeys(records))


def _follows(parts: _Parts) -> dict[str, str]:
    """Describe what follows each weight, by its name."""
    flow = parts.flow
    names = _leaf_names(parts)
    behind = sums(flow, parts.before_bias, parts.joins)
    shortcuts = {node for join in parts.joins for node in join.shortcut}
    scores = {
        node
        for heads in parts.heads
        for node in (*heads.query, *heads.key, *heads.value)
    }
    texts: dict[str, list[str]] = {}
    for node, uses in flow.layer_at.items():
        steps = _words_behind(flow, parts.before_bias[node].node, names)
        if node in scores:
            steps.append("attention")
        # A shortcut ends in the same sum as its branch, and has no point of its own.
        if node in shortcuts:
            steps.append("sum")
        if node in behind:
            steps.append("sum")
            steps += _words_behind(flow, behind[node], names)
        if not steps and any(not all(use.styles) for _, use in uses):
            steps += _following.gates(flow, node)
        for index, _ in uses:
            name = parts.weights[index].name
            texts.setdefault(name, []).append(" → ".join(steps))
    # The first and the last turn of a scan may differ from all others.
    return {name: statistics.mode(told) for name, told in texts.items()}


def _words_behind(
    flow: Flow,
    node: int,
    names: Mapping[int, str],
) -> list[str]:
    end = outlet(flow, node)
    return [] if end is None else _following.words(flow, node, end, names=names)


def _precedes(parts: _Parts) -> dict[str, str]:
    """Describe what the signal goes through before it meets each weight.

    That is what stands between the last named value and the weight, such as the norm
    at the head of a branch.
    """
    flow = parts.flow
    named = parts.points.nodes
    names = _leaf_names(parts)
    precedes: dict[str, str] = {}
    for node, uses in flow.layer_at.items():
        if node not in flow.inputs or len(flow.inputs[node]) != 1:
            continue
        (operand,) = flow.inputs[node]
        within, sources = _back_to(flow, operand, named)
        if len(sources) != 1:
            continue
        steps = _following.words(flow, sources[0], operand, names=names, within=within)
        for index, _ in uses:
            precedes[parts.weights[index].name] = " → ".join(steps)
    return precedes


def _back_to(
    flow: Flow,
    start: int,
    ends: Container[int],
) -> tuple[set[int], list[int]]:
    """Go back from a node to the first of `ends` on every way.

    Returns:
        The nodes on the way, and those of `ends`.
    """
    seen = {start}
    pending = [start]
    sources = []
    while pending:
        node = pending.pop()
        if node in ends:
            sources.append(node)
            continue
        new = [read for read in flow.inputs[node] if read not in seen]
        seen.update(new)
        pending.extend(new)
    return seen, sources


def _leaf_names(parts: _Parts) -> dict[int, str]:
    """Return the names of the leaves that values show."""
    params = parts.flow.program.params
    of_leaf = {leaf: short_name(parts.leaves[i]) for i, leaf in enumerate(params)}
    return {value: of_leaf[found[0].leaf] for value, found in parts.origins.items()}


def _unread(program: Program) -> tuple[str, ...]:
    """Name what cannot be read and meets the signal."""
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
    """Return the nodes that stand for two points, in the order of their turns.

    Two inner turns of one scan are laid out as one; here the earlier one is meant by
    the second turn, the later one by the third. Without nodes, b comes before a.
    """
    program = unrolled.program
    scans_a = program.values[a.value].scans
    scans_b = program.values[b.value].scans
    lengths_a = [program.scans[scan].length for scan in scans_a]
    lengths_b = [program.scans[scan].length for scan in scans_b]
    shown_a = list(map(representative, a.turns, lengths_a))
    shown_b = list(map(representative, b.turns, lengths_b))
    for i, (scan_a, scan_b) in enumerate(zip(scans_a, scans_b, strict=False)):
        if scan_a != scan_b or a.turns[i] < b.turns[i]:
            if scan_a == scan_b and shown_a[i] == shown_b[i]:
                shown_b[i] += 1
            break
        if a.turns[i] > b.turns[i]:
            return None, None
    start = unrolled.find(a.value, tuple(shown_a))
    return start, unrolled.find(b.value, tuple(shown_b))
