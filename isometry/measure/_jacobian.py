"""The function `jacobian`: the dense Jacobian of f(params, x), at full precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from isometry import linalg
from isometry._internal import checks, compilation, precision
from isometry._internal.errors import InputError, public
from isometry._internal.types import Params
from isometry.measure import _cost, _diagnosis, _progress, _resolution
from isometry.measure._function import Map
from isometry.measure._progress import Progress, Report
from isometry.measure._spans import Span
from isometry.measure._target import Target

# The number of parts in which a Jacobian is formed to report progress. With a tenth the
# report would hardly move; with ten times more, f would be linearized ten times as
# often, once for each part, which costs time beside its directions.
_PARTS = 20


@public("jacobian")
def jacobian(
    f: Map,
    params: Params,
    x: PyTree[Array],
    *,
    span: Span = "end_to_end",
    dtype: DTypeLike | None = None,
    output: int | str | None = None,
    max_bytes: int | None = None,
    progress: Progress = False,
) -> Float[Array, "out in"]:
    """Compute the Jacobian of f with respect to x at one example.

    Outputs and inputs are flattened in C order; a number is an array of one. Products
    are at full precision throughout. Cost: min(n_in, n_out) linearized evaluations, or
    for a Network of known layers their product. May be traced.

    Args:
        f: Any f(params, x), a `Network`, or a list of such blocks applied in turn
            (`networks.chain`). One example, no batch axis.
        params: Parameters, any pytree.
        x: One floating example. Of a tree of arrays, derivatives are with respect to
            its floating leaves, flattened in the order of `jax.tree.leaves`; random
            keys and whole numbers beside them stay as they are. Where the span starts
            after the input, any tree, such as tokens.
        span: "end_to_end"; "hidden", from the first to the last pre-activation; or two
            points of `isometry.anatomy(f, params, x)`, each a name or (name, index).
            "input" is all floating leaves of x together.
        dtype: What to measure in. By default the promoted dtype of `params` and `x`, at
            least float32: lower ones are cast up.
        output: Which output of f is meant, an index or a key. By default its array, or
            the first of a tuple.
        max_bytes: What the measurement may take; by default a quarter of the free
            memory. Directions are taken in chunks that fit.
        progress: True for a bar on stderr (needs rich), or a function of (done, total)
            directions. Without effect when traced.

    Returns:
        The matrix, (n_out, n_in).

    Raises:
        InputError: f is not callable, raises, or returns no real floating array; params
            or x are complex; x is not floating; the span is not defined; the matrix is
            too large, or not finite (when not traced).

    Warns:
        PrecisionWarning: f asks for less than full precision.
        BatchWarning: x may be a batch: no row affects the output of another.
        ZeroJacobianWarning: The Jacobian is exactly zero; the message says why.

    Example:
        >>> def f(w, x):
        ...     return jnp.tanh(w @ x)
        >>> isometry.jacobian(f, jnp.diag(jnp.array([1.0, 2.0])), jnp.zeros(2))
        Array([[1., 0.],
               [0., 2.]], dtype=float32)
    """
    target, params, x = _resolution.resolve_once(
        f, params, x, span=span, dtype=dtype, output=output
    )
    # Nothing is allocated before this has passed.
    footprint = _cost.forming(target, params, x)
    target = _cost.chunked(target, footprint, max_bytes)
    with _progress.reporter(progress, "directions") as report:
        if progress and not checks.is_traced((params, x)):
            matrix = in_parts(target, params, x, report=report)
            checks.all_finite("the Jacobian", matrix)
            is_zero = not np.any(matrix)
            _diagnosis.warn_if_zero(target, params, x, is_zero=is_zero)
            return matrix
        matrix, num_bad, is_zero = _formed(target, params, x)
    # Counted inside the program: outside, each operation would be compiled alone.
    if not checks.is_traced(num_bad) and num_bad:
        raise InputError(
            f"the Jacobian holds {int(num_bad)} values that are NaN or infinite."
        )
    _diagnosis.warn_if_zero(target, params, x, is_zero=is_zero)
    return matrix


@functools.partial(compilation.jit, static_argnums=0)
def _formed(
    target: Target,
    params: Params,
    x: PyTree,
) -> tuple[Float[Array, "m n"], Array, Array]:
    """Return the Jacobian, the number of bad entries, and whether all are zero.

    Bad entries are not finite.
    """
    matrix = target.jacobian(params, x)
    return matrix, jnp.sum(~jnp.isfinite(matrix)), jnp.all(matrix == 0)


def in_parts(
    target: Target,
    params: Params,
    x: PyTree,
    report: Report,
) -> Float[Array, "m n"]:
    """Return the Jacobian, formed in parts; report how many directions are done."""
    m, n = target.shape
    # Forward mode gives a column for each input, reverse mode a row for each output.
    by_columns = goes_forward(target)
    total = n if by_columns else m
    if target.layered:
        matrix, _, _ = _formed(target, params, x)
        report(total, total)
        return matrix
    size = min(target.chunk or total, -(-total // _PARTS))
    # On the host: a device array would be copied whole for each part.
    matrix = np.empty((m, n), target.dtype)
    for first in range(0, total, size):
        # The last part overlaps the one before, so that one program serves all.
        first = min(first, total - size)
        part = _rows_or_columns(target, size, params, x=x, first=jnp.asarray(first))
        if by_columns:
            matrix[:, first : first + size] = part
        else:
            matrix[first : first + size] = part
        report(min(first + size, total), total)
    return checks.on_device(matrix)


def goes_forward(target: Target) -> bool:
    """Tell whether the Jacobian is formed in forward mode, by columns."""
    if target.forward_only or target.reverse_only:
        return target.forward_only
    m, n = target.shape
    return m > n


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _rows_or_columns(
    target: Target,
    size: int,
    params: Params,
    x: PyTree,
    first: Array,
) -> Float[Array, "part directions"]:
    """Return `size` rows of the Jacobian from row `first` on.

    In forward mode, where a direction gives a column, these are columns.
    """
    with precision.full():
        g, point = target.vector_map(params, x)
        if goes_forward(target):
            # The Jacobian with respect to a slice of the inputs is these columns.
            input_slice = jax.lax.dynamic_slice(point, (first,), (size,))

            def of_input_slice(z: Array) -> Array:
                return g(jax.lax.dynamic_update_slice(point, z, (first,)))

            return linalg.matrix_of(of_input_slice, input_slice, forward=True)

        def output_slice(z: Array) -> Array:
            return jax.lax.dynamic_slice(g(z), (first,), (size,))

        return linalg.matrix_of(output_slice, point, forward=False)
