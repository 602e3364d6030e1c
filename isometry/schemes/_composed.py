"""Activations with the numbers that multiply them, as 1.7159 tanh(2 z/3) has them."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Array

from isometry import activations
from isometry.activations import Activation
from isometry.schemes import _places, _scales
from isometry.structure import Anatomy, WeightLayer, _scaling
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
    """Find the activations that a number multiplies."""
    flow = anatomy._flow
    products: dict[str, int] = {}
    for node in sorted(flow.layer_at):
        for index, _ in flow.layer_at[node]:
            products.setdefault(anatomy._rows[index].name, node)
    following: dict[str, Activation] = {}
    for layer in anatomy.layers:
        name = _scales.follows(layer)
        points = _places.first_points(anatomy, layer.name)
        if name is None or not points or layer.name not in products:
            continue
        start = anatomy._point(points[min(points)]).node
        product = products[layer.name]
        scaling = _scaling.behind(flow, product, start, name=name)
        if not _scaling.is_one(scaling):
            following[layer.name] = _activation(name, scaling)
    read: dict[str, Activation] = {}
    for layer in anatomy.layers:
        name = _scales.precedes(layer, by_name)
        if name is None or layer.name not in products:
            continue
        behind = _scales.source(layer, by_name)
        is_directly = bool(layer.before)
        if not is_directly and behind is not None and behind.name in following:
            read[layer.name] = following[behind.name]
        if is_directly and layer.reads in anatomy.points:
            start = anatomy._point(layer.reads).node
            product = products[layer.name]
            scaling = _scaling.before(flow, start, product, name=name)
            if not _scaling.is_one(scaling):
                read[layer.name] = _activation(name, scaling)
    return Composed(following, read)


@functools.cache
def _activation(name: str, scaling: Scaling) -> Activation:
    """Return c phi(a z)."""
    base = activations.get(name)
    inner, outer = scaling
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
    argument = "" if abs(inner - 1) < 1e-6 else f"({inner:.4g} z)"
    factor = "" if abs(outer - 1) < 1e-6 else f"{outer:.4g} "
    return f"{factor}{name}{argument}"
