"""Which layers of a residual branch only gate it: zeros there leave it open.

Where a layer returns zero, what depends on it either vanishes, but for what other
layers and biases add, or it does not: a sigmoid of zero is one half. The last layer of
F in x + F(x) closes the branch if it is zero. The layers in the sigmoid of a
squeeze-and-excitation, or in a softmax, do not: they only say how much passes. Neither
does the first layer in softplus(x A) B, but nothing else passes there: it is a layer of
the branch as any other, and no gate.
"""

from collections.abc import Collection, Iterable

from isometry.structure._flow import PRODUCTS, SUMS, Flow
from isometry.structure._reading import Indices

# Functions of one operand that are not zero at zero.
_NOT_ZERO_AT_ZERO = frozenset(
    ("exp", "exp2", "logistic", "cos", "cosh", "log", "rsqrt", "erfc", "acos", "lgamma")
)

# Operations in which one value says how much of another passes.
_METERED = frozenset(("mul", "div", "dot_general", "conv_general_dilated"))

_SUMS = SUMS | {"sub"}

# Signs s such that an operation of x and a number c is zero at x = 0 if s c <= 0, as
# max(x, c) is for c <= 0.
_BOUNDS = {"max": 1.0, "min": -1.0}


def gating(
    flow: Flow,
    nodes: Iterable[int],
    layers: Collection[int],
    *,
    end: int,
) -> Indices:
    """Find the layers of a branch that only say how much of something else passes.

    The branch does not close if they return zero.

    Args:
        flow: The flow.
        nodes: The nodes on the branch, in the order of computation.
        layers: Those of them that are results of weight layers.
        end: The last node of the branch.

    Returns:
        The nodes of these layers; () if no layer closes the branch.
    """
    in_order = tuple(nodes)
    # If every operation takes zero to zero, each layer closes the branch.
    if all(_vanishes_alone(flow, node) for node in in_order):
        return ()
    found = tuple(
        layer for layer in layers if not _closes(flow, in_order, layer, end=end)
    )
    if len(found) == len(layers):
        return ()
    return tuple(layer for layer in found if _meets_another(flow, in_order, layer))


def _meets_another(flow: Flow, nodes: Indices, layer: int) -> bool:
    """Tell whether a layer meets, in a product, a signal that does not depend on it."""
    dependent = {layer}
    for node in nodes:
        reads = flow.inputs[node]
        if node <= layer or dependent.isdisjoint(reads):
            continue
        if flow.operation(node) in _METERED and not dependent.issuperset(reads):
            return True
        dependent.add(node)
    return False


def _closes(flow: Flow, nodes: Indices, layer: int, *, end: int) -> bool:
    """Tell whether the end of a branch is zero where the result of a layer is."""
    # For each node that depends on the layer, whether it is zero there.
    vanishes = {layer: True}
    for node in nodes:
        if node > layer and any(read in vanishes for read in flow.inputs[node]):
            vanishes[node] = _vanishes(flow, node, vanishes)
    return vanishes.get(end, True)


def _vanishes(flow: Flow, node: int, vanishes: dict[int, bool]) -> bool:
    """Tell whether a node is zero where the result of a layer is.

    What other layers and biases add to it does not count.

    Args:
        flow: The flow.
        node: A node that depends on the layer.
        vanishes: The same for the nodes before it that depend on the layer.
    """
    operation = flow.operation(node)
    operands = [
        vanishes[read] for read in flow.unrolled.nodes[node].inputs if read in vanishes
    ]
    if operation in PRODUCTS:
        return any(operands)
    if operation == "div":
        # Zero over anything is zero, and anything over zero is not.
        numerator = flow.unrolled.nodes[node].inputs[0]
        return vanishes.get(numerator, False)
    # Any other operation is zero if all that it reads of the layer is, and if it takes
    # zero to zero.
    return all(operands) and _vanishes_alone(flow, node)


def _vanishes_alone(flow: Flow, node: int) -> bool:
    """Tell whether an operation takes zero to zero, as far as it can be told."""
    operation = flow.operation(node)
    if operation in _NOT_ZERO_AT_ZERO:
        return False
    numbers = _numbers(flow, node)
    if operation in _SUMS:
        # A number that is added must be 0. Parameters that are added are a bias or
        # another layer, and do not count.
        return not any(numbers)
    if operation in _BOUNDS:
        return all(_BOUNDS[operation] * number <= 0 for number in numbers)
    if operation == "integer_pow":
        return flow.value(node).params["y"] > 0
    return True


def _numbers(flow: Flow, node: int) -> list[float]:
    """Return the operands of a node that are single numbers, fixed by the program."""
    numbers = []
    for read in flow.unrolled.nodes[node].inputs:
        while flow.operation(read) in ("broadcast_in_dim", "convert_element_type"):
            (read,) = flow.unrolled.nodes[read].inputs
        number = flow.value(read).number
        if number is not None and not getattr(number, "shape", ()):
            numbers.append(float(number))
    return numbers
