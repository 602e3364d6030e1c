"""How the derivative rule of a custom_jvp or custom_vjp compares with its function."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from isometry._internal import jaxprs, kinds
from isometry._internal.equations import called, opened, unchanged
from isometry.certificates.relaxing import _table
from isometry.certificates.relaxing._value import Value, filled

# The two derivatives may differ by this share of the largest entry. Rules in float32
# are off by 1e-5; a straight-through rule, or a clipped one, differs by order 1.
_TOLERANCE = 1e-3

# Two derivatives as small as this are both zero.
_LEAST = 1e-30

# How far from a kink slopes are compared, and by how much they may differ there: those
# of relu by 1, those of softplus by 1/4 of a step. In float32 a smaller step drowns.
_STEP = 0.01
_BEND = 0.1

# Numbers in a program around which slopes are compared; a table of weights holds more.
_MOST_NUMBERS = 20


def follows_its_function(
    eqn: core.JaxprEqn,
    program: core.ClosedJaxpr | core.Jaxpr,
) -> bool:
    """Compare the rule with the derivative of the function, at random operands.

    Args:
        eqn: The call of the function.
        program: The function.

    Returns:
        Whether they agree; False as well where no operands can be made up.
    """
    avals: list[Any] = [variable.aval for variable in eqn.invars]
    # Random keys, for example, cannot be made up.
    if any(jnp.issubdtype(aval.dtype, jax.dtypes.extended) for aval in avals):
        return False
    closed = program
    if isinstance(program, core.Jaxpr):
        closed = core.ClosedJaxpr(program, ())
    function = core.jaxpr_as_fun(closed)
    # Any operands do: two analytic derivatives that agree at random agree everywhere.
    rng = np.random.default_rng(0)
    with jax.ensure_compile_time_eval():
        operands = [_made_up(rng, aval) for aval in avals]
        places = [i for i, operand in enumerate(operands) if kinds.is_floating(operand)]

        def both(floating: list[Array]) -> tuple[list[Array], list[Array]]:
            # Operands that have no derivative stay as they were made up.
            arguments = list(operands)
            for place, operand in zip(places, floating, strict=True):
                arguments[place] = operand
            return _floating(unchanged(eqn, arguments)), _floating(function(*arguments))

        (results, _), pull = jax.vjp(both, [operands[place] for place in places])
        cotangents = [
            rng.standard_normal(result.shape).astype(result.dtype) for result in results
        ]
        zeros = [np.zeros_like(cotangent) for cotangent in cotangents]
        (of_rule,) = pull((cotangents, zeros))
        (of_function,) = pull((zeros, cotangents))
    return all(map(_agree, of_rule, of_function))


def has_kinks(eqn: core.JaxprEqn) -> bool:
    """Tell whether the rule of a function has kinks, such as a gradient that it clips.

    Args:
        eqn: The call of the function.
    """
    avals: list[Any] = [variable.aval for variable in eqn.invars]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]

    def pulled(*operands: Array) -> list[Array]:
        def results_of(operands: tuple[Array, ...]) -> list[Array]:
            return _floating(unchanged(eqn, list(operands)))

        results, pull = jax.vjp(results_of, operands)
        # Cotangents that depend on the operands, as those of a network do.
        return pull([2 * result for result in results])

    # Traced, not run: only what it is made of matters.
    rule = jax.make_jaxpr(pulled)(*shapes)
    for inner in jaxprs.equations(rule.jaxpr):
        is_left = inner.primitive.name in _table.LEFT
        if is_left or _table.relaxation_of(inner) is not None:
            return True
    return False


def is_smooth(
    eqn: core.JaxprEqn,
    operands: Sequence[Value],
) -> bool:
    """Tell whether a function of one number, whose rule is known, bends nowhere.

    Softplus is analytic, and computed as max(z, 0) + log1p(exp(-|z|)): its parts bend
    where it does not. Its slope, by its rule, is compared on both sides of zero and of
    every number in its program, and so is the slope of its slope.

    Args:
        eqn: The call of the function.
        operands: Its operands, one of which depends on the base.
    """
    places = [i for i, operand in enumerate(operands) if operand.is_active]
    if len(places) != 1 or len(eqn.outvars) != 1:
        return False
    (place,) = places
    inner, constants = opened(called(eqn))
    closed = core.ClosedJaxpr(inner, list(constants))
    given = [operand.number for operand in operands if not operand.is_active]
    parts = [0.0, *given, *jaxprs.constants(closed)]
    numbers = np.concatenate([np.ravel(np.asarray(part, float)) for part in parts])
    numbers = np.abs(numbers[np.isfinite(numbers)])
    centres = np.unique([*numbers, *-numbers])
    if len(centres) > _MOST_NUMBERS:
        return False
    points = centres[:, None] + _STEP * np.arange(-2, 3)
    avals: list[Any] = [variable.aval for variable in eqn.invars]
    shape, dtype = avals[place].shape, avals[place].dtype

    def of_point(point: Array) -> Array:
        arguments = []
        triples = zip(operands, eqn.invars, avals, strict=True)
        for i, (operand, variable, aval) in enumerate(triples):
            if i == place:
                arguments.append(jnp.full(shape, point, dtype))
            else:
                arguments.append(filled(operand, variable, aval.shape))
        return jnp.sum(unchanged(eqn, arguments)[0])

    with jax.ensure_compile_time_eval():
        size = max(int(np.prod(shape)), 1)
        slope_at = jax.grad(of_point)
        flat = [slope_at(jnp.asarray(point, dtype)) for point in points.ravel()]
        # Of the sum over all entries, which are alike.
        slopes = np.asarray(flat, float).reshape(points.shape) / size
    steps = np.diff(slopes, axis=1)
    # Of a smooth function slopes differ by a step times its curvature.
    turns = (steps[:, -1] - steps[:, 0]) / _STEP
    return bool((np.abs(steps) < _BEND).all() and (np.abs(turns) < _BEND).all())


def _made_up(
    rng: np.random.Generator,
    aval: Any,
) -> Array:
    """Return random floating numbers, of some sizes; zeros of other dtypes."""
    if not kinds.is_floating(aval):
        return jnp.zeros(aval.shape, aval.dtype)
    sizes = rng.choice([0.5, 2.0, 8.0], aval.shape)
    return jnp.asarray(sizes * rng.standard_normal(aval.shape), aval.dtype)


def _floating(arrays: Sequence[Array]) -> list[Array]:
    return [array for array in arrays if kinds.is_floating(array)]


def _agree(
    first: Array,
    second: Array,
) -> bool:
    """Tell whether two derivatives are the same but for rounding."""
    difference = np.abs(np.subtract(first, second))
    gap = np.max(difference, initial=0)
    largest = np.max(np.abs(second), initial=0)
    return bool(gap <= _TOLERANCE * max(largest, _LEAST))
