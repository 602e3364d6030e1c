"""Method "dense": form the Jacobian and factorize it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array

from isometry import linalg
from isometry._internal import memory, precision
from isometry._internal.types import Key, Params
from isometry.measure.methods._method import (
    COPIES,
    SMALL,
    Footprint,
    Method,
    in_turn,
)

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum
    from isometry.measure._target import Target

# Arrays of the size of the Jacobian: J, LAPACK's copy, and U and V, for which XLA
# allocates memory even if only singular values are computed.
_MATRICES = 4

# Square arrays of order m + n: on a GPU, singular values are the eigenvalues of a
# symmetric matrix of this order.
_BLOCKS = 5

# Least order of a Jacobian for which leaving out inactive units pays: below, gathering
# the others costs what it saves.
_WORTH = 192

# Largest share of active units at which it pays.
_SHARE = 0.75

# The number of active units is rounded up to a multiple of this, so that few programs
# serve all chunks. A tenth of it, and nearly every chunk is compiled for itself; ten
# times as much, and nothing is left out of layers of 256.
_BUCKET = 32


@dataclass(frozen=True)
class Dense(Method):
    """Form the Jacobian and factorize it: all singular values.

    Their error is at most max(m, n) * eps of the largest, which is the `log_floor` of
    the spectrum.

    Example:
        >>> sp = isometry.spectrum(jnp.dot, jnp.diag(jnp.array([3.0, 2.0])),
        ...                        jnp.ones(2), method=isometry.Dense())
        >>> sp.values
        Array([3., 2.], dtype=float32)
    """

    forms_jacobian = True

    def spectrum(
        self,
        target: "Target",
        params: Params,
        x: Array,
        key: Key | None,
    ) -> "Spectrum":
        """Measure all singular values of one Jacobian, by an SVD without vectors.

        Args:
            target: The span of f.
            params: Parameters of one seed.
            x: One example.
            key: Ignored.

        Returns:
            The spectrum of min(m, n) values, without batch axes.
        """
        return self.of_jacobian(target, target.jacobian(params, x))

    def spectra(
        self,
        target: "Target",
        params: Params,
        xs: Array,
        keys: Key | None,
    ) -> "Spectrum":
        """Form the Jacobians of all inputs, and factorize them as one batch."""
        if target.live is not None:
            return in_turn(lambda p: self._compact(target, p, xs), params)
        if target.layered:
            # One wide product for each layer and seed is faster than a batch of small
            # ones.
            wide = in_turn(lambda p: target.jacobians(p, xs), params)
            return self.of_jacobian(target, wide)
        of_inputs = jax.vmap(target.jacobian, in_axes=(None, 0))
        matrices = jax.vmap(of_inputs, in_axes=(0, None))(params, xs)
        return self.of_jacobian(target, matrices)

    def of_jacobian(self, target: "Target", matrix: Array) -> "Spectrum":
        """Factorize Jacobians that are given as matrices."""
        log_values, log_floor = linalg.log_singular_values(matrix)
        return target.record(self, log_values, log_floor=log_floor)

    def _compact(
        self,
        target: "Target",
        params: Params,
        xs: Array,
    ) -> "Spectrum":
        """Measure one seed from its active units alone; the others give zeros."""
        stacks = target.factors_of_inputs(params, xs)
        assert target.live is not None, "`narrowed` has counted them"
        with precision.full():
            matrix = linalg.compact_product(stacks, target.live)
        log_values, log_floor = linalg.log_singular_values(matrix)
        size = min(target.shape)
        num_missing = size - log_values.shape[-1]
        padding = ((0, 0), (0, num_missing))
        log_values = jnp.pad(log_values, padding, constant_values=-jnp.inf)
        # Values beyond the rank are zero exactly. NaN stays NaN: it says that the
        # Jacobian was not finite.
        rank = jnp.min(linalg.live_counts(stacks), -1, keepdims=True)
        is_beyond_rank = jnp.arange(size)[None] >= rank
        is_zero = is_beyond_rank & ~jnp.isnan(log_values)
        log_values = jnp.where(is_zero, -jnp.inf, log_values)
        return target.record(self, log_values, log_floor=log_floor)

    def may_narrow(self, target: "Target") -> bool:
        """Tell whether it may pay to leave out inactive units.

        It may if there can be some, and the Jacobian is large.
        """
        return target.sparse and min(target.shape) >= _WORTH

    def narrow(
        self,
        target: "Target",
        params: Params,
        xs: Array,
    ) -> Array:
        """Return, for each seed and input, the most units active between two layers."""

        def of_seed(p: Params) -> Array:
            counts = linalg.live_counts(target.factors_of_inputs(p, xs))
            return jnp.max(counts, axis=-1)

        return jax.lax.map(of_seed, params)

    def narrowed(self, target: "Target", most: int) -> "Target":
        """Return the target without its inactive units, if these are enough to pay."""
        live = -(-most // _BUCKET) * _BUCKET
        if live > _SHARE * min(target.shape):
            return target
        return replace(target, live=live)

    def footprint(
        self,
        target: "Target",
        params: Params,
        x: Array,
    ) -> Footprint:
        """Bound the bytes of the Jacobian, its factorization and what forms it."""
        m, n = target.shape
        itemsize = target.dtype.itemsize
        weights = memory.tree_bytes(params) + SMALL
        values = COPIES * target.held.in_all
        # Rows of min(m, n) numbers: the record, and what it is made from.
        result = 4 * min(m, n) * itemsize
        factorizing = _MATRICES * m * n * itemsize
        # A GPU factorizes a symmetric matrix of order m + n instead.
        if jax.default_backend() == "gpu":
            factorizing = max(factorizing, _BLOCKS * (m + n) ** 2 * itemsize)
        if target.layered:
            # Two of the products on the way, beside J: the widest is min(m, n) × the
            # widest layer.
            widest = target.widest(params, x)
            forming = (m * n + COPIES * min(m, n) * widest) * itemsize
            each = max(factorizing, forming) + values + result
            return Footprint(weights, each)
        return Footprint(
            shared=weights,
            each=factorizing + values + result,
            a_direction=COPIES * target.held.at_once,
            directions=min(m, n),
        )

    def operations(
        self,
        target: "Target",
        params: Params,
        x: Array,
    ) -> int:
        """Count the operations that the singular values of a Jacobian take.

        The cheaper of two algorithms: bidiagonalization, or QR first (Golub and Van
        Loan, Matrix Computations, 4th ed., 5.4.8 and figure 8.6.1). Only the shape of
        the Jacobian counts, not `params` and `x`.
        """
        # The formulas are for at least as many rows as columns.
        rows, columns = max(target.shape), min(target.shape)
        bidiagonalized = 4 * rows * columns**2 - 4 * columns**3 / 3
        qr_first = 2 * rows * columns**2 + 2 * columns**3
        return int(min(bidiagonalized, qr_first))
