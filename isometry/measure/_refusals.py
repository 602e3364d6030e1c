"""Errors and warnings about an f, or its x, for which f has to be traced first."""

from collections.abc import Callable

import jax
import numpy as np
from jax.extend import core
from jaxtyping import Array, PyTree

from isometry._internal import jaxprs, kinds, precision
from isometry._internal.errors import InputError, PrecisionWarning
from isometry._internal.types import Params
from isometry.measure import _leaves, _spans
from isometry.measure._function import Program, traced
from isometry.measure._target import Target
from isometry.measure._traces import anatomy_of, of_output, span_traced
from isometry.measure._warnings import warn


def warn_of_precision(coarse: jaxprs.Coarse) -> None:
    """Warn if f computes something below the precision of the measurement."""
    if not coarse.phrases:
        return
    warn(
        f"f asks for less than full precision: {', '.join(coarse.phrases)}. Singular "
        "values below it are noise. Leave the precision to isometry (no precision=, no "
        "cast; build the module with dtype=None, or with that of the measurement, such "
        "as dtype=float64), or, if it is what you want to measure, silence "
        "isometry.PrecisionWarning.",
        PrecisionWarning,
    )


def require_start(
    target: Target,
    params: Params,
    x: PyTree,
) -> None:
    """Refuse an x without a floating array if the span starts at x.

    The Jacobian would have no columns. Tokens beside a floating mask are refused too.
    """
    starts_at_x = target.span == "end_to_end"
    # The hidden span of a network that knows its layers takes x as well. Other spans
    # start at a point, which is checked when it is looked up.
    if target.span == "hidden" and target.network is not None:
        starts_at_x = True
    if not starts_at_x:
        return
    # A `Program` was traced from an f that has passed this check.
    if isinstance(target.f, Program):
        return
    leaves = jax.tree.leaves(x)
    if _leaves.floating(x):
        _require_no_tokens(target, params, x)
        return
    advice = _where_to_start(target, params, x)
    raise _spans.without_derivative(leaves, advice=advice)


def _require_no_tokens(
    target: Target,
    params: Params,
    x: PyTree,
) -> None:
    """Refuse an x of tokens with floating arrays beside them, such as a mask."""
    if not any(map(kinds.is_whole, jax.tree.leaves(x))):
        return
    shapes = target.abstract(params, x)
    try:
        anatomy = anatomy_of(target, *shapes)
    # f may raise anything, and what it raises is reported where it is traced.
    except Exception:
        return
    _spans.require_no_tokens(anatomy)


def _where_to_start(
    target: Target,
    params: Params,
    x: PyTree,
) -> str:
    """Return advice on what to write for a span that does not start at x."""
    shapes = target.abstract(params, x)
    try:
        return _spans.where_to_start(anatomy_of(target, *shapes))
    # f may raise anything, but the error to report is that of x.
    except Exception:
        return "write two points of isometry.anatomy(f, params, x)"


# The most characters of an exception that a message repeats.
_MOST_SHOWN = 300


def first_line(error: Exception) -> str:
    """Return the first line of an exception, cut to what fits in a message."""
    text = str(error).strip().partition("\n")[0]
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def error_of_f(
    error: Exception,
    trace: Callable[[Params, PyTree], object],
    shapes: tuple[Params, PyTree],
    argument: str,
) -> InputError:
    """Return an error that says what f raised, and whether x seems to be a batch.

    Args:
        error: The exception.
        trace: A function that traces f for shapes of params and x.
        shapes: The shapes of params and x at which f raised.
        argument: The name of the argument that holds x.
    """
    params, x = shapes
    shape = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(x))
    return InputError(
        f"f(params, x) raised {type(error).__name__} at x of shape {shape}: "
        f"{first_line(error)}" + _hint_of_batch(trace, params, x, argument=argument)
    )


def _hint_of_batch(
    trace: Callable[[Params, PyTree], object],
    params: Params,
    x: PyTree,
    argument: str,
) -> str:
    """Return a sentence that x seems to be a batch, if f takes x[0]; else ""."""
    if jax.tree.structure(x).num_nodes > 1 or not x.shape:
        return ""
    # The most common mistake is a batch in place of one example.
    row = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    try:
        trace(params, row)
    # f raises at x[0] too, so x is probably no batch.
    except Exception:
        return ""
    batched = "each row of xs" if argument == "xs" else "x"
    return (
        f" It takes x[0], of shape {x.shape[1:]}: {batched} seems to carry a batch "
        "axis. Write x[0], or isometry.ensemble(f, params=..., xs=x) for all."
    )


def require_determinism(
    target: Target,
    params: Params,
    x: PyTree,
    first_trace: core.ClosedJaxpr,
) -> None:
    """Trace a user's f again, and refuse it if it draws numbers from outside.

    Args:
        target: The span of f.
        params: Shapes of the parameters.
        x: Shape of one example.
        first_trace: The jaxpr of the span, from the trace that is made already.
    """
    if isinstance(target.f, Program):
        _, params = params
        assert target.f.closed is not None, "it is examined here for the first time"
        first_trace = target.f.closed
        second_trace, _ = traced(target.f.of_output, params, x)
    elif target.points is not None:
        # The span was made from an earlier trace of f, so that f itself is traced
        # twice.
        f = of_output(target)
        first_trace, _ = traced(f, params, x)
        second_trace, _ = traced(f, params, x)
    else:
        second_trace, _ = span_traced(target, params, x)
    refuse_chance("f", first_trace, second_trace)


# What to write instead, by the kind of function that is not deterministic.
_REMEDY = {
    "f": "Draw what is random from a key among its parameters.",
    "optimizer": "Draw what is random from a key in its state.",
}


def refuse_chance(
    what: str,
    first_trace: core.ClosedJaxpr,
    second_trace: core.ClosedJaxpr,
) -> None:
    """Refuse a function whose two traces hold different constants.

    Args:
        what: The name of the function in the message: "f", "optimizer".
        first_trace: A jaxpr of the function.
        second_trace: Another jaxpr of the function, for the same arguments.
    """
    # Numbers that f draws outside of JAX are constants of its jaxpr.
    first = jaxprs.constants(first_trace)
    second = jaxprs.constants(second_trace)
    if len(first) == len(second):
        pairs = zip(first, second, strict=True)
        if all(a is b or np.array_equal(a, b, equal_nan=True) for a, b in pairs):
            return
    raise InputError(
        f"{what} is not deterministic: traced twice on the same arguments it holds "
        "different numbers (np.random, a clock, a counter). "
        f"{_REMEDY.get(what, 'Close over one draw.')}"
    )


def require_derivative(
    target: Target,
    params: Params,
    x: PyTree,
) -> None:
    """Refuse an f whose derivative rule raises.

    No numbers are computed: f is differentiated at shapes, in reverse mode if that is
    the only mode it has.
    """

    def derivative(
        params: Params,
        x: PyTree,
        start: Array,
    ) -> PyTree:
        def g(z: Array) -> Array:
            return target.apply(params, x, z)

        if target.reverse_only:
            y, pull = jax.vjp(g, start)
            return pull(y)
        return jax.jvp(g, (start,), (start,))

    try:
        with precision.full():
            jax.eval_shape(derivative, params, x, start=target.shape_in)
    # A user's rules may raise anything.
    except Exception as error:
        raise InputError(
            f"f(params, x) raised {type(error).__name__} when it was differentiated: "
            f"{first_line(error)}"
        ) from error
