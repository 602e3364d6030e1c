"""Numbers that multiply an activation: of 1.7159 tanh(2 z/3), 2/3 and 1.7159."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from isometry.structure import _nonlinearity
from isometry.structure._flow import LAYOUT, Flow


class Scaling(NamedTuple):
    """The numbers a and c of an activation that is used as c phi(a z).

    Attributes:
        inner: a.
        outer: c.
    """

    inner: float = 1.0
    outer: float = 1.0


def behind(flow: Flow, product: int, start: int, *, name: str) -> Scaling:
    """Return the numbers around the activation that follows a layer.

    Args:
        flow: The flow.
        product: The node of the product with the weight.
        start: The node of the pre-activation, which may have a bias.
        name: The name of the activation, one of `activations.names()`.

    Returns:
        The numbers. What multiplies a branch, and not the input of a layer, is left
        out, and so is what a norm undoes.
    """
    passage = flow.passage(start)
    # A number may stand before the bias, too.
    to_bias = [node for node in flow.chain(product) if product < node <= start]
    scaled = [node for node in (*to_bias, *passage) if flow.is_scaled(node)]
    # Most activations are used as they are.
    if not scaled:
        return Scaling()
    of_product = 1.0
    for node in scaled:
        if node in to_bias:
            of_product *= _nonlinearity.factor(flow, node)
    found = Scaling()
    end = None
    for node in passage:
        scaling = _between(flow, start, node, name=name)
        if scaling is not None:
            found, end = scaling, node
    if end is None or of_product == 0 or not math.isfinite(of_product):
        return Scaling()
    outer = found.outer if _feeds_layers(flow, end) else 1.0
    return Scaling(found.inner * of_product, outer)


def before(flow: Flow, start: int, product: int, *, name: str) -> Scaling:
    """Return the numbers around the activation between a point and a layer.

    Args:
        flow: The flow.
        start: The node of the point that the layer reads.
        product: The node of the product with the weight.
        name: The name of the activation.

    Returns:
        The numbers; 1 if there is more between the two than the activation.
    """
    # A norm is no function of single entries, and undoes what stands before it.
    inputs = flow.inputs.get(product, ())
    if len(inputs) != 1:
        return Scaling()
    return _between(flow, start, inputs[0], name=name) or Scaling()


def _between(flow: Flow, start: int, end: int, *, name: str) -> Scaling | None:
    """Return the numbers if the function between two nodes is c phi(a z), or None."""
    computed = _nonlinearity.computed(flow, start, end)
    if computed is None:
        return None
    # The number may as well be a part of the activation, as in erf(z/sqrt(2)).
    for inner in dict.fromkeys((_first_number(flow, start), 1.0)):
        outer = _nonlinearity.multiple(computed, name, inner)
        if outer is not None:
            return Scaling(inner, outer)
    return None


def _first_number(flow: Flow, start: int) -> float:
    """Return the number that multiplies a node before anything else is done to it."""
    number = 1.0
    for node in flow.chain(start):
        if flow.is_scaled(node):
            number *= _nonlinearity.factor(flow, node)
        elif flow.operation(node) not in LAYOUT:
            break
    return number


def _feeds_layers(flow: Flow, node: int) -> bool:
    """Tell whether all that is computed from a node next are layers."""
    pending = [node]
    readers: Iterable[int] = ()
    while pending:
        readers = flow.readers.get(pending.pop(), ())
        if not readers:
            return False
        for reader in readers:
            if reader in flow.layer_at:
                continue
            if flow.operation(reader) not in LAYOUT:
                return False
            pending.append(reader)
    return True


def is_one(scaling: Scaling) -> bool:
    """Tell whether an activation is used as it is, but for rounding."""
    return bool(np.allclose(scaling, 1, rtol=1e-6, atol=0))
