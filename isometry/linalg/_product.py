"""Log singular values of a product of matrices, right at every index and depth."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from isometry._internal import checks, compilation, precision
from isometry._internal.errors import InputError, public
from isometry.linalg import _dense, _factorizations, _graded, _jacobi, _sweep
from isometry.linalg._factors import Factors, FactorsLike, stacks_of

# QR iterations before one-sided Jacobi after the first one, at least and at most. Each
# costs a tenth of a sweep and orders what is apart; more than fifteen no longer pay.
_FEWEST_FLIPS = 2
_MOST_FLIPS = 15

# Spreads of the rows, as powers of two, up to which a plain SVD of the graded factor is
# as accurate as asked, eps times the spread. A larger one costs digits of the smallest
# values; a smaller one sends nearly isometric products to Jacobi, which takes ten times
# as long.
_PLAIN_BITS = {
    "float32": 12,
    "float64": 18,
}


class _State(NamedTuple):
    """A product, and how often it has been transposed."""

    num_flips: Int[Array, ""]
    product: _graded.Graded


@public("product_log_singular_values")
def product_log_singular_values(
    factors: FactorsLike,
    *,
    every: int = 1,
) -> Float[Array, " k"]:
    """Compute ln of the singular values of factors[L-1] ··· factors[1] factors[0].

    Every index is right, also 1000 decades below the largest, and an exact isometry to
    rounding: scales are kept as exact powers of two in a graded product, whose factor
    is diagonalized by one-sided Jacobi on rows of separate scale. The error in ln s is
    about √L eps times the condition of a factor, its rows scaled alike.

    Zero rows give -inf, always. A dense factor that is rank-deficient to rounding (8 √n
    eps of its row) gives -inf if an elimination meets the rounding in its rows; in 6 to
    8 of 100 draws of order 8, and more often beyond, it leaves a value of the size of
    rounding instead, e^-37 of the largest in float64.

    Args:
        factors: (L, n, n), factors[0] acts first; or a sequence of matrices whose sizes
            chain. float16 and bfloat16 are computed in float32.
        every: The most factors that are multiplied before the product is factorized
            again. More than 1 saves time where the factors are well conditioned, and
            adds at most eps times 2^20 in float64 (2^8 in float32) to the error: a
            group whose condition is larger is divided.

    Returns:
        The values, descending, -inf for an exact zero. They are as many as the smallest
        of all sizes, padded by -inf to min(m, n) of the product. NaN where a traced
        factor is not finite.

    Cost: L products, 2 n³ operations each, and as many Cholesky factorizations and
    triangular systems as there are groups, about four products each; reflections, 17
    products for a factor, where one is badly conditioned. At the end a few sweeps of 6
    n³. Pure JAX: jit, vmap (one product after the other), scan; no gradient, since
    values coincide at isometry (see `spectral_moments`).

    Raises:
        InputError: There are no factors, their sizes do not chain, they are not real
            floating, or not finite; `every` is below 1.

    Example:
        >>> factors = jnp.stack([jnp.diag(jnp.array([10.0, 1e-3]))] * 100)
        >>> logs = linalg.product_log_singular_values(factors)
        >>> [round(float(log)) for log in logs / jnp.log(10.0)]
        [100, -300]
    """
    most = checks.integer("every", every, low=1)
    stacks = stacks_of(factors)
    return log_values(stacks, most)


@public("lyapunov_exponents")
def lyapunov_exponents(factors: FactorsLike) -> Float[Array, " n"]:
    """Compute the Lyapunov exponents of a product of square factors by one QR sweep.

    They are what the log singular values divided by L tend to as L → ∞. At finite depth
    they are **not** the spectrum of the product: the two differ by up to 4 in ln s at n
    = 16, L = 500. That is what `product_log_singular_values` is for.

    Args:
        factors: (L, n, n), factors[0] acts first; or a sequence of such matrices.

    Returns:
        The mean of ln |R_ii| over the factors, descending. Cost: L products and QR
        factorizations.

    Raises:
        InputError: As `product_log_singular_values`, or the factors are not square.

    Example:
        >>> factors = jnp.stack([jnp.array([[4.0, 1.0], [0.0, 1.0]])] * 50)
        >>> [round(float(e), 3) for e in linalg.lyapunov_exponents(factors)]
        [1.386, 0.0]
    """
    stacks = stacks_of(factors)
    first = stacks[0]
    _, m, n = first.size
    has_one_size = len(stacks) == 1
    if not has_one_size or m != n:
        raise InputError("factors must be square and of one size, (L, n, n).")
    # The stacks of what a user passes are all matrices.
    assert first.matrix is not None
    return _exponents(first.matrix)


@compilation.jit
def _exponents(matrices: Float[Array, "count n n"]) -> Float[Array, " n"]:
    def step(basis: Array, matrix: Array) -> tuple[Array, Array]:
        image = matrix @ basis
        basis, upper = _factorizations.qr(image)
        diagonal = jnp.diagonal(upper)
        pivots = jnp.abs(diagonal)
        return basis, _log(pivots)

    width = matrices.shape[-1]
    start = jnp.eye(width, dtype=matrices.dtype)
    with precision.full():
        _, logs = jax.lax.scan(step, start, matrices)
    exponents = jnp.mean(logs, axis=0)
    ascending = jnp.sort(-exponents)
    return -ascending


def _log(values: Float[Array, " n"]) -> Float[Array, " n"]:
    is_zero = values == 0
    positive = jnp.where(is_zero, 1, values)
    logs = jnp.log(positive)
    return jnp.where(is_zero, -jnp.inf, logs)


@functools.partial(compilation.jit, static_argnums=1, inline=True)
def log_values(stacks: Sequence[Factors], every: int = 1) -> Float[Array, " k"]:
    """Compute ln of the singular values of the product of all stacks.

    Args:
        stacks: The product, first to last. Scales have no batch axis.
        every: As in `product_log_singular_values`.

    Returns:
        As `product_log_singular_values`; all NaN where a factor is not finite.

    Example:
        >>> halves = linalg.Factors(None, jnp.full((10, 2), 0.5))
        >>> linalg.log_values([halves]) / jnp.log(2.0)
        Array([-10., -10.], dtype=float32)
    """

    @jax.custom_batching.custom_vmap
    def of_product(stacks: list[Factors]) -> Float[Array, " k"]:
        return _log_values(stacks, every)

    @of_product.def_vmap
    def _(
        axis_size: int,
        in_batched: list[list[Factors]],
        stacks: list[Factors],
    ) -> tuple[Float[Array, "batch k"], bool]:
        # In a batch all would be factorized in both ways, and in the groups of all.
        (is_batched,) = in_batched

        def one(i: Int[Array, ""]) -> Float[Array, " k"]:
            def member(leaf: Array, batched: bool) -> Array:
                return leaf[i] if batched else leaf

            return of_product(jax.tree.map(member, stacks, is_batched))

        members = jnp.arange(axis_size)
        logs = jax.lax.map(one, members)
        return logs, True

    return of_product(list(stacks))


def _log_values(stacks: list[Factors], every: int) -> Float[Array, " k"]:
    sizes = _chained_sizes(stacks)
    with precision.full():
        product = _multiplied(stacks, sizes, every)
        most_bits = _PLAIN_BITS[product.rows.dtype.name]
        is_even = _spread(product) <= most_bits
        logs = jax.lax.cond(
            is_even,
            _by_svd,
            _by_jacobi,
            product,
        )
    num_values = min(sizes[0], sizes[-1])
    num_lost = num_values - min(sizes)
    lost = jnp.full(num_lost, -jnp.inf, logs.dtype)
    logs = jnp.concatenate([logs, lost])
    # A NaN passes for a zero row on the way, where comparisons with it are false. It is
    # added, not selected: of a selected one XLA's float32 exponential may be anything
    # (`measure._nodes.exp`).
    is_finite = _all_finite(stacks)
    return logs + jnp.where(is_finite, 0, jnp.nan)


def _chained_sizes(stacks: list[Factors]) -> list[int]:
    """Return the size of the input, and those of what each stack gives."""
    _, _, num_inputs = stacks[0].size
    sizes = [num_inputs]
    for stack in stacks:
        _, num_outputs, _ = stack.size
        sizes.append(num_outputs)
    return sizes


def _all_finite(stacks: list[Factors]) -> Bool[Array, ""]:
    leaves = jax.tree.leaves(stacks)
    is_finite = [jnp.isfinite(leaf).all() for leaf in leaves]
    return jnp.stack(is_finite).all()


def _multiplied(
    stacks: list[Factors],
    sizes: list[int],
    every: int,
) -> _graded.Graded:
    """Multiply all stacks; the result has triangular rows and no basis.

    The chain starts at its narrowest place and goes both ways, so that no factorization
    is wider than the rank allows.
    """
    rank = min(sizes)
    narrowest = sizes.index(rank)
    before = stacks[:narrowest]
    after = stacks[narrowest:]
    product = _graded.identity(rank, stacks[0].dtype)
    for stack in reversed(before):
        product = _sweep.through(
            product,
            stack,
            every,
            transposed=True,
        )
    if before and after:
        orthonormal = _graded.orthonormalized(product)
        core = _graded.core(orthonormal)
        product = _graded.turned(core)
    for stack in after:
        product = _sweep.through(product, stack, every)
    orthonormal = _graded.orthonormalized(product)
    return _graded.flip(_graded.core(orthonormal))


def _spread(product: _graded.Graded) -> Int[Array, ""]:
    """Return the powers of two from the largest row to the smallest pivot.

    The rows are triangular; those that are zero count.
    """
    diagonal = jnp.diagonal(product.rows)
    pivots = product.exponents + _graded.exponent(diagonal)
    largest = jnp.max(product.exponents)
    return largest - jnp.min(pivots)


def _by_svd(product: _graded.Graded) -> Float[Array, " r"]:
    """Compute ln s of rows of similar scales."""
    top = jnp.max(product.exponents)
    relative = product.exponents - top
    scale = _graded.power_of_two(relative, product.rows.dtype)
    matrix = scale[:, None] * product.rows
    values = _dense.singular_values(matrix)
    eps = jnp.finfo(values.dtype).eps
    floor = len(values) * eps
    rounding = floor * values[0]
    relative_logs = _log(values)
    log_scale = top.astype(values.dtype) * math.log(2)
    logs = relative_logs + log_scale
    is_rounding = values <= rounding
    return jnp.where(is_rounding, -jnp.inf, logs)


def _by_jacobi(product: _graded.Graded) -> Float[Array, " r"]:
    """Compute ln s of rows of any scales, after as many QR iterations as help."""

    def is_unfinished(state: _State) -> Bool[Array, ""]:
        is_coupled = ~jnp.asarray(_jacobi.is_local(state.product))
        has_too_few = state.num_flips < _FEWEST_FLIPS
        may_go_on = state.num_flips < _MOST_FLIPS
        return has_too_few | (may_go_on & is_coupled)

    def flipped(state: _State) -> _State:
        return _State(
            num_flips=state.num_flips + 1,
            product=_graded.flip(state.product),
        )

    start = _State(
        num_flips=jnp.int32(0),
        product=product,
    )
    end = jax.lax.while_loop(is_unfinished, flipped, start)
    return _jacobi.log_values(end.product)
