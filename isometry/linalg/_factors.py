"""A product of matrices as a sequence of its factors."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from isometry._internal import checks, kinds, precision
from isometry._internal.errors import InputError

# What a user may pass: one array (L, n, n), or matrices whose sizes chain.
FactorsLike = ArrayLike | Sequence[ArrayLike]


class Factors(NamedTuple):
    """Consecutive factors of one shape: `diag(scale[i]) @ matrix[i]`, the first first.

    What is None is left out: factors without a matrix are diagonal.

    Rows of one factor may differ in scale, in float32 by 1e20; by 1e36 small values are
    off by up to 6e-3 in ln s, and what overflows when it is added up is NaN. Columns
    should not, or the small ones drown: put a diagonal in `scale` of the factor before.

    Attributes:
        matrix: (count, m, n).
        scale: (count, m). Some functions take one for each member of a batch, (batch,
            count, m).

    Example:
        >>> linalg.Factors(jnp.ones((3, 2, 2)), scale=jnp.ones((3, 2))).size
        (3, 2, 2)
    """

    matrix: Float[Array, "count m n"] | None
    scale: Float[Array, "*batch count m"] | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """(count, m, n), also where scales have a batch axis in front.

        Example:
            >>> linalg.Factors(None, scale=jnp.ones((7, 3, 2))).size
            (3, 2, 2)
        """
        if self.matrix is not None:
            count, m, n = self.matrix.shape
            return count, m, n
        assert self.scale is not None, "factors have a matrix, a scale or both"
        count, m = self.scale.shape[-2:]
        return count, m, m

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the products.

        Example:
            >>> linalg.Factors(jnp.ones((3, 2, 2))).dtype
            dtype('float32')
        """
        return jnp.result_type(*jax.tree.leaves(self))


def require_stacks(stacks: Sequence[Factors]) -> list[Factors]:
    """Refuse an empty sequence, and one that holds anything but `Factors`."""
    listed = list(stacks)
    if not listed:
        raise InputError(
            "stacks is empty; write [Factors(matrix, scale), ...], first to last."
        )
    for i, stack in enumerate(listed):
        checks.instance(f"stacks[{i}]", stack, Factors)
    return listed


def stacks_of(factors: FactorsLike) -> list[Factors]:
    """Turn what a user passes into stacks, in which equal square shapes lie together.

    Raises:
        InputError: No factors, sizes that do not chain, an array whose factors are not
            square, numbers that are not real floating, or not finite.
    """
    if hasattr(factors, "ndim"):
        return [Factors(_checked_array(cast(Array, factors)))]
    matrices = _checked_sequence(cast(Sequence[Array], factors))
    stacks = []
    for (m, n), group in itertools.groupby(matrices, lambda matrix: matrix.shape):
        singles = [matrix[None] for matrix in group]
        if m == n and len(singles) > 1:
            stacks.append(Factors(jnp.concatenate(singles)))
        else:
            stacks.extend(Factors(single) for single in singles)
    return stacks


def _checked_array(factors: Array) -> Float[Array, "count n n"]:
    shape = jnp.shape(factors)
    _require_shape(shape, num_axes=3)
    if shape[1] != shape[2]:
        raise InputError(
            f"factors has shape {shape}; factors of one array must be square."
        )
    (whole,) = _measurable([factors])
    return whole


def _checked_sequence(factors: Sequence[Array]) -> list[Array]:
    try:
        if isinstance(factors, (str, bytes)):
            raise TypeError
        matrices = [jnp.asarray(matrix) for matrix in factors]
    except (TypeError, ValueError):
        raise InputError(
            f"factors={checks.show(factors)} is neither an array (L, n, n) nor a "
            "sequence of matrices. Of functions write isometry.spectrum([f1, f2], "
            'params, x, method="product").'
        ) from None
    if not matrices:
        raise InputError("factors is empty; write (L, n, n) with L at least 1.")
    for matrix in matrices:
        _require_shape(matrix.shape, num_axes=2)
    matrices = _measurable(matrices)
    for i, (first, second) in enumerate(itertools.pairwise(matrices)):
        if len(first) != second.shape[1]:
            raise InputError(
                f"factors[{i}] gives {len(first)} values and factors[{i + 1}] takes "
                f"{second.shape[1]}."
            )
    return matrices


def _require_shape(shape: tuple[int, ...], num_axes: int) -> None:
    if len(shape) != num_axes or 0 in shape:
        raise InputError(
            f"factors has shape {shape}; write (L, n, n), or a sequence of matrices "
            "(m, n)."
        )


def _measurable(arrays: Sequence[Array]) -> list[Array]:
    """Return the arrays in the dtype that a measurement runs in."""
    for array in arrays:
        if not kinds.is_floating(array):
            raise InputError(
                f"factors has dtype {array.dtype}; write factors.astype(jnp.float32)."
            )
    dtype = precision.measuring_dtype(None, list(arrays))
    arrays = [jnp.asarray(array, dtype) for array in arrays]
    return checks.all_finite("factors", arrays)
