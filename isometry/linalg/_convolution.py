"""Convolutions in the one order of axes that XLA runs fast inside a loop on a CPU.

XLA's fast kernel takes (batch, space, features) and (space, in, out). Outside loops XLA brings any other order into
this one; inside a loop it does not (jax-ml/jax#12868), and there every other order, and the transpose of every
convolution has another, was measured some 20 times slower (jaxlib 0.10). So the order is changed here.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

_INLINED = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")


def canonical(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """f: array → array, the same sums, with every convolution inside it in that order; on anything but a CPU f itself.

    Derivative rules that f brings along are gone from the result: differentiate before.
    """
    if jax.default_backend() != "cpu":
        return f

    def g(x: Any) -> Any:
        program = jax.make_jaxpr(f)(x)
        return _run(program.jaxpr, program.consts, x)[0] if _convolves(program) else f(x)

    return g


def _convolves(program: Any) -> bool:
    """Whether there is a convolution in a program, at any depth."""
    equations = getattr(program, "jaxpr", program).eqns
    return any(e.primitive.name == "conv_general_dilated" or any(map(_convolves, _programs(e))) for e in equations)


def _programs(equation: Any) -> list[Any]:
    """What an equation runs: the body of a loop, the branches of a choice."""
    return [p for p in jax.tree.leaves(equation.params, is_leaf=_is_program) if _is_program(p)]


def _is_program(parameter: Any) -> bool:
    return isinstance(parameter, core.ClosedJaxpr | core.Jaxpr)


def _run(program: Any, consts: Any, *args: Any) -> list[Any]:
    """The results of a program, equation by equation."""
    known = dict(zip([*program.constvars, *program.invars], [*consts, *args], strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, core.Literal) else known[v]

    for equation in program.eqns:
        known.update(zip(equation.outvars, _results(equation, [read(v) for v in equation.invars]), strict=True))
    return [read(v) for v in program.outvars]


def _results(equation: Any, args: list[Any]) -> list[Any]:
    primitive, params = equation.primitive, equation.params
    if primitive.name == "conv_general_dilated":
        return [_convolution(primitive, *args, **params)]
    inner = [p for p in _programs(equation) if _convolves(p)]
    if inner and primitive.name in _INLINED:
        return _run(getattr(inner[0], "jaxpr", inner[0]), getattr(inner[0], "consts", ()), *args)
    if inner:
        params = jax.tree.map(_rewritten, params, is_leaf=_is_program)
    bound = primitive.get_bind_params(params)
    functions, params = ((), bound) if isinstance(bound, dict) else bound  # later and earlier JAX
    found = primitive.bind(*functions, *args, **params)
    return found if primitive.multiple_results else [found]


def _rewritten(parameter: Any) -> Any:
    """The body of a loop with its convolutions in order; whatever else a parameter is stays as it is."""
    if not isinstance(parameter, core.ClosedJaxpr):
        return parameter
    return jax.make_jaxpr(lambda *args: _run(parameter.jaxpr, parameter.consts, *args))(*parameter.in_avals)


def _convolution(primitive: Any, lhs: Any, rhs: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    """Of specs (batch, features, *space) and (out, in, *space), which say where each axis is."""
    (batch, features, *space), (outputs, inputs, *window), out = dimension_numbers
    lhs, rhs = lhs.transpose(batch, *space, features), rhs.transpose(*window, inputs, outputs)
    last = lhs.ndim - 1
    between = tuple(range(1, last))
    numbers = type(dimension_numbers)((0, last, *between), (last, last - 1, *range(last - 1)), (0, last, *between))
    y = primitive.bind(lhs, rhs, dimension_numbers=numbers, **params)
    order = [out[0], *out[2:], out[1]]
    return y.transpose([order.index(axis) for axis in range(lhs.ndim)])
