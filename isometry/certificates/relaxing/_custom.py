"""What the derivative rule of a custom_jvp or custom_vjp is, beside its function."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from isometry._internal import jaxprs
from isometry.certificates.relaxing import _table
from isometry.certificates.relaxing._value import bound

# The two derivatives may differ by this share of the largest entry. Rules in float32
# are off by 1e-5; a straight-through rule, or a clipped one, differs by order 1.
_TOLERANCE = 1e-3

# Two derivatives as small as this are both zero.
_LEAST = 1e-30


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
        places = [i for i, operand in enumerate(operands) if _is_floating(operand)]

        def both(floating: list[Array]) -> tuple[list[Array], list[Array]]:
            # Operands that have no derivative stay as they were made up.
            arguments = list(operands)
            for place, operand in zip(places, floating, strict=True):
                arguments[place] = operand
            return _floating(bound(eqn, arguments)), _floating(function(*arguments))

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
            return _floating(bound(eqn, list(operands)))

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


def _made_up(
    rng: np.random.Generator,
    aval: Any,
) -> Array:
    """Return random floating numbers, of some sizes; zeros of other dtypes."""
    if not jnp.issubdtype(aval.dtype, jnp.floating):
        return jnp.zeros(aval.shape, aval.dtype)
    sizes = rng.choice([0.5, 2.0, 8.0], aval.shape)
    return jnp.asarray(sizes * rng.standard_normal(aval.shape), aval.dtype)


def _floating(arrays: Sequence[Array]) -> list[Array]:
    return [array for array in arrays if _is_floating(array)]


def _is_floating(array: Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _agree(
    first: Array,
    second: Array,
) -> bool:
    """Tell whether two derivatives are the same but for rounding."""
    difference = np.abs(np.subtract(first, second))
    gap = np.max(difference, initial=0)
    largest = np.max(np.abs(second), initial=0)
    return bool(gap <= _TOLERANCE * max(largest, _LEAST))
