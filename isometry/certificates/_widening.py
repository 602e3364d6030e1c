"""A program that computes in 16 bits, evaluated in float64 throughout.

With eight bits of mantissa, equal numbers cannot be told from near ones. So a model in
bfloat16 is certified by the function that it computes up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from isometry._internal import equations, jaxprs, kinds
from isometry._internal.equations import CUSTOM, REMAT, Program, called, unchanged
from isometry._internal.errors import NotDefined
from isometry.certificates.relaxing import _table

# Primitives that only call an inner program.
_CALLS = _table.CALLS | REMAT

# Loops of unknown length have no reverse derivative, and so no gradient.
_REFUSED = frozenset(("while", "pure_callback", "io_callback", "pallas_call"))


def widened(
    closed: core.ClosedJaxpr,
    arguments: Sequence[Array],
) -> list[Array]:
    """Evaluate a program with every floating value in float64.

    Args:
        closed: The program.
        arguments: Its arguments, floating ones in float64.

    Returns:
        Its results, floating ones in float64.

    Raises:
        NotDefined: The program has a loop of unknown length, or code that is not JAX.
    """
    return _evaluated(closed, arguments)


def _evaluated(program: Program, arguments: Sequence[Array]) -> list[Array]:
    return equations.evaluated(program, arguments, _equation, constant=_wide)


def _equation(eqn: core.JaxprEqn, operands: list[Array]) -> list[Array]:
    return list(map(_wide, _results(eqn, operands)))


def _results(
    eqn: core.JaxprEqn,
    operands: list[Array],
) -> list[Array]:
    name = eqn.primitive.name
    if name in _CALLS:
        return _evaluated(called(eqn), operands)
    if name in CUSTOM:
        return _with_rule(eqn, operands)
    if name == "scan":
        return _scan(eqn, operands)
    if name == "cond":
        return _cond(eqn, operands)
    if name in _REFUSED or jaxprs.inner(eqn):
        raise NotDefined(
            f"f computes in 16 bits, and {name} cannot be evaluated in float64; build "
            "it with dtype=float32."
        )
    if name == "reduce_precision":
        return [operands[0]]
    # A float is made of random bits in 32 bits, whatever it is converted to next.
    if name == "bitcast_convert_type":
        return [eqn.primitive.bind(*operands, **eqn.params)]
    parameters = {key: _wide_dtype(value) for key, value in eqn.params.items()}
    results = eqn.primitive.bind(*operands, **parameters)
    return list(results) if eqn.primitive.multiple_results else [results]


def _with_rule(
    eqn: core.JaxprEqn,
    operands: list[Array],
) -> list[Array]:
    """Evaluate a function with a custom derivative rule, and keep the rule.

    The rule may differ from the derivative of the function, as a straight-through rule
    does, or relu at its kink.
    """
    avals: list[Any] = [variable.aval for variable in eqn.invars]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    moving_places = [i for i, shape in enumerate(shapes) if kinds.is_floating(shape)]
    program = called(eqn)
    results: list[Any] = [variable.aval for variable in eqn.outvars]

    def pulled(own: Sequence[Array], cotangents: Sequence[Array]) -> list[Array]:
        def of_moving(*moving: Array) -> list[Array]:
            whole = list(own)
            for place, value in zip(moving_places, moving, strict=True):
                whole[place] = value
            return [one for one in unchanged(eqn, whole) if kinds.is_floating(one)]

        _, pull = jax.vjp(of_moving, *[own[place] for place in moving_places])
        return list(pull(list(cotangents)))

    cotangents = [
        jax.ShapeDtypeStruct(one.shape, one.dtype)
        for one in results
        if kinds.is_floating(one)
    ]
    # The rule is traced in 16 bits, and then evaluated in float64 too.
    rule = jax.make_jaxpr(pulled)(shapes, cotangents)

    @jax.custom_vjp
    def function(*wide: Array) -> list[Array]:
        return _evaluated(program, wide)

    def forward(*wide: Array) -> tuple[list[Array], tuple[Array, ...]]:
        return _evaluated(program, wide), wide

    def backward(wide: tuple[Array, ...], cotangents: list[Array]) -> tuple:
        pairs = zip(cotangents, results, strict=True)
        floating = [cotangent for cotangent, one in pairs if kinds.is_floating(one)]
        pulled_back: list[Array | None] = [None] * len(wide)
        results_of_rule = _evaluated(rule, [*wide, *floating])
        for place, value in zip(moving_places, results_of_rule, strict=True):
            pulled_back[place] = value
        return tuple(pulled_back)

    function.defvjp(forward, backward)
    return list(function(*operands))


def _scan(
    eqn: core.JaxprEqn,
    operands: list[Array],
) -> list[Array]:
    """Evaluate a scan in float64, as a scan again."""
    parts = jaxprs.scan_parts(eqn)
    num_fixed = parts.num_consts + parts.num_carry
    constants = operands[: parts.num_consts]
    body = eqn.params["jaxpr"]

    def step(
        state: list[Array],
        slices: list[Array],
    ) -> tuple[list[Array], Any]:
        results = _evaluated(body, [*constants, *state, *slices])
        return results[: parts.num_carry], results[parts.num_carry :]

    state, stacked = jax.lax.scan(
        step,
        operands[parts.num_consts : num_fixed],
        operands[num_fixed:],
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
    )
    return [*state, *stacked]


def _cond(
    eqn: core.JaxprEqn,
    operands: list[Array],
) -> list[Array]:
    """Evaluate a cond in float64, as a cond again."""

    def branch(program: core.ClosedJaxpr) -> Any:
        return lambda *arguments: _evaluated(program, arguments)

    branches = [branch(program) for program in eqn.params["branches"]]
    return jax.lax.switch(operands[0], branches, *operands[1:])


def _wide(value: Any) -> Array:
    """Return a floating value in float64; others as they are."""
    if kinds.is_floating(value):
        return jnp.asarray(value, np.float64)
    return value


def _wide_dtype(parameter: Any) -> Any:
    """Return float64 in the place of a floating dtype; other parameters as they are."""
    is_dtype = isinstance(parameter, (np.dtype, type(jnp.bfloat16), type))
    if not is_dtype:
        return parameter
    try:
        dtype = jnp.dtype(parameter)
    # A class that is no dtype.
    except TypeError:
        return parameter
    return np.dtype(np.float64) if jnp.issubdtype(dtype, jnp.floating) else parameter
