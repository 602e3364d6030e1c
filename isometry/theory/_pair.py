"""E phi(u1) phi(u2) for two correlated Gaussians, to rounding for every correlation, 1 − c included.

With u1, u2 of variance q and correlation c ≥ 0, given their common part x = √(qc) z they are independent, so that

    E phi(u1) phi(u2) = E psi(x)²,   psi(x) = E_w phi(x + √(q(1−c)) w),
    E phi² − E phi(u1) phi(u2) = E Var_w phi(x + √(q(1−c)) w)       (nothing cancels as c → 1),

and for c < 0, E psi(x) psi(−x) with |c|. The same with phi' gives the slope of the correlation map. The inner integral
is cut where phi is; psi is smooth, at scale √(1−c) around the images of the kinks, where the outer one is cut. The
Mehler series Σ a_n² c^n is the same number, but its terms fall only as n^(−5/2) at a kink.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from isometry import _checks
from isometry.activations import Activation
from isometry.theory._host import evaluate
from isometry.theory._moments import AT_ZERO, ROUNDING, moments
from isometry.theory._pieces import Pieces, octave_of, pieces
from isometry.theory._quadrature import bell, gauss

_ORDER = 16
_BLOCK = 200_000  # nodes evaluated together
_ENOUGH, _WORST = 1e-13, 1e-11
"""Relative errors: what c_map promises, and more than which is refused."""
_AROUND = np.array([0, 1.5, 3, 4.5, 6, 8.5])  # widths of the smoothed kink


@dataclass(frozen=True)
class Pair:
    """Numbers of one correlation. `gap` is E phi² − product; `error` is relative, for all of them."""

    square: float  # E phi²
    product: float  # E phi(u1) phi(u2)
    gap: float
    slopes: float  # E phi'(u1) phi'(u2)
    error: float


@functools.lru_cache(maxsize=1024)
def pair(phi: Activation, q: float, distance: float, negative: bool = False) -> Pair:
    """The pair at c = 1 − distance, or at c = distance − 1 if `negative`; 0 ≤ distance ≤ 1.

    The error is how far E phi² and E phi'² by this quadrature are from those of a single Gaussian.
    """
    q = max(q, AT_ZERO)
    known = moments(phi, q)
    square, slope = float(known.square[0]), float(known.slope[0])
    if distance == 0 and not negative:
        return Pair(square, square, 0.0, slope, ROUNDING)
    found, error = (), math.inf
    with np.errstate(over="ignore", invalid="ignore"):
        # Nine deviations hold all that matters of a phi that is bounded by a power, but not of exp.
        for reach in (9.0, 17.0):
            again = _integrate(phi, q, distance, negative, reach)
            off = max(_off(again[3], square), _off(again[4], slope))
            found, error = (again, off) if off < error else (found, error)
            if error < _ENOUGH:
                break
    if not error < _WORST:
        raise _checks.InputError(
            f"theory: E phi(u1) phi(u2) of {phi.name} at q={q:g}, 1-|c|={distance:g} is only good to {error:.1g}; "
            "phi grows or oscillates too fast, or has too many kinks."
        )
    product, gap, slopes = (float(x) for x in found[:3])
    cancelled = 2e-16 / math.sqrt(distance) if distance > 0 and not negative else 0.0  # phi(x + dx) − phi(x)
    return Pair(square, product, gap, slopes, max(float(error), ROUNDING, cancelled))


def _off(value: float, truth: float) -> float:
    return abs(value / truth - 1) if 0 < truth < math.inf else 0.0


def _integrate(phi: Activation, q: float, distance: float, negative: bool, reach: float) -> tuple[float, ...]:
    """product, gap, slopes, E phi², E phi'²."""
    scale, share, width = np.sqrt(q), np.sqrt(1 - distance), np.sqrt(distance)
    cut = pieces(phi, octave_of(1.5 * reach * float(scale)))
    z, mass = (a.ravel() for a in gauss(*_outer_panels(cut, scale, share, width, reach), _ORDER))
    mass = mass * bell(z)
    inner = _smoothed(phi, cut.edges, scale * share * z, scale * width, reach)
    mean, variance, square, slope, slope_square = inner
    other = slice(None, None, -1) if negative else slice(None)
    product = (mass * mean * mean[other]).sum()
    gap = (mass * square).sum() - product if negative else (mass * variance).sum()
    return product, gap, (mass * slope * slope[other]).sum(), (mass * square).sum(), (mass * slope_square).sum()


def _outer_panels(cut: Pieces, scale: float, share: float, width: float, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric about zero, so that −z is the reversal of z."""
    grid = np.linspace(-reach, reach, round(reach) + 1)
    if share > 0:
        around = np.r_[-_AROUND, _AROUND] * width / share
        grid = np.r_[grid, cut.edges / (scale * share), (cut.kinks[:, None] / (scale * share) + around).ravel()]
    half = np.unique(np.abs(grid[np.abs(grid) <= reach]))
    edges = np.unique(np.r_[-half, half])
    return edges[:-1], edges[1:]


def _smoothed(phi: Activation, edges: np.ndarray, x: np.ndarray, width: float, reach: float) -> np.ndarray:
    """E_w phi, Var_w phi, E_w phi², E_w phi' and E_w phi'² at x + width w, for every x: (5, len(x))."""
    edges = edges[(edges > x.min() - reach * width) & (edges < x.max() + reach * width)]
    rows = max(1, _BLOCK // (_ORDER * (round(reach) + len(edges))))
    return np.concatenate([_block(phi, edges, x[i : i + rows], width, reach) for i in range(0, len(x), rows)], 1)


def _block(phi: Activation, edges: np.ndarray, x: np.ndarray, width: float, reach: float) -> np.ndarray:
    grid = np.broadcast_to(np.linspace(-reach, reach, round(reach) + 1), (len(x), round(reach) + 1))
    cuts = np.clip((edges - x[:, None]) / width, -reach, reach) if width > 0 else grid[:, :0]
    ends = np.sort(np.concatenate([grid, cuts], 1), 1)
    owner, column = np.nonzero(ends[:, 1:] > ends[:, :-1])
    w, mass = gauss(ends[owner, column], ends[owner, column + 1], _ORDER)
    value, slope = evaluate(phi, x[owner][:, None] + width * w)
    mass = mass * bell(w)

    def mean(f: np.ndarray) -> np.ndarray:
        return np.bincount(owner, (mass * f).sum(1), len(x))

    center = mean(value)
    variance = mean((value - center[owner][:, None]) ** 2)
    return np.stack([center, variance, mean(value**2), mean(slope), mean(slope**2)])
