"""Method "lanczos": the density of a Jacobian that is never formed."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array

from isometry import linalg
from isometry._internal import checks, memory
from isometry._internal.errors import InputError, public
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


@dataclass(frozen=True)
class Lanczos(Method):
    """Find the density by stochastic Lanczos quadrature, from products with J alone.

    The nodes are those of a quadrature, not the singular values: moments, densities and
    distribution functions are estimates, of standard error sqrt(2 / (n + 2) / probes)
    relative to their spread. Cost: steps * probes products with J and its transpose.

    Attributes:
        steps: Nodes from each random direction. More than min(m, n) find nothing new:
            the method that a `Spectrum` carries says how many were taken.
        probes: Random directions.

    Raises:
        InputError: `steps` or `probes` is not a positive whole number.

    Example:
        >>> sp = isometry.spectrum(jnp.dot, 2 * jnp.eye(8), jnp.ones(8),
        ...                        method=isometry.Lanczos(steps=4, probes=2),
        ...                        key=jax.random.key(0))
        >>> sp.moment(1)
        Array(4., dtype=float32)
    """

    steps: int = 64
    probes: int = 8

    needs_key = True
    gives_values = False

    @public("Lanczos")
    def __post_init__(self):
        # A method is a static argument of programs, so its counts are made Python's
        # own.
        for name in ("steps", "probes"):
            count = checks.integer(name, getattr(self, name), low=1)
            object.__setattr__(self, name, count)

    def check(self, target: "Target", key: Key | None) -> None:
        """Require products with J, and with its transpose."""
        if target.has_factors:
            return
        if target.forward_only:
            raise InputError(
                'method="lanczos" needs Jᵀ v, and f holds a while_loop, which has no '
                "reverse derivative; write a scan or a fori_loop with constant bounds, "
                'or method="dense".'
            )

    def spectrum(
        self, target: "Target", params: Params, x: Array, key: Key | None
    ) -> "Spectrum":
        """Return the nodes of all probes together, each probe of equal mass."""
        operator = target.operator(params, x)
        method = replace(self, steps=min(self.steps, *operator.shape))
        quadrature = linalg.spectral_quadrature(
            operator,
            key=key,
            steps=method.steps,
            probes=method.probes,
        )
        order = jnp.argsort(-quadrature.log_values.ravel())
        weights = quadrature.weights / method.probes
        return target.record(
            method,
            quadrature.log_values.ravel()[order],
            log_floor=quadrature.log_floor,
            weights=weights.ravel()[order],
        )

    def spectra(
        self, target: "Target", params: Params, xs: Array, keys: Key | None
    ) -> "Spectrum":
        """Measure the inputs of a seed together.

        Matrices that inputs and probes share make one wide product; batched over seeds
        they would make many narrow ones.
        """

        def of_seed(seed: tuple[Params, Key]) -> "Spectrum":
            one = jax.vmap(
                lambda p, x, key: self.spectrum(target, p, x, key),
                in_axes=(None, 0, 0),
            )
            return one(seed[0], xs, seed[1])

        return in_turn(of_seed, (params, keys))

    def footprint(self, target: "Target", params: Params, x: Array) -> Footprint:
        """Bound the bytes of both bases, and of the products of every probe."""
        m, n = target.shape
        basis = self.steps * (m + n + 4 * self.steps) * target.dtype.itemsize
        products = COPIES * target.held.at_once
        values = COPIES * target.held.in_all
        weights = memory.tree_bytes(params) + SMALL
        return Footprint(weights, values + self.probes * (basis + products))

    def operations(self, target: "Target", params: Params, x: Array) -> int:
        """Count values and both sides of vectors of a small square matrix a probe.

        Golub and Van Loan, Matrix Computations, 4th ed., figure 8.6.1.
        """
        return 22 * self.probes * min(self.steps, *target.shape) ** 3
