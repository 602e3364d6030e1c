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


# Singular values that are taken out before the others are probed, if there are at least
# so many probes and so many steps. With fewer probes the one that goes ahead would add
# too much to the cost; within fewer steps it converges to nothing.
_DEFLATED = 16
_PROBES_TO_DEFLATE = 4
_STEPS_TO_DEFLATE = 16


@dataclass(frozen=True)
class Lanczos(Method):
    """Estimate the spectrum by stochastic Lanczos quadrature, from products alone.

    The Jacobian is never formed. Where there are at least as many `steps` as singular
    values, min(m, n), and no `tol`, all of them are found, and everything is known.
    Else the nodes are those of quadratures, not singular values: the spectrum estimates
    moments, the largest value, stable and effective rank, with intervals
    (`Spectrum.interval`), and the smooth distribution. What the nodes do not tell is
    NaN, with a reason (`Spectrum.why`).

    The standard error of a moment over `probes` is sqrt(2 / (n + 2) / probes) times the
    standard deviation over the spectrum, without the few largest values, which one
    probe more finds first and takes out.

    Cost: steps * (probes + 1) products with J and its transpose.

    Attributes:
        steps: Nodes from each random direction, at most min(m, n): the method that a
            `Spectrum` carries has that many.
        probes: Random directions. Their spread is what intervals come from.
        tol: Take steps only until the mean of s, as the probes see it, and s_max are
            known to this relative tolerance. It leaves the spread over probes alone,
            which more steps do not lower. `sp.quadrature.steps` says how many were
            taken.

    Raises:
        InputError: `steps` or `probes` is not a positive whole number, `tol` not a
            positive number.

    Example:
        >>> matrix = jnp.diag(jnp.linspace(0.0, 2.0, 256))
        >>> sp = isometry.spectrum(jnp.dot, matrix, jnp.ones(256),
        ...                        method=isometry.Lanczos(steps=64, tol=0.05),
        ...                        key=jax.random.key(0))
        >>> int(sp.quadrature.steps)
        8
        >>> low, high = sp.interval("s_max")
        >>> bool(low <= 2.0 <= high < 2.1)
        True
    """

    steps: int = 32
    probes: int = 16
    tol: float | None = None

    needs_key = True

    @public("Lanczos")
    def __post_init__(self):
        # A method is a static argument of programs, so its numbers are made Python's
        # own.
        for name in ("steps", "probes"):
            count = checks.integer(name, getattr(self, name), low=1)
            object.__setattr__(self, name, count)
        if self.tol is not None:
            tol = float(checks.number("tol", self.tol, above=0.0))
            object.__setattr__(self, "tol", tol)

    def check(self, target: "Target", key: Key | None) -> None:
        """Require products with J, and with its transpose."""
        if target.forward_only and not target.layered:
            raise InputError(
                'method="lanczos" needs Jᵀ v, and f holds a while_loop, which has no '
                "reverse derivative; write a scan or a fori_loop with constant bounds, "
                'or method="dense".'
            )

    def spectrum(
        self,
        target: "Target",
        params: Params,
        x: Array,
        key: Key | None,
    ) -> "Spectrum":
        """Return all values, or the nodes of all probes, each probe of equal mass."""
        assert key is not None, "`needs_key` requires one"
        operator = target.operator(params, x)
        size = min(operator.shape)
        method = replace(self, steps=min(self.steps, size))
        if self._finds_all(size):
            rules = linalg.spectral_quadrature(operator, key=key, steps=size, probes=1)
            # A whole basis of one probe: every node is a singular value.
            log_values = rules.log_values[0]
            return target.record(method, log_values, log_floor=rules.log_floor)
        rules = linalg.spectral_quadrature(
            operator,
            key=key,
            steps=method.steps,
            probes=method.probes,
            tol=method.tol,
            deflate=self._num_deflated,
        )
        order = jnp.argsort(-rules.log_values.ravel())
        weights = rules.weights.ravel() / method.probes
        nodes = target.record(
            method,
            rules.log_values.ravel()[order],
            log_floor=rules.log_floor,
            weights=weights[order],
        )
        return replace(nodes, quadrature=rules)

    def _finds_all(self, size: int) -> bool:
        """Tell whether the steps reach all of so many singular values."""
        return self.tol is None and self.steps >= size

    @property
    def _num_deflated(self) -> int:
        """How many singular values are taken out first."""
        has_probes = self.probes >= _PROBES_TO_DEFLATE
        has_steps = self.steps >= _STEPS_TO_DEFLATE
        return _DEFLATED * (has_probes and has_steps)

    def spectra(
        self,
        target: "Target",
        params: Params,
        xs: Array,
        keys: Key | None,
    ) -> "Spectrum":
        """Measure the inputs of a seed together.

        Matrices that inputs and probes share make one wide product; batched over seeds
        they would make many narrow ones.
        """

        def of_seed(seed: tuple[Params, Key]) -> "Spectrum":
            one = jax.vmap(
                lambda p, x, key: self.spectrum(target, p, x, key=key),
                in_axes=(None, 0, 0),
            )
            return one(seed[0], xs, seed[1])

        return in_turn(of_seed, (params, keys))

    def footprint(
        self,
        target: "Target",
        params: Params,
        x: Array,
    ) -> Footprint:
        """Bound the bytes of both bases, and of the products of every probe."""
        m, n = target.shape
        itemsize = target.dtype.itemsize
        steps = min(self.steps, m, n)
        probes = self.probes
        if self._finds_all(min(m, n)):
            probes = 1
        # Both rules of a probe come from one matrix each, which a factorization copies.
        basis = (steps * (m + n) + 8 * steps**2) * itemsize
        taken_out = 2 * self._num_deflated * n * itemsize
        products = COPIES * target.held.at_once
        values = COPIES * target.held.in_all
        weights = memory.tree_bytes(params) + SMALL
        return Footprint(weights, values + probes * (basis + taken_out + products))

    def operations(
        self,
        target: "Target",
        params: Params,
        x: Array,
    ) -> int:
        """Count values and both sides of vectors of a small square matrix a probe.

        Golub and Van Loan, Matrix Computations, 4th ed., figure 8.6.1.
        """
        num_matrices = 2 * self.probes
        if self._finds_all(min(target.shape)):
            num_matrices = 2
        return 22 * num_matrices * min(self.steps, *target.shape) ** 3
