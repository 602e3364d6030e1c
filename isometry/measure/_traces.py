"""Traces of a target: its one output, its anatomy, and the jaxpr of its span."""

import jax
from jax.extend import core
from jaxtyping import Array, PyTree

from isometry import structure
from isometry._internal import precision
from isometry._internal.types import Params
from isometry.measure._function import Map, picked
from isometry.measure._target import Target


def of_output(target: Target) -> Map:
    """Return the function from params and x to the one output that is measured."""

    def f(params: Params, x: PyTree) -> Array:
        return picked(target.f(params, x), target.output)

    return f


def anatomy_of(
    target: Target,
    params: Params,
    x: PyTree,
) -> structure.Anatomy:
    """Read the anatomy of f, up to the output that is measured."""
    # Points belong to the program that is measured, which is at full precision.
    with precision.full():
        return structure.anatomy(of_output(target), params, x)


def span_traced(
    target: Target,
    params: Params,
    x: PyTree,
) -> tuple[core.ClosedJaxpr, PyTree]:
    """Return the jaxpr of the span, and the shapes at its start and end."""

    def program(params: Params, x: PyTree) -> tuple[Array, Array]:
        start = target.start(params, x)
        return start, target.apply(params, x, start)

    with precision.full():
        return jax.make_jaxpr(program, return_shape=True)(params, x)
