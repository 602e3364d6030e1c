"""What part a weight layer plays in its network."""

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
        depths: The number of layers up to and including each weight.
        on_branch: Indices of the weights that lie on a residual branch.
        attentions: The attentions.
    """
    in_attention = _in_attention(flow, attentions)
    last = _without_successor(flow)
    found = []
    for index, row in enumerate(weights):
        is_first = depths[index] == 1 and index not in on_branch
        is_last = index in last and index not in on_branch
        # What a layer does in an attention says more than where it stands.
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
        found.append(role)
    return found


def _in_attention(
    flow: Flow,
    attentions: Sequence[Heads],
) -> dict[int, str]:
    """Return the roles of the layers of attentions."""
    parts: dict[int, dict[str, None]] = {}
    for heads in attentions:
        for part in ("query", "key", "value", "output"):
            for node in getattr(heads, part):
                for index, _ in flow.layer_at[node]:
                    parts.setdefault(index, {})[part] = None
    named = {}
    for index, played in parts.items():
        role = "/".join(played)
        named[index] = "qkv" if role == "query/key/value" else role
    return named


def _is_recurrent(flow: Flow, row: Row) -> bool:
    """Tell whether a weight is used in every step on what it has made in the last."""
    program = flow.program
    for use in row.uses:
        if all(use.styles):
            continue
        value = use.meeting.value
        # Without the step from turn to turn a value does not depend on itself.
        readers = program.readers[value]
        if value in program.reached(readers):
            return True
    return False


def _without_successor(flow: Flow) -> frozenset[int]:
    """Return the weights whose result reaches the output through no other layer."""
    follows: set[int] = set()
    last: set[int] = set()
    not_last: set[int] = set()
    for node in reversed(flow.nodes):
        readers = flow.readers[node]
        # Nodes are visited from the output back, so readers are known.
        has_layer = any(
            reader in follows or reader in flow.layer_at for reader in readers
        )
        if has_layer:
            follows.add(node)
        for index, _ in flow.layer_at.get(node, ()):
            (not_last if has_layer else last).add(index)
    # Only the last slice of a stack may have no successor.
    return frozenset(last - not_last)
