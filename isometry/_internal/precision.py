"""Full precision inside measurements, and what a precision can resolve."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PyTree

from isometry._internal import checks, kinds
from isometry._internal.errors import InputError

# The precision of every product in a measurement. TF32 and bfloat16 keep 10 and 7 bits
# of mantissa, so a default of the platform would shift small singular values silently.
# The price is the speed of the tensor cores.
MATMUL = "highest"

# float16 and bfloat16 resolve singular values down to a thousandth of the largest at
# best.
_LEAST_BITS = 32


def full() -> contextlib.AbstractContextManager:
    """Return a context in which products are traced at full precision."""
    return jax.default_matmul_precision(MATMUL)


def measuring_dtype(dtype: DTypeLike | None, *trees: PyTree) -> np.dtype:
    """Return the dtype to measure in.

    Args:
        dtype: What the user asked for, or None.
        *trees: What is measured: arrays or their shapes. Read if `dtype` is None.

    Returns:
        `dtype`; if that is None, float64 if any leaf is float64, otherwise float32.

    Raises:
        InputError: `dtype` has fewer than 32 bits, or is no floating dtype.
    """
    if dtype is not None:
        chosen = checks.float_dtype(dtype)
        if jnp.finfo(chosen).bits < _LEAST_BITS:
            raise InputError(
                f"dtype={chosen.name} is too coarse to measure in; write float32 or "
                "float64. The network's own dtype may be lower."
            )
        return chosen
    for leaf in jax.tree.leaves(trees):
        leaf_dtype = jnp.result_type(leaf)
        is_floating = jnp.issubdtype(leaf_dtype, jnp.floating)
        if is_floating and jnp.finfo(leaf_dtype).bits > _LEAST_BITS:
            return jnp.dtype(jnp.float64)
    return jnp.dtype(jnp.float32)


def cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Return the tree with its floating leaves in `dtype`; the others stay."""

    def cast_leaf(leaf: jax.Array) -> jax.Array:
        if kinds.is_floating(leaf):
            return jnp.asarray(leaf, dtype)
        return leaf

    return jax.tree.map(cast_leaf, tree)


def shape_of(leaf: jax.Array, dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype that `leaf` has after `cast`, without casting it."""
    leaf_dtype = jnp.result_type(leaf)
    if jnp.issubdtype(leaf_dtype, jnp.floating):
        leaf_dtype = dtype
    return jax.ShapeDtypeStruct(getattr(leaf, "shape", ()), leaf_dtype)


def coarse_log_floor(m: int, n: int, eps: float) -> float:
    """Return the log of the smallest s / s_max known of a J that f computes coarsely.

    That is the smaller of max(m, n) eps, as in `svd_log_floor`, and sqrt(eps). The
    first holds even if all errors add up; in bfloat16 it says nothing from 128 rows on.
    Errors of rounding are independent. Then their norm is below 2 eps s_max at every
    size: it is at most eps rms(J) (sqrt(m) + sqrt(n)), with rms(J) the root mean square
    of the entries, and s_max is at least rms(J) sqrt(max(m, n)). sqrt(eps) leaves a
    factor of 5 in bfloat16, and more in finer dtypes, for the errors of several layers.

    Args:
        m: Rows of the Jacobian.
        n: Its columns.
        eps: The coarsest rounding within f.
    """
    return math.log(min(max(m, n) * eps, math.sqrt(eps)))


def svd_log_floor(m: int, n: int, dtype: DTypeLike) -> float:
    """Return the log of the smallest s / s_max that a dense SVD resolves.

    The floor is max(m, n) eps, the convention of `numpy.linalg.matrix_rank` (Golub and
    Van Loan, Matrix Computations, 4th ed., section 5.4.1). LAPACK's backward error is
    below it. With a floor of eps, rounding errors of large matrices would count as
    singular values.
    """
    eps = float(jnp.finfo(dtype).eps)
    return math.log(max(m, n) * eps)
