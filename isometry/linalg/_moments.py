"""Moments of the squared singular values, differentiable as often as the matrix is."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks
from isometry._internal import precision
from isometry.linalg import _factorizations
from isometry.linalg._dense import matrices
from isometry.linalg._lanczos import length
from isometry.linalg._linear import matrix_of
from isometry.linalg._operator import Operator, checked

_CALL = "spectral_moments"
_HIGHEST = 1024
"""Order: s^2048 is in the range of a dtype at isometry alone, and each is a product more."""


def spectral_moments(
    a_or_operator: Any, orders: Iterable[int], *, key: Any = None, probes: int | None = None
) -> Float[Array, "*batch orders"]:
    """tr (JᵀJ)^k / min(m, n) for each k of `orders`: the moments of s² over its min(m, n) values.

    Args:
        a_or_operator: Matrices (..., m, n), or an `Operator`.
        orders: Whole numbers, 1 to 1024.
        key: None, as `probes`: exact, from powers of the smaller Gram matrix. With both: an unbiased estimate from
            `probes` random vectors, of one matrix or an operator. It is exact on an isometry, and when half of the
            probes span everything. For its standard error, vmap over keys.
        probes: The number of random vectors.

    Half of the probes (rounded down) find the directions that dominate, whose part of the trace is exact; the others
    estimate the rest (Hutch++: Meyer, Musco, Musco, Woodruff, 2021). Those are drawn on the sphere of the complement,
    so that a constant rest has no variance.

    ‖J‖_F² is min(m, n) times the first moment (`partial_jacobian_norm`). Polynomials of J throughout: finite in value
    and in every derivative, also at isometry and at zero, as long as sums of s^(2k) are in the range of the dtype: in
    float32 s = 1e15 overflows at k = 2. Scale J first, and the moments by the 2k-th power. jit, vmap, grad.

    Cost: exact, about K/2 + 1 products of the smaller side, K the largest order; estimated, (K/2 + 1) × probes products
    with J and Jᵀ.

    Raises:
        ValueError: orders empty or not whole numbers from 1 to 1024; an operator without a key; a key without probes or
            probes without a key; probes < 1; not real floating.
    """
    wanted = _orders(orders)
    if key is None and probes is None and not isinstance(a_or_operator, Operator):
        with precision.full():
            with _checks.named(_CALL):
                a = matrices(a_or_operator)
            return _exact(a, wanted)
    if key is None or probes is None:
        raise _checks.InputError(
            f"{_CALL}(): key={_checks.show(key)}, probes={_checks.show(probes)}; an estimate, as of any Operator, "
            "needs both: write key=jax.random.key(0), probes=8."
        )
    _checks.key(_CALL, key)
    _checks.integer(_CALL, low=1, probes=probes)
    given = a_or_operator if isinstance(a_or_operator, Operator) else Operator.of(a_or_operator)
    with precision.full():
        # A NumPy integer is an array to JAX, of a dtype that need not promote with the operator's.
        return _estimated(checked(_CALL, given).tall, wanted, key, int(probes))


def partial_jacobian_norm(
    block: Callable[[Any], Any], point: Any, *, key: Any = None, probes: int | None = None
) -> Float[Array, ""]:
    """‖∂block/∂h‖_F² over the number of outputs, at h = `point`: the mean squared gain of a perturbation of h.

    Averaged over parameters it is the averaged partial Jacobian norm, χ of the block: 1 at criticality, where depth
    neither shrinks nor grows gradients; 1 + O(1/depth) for a residual block.

    Args:
        block: h → h', arrays of any shapes: one layer, a residual or attention block, a whole network.
        point: Where h is.
        key: As in `spectral_moments`: without key and probes, exact; with both, an unbiased estimate.
        probes: As in `spectral_moments`.

    Differentiable as often as the block is, finite at isometry and at zero. jit, vmap. Cost: exact, min(sizes)
    linearized evaluations; estimated, 2 × probes.

    Source: Doshi, He, Gromov (2023), arXiv 2111.12143, whose average over parameters defines the norm.

    Raises:
        ValueError: point or output not one floating array of one dtype; a key without probes or the reverse.
    """
    point = _checks.array("partial_jacobian_norm", point=point)

    def g(v: Any) -> Any:
        return jnp.ravel(block(v.reshape(point.shape)))

    operator = Operator.linearized(g, point.ravel())
    m, n = operator.shape
    if key is None and probes is None:
        with precision.full():
            return jnp.sum(matrix_of(g, point.ravel()) ** 2) / m
    return spectral_moments(operator, (1,), key=key, probes=probes)[0] * (min(m, n) / m)


def _orders(orders: Any) -> list[int]:
    try:
        wanted = list(orders)
    except TypeError:
        raise _checks.InputError(f"{_CALL}(): orders={_checks.show(orders)} is no sequence; write (1, 2).") from None
    if not wanted:
        raise _checks.InputError(f"{_CALL}(): orders is empty; write (1, 2).")
    for order in wanted:
        _checks.integer(_CALL, low=1, high=_HIGHEST, orders=order)
    return [int(k) for k in wanted]


def _exact(a: Any, orders: list[int]) -> Any:
    """tr G^(i+j) = Σ (G^i ∘ G^j): powers of the smaller Gram up to half of the largest order."""
    a = a if a.shape[-2] >= a.shape[-1] else a.mT
    powers = [a.mT @ a] if max(orders) > 1 else []
    for _ in range((max(orders) + 1) // 2 - 1):
        powers.append(powers[-1] @ powers[0])
    pairs = [(powers[k // 2 - 1], powers[(k + 1) // 2 - 1]) if k > 1 else (a, a) for k in orders]
    return jnp.stack([jnp.sum(x * y, (-2, -1)) for x, y in pairs], -1) / a.shape[-1]


def _estimated(operator: Operator, orders: list[int], key: Any, probes: int) -> Any:
    """Hutch++ in the space of the smaller side."""
    n, dtype = operator.shape[1], operator.dtype
    sketched = min(probes // 2, n)
    first, second = jax.random.split(key)
    basis = jnp.zeros((n, 0), dtype)
    trace = jnp.zeros(len(orders), dtype)
    if sketched:
        sketch = jax.random.normal(first, (sketched, n), dtype)
        # tr G^k splits exactly for every basis, so nothing is lost by holding it fixed; QR has no gradient at rank < k
        image = jax.lax.stop_gradient(jax.vmap(lambda z: operator.rmatvec(operator.matvec(z)))(sketch))
        basis = _factorizations.qr(image.T)[0]
        trace = jnp.sum(_forms(operator, basis.T, orders), 0)
    if sketched < n:
        rest = jax.random.normal(second, (probes - sketched, n), dtype)
        for _ in range(2):
            rest = rest - (rest @ basis) @ basis.T
        rest = rest / jax.vmap(length)(rest)[:, None]
        trace = trace + (n - sketched) * jnp.mean(_forms(operator, rest, orders), 0)
    return trace / n


def _forms(operator: Operator, vectors: Any, orders: list[int]) -> Any:
    """zᵀ (JᵀJ)^k z of each vector, (vectors, orders): zᵀ G^k z = ‖t‖² with t = ··· Jᵀ J z of k products."""
    products, squares = (jax.vmap(operator.matvec), jax.vmap(operator.rmatvec)), []
    for k in range(max(orders)):
        vectors = products[k % 2](vectors)
        squares.append(jnp.sum(vectors**2, -1))
    return jnp.stack([squares[k - 1] for k in orders], -1)
