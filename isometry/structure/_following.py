"""Names the operations between two nodes of the flow: "batch norm → relu".

The flow is the nodes through which the derivative passes (`_flow`).
"""

import math
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from isometry import activations
from isometry.structure import _nonlinearity
from isometry.structure._flow import LAYOUT, Flow
from isometry.structure._reading import CUSTOM
from isometry.structure._walking import reached

# Functions by the names under which JAX and libraries compile them.
_FUNCTIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "gelu": "gelu",
    "silu": "silu",
    "swish": "silu",
    "softplus": "softplus",
    "elu": "elu",
    "selu": "selu",
    "celu": "celu",
    "leaky_relu": "leaky relu",
    "sigmoid": "sigmoid",
    "log_sigmoid": "log sigmoid",
    "soft_sign": "softsign",
    "hard_tanh": "hard tanh",
    "hard_sigmoid": "hard sigmoid",
    "hard_silu": "hard silu",
    "hard_swish": "hard silu",
    "mish": "mish",
    "glu": "glu",
    "squareplus": "squareplus",
    "softmax": "softmax",
    "_softmax": "softmax",
    "log_softmax": "log softmax",
    "sort": "sort",
}

# Primitives that are an activation by themselves.
_ELEMENTARY = {
    "tanh": "tanh",
    "logistic": "sigmoid",
    "erf": "erf",
    "sin": "sin",
    "cos": "cos",
    "atan": "arctan",
    "abs": "abs",
    "exp": "exp",
    "log": "log",
    "sqrt": "sqrt",
    "square": "square",
    "sort": "sort",
    "fft": "fft",
    "top_k": "top k",
    "cumsum": "cumulative sum",
    "clamp": "clip",
    "argmax": "argmax",
}

_POOLS = {
    "reduce_window_max": "max pool",
    "reduce_max": "max pool",
    "reduce_window_sum": "average pool",
    "reduce_sum": "average",
}

_ROOTS = frozenset(("rsqrt", "sqrt"))

# Operations by which a ReLU, a hard tanh and others are written.
_CLIPPING = frozenset(("max", "min", "clamp"))

# How many operations back a factor is searched for a square root, which makes it that
# of a norm with fixed statistics. Its scale, reshapes and casts come in between.
_MOST_BACK = 8

# Activations of several operations, by a primitive that only they have. This tells
# which one gates a GLU that is written out; elsewhere they are told by what they
# compute.
_TELLTALES = (
    ("erf", "gelu"),
    ("erfc", "gelu"),
    ("tanh", "gelu"),
    ("log1p", "softplus"),
    ("expm1", "elu"),
    ("logistic", "silu"),
)


# Operations that return a part of a value.
_CUTS = frozenset(("slice", "dynamic_slice", "split", "unstack", "gather"))

# Operations of a rotary position embedding, apart from the products with its tables.
_OF_ROTATION = LAYOUT | _CUTS | {"concatenate", "stack", "neg", "add", "sub", "rev"}

# Nonlinearities of gates.
_GATES = {"logistic": "sigmoid", "tanh": "tanh"}


class Step(NamedTuple):
    """One step between two nodes.

    Attributes:
        kind: What it does: "relu", "shift", "layer norm".
        detail: For a shift, the name of the parameter that is added, "parameters" if it
            is computed from some, and "" for numbers.
    """

    kind: str
    detail: str = ""


# Sequences of steps that have a name together, and that name.
_TOGETHER = (
    (("centre", "layer deviation"), "layer norm"),
    (("centre", "group deviation"), "group norm"),
    (("centre", "batch deviation"), "batch norm"),
    (("exp", "divide by sum"), "softmax"),
    (("shift", "fixed scale"), "batch norm"),
    (("fixed scale",), "batch norm"),
    (("layer deviation",), "rms norm"),
    (("group deviation",), "group norm"),
    (("batch deviation",), "batch norm"),
    (("centre",), "subtract mean"),
)

NORMS = frozenset(("layer norm", "group norm", "batch norm", "rms norm"))


def words(
    flow: Flow,
    start: int,
    end: int,
    *,
    names: Mapping[int, str],
    within: Container[int] | None = None,
) -> list[str]:
    """Return words for the operations between two nodes, one for each step.

    Args:
        flow: The flow.
        start: The first node.
        end: The last node, through which every path onward from `start` runs.
        names: From the index of a value that comes from a leaf of params to the name of
            the leaf, for what is added or concatenated.
        within: The nodes of the flow that may be followed; all of them by default.
    """
    steps: list[Step] = []
    before = start
    # Every path runs through the nodes of the passage, so the operations between two of
    # them are one step.
    for node in ends(flow, before, flow.passage(start, within)):
        step = _step(flow, before, node, names=names)
        if is_wrap(flow, before, node):
            step = Step("circular padding")
        # A jitted function inside another of the same name is one step.
        if step is not None and steps[-1:] != [step]:
            steps.append(step)
        before = node
        # A number that belongs to an activation may come behind the last node.
        if node >= end:
            break
    return [_text(step) for step in _named_together(steps)]


def is_multiplied(flow: Flow, node: int) -> bool:
    """Tell whether a node is next multiplied with another value of the flow.

    The product is entry by entry, as in a GLU. A gate z may be read twice, as in
    z h + (1 - z) n.
    """
    readers = flow.readers.get(node, ())
    if not readers or node == flow.output:
        return False
    return all(_multiplies(flow, reader) for reader in readers)


def _multiplies(flow: Flow, reader: int) -> bool:
    """Tell whether a node is a product of two values of the flow, or goes into one."""
    operation = flow.operation(reader)
    num_operands = len(set(flow.inputs[reader]))
    if num_operands > 1:
        return operation == "mul"
    is_passed_on = operation in LAYOUT or flow.is_scaled(reader)
    is_shifted = operation in ("add", "sub") and flow.has_number(reader)
    return (is_passed_on or is_shifted) and is_multiplied(flow, reader)


def is_product(flow: Flow, node: int) -> bool:
    """Tell whether a node is a product of two values of the flow, perhaps scaled."""
    while flow.operation(node) in LAYOUT or flow.is_scaled(node):
        inputs = flow.inputs.get(node, [])
        if len(inputs) != 1:
            return False
        (node,) = inputs
    return flow.operation(node) == "mul" and len(set(flow.inputs.get(node, ()))) > 1


def gates(flow: Flow, start: int) -> list[str]:
    """Return words for the gates of a recurrent cell: ["gates (sigmoid, tanh)"].

    Args:
        flow: The flow.
        start: The node of a recurrent layer. [] if no such nonlinearity follows it.
    """

    def readers(node: int) -> Sequence[int]:
        operation = flow.operation(node)
        is_next = node != start and (node in flow.layer_at or operation == "scan_carry")
        if operation in _GATES or is_next:
            return ()
        return flow.readers.get(node, ())

    nodes = reached([start], readers)
    operations = {flow.operation(node) for node in nodes}
    titles = sorted(_GATES[operation] for operation in operations & _GATES.keys())
    return [f"gates ({', '.join(titles)})"] if titles else []


def _text(step: Step) -> str:
    """Write a step as it is shown: "relu", "+ bias"."""
    if step.kind == "shift":
        return f"+ {step.detail or 'constant'}"
    return step.kind


def between(
    flow: Flow,
    before: int,
    node: int,
) -> list[int]:
    """Return the nodes on all paths from `before` to `node`, with `node` itself."""
    nodes, _ = flow.back_to(node, {before})
    return sorted(nodes - {before})


def is_wrap(flow: Flow, before: int, node: int) -> bool:
    """Tell whether `node` is `before` with circular padding.

    Then every entry of `node` is an entry of `before`, and some of them stand twice.
    """
    operations = {flow.operation(inside) for inside in between(flow, before, node)}
    joins = operations - set(LAYOUT)
    # Copies alone: more entries than there are, and slices that are joined.
    if joins != {"slice", "concatenate"}:
        return False
    return math.prod(flow.value(node).shape) > math.prod(flow.value(before).shape)


def _step(
    flow: Flow,
    before: int,
    node: int,
    *,
    names: Mapping[int, str],
) -> Step | None:
    """Return the operations between two nodes as one step; None if it is left out."""
    segment = between(flow, before, node)
    # Told first, because a gate may be part of what is scanned.
    if _is_associative_scan(flow, segment):
        return Step("associative scan")
    values = [flow.value(node) for node in segment]
    # The name of a library function says more than its operations.
    calls = [call for value in values for call in value.calls]
    titles = [title for title in map(_activation_name, calls) if title is not None]
    if "glu" in titles:
        return Step("glu")
    if titles and _is_split(flow, segment):
        return Step(f"glu ({titles[0]})")
    if titles:
        return Step(_told(titles[0], _nonlinearity.name(flow, before, node)))
    is_one = len(segment) == 1
    # Most single operations have one name, but clipping may be several functions.
    if not is_one or flow.operation(node) in _CLIPPING:
        known = _nonlinearity.name(flow, before, node)
        # A segment that is linear as a whole, as 2 z + 3 z is, is no activation.
        if known and known != "linear":
            return Step(_written(known))
    if is_one:
        return _one_operation(flow, segment[0], names)
    return _several_operations(flow, segment)


def ends(flow: Flow, start: int, passage: Sequence[int]) -> list[int]:
    """Return the last node of each step of a passage.

    A step may be several nodes of the passage: hard_tanh is a maximum and a minimum,
    and an activation may end with a factor, as z (1 + erf(z/√2)) · 1/2 does.

    Args:
        flow: The flow.
        start: The node before the passage.
        passage: Bottlenecks, as `Flow.passage` returns them.
    """
    last_nodes = []
    before = start
    i = 0
    while i < len(passage):
        title = _title(flow, before, passage[i])
        last = i
        while last + 1 < len(passage):
            following = passage[last + 1]
            if title is None:
                is_part = _completes(flow, before, following)
            else:
                is_part = title == _title(flow, passage[last], following)
            if not is_part:
                break
            last += 1
        before = passage[last]
        last_nodes.append(before)
        i = last + 1
    return last_nodes


def _title(flow: Flow, before: int, node: int) -> str | None:
    """Return the name of the outermost activation called between two nodes, or None."""
    for inside in between(flow, before, node):
        for call in flow.value(inside).calls:
            title = _activation_name(call)
            if title is not None:
                return title
    return None


def _completes(flow: Flow, before: int, node: int) -> bool:
    """Tell whether a node completes an activation, as a factor or a minimum may."""
    # relu6 may be written as a ReLU and a minimum.
    is_last = flow.is_scaled(node) or flow.operation(node) == "min"
    is_known = is_last and _nonlinearity.name(flow, before, node)
    return is_known not in (False, None, "", "linear")


def _is_split(flow: Flow, segment: Sequence[int]) -> bool:
    """Tell whether parts of a value are multiplied with each other, as in a GLU."""
    operations = {flow.operation(node) for node in segment}
    has_product = any(
        flow.operation(node) == "mul" and len(set(flow.inputs[node])) > 1
        for node in segment
    )
    return has_product and not operations.isdisjoint(_CUTS)


def _told(title: str, known: str | None) -> str:
    """Return the name of an activation, from its title and from what it computes.

    Args:
        title: The name under which it is compiled.
        known: As `_nonlinearity.name` returns it.
    """
    if known:
        return _written(known)
    # A leaky relu of another slope, fixed or learned, is compiled under the same name.
    known_names = (*activations.names(), *_nonlinearity.FURTHER)
    if title.replace(" ", "_") in known_names:
        return f"{title} variant"
    return title


def _written(known: str) -> str:
    """Return a name of `activations.names()` as the words of a step: "leaky relu"."""
    return known.replace("_", " ")


def _activation_name(call: str) -> str | None:
    """Return the name of an activation, or None for any other function."""
    name = call.removeprefix(CUSTOM)
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    is_named = call.startswith(CUSTOM) and name.isidentifier()
    return name if is_named else None


def _one_operation(
    flow: Flow,
    node: int,
    names: Mapping[int, str],
) -> Step | None:
    """Return one operation as a step; None if it is left out, as a reshape is."""
    value = flow.value(node)
    name = value.operation
    if name in LAYOUT or flow.is_scaled(node):
        return None
    elsewhere = flow.from_elsewhere(node)
    if any(flow.unrolled.nodes[read].value in flow.program.of_x for read in elsewhere):
        # The other operand depends on x without a derivative, as the maximum that a
        # softmax subtracts. It does not change the derivative.
        return None
    if name in ("add", "sub") and elsewhere:
        added = flow.unrolled.nodes[elsewhere[0]].value
        is_learned = added in flow.program.of_params
        detail = names.get(added, "parameters" if is_learned else "")
        return Step("shift", detail)
    # A factor with a square root is 1/sqrt(variance) of a norm with fixed statistics.
    if name in ("mul", "div") and elsewhere:
        is_fixed_norm = any(_has_root(flow, read, _MOST_BACK) for read in elsewhere)
        return Step("fixed scale" if is_fixed_norm else "scale")
    if name == "max" and elsewhere:
        is_at_zero = _is_zero(flow, elsewhere[0])
        return Step("relu" if is_at_zero else "clip")
    if name == "select_n":
        return Step("mask")
    if name == "min":
        return Step("clip")
    if name == "integer_pow":
        power = value.params["y"]
        return Step("square" if power == 2 else f"power {power}")
    if name in _POOLS:
        return Step(_POOLS[name])
    if name == "concatenate":
        added = [names.get(flow.unrolled.nodes[read].value, "") for read in elsewhere]
        return Step("concatenate " + ", ".join(added) if any(added) else name)
    return Step(_ELEMENTARY.get(name, name))


def _is_zero(flow: Flow, node: int) -> bool:
    """Tell whether a node is a constant of zeros."""
    value = flow.value(node)
    while value.operation in ("broadcast_in_dim", "convert_element_type"):
        node = flow.unrolled.nodes[node].inputs[0]
        value = flow.value(node)
    return value.number is not None and not np.any(np.asarray(value.number))


def _has_root(flow: Flow, node: int, most_back: int) -> bool:
    """Tell whether a square root is at most `most_back` operations before a node."""
    if flow.operation(node) in _ROOTS:
        return True
    if most_back == 0:
        return False
    inputs = flow.unrolled.nodes[node].inputs
    return any(_has_root(flow, read, most_back - 1) for read in inputs)


def _several_operations(flow: Flow, segment: Sequence[int]) -> Step:
    """Return the operations on several paths, with common ends, as one step.

    They compute no activation of the package, but may have the operations of one, as
    x * sigmoid(1.702 x) has.
    """
    values = [flow.value(node) for node in segment]
    operations = [value.operation for value in values]
    # Which operations there are decides, whatever their order.
    has = frozenset(operations)
    sums = [value for value in values if value.operation == "reduce_sum"]
    if sums and has & _ROOTS:
        kind = _statistics(sums[0].eqn)
        # With the mean subtracted inside the segment, it is the whole norm.
        subtracts_mean = any(
            value.operation == "sub" and not flow.from_elsewhere(node)
            for node, value in zip(segment, values, strict=True)
        )
        return Step(f"{kind} {'norm' if subtracts_mean else 'deviation'}")
    if sums and "div" in has and values[-1].operation == "div":
        return Step("softmax" if "exp" in has else "divide by sum")
    if sums and "exp" in has and "log" in has:
        return Step("log softmax")
    if sums and values[-1].operation == "sub":
        return Step("centre")
    if "sort" in has:
        return Step("sort")
    for primitive, name in _TELLTALES:
        if primitive in has:
            if _is_split(flow, segment):
                return Step(f"glu ({name})")
            return Step(f"unnamed ({primitive})")
    is_put_together = not has.isdisjoint(("concatenate", "stack"))
    if is_put_together and "mul" in has and _is_rotation(flow, segment):
        return Step("rotary")
    if "select_n" in has and "mul" in has:
        return Step("leaky relu variant")
    if "select_n" in has:
        return Step("select")
    computing = [name for name in operations if name not in LAYOUT]
    return Step(", ".join(dict.fromkeys(computing)))


def _is_associative_scan(flow: Flow, segment: Sequence[int]) -> bool:
    """Tell whether a segment is a `jax.lax.associative_scan`, as in a linear SSM.

    It takes every second entry along an axis, and interleaves results again by padding
    between their entries.
    """
    values = [flow.value(node) for node in segment]
    is_interleaved = any(
        value.operation == "pad"
        and any(between > 0 for _, _, between in value.params["padding_config"])
        for value in values
    )
    return is_interleaved and any(value.operation == "slice" for value in values)


def _is_rotation(flow: Flow, segment: Sequence[int]) -> bool:
    """Tell whether a segment may be a rotary embedding: x cos + rotated(x) sin.

    The signal is cut, put together, and multiplied by fixed tables alone.
    """
    for node in segment:
        operation = flow.operation(node)
        if operation == "mul":
            factors = flow.from_elsewhere(node)
            if len(factors) != 1 or not _is_table(flow, factors[0]):
                return False
        elif operation not in _OF_ROTATION:
            return False
    return True


def _is_table(flow: Flow, node: int) -> bool:
    """Tell whether a node is made of cosines or sines, or of no parameters at all."""
    nodes = flow.unrolled.nodes
    sources = reached([node], lambda inside: nodes[inside].inputs)
    operations = {flow.operation(source) for source in sources}
    if "cos" in operations or "sin" in operations:
        return True
    values = {nodes[source].value for source in sources}
    return values.isdisjoint(flow.program.params)


def _statistics(eqn) -> str:
    """Return what a norm averages over: "layer", "group" or "batch"."""
    num_axes = len(eqn.invars[0].aval.shape)
    axes = set(eqn.params["axes"])
    # Channels are the last axis. A norm that does not average over it is a batch norm.
    if num_axes - 1 not in axes:
        return "batch"
    is_whole = len(axes) in (1, num_axes)
    return "layer" if is_whole else "group"


def _named_together(steps: Sequence[Step]) -> list[Step]:
    """Return steps, with one step in the place of a sequence that has a name."""
    joined: list[Step] = []
    i = 0
    while i < len(steps):
        kinds = [step.kind for step in steps]
        for together, title in _TOGETHER:
            if tuple(kinds[i : i + len(together)]) == together:
                joined.append(Step(title))
                i += len(together)
                break
        else:
            joined.append(steps[i])
            i += 1
    without_scales: list[Step] = []
    for step in joined:
        # Scale and shift after a norm belong to it.
        follows_norm = without_scales and without_scales[-1].kind in NORMS
        if not (follows_norm and step.kind in ("scale", "shift")):
            without_scales.append(step)
    return without_scales
