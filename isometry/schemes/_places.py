"""The place of every layer in a network: its order, branch, stack and heads.

A slice is one layer of a weight in which several are stacked; a weight that is not
stacked has one slice. A stack of branches is the encoder, the decoder, or the whole
network. In this module `Branch` is the place of a layer, and `Record` a branch as the
anatomy describes it. A crossing attention has queries in the decoder, and keys from the
encoder.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from isometry.schemes import _scales
from isometry.schemes._layer import Branch, Layer
from isometry.structure import Anatomy, WeightLayer
from isometry.structure import Branch as Record
from isometry.structure._anatomy import branches_across_loops
from isometry.structure._recurring import is_fed

# The name of a layer and the index of a slice of it, 0 if the layer is not stacked.
Slice: TypeAlias = tuple[str, int]

# The step of a recurrence in a name.
_STEP = re.compile(r"@\d+")

# The step, or the number of the use, in the name of a branch whose layers are used more
# than once.
_REPEAT = re.compile(r"@\d+|#\d+$")

# Slices and steps at the end of the name of a point.
_ITERATIONS = re.compile(r"(?:\[\d+\]|@\d+)+$")


class _Stack(NamedTuple):
    """Branches that are counted together: an encoder, a decoder, or all of them.

    Attributes:
        name: "encoder" or "decoder"; None if there is only one stack.
        branches: The branches, in the order of computation. A branch whose weights are
            used several times is listed once for each use.
        other: The number of branches of the other stack, 0 if there is none.
    """

    name: str | None
    branches: tuple[Record, ...]
    other: int

    def first_uses(self) -> list[tuple[int, Record]]:
        """Return pairs (index, branch), of each branch only the first use."""
        first: dict[str, tuple[int, Record]] = {}
        for index, record in enumerate(self.branches):
            first.setdefault(_bare(record), (index, record))
        return list(first.values())


class Places(NamedTuple):
    """The places of all layers of a network.

    Attributes:
        order: The index of each slice among all slices, in the order of computation.
        on_branch: The place of each slice that lies on a residual branch, or is an
            embedding that a branch reads.
        branches: For each branch, the branch and the place of its last layer.
        heads: The number of heads of each layer of an attention, by its name.
        by_name: The layers by name.
        shares: For each layer that computes queries, keys and values at once, by its
            name: the range of outputs (first, last + 1) of each of these roles.
        uncounted: For each layer whose position on its branch is not known, by its
            name: the reason.
    """

    order: dict[Slice, int]
    on_branch: dict[Slice, Branch]
    branches: tuple[tuple[Record, Branch], ...]
    heads: dict[str, int]
    by_name: dict[str, WeightLayer]
    shares: dict[str, dict[str, tuple[int, int]]]
    uncounted: dict[str, str]


def places(anatomy: Anatomy) -> Places:
    """Return the places of all layers of a network."""
    by_name = {layer.name: layer for layer in anatomy.layers}
    # Branches are counted within their stack, because schemes scale by its depth.
    stacks = _stacks(anatomy)
    placed = []
    for stack in stacks:
        for index, record in stack.first_uses():
            placed.append((record, stack, index))
    on_branch: dict[Slice, Branch] = {}
    fewest: dict[Slice, int] = {}
    last = []
    all_positions = [_positions(anatomy, record, by_name) for record, _, _ in placed]
    uncounted = _uncounted(anatomy, [record for record, _, _ in placed], all_positions)
    for (record, stack, index), positions in zip(placed, all_positions, strict=True):
        end = max(positions.values())
        place = _place(stack, index, length=end + 1)
        for key, position in positions.items():
            # A layer on nested branches belongs to the innermost, which has the fewest
            # layers.
            if key not in fewest or len(positions) < fewest[key]:
                on_branch[key] = dataclasses.replace(place, position=position)
                fewest[key] = len(positions)
        last.append((record, dataclasses.replace(place, position=end)))
    _add_keys_from_elsewhere(anatomy, on_branch, by_name)
    _add_embeddings(anatomy, on_branch, stacks)
    return Places(
        order=_order(anatomy),
        on_branch=on_branch,
        branches=tuple(last),
        heads=_heads(anatomy, by_name),
        by_name=by_name,
        shares=_shares(anatomy),
        uncounted=uncounted,
    )


def gates_branch(source: WeightLayer, places: Places) -> bool:
    """Tell whether a layer gates a branch, and so has no place on it."""
    return any(source.name in record.gating for record, _ in places.branches)


def role(source: WeightLayer) -> str:
    """Return the role of a layer for schemes, one of `_layer.ROLES`."""
    if source.kind == "embedding":
        return "embedding"
    played = source.role.split("/")
    if len(played) == 1:
        return source.role
    # Schemes treat queries and keys alike, so one weight for both is a query. Values
    # are often scaled otherwise, so a weight for these too has a role of its own.
    if set(played) == {"query", "key"}:
        return "query"
    if "value" in played and len(set(played) & {"query", "key"}) > 0:
        return "qkv"
    return played[-1]


def layers(source: WeightLayer, places: Places) -> tuple[Layer, ...]:
    """Return the `Layer` that a scheme is given for each slice of a weight layer."""
    window = tuple(source.shape[axis] for axis in source.window_axes)
    own_role = role(source)
    return tuple(
        Layer(
            own_role,
            index=places.order[source.name, index_of_slice],
            depth=len(places.order),
            fan_in=source.fan_in,
            fan_out=source.fan_out,
            branch=_branch_of(source, index_of_slice, own_role, places=places),
            name=source.name,
            kind=source.kind,
            groups=source.groups,
            heads=places.heads.get(source.name),
            window=window,
            follows=_scales.follows(source),
            precedes=_scales.precedes(source, places.by_name),
        )
        for index_of_slice in range(source.stacked or 1)
    )


def _branch_of(
    source: WeightLayer, index_of_slice: int, own_role: str, *, places: Places
) -> Branch | None:
    """Return the place of a slice of a layer; None on the stream."""
    # A stem or head is on the stream even if the anatomy finds a skip around it.
    if own_role in ("stem", "head"):
        return None
    return places.on_branch.get((source.name, index_of_slice))


def _place(stack: _Stack, index: int, *, length: int) -> Branch:
    """Return the place of the first layer of a branch.

    Args:
        stack: The stack of the branch.
        index: The index of the branch in the stack.
        length: The number of weight layers one after another on the branch.
    """
    return Branch(
        index=index,
        count=len(stack.branches),
        position=0,
        length=length,
        stack=stack.name,
        other=stack.other,
    )


def _positions(
    anatomy: Anatomy, record: Record, by_name: Mapping[str, WeightLayer]
) -> dict[Slice, int]:
    """Return the position of each slice on a branch: the number of layers before it."""
    is_across_loops = record.name in branches_across_loops(anatomy)
    if is_across_loops and record.leaves is not None:
        return _positions_across_loops(anatomy, record, record.leaves)
    # Layers that gate a branch have no position on it: they cannot make it zero.
    return {
        (name, index_of_slice): position
        for name, position in zip(record.layers, record.positions, strict=True)
        if name not in record.gating
        for index_of_slice in _slices(by_name[name], record)
    }


def _positions_across_loops(
    anatomy: Anatomy, record: Record, leaves: str
) -> dict[Slice, int]:
    """Return the position of each slice on a branch with several slices of a leaf.

    The slices may lie one behind another, or side by side. They lie one behind another
    if the point of one depends on that of the other.

    Args:
        anatomy: The anatomy of the network.
        record: The branch.
        leaves: The point at which the branch leaves the stream.
    """
    points: dict[Slice, str] = {}
    for name in record.layers:
        if name in record.gating:
            continue
        first = first_points(anatomy, name)
        # Slices of nested stacks are numbered with the innermost index fastest.
        for count, index in enumerate(sorted(first)):
            point = first[index]
            is_behind = point != leaves and anatomy.upstream(leaves, point)
            if is_behind and anatomy.upstream(point, record.joins):
                points[name, count] = point
    order = {point: i for i, point in enumerate(anatomy.points)}
    positions: dict[Slice, int] = {}
    for key in sorted(points, key=lambda key: order[points[key]]):
        before = [
            position
            for other, position in positions.items()
            if anatomy.upstream(points[other], points[key])
        ]
        positions[key] = max(before, default=-1) + 1
    return positions


def _uncounted(
    anatomy: Anatomy,
    records: Sequence[Record],
    all_positions: Sequence[Mapping[Slice, int]],
) -> dict[str, str]:
    """Return the layers whose position on their branch is not known, with the reason.

    Args:
        anatomy: The anatomy of the network.
        records: The branches.
        all_positions: For each branch, the positions of its slices.
    """
    reasons: dict[str, str] = {}
    reader: dict[tuple[tuple[str, ...], Slice], Record] = {}
    for record, positions in zip(records, all_positions, strict=True):
        if record.joins.endswith(":sum:sum"):
            reason = (
                f"branch {record.name!r} ends with another branch, x + (h + F(h)), so "
                "that no layer is its last; write a layer behind the inner sum."
            )
            joins = record.joins.removesuffix(":sum")
            (inner,) = [other for other in records if other.joins == joins]
            outer_alone = set(record.layers).difference(inner.layers)
            reasons |= dict.fromkeys(outer_alone, reason)
        if record.name not in branches_across_loops(anatomy):
            continue
        if record.leaves is None:
            reason = (
                f"branch {record.name!r} has several slices of one leaf, and the place "
                "where it leaves the stream has no name, so that they cannot be "
                "counted; write its layers as leaves of their own."
            )
            reasons |= dict.fromkeys(record.layers, reason)
            continue
        by_layer: dict[str, set[int]] = {}
        for (name, _), position in positions.items():
            by_layer.setdefault(name, set()).add(position)
        for key in positions:
            # What a loop returns for all its iterations counts as one value. So if
            # several branches read it, all slices seem to lie on each of them.
            first = reader.setdefault((record.layers, key), record)
            name, _ = key
            if first is not record and len(by_layer[name]) > 1:
                reason = (
                    f"branches {first.name!r} and {record.name!r} read slices of "
                    f"{name!r} that are computed one from the other in a loop of their "
                    "own, and which of them each reads cannot be told; compute them in "
                    "the loop of the branches, or write each as a leaf of its own."
                )
                # With that of one layer, the length of the branch is unknown.
                reasons |= dict.fromkeys(record.layers, reason)
    return reasons


def _slices(layer: WeightLayer, record: Record) -> Sequence[int]:
    """Return the slices of a layer that lie on a branch."""
    if layer.stacked is None:
        return (0,)
    if record.slice is None:
        return range(layer.stacked)
    return (record.slice,)


def _stacks(anatomy: Anatomy) -> tuple[_Stack, ...]:
    """Divide the branches into encoder and decoder, if there are both."""
    records = _in_depth(anatomy)
    crossing = _read_across(anatomy)
    encoder = tuple(
        record
        for record in records
        if any(anatomy.upstream(record.joins, point) for point in crossing)
    )
    decoder = tuple(record for record in records if record not in encoder)
    # If one of the two is empty there is only one stack: a network that attends to its
    # own input, for example, has keys from outside of its branches but no encoder.
    if not encoder or not decoder:
        return (_Stack(None, records, 0),)
    return (
        _Stack("encoder", encoder, len(decoder)),
        _Stack("decoder", decoder, len(encoder)),
    )


def _in_depth(anatomy: Anatomy) -> tuple[Record, ...]:
    """Return the branches that lie one behind another, in the order of computation.

    Weights that are shared over depth make a branch for each use. The steps of a
    recurrence, each with an input of its own, and mapped examples make one branch.
    """
    kept: list[Record] = []
    last: dict[str, Record] = {}
    known: set[str] = set()
    for record in anatomy.branches:
        name = _bare(record)
        without_step = _STEP.sub("", record.name)
        if name in last:
            is_step = without_step in known and is_fed(anatomy, record.joins)
            if is_step or not anatomy.upstream(last[name].joins, record.joins):
                continue
        known.add(without_step)
        last[name] = record
        kept.append(record)
    return tuple(kept)


def _bare(record: Record) -> str:
    """Return the name of a branch without its step and the number of its use."""
    return _REPEAT.sub("", record.name)


def repeats(anatomy: Anatomy, kept: Sequence[Record]) -> dict[str, list[str]]:
    """Return the names that each branch has at the steps of a recurrence.

    Args:
        anatomy: The anatomy of the network.
        kept: The branches that lie one behind another.

    Returns:
        For each branch in `kept`, by its name: this name, and those at other steps.
    """
    names: dict[str, list[str]] = {record.name: [] for record in kept}
    last: dict[str, str] = {}
    for record in anatomy.branches:
        bare = _bare(record)
        if record.name in names:
            last[bare] = record.name
        names[last[bare]].append(record.name)
    return names


def _read_across(anatomy: Anatomy) -> list[str]:
    """Return the points of the keys of all attentions that cross from another stack.

    In such an attention, the query lies on a residual branch and the key does not.
    """
    on_branches = {name for record in anatomy.branches for name in record.layers}
    points = []
    for attention in anatomy.attentions:
        has_query = any(name in on_branches for name in attention.query)
        across = [name for name in attention.key if name not in on_branches]
        if has_query:
            points += [_first_point(anatomy, name) for name in across]
    return [point for point in points if point is not None]


def _first_point(anatomy: Anatomy, name: str) -> str | None:
    """Return the first point that is a pre-activation of a layer, or None."""
    for point in anatomy.points:
        if _slice_of(point, name) is not None:
            return point
    return None


def _slice_of(point: str, name: str) -> tuple[int, ...] | None:
    """Return the indices of the slice whose pre-activation a point is.

    Args:
        point: The name of the point.
        name: The name of the layer.

    Returns:
        The indices, () for a layer that is not stacked; None if the point is no
        pre-activation of this layer.
    """
    if not point.startswith(name):
        return None
    rest = re.fullmatch(r"((?:\[\d+\]|@\d+)*)", point[len(name) :])
    if rest is None:
        return None
    return tuple(map(int, re.findall(r"\[(\d+)\]", rest[1])))


def first_points(anatomy: Anatomy, name: str) -> dict[tuple[int, ...], str]:
    """Return the first point of each slice of a layer, by the indices of the slice."""
    points: dict[tuple[int, ...], str] = {}
    for point in points_by_base(anatomy).get(name, ()):
        index = _slice_of(point, name)
        if index is not None:
            points.setdefault(index, point)
    return points


def points_by_base(anatomy: Anatomy) -> dict[str, list[str]]:
    """Group the points by their names without slices and steps."""
    by_base: dict[str, list[str]] = {}
    for point in anatomy.points:
        by_base.setdefault(_ITERATIONS.sub("", point), []).append(point)
    return by_base


def _order(anatomy: Anatomy) -> dict[Slice, int]:
    """Return the index of each slice in the order of computation."""
    first: dict[Slice, int] = {}
    positions = {point: i for i, point in enumerate(anatomy.points)}
    for layer in anatomy.layers:
        slices = first_points(anatomy, layer.name)
        # Slices of nested stacks are counted with the innermost index fastest, which is
        # the order of the sorted index tuples.
        for count, index in enumerate(sorted(slices)):
            first[layer.name, count] = positions[slices[index]]
        # A layer on which the output does not depend has no point, and comes last.
        for count in range(len(slices), layer.stacked or 1):
            first[layer.name, count] = len(positions) + layer.index
    ranked = sorted(first, key=lambda key: first[key])
    return {key: rank for rank, key in enumerate(ranked)}


def _add_keys_from_elsewhere(
    anatomy: Anatomy,
    on_branch: dict[Slice, Branch],
    by_name: Mapping[str, WeightLayer],
) -> None:
    """Add to `on_branch` the key and value layers that read another stack.

    They get the place before the output layer of their attention.
    """
    for attention in anatomy.attentions:
        for output in attention.output:
            for index_of_slice in range(by_name[output].stacked or 1):
                branch = on_branch.get((output, index_of_slice))
                # Without a branch there is no depth to scale by. If the output is at
                # position 0, there is no position before it.
                if branch is None or branch.position == 0:
                    continue
                before = dataclasses.replace(branch, position=branch.position - 1)
                for name in (*attention.query, *attention.key, *attention.value):
                    on_branch.setdefault((name, index_of_slice), before)


def _add_embeddings(
    anatomy: Anatomy,
    on_branch: dict[Slice, Branch],
    stacks: Sequence[_Stack],
) -> None:
    """Add to `on_branch` each embedding, with the place of the first branch behind it.

    The branches of an encoder come before those of a decoder.
    """
    for layer in anatomy.embeddings:
        point = _first_point(anatomy, layer.name)
        reading = [
            (record, stack)
            for stack in stacks
            for record in stack.branches
            if point is not None and anatomy.upstream(point, record.joins)
        ]
        # In `reading`, the branches of the encoder come first. So an embedding that
        # encoder and decoder share is scaled by the depth of the encoder.
        if reading:
            record, stack = reading[0]
            index = stack.branches.index(record)
            length = _length(record)
            on_branch[layer.name, 0] = _place(stack, index, length=length)


def _length(record: Record) -> int:
    """Return how many layers of a branch come one after the other."""
    pairs = zip(record.layers, record.positions, strict=True)
    return 1 + max(position for name, position in pairs if name not in record.gating)


def _heads(anatomy: Anatomy, by_name: Mapping[str, WeightLayer]) -> dict[str, int]:
    """Return the number of heads of each layer of an attention, by its name."""
    heads: dict[str, int] = {}
    for attention in anatomy.attentions:
        if not attention.head_size:
            continue
        for name in (*attention.query, *attention.key):
            outputs = _num_outputs(by_name[name])
            if attention.shares:
                # In a fused weight only the outputs of queries are counted.
                start, stop = attention.shares[0]
                outputs = stop - start
            heads[name] = max(outputs // attention.head_size, 1)
        # The heads of values may have another size than `head_size`, which is that of
        # queries and keys. There are as many heads of values as of keys.
        counts = [heads[name] for name in attention.key]
        for name in (*attention.value, *attention.output):
            if counts:
                heads.setdefault(name, counts[0])
    return heads


def _shares(anatomy: Anatomy) -> dict[str, dict[str, tuple[int, int]]]:
    """Return `Places.shares`: the range of outputs of each role in a fused layer."""
    shares = {}
    for attention in anatomy.attentions:
        if attention.shares:
            roles = dict(zip(("query", "key", "value"), attention.shares, strict=True))
            shares[attention.query[0]] = roles
    return shares


def _num_outputs(layer: WeightLayer) -> int:
    """Return the number of outputs of a layer, over all heads."""
    return math.prod(layer.shape[axis] for axis in (*layer.batch_axes, *layer.out_axes))
