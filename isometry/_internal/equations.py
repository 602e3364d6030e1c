"""Evaluates the equations of a jaxpr, for code that changes some of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from jax.extend import core
from jaxtyping import Array

Program: TypeAlias = core.ClosedJaxpr | core.Jaxpr

# Primitives that only call one program. Names differ between versions of JAX.
CALLS = frozenset(("jit", "pjit", "closed_call", "core_call", "eval_jaxpr"))

# Calls whose values are computed again in the backward pass.
REMAT = frozenset(("checkpoint", "remat", "remat2"))

# Calls of functions with derivative rules of their own.
CUSTOM = frozenset(("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"))


def opened(program: Program) -> tuple[core.Jaxpr, Sequence[Array]]:
    """Return a jaxpr and the values of its constants."""
    if isinstance(program, core.ClosedJaxpr):
        return program.jaxpr, program.consts
    return program, ()


def called(eqn: core.JaxprEqn) -> Program:
    """Return the program that an equation, which is a call, runs on its operands."""
    program = called_or_none(eqn)
    assert program is not None, f"{eqn.primitive.name} calls no program"
    return program


def called_or_none(eqn: core.JaxprEqn) -> Program | None:
    """Return the program that an equation runs on its operands, or None."""
    # An equation may hold other programs, such as a derivative rule. They take another
    # number of operands.
    for value in eqn.params.values():
        if isinstance(value, (core.ClosedJaxpr, core.Jaxpr)):
            jaxpr, _ = opened(value)
            if len(jaxpr.invars) == len(eqn.invars):
                return value
    return None


def unchanged(
    eqn: core.JaxprEqn,
    operands: Sequence[Array],
    params: Mapping[str, Any] | None = None,
) -> list[Array]:
    """Evaluate an equation as it stands, custom derivatives included.

    Args:
        eqn: The equation.
        operands: Its operands.
        params: Its parameters, if they are other ones than the equation has.
    """
    bound = eqn.primitive.get_bind_params(eqn.params if params is None else params)
    functions = ()
    # Before JAX 0.10.2, the called functions are returned separately.
    if isinstance(bound, tuple):
        functions, bound = bound
    # The mesh and the profiler scopes under which f was traced.
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*functions, *operands, **bound)
    return list(results) if eqn.primitive.multiple_results else [results]


def evaluated(
    program: Program,
    arguments: Sequence[Array],
    evaluate: Callable[[core.JaxprEqn, list[Array]], list[Array]],
    constant: Callable[[Any], Array] = lambda value: value,
) -> list[Array]:
    """Return the results of a program, equation by equation.

    Args:
        program: The program.
        arguments: Its arguments.
        evaluate: Maps an equation and its operands to its results.
        constant: Maps each constant and each literal number to what is computed with.
    """
    jaxpr, constants = opened(program)
    values = dict(zip(jaxpr.constvars, map(constant, constants), strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: core.Var | core.Literal) -> Array:
        if isinstance(atom, core.Literal):
            return constant(atom.val)
        return values[atom]

    for eqn in jaxpr.eqns:
        results = evaluate(eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
