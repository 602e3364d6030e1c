"""Reads a jaxpr into one flat list of values, with all calls inlined.

Calls (jit, remat, custom_jvp, custom_vjp) and the branches of a cond are inlined. The
body of a scan is read once; `_unrolling` lays out its iterations.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from jax.extend import core

from isometry._internal import jaxprs, kinds
from isometry.structure import _walking

# Operations whose inside cannot be read: they have no jaxpr, or one that does not say
# how results depend on operands. How often `while` iterates is not known before it
# runs.
_OPAQUE = frozenset(
    (
        "while",
        "pure_callback",
        "io_callback",
        "debug_callback",
        "custom_call",
        "ffi_call",
        "pallas_call",
        "tpu_custom_call",
        "custom_linear_solve",
        "custom_root",
    )
)


# Prefix that marks the name of a function with a custom_jvp, which is most often an
# activation.
CUSTOM = "custom_jvp "


# Indices of values, nodes or axes; shapes; or iterations of scans, of the outermost
# scan first.
Indices: TypeAlias = tuple[int, ...]


class Value(NamedTuple):
    """One value of the program.

    Attributes:
        operation: The name of the primitive. Values that no primitive computes have
            names of their own: "argument", "constant", "scan_carry" (the state at the
            start of an iteration), "scan_each" (the slice of an array that an iteration
            takes), "scan_last" (the state after the last iteration), "scan_stack" (what
            all iterations return) and "cond_choice" (what one branch of a cond
            returns).
        inputs: Indices of the values that it is computed from. Of a carry: the state
            before the first iteration.
        aval: Its shape and dtype.
        eqn: The equation that returns it, or the scan around it; None for arguments and
            constants.
        path: Indices of the equations around it, as in `Place`.
        var: The variable of the innermost jaxpr; None for a literal.
        scans: Indices of the scans around it, outermost first.
        calls: Names of the functions around it ("relu", "_var"), outermost first.
        number: The value of a constant or literal.
    """

    operation: str
    inputs: Indices
    aval: Any
    eqn: core.JaxprEqn | None = None
    path: Indices = ()
    var: core.Var | None = None
    scans: Indices = ()
    calls: tuple[str, ...] = ()
    number: Any = None

    @property
    def shape(self) -> Indices:
        """The shape; () for a value without one, such as a token."""
        return tuple(getattr(self.aval, "shape", ()))

    @property
    def source_shape(self) -> Indices:
        """The shape of the first operand of its equation."""
        if self.eqn is None:
            return ()
        aval: Any = self.eqn.invars[0].aval
        return tuple(aval.shape)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of its equation."""
        return {} if self.eqn is None else self.eqn.params

    @property
    def is_floating(self) -> bool:
        """Whether it is floating, so that it may have a derivative."""
        return kinds.is_floating(self.aval)


class Scan(NamedTuple):
    """One scan: the values of its body are `values[start:stop]`.

    Attributes:
        length: The number of iterations.
        is_reverse: Whether the first iteration takes the last slice.
        start: Index of the first value of the body.
        stop: Index after the last one.
        carries: Indices of the states at the start of an iteration.
        returned: Indices of the states at its end, one for each carry.
    """

    length: int
    is_reverse: bool
    start: int
    stop: int
    carries: Indices
    returned: Indices

    def index_of(self, iteration: int) -> int:
        """Return which slice of the stacked arrays an iteration takes."""
        return self.length - 1 - iteration if self.is_reverse else iteration


@dataclasses.dataclass(frozen=True)
class Program:
    """The values of a program in an order in which they can be computed.

    Attributes:
        values: All values. The body of a scan occurs once, and is contiguous.
        scans: The scans, in the order in which they begin.
        params: Indices of the leaves of params.
        x: Indices of the leaves of x.
        outputs: Indices of what the program returns.
    """

    values: tuple[Value, ...]
    scans: tuple[Scan, ...]
    params: Indices
    x: Indices
    outputs: Indices

    @functools.cached_property
    def feedback(self) -> dict[int, int]:
        """For each carry, the value that becomes the carry of the next iteration."""
        pairs: dict[int, int] = {}
        for scan in self.scans:
            pairs |= dict(zip(scan.carries, scan.returned, strict=True))
        return pairs

    @functools.cached_property
    def of_x(self) -> frozenset[int]:
        """The indices of all values that depend on x."""
        return self.reached(self.x)

    @functools.cached_property
    def of_params(self) -> frozenset[int]:
        """The indices of all values that depend on a parameter."""
        return self.reached(self.params)

    @functools.cached_property
    def of_states(self) -> list[frozenset[int]]:
        """For each scan, the indices of all values that depend on its state."""
        return [self.reached(scan.carries) for scan in self.scans]

    @functools.cached_property
    def readers(self) -> list[list[int]]:
        """For each value, those computed from it, in this iteration or in the next."""
        readers: list[list[int]] = [[] for _ in self.values]
        for index, value in enumerate(self.values):
            for read in dict.fromkeys(value.inputs):
                readers[read].append(index)
        for carry, returned in self.feedback.items():
            readers[returned].append(carry)
        return readers

    def reached(self, start: Iterable[int]) -> frozenset[int]:
        """Return the indices of all values that depend on one of `start`, included."""
        return frozenset(_walking.reached(start, self.readers.__getitem__))


class _Surroundings(NamedTuple):
    """What encloses an equation: fields of `Value`."""

    path: Indices = ()
    scans: Indices = ()
    calls: tuple[str, ...] = ()


class _Reader:
    """Reads a jaxpr; holds the values and scans that are read so far.

    A scan is None while its body is being read. Methods that read something add its
    values, and return the indices of its results.
    """

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.scans: list[Scan | None] = []

    def add(self, value: Value) -> int:
        """Add a value, and return its index."""
        self.values.append(value)
        return len(self.values) - 1

    def jaxpr(
        self,
        jaxpr: core.Jaxpr,
        arguments: Sequence[int],
        where: _Surroundings,
    ) -> list[int]:
        """Read a jaxpr.

        Args:
            jaxpr: The jaxpr.
            arguments: Indices of the values of its constants, then of its arguments.
            where: What encloses its equations.

        Returns:
            Indices of its outputs.
        """
        variables = [*jaxpr.constvars, *jaxpr.invars]
        # Two calls of one function share its variables, so each call has its own table.
        value_of = dict(zip(variables, arguments, strict=True))
        for index, eqn in enumerate(jaxpr.eqns):
            inputs = self.atoms(eqn.invars, value_of)
            inside = where._replace(path=(*where.path, index))
            outputs = self.equation(eqn, inputs, inside)
            value_of |= dict(zip(eqn.outvars, outputs, strict=True))
        return self.atoms(jaxpr.outvars, value_of)

    def called(
        self,
        called: core.ClosedJaxpr | core.Jaxpr,
        arguments: Sequence[int],
        where: _Surroundings,
    ) -> list[int]:
        """Read a jaxpr that may have constants of its own."""
        # In some versions of JAX one class stands for both kinds.
        jaxpr: Any = getattr(called, "jaxpr", called)
        numbers = getattr(called, "consts", ())
        constants = [
            self.add(Value("constant", (), var.aval, number=number))
            for var, number in zip(jaxpr.constvars, numbers, strict=False)
        ]
        return self.jaxpr(jaxpr, [*constants, *arguments], where)

    def atoms(
        self,
        atoms: Sequence[core.Var | core.Literal],
        value_of: dict[core.Var, int],
    ) -> list[int]:
        """Return the indices of the values of variables and literals."""
        indices = []
        for atom in atoms:
            if isinstance(atom, core.Literal):
                literal = Value("constant", (), atom.aval, number=atom.val)
                indices.append(self.add(literal))
            else:
                indices.append(value_of[atom])
        return indices

    def equation(
        self,
        eqn: core.JaxprEqn,
        inputs: list[int],
        inside: _Surroundings,
    ) -> list[int]:
        """Read one equation, and what it calls."""
        name = eqn.primitive.name
        # Loops and choices first: they hold jaxprs too, but not one that runs once.
        if name == "scan":
            return self.scan(eqn, inputs, inside)
        if name == "cond":
            return self.cond(eqn, inputs, inside)
        called = callee(eqn)
        if called is not None:
            title = eqn.params.get("name")
            if isinstance(title, str):
                is_rule = name.startswith("custom_jvp")
                title = CUSTOM + title if is_rule else title
                inside = inside._replace(calls=(*inside.calls, title))
            return self.called(called, inputs, inside)
        # The path of a result does not include the equation itself.
        outside = inside._replace(path=inside.path[:-1])
        return self.results(name, inputs, eqn=eqn, where=outside)

    def results(
        self,
        operation: str,
        inputs: list[int],
        *,
        eqn: core.JaxprEqn,
        where: _Surroundings,
    ) -> list[int]:
        """Add the values that an equation returns, each computed from all inputs."""
        return [
            self.defined(operation, inputs, var, eqn=eqn, where=where)
            for var in eqn.outvars
        ]

    def defined(
        self,
        operation: str,
        inputs: Iterable[int],
        var: core.Var,
        *,
        eqn: core.JaxprEqn,
        where: _Surroundings,
    ) -> int:
        """Add the value of one variable that an equation defines; return its index."""
        value = Value(
            operation,
            tuple(inputs),
            var.aval,
            eqn=eqn,
            path=where.path,
            var=var,
            scans=where.scans,
            calls=where.calls,
        )
        return self.add(value)

    def cond(
        self,
        eqn: core.JaxprEqn,
        inputs: list[int],
        inside: _Surroundings,
    ) -> list[int]:
        """Read every branch; each result depends on the choice and on all branches."""
        # Which branch runs depends on a value, so all of them are read.
        choice, *operands = inputs
        returned = [
            self.called(branch, operands, inside) for branch in eqn.params["branches"]
        ]
        outside = inside._replace(path=inside.path[:-1])
        outputs = []
        for i, var in enumerate(eqn.outvars):
            candidates = [branch[i] for branch in returned]
            output = self.defined(
                "cond_choice",
                [choice, *candidates],
                var,
                eqn=eqn,
                where=outside,
            )
            outputs.append(output)
        return outputs

    def scan(
        self,
        eqn: core.JaxprEqn,
        inputs: list[int],
        inside: _Surroundings,
    ) -> list[int]:
        """Read a scan: what its body takes, the body once, and what it returns."""
        body = eqn.params["jaxpr"]
        inner = getattr(body, "jaxpr", body)
        num_consts, num_carry = jaxprs.scan_parts(eqn)
        num_fixed = num_consts + num_carry
        outside = inside._replace(path=inside.path[:-1])
        # The index is reserved first, so that scans inside the body come after it.
        index = len(self.scans)
        self.scans.append(None)
        inside = inside._replace(scans=(*inside.scans, index))

        start = len(self.values)
        entering = []
        arguments = list(inputs[:num_consts])
        for i in range(num_consts, len(inputs)):
            operation = "scan_carry" if i < num_fixed else "scan_each"
            argument = self.defined(
                operation,
                [inputs[i]],
                inner.invars[i],
                eqn=eqn,
                where=inside,
            )
            entering.append(argument)
        if not entering:
            # `_unrolling` finds a scan by its first value, so there must be one.
            self.add(Value("constant", (), eqn.outvars[0].aval, scans=inside.scans))
        # The body is read once, whatever the length.
        returned = self.called(body, [*arguments, *entering], inside)
        self.scans[index] = Scan(
            eqn.params["length"],
            is_reverse=eqn.params["reverse"],
            start=start,
            stop=len(self.values),
            carries=tuple(entering[:num_carry]),
            returned=tuple(returned[:num_carry]),
        )

        outputs = []
        for i, var in enumerate(eqn.outvars):
            operation = "scan_last" if i < num_carry else "scan_stack"
            output = self.defined(
                operation,
                [returned[i]],
                var,
                eqn=eqn,
                where=outside,
            )
            outputs.append(output)
        return outputs


def callee(eqn: core.JaxprEqn) -> core.ClosedJaxpr | core.Jaxpr | None:
    """Return the jaxpr that an equation runs on its operands, or None.

    The names of such primitives differ between versions of JAX ("pjit" and "jit"), so
    the jaxpr is told by its number of arguments and results.
    """
    if eqn.primitive.name in _OPAQUE:
        return None
    candidates = [
        value
        for value in eqn.params.values()
        if isinstance(value, (core.ClosedJaxpr, core.Jaxpr))
    ]
    # Equations with derivative rules hold several; only the one that is run fits.
    for candidate in candidates:
        jaxpr = getattr(candidate, "jaxpr", candidate)
        takes_all = len(jaxpr.invars) == len(eqn.invars)
        returns_all = len(jaxpr.outvars) == len(eqn.outvars)
        if takes_all and returns_all:
            return candidate
    return None


def is_opaque(value: Value) -> bool:
    """Tell whether a value is computed by an operation whose inside cannot be read."""
    return value.operation in _OPAQUE


def read(closed: core.ClosedJaxpr, num_params: int) -> Program:
    """Read a jaxpr into a list of values.

    Args:
        closed: The jaxpr of f, a function of the leaves of params, then those of x.
        num_params: The number of leaves of params.
    """
    reader = _Reader()
    arguments = [
        reader.add(Value("argument", (), var.aval, var=var))
        for var in closed.jaxpr.invars
    ]
    outputs = reader.called(closed, arguments, _Surroundings())
    scans = [scan for scan in reader.scans if scan is not None]
    return Program(
        values=tuple(reader.values),
        scans=tuple(scans),
        params=tuple(arguments[:num_params]),
        x=tuple(arguments[num_params:]),
        outputs=tuple(outputs),
    )
