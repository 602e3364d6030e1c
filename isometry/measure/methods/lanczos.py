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


# Number of singular values that are deflated before the others are probed, and the
# least numbers of probes and steps for that. With fewer probes the extra one would add
# too much to the cost; with fewer steps it does not converge.
_DEFLATED = 16
_PROBES_TO_DEFLATE = 4
_STEPS_TO_DEFLATE = 16


@dataclass(frozen=True)
class Lanczos(Method):
    """Estimate the spectrum by stochastic Lanczos quadrature, from products alone.

    The Jacobian is never formed. If `steps` is at least the number of singular values,
    min(m, n), and there is no `tol`, the nodes are all singular values. Otherwise they
    are nodes of quadrature rules: the spectrum estimates moments, the largest value,
    stable and effective rank, with intervals (`Spectrum.interval`), and the smooth
    distribution. Statistics that the nodes do not determine are NaN, with a reason
    (`Spectrum.why`).

    The standard error of a moment over `probes` is sqrt(2 / (n + 2) / probes) times the
    standard deviation over the spectrum. From 16 steps and 4 probes on the few largest
    values do not count for it: an extra probe computes them first, and they are
    deflated.

    Cost: steps * (probes + 1) products with J and its transpose.

    Attributes:
        steps: The number of nodes from each probe, at most min(m, n). `sp.method` has
            the number that was taken.
        probes: The number of random probes. Intervals come from their spread.
        tol: Stop early, once the mean of s over the probes and s_max have converged to
            this relative tolerance. It does not cover the spread over probes, which
            more steps do not lower. `sp.quadrature.steps` is the number of steps taken.

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
        # A method is a static argument of compiled programs, so its numbers must be
        # hashable Python numbers.
        for name in ("steps", "probes"):
            count = checks.integer(name, getattr(self, name), low=1)
            object.__setattr__(self, name, count)
        if self.tol is not None:
            tol = float(checks.number("tol", self.tol, above=0.0))
            object.__setattr__(self, "tol", tol)

    def check(self, target: "Target", key: Key | None) -> None:
        """Refuse a function without reverse derivative, which products with Jᵀ need."""
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
        """Return all singular values, or the nodes of all probes with equal weights."""
        assert key is not None, "`needs_key` requires one"
        operator = target.operator(params, x)
        size = min(operator.shape)
        method = replace(self, steps=min(self.steps, size))
        if self._is_exact(size):
            rules = linalg.spectral_quadrature(operator, key=key, steps=size, probes=1)
            # The Krylov space of one probe is then the whole space, so every node is a
            # singular value.
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

    def _is_exact(self, num_values: int) -> bool:
        """Tell whether the nodes are all singular values, if there are `num_values`."""
        return self.tol is None and self.steps >= num_values

    @property
    def _num_deflated(self) -> int:
        """How many of the largest singular values are deflated before the probes."""
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
        """Measure all inputs of a seed together, one seed after another.

        All inputs and probes of a seed share its weights, so that products with a
        weight are one wide matrix product. Over seeds they would be many narrow ones.

        Args:
            target: The span of f.
            params: Parameters, stacked over seeds.
            xs: Examples along a first axis.
            keys: Keys of shape (seeds, inputs), required.

        Returns:
            The spectrum, with batch axes (seeds, inputs).
        """

        def of_seed(seed: tuple[Params, Key]) -> "Spectrum":
            params_of_seed, keys_of_inputs = seed
            of_inputs = jax.vmap(
                lambda x, key: self.spectrum(target, params_of_seed, x, key=key)
            )
            return of_inputs(xs, keys_of_inputs)

        return in_turn(of_seed, (params, keys))

    def footprint(
        self,
        target: "Target",
        params: Params,
        x: Array,
    ) -> Footprint:
        """Bound the bytes of the Krylov bases and of the products of all probes."""
        m, n = target.shape
        itemsize = target.dtype.itemsize
        steps = min(self.steps, m, n)
        probes = self.probes
        if self._is_exact(min(m, n)):
            probes = 1
        # The Gauss and the Gauss-Radau rule of a probe come from one small matrix each,
        # of which the factorization makes copies.
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
        """Count the operations of the SVDs of the small matrices of all probes.

        With vectors, an SVD takes 22 k³ (Golub and Van Loan, Matrix Computations, 4th
        ed., figure 8.6.1).
        """
        num_probes = self.probes
        if self._is_exact(min(target.shape)):
            num_probes = 1
        # One matrix is for the Gauss rule of a probe, the other for its Gauss-Radau
        # rule.
        num_matrices = 2 * num_probes
        return 22 * num_matrices * min(self.steps, *target.shape) ** 3
