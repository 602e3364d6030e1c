"""Full precision inside measurements, and what a precision can resolve."""

import contextlib
import math
from typing import Any

import jax
import jax.numpy as jnp

from isometry._internal import checks
from isometry._internal.errors import InputError

MATMUL = "highest"
"""Matmul precision of every measurement. TF32 or bfloat16 passes would shift small singular values silently."""


def full() -> contextlib.AbstractContextManager:
    """Context in which products are traced at full precision, whatever the platform's default."""
    return jax.default_matmul_precision(MATMUL)


def measuring_dtype(dtype: Any, *trees: Any) -> jnp.dtype:
    """`dtype` if given, else the promoted floating dtype of all leaves, at least float32."""
    if dtype is not None:
        chosen = checks.float_dtype(dtype)
        if jnp.finfo(chosen).bits < 32:
            raise InputError(
                f"dtype={chosen.name} is too coarse to measure in; write float32 or float64. The "
                "network's own dtype may be lower."
            )
        return chosen
    leaves = [jnp.result_type(leaf) for leaf in jax.tree.leaves(trees)]
    floating = [d for d in leaves if jnp.issubdtype(d, jnp.floating)]
    bits = max([jnp.finfo(d).bits for d in floating], default=32)
    return jnp.dtype(jnp.float64 if bits > 32 else jnp.float32)


def cast(tree: Any, dtype: Any) -> Any:
    """The floating leaves of `tree` in `dtype`; integers and keys as they are."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, dtype) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a, tree
    )


def shape_of(leaf: Any, dtype: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype that `leaf` has after `cast`, known without computing."""
    kind = jnp.result_type(leaf)
    return jax.ShapeDtypeStruct(getattr(leaf, "shape", ()), dtype if jnp.issubdtype(kind, jnp.floating) else kind)


def svd_log_floor(m: int, n: int, dtype: Any) -> float:
    """ln of what a dense SVD of an (m, n) matrix resolves relative to its largest singular value: max(m, n)·eps.

    Source: the backward-error convention of LAPACK users and `numpy.linalg.matrix_rank` (Golub and Van Loan, 5.4.1).
    """
    return math.log(max(m, n) * float(jnp.finfo(dtype).eps))
