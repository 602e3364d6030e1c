"""Sums that interpolate between the stream and a layer, as in a highway network.

In (1 - t) x + t F(x) no x passes whole, so such a sum is no residual branch. It is
found so that it can be said.
"""

from isometry.structure._flow import LAYOUT, SUMS, Flow


def interpolations(flow: Flow) -> list[int]:
    """Return the sums that interpolate by a gate that layers compute.

    Those of recurrent cells, such as a GRU, are left out.
    """
    return [
        node
        for node in flow.nodes
        if _is_interpolation(flow, node) and not _is_of_recurrence(flow, node)
    ]


def _is_interpolation(flow: Flow, node: int) -> bool:
    """Tell whether a node is (1 - t) a + t b, or a + t (b - a)."""
    if flow.operation(node) not in SUMS:
        return False
    operands = [_before_layout(flow, read) for read in flow.inputs[node]]
    if len(operands) != 2:
        return False
    left, right = operands
    return (
        _has_complements(flow, left, right)
        or _is_step_towards(flow, left, right)
        or _is_step_towards(flow, right, left)
    )


def _has_complements(flow: Flow, left: int, right: int) -> bool:
    """Tell whether two products have factors 1 - t and t."""
    factors = [_factors(flow, left), _factors(flow, right)]
    for own, other in (factors, factors[::-1]):
        for factor in own:
            gate = _complement(flow, factor)
            if gate is not None and gate in other:
                return True
    return False


def _is_step_towards(flow: Flow, start: int, step: int) -> bool:
    """Tell whether a node is t (b - a), for the node a."""
    differences = [
        factor for factor in _factors(flow, step) if flow.operation(factor) == "sub"
    ]
    return any(
        len(flow.inputs[factor]) == 2
        and _before_layout(flow, flow.inputs[factor][1]) == start
        for factor in differences
    )


def _factors(flow: Flow, node: int) -> list[int]:
    """Return the two factors of a product of values of the flow; else []."""
    if flow.operation(node) != "mul" or len(flow.inputs[node]) != 2:
        return []
    return [_before_layout(flow, read) for read in flow.inputs[node]]


def _complement(flow: Flow, node: int) -> int | None:
    """Return t if a node is a number minus t, else None."""
    inputs = flow.inputs[node]
    is_difference = flow.operation(node) == "sub" and len(inputs) == 1
    if not is_difference or flow.unrolled.nodes[node].inputs[1] != inputs[0]:
        return None
    return _before_layout(flow, inputs[0])


def _before_layout(flow: Flow, node: int) -> int:
    """Return the node that was only moved, broadcast or cast to make another one."""
    while flow.operation(node) in LAYOUT and len(flow.inputs.get(node, ())) == 1:
        (node,) = flow.inputs[node]
    return node


def _is_of_recurrence(flow: Flow, node: int) -> bool:
    """Tell whether layers before a node are applied step by step, or there are none.

    Of a recurrence without a scan, each step uses the same weights once more.
    """
    places: dict[int, int] = {}
    for uses in flow.layer_at.values():
        for index, _ in uses:
            places[index] = places.get(index, 0) + 1
    _, layers = flow.back_to(node, flow.layer_at)
    uses_before = [use for layer in layers for use in flow.layer_at[layer]]
    is_repeated = any(places[index] > 1 for index, _ in uses_before)
    is_scanned = any(not all(use.takes_slices) for _, use in uses_before)
    return is_repeated or is_scanned or not uses_before
