"""Gaussian moments of an activation and its slope, for many variances at once.

All of the mean field follows from a few numbers: with u = √q z,

    M = E phi(u)²,  S = mu_1 = E phi'(u)²,  mu_2 = E phi'(u)^4,  dM/dq = E[phi phi' u]/q.

The last needs no second derivative and is right at kinks. Criticality asks for q S − M, which cancels to q³ for odd
phi: with a_n the Hermite coefficients of phi(√q z), q S − M = Σ_n (n − 1) a_n², so the linear part is taken off first:
q S − M = q Var phi' − Var[phi − a_1 z] − a_0². Likewise mu_2/mu_1² − 1 = Var(phi'²)/mu_1².
"""

import functools
from dataclasses import dataclass

import numpy as np

from isometry import _checks
from isometry.activations import Activation
from isometry.theory._host import ActivationLike, evaluate, record
from isometry.theory._pieces import Pieces, limit, octave_of, pieces
from isometry.theory._quadrature import FAR, REACH, TAIL, bell, gauss

SMALLEST, LARGEST = 1e-30, 1e12  # variances searched for fixed points
ROUNDING = 1e-14  # relative error of a moment; measured against mpmath: below 3e-15
AT_ZERO = 1e-290
"""Stands for q → 0+. Ten times larger or smaller changes no digit; a thousand decades smaller underflows."""
_NORMAL = float(np.finfo(float).tiny)
_BLOCK = 400_000  # nodes evaluated together
_TAILS = ("phi²", "phi'²", "phi'^4")
_DECIDED_BY = {  # a moment is infinite where the tails of these are
    "square": _TAILS[:1],
    "slope": _TAILS[1:2],
    "growth": _TAILS[:2],
    "excess": _TAILS[:2],
    "spread": _TAILS[1:],
}


@dataclass(frozen=True)
class Moments:
    """Arrays over q. Where an expectation diverges or overflows: inf."""

    square: np.ndarray  # M
    slope: np.ndarray  # S
    growth: np.ndarray  # dM/dq
    excess: np.ndarray  # q S − M
    spread: np.ndarray  # mu_2/mu_1² − 1


def moments(phi: Activation, q: np.ndarray | float) -> Moments:
    """The moments at every q ≥ 0. At q = 0 the square is phi(0)², the rest the limit q → 0+.

    A square below the normal numbers of float64 underflows gradually, with a tie going to zero.

    **Raises** `ValueError`: phi oscillates too fast to be integrated at this q.
    """
    q = np.atleast_1d(np.asarray(q, np.float64))
    positive = np.where(q == 0, AT_ZERO, q)
    _within_limit(phi, positive.max())
    cut = pieces(phi, octave_of(REACH * float(np.sqrt(positive.max()))))
    found = _in_blocks(phi, cut, positive, REACH)
    heavy = np.any([found[tail] > TAIL for tail in _TAILS], 0)
    if heavy.any():
        q_far = positive[heavy]
        far = _in_blocks(phi, pieces(phi, octave_of(FAR * float(np.sqrt(q_far.max())))), q_far, FAR)
        for name, tails in _DECIDED_BY.items():
            divergent = np.any([far[tail] > TAIL for tail in tails], 0)
            found[name][heavy] = np.where(divergent, np.inf, far[name])
    if (q == 0).any():
        found["square"][q == 0] = evaluate(phi, np.zeros(1))[0][0] ** 2
        vanishes = found["slope"] < 1e-6 * moments(phi, SMALLEST).slope  # phi'(0) = 0: a power of q is left
        found["slope"][(q == 0) & vanishes] = 0.0
    if len(cut.jumps):
        for name in ("slope", "growth", "excess", "spread"):
            found[name][:] = np.inf
    return Moments(**{name: found[name] for name in _DECIDED_BY})


def differentiable(call: str, phi: Activation, q: float) -> None:
    """Refuse a phi that jumps: E phi'² is infinite, and so is chi_1."""
    jumps = pieces(phi, octave_of(REACH * float(np.sqrt(max(q, AT_ZERO))))).jumps
    if len(jumps):
        raise _checks.NotDefined(
            f"{call}(): {phi.name} jumps at u={jumps[0]:.10g}, so E phi'² is infinite: chi_1 does not exist. "
            "theory.q_map and theory.c_map do."
        )


def finite(call: str, phi: Activation, q: float, value: float) -> float:
    """Refuse an expectation that is not finite."""
    if not np.isfinite(value):
        raise _checks.InputError(
            f"{call}(): the expectation over {phi.name} at q={q:g} diverges, or exceeds float64: phi grows too fast."
        )
    return float(value)


def variance_coefficient(activation: ActivationLike, q: float) -> float:
    """mu_2/mu_1² − 1 with mu_k = E phi'(√q z)^{2k}: the share of one layer in the spread of squared singular values.

    At chi_1 = 1 the variance of lam over its squared mean is depth times this, for orthogonal weights; for Gaussian
    ones depth times one more. Source: Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, eq. 22.

    **Raises** `ValueError`: negative or non-finite q, an activation that is flat or jumps. Error: 1e-13 relative.
    """
    call = "variance_coefficient"
    _checks.concrete(call, q=q)
    _checks.number(call, low=0.0, q=q)
    phi = record(call, activation)
    differentiable(call, phi, q)
    found = moments(phi, q)
    if found.slope[0] == 0:
        raise _checks.NotDefined(f"{call}(): {phi.name} is flat at q={q:g}; mu_2/mu_1² does not exist.")
    return finite(call, phi, q, found.spread[0])


@functools.lru_cache(maxsize=64)
def table(phi: Activation) -> tuple[np.ndarray, Moments]:
    """Moments on a grid of q, eight a decade and 1 among them, as far as phi can be integrated."""
    top = min(LARGEST, (limit(phi) / REACH) ** 2)
    q = 10.0 ** (np.arange(np.round(8 * np.log10(SMALLEST)), np.floor(8 * np.log10(top)) + 1) / 8)
    return q, moments(phi, q)


def _within_limit(phi: Activation, q: float) -> None:
    reach = REACH * float(np.sqrt(q))
    most = pieces(phi, octave_of(reach)).limit
    if reach > most and np.isfinite(most):
        raise _checks.InputError(
            f"theory: {phi.name} cannot be integrated at q={q:g}: beyond |u| = {most:.3g} it grows too fast (its "
            f"expectation diverges), oscillates too fast or has too many kinks; q is at most {(most / REACH) ** 2:.3g}."
        )


def _in_blocks(phi: Activation, cut: Pieces, q: np.ndarray, reach: float) -> dict[str, np.ndarray]:
    left, right, owner = _panels(cut.edges, np.sqrt(q), reach)
    rows = max(1, _BLOCK // 20)
    ends = np.searchsorted(owner, np.arange(len(q) + 1))
    parts, start = [], 0
    while start < len(q):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + rows, "right")) - 1)
        take = slice(ends[start], ends[stop])
        parts.append(_integrals(phi, q[start:stop], left[take], right[take], owner[take] - start, reach))
        start = stop
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _panels(edges: np.ndarray, scale: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Panels in u for every scale √q: two standard deviations wide at most, and cut where phi is."""
    grid = np.linspace(-reach, reach, round(reach) + 1)
    rows = [np.unique(np.r_[s * grid, edges[np.abs(edges) < s * reach]]) for s in scale]
    owner = np.repeat(np.arange(len(rows)), [len(row) - 1 for row in rows])
    return np.concatenate([row[:-1] for row in rows]), np.concatenate([row[1:] for row in rows]), owner


def _integrals(
    phi: Activation, q: np.ndarray, left: np.ndarray, right: np.ndarray, owner: np.ndarray, reach: float
) -> dict[str, np.ndarray]:
    u, mass = gauss(left, right)
    value, slope = evaluate(phi, u)
    scale, count = np.sqrt(q), len(q)
    z = u / scale[owner][:, None]
    mass = mass / scale[owner][:, None] * bell(z)

    def mean(f: np.ndarray) -> np.ndarray:
        return np.bincount(owner, (mass * f).sum(1), count)

    def minus(f: np.ndarray, center: np.ndarray) -> np.ndarray:
        return f - center[owner][:, None]

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        a0, mean_slope = mean(value), mean(slope)
        # Squares of numbers near √q underflow before q does, so they are taken relative to phi's size.
        unit = np.where(q < AT_ZERO, np.maximum(scale, np.abs(a0)), 1.0)
        relative = mean((value / unit[owner][:, None]) ** 2)
        # Rounded up, a tie at the smallest number would hold for ever a variance that halves at every layer.
        relative = np.where(unit**2 * relative < _NORMAL, (1 - ROUNDING) * relative, relative)
        mu_1 = mean(slope**2)
        tilt = scale * mean_slope  # a_1, by parts
        rest = minus(value, a0) - tilt[owner][:, None] * z
        found = {
            "square": unit**2 * relative,
            "slope": mu_1,
            "growth": mean(value * slope * z) / scale,
            "excess": q * mean(minus(slope, mean_slope) ** 2) - mean(rest**2) - a0**2,
            "spread": mean(minus(slope**2, mu_1) ** 2) / mu_1**2,
        }
        outer = np.minimum(np.abs(left), np.abs(right)) >= (reach - 2 - 1e-9) * scale[owner]
        for name, f in zip(_TAILS, (value**2, slope**2, slope**4), strict=True):
            part = (mass * f).sum(1)
            found[name] = np.bincount(owner, part * outer, count) / np.bincount(owner, part, count)
            found[name][np.bincount(owner, part, count) == 0] = 0.0
    return {name: np.where(np.isnan(f), np.inf, f) for name, f in found.items()}
