"""The gradient of f as a compiled program, with its kinks or without."""

import functools
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, PyTree

from isometry._internal import jaxprs, kinds, precision
from isometry._internal.errors import InputError
from isometry._internal.types import Key, Params
from isometry.certificates._relaxation import Relaxed, relaxed
from isometry.certificates._widening import widened
from isometry.networks._network import Network

Function: TypeAlias = Callable[[Params, PyTree], PyTree]

# Type checkers do not accept jax.tree_util.PyTreeDef as a type.
PyTreeDef: TypeAlias = Any

# The errors by which functions refuse a dtype: JAX if two dtypes do not agree, others
# if they require a certain dtype or have a kernel for one only. Any other error is a
# mistake in f, which a trial of another dtype must not hide.
REFUSALS = (TypeError, ValueError, AssertionError, NotImplementedError)

# The number of programs that are kept: an architecture has two, and an audit compares
# about five architectures. With one or two kept, each seed would compile again, which
# takes a second.
_KEPT = 16

# The most characters of an error message that a certificate quotes: with
# the text in front of it they fill two lines of a terminal.
_QUOTED = 96

# Half the spacing of float64 at 1. If f computes with fewer bits, it may round
# different numbers to the same one.
_DOUBLE = 2.0**-53

# Half the spacing of float32 at 1. An f that computes in 16 bits is evaluated in
# float64 instead.
_COARSEST = 2.0**-24


class Program(NamedTuple):
    """The gradient of f.

    Attributes:
        pull: Maps params, x and cotangents of the floating outputs to the gradient with
            respect to the floating leaves of params.
        closed: The jaxpr of the floating outputs.
        original: The same before kinks were replaced. Only this one holds no constants
            but those of f.
        outputs: The shapes of the floating outputs.
        unit: Half the spacing at 1 of the lowest precision in f.
        dtype: The dtype of the arguments of f, float64 or float32.
        num_inputs: The number of inputs at each point; if there are several, x has them
            along a first axis.
        replaced: The primitives with kinks that were replaced.
        unrelaxed: One sentence for each kind of kink that was not replaced.
        failure: The error of f for arguments in float64; "" if it takes them.
    """

    pull: Callable[[Params, PyTree, Sequence[Array | np.ndarray]], list[Array]]
    closed: core.ClosedJaxpr
    original: core.ClosedJaxpr
    outputs: tuple[tuple[int, ...], ...]
    unit: float
    dtype: np.dtype
    num_inputs: int
    replaced: tuple[str, ...]
    unrelaxed: tuple[str, ...]
    failure: str = ""

    @property
    def is_coarse(self) -> bool:
        """Whether f computes anything below double precision."""
        return self.unit > _DOUBLE

    @property
    def arithmetic(self) -> str:
        """The precision in which f computes, and why if it is not double.

        One line: "float64", "float32, in which f computes", "float32; given float64, f
        raises TypeError: scan body function carry input and …".
        """
        if self.failure:
            return f"float32; given float64, f raises {self.failure}"
        if self.is_coarse:
            return "float32, in which f computes, though it was given float64"
        return "float64"

    def mode(self) -> AbstractContextManager:
        """Return a context in which the program may be traced and called."""
        return _mode(self.dtype)


@dataclass(frozen=True)
class _Request:
    """What determines a program; hashable if f is."""

    f: Function
    tree: PyTreeDef
    leaves: tuple[tuple[tuple[int, ...], np.dtype], ...]
    dtype: np.dtype
    num_inputs: int
    key: tuple[int, ...] | None

    def shapes(self) -> tuple[Params, PyTree]:
        """Return the shapes of params and of one x."""
        leaves = [jax.ShapeDtypeStruct(*leaf) for leaf in self.leaves]
        return self.tree.unflatten(leaves)


def program(
    f: Function,
    params: Params,
    x: PyTree,
    *,
    dtype: np.dtype,
    num_inputs: int = 1,
    key: Key | None = None,
) -> Program:
    """Return the gradient of f.

    Args:
        f: The function.
        params: Its parameters; shapes suffice.
        x: One input; shapes suffice.
        dtype: The dtype of the arguments of f: float64, or float32 outside of the
            64-bit mode.
        num_inputs: The number of inputs at each point.
        key: Determines the functions that replace kinks; None leaves kinks as they are.

    Raises:
        InputError: f returns no floating array.
        NotDefined: f computes in 16 bits in a place that cannot be evaluated in
            float64, such as a callback.
    """
    shape_of = functools.partial(precision.shape_of, dtype=dtype)
    leaves, tree = jax.tree.flatten(jax.tree.map(shape_of, (params, x)))
    words = None
    if key is not None:
        words = tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())
    request = _Request(
        f=f,
        tree=tree,
        leaves=tuple((leaf.shape, leaf.dtype) for leaf in leaves),
        dtype=np.dtype(dtype),
        num_inputs=num_inputs,
        key=words,
    )
    # Programs are kept for networks only: what a plain f closes over may change.
    if isinstance(f, Network) and type(f).__call__ is Network.__call__:
        return _kept(_Request(**{**vars(request), "f": f.function}))
    return _built(request)


def _mode(dtype: np.dtype) -> AbstractContextManager:
    """Return the 64-bit mode or none, at full precision of products."""
    contexts = ExitStack()
    contexts.enter_context(jax.enable_x64(dtype == np.float64))
    contexts.enter_context(precision.full())
    return contexts


def _built(request: _Request) -> Program:
    """Trace a program."""
    params, x = request.shapes()
    with _mode(request.dtype):
        fine = _fine(request.f, params, x)
        smooth = _relaxed(fine, params, x, key=request.key)
        f, xs = smooth.f, x
        if request.num_inputs > 1:
            f = jax.vmap(smooth.f, (None, 0))
            xs = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    (request.num_inputs, *leaf.shape), leaf.dtype
                ),
                x,
            )
        outputs = functools.partial(_floating_outputs, f)
        # The lambda is new at each call, so that JAX traces f again: it remembers
        # traces by function, and what f closes over may have changed.
        traced = jax.make_jaxpr(lambda *a: outputs(*a), return_shape=True)
        closed, out = traced(params, xs)
        original = closed
        if smooth.replaced:
            original = jax.make_jaxpr(lambda *a: fine(*a))(params, x)
    if not out:
        raise InputError(
            "f returns no floating array, which could have a gradient; write "
            "f(params, x) that returns the outputs before argmax or rounding."
        )

    def pull(
        params: Params,
        xs: PyTree,
        cotangent: list[Array],
    ) -> list[Array]:
        leaves, tree = jax.tree.flatten(params)
        moving = [i for i, leaf in enumerate(leaves) if kinds.is_floating(leaf)]

        def of_moving(moved: list[Array]) -> list[Array]:
            for i, leaf in zip(moving, moved, strict=True):
                leaves[i] = leaf
            return outputs(tree.unflatten(leaves), xs)

        # One backward pass gives the gradients of all leaves.
        values, back = jax.vjp(of_moving, [leaves[i] for i in moving])
        pairs = zip(cotangent, values, strict=True)
        return back([c.astype(value.dtype) for c, value in pairs])[0]

    return Program(
        pull=jax.jit(pull),
        closed=closed,
        original=original,
        outputs=tuple(leaf.shape for leaf in out),
        unit=_unit_of(closed),
        dtype=request.dtype,
        num_inputs=request.num_inputs,
        replaced=smooth.replaced,
        unrelaxed=smooth.unrelaxed,
    )


_kept = functools.lru_cache(maxsize=_KEPT)(_built)


def _relaxed(
    f: Function,
    params: Params,
    x: PyTree,
    *,
    key: tuple[int, ...] | None,
) -> Relaxed:
    """Return f without kinks; f itself, with the reason, if it cannot be relaxed."""
    if key is None:
        return Relaxed(f, (), ())
    try:
        # Any seed will do, if it is the same for the same key.
        seed = hash(key) % 2**31
        return relaxed(f, params, x, key=jax.random.key(seed))
    # The rewriting may fail for an unusual f; without it there is still evidence.
    except Exception as error:
        return Relaxed(f, (), (f"f could not be relaxed ({in_a_line(error)})",))


def in_a_line(error: Exception) -> str:
    """Return the type of an error and the beginning of its message."""
    message = textwrap.shorten(str(error), _QUOTED, placeholder=" …")
    return f"{type(error).__name__}: {message}"


def _floating_outputs(
    f: Function,
    params: Params,
    x: PyTree,
) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(f(params, x)) if kinds.is_floating(leaf)]


def _unit_of(closed: core.ClosedJaxpr) -> float:
    """Return half the spacing at 1 of the coarsest floating dtype in a program."""
    coarsest = _DOUBLE
    for eqn in jaxprs.equations(closed.jaxpr):
        for var in eqn.outvars:
            aval: Any = var.aval
            if kinds.is_floating(aval):
                coarsest = max(coarsest, float(jnp.finfo(aval.dtype).eps) / 2)
    return coarsest


def _fine(
    f: Function,
    params: Params,
    x: PyTree,
) -> Function:
    """Return f; if it computes in 16 bits, the same function evaluated in float64."""
    closed, out = jax.make_jaxpr(lambda *a: f(*a), return_shape=True)(params, x)
    if _unit_of(closed) <= _COARSEST:
        return f
    tree = jax.tree.structure(out)

    def fine(
        params: Params,
        x: PyTree,
    ) -> PyTree:
        return tree.unflatten(widened(closed, jax.tree.leaves((params, x))))

    return fine
