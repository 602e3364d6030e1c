"""From f(params, x) to its dense Jacobian, forward or reverse by shape, full precision throughout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks, linalg
from isometry._internal import precision
from isometry.linalg import Factors
from isometry.measure import _tracing
from isometry.measure.methods import Dense as Dense
from isometry.measure.methods import Lanczos as Lanczos
from isometry.measure.methods import Product as Product
from isometry.networks import SPANS, Function, Network, chain


@dataclass(frozen=True)
class Target:
    """The map whose Jacobian is meant: `apply` around the point that `start` makes of x. Hashable where f is.

    `pairs`: how many (W, D) pairs the span holds; None end to end, where theory's laws do not apply, and where nobody
    knows.
    """

    f: Callable[..., Any]
    span: str
    pairs: int | None

    def start(self, params: Any, x: Any) -> Any:
        return x if self.span == "end_to_end" else self.f.stem(params, x)  # pyright: ignore[reportFunctionMemberAccess]

    def apply(self, params: Any, z: Any) -> Any:
        return self.f(params, z) if self.span == "end_to_end" else self.f.hidden(params, z)  # pyright: ignore[reportFunctionMemberAccess]

    @property
    def layered(self) -> bool:
        """Whether the factors of the Jacobian are known, with matrices that all inputs share."""
        return isinstance(self.f, Function) and self.f.shares_matrices

    @property
    def sparse(self) -> bool:
        """Whether scales of those factors can be exactly zero."""
        return self.layered and self.f.has_dead_slopes  # pyright: ignore[reportFunctionMemberAccess]

    def factors(self, params: Any, x: Any) -> list[Factors]:
        """The factors of the Jacobian at x, first to last; the slopes and blocks behind them at full precision too."""
        with precision.full():
            return self.f.factors(params, x, self.span)  # pyright: ignore[reportFunctionMemberAccess]


def target(call: str, f: Any, span: str) -> Target:
    """The span of f that is to be measured.

    **Raises** `ValueError`: f not callable; unknown span; "hidden" of a plain function or of less than one (W, D) pair.
    """
    _checks.one_of(call, among=SPANS, span=span)
    f = chained(f)
    function = f.function if isinstance(f, Network) else f
    if not callable(function):
        raise _checks.InputError(
            f"{call}(): f={_checks.show(f)} is not callable; write f(params, x) for one example x."
        )
    if span == "end_to_end":
        return Target(function if isinstance(function, Function) else _hashable(function), span, None)
    if not isinstance(function, Function):
        raise _checks.InputError(f'{call}(): span="hidden" needs a Network; of a plain f only "end_to_end" is known.')
    if function.depth < 3:
        raise _checks.InputError(
            f'{call}(): span="hidden" runs from z_1 to z_(depth-1) and needs depth 3; this one has {function.depth}.'
        )
    return Target(function, span, function.pairs)


def _hashable(f: Any) -> Any:
    """f, by which programs are known; in a wrapper if it holds arrays, as an Equinox module does, and has no hash."""
    try:
        hash(f)
    except TypeError:
        return lambda params, x: f(params, x)
    return f


def chained(f: Any) -> Any:
    """f; of a list of blocks, their chain."""
    return chain(f) if isinstance(f, (list, tuple)) else f


def shapes(call: str, aim: Target, params: Any, x: Any, dtype: Any) -> tuple[int, int]:
    """(n_out, n_in) of the Jacobian, found without computing.

    Warns (`PrecisionWarning`, at the caller's caller) of what f computes below full precision.

    **Raises** `ValueError`: x not real floating or empty; f raises; an output that is not one non-empty real floating
    array.
    """
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        kind = getattr(x, "dtype", type(x).__name__)
        raise _checks.InputError(f"{call}(): x is {kind}, not a real floating array; write x.astype(jnp.float32).")
    start, out, coarse, *_ = _tracing.traced(call, aim, params, x, dtype)
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise _checks.InputError(f"{call}(): f returns a {type(out).__name__}; it must return one array.")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise _checks.InputError(f"{call}(): f returns {out.dtype}; it must return a real floating array.")
    if out.size == 0 or start.size == 0:
        raise _checks.InputError(f"{call}(): the Jacobian of {start.shape} -> {out.shape} is empty.")
    _tracing.warn_of(call, coarse, stacklevel=3)
    return out.size, start.size


def dense_jacobian(aim: Target, params: Any, x: Any, dtype: Any, chunk: int | None = None) -> Float[Array, "m n"]:
    """J of shape (n_out, n_in) in `dtype`: the product of its layers where they are known, else by autodiff.

    Autodiff takes `chunk` directions at a time (all if None), from one linearization.
    """
    if aim.layered:
        return _wide_jacobians(aim, params, jnp.asarray(x)[None], dtype)[0]
    with precision.full():
        g, point = _vector_map(aim, params, x, dtype)
        has = _traced(aim, params, x, dtype)
        forward = has.forward_only if has.forward_only or has.reverse_only else None
        return linalg.matrix_of(g, point, chunk, forward).astype(dtype)


def operator(aim: Target, params: Any, x: Any, dtype: Any) -> linalg.Operator:
    """J by its products: of its layers where they are known, else from one linearization."""
    if aim.layered:
        return linalg.factored(aim.factors(*precision.cast((params, x), dtype)))
    has = _traced(aim, params, x, dtype)
    if has.forward_only:
        raise _checks.InputError(
            'method="lanczos" needs Jᵀ v, and f holds a while_loop, which has no reverse derivative; write a scan or '
            'a fori_loop with constant bounds, or method="dense".'
        )
    with precision.full():
        found = linalg.Operator.linearized(*_vector_map(aim, params, x, dtype))
    if has.reverse_only:  # perhaps of params alone
        try:
            jax.eval_shape(jax.vmap(found.matvec), jax.ShapeDtypeStruct((1, *found.shape[1:]), found.dtype))
        except TypeError as error:
            raise _checks.InputError(
                'method="lanczos" needs J v, and f holds a custom_vjp rule, which has no forward derivative; write a '
                'custom_jvp, or method="dense".'
            ) from error
    return found


def _traced(aim: Target, params: Any, x: Any, dtype: Any) -> _tracing.Traced:
    return _tracing.traced("jacobian", aim, params, jnp.asarray(x), dtype)


def _vector_map(aim: Target, params: Any, x: Any, dtype: Any) -> tuple[Callable[[Any], Any], Any]:
    """The map of the span from vector to vector in `dtype`, and the vector at x."""
    params, x = precision.cast(params, dtype), precision.cast(x, dtype)
    start = aim.start(params, x)

    return lambda z: aim.apply(params, z.reshape(start.shape)).ravel().astype(dtype), start.ravel()


def wide_jacobians(aim: Target, params: Any, xs: Any, dtype: Any) -> Float[Array, "inputs m n"]:
    """The Jacobians at all xs, side by side: each layer is one wide product."""
    with precision.full():
        return linalg.wide_product(factors_of_inputs(aim, params, xs, dtype), len(xs))


_wide_jacobians = jax.jit(wide_jacobians, static_argnums=(0, 3), inline=True)
"""Compiled once for an architecture: a loop over layers that is not inside a program is compiled at every call."""


def factors_of_inputs(aim: Target, params: Any, xs: Any, dtype: Any) -> list[Factors]:
    """The factors at all xs: matrices are shared, scales have a leading axis of inputs."""
    params, xs = precision.cast(params, dtype), precision.cast(xs, dtype)
    stacks = jax.eval_shape(aim.factors, params, xs[0])
    axes: Any = [Factors(None, 0) for _ in stacks]  # pyright: ignore[reportArgumentType]
    return jax.vmap(aim.factors, (None, 0), axes)(params, xs)


def jacobian(
    f: Any, params: Any, x: Float[Array, "..."], *, span: str = "end_to_end", dtype: Any = None
) -> Float[Array, "out in"]:
    """The Jacobian ∂f/∂x at one example, as a matrix: outputs and inputs flattened in C order.

    **Arguments**
    - `f`: any f(params, x) → array, a `Network`, or a list of such blocks applied in turn (`networks.chain`). One
      example, no batch axis.
    - `params`, `x`: parameters, any pytree, and one floating example.
    - `span`: "end_to_end", or of a Network "hidden": z_1 → z_{depth−1}.
    - `dtype`: of the measurement; default the promoted dtype of params and x, at least float32.

    Matmul precision is "highest" throughout. Cost: min(n_in, n_out) linearized evaluations, or for a Network of known
    layers their product. May be traced.

    A number is an array of one: (1, n_in). Warns (`PrecisionWarning`) where f asks for less than full precision, and
    (`BatchWarning`) where x seems to be a batch.

    **Raises** `ValueError`: f not callable, raising (chained), or not returning one real floating array; params or x
    complex; x not floating, or with a batch axis; span not defined; a Jacobian that is not finite (when not traced).
    """
    aim = target("jacobian", f, span)
    _checks.not_abstract("jacobian", params=params, x=x)
    _checks.real("jacobian", params=params, x=x)
    kind = _checks.measuring_dtype("jacobian", dtype, params, x)
    x = _checks.array("jacobian", x=x)
    shapes("jacobian", aim, params, x, kind)
    _tracing.warn_of_batch("jacobian", aim, params, x, stacklevel=2)
    matrix = dense_jacobian(aim, params, x, kind)
    _checks.all_finite("jacobian", **{"the Jacobian": matrix})
    return matrix
