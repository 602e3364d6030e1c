"""Activations with the numbers that multiply them, as 1.7159 tanh(2 z/3) has them."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Array

from isometry.activations import Activation
from isometry.schemes import _places, _scales
from isometry.structure import Anatomy, WeightLayer, _scaling
from isometry.structure._nonlinearity import record
from isometry.structure._scaling import Scaling


class Composed(NamedTuple):
    """Activations that a number multiplies, before or behind.

    Attributes:
        following: By the name of the layer that they follow.
        read: By the name of a layer that reads them.
    """

    following: dict[str, Activation]
    read: dict[str, Activation]


def composed(anatomy: Anatomy, by_name: Mapping[str, WeightLayer]) -> Composed:
    """Find the activations that a number multiplies.

    Args:
        anatomy: The anatomy of a network.
        by_name: Its layers by name.

    Returns:
        The activations. Those that are used as they are, and layers whose activations
        are not known, are left out.
    """
    products = _products(anatomy)
    points = _places.points_by_base(anatomy)
    following: dict[str, Activation] = {}
    for layer in anatomy.layers:
        name = _scales.follows(layer)
        if name is None or layer.name not in points or layer.name not in products:
            continue
        # Points are in the order of the computation.
        start = anatomy._point(points[layer.name][0]).node
        product = products[layer.name]
        scaling = _scaling.behind(anatomy._flow, product, start, name=name)
        if not _scaling.is_one(scaling):
            following[layer.name] = _activation(name, scaling)
    read: dict[str, Activation] = {}
    for layer in anatomy.layers:
        name = _scales.precedes(layer, by_name)
        if name is None or layer.name not in products:
            continue
        source = _scales.source(layer, by_name)
        # Between the layers may be a point, behind which the activation stands.
        if layer.before:
            product = products[layer.name]
            scaling = _before(anatomy, layer, product, name=name)
            if not _scaling.is_one(scaling):
                read[layer.name] = _activation(name, scaling)
        elif source is not None and source.name in following:
            read[layer.name] = following[source.name]
    return Composed(following, read)


def _products(anatomy: Anatomy) -> dict[str, int]:
    """Return the node of the first product with each weight, by name of the layer."""
    flow = anatomy._flow
    products: dict[str, int] = {}
    for node in sorted(flow.layer_at):
        for index, _ in flow.layer_at[node]:
            products.setdefault(anatomy._rows[index].name, node)
    return products


def _before(
    anatomy: Anatomy, layer: WeightLayer, product: int, *, name: str
) -> Scaling:
    """Return the numbers around the activation between a layer and what it reads."""
    if layer.reads is None or layer.reads not in anatomy.points:
        return Scaling()
    start = anatomy._point(layer.reads).node
    return _scaling.before(anatomy._flow, start, product, name=name)


@functools.cache
def _activation(name: str, scaling: Scaling) -> Activation:
    """Return c phi(a z)."""
    base = record(name)
    inner, outer = scaling
    # phi has its kinks where a z has them. A negative number reverses their order.
    kinks = tuple(sorted(kink / inner for kink in base.kinks))
    return Activation(
        _composition(base.fn, inner, outer),
        name=_written(name, scaling),
        kinks=kinks,
        odd=base.odd,
    )


def _composition(
    fn: Callable[[Array], Array], inner: float, outer: float
) -> Callable[[Array], Array]:
    def scaled(z: Array) -> Array:
        return outer * fn(inner * z)

    return scaled


def _written(name: str, scaling: Scaling) -> str:
    """Write an activation with its numbers: "1.716 tanh(0.6667 z)"."""
    inner, outer = scaling
    text = name
    # Rounded numbers of a program are no more than 1.
    if not math.isclose(inner, 1, rel_tol=1e-6):
        text = f"{text}({inner:.4g} z)"
    if not math.isclose(outer, 1, rel_tol=1e-6):
        text = f"{outer:.4g} {text}"
    return text
