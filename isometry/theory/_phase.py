"""The phase diagram: q* and chi_1 over a grid of sigma_w and sigma_b.

Source: Poole et al. (2016), arXiv:1606.05340, Figs. 1 and 2; Schoenholz et al. (2017), arXiv:1611.01232, Fig. 1.
"""

from dataclasses import dataclass

import numpy as np

from isometry import _checks
from isometry.activations import Activation
from isometry.theory._fixed_points import NEUTRAL, NoFixedPoint, reached, turns
from isometry.theory._host import ActivationLike, record
from isometry.theory._mean_field import check
from isometry.theory._moments import differentiable, moments, table

ORDERED, CRITICAL, CHAOTIC, UNBOUNDED = "ordered", "critical", "chaotic", "unbounded"
_NEWTON = 8  # steps; the start is within an eighth of a decade
_SETTLED = 4e-14  # relative residual

Ends = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class PhaseDiagram:
    """Arrays over (sigma_w, sigma_b).

    `q` is the fixed point reached from 1, inf where the variance passes 1e12, the largest q looked at; `chi` is chi_1
    there, or at the largest; `phase` is "ordered", "critical", "chaotic", or "unbounded" where q is inf.
    """

    sigma_w: np.ndarray
    sigma_b: np.ndarray
    q: np.ndarray
    chi: np.ndarray
    phase: np.ndarray


def phase_diagram(activation: ActivationLike, sigma_w: object, sigma_b: object) -> PhaseDiagram:
    """Phases over the grid of all sigma_w (n,) with all sigma_b (m,); numbers count as arrays of one.

    **Raises** `ValueError`: an entry that is not finite, sigma_w not positive, sigma_b negative, more than one axis; an
    activation that is unknown, not elementwise, or jumps. Error: 1e-12/|1 − V'(q*)|. Cost: seconds for 50 × 50.
    """
    call = "phase_diagram"
    w, b = (_axis(call, name, x) for name, x in (("sigma_w", sigma_w), ("sigma_b", sigma_b)))
    phi = record(call, activation)
    differentiable(call, phi, 1.0)
    q = _reached(call, phi, *(a.ravel() for a in np.broadcast_arrays(w[:, None], b))).reshape(len(w), len(b))
    bounded = np.isfinite(q)
    _, known = table(phi)
    slope = np.full(q.shape, known.slope[-1])
    slope[bounded] = moments(phi, q[bounded]).slope if bounded.any() else slope[bounded]
    chi = w[:, None] ** 2 * slope
    phase = np.select([~bounded, np.abs(chi - 1) <= NEUTRAL, chi < 1], [UNBOUNDED, CRITICAL, ORDERED], CHAOTIC)
    return PhaseDiagram(w, b, q, chi, phase)


def _axis(call: str, name: str, given: object) -> np.ndarray:
    _checks.concrete(call, **{name: given})
    try:
        values = np.atleast_1d(np.asarray(given))
        if not _checks.is_real(values.dtype):
            raise TypeError
    except (TypeError, ValueError):
        raise _checks.InputError(f"{call}(): {name}={_checks.show(given)} is not an array of numbers.") from None
    if values.ndim != 1 or not len(values):
        raise _checks.InputError(f"{call}(): {name} has shape {values.shape}; write one axis, (n,).")
    return np.array([check(call, **{name: value})[0] for value in values])


def _reached(call: str, phi: Activation, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """q* of every point: bracketed on the table, Newton on log q for all at once; what is not plain, one by one."""
    grid, known = table(phi)
    with np.errstate(divide="ignore"):
        height = np.clip(np.log((w[:, None] ** 2 * known.square + b[:, None] ** 2) / grid), -1e3, 1e3)  # as log_growth
    one = int(np.argmin(np.abs(np.log(grid))))
    q = np.full(len(w), np.nan)
    for rises in (True, False):
        rows = np.flatnonzero((height[:, one] > 0) == rises)
        path = np.arange(one, len(grid)) if rises else np.arange(one, -1, -1)
        q[rows] = _first_crossing(phi, w[rows], b[rows], np.log(grid[path]), height[np.ix_(rows, path)])
    if np.any(known.growth < -1e-9 * known.slope):  # V falls somewhere: iteration need not stop at the first crossing
        q[:] = np.nan
    for i in np.flatnonzero(np.isnan(q) | (np.abs(height[:, one]) < 1e-9)):
        try:
            q[i] = reached(call, phi, float(w[i]), float(b[i])).value
        except NoFixedPoint:
            q[i] = np.inf
    return q


def _first_crossing(phi: Activation, w: np.ndarray, b: np.ndarray, x: np.ndarray, height: np.ndarray) -> np.ndarray:
    """q where the height along x first changes sign; inf or 0 if it never does; NaN where that is not plain to see."""
    crossed = height * np.sign(height[:, :1]) <= 0
    crosses, stop = crossed.any(1), np.argmax(crossed, 1)
    stop = np.where(crosses, stop, len(x))
    doubtful = (turns(height) & (np.arange(len(x)) < stop[:, None] - 1)).any(1) | (stop == 0)
    q = np.full(len(w), np.inf if len(x) > 1 and x[1] > x[0] else 0.0)
    q[~crosses & (q == 0) & (w**2 * moments(phi, 0.0).square + b**2 > 0)] = np.nan  # a root below the table
    go = crosses & ~doubtful
    if go.any():
        row, j = np.flatnonzero(go), stop[go]
        q[go] = _newton(phi, w[go], b[go], (x[j - 1], height[row, j - 1]), (x[j], height[row, j]))
    q[doubtful] = np.nan
    return q


def _newton(phi: Activation, w: np.ndarray, b: np.ndarray, start: Ends, stop: Ends) -> np.ndarray:
    """The roots of log V(q)/q between neighbours of the table; NaN where Newton has not settled."""
    (x0, h0), (x1, h1) = start, stop
    x = x0 + h0 / (h0 - h1) * (x1 - x0)
    residual = x
    for _ in range(_NEWTON):
        found = moments(phi, np.exp(x))
        v = w**2 * found.square + b**2
        residual = np.log(v) - x
        if np.all(np.abs(residual) <= _SETTLED):
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            step = residual / (1 - w**2 * found.growth * np.exp(x) / v)
        x = np.clip(x + np.nan_to_num(step, nan=0.0), np.minimum(x0, x1), np.maximum(x0, x1))
    return np.where(np.abs(residual) <= _SETTLED, np.exp(x), np.nan)
