"""Rewrites programs inside scans, conds and remats, which JAX traces by themselves.

Only arrays pass into such a program and out of it. So a value inside has no base
outside, and what is known of it is passed beside its array.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
from jax.extend import core
from jaxtyping import Array

from isometry._internal import jaxprs, kinds
from isometry._internal.equations import CALLS, Program, called
from isometry.certificates.relaxing._value import Value, array_of, leaf

# Evaluates a program, relaxed.
Rewrite: TypeAlias = Callable[[Program, Sequence[Value]], list[Value]]

# An array, and the gate of a boolean.
Packed: TypeAlias = tuple[Any, Any]


def remat(
    eqn: core.JaxprEqn,
    operands: Sequence[Value],
    rewrite: Rewrite,
) -> list[Value]:
    """Evaluate a remat, which still recomputes its values in the backward pass."""
    returned: list[Value] = []

    def body(packed: list[Packed]) -> list[Packed]:
        inside = list(map(_unpacked, operands, packed))
        # What is known of the results is read off the trace, in which this runs once.
        returned[:] = rewrite(called(eqn), inside)
        return list(map(_packed, returned))

    recomputing = jax.checkpoint(
        body,
        prevent_cse=eqn.params["prevent_cse"],
        policy=eqn.params["policy"],
    )
    results = recomputing(list(map(_packed, operands)))
    return list(map(_unpacked, returned, results))


def cond(
    eqn: core.JaxprEqn,
    operands: Sequence[Value],
    rewrite: Rewrite,
) -> list[Value]:
    """Evaluate a cond whose branches are rewritten; gates do not leave it."""
    index, *rest = operands
    is_active = [False] * len(eqn.outvars)

    def rewritten(
        branch: core.ClosedJaxpr,
    ) -> Callable[[list[Packed]], list[Array]]:
        def call(packed: list[Packed]) -> list[Array]:
            results = rewrite(branch, list(map(_unpacked, rest, packed)))
            # A result depends on the signal if it does in any of the branches.
            for i, result in enumerate(results):
                is_active[i] |= result.is_active
            return [array_of(result) for result in results]

        return call

    branches = [rewritten(branch) for branch in eqn.params["branches"]]
    results = jax.lax.switch(index.array, branches, list(map(_packed, rest)))
    return [
        leaf(array, is_active=active or index.is_active)
        for array, active in zip(results, is_active, strict=True)
    ]


def scan(
    eqn: core.JaxprEqn,
    operands: Sequence[Value],
    rewrite: Rewrite,
) -> list[Value]:
    """Evaluate a scan whose body is rewritten."""
    program = called(eqn)
    num_constants, num_carried = jaxprs.scan_parts(eqn)
    # What the body sees of constants is the same in all iterations.
    constants = [_unpacked(o, _packed(o)) for o in operands[:num_constants]]
    is_active = _active_in_scan(
        program, operands, num_constants=num_constants, num_carried=num_carried
    )
    arrays = [array_of(operand) for operand in operands[num_constants:]]
    returned: list[Value] = []

    def body(
        carried: list[Array],
        slices: list[Array],
    ) -> tuple[list[Array], list[Packed]]:
        inside = [
            leaf(array, is_active=active)
            for array, active in zip((*carried, *slices), is_active, strict=True)
        ]
        results = rewrite(program, [*constants, *inside])
        returned[:] = results[num_carried:]
        new = [array_of(result) for result in results[:num_carried]]
        return new, list(map(_packed, returned))

    carried, stacked = jax.lax.scan(
        body,
        arrays[:num_carried],
        arrays[num_carried:],
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    last = [
        leaf(array, is_active=active)
        for array, active in zip(carried, is_active[:num_carried], strict=True)
    ]
    return [*last, *map(_unpacked, returned, stacked)]


def _packed(value: Value) -> Packed:
    """Return what passes into or out of such a program: the array and what is known."""
    is_gated = value.is_active and not kinds.is_inexact(value.array)
    gate = value.outside if is_gated else None
    return array_of(value), gate


def _unpacked(
    value: Value,
    packed: Packed,
) -> Value:
    """Return the value again, from what has passed."""
    array, gate = packed
    passed = leaf(array, value.is_active)
    passed.number = value.number
    passed.is_positive = value.is_positive
    # JAX has taken no derivative of it on this side; none may be added on the other.
    passed.is_flat = value.is_flat
    passed.bends = value.bends
    if gate is not None:
        passed.smooth = gate
    return passed


def _active_in_scan(
    program: Program,
    operands: Sequence[Value],
    num_constants: int,
    num_carried: int,
) -> list[bool]:
    """Return which carried values and slices of a scan depend on the signal."""
    flags = [operand.is_active for operand in operands]
    end = num_constants + num_carried
    # A carried value depends on the signal if it does after some iteration.
    while True:
        after = _active(program, flags)[:num_carried]
        carried = [a or b for a, b in zip(flags[num_constants:end], after, strict=True)]
        new = [*flags[:num_constants], *carried, *flags[end:]]
        if new == flags:
            return flags[num_constants:]
        flags = new


def _active(
    program: Program,
    flags: Sequence[bool],
) -> list[bool]:
    """Return which results of a program depend on an operand with a flag."""
    jaxpr = getattr(program, "jaxpr", program)
    active = {v for v, flag in zip(jaxpr.invars, flags, strict=True) if flag}

    def is_active(atom: core.Var | core.Literal) -> bool:
        return isinstance(atom, core.Var) and atom in active

    for eqn in jaxpr.eqns:
        read = [is_active(atom) for atom in eqn.invars]
        if not any(read):
            continue
        # Of other equations every result is taken to depend on every operand.
        results = [True] * len(eqn.outvars)
        if eqn.primitive.name in CALLS:
            results = _active(called(eqn), read)
        active.update(v for v, flag in zip(eqn.outvars, results, strict=True) if flag)
    return [is_active(atom) for atom in jaxpr.outvars]
