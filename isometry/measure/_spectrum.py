"""The spectrum of the Jacobian at one example."""

import functools

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from isometry._internal import checks, compilation
from isometry._internal.errors import NotFinite, public
from isometry._internal.types import Key, Params
from isometry.measure import (
    _cost,
    _diagnosis,
    _jacobian,
    _progress,
    _record,
    _resolution,
    methods,
)
from isometry.measure._function import Map
from isometry.measure._progress import Progress
from isometry.measure._record import Spectrum as Spectrum
from isometry.measure._spans import Span
from isometry.measure._target import Target
from isometry.measure.methods import Method


@public("spectrum")
def spectrum(
    f: Map,
    params: Params,
    x: PyTree[Array],
    *,
    method: str | Method = "auto",
    span: Span = "end_to_end",
    dtype: DTypeLike | None = None,
    key: Key | None = None,
    output: int | str | None = None,
    max_bytes: int | None = None,
    progress: Progress = False,
) -> Spectrum:
    """Measure the singular values of the Jacobian of f at one example.

    May be traced: jit, vmap, and grad of `moment` and `log_spread`. Cost of the method
    "dense": min(n_in, n_out) linearized evaluations and one values-only SVD.

    Args:
        f: Any f(params, x), a `Network`, or a list of such blocks applied in turn
            (`networks.chain`); one example, no batch axis (`ensemble` takes many).
        params: Parameters, any pytree.
        x: One floating example. Of a tree of arrays, derivatives are with respect to
            its floating leaves, flattened in the order of `jax.tree.leaves`; random
            keys and whole numbers beside them stay as they are. Where the span starts
            after the input, any tree, such as tokens.
        method: "auto", "dense" or `isometry.Dense()`: form the Jacobian, factorize it.
            "product" or `isometry.Product()`: of a network of known layers, ln s at
            every depth, without a floor. "lanczos" or `isometry.Lanczos(steps,
            probes)`: the nodes of a quadrature, from products with the Jacobian alone;
            steps are clamped to min(n_in, n_out), and `sp.method` says to what. Or a
            `methods.Method` of your own.
        span: "end_to_end"; "hidden", from the first to the last pre-activation, the
            object of the theory; or two points of `isometry.anatomy(f, params, x)`,
            each a name or (name, index). "input" is all floating leaves of x together.
        dtype: What to measure in. By default the promoted dtype of `params` and `x`, at
            least float32: lower ones are cast up, and the record says so.
        key: For methods that draw, such as "lanczos"; the others ignore it.
        output: Which output of f is meant, an index or a key. By default its array, or
            the first of a tuple.
        max_bytes: What the measurement may take; by default a quarter of the free
            memory. Directions are taken in chunks that fit.
        progress: True for a bar on stderr (needs rich), or a function of (done, total)
            directions of one large Jacobian. Without effect when traced, and for
            methods that form none.

    Returns:
        The spectrum.

    Raises:
        InputError: What `jacobian` raises; an unknown method, or one that refuses f; a
            Jacobian that is not finite (when not traced).

    Warns:
        PrecisionWarning: f asks for less than full precision.
        BatchWarning: x may be a batch: no row affects the output of another.
        ZeroJacobianWarning: The Jacobian is exactly zero; the message says why.

    Example:
        >>> net = networks.mlp([32] * 6, "tanh", "orthogonal")
        >>> params = net.init(jax.random.key(0))
        >>> sp = isometry.spectrum(net, params, jnp.full(32, 1e-4))
        >>> sp.condition_number().round(2)
        Array(1., dtype=float32)
    """
    chosen = methods.named(method)
    # Checked before f is traced, which may take seconds.
    methods.require_key(chosen, key)
    target, params, x = _resolution.resolve_once(
        f,
        params,
        x,
        span=span,
        dtype=dtype,
        output=output,
        needs_factors=chosen.needs_factors,
    )
    # A method refuses what it cannot measure before anything is computed.
    chosen.check(target, key)
    target = _cost.chunked_for(target, chosen, params, x=x, max_bytes=max_bytes)
    # An unused key would be one more argument, for which the program compiles again.
    key = key if chosen.needs_key else None
    with _progress.reporter(progress, "directions") as report:
        # A program that is traced has no progress.
        is_watched = progress and not checks.is_traced((params, x))
        if is_watched and chosen.forms_jacobian:
            matrix = _jacobian.in_parts(target, params, x, report=report)
            sp = _factorized(chosen, target, matrix)
        else:
            sp = _measured(chosen, target, params, x=x, key=key)
    sp = _record.with_constants(sp)
    if not checks.is_traced(sp):
        _refuse_or_warn(sp, target, params, x=x)
    return sp


def _refuse_or_warn(
    sp: Spectrum,
    target: Target,
    params: Params,
    x: PyTree,
) -> None:
    """Refuse a Jacobian that is not finite, and warn of one that is zero.

    This is done on the host: inside the program both would have to be compiled.
    """
    is_bad = np.isnan(np.asarray(sp.log_values)).any()
    # A NaN anywhere in a matrix spoils the nodes or the weights of a quadrature.
    if is_bad or np.isnan(np.asarray(sp.weights)).any():
        raise NotFinite(
            "the Jacobian is not finite. Does f overflow, or do params or x hold "
            "values that are NaN or infinite?"
        )
    # A spectrum of zeros is more often a mistake than a result.
    is_zero = bool(_diagnosis.all_zero(sp.log_values))
    _diagnosis.warn_if_zero(target, params, x, is_zero=is_zero)


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _measured(
    method: Method,
    target: Target,
    params: Params,
    x: PyTree,
    key: Key | None,
) -> Spectrum:
    """Measure the spectrum by a method, in one program."""
    sp = method.spectrum(target, params, x=x, key=key)
    return _record.without_constants(sp)


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _factorized(
    method: Method,
    target: Target,
    matrix: Array,
) -> Spectrum:
    """Measure the spectrum of a Jacobian that is formed already."""
    return _record.without_constants(method.of_jacobian(target, matrix))
