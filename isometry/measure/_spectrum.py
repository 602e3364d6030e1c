"""The function `spectrum`: from the Jacobian at one example to the record of its singular values."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks, linalg
from isometry._internal import precision
from isometry.measure import _jacobian, _tracing
from isometry.measure._record import VARIABLES as VARIABLES
from isometry.measure._record import Spectrum as Spectrum
from isometry.networks import Function

METHODS = {
    "auto": _jacobian.Dense(),
    "dense": _jacobian.Dense(),
    "product": _jacobian.Product(),
    "lanczos": _jacobian.Lanczos(),
}


def resolve_method(call: str, method: Any, aim: _jacobian.Target, key: Any) -> Any:
    """The method object of a name, or itself, if `aim` and the key are what it needs."""
    if not isinstance(method, tuple(type(m) for m in METHODS.values())):
        _checks.one_of(call, among=METHODS, method=method)
        method = METHODS[method]
    if isinstance(method, _jacobian.Lanczos):
        if key is None:
            raise _checks.InputError(f"{call}(): {method} draws random probes; write key=jax.random.key(0).")
        _checks.key(call, key)
    if isinstance(method, _jacobian.Product) and not isinstance(aim.f, Function):
        raise _checks.InputError(
            f'{call}(): method="product" multiplies layers, and a plain f shows none. Write method="dense", or '
            "networks.chain([f1, f2, ...]) for its parts."
        )
    return method


def of_matrix(matrix: Any, aim: _jacobian.Target, method: Any) -> Spectrum:
    """The dense spectrum of the Jacobian of `aim`, or of a batch of them."""
    log_s, floor = linalg.log_singular_values(matrix)
    return of_logs(log_s, jnp.full(log_s.shape[:-1], floor, log_s.dtype), matrix.shape[-2:], aim, method)


def of_factors(stacks: Any, aim: _jacobian.Target, method: Any) -> Spectrum:
    """The spectrum of the product of the layers of `aim`; every value is resolved."""
    logs = linalg.log_values(stacks, method.every)
    shape = stacks[-1].size[1], stacks[0].size[2]
    return of_logs(logs, jnp.asarray(-jnp.inf, logs.dtype), shape, aim, method)


def of_operator(operator: Any, key: Any, aim: _jacobian.Target, method: Any) -> Spectrum:
    """The measure of a quadrature: the nodes of all probes together, each probe of equal mass."""
    method = replace(method, steps=min(method.steps, *operator.shape))
    found = linalg.spectral_quadrature(operator, key=key, steps=method.steps, probes=method.probes)
    order = jnp.argsort(-found.log_values.ravel())
    logs, weights = (a.ravel()[order] for a in (found.log_values, found.weights / method.probes))
    m, n = operator.shape
    floor = jnp.asarray(found.log_floor, logs.dtype)
    return Spectrum(logs, weights, floor, method, min(m, n), abs(m - n), aim.span, aim.pairs)


def of_logs(logs: Any, floor: Any, shape: tuple[int, ...], aim: _jacobian.Target, method: Any) -> Spectrum:
    """The spectrum of (m, n) = `shape` whose ln s are `logs`, each of equal weight."""
    m, n = shape
    weights = jnp.full_like(logs, 1 / min(m, n))
    return Spectrum(logs, weights, floor, method, min(m, n), abs(m - n), aim.span, aim.pairs)


def spectrum(
    f: Any,
    params: Any,
    x: Float[Array, "..."],
    *,
    method: Any = "auto",
    span: str = "end_to_end",
    dtype: Any = None,
    key: Any = None,
) -> Spectrum:
    """Singular values of the Jacobian ∂f/∂x at one example.

    **Arguments**
    - `f`: any f(params, x) → array, a `Network`, or a list of such blocks applied in turn (`networks.chain`); one
      example, no batch axis (`ensemble` takes many).
    - `params`, `x`: parameters, any pytree, and one floating example.
    - `method`: "auto", "dense" or `isometry.Dense()`: form the Jacobian, factorize it. "product" or
      `isometry.Product()`: of a network of known layers, ln s at every depth, without a floor. "lanczos" or
      `isometry.Lanczos(steps, probes)`: the nodes of a quadrature, from products with the Jacobian alone; steps are
      clamped to min(n_in, n_out), and `sp.method` says to what.
    - `span`: "end_to_end", or of a Network "hidden": z_1 → z_{depth−1}, the object of the theory.
    - `dtype`: of the measurement; default the promoted dtype of params and x, at least float32.
    - `key`: for "lanczos"; the others are deterministic and ignore it.

    May be traced: jit, vmap, and grad of `moment` and `log_spread`. Cost: min(n_in, n_out) linearized evaluations and
    one values-only SVD.

    Warns (`PrecisionWarning`) where f asks for less than full precision itself, and (`BatchWarning`) where x seems
    to be a batch.

    **Raises** `ValueError`: what `jacobian` raises; an unknown method; a Jacobian that is not finite (when not traced).
    """
    aim = _jacobian.target("spectrum", f, span)
    _checks.not_abstract("spectrum", params=params, x=x)
    _checks.real("spectrum", params=params, x=x)
    chosen = resolve_method("spectrum", method, aim, key)
    kind = _checks.measuring_dtype("spectrum", dtype, params, x)
    x = _checks.array("spectrum", x=x)
    _jacobian.shapes("spectrum", aim, params, x, kind)
    _tracing.warn_of_batch("spectrum", aim, params, x, stacklevel=2)
    if isinstance(chosen, _jacobian.Product):
        found, stacks = _by_product(aim, chosen, kind, params, x)
        _checks.all_finite("spectrum", **{"the Jacobian": stacks})
        return found
    if isinstance(chosen, _jacobian.Lanczos):
        found = _by_lanczos(aim, chosen, kind, params, x, key)
        _checks.all_finite("spectrum", **{"the Jacobian": found.weights})  # a NaN anywhere spoils the weights
        return found
    matrix = _jacobian.dense_jacobian(aim, params, x, kind)
    _checks.all_finite("spectrum", **{"the Jacobian": matrix})
    return of_matrix(matrix, aim, chosen)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _by_product(aim: Any, method: Any, dtype: Any, params: Any, x: Any) -> tuple[Spectrum, Any]:
    """The spectrum, and the factors it comes from: in ln s a NaN may pass for a zero."""
    stacks = aim.factors(precision.cast(params, dtype), precision.cast(x, dtype))
    return of_factors(stacks, aim, method), stacks


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _by_lanczos(aim: Any, method: Any, dtype: Any, params: Any, x: Any, key: Any) -> Spectrum:
    return of_operator(_jacobian.operator(aim, params, x, dtype), key, aim, method)
