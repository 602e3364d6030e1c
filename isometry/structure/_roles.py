"""The roles of weight layers: stem, hidden, head, recurrent, query, ..."""

from collections.abc import Mapping, Sequence

from isometry.structure._attention import Heads
from isometry.structure._flow import Flow
from isometry.structure._layers import Row


def roles(
    flow: Flow,
    weights: Sequence[Row],
    depths: Mapping[int, int],
    *,
    on_branch: frozenset[int],
    attentions: Sequence[Heads],
) -> list[str]:
    """Return the role of each weight.

    Args:
        flow: The flow.
        weights: The weights.
        depths: From the index of a weight to the number of layers on the longest path
            up to and including it.
        on_branch: Indices of the weights that lie on a residual branch.
        attentions: The attentions.
    """
    in_attention = _in_attention(flow, attentions)
    last = _without_successor(flow)
    roles_in_order = []
    for index, row in enumerate(weights):
        is_first = depths[index] == 1 and index not in on_branch
        is_last = index in last and index not in on_branch
        # The role in an attention says more than the position in the network.
        if index in in_attention:
            role = in_attention[index]
        elif _is_recurrent(flow, row):
            role = "recurrent"
        elif is_last:
            role = "head"
        elif is_first:
            role = "stem"
        else:
            role = "hidden"
        roles_in_order.append(role)
    return roles_in_order


def _in_attention(
    flow: Flow,
    attentions: Sequence[Heads],
) -> dict[int, str]:
    """Return the roles of the layers of attentions, by the index of the layer.

    A layer with several roles has their names joined: "query/key", or "qkv" for three.
    """
    parts: dict[int, dict[str, None]] = {}
    for heads in attentions:
        for part in ("query", "key", "value", "output"):
            for node in getattr(heads, part):
                for index, _ in flow.layer_at[node]:
                    parts.setdefault(index, {})[part] = None
    role_of = {}
    for index, parts_of_layer in parts.items():
        role = "/".join(parts_of_layer)
        role_of[index] = "qkv" if role == "query/key/value" else role
    return role_of


def _is_recurrent(flow: Flow, row: Row) -> bool:
    """Tell whether a weight is applied to a value that depends on its last result."""
    program = flow.program
    for use in row.uses:
        if all(use.takes_slices):
            continue
        value = use.meeting.value
        # A value depends on itself only through the carry of a scan.
        readers = program.readers[value]
        if value in program.reached(readers):
            return True
    return False


def _without_successor(flow: Flow) -> frozenset[int]:
    """Return the indices of the weights after which no other layer follows."""
    # The nodes after which some layer follows.
    before_layer: set[int] = set()
    last: set[int] = set()
    not_last: set[int] = set()
    for node in reversed(flow.nodes):
        readers = flow.readers[node]
        # Nodes are visited backwards, so their readers have been visited.
        layer_follows = any(
            reader in before_layer or reader in flow.layer_at for reader in readers
        )
        if layer_follows:
            before_layer.add(node)
        for index, _ in flow.layer_at.get(node, ()):
            weights = not_last if layer_follows else last
            weights.add(index)
    # A stack whose last slice alone has no successor is no head.
    return frozenset(last - not_last)
