"""Programs in float64 whose saturated units have the slopes of another dtype."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.typing import DTypeLike
from jaxtyping import Array

from isometry._internal import jaxprs
from isometry.certificates.relaxing._value import bound

# Functions that come so close to a constant that rounding makes their slope zero. The
# slope of tanh is zero in float32 from 9 on, and in float64 from 19 on.
_SATURATING = frozenset(("tanh", "logistic", "erf", "erfc"))

# Primitives that only call one inner program. Names differ between versions of JAX.
_CALLS = frozenset(("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint"))

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
        return _evaluated(closed.jaxpr, closed.consts, arguments, dtype=dtype)

    return run


def _evaluated(
    jaxpr: core.Jaxpr,
    consts: Sequence[Array],
    arguments: Sequence[Array],
    dtype: DTypeLike,
) -> list[Array]:
    """Evaluate a program, equation by equation."""
    value_of: dict[core.Var, Array] = {}

    def read(atom: core.Var | core.Literal) -> Array:
        return atom.val if isinstance(atom, core.Literal) else value_of[atom]

    value_of.update(zip(jaxpr.constvars, consts, strict=True))
    value_of.update(zip(jaxpr.invars, arguments, strict=True))
    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        results = _applied(eqn, operands, dtype)
        value_of.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _applied(
    eqn: core.JaxprEqn,
    operands: list[Array],
    dtype: DTypeLike,
) -> list[Array]:
    """Evaluate one equation."""
    name = eqn.primitive.name
    if name in _SATURATING:
        return [_with_slope(eqn, operands[0], dtype)]
    inner = _inner(eqn)
    # An equation without a saturating function inside is evaluated as it is, with its
    # own derivative rule.
    if inner is None or not _saturates(inner):
        return bound(eqn, operands)
    if name in _CALLS or name.startswith("custom_jvp_call"):
        closed: Any = inner
        consts = getattr(closed, "consts", ())
        jaxpr = getattr(closed, "jaxpr", closed)
        return _evaluated(jaxpr, consts, operands, dtype=dtype)
    if name == "scan":
        return _scanned(eqn, inner, operands, dtype=dtype)
    # Inside while and cond, slopes stay those of float64.
    return bound(eqn, operands)


def _with_slope(
    eqn: core.JaxprEqn,
    z: Array,
    dtype: DTypeLike,
) -> Array:
    """Evaluate an elementwise function, with its derivative as in the dtype."""

    def f(z: Array) -> Array:
        return bound(eqn, [z])[0]

    # z - at is zero, so the value is f(z) in float64; the derivative is `slope`.
    at = jax.lax.stop_gradient(z)
    coarse = at.astype(dtype)
    slope = jax.jvp(f, (coarse,), (jax.numpy.ones_like(coarse),))[1]
    return f(at) + slope.astype(z.dtype) * (z - at)


def _scanned(
    eqn: core.JaxprEqn,
    body: Any,
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
        results = _evaluated(body.jaxpr, body.consts, arguments, dtype=dtype)
        return results[:num_carry], results[num_carry:]

    last, stacked = jax.lax.scan(
        step,
        carry,
        arrays,
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
    )
    return [*last, *stacked]


def _inner(eqn: core.JaxprEqn) -> Any:
    """Return the program that an equation calls, or None."""
    for name in ("jaxpr", "call_jaxpr"):
        inner = eqn.params.get(name)
        if isinstance(inner, (core.ClosedJaxpr, core.Jaxpr)):
            return inner
    return None


def _saturates(program: Any) -> bool:
    """Tell whether a program has a saturating function anywhere."""
    jaxpr = getattr(program, "jaxpr", program)
    names = {eqn.primitive.name for eqn in jaxprs.equations(jaxpr)}
    return not names.isdisjoint(_SATURATING)
