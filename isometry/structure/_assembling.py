"""The parts of an anatomy, read one after another."""

from collections.abc import Sequence
from typing import NamedTuple

from jax.extend import core

from isometry.structure._branches import Join, innermost, joins
from isometry.structure._depths import Depths
from isometry.structure._flow import Flow
from isometry.structure._layers import Row, rows
from isometry.structure._meetings import meetings
from isometry.structure._names import Leaf
from isometry.structure._origins import origins
from isometry.structure._points import Point, Points, PreActivation
from isometry.structure._points import pre_activation, spots
from isometry.structure._reading import Program, is_opaque, read
from isometry.structure._records import Branch, WeightLayer
from isometry.structure._unrolling import Unrolled, representative


class Assembled(NamedTuple):
    """The parts; fields as of `Anatomy`."""

    layers: tuple[WeightLayer, ...]
    branches: tuple[Branch, ...]
    unread: tuple[str, ...]
    depth: int
    flow: Flow
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
    points = Points(flow, spots(flow, weights, before_bias, found))
    depths = Depths(program, layers_at)
    branches = _branches(flow, weights, found, points)
    return Assembled(
        layers=_layers(flow, weights, before_bias, depths=depths, leaves=leaves),
        branches=branches,
        unread=_unread(program),
        depth=max(depths.last[index] for index in program.outputs),
        flow=flow,
        points=points,
    )


def _layers(
    flow: Flow,
    weights: Sequence[Row],
    before_bias: dict[int, PreActivation],
    *,
    depths: Depths,
    leaves: Sequence[Leaf],
) -> tuple[WeightLayer, ...]:
    """Write the records of the layers."""
    program = flow.unrolled.program
    path_of = {leaf: leaves[i].path for i, leaf in enumerate(program.params)}
    biases: dict[int, str] = {}
    for node, (index, _) in flow.layer_at.items():
        bias = before_bias[node].bias
        if bias is not None:
            biases.setdefault(index, path_of[bias])
    layers = []
    for index, row in enumerate(weights):
        first = row.uses[0].meeting.value
        layers.append(
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
                depth=depths.first[first] or 0,
                role="hidden",
                branch=None,
                stacked=row.stacked,
                tied=row.is_tied,
            )
        )
    return tuple(layers)


def _branches(
    flow: Flow, weights: Sequence[Row], found: Sequence[Join], points: Points
) -> tuple[Branch, ...]:
    return ()


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
