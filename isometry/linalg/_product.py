"""Log singular values of a product of matrices, right at every index and every depth."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks
from isometry._internal import compilation, precision
from isometry.linalg import _dense, _factorizations, _graded, _jacobi

_FLIPS = 2, 15
"""QR iterations before Jacobi after the first one, at least and at most: each costs a tenth of a sweep and orders what
is apart."""
_PLAIN_BITS = {"float32": 12, "float64": 18}
"""Spreads 2^bits up to which a plain SVD of the graded factor is as accurate as asked (eps · spread)."""


class Factors(NamedTuple):
    """Consecutive factors of one shape: `diag(scale[i]) · matrix[i]`, the first acts first; what is None is left out.

    Rows of one factor may differ in scale, in float32 by 1e20 (by 1e36 small values are off by 3e-3 in ln s, and what
    overflows when it is added up is NaN); columns should not, or the small ones drown: put a diagonal in `scale`.
    """

    matrix: Float[Array, "count m n"] | None
    scale: Float[Array, "count m"] | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """(count, m, n), also where scales have a batch axis in front."""
        if self.matrix is not None:
            count, m, n = self.matrix.shape
            return count, m, n
        assert self.scale is not None, "a stack of neither"
        count, m = self.scale.shape[-2:]
        return count, m, m

    @property
    def dtype(self) -> Any:
        """Of the arrays."""
        return jnp.result_type(*jax.tree.leaves(self))


def require_stacks(call: str, stacks: Any) -> None:
    """**Raises** `ValueError`: no `Factors` at all, or something else among them."""
    stacks = list(stacks)
    if not stacks:
        raise _checks.InputError(f"{call}(): stacks is empty; write [Factors(matrix, scale), ...], first to last.")
    _checks.instance(call, Factors, **{f"stacks[{i}]": stack for i, stack in enumerate(stacks)})


def product_log_singular_values(factors: Any, *, every: int = 1) -> Float[Array, " k"]:
    """ln of the singular values of factors[L-1] ··· factors[1] factors[0], descending; −inf for an exact zero.

    Args:
        factors: (L, n, n), factors[0] acts first; or a sequence of matrices whose sizes chain. float16 and bfloat16 are
            worked in float32.
        every: How many factors are multiplied before the product is factorized again. More than 1 saves time and adds
            to the error eps times the condition of such a group's product: fit for factors that are nearly isometric,
            lost where some group is not, and with it a rank that a factor loses inside it.

    Returns min over all sizes many values if the sizes differ, padded by −inf to min(m, n) of the product.
    Every index is right, also 1000 decades below the largest, and an exact isometry to rounding: scales are kept as
    exact powers of two in a graded product, whose factor is diagonalized by one-sided Jacobi on rows of separate scale.
    The error in ln s is about √L eps times the condition of a factor, its rows scaled alike.
    Zero rows give −inf, always. A dense factor that is rank-deficient to rounding (8 √n eps of its row) gives −inf if
    an elimination meets the rounding in its rows; in 6 to 8 of 100 draws of order 8, and more often beyond, it leaves a
    value of the size of rounding instead, e^-37 of the largest in float64.

    Pure JAX: jit, vmap, scan; no gradient (values coincide at isometry; use `spectral_moments`). Cost: L (2 n³ product
    + 10/3 n³ factorization + 2 n³ update), `every` dividing the last two, and a few sweeps of 6 n³.

    Raises:
        ValueError: no factors, sizes that do not chain, not real floating, not finite (when not traced); every below 1.
    """
    stacks = _stacks(factors)
    _checks.integer("product_log_singular_values", low=1, every=every)
    every = int(every)
    return log_values(stacks, every)


def lyapunov_exponents(factors: Any) -> Float[Array, " n"]:
    """ln |R_ii| of one QR sweep, per factor, descending: what the log singular values divided by L tend to as L → ∞.

    At finite depth this is **not** the spectrum of the product: it differs by up to 4 in ln s at n = 16, L = 500. Use
    `product_log_singular_values` for that. `factors` as there, (L, n, n). Cost: L products and QR factorizations.

    Raises:
        ValueError: as `product_log_singular_values`, or factors that are not square.
    """
    stacks = _stacks(factors, "lyapunov_exponents")
    if len(stacks) > 1 or stacks[0].size[1] != stacks[0].size[2]:
        raise _checks.InputError("lyapunov_exponents(): factors must be square and of one size, (L, n, n).")
    return _exponents(stacks[0].matrix)


@compilation.jit
def _exponents(matrix: Any) -> Any:
    def step(basis: Any, factor: Any) -> Any:
        basis, upper = _factorizations.qr(factor @ basis)
        pivot = jnp.abs(jnp.diagonal(upper))
        return basis, jnp.where(pivot == 0, -jnp.inf, jnp.log(jnp.where(pivot == 0, 1, pivot)))

    with precision.full():
        _, logs = jax.lax.scan(step, jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix)
    return -jnp.sort(-jnp.mean(logs, 0))


@functools.partial(compilation.jit, static_argnums=1, inline=True)
def log_values(stacks: Sequence[Factors], every: int = 1) -> Float[Array, " k"]:
    """ln singular values of the product of all stacks.

    The chain starts at its narrowest place and goes both ways, so that no factorization is wider than the rank allows.
    `every`: how many layers are multiplied out before each factorization; 1 is accurate at every index. All NaN where
    a factor is not finite.
    """
    sizes = [stacks[0].size[2], *(s.size[1] for s in stacks)]
    narrow = sizes.index(min(sizes))
    with precision.full():
        product = _graded.identity(min(sizes), stacks[0].dtype)
        for stack in reversed(stacks[:narrow]):
            product = _through(product, stack, every, backward=True)
        if 0 < narrow < len(stacks):
            product = _graded.turned(_graded.core(product))
        for stack in stacks[narrow:]:
            product = _through(product, stack, every, backward=False)
        product = _graded.flip(_graded.core(product))
        logs = jax.lax.cond(_spread(product) <= _PLAIN_BITS[product.rows.dtype.name], _plain, _finished, product)
    # a NaN passes for a zero row on the way: comparisons with it are false
    finite = functools.reduce(jnp.logical_and, (jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(list(stacks))))
    lost = min(sizes[0], sizes[-1]) - min(sizes)
    logs = jnp.concatenate([logs, jnp.full(lost, -jnp.inf, logs.dtype)])
    # the NaN is added: of a selected one XLA's float32 exponential may be anything (`measure._nodes.exp`)
    return logs + jnp.where(finite, 0, jnp.nan)


def _through(product: _graded.Graded, stack: Factors, every: int, backward: bool) -> _graded.Graded:
    """The product after all factors of a stack, or, backward, after their transposes from last to first."""

    def image(basis: Any, factors: Factors) -> Any:
        def one(basis: Any, factor: Factors) -> tuple[Any, None]:
            return (_transposed(factor, basis) if backward else _applied(factor, basis)), None

        if factors.size[0] == 1:
            return one(basis, jax.tree.map(lambda a: a[0], factors))[0]
        return jax.lax.scan(one, basis, factors, reverse=backward)[0]

    def group(product: Any, factors: Factors) -> tuple[Any, None]:
        if factors.size[0] == 1:
            return _graded.times(product, image(product.basis, factors)), None
        # Several multiplied out may overflow, or underflow, where none of them does.
        factors, power = _of_order_one(factors)
        product = _graded.times(product, image(product.basis, factors))
        return product._replace(exponents=product.exponents + power), None

    count, m, n = stack.size
    if m != n:  # factors that change the size come singly
        every = 1
    whole = count - count % every
    head = jax.tree.map(lambda a: a[:whole].reshape(whole // every, every, *a.shape[1:]), stack)
    rest = jax.tree.map(lambda a: a[whole:], stack)
    if whole < count and backward:
        product = group(product, rest)[0]
    if whole == every:
        product = group(product, jax.tree.map(lambda a: a[0], head))[0]
    elif whole:
        product = jax.lax.scan(group, product, head, reverse=backward)[0]
    return group(product, rest)[0] if whole < count and not backward else product


def _of_order_one(factors: Factors) -> tuple[Factors, Any]:
    """Each array divided by the power of two that its largest entry exceeds; the sum of the exponents."""
    power = jnp.zeros((), jnp.int32)
    scaled = []
    for array in factors:
        if array is not None:
            axes = tuple(range(1, array.ndim))
            # Of a number from 2^126 on the inverse power would be subnormal.
            most = jnp.finfo(array.dtype).maxexp - 2
            exponents = jnp.minimum(_graded.exponent(jnp.max(jnp.abs(array), axes, keepdims=True)), most)
            array = array * _graded.power_of_two(-exponents, array.dtype)
            power = power + jnp.sum(exponents, dtype=jnp.int32)
        scaled.append(array)
    return Factors(*scaled), power


def _applied(factor: Factors, columns: Any) -> Any:
    image = columns if factor.matrix is None else factor.matrix @ columns
    return image if factor.scale is None else factor.scale[:, None] * image


def _transposed(factor: Factors, columns: Any) -> Any:
    image = columns if factor.scale is None else factor.scale[:, None] * columns
    return image if factor.matrix is None else factor.matrix.T @ image


def _spread(product: _graded.Graded) -> Any:
    """Powers of two from the largest row to the smallest pivot of a triangular factor, zero ones included."""
    pivots = product.exponents + _graded.exponent(jnp.diagonal(product.rows))
    return jnp.max(product.exponents) - jnp.min(pivots)


def _plain(product: _graded.Graded) -> Any:
    top = jnp.max(product.exponents)
    matrix = _graded.power_of_two(product.exponents - top, product.rows.dtype)[:, None] * product.rows
    s = _dense.singular_values(matrix)
    logs = jnp.log(jnp.where(s == 0, 1, s)) + top.astype(s.dtype) * math.log(2)
    return jnp.where(s <= len(s) * jnp.finfo(s.dtype).eps * s[0], -jnp.inf, logs)


def _finished(product: _graded.Graded) -> Any:
    least, most = _FLIPS

    def unfinished(state: Any) -> Any:
        count, product = state
        return (count < least) | ((count < most) & ~jnp.asarray(_jacobi.local(product)))

    def once(state: Any) -> Any:
        return state[0] + 1, _graded.flip(state[1])

    return _jacobi.log_values(jax.lax.while_loop(unfinished, once, (0, product))[1])


def _stacks(factors: Any, call: str = "product_log_singular_values") -> list[Factors]:
    """`factors` as stacks of equal shape, checked."""
    whole = hasattr(factors, "ndim")
    try:
        if isinstance(factors, (str, bytes)):
            raise TypeError
        matrices = [factors] if whole else [jnp.asarray(a)[None] for a in factors]
    except (TypeError, ValueError):
        raise _checks.InputError(
            f"{call}(): factors={_checks.show(factors)} is neither an array (L, n, n) nor a sequence of matrices. Of "
            'functions write isometry.spectrum([f1, f2], params, x, method="product").'
        ) from None
    for a in matrices:
        if a.ndim != 3 or 0 in a.shape:
            raise _checks.InputError(
                f"{call}(): factors has shape {a.shape if whole else a.shape[1:]}; write (L, n, n), or a sequence of "
                "matrices (m, n)."
            )
        if not jnp.issubdtype(a.dtype, jnp.floating):
            raise _checks.InputError(f"{call}(): factors has dtype {a.dtype}; write factors.astype(jnp.float32).")
    if not matrices:
        raise _checks.InputError(f"{call}(): factors is empty; write (L, n, n) with L at least 1.")
    sizes = [(a.shape[-2], a.shape[-1]) for a in matrices]
    for i, ((m, _), (_, n)) in enumerate(itertools.pairwise(sizes)):
        if m != n:
            raise _checks.InputError(f"{call}(): factors[{i}] gives {m} values and factors[{i + 1}] takes {n}.")
    if whole and sizes[0][0] != sizes[0][1]:
        raise _checks.InputError(f"{call}(): factors has shape {factors.shape}; factors of one array must be square.")
    kind = _checks.measuring_dtype(call, None, matrices)
    matrices = [jnp.asarray(a, kind) for a in matrices]
    _checks.all_finite(call, factors=matrices)
    if whole:
        return [Factors(matrices[0])]
    stacks = []
    for (m, n), group in itertools.groupby(matrices, lambda a: a.shape[1:]):
        same = list(group)
        stacks += [Factors(jnp.concatenate(same))] if m == n else [Factors(a) for a in same]
    return stacks
