"""Makes a `Target` from f and a span: checks the arguments, and traces f once.

A target is a span of f at fixed shapes and dtypes, ready to be measured (`_target`).
"""

import functools
from collections.abc import Hashable
from dataclasses import replace

import jax
from jax.typing import DTypeLike
from jaxtyping import PyTree

from isometry._internal import checks, jaxprs, precision
from isometry._internal.errors import InputError
from isometry._internal.types import Params
from isometry.measure import _blocks, _diagnosis, _spans
from isometry.measure._arguments import (
    cannot_be_batch,
    canonical,
    example,
    function_of,
    lowest_dtype,
    require_example,
    require_params,
)
from isometry.measure._arguments import chained as chained
from isometry.measure._function import (
    Map,
    Program,
    Reference,
    require_array,
    traced,
    version,
)
from isometry.measure._refusals import (
    error_of_f,
    require_derivative,
    require_determinism,
    require_start,
    warn_of_precision,
)
from isometry.measure._spans import Span
from isometry.measure._target import Target
from isometry.measure._traces import anatomy_of, of_output, span_traced
from isometry.networks._layered import LayeredFunction

# Outputs are counted from the end too.
_FIRST_OUTPUT = -(2**63)


def resolve(
    f: Map,
    params: Params,
    x: PyTree,
    *,
    span: Span,
    dtype: DTypeLike | None,
    output: int | str | None = None,
    needs_factors: bool = False,
    argument: str = "x",
) -> Target:
    """Resolve a span for many measurements of one f.

    What f closes over is a constant of the programs compiled for the target.

    Args:
        f: A `Network`, any f(params, x), or a list of blocks.
        params: Parameters of one seed, or their shapes.
        x: One example, or its shape.
        span: "end_to_end", "hidden", or two points.
        dtype: What to measure in, or None.
        output: Which of f's outputs is meant.
        needs_factors: Whether f is to be cut into blocks.
        argument: The name of the argument that holds x, for messages.

    Returns:
        The target.

    Raises:
        InputError: f is not callable, raises, or returns no real floating array; the
            span is not defined; params or x cannot be measured at.
    """
    function = function_of(f)
    x = example(x)
    require_example(f, x, argument=argument)
    require_params(f, params)
    target = _untraced_target(
        function, params, x, span=span, dtype=dtype, output=output
    )
    target = replace(target, needs_factors=needs_factors)
    return _with_trace(target, params, x, argument=argument)


def resolve_once(
    f: Map,
    params: Params,
    x: PyTree,
    *,
    span: Span,
    dtype: DTypeLike | None,
    output: int | str | None,
    needs_factors: bool = False,
) -> tuple[Target, Params, PyTree]:
    """Resolve a span for one measurement.

    A user's f is traced anew, and what it closes over becomes an argument: it may have
    changed since the last call.

    Returns:
        The target, and the params and x with which its functions are called.
    """
    checks.not_abstract("params", params)
    checks.not_abstract("x", x)
    function = function_of(f)
    x = example(x)
    require_example(f, x, argument="x")
    require_params(f, params)
    target = _untraced_target(
        function, params, x, span=span, dtype=dtype, output=output
    )
    target = replace(target, needs_factors=needs_factors)
    if target.span == "end_to_end" and target.network is None:
        # Not for named points: their names come from a trace with the user's params.
        program = _traced_program(target, params, x)
        target = replace(target, f=program, output=None)
        assert program.closed is not None, "it has just been traced"
        params = (program.closed.consts, params)
        target = _with_trace(target, params, x, argument="x")
        # The cached target may hold an equal program, whose function no longer exists.
        target = replace(target, f=program)
        program.closed = None
    else:
        if not isinstance(function, LayeredFunction):
            target = replace(target, version=_version(target, params, x))
        target = _with_trace(target, params, x, argument="x")
    # Only from end to end is x what the user calls an example.
    if target.span == "end_to_end" and not cannot_be_batch(f):
        _diagnosis.warn_of_batch(target, params, x)
    return target, params, x


def _traced_program(
    target: Target,
    params: Params,
    x: PyTree,
) -> Program:
    """Return a user's f, from x to its output, traced as a `Program`."""
    require_start(target, params, x)
    shapes = target.abstract(params, x)
    try:
        closed, out = traced(of_output(target), *shapes)
    except InputError:
        raise
    # A user's f may raise anything.
    except Exception as error:
        trace = functools.partial(span_traced, target)
        raise error_of_f(error, trace, shapes, argument="x") from error
    require_array(out)
    assert isinstance(target.f, Reference), "a program is not traced again"
    return Program(target.f, target.output, closed)


def _version(
    target: Target,
    params: Params,
    x: PyTree,
) -> Hashable:
    """Return an object that changes with what f closes over; None if f raises."""
    shapes = target.abstract(params, x)
    try:
        closed, _ = traced(of_output(target), *shapes)
    # An exception is reported later, when f is traced again.
    except Exception:
        return None
    assert isinstance(target.f, Reference), "programs are of spans from end to end"
    return version(closed, target.f)


def _untraced_target(
    function: Map,
    params: Params,
    x: PyTree,
    *,
    span: Span,
    dtype: DTypeLike | None,
    output: int | str | None,
) -> Target:
    """Check the arguments; return the target without the fields that tracing sets."""
    span = canonical(span)
    knows_layers = isinstance(function, LayeredFunction)
    if knows_layers and span == "hidden" and function.depth < 3:
        raise InputError(
            'span="hidden" runs from z_1 to z_(depth-1) and needs depth 3; this one '
            f"has {function.depth}."
        )
    # A complex function has a real Jacobian of twice the size, which is not supported.
    checks.real("params", params)
    checks.real("x", x)
    if output is not None and not isinstance(output, str):
        output = checks.integer("output", output, low=_FIRST_OUTPUT)
    return Target(
        f=Reference(function),
        output=output,
        span=span,
        dtype=precision.measuring_dtype(dtype, params, x),
        recast=lowest_dtype(params, x),
    )


def _with_trace(
    target: Target,
    params: Params,
    x: PyTree,
    argument: str,
) -> Target:
    """Return a target with the fields that tracing sets; warn of low precision."""
    shapes = target.abstract(params, x)
    try:
        # Nothing is run: jax.jit is used because it caches what was traced.
        target = _examine_cached.eval_shape(target, *shapes)
    except Exception:
        # Once more without jax.jit, whose errors carry a note about JAX's own frames.
        target = _examine(target, *shapes, argument=argument)
    warn_of_precision(target.coarse)
    return target


@functools.partial(jax.jit, static_argnums=0)
def _examine_cached(
    target: Target,
    params: Params,
    x: PyTree,
) -> Target:
    """Return what `_examine` returns, cached for equal targets and shapes."""
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, x))
    return _examine(target, *shapes, argument="x")


def _examine(
    target: Target,
    params: Params,
    x: PyTree,
    argument: str,
) -> Target:
    """Trace the span at these shapes; return the target with what the trace tells.

    These are the shapes at both ends, the derivatives and the precision of f, and how
    much memory its values take.

    Raises:
        InputError: The span cannot be measured.
    """
    # Parameters of another network may have fitting shapes, so they are refused.
    if target.network is not None:
        target.network.check(params)
    require_start(target, params, x)
    try:
        target = _with_points(target, params, x)
        closed, (start, out) = span_traced(target, params, x)
    except InputError:
        raise
    # A user's f may raise anything.
    except Exception as error:
        trace = functools.partial(span_traced, target)
        raise error_of_f(error, trace, (params, x), argument=argument) from error
    require_array(out)
    if out.size == 0 or start.size == 0:
        raise InputError(f"the Jacobian of {start.shape} -> {out.shape} is empty.")
    # Loops of unknown length have no reverse derivative, custom_vjp no forward one.
    forward_only, reverse_only = jaxprs.one_way(closed.jaxpr)
    target = replace(
        target,
        shape_in=start,
        shape_out=out,
        coarse=jaxprs.coarse(closed.jaxpr, target.dtype),
        forward_only=forward_only,
        reverse_only=reverse_only,
        held=jaxprs.held(closed.jaxpr),
    )
    if target.network is None:
        require_determinism(target, params, x, first_trace=closed)
        require_derivative(target, params, x)
    return target


def _with_points(
    target: Target,
    params: Params,
    x: PyTree,
) -> Target:
    """Return the target with its points and blocks, if these come from the anatomy."""
    # A network that knows its layers has functions for its hidden span and its factors.
    knows_layers = target.network is not None
    needs_points = target.span != "end_to_end"
    if target.span == "hidden" and knows_layers:
        needs_points = False
    needs_blocks = target.needs_factors and not knows_layers
    if not (needs_points or needs_blocks):
        return target
    anatomy = anatomy_of(target, params, x)
    if needs_points:
        points = _spans.resolve(of_output(target), anatomy, target.span)
        target = replace(target, points=points)
    # With points the network's own factors no longer apply.
    if target.needs_factors and target.network is None:
        target = replace(target, blocks=_blocks.blocks_of_span(anatomy, target.span))
    return target
