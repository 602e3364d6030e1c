"""A user's f: when two functions share a program, and which output is measured."""

import contextlib
import inspect
import weakref
from collections.abc import Callable, Hashable

import jax
from jax.extend import core
from jaxtyping import Array, PyTree

from isometry._internal import checks, digests, jaxprs, kinds, precision
from isometry._internal.errors import InputError
from isometry._internal.types import Params

Map = Callable[[Params, PyTree], PyTree]


class Reference:
    """A hashable, weak reference to a function, for programs compiled for it.

    A user's function may close over large parameters, which caches of programs must not
    keep alive. As for `jax.jit`, it must be a function of its arguments alone.
    """

    def __init__(self, f: Map):
        # A strong reference, for objects that allow no weak one.
        self._get: Callable[[], Map | None] = lambda: f
        self._identity: Hashable = f
        if not checks.is_hashable(f):
            # An Equinox module holds arrays, which have no hash.
            self._identity = id(f)
        elif type(f).__hash__ is not object.__hash__ and not inspect.ismethod(f):
            # Functions of networks are equal by architecture, and hold no parameters.
            # They may be made anew for each call, and a weak reference would be dead.
            pass
        elif inspect.ismethod(f):
            # Each access makes a new bound method, and a plain weak reference to it
            # would be dead at once.
            self._get = self._identity = weakref.WeakMethod(f)
        else:
            with contextlib.suppress(TypeError):
                # Objects of a class with __slots__ may refuse.
                self._get = self._identity = weakref.ref(f)

    @property
    def function(self) -> Map:
        """The function itself."""
        f = self._get()
        assert f is not None, "the caller holds f for the length of the call"
        return f

    def __call__(self, params: Params, x: PyTree) -> PyTree:
        return self.function(params, x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


class Program:
    """The jaxpr of a function, called as `program((constants, params), x)`.

    Two programs are equal if they compute the same function. The arrays that it closes
    over, `constants`, are an argument: one compiled program serves all of them, and
    arrays that have changed are measured as they are now.

    Attributes:
        reference: The function.
        output: Which of its outputs is measured: an index or a key; None for the output
            itself, or the first of a tuple.
        closed: The jaxpr with the arrays that the function closes over. It is set to
            None after the first use, so that caches do not keep these arrays alive.
    """

    closed: core.ClosedJaxpr | None

    def __init__(
        self,
        reference: Reference,
        output: int | str | None,
        closed: core.ClosedJaxpr,
    ):
        self.reference = reference
        self.output = output
        self.closed = closed
        # This jaxpr holds no arrays that are closed over, so that it may be kept.
        self._jaxpr = closed.jaxpr
        self._identity = identity(closed, reference)

    def __call__(
        self, constants_and_params: tuple[list[Array], Params], x: PyTree
    ) -> Array:
        constants, params = constants_and_params
        run = core.jaxpr_as_fun(core.ClosedJaxpr(self._jaxpr, constants))
        (y,) = run(*jax.tree.leaves((params, x)))
        return y

    def of_output(self, params: Params, x: PyTree) -> PyTree:
        """Call the function itself, and return the output that is measured."""
        return picked(self.reference(params, x), self.output)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


def traced(
    f: Map,
    params: Params,
    x: PyTree,
) -> tuple[core.ClosedJaxpr, PyTree]:
    """Trace f at full matmul precision.

    Returns:
        `(closed, out)`: the jaxpr, a function of the leaves of params and x, and the
        shapes of what f returns.
    """

    def new_function(params: Params, x: PyTree) -> PyTree:
        # JAX caches traces by function, so a new one makes it trace again.
        return f(params, x)

    with precision.full():
        return jax.make_jaxpr(new_function, return_shape=True)(params, x)


def identity(closed: core.ClosedJaxpr, reference: Reference) -> Hashable:
    """Return an object that is equal for two traces that compute the same function.

    They may close over other arrays, which are arguments of the program: `version`
    compares them too. Arrays that are closed over by functions inside, as by one that
    is compiled by itself, are compared here.
    """
    own = jaxprs.constants(core.ClosedJaxpr(closed.jaxpr, [None] * len(closed.consts)))
    numbers = [number for number in own if number is not None]
    # Tracers have no values to compare, so no other trace is equal.
    if checks.is_traced(numbers):
        return object()
    # JAX prints neither what a function does, as a rule of derivatives or a callback,
    # nor all entries of a large array.
    of_functions = reference if _holds_functions(closed.jaxpr) else None
    return str(closed.jaxpr), digests.of_arrays(numbers), of_functions


def version(closed: core.ClosedJaxpr, reference: Reference) -> Hashable:
    """Return an object that is equal if also the arrays closed over are equal."""
    # Tracers have no values to compare, so no other trace is equal.
    if checks.is_traced(closed.consts):
        return object()
    return identity(closed, reference), digests.of_arrays(closed.consts)


def _holds_functions(jaxpr: core.Jaxpr) -> bool:
    """Tell whether an equation of a program holds a function of Python."""
    for eqn in jaxprs.equations(jaxpr):
        # custom_jvp_call, custom_vjp_call, and their names in other versions of JAX,
        # which wrap the rules in classes of their own.
        if eqn.primitive.name.startswith("custom_"):
            return True
        for value in eqn.params.values():
            # Records, such as the generator of a key, are printed by their names.
            parts = value if type(value) in (tuple, list) else (value,)
            if any(map(_is_function, parts)):
                return True
    return False


def _is_function(part: object) -> bool:
    """Tell whether a parameter of an equation is a function of Python."""
    # Meshes can be called, as decorators.
    is_mesh = isinstance(part, (jax.sharding.Mesh, jax.sharding.AbstractMesh))
    return callable(part) and not is_mesh and not isinstance(part, type)


def picked(y: PyTree, output: int | str | None) -> PyTree:
    """Return the measured output: y[output]; for None y, or the first of a tuple.

    Raises:
        InputError: y has no such output.
    """
    # Networks with auxiliary results return them after their output.
    if output is None:
        if isinstance(y, (tuple, list)) and y:
            return y[0]
        return y
    try:
        return y[output]
    except (TypeError, KeyError, IndexError):
        raise InputError(
            f"output={output!r} is none of f's outputs; it returns {checks.kind_of(y)}."
        ) from None


def require_array(y: PyTree) -> jax.ShapeDtypeStruct:
    """Require that the output, given by its shape, is one real floating array."""
    if not hasattr(y, "dtype"):
        raise InputError(
            f"f returns {checks.kind_of(y)}; it must return one array. Write output=, "
            "an index or a key, to choose one."
        )
    if not kinds.is_floating(y):
        raise InputError(f"f returns {y.dtype}; it must return a real floating array.")
    return y
