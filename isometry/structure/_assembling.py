"""The parts of an anatomy, read one after another."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jax.extend import core

from isometry.structure import _attention, _following, _roles
from isometry.structure._attention import Heads
from isometry.structure._branches import Join, innermost, joins
from isometry.structure._depths import Depths
from isometry.structure._flow import Flow
from isometry.structure._layers import Row, rows
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
)
from isometry.structure._reading import Program, is_opaque, read
from isometry.structure._records import Attention, Branch, WeightLayer
from isometry.structure._unrolling import Unrolled, representative


class Assembled(NamedTuple):
    """The parts; fields as of `Anatomy`."""

    layers: tuple[WeightLayer, ...]
    branches: tuple[Branch, ...]
    attentions: tuple[Attention, ...]
    unread: tuple[str, ...]
    depth: int
    follows: dict[str, str]
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


def assemble(closed: core.ClosedJaxpr, leaves: Sequence[Leaf]) -> Assembled:
    """Read a program whose first arguments are the leaves of params."""
    program = read(closed, len(leaves))
    traced = origins(program)
    weights = rows(program, meetings(program, traced), leaves)
    layers_at = {
        use.meeting.value: (index, use)
        for index, row in enumerate(weights)
        for use in row.uses
    }
    flow = Flow(Unrolled(program), layers_at)
    before_bias = {node: pre_activation(flow, traced, node) for node in flow.layer_at}
    found = joins(flow)
    parts = _Parts(
        flow,
        leaves,
        weights=weights,
        origins=traced,
        before_bias=before_bias,
        joins=found,
        heads=_attention.attentions(flow, [join.node for join in found]),
        points=Points(flow, spots(flow, weights, before_bias, found)),
    )
    depths = Depths(program, layers_at)
    branches = _branches(parts)
    return Assembled(
        layers=_layers(parts, depths, branches),
        branches=tuple(branch for branch, _ in branches),
        attentions=_attentions(parts),
        unread=_unread(program),
        depth=max(depths.last[index] for index in program.outputs),
        follows=_follows(parts),
        flow=flow,
        points=parts.points,
    )


def _layers(
    parts: _Parts, depths: Depths, branches: Sequence[tuple[Branch, Join]]
) -> tuple[WeightLayer, ...]:
    """Write the records of the layers."""
    flow = parts.flow
    biases = _biases(parts)
    of_layer = {}
    names = {join.node: branch.name for branch, join in branches}
    for node, join in innermost(parts.joins).items():
        index, _ = flow.layer_at[node]
        of_layer.setdefault(index, names.get(join.node))
    firsts = [row.uses[0].meeting.value for row in parts.weights]
    depth_of = {index: depths.first[first] or 0 for index, first in enumerate(firsts)}
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
    params = parts.flow.unrolled.program.params
    path_of = {leaf: parts.leaves[i].path for i, leaf in enumerate(params)}
    biases: dict[int, str] = {}
    for node, (index, _) in parts.flow.layer_at.items():
        bias = parts.before_bias[node].bias
        if bias is not None:
            biases.setdefault(index, path_of[bias])
    return biases


def _branches(parts: _Parts) -> list[tuple[Branch, Join]]:
    """Write the records of the branches, in all turns, each with its join."""
    by_name: dict[str, tuple[Branch, Join]] = {}
    for join in parts.joins:
        layers = _row_names(parts, join.layers)
        for joins_at, turns in parts.points.of_node(join.node):
            stem = os.path.commonprefix([name.split("/") for name in layers])
            written = parts.points.written(join.layers[-1], turns)
            name = "/".join(stem) + written
            if not stem or name in by_name:
                name = layers[-1] + written
            leaves = parts.points.name_before(join.fork, join.node, turns)
            branch = Branch(
                name,
                leaves,
                joins=joins_at,
                layers=layers,
                shortcut=_row_names(parts, join.shortcut),
            )
            by_name[name] = (branch, join)
    return list(by_name.values())


def _row_names(parts: _Parts, nodes: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the weights at these nodes, each once."""
    indices = [parts.flow.layer_at[node][0] for node in nodes]
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
    program = flow.unrolled.program
    leaf_names = {
        leaf: short_name(parts.leaves[i]) for i, leaf in enumerate(program.params)
    }
    names = {
        value: leaf_names[found[0].leaf] for value, found in parts.origins.items()
    }
    sums = {join.layers[-1]: join.node for join in parts.joins}
    scores = {
        node
        for heads in parts.heads
        for node in (*heads.query, *heads.key, *heads.value)
    }
    follows: dict[str, str] = {}
    for node, (index, _) in flow.layer_at.items():
        steps = _words_behind(flow, parts.before_bias[node].node, names)
        if node in scores:
            steps.append("attention")
        if node in sums:
            steps.append("sum")
            steps += _words_behind(flow, sums[node], names)
        # The first turn that is laid out may lack what the others have.
        text = " → ".join(steps)
        name = parts.weights[index].name
        if len(text) > len(follows.get(name, "")):
            follows[name] = text
    return follows


def _words_behind(flow: Flow, node: int, names: Mapping[int, str]) -> list[str]:
    end = outlet(flow, node)
    return [] if end is None else _following.words(flow, node, end, names)


def _unread(program: Program) -> tuple[str, ...]:
    """Name what cannot be read and meets the signal."""
    signal = program.reached(program.x)
    names = [
        value.operation
        for index, value in enumerate(program.values)
        if index in signal and is_opaque(value)
    ]
    return tuple(dict.fromkeys(names))


def laid_out_pair(
    unrolled: Unrolled, a: Point, b: Point
) -> tuple[int | None, int | None]:
    """Return the nodes that stand for two points, in the order of their turns.

    Two inner turns of one scan are laid out as one; here the earlier one is meant by
    the second turn, the later one by the third. Without nodes, b comes before a.
    """
    program = unrolled.program
    turns_a, turns_b = list(a.turns), list(b.turns)
    scans_a = program.values[a.value].scans
    scans_b = program.values[b.value].scans
    for i, (scan_a, scan_b) in enumerate(zip(scans_a, scans_b)):
        if scan_a != scan_b:
            break
        length = program.scans[scan_a].length
        if turns_a[i] > turns_b[i]:
            return None, None
        ordered = representative(turns_a[i], length), representative(turns_b[i], length)
        if turns_a[i] < turns_b[i] and ordered[0] == ordered[1]:
            ordered = ordered[0], ordered[1] + 1
        shown_a, shown_b = ordered
        is_earlier = turns_a[i] < turns_b[i]
        turns_a[i], turns_b[i] = shown_a, shown_b
        if is_earlier:
            break
    return _node(unrolled, a, scans_a, turns_a), _node(unrolled, b, scans_b, turns_b)


def _node(
    unrolled: Unrolled, point: Point, scans: tuple[int, ...], turns: list[int]
) -> int:
    return unrolled.find(point.value, tuple(turns))
