"""Moments of the squared singular values, differentiable as often as the matrix is."""

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from isometry._internal import checks, kinds, precision
from isometry._internal.errors import InputError, public
from isometry._internal.types import Key
from isometry.linalg import _factorizations
from isometry.linalg._dense import matrices
from isometry.linalg._lanczos import length
from isometry.linalg._linear import matrix_of
from isometry.linalg._operator import Operator, checked

# Largest order. Each order is one more product, and s^2048 is in the range of float32
# only up to s = 1.04. With ten times more it would be up to s = 1.004, in programs of
# thousands of products; with ten times less, moments that are finite near isometry
# would be refused.
_HIGHEST = 1024


@public("spectral_moments")
def spectral_moments(
    a_or_operator: ArrayLike | Operator,
    orders: Iterable[int],
    *,
    key: Key | None = None,
    probes: int | None = None,
) -> Float[Array, "*batch orders"]:
    """Compute tr (JᵀJ)^k / min(m, n): the moments of s² over the min(m, n) values.

    Without `key` and `probes` they are exact, from powers of the smaller Gram matrix.
    With both they are unbiased estimates from random vectors, exact on an isometry and
    when half of the probes span everything. For the standard error, vmap over keys.

    Half of the probes (rounded down) find the directions that dominate, whose part of
    the trace is exact; the others estimate the rest (Hutch++: Meyer, Musco, Musco and
    Woodruff, 2021). Those are drawn on the sphere of the complement, so that a constant
    rest has no variance.

    These are polynomials of J throughout, finite in value and in every derivative, also
    at isometry and at zero, as long as sums of s^(2k) are in the range of the dtype: in
    float32 s = 1e15 overflows at k = 2. Scale J first then, and the moments by the
    2k-th power. ‖J‖_F² is min(m, n) times the first moment.

    Under jit, vmap and grad. Cost, with K the largest order: exact, about K/2 + 1
    products of matrices of the smaller side; estimated, (K/2 + 1) × probes products
    with J and Jᵀ.

    Args:
        a_or_operator: Real floating matrices (..., m, n), or an `Operator`. Estimates
            take one matrix.
        orders: The exponents k, whole numbers from 1 to 1024.
        key: For the random vectors.
        probes: Number of random vectors.

    Returns:
        The moments, in the sequence of `orders`.

    Raises:
        InputError: `orders` is empty or holds anything but whole numbers from 1 to
            1024; an operator comes without a key, a key without probes, or probes
            without a key; `probes` is below 1; a matrix is not real floating.

    Example:
        >>> linalg.spectral_moments(jnp.diag(jnp.array([1.0, 2.0])), (1, 2))
        Array([2.5, 8.5], dtype=float32)
        >>> rotation = linalg.Operator.of(jnp.array([[0.0, -1.0], [1.0, 0.0]]))
        >>> key = jax.random.key(0)
        >>> linalg.spectral_moments(rotation, (3,), key=key, probes=1).round(4)
        Array([1.], dtype=float32)
    """
    powers = _checked_orders(orders)
    is_exact = key is None and probes is None
    if is_exact and not isinstance(a_or_operator, Operator):
        with precision.full():
            return _exact(matrices(a_or_operator), powers)
    if key is None or probes is None:
        raise InputError(
            f"key={checks.show(key)}, probes={checks.show(probes)}; an estimate, as of "
            "any Operator, needs both: write key=jax.random.key(0), probes=8."
        )
    key = checks.key("key", key)
    # A NumPy integer is an array to JAX, of a dtype that need not promote with the
    # operator's; this is one of Python.
    probes = checks.integer("probes", probes, low=1)
    operator = a_or_operator
    if not isinstance(operator, Operator):
        operator = Operator.of(operator)
    with precision.full():
        operator = checked(operator).tall
        return _estimated(operator, powers, key=key, probes=probes)


@public("partial_jacobian_norm")
def partial_jacobian_norm(
    block: Callable[[Array], Array],
    point: ArrayLike,
    *,
    key: Key | None = None,
    probes: int | None = None,
) -> Float[Array, ""]:
    """Compute ‖∂block/∂h‖_F² over the number of outputs, at h = `point`.

    This is the mean squared gain of a perturbation of h. Averaged over parameters it is
    the averaged partial Jacobian norm, χ of the block (Doshi, He and Gromov, 2023,
    arXiv:2111.12143): 1 at criticality, where depth neither shrinks nor grows
    gradients, and 1 + O(1/depth) for a residual block.

    Differentiable as often as the block is, finite at isometry and at zero. Under jit
    and vmap. Cost: exact, min(sizes) linearized evaluations; estimated, 2 × probes.

    Args:
        block: h → h', arrays of any shapes: one layer, a residual or attention block, a
            whole network.
        point: Where the derivative is taken, of float32 or float64.
        key: For an estimate, as in `spectral_moments`.
        probes: Number of its random vectors. Without both, the norm is exact.

    Returns:
        One number.

    Raises:
        InputError: `point` or the output is not one floating array, or they have
            different dtypes; a key comes without probes, or probes without a key.

    Example:
        >>> def block(h):
        ...     return h + 0.1 * jnp.sin(h)
        >>> norm = linalg.partial_jacobian_norm(block, jnp.zeros((2, 3)))
        >>> round(float(norm), 2)
        1.21
    """
    point = checks.array("point", point)
    if not kinds.is_floating(point):
        raise InputError(f"point has dtype {point.dtype}; write floating numbers.")

    def g(v: Float[Array, " n"]) -> Float[Array, " m"]:
        h = v.reshape(point.shape)
        return jnp.ravel(block(h))

    operator = Operator.linearized(g, point.ravel())
    m, n = operator.shape
    if key is None and probes is None:
        with precision.full():
            return jnp.sum(matrix_of(g, point.ravel()) ** 2) / m
    moments = spectral_moments(operator, (1,), key=key, probes=probes)
    return moments[0] * (min(m, n) / m)


def _checked_orders(orders: Iterable[int]) -> list[int]:
    try:
        given = list(orders)
    except TypeError:
        raise InputError(
            f"orders={checks.show(orders)} is no sequence; write (1, 2)."
        ) from None
    if not given:
        raise InputError("orders is empty; write (1, 2).")
    check = functools.partial(checks.integer, "orders", low=1, high=_HIGHEST)
    return list(map(check, given))


def _exact(
    a: Float[Array, "*batch m n"],
    orders: Sequence[int],
) -> Float[Array, "*batch orders"]:
    """Return moments from powers of the Gram matrix G up to half of the largest order.

    tr G^(i+j) is the sum of all entries of G^i times those of G^j.
    """
    m, n = a.shape[-2:]
    if m < n:
        a = a.mT
    powers = _gram_powers(a, max(orders))
    traces = []
    for k in orders:
        # tr G = tr AᵀA needs no G.
        x, y = a, a
        if k > 1:
            x = powers[k // 2]
            y = powers[(k + 1) // 2]
        traces.append(jnp.sum(x * y, (-2, -1)))
    return jnp.stack(traces, -1) / min(m, n)


def _gram_powers(
    a: Float[Array, "*batch m n"],
    highest: int,
) -> dict[int, Float[Array, "*batch n n"]]:
    """Return powers of AᵀA up to half of the highest order, by their exponents."""
    if highest == 1:
        return {}
    gram = a.mT @ a
    powers = {1: gram}
    for exponent in range(2, (highest + 1) // 2 + 1):
        powers[exponent] = powers[exponent - 1] @ gram
    return powers


def _estimated(
    operator: Operator,
    orders: Sequence[int],
    *,
    key: Key,
    probes: int,
) -> Float[Array, " orders"]:
    """Estimate moments by Hutch++, in the space of the smaller side."""
    n = operator.shape[1]
    num_sketched = min(probes // 2, n)
    key_sketch, key_rest = jax.random.split(key)
    basis = jnp.zeros((n, 0), operator.dtype)
    trace = jnp.zeros(len(orders), operator.dtype)
    if num_sketched:
        basis = _dominant(operator, key_sketch, num_sketched)
        of_basis = _forms(operator, basis.T, orders)
        trace = jnp.sum(of_basis, 0)
    if num_sketched < n:
        shape = (probes - num_sketched, n)
        rest = jax.random.normal(key_rest, shape, operator.dtype)
        # Twice is enough (Giraud et al., 2005).
        for _ in range(2):
            rest = rest - (rest @ basis) @ basis.T
        lengths = jax.vmap(length)(rest)
        rest = rest / lengths[:, None]
        of_rest = _forms(operator, rest, orders)
        trace = trace + (n - num_sketched) * jnp.mean(of_rest, 0)
    return trace / n


def _dominant(
    operator: Operator,
    key: Key,
    count: int,
) -> Float[Array, "n count"]:
    """Return orthonormal columns near the directions that dominate."""

    def gram(z: Float[Array, " n"]) -> Float[Array, " n"]:
        image = operator.matvec(z)
        return operator.rmatvec(image)

    shape = (count, operator.shape[1])
    sketch = jax.random.normal(key, shape, operator.dtype)
    images = jax.vmap(gram)(sketch)
    # tr G^k splits exactly for every basis, so nothing is lost by holding it fixed. QR
    # has no gradient where the rank is below `count`.
    images = jax.lax.stop_gradient(images)
    basis, _ = _factorizations.qr(images.T)
    return basis


def _forms(
    operator: Operator,
    vectors: Float[Array, "vectors n"],
    orders: Sequence[int],
) -> Float[Array, "vectors orders"]:
    """Return zᵀ (JᵀJ)^k z of each vector z and order k.

    It is the square of the length of t = ··· Jᵀ J z, with k products.
    """
    onward = jax.vmap(operator.matvec)
    back = jax.vmap(operator.rmatvec)
    squares = {}
    for k in range(1, max(orders) + 1):
        is_odd = k % 2 == 1
        vectors = onward(vectors) if is_odd else back(vectors)
        squares[k] = jnp.sum(vectors**2, -1)
    wanted = [squares[k] for k in orders]
    return jnp.stack(wanted, -1)
