"""Cuts a function of one value out of a program, with the program's derivatives."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from jax.extend import core
from jax.typing import ArrayLike
from jaxtyping import Array

from isometry._internal.equations import unchanged
from isometry.structure import _reading
from isometry.structure._place import Place

Path: TypeAlias = tuple[int, ...]

# More equations than any activation has. A longer segment is a part of the network, and
# to run it again would cost as much as the network does.
_MOST_EQUATIONS = 100


class _Level(NamedTuple):
    """A jaxpr inside a program.

    Attributes:
        jaxpr: The jaxpr.
        numbers: The values of its constants, and of arguments that are numbers.
    """

    jaxpr: core.Jaxpr
    numbers: dict[core.Var, ArrayLike]


def segment(
    closed: core.ClosedJaxpr, start: Place, end: Place
) -> Callable[[Array], Array] | None:
    """Return what a program computes between two of its values, as a function.

    Calls in between are kept whole, so that functions with a derivative rule of their
    own keep it.

    Args:
        closed: The program.
        start: The place of the first value.
        end: The place of the second, which depends on the first and on constants alone.

    Returns:
        A function from the first value, in one iteration of the scans around it, to the
        second; None if they are inside of different calls.
    """
    starts, ends = _outward(closed, start), _outward(closed, end)
    starts = _inward(closed, starts, end.path) | starts
    for path in sorted(starts.keys() & ends.keys(), key=len):
        level = _level(closed, path)
        if level is None:
            continue
        equations = _between(level, starts[path], ends[path])
        if equations is not None:
            return _runner(level, equations, start=starts[path], end=ends[path])
    return None


def _outward(closed: core.ClosedJaxpr, place: Place) -> dict[Path, core.Var]:
    """Return the variables that hold a value, in the calls around it that return it."""
    path, var = place.path, place.var
    held = {path: var}
    while path:
        *around, index = path
        outer, inner = _level(closed, tuple(around)), _level(closed, path)
        if outer is None or inner is None:
            break
        eqn = outer.jaxpr.eqns[index]
        # What a loop returns is another value.
        if eqn.primitive.name == "scan":
            break
        results = inner.jaxpr.outvars
        positions = [i for i, result in enumerate(results) if result is var]
        if not positions:
            break
        path, var = tuple(around), eqn.outvars[positions[0]]
        held[path] = var
    return held


def _inward(
    closed: core.ClosedJaxpr, held: dict[Path, core.Var], towards: Path
) -> dict[Path, core.Var]:
    """Return the arguments that hold a value, in calls along a path that take it."""
    found: dict[Path, core.Var] = {}
    for length in range(len(towards)):
        path = towards[:length]
        var = found.get(path, held.get(path))
        outer, inner = _level(closed, path), _level(closed, towards[: length + 1])
        if var is None or outer is None or inner is None:
            continue
        eqn = outer.jaxpr.eqns[towards[length]]
        # What a loop takes is another value in each iteration.
        if eqn.primitive.name == "scan" or var not in _variables(eqn):
            continue
        found[towards[: length + 1]] = inner.jaxpr.invars[eqn.invars.index(var)]
    return found


def _variables(eqn: core.JaxprEqn) -> list[core.Var]:
    """Return the operands of an equation that are no numbers."""
    return [atom for atom in eqn.invars if isinstance(atom, core.Var)]


def _level(closed: core.ClosedJaxpr, path: Path) -> _Level | None:
    """Return the jaxpr to which a path leads; None if it leads into a choice."""
    jaxpr = closed.jaxpr
    numbers: dict[core.Var, ArrayLike] = {}
    numbers |= zip(jaxpr.constvars, closed.consts, strict=True)
    for index in path:
        eqn = jaxpr.eqns[index]
        inner: Any = _reading.callee(eqn)
        if eqn.primitive.name == "scan":
            inner = eqn.params["jaxpr"]
        if inner is None:
            return None
        jaxpr = getattr(inner, "jaxpr", inner)
        outer_numbers, numbers = numbers, {}
        numbers |= zip(jaxpr.constvars, getattr(inner, "consts", ()), strict=False)
        for atom, var in zip(eqn.invars, jaxpr.invars, strict=True):
            if isinstance(atom, core.Literal):
                numbers[var] = atom.val
            elif atom in outer_numbers:
                numbers[var] = outer_numbers[atom]
    return _Level(jaxpr, numbers)


def _between(
    level: _Level, start: core.Var, end: core.Var
) -> list[core.JaxprEqn] | None:
    """Return the equations from one variable to another, in order.

    None if they need anything else but constants.
    """
    made_by = {
        var: index
        for index, eqn in enumerate(level.jaxpr.eqns)
        for var in eqn.outvars
        if isinstance(var, core.Var)
    }
    given = {start, *level.numbers}
    needed: set[int] = set()
    pending: list[Any] = [end]
    while pending:
        var = pending.pop()
        if isinstance(var, core.Literal) or var in given:
            continue
        if var not in made_by or len(needed) > _MOST_EQUATIONS:
            return None
        if made_by[var] not in needed:
            needed.add(made_by[var])
            pending += level.jaxpr.eqns[made_by[var]].invars
    return [level.jaxpr.eqns[index] for index in sorted(needed)]


def _runner(
    level: _Level, equations: Sequence[core.JaxprEqn], start: core.Var, end: core.Var
) -> Callable[[Array], Array]:
    """Return the function that evaluates some equations."""

    def run(value: Array) -> Array:
        values: dict[core.Var, Any] = {**level.numbers, start: value}
        for eqn in equations:
            operands = [_read(atom, values) for atom in eqn.invars]
            results = unchanged(eqn, operands)
            values |= dict(zip(eqn.outvars, results, strict=True))
        return values[end]

    return run


def _read(atom: core.Var | core.Literal, values: Mapping[core.Var, Any]) -> Any:
    """Return the value of an operand: a number of the program, or computed."""
    if isinstance(atom, core.Literal):
        return atom.val
    return values[atom]
