"""Programs in float64 whose saturated units have the slopes of another dtype."""

import functools
from collections.abc import Callable, Sequence

import jax
from jax.extend import core
from jax.typing import DTypeLike
from jaxtyping import Array

from isometry._internal import equations, jaxprs
from isometry._internal.equations import CALLS, REMAT, Program, unchanged

# Functions that come so close to a constant that rounding makes their slope zero. The
# slope of tanh is zero in float32 from 9 on, and in float64 from 19 on.
_SATURATING = frozenset(("tanh", "logistic", "erf", "erfc"))

Run = Callable[..., list[Array]]


def as_steep_as(
    closed: core.ClosedJaxpr,
    dtype: DTypeLike,
) -> Run:
    """Return a function that evaluates a program with slopes as in a dtype.

    Values are those of float64; only the derivatives of saturating functions are those
    of the dtype.

    Args:
        closed: A program in float64.
        dtype: The dtype of the slopes.
    """

    def run(*arguments: Array) -> list[Array]:
        return _evaluated(closed, arguments, dtype)

    return run


def _evaluated(
    program: Program,
    arguments: Sequence[Array],
    dtype: DTypeLike,
) -> list[Array]:
    """Evaluate a program, equation by equation."""
    apply = functools.partial(_applied, dtype=dtype)
    return equations.evaluated(program, arguments, apply)


def _applied(
    eqn: core.JaxprEqn,
    operands: list[Array],
    dtype: DTypeLike,
) -> list[Array]:
    """Evaluate one equation."""
    name = eqn.primitive.name
    if name in _SATURATING:
        return [_with_slope(eqn, operands[0], dtype)]
    inner = equations.called_or_none(eqn)
    # An equation without a saturating function inside is evaluated as it is, with its
    # own derivative rule.
    if inner is None or not _saturates(inner):
        return unchanged(eqn, operands)
    if name in CALLS or name in REMAT or name.startswith("custom_jvp_call"):
        return _evaluated(inner, operands, dtype)
    if name == "scan":
        return _scanned(eqn, inner, operands, dtype=dtype)
    # Inside while and cond, slopes stay those of float64.
    return unchanged(eqn, operands)


def _with_slope(
    eqn: core.JaxprEqn,
    z: Array,
    dtype: DTypeLike,
) -> Array:
    """Evaluate an elementwise function, with its derivative as in the dtype."""

    def f(z: Array) -> Array:
        return unchanged(eqn, [z])[0]

    # z - at is zero, so the value is f(z) in float64; the derivative is `slope`.
    at = jax.lax.stop_gradient(z)
    coarse = at.astype(dtype)
    slope = jax.jvp(f, (coarse,), (jax.numpy.ones_like(coarse),))[1]
    return f(at) + slope.astype(z.dtype) * (z - at)


def _scanned(
    eqn: core.JaxprEqn,
    body: Program,
    operands: list[Array],
    dtype: DTypeLike,
) -> list[Array]:
    """Evaluate a scan whose body has saturating functions."""
    parts = jaxprs.scan_parts(eqn)
    num_consts, num_carry = parts
    consts = operands[:num_consts]
    carry = operands[num_consts : num_consts + num_carry]
    arrays = operands[num_consts + num_carry :]

    def step(
        carry: list[Array],
        xs: list[Array],
    ) -> tuple[list[Array], list[Array]]:
        arguments = [*consts, *carry, *xs]
        results = _evaluated(body, arguments, dtype)
        return results[:num_carry], results[num_carry:]

    last, stacked = jax.lax.scan(
        step,
        carry,
        arrays,
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
    )
    return [*last, *stacked]


def _saturates(program: Program) -> bool:
    """Tell whether a program has a saturating function anywhere."""
    jaxpr, _ = equations.opened(program)
    names = {eqn.primitive.name for eqn in jaxprs.equations(jaxpr)}
    return not names.isdisjoint(_SATURATING)
