"""Attention recognised: two layers whose product goes through a softmax to a third."""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from isometry.structure._flow import Flow
from isometry.structure._mixture import Mixture, mixture
from isometry.structure._origins import Origin, Origins, follow
from isometry.structure._reading import Indices
from isometry.structure._walking import reached


class Heads(NamedTuple):
    """One attention: the nodes of its layers, and of the two products between them.

    Attributes:
        query: Nodes of the layers that make the queries.
        key: Nodes of the layers that make the keys.
        value: Nodes of the layers that make the values.
        output: Nodes of the layers that read the result of the attention.
        size: The number of products that are summed to one logit.
        shares: If one layer makes queries, keys and values: where along the last axis
            of its result each begins and ends. Otherwise empty.
        mixture: The coefficients of the matrix that multiplies the values.
    """

    query: Indices
    key: Indices
    value: Indices
    output: Indices
    size: int
    shares: tuple[tuple[int, int], ...]
    mixture: Mixture


def attentions(
    flow: Flow,
    joins: Collection[int],
) -> list[Heads]:
    """Find every attention.

    Args:
        flow: The flow.
        joins: The sums in which residual branches return to the stream. A layer on the
            other side of such a sum belongs to another block.

    Returns:
        The attentions, in the order of their products with the values.
    """
    barriers = frozenset(joins)
    in_order = []
    for node in flow.nodes:
        if _is_product_of_signals(flow, node):
            heads = _heads(flow, node, barriers)
            if heads is not None:
                in_order.append(heads)
    return in_order


def _is_product_of_signals(flow: Flow, node: int) -> bool:
    """Tell whether a node is a product of two values of the flow, without a weight."""
    is_dot = flow.operation(node) == "dot_general"
    return is_dot and node not in flow.layer_at and len(flow.inputs[node]) == 2


def _heads(
    flow: Flow,
    mixed: int,
    barriers: frozenset[int],
) -> Heads | None:
    """Return the attention of which a product is that with the values, or None.

    Args:
        flow: The flow.
        mixed: The node of the product, of two values of the flow.
        barriers: The sums in which residual branches return to the stream.
    """
    inputs = flow.unrolled.nodes[mixed].inputs
    for position, weights in enumerate(inputs):
        between, products = _back_to_products(flow, weights)
        operations = {flow.operation(node) for node in between}
        # A softmax is recognised by its exponential; the rest may be written in many
        # ways.
        if "exp" not in operations or len(products) != 1:
            continue
        (logits,) = products
        # Queries and keys enter alike; only the axis of the softmax tells them apart.
        are_keys_right = _keys_are_right(
            flow, logits, between, mixed=mixed, side=position
        )
        left, right = flow.unrolled.nodes[logits].inputs
        query, key = (left, right) if are_keys_right else (right, left)
        operands = (query, key, inputs[1 - position])
        before = [_layers_before(flow, operand, barriers) for operand in operands]
        return Heads(
            query=before[0],
            key=before[1],
            value=before[2],
            output=_layers_after(flow, mixed, barriers),
            size=_num_summed(flow, logits),
            shares=_shares(flow, operands, before),
            mixture=mixture(flow, weights),
        )
    return None


def _shares(
    flow: Flow,
    operands: Sequence[int],
    before: Sequence[Indices],
) -> tuple[tuple[int, int], ...]:
    """Return which outputs of one layer are queries, keys and values.

    Args:
        flow: The flow.
        operands: The nodes of queries, keys and values.
        before: The layers before each of these nodes.

    Returns:
        For queries, keys and values (start, stop) along the outputs; () if they come
        from several layers, or are no ranges of the outputs.
    """
    layers = set(before)
    if len(layers) > 1 or len(before[0]) != 1:
        return ()
    ((layer,),) = layers
    shares = [_share(flow, layer, operand) for operand in operands]
    known = tuple(share for share in shares if share is not None)
    return known if len(known) == len(shares) else ()


def _share(
    flow: Flow,
    layer: int,
    operand: int,
) -> tuple[int, int] | None:
    """Return the range (start, stop) of a layer's outputs that make an operand.

    None if they are no range.
    """
    program = flow.program
    result = flow.unrolled.nodes[layer].value
    last = len(program.values[result].shape) - 1
    # `follow` traces values to leaves of params; here the result of the layer takes
    # their place.
    whole = Origin(result, tuple((axis,) for axis in range(last + 1)))
    origins_of: dict[int, Origins] = {result: (whole,)}
    for node in sorted(_between(flow, layer, operand)):
        index = flow.unrolled.nodes[node].value
        if index != result:
            origins_of[index] = follow(program, index, origins_of)
    origins = origins_of.get(flow.unrolled.nodes[operand].value, ())
    if len(origins) != 1 or origins[0].picks:
        return None
    parts = origins[0].parts
    if len(parts) != 1 or parts[0].axis != last:
        return None
    return parts[0].start, parts[0].stop


def _between(flow: Flow, layer: int, operand: int) -> set[int]:
    """Return the nodes after a layer on which an operand depends, itself included."""

    def after_layer(node: int) -> list[int]:
        return [read for read in flow.inputs[node] if read > layer]

    return reached([operand], after_layer)


def _num_summed(flow: Flow, product: int) -> int:
    """Return how many terms are summed to one entry of a matrix product."""
    (summed, _), _ = flow.value(product).params["dimension_numbers"]
    left = flow.unrolled.value(flow.unrolled.nodes[product].inputs[0])
    return math.prod(left.shape[axis] for axis in summed)


def _back_to_products(
    flow: Flow,
    start: int,
) -> tuple[list[int], list[int]]:
    """Walk back from a node to the nearest products of two values of the flow.

    Returns:
        `(visited, products)`: the nodes that were visited, in the order of computation,
        and those at which the walk stopped because they are such products.
    """

    def inputs(node: int) -> Sequence[int]:
        if node in flow.layer_at or _is_product_of_signals(flow, node):
            return ()
        return flow.inputs[node]

    visited = sorted(reached([start], inputs))
    products = [node for node in visited if _is_product_of_signals(flow, node)]
    return visited, products


def _keys_are_right(
    flow: Flow,
    logits: int,
    between: Iterable[int],
    *,
    mixed: int,
    side: int,
) -> bool:
    """Tell whether the keys are the right factor of the logits.

    The axis over which weights and values are summed numbers the keys. It is traced
    back to an axis of the logits, and so to one of their two factors.

    Args:
        flow: The flow.
        logits: The product of queries and keys.
        between: The nodes from the logits to the attention weights.
        mixed: The product of attention weights and values.
        side: Which operand of `mixed` the attention weights are, 0 or 1.
    """
    unrolled = flow.unrolled
    program = unrolled.program
    start = unrolled.nodes[logits].value
    num_axes = len(program.values[start].shape)
    # `follow` traces values to leaves of params; here the logits take their place.
    whole = Origin(start, tuple((axis,) for axis in range(num_axes)))
    origins_of: dict[int, Origins] = {start: (whole,)}
    for node in between:
        index = unrolled.nodes[node].value
        if index != start:
            origins_of[index] = follow(program, index, origins_of)
    summed, _ = unrolled.value(mixed).params["dimension_numbers"]
    weights = unrolled.nodes[unrolled.nodes[mixed].inputs[side]].value
    sources = {
        source
        for origin in origins_of.get(weights, ())
        for axis in summed[side]
        for source in origin.axes[axis]
    }
    contracted, _ = program.values[start].params["dimension_numbers"]
    left = program.values[unrolled.nodes[unrolled.nodes[logits].inputs[0]].value]
    # Axes of a product: those of the batch, then the free ones of the left factor.
    first_right = len(left.shape) - len(contracted[0])
    return not sources or max(sources) >= first_right


def _layers_before(
    flow: Flow,
    start: int,
    barriers: frozenset[int],
) -> Indices:
    """Return the nodes of the nearest layers before a node: of a query, its projection.

    The walk stops at `barriers`, the sums in which residual branches return, and at
    products of two values: layers before these belong to an earlier block. () if the
    attention reads the stream without a projection.
    """

    def inputs(node: int) -> Sequence[int]:
        # A value that does not depend on x has no inputs in the flow.
        if node not in flow.inputs or node in flow.layer_at:
            return ()
        if node in barriers or flow.is_product(node):
            return ()
        return flow.inputs[node]

    layers = reached([start], inputs) & flow.layer_at.keys()
    return tuple(sorted(layers))


def _layers_after(
    flow: Flow,
    start: int,
    barriers: frozenset[int],
) -> Indices:
    """Return the nodes of the nearest layers after a node.

    The walk stops at `barriers` and at products of two values, as in `_layers_before`.
    """

    def readers(node: int) -> Sequence[int]:
        if node in flow.layer_at or node in barriers:
            return ()
        if node != start and flow.is_product(node):
            return ()
        return flow.readers[node]

    layers = reached([start], readers) & flow.layer_at.keys()
    return tuple(sorted(layers))
