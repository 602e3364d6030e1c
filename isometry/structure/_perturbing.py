"""Follows one perturbation of x through a program: which values change.

The program is evaluated with duals: each value with its derivative along the
perturbation.
"""

import functools
from collections.abc import Sequence, Set
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float

from isometry._internal import equations, jaxprs, kinds
from isometry.structure._directions import direction_like

# Equations that only call one program.
_CALLS = equations.CALLS | equations.REMAT


class Magnitudes(NamedTuple):
    """How large a value and its derivative along the perturbation are.

    Both fields are arrays with one axis for each scan around the value. It runs over
    the iterations, in the order of the slices that the scan stacks.

    Attributes:
        log_derivative: ln of the largest magnitude in the derivative of the value; -inf
            if the derivative is zero.
        log_size: ln of the largest magnitude in the value itself.
    """

    log_derivative: Float[np.ndarray, "*iterations"]
    log_size: Float[np.ndarray, "*iterations"]


# Compiling takes longer than running once, so XLA is told not to optimize.
_UNOPTIMIZED = {"xla_backend_optimization_level": 0}

# Identifies a value: the indices of the equations around it (as in `Place`), and its
# variable.
Key: TypeAlias = tuple[tuple[int, ...], core.Var | None]


class Followed(NamedTuple):
    """The effect of a perturbation on the values of a program.

    Attributes:
        records: How large values and their derivatives are.
        ruled: The values whose derivative comes from a custom rule (custom_jvp or
            custom_vjp).
    """

    records: dict[Key, Magnitudes]
    ruled: frozenset[Key]


class _Dual(NamedTuple):
    """A value and its derivative, which is None if the value does not depend on x."""

    value: Array
    tangent: Array | None


class _Recorded(NamedTuple):
    """Which values have their derivative recorded, and which their size."""

    derivatives: Set[Key]
    sizes: Set[Key]


class _Records(dict[Key, Magnitudes]):
    """The records made so far. Magnitudes are tracers; `ruled` is as in `Followed`."""

    def __init__(self, recorded: _Recorded) -> None:
        super().__init__()
        self.recorded = recorded
        self.ruled: set[Key] = set()

    def record(self, key: Key, dual: _Dual) -> None:
        """Record the largest entries of a value and its derivative, where asked for."""
        # Reducing all values would take XLA longer to compile than the model itself.
        has_derivative = key in self.recorded.derivatives
        has_size = key in self.recorded.sizes
        derivative = size = np.float32(0)
        if has_derivative and dual.tangent is not None:
            derivative = _largest(dual.tangent)
        if has_size:
            size = _largest(dual.value)
        if has_derivative or has_size:
            # The fields are tracers here, and NumPy arrays once the program has run.
            self[key] = Magnitudes(*cast(Any, (derivative, size)))


def followed(
    closed: core.ClosedJaxpr,
    arguments: Sequence[Array],
    num_params: int,
    *,
    derivatives: Set[Key],
    sizes: Set[Key],
) -> Followed:
    """Perturb x in a random direction, and record which values change.

    Derivatives are taken equation by equation, so the records show at which equation
    they vanish. A scan stays a loop.

    Args:
        closed: The jaxpr of f, a function of the leaves of params and x.
        arguments: The leaves of params, then those of x.
        num_params: The number of leaves of params, which are not perturbed.
        derivatives: The values whose derivative is recorded.
        sizes: The values whose size is recorded.

    Returns:
        A record of each value in `derivatives` or `sizes`, except for values inside the
        branches of a cond or inside a loop of unknown length.
    """
    # A compiled function returns arrays alone. Which values these belong to is known
    # while `run` is traced, which fills these two.
    keys: list[Key] = []
    ruled: set[Key] = set()

    # The program runs once, so that compiling is most of its cost.
    @functools.partial(jax.jit, compiler_options=_UNOPTIMIZED)
    def run(
        arguments: Sequence[Array], directions: dict[int, np.ndarray]
    ) -> list[Magnitudes]:
        """Evaluate the program, and return the magnitudes of all that is recorded.

        Directions are by the index of an argument. The keys of the records are left in
        `keys` of the enclosing function, in the same order.
        """
        # Each value is carried with its derivative along the direction: None is zero.
        duals = [_Dual(jnp.asarray(value), None) for value in arguments]
        for i, direction in directions.items():
            duals[i] = _Dual(duals[i].value, jnp.asarray(direction))
        records = _Records(_Recorded(derivatives, sizes))
        _walk(closed, duals, records, path=())
        keys[:] = records
        ruled.update(records.ruled)
        return list(records.values())

    # Only inputs are perturbed, and whole numbers among them, such as tokens, are not.
    perturbed = {
        i: value
        for i, value in enumerate(arguments)
        if i >= num_params and kinds.is_floating(value)
    }
    magnitudes = jax.device_get(run(list(arguments), direction_like(perturbed)))
    records = [Magnitudes(*map(_log, record)) for record in magnitudes]
    return Followed(dict(zip(keys, records, strict=True)), frozenset(ruled))


def _walk(
    program: core.ClosedJaxpr | core.Jaxpr,
    operands: Sequence[_Dual],
    records: _Records,
    *,
    path: tuple[int, ...],
) -> list[_Dual]:
    """Evaluate a program with duals, and record them.

    Args:
        program: The program.
        operands: Its arguments.
        records: Where values are recorded.
        path: Indices of the equations around the program.

    Returns:
        The outputs of the program.
    """
    jaxpr = program
    dual_of: dict[core.Var, _Dual] = {}
    if isinstance(program, core.ClosedJaxpr):
        jaxpr = program.jaxpr
        for var, constant in zip(jaxpr.constvars, program.consts, strict=True):
            dual_of[var] = _Dual(jnp.asarray(constant), None)

    def write(
        var: core.Var,
        dual: _Dual,
    ) -> None:
        dual_of[var] = dual
        records.record((path, var), dual)

    def read(atom: core.Var | core.Literal) -> _Dual:
        # A literal may be a Python number, so its dtype is given.
        if isinstance(atom, core.Literal):
            aval: Any = atom.aval
            return _Dual(jnp.asarray(atom.val, aval.dtype), None)
        return dual_of[atom]

    for var, dual in zip(jaxpr.invars, operands, strict=True):
        write(var, dual)
    for index, eqn in enumerate(jaxpr.eqns):
        duals = [read(atom) for atom in eqn.invars]
        results = _results(
            eqn,
            duals,
            records,
            path=(*path, index),
        )
        for var, dual in zip(eqn.outvars, results, strict=True):
            write(var, dual)
    return [read(atom) for atom in jaxpr.outvars]


def _results(
    eqn: core.JaxprEqn,
    operands: Sequence[_Dual],
    records: _Records,
    *,
    path: tuple[int, ...],
) -> list[_Dual]:
    """Evaluate one equation with duals, and record the values inside it."""
    name = eqn.primitive.name
    if name == "scan":
        return _scan(
            eqn,
            operands,
            records,
            path=path,
        )
    called = equations.called_or_none(eqn)
    if name in _CALLS and called is not None:
        return _walk(
            called,
            operands,
            records,
            path=path,
        )
    if not (name.startswith("custom_") and called is not None):
        return _by_rule(eqn, operands)
    # Values inside are recorded from the function itself. The derivative of its results
    # comes from the custom rule.
    plain = _walk(
        called,
        operands,
        records,
        path=path,
    )
    # Forward mode cannot go through a custom_vjp.
    if name.startswith("custom_vjp"):
        results = _by_reverse_rule(eqn, operands, plain)
    else:
        results = _by_rule(eqn, operands)
    inside = getattr(called, "jaxpr", called)
    for atom, dual in zip(inside.outvars, results, strict=True):
        if not isinstance(atom, core.Literal):
            records.record((path, atom), dual)
            records.ruled.add((path, atom))
    return results


def _by_rule(
    eqn: core.JaxprEqn,
    operands: Sequence[_Dual],
) -> list[_Dual]:
    """Evaluate an equation whose inside is not followed, by JAX's own forward rule."""
    # The operands that depend on x.
    active = [i for i, dual in enumerate(operands) if dual.tangent is not None]
    values = [dual.value for dual in operands]
    # Equations that depend on parameters alone need no derivative.
    if not active:
        return [_Dual(value, None) for value in equations.unchanged(eqn, values)]

    def of_active(*new_values: Array) -> list[Array]:
        replaced = list(values)
        for i, value in zip(active, new_values, strict=True):
            replaced[i] = value
        return equations.unchanged(eqn, replaced)

    primals = tuple(values[i] for i in active)
    tangents = tuple(operands[i].tangent for i in active)
    results, derivatives = jax.jvp(of_active, primals, tangents)
    return list(map(_dual, results, derivatives))


def _dual(value: Array, derivative: Array) -> _Dual:
    """Return a value with its derivative; None for the derivative of whole numbers."""
    # The derivative of whole numbers is float0 in JAX, an array without data.
    if not kinds.is_floating(value):
        return _Dual(value, None)
    return _Dual(value, derivative)


def _by_reverse_rule(
    eqn: core.JaxprEqn,
    operands: Sequence[_Dual],
    plain: Sequence[_Dual],
) -> list[_Dual]:
    """Return the derivative of a custom_vjp function; zero if its rule returns zero.

    JAX cannot push a tangent through a reverse rule. Only whether the derivative is
    zero matters here, so otherwise that of the undecorated function stands in for it.

    Args:
        eqn: The call of the function.
        operands: The operands of the call.
        plain: The results of the call, with the derivative of the undecorated function.
    """
    # The operands that depend on x.
    active = [i for i, dual in enumerate(operands) if dual.tangent is not None]
    if not active:
        return list(plain)
    values = [dual.value for dual in operands]

    def of_active(*new_values: Array) -> list[Array]:
        replaced = list(values)
        for i, value in zip(active, new_values, strict=True):
            replaced[i] = value
        results = equations.unchanged(eqn, replaced)
        return [result for result in results if kinds.is_floating(result)]

    out, pull = jax.vjp(of_active, *(values[i] for i in active))
    pulled = pull(jax.tree.map(jnp.asarray, direction_like(out)))
    # The pullback of a random cotangent is zero only if the rule returns zeros.
    passes = functools.reduce(jnp.logical_or, [jnp.any(leaf != 0) for leaf in pulled])
    return [_zero_unless(passes, dual) for dual in plain]


def _zero_unless(
    passes: Array,
    dual: _Dual,
) -> _Dual:
    """Return a dual with its derivative set to zero unless `passes` is true."""
    if dual.tangent is None:
        return dual
    return dual._replace(tangent=jnp.where(passes, dual.tangent, 0))


def _scan(
    eqn: core.JaxprEqn,
    operands: Sequence[_Dual],
    records: _Records,
    *,
    path: tuple[int, ...],
) -> list[_Dual]:
    """Evaluate a scan, and stack the records of its iterations."""
    num_consts, num_carry = jaxprs.scan_parts(eqn)
    constants = operands[:num_consts]
    # The carry of a scan must have one type in all iterations, and None is another type
    # than an array of zeros.
    state = [_instantiated(dual) for dual in operands[num_consts:][:num_carry]]
    slices = list(operands[num_consts + num_carry :])
    keys: list[Key] = []

    def body(
        state: list[_Dual],
        slices: list[_Dual],
    ) -> tuple[list[_Dual], tuple[list[_Dual], list[Magnitudes]]]:
        inside = _Records(records.recorded)
        duals = [*constants, *state, *slices]
        results = _walk(
            eqn.params["jaxpr"],
            duals,
            inside,
            path=path,
        )
        # JAX cannot sort such keys in a pytree, so only the values are returned. Every
        # trace of the body makes the same keys.
        keys[:] = inside
        records.ruled |= inside.ruled
        new_state = [_instantiated(dual) for dual in results[:num_carry]]
        return new_state, (results[num_carry:], list(inside.values()))

    state, (stacked, magnitudes) = jax.lax.scan(
        body,
        state,
        slices,
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
    )
    records.update(zip(keys, magnitudes, strict=True))
    return [*state, *stacked]


def _instantiated(dual: _Dual) -> _Dual:
    """Return a dual whose derivative is an array, of zeros in the place of None."""
    if dual.tangent is None and kinds.is_floating(dual.value):
        return dual._replace(tangent=jnp.zeros_like(dual.value))
    return dual


def _largest(value: Array) -> Float[Array, ""]:
    """Return the largest magnitude in a value; inf for random keys, which have none."""
    if jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return jnp.asarray(jnp.inf, jnp.float32)
    dtype = value.dtype if kinds.is_floating(value) else jnp.float32
    return jnp.max(jnp.abs(value.astype(dtype)), initial=0)


def _log(largest: np.ndarray) -> Float[np.ndarray, "*iterations"]:
    """Return ln of magnitudes, -inf for zero."""
    # float64 holds the magnitudes of all dtypes.
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.asarray(largest).astype(np.float64)))
