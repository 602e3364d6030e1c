"""Gaussian moments of an activation and its slope, for many variances at once.

All of mean-field theory follows from a few numbers. With u = √q z, z standard normal,

    M = E phi(u)²,  S = μ_1 = E phi'(u)²,  μ_2 = E phi'(u)^4,  dM/dq = E[phi phi' u]/q.

The last needs no second derivative, and is right at kinks. Criticality asks for q S −
M, which cancels to q³ for odd phi. With a_n the Hermite coefficients of phi(√q z), q S
− M = Σ_n (n − 1) a_n², so the linear part is taken off first: q S − M = q Var phi' −
Var[phi − a_1 z] − a_0². Likewise μ_2/μ_1² − 1 = Var(phi'²)/μ_1².
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry.activations import Activation
from isometry.theory.mean_field._host import ActivationLike, evaluate, record
from isometry.theory.mean_field._pieces import Pieces, limit, octave_of, pieces
from isometry.theory.mean_field._quadrature import FAR, REACH, TAIL, bell, gauss

Variances = Float[np.ndarray, " variances"]
Panels = Float[np.ndarray, " panels"]
Nodes = Float[np.ndarray, "panels order"]
Owners = Int[np.ndarray, " panels"]

# Variances in which fixed points are searched.
SMALLEST_Q = 1e-30
LARGEST_Q = 1e12

# The relative error of a moment. Against mpmath it was below 3e-15.
ROUNDING = 1e-14

# Stands for q → 0+. Ten times larger or smaller changes no digit; a thousand decades
# smaller underflows.
AT_ZERO = 1e-290

# Below, float64 loses digits gradually.
_NORMAL = float(np.finfo(float).tiny)

# Nodes evaluated together: 50 MB at a time. A tenth of it spends its time in calls.
_BLOCK = 400_000

# Points of the table of moments, a decade. With half as many, fixed points closer than
# a third are taken for none; twice as many cost twice.
_PER_DECADE = 8

# A moment is infinite where the tails of these are not negligible.
_TAILS = ("phi²", "phi'²", "phi'^4")
_DECIDED_BY = {
    "square": ("phi²",),
    "slope": ("phi'²",),
    "growth": ("phi²", "phi'²"),
    "excess": ("phi²", "phi'²"),
    "spread": ("phi'²", "phi'^4"),
}


@dataclass(frozen=True)
class Moments:
    """Moments over variances q. Where one diverges or overflows, it is inf.

    Attributes:
        square: M = E phi².
        slope: S = E phi'².
        growth: dM/dq.
        excess: q S − M.
        spread: μ_2/μ_1² − 1.
    """

    square: Variances
    slope: Variances
    growth: Variances
    excess: Variances
    spread: Variances


def moments(phi: Activation, q: Variances | float) -> Moments:
    """Compute the moments at every q >= 0.

    At q = 0 the square is phi(0)², and the rest the limit q → 0+. A square below the
    normal numbers of float64 underflows gradually, with a tie going to zero.

    Raises:
        InputError: phi oscillates too fast to be integrated at this q.
    """
    q = np.atleast_1d(np.asarray(q, np.float64))
    is_zero = q == 0
    positive = np.where(is_zero, AT_ZERO, q)
    _require_within_limit(phi, positive.max())
    largest = float(np.sqrt(positive.max()))
    cut = pieces(phi, octave_of(REACH * largest))
    found = _in_blocks(
        phi,
        cut,
        positive,
        reach=REACH,
    )
    is_heavy = np.any([found[tail] > TAIL for tail in _TAILS], axis=0)
    if is_heavy.any():
        q_far = positive[is_heavy]
        largest = float(np.sqrt(q_far.max()))
        far_cut = pieces(phi, octave_of(FAR * largest))
        far = _in_blocks(
            phi,
            far_cut,
            q_far,
            reach=FAR,
        )
        for name, tails in _DECIDED_BY.items():
            diverges = np.any([far[tail] > TAIL for tail in tails], axis=0)
            found[name][is_heavy] = np.where(
                diverges,
                np.inf,
                far[name],
            )
    if is_zero.any():
        value, _ = evaluate(phi, np.zeros(1))
        found["square"][is_zero] = value[0] ** 2
        # Where phi'(0) = 0 a power of q is left.
        vanishes = found["slope"] < 1e-6 * moments(phi, SMALLEST_Q).slope
        found["slope"][is_zero & vanishes] = 0.0
    if len(cut.jumps):
        for name in ("slope", "growth", "excess", "spread"):
            found[name][:] = np.inf
    return Moments(**{name: found[name] for name in _DECIDED_BY})


def differentiable(phi: Activation, q: float) -> None:
    """Refuse a phi that jumps: E phi'² is infinite, and so is chi_1.

    Raises:
        NotDefined: It jumps where √q z has mass.
    """
    scale = float(np.sqrt(max(q, AT_ZERO)))
    jumps = pieces(phi, octave_of(REACH * scale)).jumps
    if len(jumps):
        raise NotDefined(
            f"{phi.name} jumps at u={jumps[0]:.10g}, so E phi'² is infinite: chi_1 "
            "does not exist. theory.q_map and theory.c_map do."
        )


def finite(
    phi: Activation,
    q: float,
    value: float,
) -> float:
    """Refuse an expectation that is not finite.

    Raises:
        InputError: It is not.
    """
    if not np.isfinite(value):
        raise InputError(
            f"the expectation over {phi.name} at q={q:g} diverges, or exceeds float64: "
            "phi grows too fast."
        )
    return float(value)


@public("variance_coefficient")
def variance_coefficient(activation: ActivationLike, q: float) -> float:
    """Compute μ_2/μ_1² − 1, with μ_k = E phi'(√q z)^{2k}.

    It is the share of one layer in the spread of squared singular values. At chi_1 = 1
    the variance of λ over its squared mean is depth times this for orthogonal weights;
    for Gaussian ones depth times one more (Pennington, Schoenholz and Ganguli, 2017,
    eq. 22). The error is 1e-13 relative.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        q: Variance of the pre-activations. Finite and not negative.

    Returns:
        The coefficient.

    Raises:
        InputError: q is negative or not finite.
        NotDefined: The activation is flat, or jumps.

    Example:
        >>> round(theory.variance_coefficient("tanh", 0.25), 6)
        0.136977
    """
    q = float(checks.number("q", checks.on_host("q", q), low=0.0))
    phi = record(activation)
    differentiable(phi, q)
    found = moments(phi, q)
    if found.slope[0] == 0:
        raise NotDefined(f"{phi.name} is flat at q={q:g}; mu_2/mu_1² does not exist.")
    return finite(phi, q, found.spread[0])


@functools.lru_cache(maxsize=64)
def table(phi: Activation) -> tuple[Variances, Moments]:
    """Return the moments on a grid of q, and the grid.

    It is even in log q, holds q = 1, and ends where phi cannot be integrated or float64
    ends.
    """
    top = min(LARGEST_Q, (limit(phi) / REACH) ** 2)
    first = np.round(_PER_DECADE * np.log10(SMALLEST_Q))
    last = np.floor(_PER_DECADE * np.log10(top))
    q = 10.0 ** (np.arange(first, last + 1) / _PER_DECADE)
    return q, moments(phi, q)


def _require_within_limit(phi: Activation, q: float) -> None:
    """Refuse a variance at which an activation cannot be integrated.

    `REACH` standard deviations must lie within the interval on which it can.
    """
    reach = REACH * float(np.sqrt(q))
    most = pieces(phi, octave_of(reach)).limit
    if reach > most and np.isfinite(most):
        raise InputError(
            f"{phi.name} cannot be integrated at q={q:g}: beyond |u| = {most:.3g} it "
            "grows too fast (its expectation diverges), oscillates too fast or has too "
            f"many kinks; q is at most {(most / REACH) ** 2:.3g}."
        )


def _in_blocks(
    phi: Activation,
    cut: Pieces,
    q: Variances,
    *,
    reach: float,
) -> dict[str, Variances]:
    """Integrate over |z| <= reach, as many variances together as fit a block."""
    left, right, owner = _panels(
        cut.edges,
        np.sqrt(q),
        reach,
    )
    rows = max(1, _BLOCK // 20)
    # The panels of variance i are ends[i] to ends[i + 1].
    ends = np.searchsorted(owner, np.arange(len(q) + 1))
    parts = []
    start = 0
    while start < len(q):
        last_fitting = np.searchsorted(ends, ends[start] + rows, side="right") - 1
        stop = max(start + 1, int(last_fitting))
        panels = slice(ends[start], ends[stop])
        block = _integrals(
            phi,
            q[start:stop],
            reach,
            left=left[panels],
            right=right[panels],
            owner=owner[panels] - start,
        )
        parts.append(block)
        start = stop
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _panels(
    edges: Float[np.ndarray, " edges"],
    scale: Variances,
    reach: float,
) -> tuple[Panels, Panels, Owners]:
    """Return panels in u for every scale √q, and the index of the scale of each.

    They are two standard deviations wide at most, and cut where phi is.
    """
    grid = np.linspace(-reach, reach, round(reach) + 1)
    rows = []
    for s in scale:
        seen = edges[np.abs(edges) < s * reach]
        rows.append(np.union1d(s * grid, seen))
    owner = np.repeat(np.arange(len(rows)), [len(row) - 1 for row in rows])
    left = np.concatenate([row[:-1] for row in rows])
    right = np.concatenate([row[1:] for row in rows])
    return left, right, owner


def _integrals(
    phi: Activation,
    q: Variances,
    reach: float,
    *,
    left: Panels,
    right: Panels,
    owner: Owners,
) -> dict[str, Variances]:
    """Integrate over panels, and add up those of one variance."""
    u, mass = gauss(left, right)
    value, slope = evaluate(phi, u)
    scale, count = np.sqrt(q), len(q)
    z = u / scale[owner][:, None]
    mass = mass / scale[owner][:, None] * bell(z)
    mean = functools.partial(expectation, mass=mass, owner=owner, count=count)
    found = {}
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        a_0, mean_slope = mean(value), mean(slope)
        found["square"] = _square(
            value,
            owner,
            q=q,
            a_0=a_0,
            mass=mass,
        )
        mu_1 = mean(slope**2)
        found["slope"] = mu_1
        found["growth"] = mean(value * slope * z) / scale
        # The Hermite coefficient a_1 is √q E phi', by parts.
        tilt = scale * mean_slope
        rest = value - a_0[owner][:, None] - tilt[owner][:, None] * z
        of_slope = q * mean((slope - mean_slope[owner][:, None]) ** 2)
        found["excess"] = of_slope - mean(rest**2) - a_0**2
        apart = slope**2 - mu_1[owner][:, None]
        found["spread"] = mean(apart**2) / mu_1**2
        innermost = np.minimum(np.abs(left), np.abs(right))
        is_outer = innermost >= (reach - 2 - 1e-9) * scale[owner]
        integrands = (value**2, slope**2, slope**4)
        for name, f in zip(_TAILS, integrands, strict=True):
            part = (mass * f).sum(axis=1)
            whole = np.bincount(owner, part, count)
            tail = np.bincount(
                owner,
                part * is_outer,
                count,
            )
            found[name] = np.where(
                whole == 0,
                0.0,
                tail / whole,
            )
    return {name: np.where(np.isnan(f), np.inf, f) for name, f in found.items()}


def expectation(
    f: Nodes,
    mass: Nodes,
    owner: Owners,
    count: int,
) -> Variances:
    """Return the expectation of f for every variance."""
    return np.bincount(
        owner,
        (mass * f).sum(axis=1),
        count,
    )


def _square(
    value: Nodes,
    owner: Owners,
    *,
    q: Variances,
    a_0: Variances,
    mass: Nodes,
) -> Variances:
    """Return E phi(√q z)² of each q, also where q is so small that phi² underflows.

    Args:
        value: phi at the nodes of every panel.
        owner: Which q each panel belongs to.
        q: The variances.
        a_0: E phi of each.
        mass: The weights of the nodes, those of the Gaussian included.
    """
    # Where q is tiny, squares are taken relative to the size of phi.
    size = np.maximum(np.sqrt(q), np.abs(a_0))
    unit = np.where(q < AT_ZERO, size, 1.0)
    square = (value / unit[owner][:, None]) ** 2
    relative = np.bincount(
        owner,
        (mass * square).sum(axis=1),
        len(q),
    )
    # Rounded up, a tie at the smallest number would hold for ever a variance that
    # halves at every layer.
    is_denormal = unit**2 * relative < _NORMAL
    relative = np.where(
        is_denormal,
        (1 - ROUNDING) * relative,
        relative,
    )
    return unit**2 * relative
