"""Rewrites programs so that values inside them can be read and perturbed.

A place is a variable of the program (`_place`). A tap is a place where the rewritten
program reads or perturbs the value; a reading is the value that it reads there. A bump
is an array that is added to the value: the derivative of an output with respect to the
bump is its derivative with respect to the value.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, PyTree

from isometry._internal import equations, jaxprs, kinds
from isometry._internal.errors import InputError
from isometry.structure._place import Inputs, Place, joined

# What a caller gives for a place, which depends on the mode: a number that is added to
# the value (a bump), a new value, or a bump and a flag.
Given: TypeAlias = PyTree[Array]


class Mode(NamedTuple):
    """What happens to a value at a place.

    Attributes:
        edit: Maps the computed value, and what the caller gives (or None), to the value
            that the rest of the program reads.
        reads_first: Whether the reading is the value before it is edited.
    """

    edit: Callable[[Array, Given | None], Array]
    reads_first: bool = False


def _add(
    value: Array,
    bump: Array | None,
) -> Array:
    """Add a bump to a value, if one is given."""
    # Places that are only read add no operation to the program.
    if bump is None:
        return value
    return value + bump


def _cut(
    value: Array,
    given: tuple[Array, Array] | None,
) -> Array:
    """Stop the derivative of a value where the flag says so, and add a bump."""
    if given is None:
        return value
    bump, is_cut = given
    # The bump is added after the cut, or its own derivative would be zero.
    return jnp.where(is_cut, jax.lax.stop_gradient(value), value) + bump


# What is given is a bump.
ADD = Mode(_add)

# No derivative passes a place: a reading depends only on the bumps at the places
# directly before it. So one pass gives the Jacobians of all blocks. The caller gives a
# bump and a flag, whether to cut, because not every iteration of a scan need be a
# place.
CUT = Mode(_cut, reads_first=True)

Arrays: TypeAlias = dict[str, Array]
Tapped: TypeAlias = Callable[
    [Sequence[Array], Mapping[str, Given]], tuple[list[Array], Arrays]
]

# Equations that only call one program, some with a derivative rule of their own.
_CALLS = equations.CALLS | equations.CUSTOM


def replacing(index: tuple[int, ...] = ()) -> Mode:
    """Return the mode in which a given value replaces the computed one, or a part.

    The derivative with respect to the new value is the same as that with respect to a
    bump. The operations before it are not computed, unless something else needs them.

    Args:
        index: Indices into the leading axes of the value, which select the part. Empty
            for the whole value.
    """

    def put(
        value: Array,
        new: Array | None,
    ) -> Array:
        if new is None:
            return value
        if not index:
            return new
        return value.at[index].set(new)

    return Mode(put)


def tapped(
    closed: core.ClosedJaxpr,
    places: Mapping[str, Place | Inputs],
    mode: Mode = ADD,
) -> Tapped:
    """Rewrite a program so that values at places are perturbed and read.

    Equations that enclose no place are evaluated unchanged. A scan that encloses one
    stays a scan: it takes one more input and returns one more output, so compile time
    does not grow with its length. Rules of functions with a `custom_jvp` or
    `custom_vjp` that enclose a place give way to the derivative of the function itself,
    for a rule says nothing about a value inside. The rewritten program can be traced by
    jit, vmap and all derivatives.

    Args:
        closed: The program.
        places: The places, by name. A place inside scans whose `iterations` are empty
            means the values of all iterations, stacked on leading axes, one for each
            scan. Iterations of a reversed scan are in the order of its stacked inputs.
            Several arguments together are perturbed and read as one vector.
        mode: What happens at each place.

    Returns:
        A function of the flat arguments, and of what is given (such as a bump) at some
        of the places by name. It returns the flat outputs, and the values at all of the
        places by name. Values inside a branch of a `cond` that is not taken are NaN.

    Raises:
        InputError: A place is inside an equation that cannot be rewritten (`while`).
    """
    vectors = {n: place for n, place in places.items() if isinstance(place, Inputs)}
    single = {n: place for n, place in places.items() if isinstance(place, Place)}
    if vectors:
        return _tapped_vectors(closed, vectors, single, mode=mode)

    def run(
        arguments: Sequence[Array],
        given: Mapping[str, Given],
    ) -> tuple[list[Array], Arrays]:
        taps = {
            name: _Tap(place, given.get(name), mask=None)
            for name, place in single.items()
        }
        return _run(
            closed,
            arguments,
            taps,
            mode=mode,
        )

    return run


def _tapped_vectors(
    closed: core.ClosedJaxpr,
    vectors: Mapping[str, Inputs],
    single: Mapping[str, Place],
    mode: Mode,
) -> Tapped:
    """Rewrite a program as `tapped` does, with vectors of arguments among the places.

    Args:
        closed: The program.
        vectors: The vectors, by name.
        single: All other places, by name.
        mode: What happens at each place.
    """
    # Each argument of a vector may be a place of its own too, and what is given there
    # is part of the vector. So arguments are read one by one.
    places = dict(single)
    parts: dict[str, list[str]] = {}
    for name, inputs in vectors.items():
        parts[name] = [f"{name}({i})" for i in inputs.positions]
        for part, i in zip(parts[name], inputs.positions, strict=True):
            places[part] = Place((), closed.jaxpr.invars[i], ())
    program = tapped(closed, places, mode)

    def run(
        arguments: Sequence[Array],
        given: Mapping[str, Given],
    ) -> tuple[list[Array], Arrays]:
        edited = list(arguments)
        for name, inputs in vectors.items():
            if name in given:
                vector = mode.edit(inputs.joined(edited), given[name])
                edited = inputs.replaced(edited, vector)
        outputs, readings = program(edited, given)
        for name, inputs in vectors.items():
            reading = joined([readings.pop(part) for part in parts[name]])
            if mode.reads_first:
                reading = inputs.joined(arguments)
            readings[name] = reading
        return outputs, readings

    return run


class _Tap(NamedTuple):
    """A place, relative to the program that is being evaluated.

    Attributes:
        place: The place. Its path starts in that program, and its iterations are those
            of scans inside it.
        given: What the caller gives there, or None.
        mask: Whether the current iterations of the scans around that program are those
            of the place; None if there are no scans, or if all iterations are meant.
    """

    place: Place
    given: Given | None
    mask: Array | None

    def inside(self) -> "_Tap":
        """Return the tap relative to the equation that encloses it."""
        return self._replace(place=self.place._replace(path=self.place.path[1:]))

    def edited(
        self,
        value: Array,
        mode: Mode,
    ) -> Array:
        """Return the value that the rest of the program reads."""
        # The iteration is traced, so that the choice is made when the program runs.
        new = mode.edit(value, self.given)
        if self.mask is None:
            return new
        return jnp.where(self.mask, new, value)


_Taps: TypeAlias = dict[str, _Tap]

# The carry of a rewritten scan: the original carry, and readings of single iterations.
# Its slices: the number of the iteration, the original slices, and what the caller
# gives.
_State: TypeAlias = tuple[list[Array], Arrays]
_Step: TypeAlias = tuple[Array, list[Array], dict[str, Given]]


def _run(
    program: core.ClosedJaxpr | core.Jaxpr,
    arguments: Sequence[Array],
    taps: _Taps,
    mode: Mode,
) -> tuple[list[Array], Arrays]:
    """Evaluate a program equation by equation; perturb and read at the taps.

    Args:
        program: The program.
        arguments: Its arguments.
        taps: The taps by name, all of them inside this program.
        mode: What happens to the value at a tap.

    Returns:
        `(outputs, readings)`: the outputs of the program, and the readings by the name
        of the tap.
    """
    jaxpr, constants = equations.opened(program)
    # A variable may have several names, as a last layer that is the output.
    here: dict[core.Var, list[str]] = {}
    enclosed: dict[int, _Taps] = {}
    for name, tap in taps.items():
        if tap.place.path:
            enclosed.setdefault(tap.place.path[0], {})[name] = tap.inside()
        else:
            here.setdefault(tap.place.var, []).append(name)
    values: dict[core.Var, Array] = {}
    readings: Arrays = {}

    def read(atom: core.Var | core.Literal) -> Array:
        if isinstance(atom, core.Literal):
            return atom.val
        return values[atom]

    def write(
        variable: core.Var,
        value: Array,
    ) -> None:
        names = here.get(variable, ())
        edited = value
        for name in names:
            edited = taps[name].edited(edited, mode)
        values[variable] = edited
        # All names of one variable read the same value, with all perturbations.
        reading = value if mode.reads_first else edited
        readings.update(dict.fromkeys(names, reading))

    # Constants and arguments are places too: "input" is one.
    for variable, value in zip(jaxpr.constvars, constants, strict=True):
        write(variable, value)
    for variable, value in zip(jaxpr.invars, arguments, strict=True):
        write(variable, value)
    for index, eqn in enumerate(jaxpr.eqns):
        operands = [read(atom) for atom in eqn.invars]
        if index in enclosed:
            results, inner = _rewritten(
                eqn,
                operands,
                enclosed[index],
                mode=mode,
            )
            readings.update(inner)
        else:
            results = equations.unchanged(eqn, operands)
        for variable, value in zip(eqn.outvars, results, strict=True):
            write(variable, value)
    return [read(atom) for atom in jaxpr.outvars], readings


def _rewritten(
    eqn: core.JaxprEqn,
    operands: list[Array],
    taps: _Taps,
    mode: Mode,
) -> tuple[list[Array], Arrays]:
    """Evaluate an equation that encloses taps.

    Returns:
        `(results, readings)`: the results of the equation, and the readings by the name
        of the tap.

    Raises:
        InputError: The equation is of a kind that cannot be rewritten.
    """
    name = eqn.primitive.name
    if name == "scan":
        return _scan(
            eqn,
            operands,
            taps,
            mode=mode,
        )
    if name == "cond":
        return _cond(
            eqn,
            operands,
            taps,
            mode=mode,
        )
    if name in _CALLS:
        (program,) = _called(eqn)
        return _run(
            program,
            operands,
            taps,
            mode=mode,
        )
    if name in equations.REMAT:
        return _remat(
            eqn,
            operands,
            taps,
            mode=mode,
        )
    named = ", ".join(taps)
    raise InputError(
        f"span: {named} lies inside a {name}, where nothing can be read or perturbed; "
        "write a point before or after it."
    )


def _called(eqn: core.JaxprEqn) -> list[core.ClosedJaxpr | core.Jaxpr]:
    """Return the programs that an equation calls, with their constants."""
    programs = []
    # Names of the parameter that holds them differ between primitives: jaxpr,
    # call_jaxpr, fun_jaxpr, branches.
    for value in eqn.params.values():
        parts = value if isinstance(value, (tuple, list)) else (value,)
        programs += [p for p in parts if isinstance(p, (core.ClosedJaxpr, core.Jaxpr))]
    return programs


def _remat(
    eqn: core.JaxprEqn,
    operands: list[Array],
    taps: _Taps,
    mode: Mode,
) -> tuple[list[Array], Arrays]:
    """Evaluate a remat, which still recomputes its values in the backward pass."""
    (program,) = _called(eqn)

    def body(arguments: list[Array]) -> tuple[list[Array], Arrays]:
        return _run(
            program,
            arguments,
            taps,
            mode=mode,
        )

    recomputing = jax.checkpoint(
        body,
        prevent_cse=eqn.params["prevent_cse"],
        policy=eqn.params["policy"],
    )
    return recomputing(operands)


def _cond(
    eqn: core.JaxprEqn,
    operands: list[Array],
    taps: _Taps,
    mode: Mode,
) -> tuple[list[Array], Arrays]:
    """Evaluate a cond, each branch with the taps inside it."""
    index, *rest = operands
    shapes = {name: reading_shape(_called(eqn), taps[name].place) for name in taps}

    def rewritten_branch(
        program: core.ClosedJaxpr | core.Jaxpr,
    ) -> Callable[[list[Array]], tuple[list[Array], Arrays]]:
        """Return a branch of a `cond` that also returns a reading for every tap.

        All branches must return the same, so each has one for the taps of the others.
        """
        inside = {n: tap for n, tap in taps.items() if _holds(program, tap.place)}

        def call(operands: list[Array]) -> tuple[list[Array], Arrays]:
            outputs, readings = _run(
                program,
                operands,
                inside,
                mode=mode,
            )
            # All branches of a cond must return the same structure, so a branch returns
            # NaN for the taps in the others.
            for name in taps.keys() - inside.keys():
                readings[name] = _missing(shapes[name])
            return outputs, readings

        return call

    branches = [rewritten_branch(program) for program in _called(eqn)]
    return jax.lax.switch(index, branches, rest)


def _missing(shape: jax.ShapeDtypeStruct) -> Array:
    """Return NaN for a reading that a branch does not compute; zero for integers."""
    # Integers have no NaN.
    if kinds.is_floating(shape):
        return jnp.full(shape.shape, jnp.nan, shape.dtype)
    return jnp.zeros(shape.shape, shape.dtype)


def _holds(
    program: core.ClosedJaxpr | core.Jaxpr,
    place: Place,
) -> bool:
    """Tell whether a place, whose path starts in this program, exists in it."""
    jaxpr, _ = equations.opened(program)
    if place.path:
        index, *rest = place.path
        if index >= len(jaxpr.eqns):
            return False
        inside = place._replace(path=tuple(rest))
        return any(_holds(part, inside) for part in jaxprs.inner(jaxpr.eqns[index]))
    # Variables are unique to their jaxpr, so they are compared by identity.
    results = [v for eqn in jaxpr.eqns for v in eqn.outvars]
    return any(v is place.var for v in (*jaxpr.constvars, *jaxpr.invars, *results))


def in_cond(
    program: core.ClosedJaxpr | core.Jaxpr,
    place: Place,
) -> bool:
    """Tell whether a place is inside a branch of a cond, which may not be taken."""
    programs = [program]
    path = place.path
    while path:
        inside = place._replace(path=path)
        program = next(part for part in programs if _holds(part, inside))
        eqn = equations.opened(program)[0].eqns[path[0]]
        if eqn.primitive.name == "cond":
            return True
        programs, path = _called(eqn), path[1:]
    return False


def reading_shape(
    programs: Sequence[core.ClosedJaxpr | core.Jaxpr],
    place: Place,
) -> jax.ShapeDtypeStruct:
    """Return the shape of what is read at a place, stacked by the scans around it.

    Args:
        programs: The program in which the path starts, or all branches of a cond, in
            one of which it starts.
        place: The place.
    """
    lengths = []
    path, iterations = place.path, place.iterations
    while path:
        inside = place._replace(path=path)
        program = next(p for p in programs if _holds(p, inside))
        eqn = equations.opened(program)[0].eqns[path[0]]
        if eqn.primitive.name == "scan" and not iterations:
            lengths.append(eqn.params["length"])
        # If the place is in one iteration, no axis is added.
        elif eqn.primitive.name == "scan":
            iterations = iterations[1:]
        programs, path = _called(eqn), path[1:]
    aval: Any = place.var.aval
    return jax.ShapeDtypeStruct((*lengths, *aval.shape), aval.dtype)


def _scan(
    eqn: core.JaxprEqn,
    operands: list[Array],
    taps: _Taps,
    mode: Mode,
) -> tuple[list[Array], Arrays]:
    """Evaluate a scan that encloses taps; returns results and readings.

    For taps of all iterations, the scan slices what the caller gives and stacks the
    readings. The reading of a single iteration is carried instead, so that its
    derivatives hold one value and not one for each iteration.
    """
    (program,) = _called(eqn)
    num_constants, num_carried = jaxprs.scan_parts(eqn)
    constants = operands[:num_constants]
    carried = operands[num_constants : num_constants + num_carried]
    stacked_inputs = operands[num_constants + num_carried :]
    length = eqn.params["length"]
    # Taps of one iteration, and taps of all iterations.
    single = {name: tap for name, tap in taps.items() if tap.place.iterations}
    stacked = {name: tap for name, tap in taps.items() if not tap.place.iterations}
    stacked_given = {
        name: tap.given for name, tap in stacked.items() if tap.given is not None
    }

    def body(
        state: _State,
        step: _Step,
    ) -> tuple[_State, tuple[list[Array], Arrays]]:
        carried, held = state
        iteration, inputs, given = step
        is_here = {n: iteration == tap.place.iterations[0] for n, tap in single.items()}
        inside = {n: tap._replace(given=given.get(n)) for n, tap in stacked.items()}
        inside |= {n: _in_iteration(tap, is_here[n]) for n, tap in single.items()}
        outputs, readings = _run(
            program,
            [*constants, *carried, *inputs],
            inside,
            mode=mode,
        )
        held = {
            name: jnp.where(is_here[name], readings.pop(name), value)
            for name, value in held.items()
        }
        return (outputs[:num_carried], held), (outputs[num_carried:], readings)

    held = {name: _nothing_held(program, tap) for name, tap in single.items()}
    (carried, held), (stacked_outputs, readings) = jax.lax.scan(
        body,
        (carried, held),
        (jnp.arange(length), stacked_inputs, stacked_given),
        length=length,
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    return [*carried, *stacked_outputs], readings | held


def _in_iteration(
    tap: _Tap,
    is_here: Array,
) -> _Tap:
    """Return a tap as the body of its scan applies it: only if `is_here`.

    Args:
        tap: A tap of a single iteration.
        is_here: Whether the iteration that the body runs is that of the tap; traced.
    """
    mask = is_here if tap.mask is None else tap.mask & is_here
    return _Tap(_without_iteration(tap.place), tap.given, mask)


def _without_iteration(place: Place) -> Place:
    """Return a place relative to the body of its outermost scan."""
    return place._replace(iterations=place.iterations[1:])


def _nothing_held(
    program: core.ClosedJaxpr | core.Jaxpr,
    tap: _Tap,
) -> Array:
    """Return zeros, which a scan carries until the iteration of the tap is reached."""
    shape = reading_shape([program], _without_iteration(tap.place))
    return jnp.zeros(shape.shape, shape.dtype)
