"""The measured spectrum: a measure on [0, ∞) kept as log singular values with their weights and precision floor."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry import _checks, linalg
from isometry.measure.methods import Dense

VARIABLES = ("lam", "s", "log_s")
_POWER = {"lam": 2.0, "s": 1.0}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Spectrum:
    """Singular values s of one Jacobian or of a batch, as a measure of mass 1 over the min(m, n) values of each.

    **Data** (`...` are batch axes; of an ensemble: seeds, inputs)
    - `log_values`: (..., nodes), ln s descending, -inf for an exact zero.
    - `weights`: (..., nodes), mass of each node, summing to 1.
    - `log_floor`: (...), ln of what the method resolves relative to each largest s; −inf where it resolves all. Nodes
      below are noise: they count as zeros, and statistics of log s leave them out.

    **Static**: `method`; `size` = min(m, n); `structural_zeros` = |m − n|, apart from the mass; `span` and `pairs`, the
    part of the network and how many (W, D) pairs it holds (None end to end, and of a chain, whose blocks may hold any
    number).

    Statistics act on the last axis and return one number a matrix, NaN of a Jacobian that is not finite. `variable` is
    "lam" (s², the default), "s" or "log_s". All may be traced. Differentiate `moment` and `log_spread`; the others are
    for reporting.
    """

    log_values: Any
    weights: Any
    log_floor: Any
    method: Any = field(default=Dense(), metadata={"static": True})
    size: int = field(default=0, metadata={"static": True})
    structural_zeros: int = field(default=0, metadata={"static": True})
    span: str = field(default="end_to_end", metadata={"static": True})
    pairs: int | None = field(default=None, metadata={"static": True})

    @property
    def values(self) -> Float[Array, "... nodes"]:
        """s, descending. Under- and overflows where log_values do not."""
        return jnp.exp(self.log_values)

    @property
    def resolved(self) -> Any:
        """(..., nodes) booleans: ln s − ln s_max ≥ log_floor, and s not zero."""
        top = self.log_values[..., :1]
        above = self.log_values >= top + jnp.asarray(self.log_floor)[..., None]
        return above & jnp.isfinite(self.log_values)

    def zero_fraction(self, exact: bool = False) -> Any:
        """Mass of the zeros: the exact ones, and unless `exact` also those too small to tell from zero."""
        zeros = jnp.isneginf(self.log_values) if exact else ~self.resolved
        return self._known(jnp.sum(jnp.where(zeros, self.weights, 0), -1))

    def moment(self, k: float = 1, variable: str = "lam") -> Any:
        """E[variable^`k`] over all nodes; for "log_s" over the resolved ones, of which `zero_fraction` is left out.

        **Raises** `ValueError`: an unknown variable; k not a positive number in the range of the dtype; a
        power of log_s that is not whole.
        """
        _checks.one_of("moment", among=VARIABLES, variable=variable)
        _checks.number("moment", low=0.0, open_low=True, k=k)
        range_of = jnp.finfo(self.log_values.dtype)
        _checks.number("moment", low=float(range_of.tiny), high=float(range_of.max), k=k)
        k = k if _checks.is_traced(k) else float(k)  # NumPy's float64 would ask for its own dtype
        if variable == "log_s":
            _whole_power("moment", k)
            mass = self._resolved_weights()
            whole = k if _checks.is_traced(k) else int(k)  # of negative numbers too, and with their gradients
            return self._known(jnp.sum(mass * self._masked_logs() ** whole, -1))
        return jnp.sum(self.weights * jnp.exp(_POWER[variable] * k * self.log_values), -1)

    def cdf(self, grid: Any, variable: str = "lam") -> Any:
        """Mass at or below each point of `grid`: (..., len(grid)). Exact; zeros count from 0 (or −inf) on."""
        level = self._to_log("cdf", grid, variable)
        below = self.log_values[..., None, :] <= self._column(level)
        return self._known(jnp.sum(jnp.where(below, self.weights[..., None, :], 0), -1))

    def smooth_cdf(self, grid: Any, variable: str = "lam") -> Any:
        """The distribution function, at `grid`, of the smooth density that a quadrature knows the moments of.

        For method "lanczos", whose nodes are no singular values: `cdf` is a staircase of `steps` stairs for each probe,
        this a Chebyshev series of 4·steps − 2 terms. Four steps on tanh networks of width 1000 and depth 100 are
        within 0.02 of the exact distribution. Atoms, as of zeros, are smeared over s_max/(2·steps).

        **Raises** `ValueError`: an unknown variable; another method, whose `cdf` is exact.
        """
        if self.method.gives_values:
            raise _checks.InputError(f"smooth_cdf(): of {self.method} every value is known; write cdf(grid).")
        level = self._to_log("smooth_cdf", grid, variable)
        steps = min(self.method.steps, self.size)
        found = linalg.smooth_cdf(self.log_values, self.weights, steps, level)
        return self._known(jnp.where(jnp.isnan(found), 0, found))  # below zero

    def quantile(self, p: Any, variable: str = "lam") -> Any:
        """Least x with cdf(x) ≥ `p`, an attained node: (...) for a number p, (..., len(p)) for a sequence.

        **Raises** `ValueError`: an unknown variable; p outside [0, 1].
        """
        _checks.one_of("quantile", among=VARIABLES, variable=variable)
        wanted = _checks.points("quantile", self.weights.dtype, p=p)
        for value in () if _checks.is_traced(p) else np.ravel(np.asarray(p)):
            _checks.number("quantile", low=0.0, high=1.0, p=float(value))
        ascending = self.log_values[..., ::-1]
        mass = jnp.cumsum(self.weights[..., ::-1], -1)
        # rounding of the cumulated weights, but never as much as a node: of many, that would be all below p
        rounding = 4 * math.log2(2 * ascending.shape[-1]) * float(jnp.finfo(mass.dtype).eps)
        slack = jnp.minimum(rounding, self.weights[..., ::-1] / 2)[..., None, :]
        index = jnp.sum(mass[..., None, :] < self._column(wanted) - slack, -1)
        found = jnp.take_along_axis(ascending, jnp.minimum(index, ascending.shape[-1] - 1), -1)
        found = found if variable == "log_s" else jnp.exp(_POWER[variable] * found)
        return found[..., 0] if np.shape(p) == () else found

    def density(self, grid: Any, bandwidth: float, variable: str = "lam") -> Any:
        """Gaussian kernel density at each point of `grid`: (..., len(grid)).

        `bandwidth`: standard deviation of a kernel, in the variable's own unit.

        Of "log_s" only the resolved nodes have a density, of mass 1 − zero_fraction(): nothing below the floor is
        drawn as data.

        **Raises** `ValueError`: an unknown variable; bandwidth not positive.
        """
        _checks.one_of("density", among=VARIABLES, variable=variable)
        range_of = jnp.finfo(self.log_values.dtype)
        _checks.number("density", low=float(range_of.tiny), high=float(range_of.max), bandwidth=bandwidth)
        points = _checks.points("density", self.log_values.dtype, grid=grid)
        if variable == "log_s":
            node, mass = self._masked_logs(), jnp.where(self.resolved, self.weights, 0)
        else:
            node, mass = jnp.exp(_POWER[variable] * self.log_values), self.weights
        width = jnp.asarray(bandwidth, node.dtype)
        z = (self._column(points) - node[..., None, :]) / width
        kernel = jnp.exp(-(z**2) / 2) / (width * math.sqrt(2 * math.pi))
        return self._known(jnp.sum(mass[..., None, :] * kernel, -1))

    def condition_number(self, nonzero: bool = False) -> Any:
        """s_max/s_min: infinite if any s is zero or unresolved; with `nonzero` the ratio over the resolved ones."""
        top, resolved = self.log_values[..., 0], self.resolved
        least = jnp.min(jnp.where(resolved, self.log_values, jnp.inf), -1)
        complete = resolved.any(-1) if nonzero else resolved.all(-1)
        return self._known(jnp.where(complete, jnp.exp(jnp.where(complete, top - least, 0)), jnp.inf))

    def effective_rank(self) -> Any:
        """exp of the entropy of s/Σs: between 1 and size, 0 for a zero matrix (Roy and Vetterli, 2007)."""
        share = self.weights * self._relative()
        total = jnp.sum(share, -1, keepdims=True)
        share = share / jnp.where(total > 0, total, 1)
        unit = share / jnp.where(self.weights > 0, self.weights * self.size, 1)  # of one singular value in the node
        entropy = -jnp.sum(jnp.where(unit > 0, share * jnp.log(jnp.where(unit > 0, unit, 1)), 0), -1)
        return self._known(jnp.where(total[..., 0] > 0, jnp.exp(entropy), 0))

    def stable_rank(self) -> Any:
        """Σ s²/s_max²: between 1 and size, 0 for a zero matrix."""
        return self._known(self.size * jnp.sum(self.weights * self._relative() ** 2, -1))

    def isometry_deviation(self) -> Any:
        """√E (s − 1)²: root mean square distance of the matrix to the nearest (partial) isometry; 0 exactly there."""
        return jnp.sqrt(jnp.sum(self.weights * (self.values - 1) ** 2, -1))

    def log_spread(self) -> Any:
        """Variance of ln s over the resolved nodes: 0 at isometry, with a finite gradient there and at zeros.

        Its Hessian goes through the vectors of an SVD, which equal singular values do not determine: NaN at isometry.
        For second derivatives take `linalg.log_spread` or `linalg.spectral_moments` of the Jacobian.
        """
        mass, logs = self._resolved_weights(), self._masked_logs()
        mean = jnp.sum(mass * logs, -1, keepdims=True)
        return self._known(jnp.sum(mass * (logs - mean) ** 2, -1))

    def pooled(self) -> "Spectrum":
        """One measure from all matrices of the batch, each with equal mass; its floor is the highest of theirs.

        The floor is taken in absolute terms and restated relative to the pooled largest value.
        """
        count = math.prod(self.log_values.shape[:-1])
        order = jnp.argsort(-self.log_values.ravel())
        absolute = jnp.where(self.resolved, -jnp.inf, self.log_values[..., :1] + jnp.asarray(self.log_floor)[..., None])
        top = jnp.max(self.log_values)
        floor = jnp.maximum(jnp.max(absolute) - top, jnp.min(jnp.asarray(self.log_floor)))
        return replace(
            self,
            log_values=self.log_values.ravel()[order],
            weights=(self.weights.ravel() / count)[order],
            log_floor=jnp.where(jnp.isfinite(top), floor, jnp.min(jnp.asarray(self.log_floor))),
        )

    def standard_error(self, statistic: str | Callable[["Spectrum"], Any]) -> Any:
        """Standard error over seeds of the mean of a statistic: inputs are averaged within their seed first.

        **Arguments**: `statistic`, a method's name ("stable_rank") or a function of a Spectrum, of one number a matrix
        or, as `quantile` of several p, an array of them: then one standard error each.

        NaN where the statistic of a matrix is infinite: there is no standard error.

        **Raises** `ValueError`: an unknown name, a method that needs arguments, no batch axis, fewer than two seeds, a
        statistic that is not one of each matrix.
        """
        call = getattr(type(self), statistic, None) if isinstance(statistic, str) else statistic
        if not callable(call):
            raise _checks.InputError(
                f"standard_error(): statistic={_checks.show(statistic)} is not a method of Spectrum or a function."
            )
        if self.log_values.ndim < 2 or self.log_values.shape[0] < 2:
            raise _checks.InputError(
                f"standard_error(): a spectrum of shape {self.log_values.shape} has no two seeds on its first axis."
            )
        try:
            inspect.signature(call).bind(self)
        except TypeError as error:
            raise _checks.InputError(
                f"standard_error(): statistic={_checks.show(statistic)} takes more than the spectrum ({error}); write "
                "lambda sp: sp.quantile(0.5), for example."
            ) from None
        value: Any = call(self)
        batch = self.log_values.shape[:-1]
        if jnp.shape(value)[: len(batch)] != batch:
            raise _checks.InputError(
                f"standard_error(): statistic={_checks.show(statistic)} gives {_checks.show(value)}; write one that "
                f"has a value for each of the {batch} matrices."
            )
        per_seed = value.reshape(batch[0], math.prod(batch[1:]), *value.shape[len(batch) :]).mean(1)
        return jnp.std(per_seed, axis=0, ddof=1) / math.sqrt(len(per_seed))

    def _known(self, found: Any) -> Any:
        """`found`, numbers of each matrix; NaN of one that was not finite: a NaN is neither resolved nor a zero."""
        lost = jnp.isnan(self.log_values).any(-1)
        return jnp.where(lost.reshape(lost.shape + (1,) * (found.ndim - lost.ndim)), jnp.nan, found)

    def _column(self, points: Any) -> Any:
        """(1, ..., points, 1): to be broadcast against (..., 1, nodes), also where rank promotion is an error."""
        return points.reshape((1,) * (self.log_values.ndim - 1) + (len(points), 1))

    def _relative(self) -> Any:
        """s/s_max, 0 for a zero matrix."""
        top = self.log_values[..., :1]
        return jnp.where(jnp.isfinite(top), jnp.exp(self.log_values - jnp.where(jnp.isfinite(top), top, 0)), 0)

    def _masked_logs(self) -> Any:
        """ln s where resolved, 0 elsewhere: masked before anything is done to it, so that gradients stay finite."""
        return jnp.where(self.resolved, self.log_values, 0)

    def _resolved_weights(self) -> Any:
        mass = jnp.where(self.resolved, self.weights, 0)
        total = jnp.sum(mass, -1, keepdims=True)
        return mass / jnp.where(total > 0, total, 1)

    def _to_log(self, call: str, grid: Any, variable: str) -> Any:
        """Points of `variable` as ln s; below zero there is no mass, so they map to NaN, which compares false."""
        _checks.one_of(call, among=VARIABLES, variable=variable)
        x = _checks.points(call, self.log_values.dtype, grid=grid)
        if variable == "log_s":
            return x
        logs = jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)) / _POWER[variable], -jnp.inf)
        return jnp.where(x < 0, jnp.nan, logs)

    def __repr__(self) -> str:
        batch = tuple(jnp.shape(self.log_values)[:-1])
        over = f"{batch} matrices, " if batch else ""
        dtype = jnp.result_type(self.log_values)
        return f"Spectrum({over}{self.size} singular values, span={self.span!r}, method={self.method}, {dtype})"


def _whole_power(call: str, k: Any) -> None:
    """Logarithms are of either sign, and only their whole powers real."""
    if not _checks.is_traced(k) and not float(k).is_integer():
        raise _checks.InputError(f"{call}(): k={_checks.show(k)} is not whole; of log_s write k=1, 2, ...")
