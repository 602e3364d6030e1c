"""Convolutions in the one order of axes that XLA runs fast inside a loop on a CPU.

XLA's fast kernel takes (batch, space, features) and (space, in, out). Outside of loops
XLA brings every other order into this one; inside a loop it does not
(jax-ml/jax#12868). There every other order was measured some 20 times slower (jaxlib
0.10), and the transpose of every convolution has another. So the order is changed here.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
from jax.extend import core
from jaxtyping import Array

from isometry._internal import equations
from isometry._internal.equations import Program

T = TypeVar("T")

# Primitives that call a program, with derivative rules or without. If it holds a
# convolution, it is evaluated in their place: they cannot be bound to a changed one.
_INLINED = equations.CALLS | equations.REMAT | equations.CUSTOM

_Function: TypeAlias = Callable[[Array], Array]


def canonical(f: _Function) -> _Function:
    """Run every convolution of a function, in loops too, in the fast order of axes.

    Args:
        f: A function from one array to one array. The result ignores derivative rules
            of its own (`custom_jvp`, `custom_vjp`), so differentiate f first.

    Returns:
        A function with the values of f up to rounding; f itself on anything but a CPU.
    """
    if jax.default_backend() != "cpu":
        return f

    def reordered(x: Array) -> Array:
        program = jax.make_jaxpr(f)(x)
        if not _convolves(program):
            return f(x)
        (result,) = equations.evaluated(program, [x], _results)
        return result

    return reordered


def _convolves(program: Program) -> bool:
    """Tell whether there is a convolution in a program, at any depth."""
    jaxpr, _ = equations.opened(program)
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        if any(map(_convolves, _programs(equation))):
            return True
    return False


def _programs(equation: core.JaxprEqn) -> list[Program]:
    """Return what an equation runs: the body of a loop, the branches of a choice."""
    # Programs stand in parameters alone, or in tuples of them.
    leaves = jax.tree.leaves(equation.params, is_leaf=_is_program)
    return list(filter(_is_program, leaves))


def _is_program(parameter: object) -> bool:
    return isinstance(parameter, core.ClosedJaxpr | core.Jaxpr)


def _results(
    equation: core.JaxprEqn,
    operands: Sequence[Array],
) -> list[Array]:
    """Return the results of one equation, with its convolutions in order."""
    primitive = equation.primitive
    params = equation.params
    if primitive.name == "conv_general_dilated":
        return [_convolution(primitive, *operands, **params)]
    with_convolutions = list(filter(_convolves, _programs(equation)))
    if with_convolutions and primitive.name in _INLINED:
        called = with_convolutions[0]
        return equations.evaluated(called, operands, _results)
    if with_convolutions:
        params = jax.tree.map(_rewritten, params, is_leaf=_is_program)
    return equations.unchanged(equation, operands, params)


def _rewritten(parameter: T) -> T | core.ClosedJaxpr:
    """Return the body of a loop with its convolutions in order; else the parameter."""
    if not isinstance(parameter, core.ClosedJaxpr):
        return parameter
    body = parameter

    def run(*arguments: Array) -> list[Array]:
        return equations.evaluated(body, arguments, _results)

    return jax.make_jaxpr(run)(*body.in_avals)


# The remaining parameters are handed on, whatever a version of JAX has.
def _convolution(
    primitive: core.Primitive,
    lhs: Array,
    rhs: Array,
    *,
    dimension_numbers: jax.lax.ConvDimensionNumbers,
    **params: Any,
) -> Array:
    """Convolve with the axes in order, and bring those of the result back.

    Args:
        primitive: The convolution.
        lhs: The images.
        rhs: The kernel.
        dimension_numbers: Where each axis is: (batch, features, *space) of images and
            results, (out, in, *space) of the kernel.
        **params: What else the primitive takes.
    """
    batch, features, *space = dimension_numbers.lhs_spec
    outputs, inputs, *window = dimension_numbers.rhs_spec
    lhs = lhs.transpose(batch, *space, features)
    rhs = rhs.transpose(*window, inputs, outputs)
    last = lhs.ndim - 1
    # As they stand now: the batch first, features last, space between.
    of_images = (0, last, *range(1, last))
    in_order = jax.lax.ConvDimensionNumbers(
        lhs_spec=of_images,
        rhs_spec=(last, last - 1, *range(last - 1)),
        out_spec=of_images,
    )
    y = primitive.bind(lhs, rhs, dimension_numbers=in_order, **params)
    batch, features, *space = dimension_numbers.out_spec
    order = [batch, *space, features]
    # Axis i of y is axis order[i] of the result.
    back = [order.index(axis) for axis in range(y.ndim)]
    return y.transpose(back)
