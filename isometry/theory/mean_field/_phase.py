"""The phase diagram: q* and chi_1 over a grid of sigma_w and sigma_b.

Poole et al. (2016), Figs. 1 and 2; Schoenholz et al. (2017), Fig. 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.activations import Activation
from isometry.theory.mean_field._fixed_points import (
    NEUTRAL,
    NoFixedPoint,
    log_growth,
    reached,
    turns,
)
from isometry.theory.mean_field._host import ActivationLike, record
from isometry.theory.mean_field._maps import scale
from isometry.theory.mean_field._moments import differentiable, moments, table

Points = Float[np.ndarray, " points"]
Heights = Float[np.ndarray, "points variances"]

ORDERED = "ordered"
CRITICAL = "critical"
CHAOTIC = "chaotic"
UNBOUNDED = "unbounded"

# Newton steps on log q, from within an eighth of a decade, and the residual that ends
# them.
_NEWTON = 8
_SETTLED = 4e-14

# log V(1) this near to zero: which way iteration goes is decided for each point alone.
_NEUTRAL_HEIGHT = 1e-9


@dataclass(frozen=True)
class PhaseDiagram:
    """Phases over all pairs of sigma_w and sigma_b.

    Attributes:
        sigma_w: The n values of sigma_w.
        sigma_b: The m values of sigma_b.
        q: (n, m): the fixed point reached from 1; inf where the variance passes 1e12,
            the largest that is looked at.
        chi: (n, m): chi_1 there, or at the largest q.
        phase: (n, m): "ordered", "critical", "chaotic", or "unbounded" where q is inf.

    Example:
        >>> diagram = theory.phase_diagram("tanh", [0.9, 1.8], [0.1])
        >>> diagram.phase.tolist()
        [['ordered'], ['chaotic']]
    """

    sigma_w: Float[np.ndarray, " n"]
    sigma_b: Float[np.ndarray, " m"]
    q: Float[np.ndarray, "n m"]
    chi: Float[np.ndarray, "n m"]
    phase: np.ndarray


@public("phase_diagram")
def phase_diagram(
    activation: ActivationLike,
    sigma_w: ArrayLike,
    sigma_b: ArrayLike,
) -> PhaseDiagram:
    """Find the phases over the grid of all sigma_w with all sigma_b.

    The error is 1e-12/|1 − V'(q*)|; 50 × 50 points take seconds.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        sigma_w: Values of √(fan_in · Var W), on one axis, or a number; positive.
        sigma_b: Values of the standard deviation of the biases, likewise; not negative.

    Returns:
        The diagram.

    Raises:
        InputError: An entry out of range, or more than one axis; an activation that is
            not known, not elementwise, or jumps.

    Example:
        >>> diagram = theory.phase_diagram("relu", [1.0, 2.0], 0.0)
        >>> diagram.phase.tolist()
        [['ordered'], ['unbounded']]
    """
    w, b = _axis("sigma_w", sigma_w), _axis("sigma_b", sigma_b)
    phi = record(activation)
    differentiable(phi, 1.0)
    # All points of the grid together: each Newton step is one quadrature for all.
    all_w, all_b = np.broadcast_arrays(w[:, None], b)
    q = _reached(phi, all_w.ravel(), all_b.ravel()).reshape(all_w.shape)
    is_bounded = np.isfinite(q)
    _, known = table(phi)
    # Where the variance is unbounded, chi is that of the largest q that was looked at.
    slope = np.full(q.shape, known.slope[-1])
    if is_bounded.any():
        slope[is_bounded] = moments(phi, q[is_bounded]).slope
    chi = w[:, None] ** 2 * slope
    is_critical = np.abs(chi - 1) <= NEUTRAL
    phase = np.select(
        [~is_bounded, is_critical, chi < 1],
        [UNBOUNDED, CRITICAL, ORDERED],
        default=CHAOTIC,
    )
    return PhaseDiagram(
        w,
        b,
        q=q,
        chi=chi,
        phase=phase,
    )


def _axis(name: str, value: ArrayLike) -> Points:
    """Return numbers, or one number, as one axis."""
    checks.on_host(name, value)
    is_real = False
    try:
        values = np.atleast_1d(np.asarray(value))
        is_real = checks.is_real(values.dtype)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if not is_real:
        raise InputError(f"{name}={checks.show(value)} is not an array of numbers.")
    if values.ndim != 1 or not len(values):
        raise InputError(f"{name} has shape {values.shape}; write one axis, (n,).")
    return np.array([scale(name, number) for number in values])


def _reached(
    phi: Activation,
    w: Points,
    b: Points,
) -> Points:
    """Find q* of every point.

    It is bracketed on the table, and Newton on log q finishes for all at once. Points
    at which that might find another root are done one by one.
    """
    grid, known = table(phi)
    height = log_growth(
        known,
        grid,
        sigma_w=w[:, None],
        sigma_b=b[:, None],
    )
    # Iteration starts at q = 1, and goes where the variance there goes.
    one = int(np.argmin(np.abs(np.log(grid))))
    q = np.full(len(w), np.nan)
    for rises in (True, False):
        rows = np.flatnonzero((height[:, one] > 0) == rises)
        path = np.arange(one, -1, -1)
        if rises:
            path = np.arange(one, len(grid))
        q[rows] = _first_crossing(
            phi,
            w[rows],
            b[rows],
            x=np.log(grid[path]),
            height=height[np.ix_(rows, path)],
        )
    # Where V falls somewhere, iteration need not stop at the first crossing.
    if np.any(known.growth < -1e-9 * known.slope):
        q[:] = np.nan
    is_unsure = np.isnan(q) | (np.abs(height[:, one]) < _NEUTRAL_HEIGHT)
    for i in np.flatnonzero(is_unsure):
        try:
            q[i] = reached(phi, float(w[i]), float(b[i])).value
        except NoFixedPoint:
            q[i] = np.inf
    return q


def _first_crossing(
    phi: Activation,
    w: Points,
    b: Points,
    *,
    x: Float[np.ndarray, " variances"],
    height: Heights,
) -> Points:
    """Find q where the height along x first changes its sign.

    inf or 0 if it never does; NaN where that is not plain to see.
    """
    has_crossed = height * np.sign(height[:, :1]) <= 0
    crosses = has_crossed.any(axis=1)
    stop = np.where(
        crosses,
        np.argmax(has_crossed, axis=1),
        len(x),
    )
    is_before = np.arange(len(x)) < stop[:, None] - 1
    # Before the first crossing |height| may come close to zero and turn: there may be
    # two roots that the table does not see.
    is_doubtful = (turns(height) & is_before).any(axis=1) | (stop == 0)
    rises = len(x) > 1 and x[1] > x[0]
    q = np.full(len(w), np.inf if rises else 0.0)
    # There may be a root below the table.
    at_zero = w**2 * moments(phi, 0.0).square + b**2
    q[~crosses & (q == 0) & (at_zero > 0)] = np.nan
    is_plain = crosses & ~is_doubtful
    if is_plain.any():
        row, j = np.flatnonzero(is_plain), stop[is_plain]
        start = x[j - 1], height[row, j - 1]
        end = x[j], height[row, j]
        q[is_plain] = _newton(
            phi,
            w[is_plain],
            b[is_plain],
            start=start,
            end=end,
        )
    q[is_doubtful] = np.nan
    return q


def _newton(
    phi: Activation,
    w: Points,
    b: Points,
    *,
    start: tuple[Points, Points],
    end: tuple[Points, Points],
) -> Points:
    """Find the roots of log V(q)/q between neighbours of the table.

    NaN where Newton has not settled.
    """
    (x_0, height_0), (x_1, height_1) = start, end
    # Steps stay inside the bracket.
    low, high = np.minimum(x_0, x_1), np.maximum(x_0, x_1)
    # From the chord between both ends.
    x = x_0 + height_0 / (height_0 - height_1) * (x_1 - x_0)
    residual = x
    for _ in range(_NEWTON):
        found = moments(phi, np.exp(x))
        v = w**2 * found.square + b**2
        residual = np.log(v) - x
        if np.all(np.abs(residual) <= _SETTLED):
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = w**2 * found.growth * np.exp(x) / v
            step = residual / (1 - slope)
        x = np.clip(
            x + np.nan_to_num(step, nan=0.0),
            low,
            high,
        )
    return np.where(
        np.abs(residual) <= _SETTLED,
        np.exp(x),
        np.nan,
    )
