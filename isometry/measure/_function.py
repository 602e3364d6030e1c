"""A user's f as programs know it: what makes two of them equal, and its one output."""

import contextlib
import hashlib
import inspect
import weakref
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, PyTree

from isometry._internal import checks, jaxprs, precision
from isometry._internal.errors import InputError
from isometry._internal.types import Params
from isometry.networks import Function

Map = Callable[[Params, PyTree], PyTree]


class Reference:
    """A function to be compared by, not kept alive by the programs compiled for it.

    A user's function may close over parameters of any size. As for `jax.jit`, it must
    be a function of its arguments alone.
    """

    def __init__(self, f: Map):
        # At first as for what can neither be hashed nor be referred to weakly.
        self._get: Callable[[], Map | None] = lambda: f
        self._identity: Hashable = f
        if not _is_hashable(f):
            # An Equinox module holds arrays, which have no hash.
            self._identity = id(f)
        elif isinstance(f, Function):
            # Networks are equal by architecture, and hold no parameters.
            pass
        elif inspect.ismethod(f):
            # A bound method is made anew by each look at it, and gone at once.
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


def _is_hashable(f: Map) -> bool:
    try:
        hash(f)
    except TypeError:
        return False
    return True


class Program:
    """The jaxpr of a function, called as `program((constants, params), x)`.

    Two are equal if they read the same. What the function closes over is passed as an
    argument: one compiled program serves all closures, and never measures what a
    function closed over before.

    Attributes:
        reference: The function.
        output: Which of its outputs is meant.
        closed: The jaxpr with what the function closes over; None once it has been
            examined, for caches to keep the program alone.
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
        self._jaxpr = closed.jaxpr
        self._key = reading(closed, reference)

    def __call__(self, given: tuple[list[Array], Params], x: PyTree) -> Array:
        constants, params = given
        run = core.jaxpr_as_fun(core.ClosedJaxpr(self._jaxpr, constants))
        (y,) = run(*jax.tree.leaves((params, x)))
        return y

    def of_output(self, params: Params, x: PyTree) -> PyTree:
        """Call the function itself."""
        return picked(self.reference(params, x), self.output)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def traced(
    f: Map,
    params: Params,
    x: PyTree,
) -> tuple[core.ClosedJaxpr, PyTree]:
    """Return the jaxpr of f at full matmul precision, and the shape of its output."""

    def anew(params: Params, x: PyTree) -> PyTree:
        # JAX remembers traces by function, so this one is new each time.
        return f(params, x)

    with precision.full():
        return jax.make_jaxpr(anew, return_shape=True)(params, x)


def reading(closed: core.ClosedJaxpr, reference: Reference) -> Hashable:
    """Return what is equal for two traces of a function that read the same."""
    return str(closed.jaxpr), _unsaid(closed.jaxpr, reference)


def version(closed: core.ClosedJaxpr, reference: Reference) -> Hashable:
    """Return what is equal for two traces of a function that compute the same.

    They read the same, and what the function closes over holds the same numbers.
    """
    # Of what is traced itself no numbers are known, so it is a version of its own.
    if checks.is_traced(closed.consts):
        return object()
    digest = hashlib.blake2b()
    for constant in closed.consts:
        # Random keys are compared by their bits.
        if jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
            constant = jax.random.key_data(constant)
        digest.update(np.asarray(constant).tobytes())
    return reading(closed, reference), digest.digest()


def _unsaid(jaxpr: core.Jaxpr, reference: Reference) -> Hashable:
    """Return what the words of a jaxpr do not say.

    Of a derivative that a function brings, the words tell the name alone; so programs
    with such rules are equal only if their function is the same. Arrays closed over
    inside loops are compared by identity.
    """
    # custom_jvp_call, custom_vjp_call, and what their names become in other versions.
    names = {eqn.primitive.name for eqn in jaxprs.equations(jaxpr)}
    has_rules = any(name.startswith("custom_") for name in names)
    blank = [None] * len(jaxpr.constvars)
    # Numbers of no axis stand in the words themselves.
    numbers = jaxprs.constants(core.ClosedJaxpr(jaxpr, blank))
    arrays = tuple(id(number) for number in numbers if np.ndim(number) > 0)
    return arrays, reference if has_rules else None


def picked(y: PyTree, output: int | str | None) -> PyTree:
    """Return the output that is meant: `y[output]`, `y`, or the first of a tuple."""
    # Networks that return something beside their output put it behind.
    if output is None:
        if isinstance(y, (tuple, list)) and y:
            return y[0]
        return y
    try:
        return y[output]
    except (TypeError, KeyError, IndexError):
        raise InputError(
            f"output={output!r} is none of f's outputs; it returns {_outputs(y)}."
        ) from None


def require_array(y: PyTree) -> jax.ShapeDtypeStruct:
    """Require one real floating array, by its shape."""
    if not hasattr(y, "dtype"):
        raise InputError(
            f"f returns {_outputs(y)}; it must return one array. Write output=, an "
            "index or a key, to choose one."
        )
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise InputError(f"f returns {y.dtype}; it must return a real floating array.")
    return y


def _outputs(y: PyTree) -> str:
    """Describe what f returns."""
    kind = type(y).__name__
    if isinstance(y, dict):
        return f"a dict of {', '.join(map(repr, y))}"
    if isinstance(y, (tuple, list)):
        return f"a {kind} of {len(y)}"
    return f"a {kind}"
