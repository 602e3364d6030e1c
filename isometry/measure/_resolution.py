"""Makes a `Target` from f and a span: checks the arguments, and traces f once."""

import functools
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from isometry import structure
from isometry._internal import checks, jaxprs, precision
from isometry._internal.errors import InputError, PrecisionWarning
from isometry._internal.types import Params
from isometry.measure import _blocks, _diagnosis, _leaves, _spans
from isometry.measure._function import (
    Map,
    Program,
    Reference,
    picked,
    require_array,
    traced,
    version,
)
from isometry.measure._spans import End, Span
from isometry.measure._target import Target
from isometry.measure._warnings import warn
from isometry.networks import Network, chain
from isometry.networks._layered import LayeredFunction
from isometry.networks._network import Built, Redrawn

# The bits of float32; lower floating dtypes are cast up to it.
_FULL_BITS = 32


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
    output: int | str | None = None,
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
    if target.span == "end_to_end" and not _cannot_be_batch(f):
        _diagnosis.warn_of_batch(target, params, x)
    return target, params, x


def _traced_program(
    target: Target,
    params: Params,
    x: PyTree,
) -> Program:
    """Trace a user's f from x to its output."""
    _require_start(target, params, x)
    shapes = target.abstract(params, x)
    try:
        closed, out = traced(_of_output(target), *shapes)
    except InputError:
        raise
    # A user's f may raise anything.
    except Exception as error:
        trace = functools.partial(_span_traced, target)
        raise error_of_f(error, trace, shapes, argument="x") from error
    require_array(out)
    assert isinstance(target.f, Reference), "a program is not traced again"
    return Program(target.f, target.output, closed)


def _version(
    target: Target,
    params: Params,
    x: PyTree,
) -> Hashable:
    """Return a key that changes with what a user's f closes over, by tracing f."""
    shapes = target.abstract(params, x)
    try:
        closed, _ = traced(_of_output(target), *shapes)
    # f is traced again later, where an exception is reported.
    except Exception:
        return None
    assert isinstance(target.f, Reference), "programs are of spans from end to end"
    return version(closed, target.f)


def chained(f: Map | list[Map]) -> Map:
    """Return f, or the chain of a list of blocks."""
    return chain(f) if isinstance(f, (list, tuple)) else f


def function_of(f: Map | list[Map]) -> Map:
    """Return f(params, x) of a network, of a list of blocks, or of itself."""
    f = chained(f)
    if isinstance(f, Network):
        f = f.function
    if not callable(f):
        raise InputError(
            f"f={checks.show(f)} is not callable; write f(params, x) for one example x."
        )
    return f


def example(x: PyTree) -> PyTree:
    """Return an example whose leaves are arrays; a list of numbers is one array."""
    # Trees of arrays are for functions that take them; a list of numbers is what a user
    # means by an array.
    leaves = jax.tree.leaves(x)
    are_numbers = all(isinstance(leaf, (bool, int, float)) for leaf in leaves)
    is_array = jax.tree.structure(x).num_nodes == 1
    # A dictionary or a tuple of arrays stays a tree.
    if are_numbers or is_array:
        return x if isinstance(x, jax.ShapeDtypeStruct) else checks.array("x", x)
    paths = jax.tree_util.tree_leaves_with_path(x)
    arrays = []
    for path, leaf in paths:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            leaf = _leaves.array_or_key(f"x{jax.tree_util.keystr(path)}", leaf)
        arrays.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(x), arrays)


def abstract(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Return the shapes of `tree` after its floating leaves are cast to `dtype`."""
    return jax.tree.map(lambda leaf: precision.shape_of(leaf, dtype), tree)


def _untraced_target(
    function: Map,
    params: Params,
    x: PyTree,
    *,
    span: Span,
    dtype: DTypeLike | None,
    output: int | str | None,
) -> Target:
    """Check the arguments, and return the target without the fields set by tracing."""
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
    return Target(
        f=Reference(function),
        output=output,
        span=span,
        dtype=precision.measuring_dtype(dtype, params, x),
        recast=_lowest_dtype(params, x),
    )


def require_example(f: Map | list[Map], x: PyTree, argument: str) -> None:
    """Refuse an x that is not what a `Network` takes: a batch, or another shape.

    Args:
        f: A network. Of any other f nothing is known, and any x passes.
        x: One example, or its shape.
        argument: The name of the argument that holds x, "x" or "xs".
    """
    if not isinstance(f, Network) or f.example is None or f.any_size:
        return
    # In training mode x is a batch, of any number of examples.
    if f.mode == "training":
        return
    shapes = f.example
    if jax.tree.structure(x) != jax.tree.structure(shapes):
        raise InputError(
            f"{argument} is a tree {jax.tree.structure(x)}, and this network takes "
            f"{_described(shapes)}."
        )
    pairs = list(zip(jax.tree.leaves(x), jax.tree.leaves(shapes), strict=True))
    if all(jnp.shape(leaf) == expected.shape for leaf, expected in pairs):
        return
    is_batch = all(jnp.shape(leaf)[1:] == expected.shape for leaf, expected in pairs)
    if argument == "xs":
        raise InputError(
            f"xs holds rows of {_described(x)}, and this network takes rows of "
            f"{_described(shapes)}."
        )
    if is_batch:
        count = jnp.shape(jax.tree.leaves(x)[0])[0]
        raise InputError(
            f"x is {_described(x)}: {count} examples, and one of {_described(shapes)} "
            "is meant; write x[0], or isometry.ensemble(net, params=..., xs=x) for "
            "all, with params stacked on a seeds axis."
        )
    raise InputError(
        f"x is {_described(x)}, and this network takes one example of "
        f"{_described(shapes)}. For another size build the network with such an "
        "example."
    )


def _described(x: PyTree) -> str:
    """Describe the shapes of an input."""
    if jax.tree.structure(x).num_nodes == 1:
        return f"shape {jnp.shape(x)}"
    return f"shapes {jax.tree.map(jnp.shape, x)}"


def canonical(span: Span) -> Span:
    """Return a span as a name or as tuples, which are hashable."""
    # A single string is the name of a span and not of a point.
    if isinstance(span, str):
        return _spans.require_named(span)
    if isinstance(span, (tuple, list)):
        span = cast(Span, tuple(map(_end, span)))
    try:
        hash(span)
    except TypeError:
        raise InputError(
            f"span={checks.show(span)} is not a span; write two points of "
            "isometry.anatomy(f, params, x).points."
        ) from None
    return span


def _end(end: End) -> End:
    """Return one end of a span, a list as a tuple."""
    return cast(End, tuple(end)) if isinstance(end, list) else end


def _lowest_dtype(params: Params, x: PyTree) -> str | None:
    """Return the name of the lowest floating dtype, if it is below float32."""
    leaves = jax.tree.leaves((params, x))
    dtypes = {jnp.result_type(leaf) for leaf in leaves if not checks.is_key(leaf)}
    # Integers, such as tokens, are not cast and lose nothing.
    low = [
        dtype.name
        for dtype in dtypes
        if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < _FULL_BITS
    ]
    return min(low, default=None)


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


@functools.partial(jax.jit, static_argnums=0)
def _examine_cached(
    target: Target,
    params: Params,
    x: PyTree,
) -> Target:
    """Do what `_examine` does, but only once for equal targets and shapes."""
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
    _require_start(target, params, x)
    try:
        target = _with_points(target, params, x)
        closed, (start, out) = _span_traced(target, params, x)
    except InputError:
        raise
    # A user's f may raise anything.
    except Exception as error:
        trace = functools.partial(_span_traced, target)
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
        _require_determinism(target, params, x, first_trace=closed)
        _require_derivative(target, params, x)
    return target


def _with_points(
    target: Target,
    params: Params,
    x: PyTree,
) -> Target:
    """Find the points of a span and its blocks, if only the anatomy of f tells them."""
    # A network that knows its layers has functions for its hidden span and its factors.
    knows_layers = target.network is not None
    needs_points = target.span != "end_to_end"
    if target.span == "hidden" and knows_layers:
        needs_points = False
    needs_blocks = target.needs_factors and not knows_layers
    if not (needs_points or needs_blocks):
        return target
    anatomy = _anatomy(target, params, x)
    if needs_points:
        points = _spans.resolve(_of_output(target), anatomy, target.span)
        target = replace(target, points=points)
    # With points the network's own factors no longer apply.
    if target.needs_factors and target.network is None:
        target = replace(target, blocks=_blocks.blocks_of_span(anatomy, target.span))
    return target


def _of_output(target: Target) -> Map:
    """Return the function from params and x to the one output that is measured."""

    def f(params: Params, x: PyTree) -> Array:
        return picked(target.f(params, x), target.output)

    return f


def _anatomy(
    target: Target,
    params: Params,
    x: PyTree,
) -> structure.Anatomy:
    """Read the anatomy of f, up to the output that is measured."""
    # Points belong to the program that is measured, which is at full precision.
    with precision.full():
        return structure.anatomy(_of_output(target), params, x)


def _require_start(
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
    # A program is made of a function that has passed.
    if isinstance(target.f, Program):
        return
    leaves = jax.tree.leaves(x)
    if _leaves.floating(x):
        _require_no_lookup(target, params, x)
        return
    description = f"a tree of {len(leaves)} arrays, none of them floating"
    if len(leaves) == 1:
        description = f"{leaves[0].dtype}, which has no derivative"
    advice = _where_to_start(target, params, x)
    raise InputError(f"x is {description}, and the span starts at x; {advice}.")


def _require_no_lookup(
    target: Target,
    params: Params,
    x: PyTree,
) -> None:
    """Refuse an x of tokens with floating arrays beside them, such as a mask.

    The derivative would be with respect to the mask alone, which nobody means.
    """
    if not any(map(_leaves.is_whole, jax.tree.leaves(x))):
        return
    shapes = target.abstract(params, x)
    try:
        anatomy = _anatomy(target, *shapes)
    # f may raise anything, and what it raises is reported where it is traced.
    except Exception:
        return
    if not anatomy.embeddings:
        return
    beside = _spans.floating_leaves_of_x(anatomy)[0]
    raise InputError(
        f"x holds whole numbers that select rows of {anatomy.embeddings[0].name!r}, "
        "and the span starts at x, whose floating arrays alone have a derivative; "
        f"{_spans.where_to_start(anatomy)}. With respect to what lies beside the "
        f'tokens: span=("{beside}", "output").'
    )


def _where_to_start(
    target: Target,
    params: Params,
    x: PyTree,
) -> str:
    """Say what to write for a span that does not start at x."""
    shapes = target.abstract(params, x)
    try:
        return _spans.where_to_start(_anatomy(target, *shapes))
    # f may raise anything, but the error to report is that of x.
    except Exception:
        return "write two points of isometry.anatomy(f, params, x)"


def _span_traced(
    target: Target,
    params: Params,
    x: PyTree,
) -> tuple[core.ClosedJaxpr, PyTree]:
    """Return the jaxpr of the span, and the shapes at its start and end."""

    def program(params: Params, x: PyTree) -> tuple[Array, Array]:
        start = target.start(params, x)
        return start, target.apply(params, x, start)

    with precision.full():
        return jax.make_jaxpr(program, return_shape=True)(params, x)


# The most characters of an exception that a message repeats.
_MOST_SHOWN = 300


def first_line(error: Exception) -> str:
    """Return what an exception says, cut to what fits in a message."""
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
    """Say that x seems to be a batch, if f takes x[0]; otherwise return ""."""
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


def _require_determinism(
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
        # The points were found in another trace.
        f = _of_output(target)
        first_trace, _ = traced(f, params, x)
        second_trace, _ = traced(f, params, x)
    else:
        second_trace, _ = _span_traced(target, params, x)
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
        what: What the message calls the function: "f", "optimizer".
        first_trace: Its jaxpr.
        second_trace: Its jaxpr again, for the same arguments.
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


def _require_derivative(
    target: Target,
    params: Params,
    x: PyTree,
) -> None:
    """Refuse an f whose derivative rule raises.

    Nothing is computed: f is differentiated for shapes, in reverse mode if that is the
    only one it has.
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


def _cannot_be_batch(f: Map | list[Map]) -> bool:
    """Tell whether x needs no warning that it may be a batch.

    The warning is for an x whose rows do not affect each other. `require_example` has
    compared x with the example of a network already.
    """
    if not isinstance(f, Network):
        return False
    # The package's own networks know their example from their arguments. There rows may
    # be independent nevertheless: delta kernels never mix the rows of an image. The
    # example of an adapter comes from the user, and may be a batch itself.
    is_own = isinstance(f, Built) and not isinstance(f, Redrawn)
    # In training mode x is a batch by intention.
    return is_own or f.mode == "training"
