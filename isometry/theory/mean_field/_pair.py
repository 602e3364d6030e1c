"""E phi(u1) phi(u2) for two correlated Gaussians, to rounding for every correlation.

With u1, u2 of variance q and correlation c >= 0, given their common part x = √(qc) z
they are independent, so that

    E phi(u1) phi(u2) = E ψ(x)²,              ψ(x) = E_w phi(x + √(q(1−c)) w),
    E phi² − E phi(u1) phi(u2) = E Var_w phi(x + √(q(1−c)) w),

and nothing cancels as c → 1. For c < 0 it is E ψ(x) ψ(−x) with |c|. The same with phi'
gives the slope of the correlation map. The inner integral is cut where phi is; ψ is
smooth, at scale √(1−c) around the images of the kinks, where the outer one is cut. The
Mehler series Σ a_n² cⁿ is the same number, but at a kink its terms fall only as
n^(−5/2).
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry._internal.errors import InputError
from isometry.activations import Activation
from isometry.theory.mean_field._host import evaluate
from isometry.theory.mean_field._moments import AT_ZERO, ROUNDING, expectation, moments
from isometry.theory.mean_field._pieces import Pieces, octave_of, pieces
from isometry.theory.mean_field._quadrature import bell, gauss

Points = Float[np.ndarray, " points"]
Panels = Float[np.ndarray, " panels"]
Smoothed = Float[np.ndarray, "5 points"]

_ORDER = 16

# Nodes evaluated together: 25 MB at a time.
_BLOCK = 200_000

# Relative errors: what c_map promises, and more than which is refused.
_ENOUGH = 1e-13
_WORST = 1e-11

# Standard deviations that are integrated over. Nine hold all that matters of a phi that
# is bounded by a power, but not of exp.
_REACHES = (9.0, 17.0)

# Panels around the image of a kink, in widths of its smoothing: with those of the kink
# alone the error is 1e-9.
_AROUND = np.array([0, 1.5, 3, 4.5, 6, 8.5])


@dataclass(frozen=True)
class Pair:
    """Expectations at one correlation.

    Attributes:
        square: E phi².
        product: E phi(u1) phi(u2).
        gap: Their difference, without cancellation.
        slopes: E phi'(u1) phi'(u2).
        error: The relative error of all of them.
    """

    square: float
    product: float
    gap: float
    slopes: float
    error: float


class _Integrals(NamedTuple):
    """Expectations by one quadrature; those of the squares tell its error."""

    product: float
    gap: float
    slopes: float
    square: float
    slope_square: float


@functools.lru_cache(maxsize=1024)
def pair(
    phi: Activation,
    q: float,
    distance: float,
    is_negative: bool = False,
) -> Pair:
    """Compute the expectations at correlation ±(1 − distance).

    The error is how far E phi² and E phi'² by this quadrature are from those of a
    single Gaussian.

    Args:
        phi: The activation.
        q: The variance of both.
        distance: 1 − |c|.
        is_negative: Whether c is negative.

    Raises:
        InputError: They are not good to 1e-11.
    """
    q = max(q, AT_ZERO)
    known = moments(phi, q)
    square, slope = float(known.square[0]), float(known.slope[0])
    # At correlation 1, u1 and u2 are equal.
    if distance == 0 and not is_negative:
        return Pair(
            square,
            square,
            gap=0.0,
            slopes=slope,
            error=ROUNDING,
        )
    best = None
    error = math.inf
    with np.errstate(over="ignore", invalid="ignore"):
        for reach in _REACHES:
            found = _integrate(
                phi,
                q,
                distance,
                is_negative=is_negative,
                reach=reach,
            )
            off = max(_off(found.square, square), _off(found.slope_square, slope))
            if off < error:
                best, error = found, float(off)
            if error < _ENOUGH:
                break
    if best is None or not error < _WORST:
        raise InputError(
            f"E phi(u1) phi(u2) of {phi.name} at q={q:g}, 1-|c|={distance:g} is only "
            f"good to {error:.1g}; phi grows or oscillates too fast, or has too many "
            "kinks."
        )
    cancelled = 0.0
    if distance > 0 and not is_negative:
        # The gap comes from phi(x + dx) − phi(x) with dx of order √distance, in which
        # rounding is of this relative size.
        cancelled = 2e-16 / math.sqrt(distance)
    return Pair(
        square,
        float(best.product),
        gap=float(best.gap),
        slopes=float(best.slopes),
        error=max(error, ROUNDING, cancelled),
    )


def _off(value: float, truth: float) -> float:
    """Return the relative error; 0 where the truth is zero or infinite."""
    return abs(value / truth - 1) if 0 < truth < math.inf else 0.0


def _integrate(
    phi: Activation,
    q: float,
    distance: float,
    *,
    is_negative: bool,
    reach: float,
) -> _Integrals:
    scale = np.sqrt(q)
    share, width = np.sqrt(1 - distance), np.sqrt(distance)
    cut = pieces(phi, octave_of(1.5 * reach * float(scale)))
    panels = _outer_panels(
        cut,
        scale,
        share=share,
        width=width,
        reach=reach,
    )
    z, mass = (array.ravel() for array in gauss(*panels, order=_ORDER))
    mass = mass * bell(z)
    inner = _smoothed(
        phi,
        cut.edges,
        scale * share * z,
        width=scale * width,
        reach=reach,
    )
    mean, variance, square, slope, slope_square = inner
    mean_square = (mass * square).sum()
    mean_of_other, slope_of_other = mean, slope
    if is_negative:
        # The panels are symmetric, so −z is the reversal of z.
        mean_of_other, slope_of_other = mean[::-1], slope[::-1]
    product = (mass * mean * mean_of_other).sum()
    gap = (mass * variance).sum()
    if is_negative:
        gap = mean_square - product
    return _Integrals(
        product=product,
        gap=gap,
        slopes=(mass * slope * slope_of_other).sum(),
        square=mean_square,
        slope_square=(mass * slope_square).sum(),
    )


def _outer_panels(
    cut: Pieces,
    scale: float,
    *,
    share: float,
    width: float,
    reach: float,
) -> tuple[Panels, Panels]:
    """Return panels of the common part, symmetric about zero."""
    grid = np.linspace(-reach, reach, round(reach) + 1)
    if share > 0:
        around = np.concatenate([-_AROUND, _AROUND]) * width / share
        images = cut.kinks[:, None] / (scale * share) + around
        edges = cut.edges / (scale * share)
        grid = np.concatenate([grid, edges, images.ravel()])
    # Each edge with its mirror image.
    half = np.unique(np.abs(grid[np.abs(grid) <= reach]))
    edges = np.union1d(-half, half)
    return edges[:-1], edges[1:]


def _smoothed(
    phi: Activation,
    edges: Panels,
    x: Points,
    *,
    width: float,
    reach: float,
) -> Smoothed:
    """Average over w ~ N(0, 1) at u = x + width · w, for each point x.

    Returns:
        Five rows: E phi(u), Var phi(u), E phi(u)², E phi'(u) and E phi'(u)².
    """
    # Edges that no point reaches cut no integral.
    is_seen = edges > x.min() - reach * width
    is_seen &= edges < x.max() + reach * width
    edges = edges[is_seen]
    # Points are taken in blocks, so that memory stays bounded.
    rows = max(1, _BLOCK // (_ORDER * (round(reach) + len(edges))))
    blocks = [
        _block(phi, edges, x[first : first + rows], width=width, reach=reach)
        for first in range(0, len(x), rows)
    ]
    return np.concatenate(blocks, axis=1)


def _block(
    phi: Activation,
    edges: Panels,
    x: Points,
    *,
    width: float,
    reach: float,
) -> Smoothed:
    """Return the rows of `_smoothed` for a block of points."""
    count = round(reach) + 1
    grid = np.broadcast_to(np.linspace(-reach, reach, count), (len(x), count))
    cuts = grid[:, :0]
    if width > 0:
        cuts = np.clip(
            (edges - x[:, None]) / width,
            -reach,
            reach,
        )
    ends = np.sort(np.concatenate([grid, cuts], axis=1), axis=1)
    # Cuts beyond the reach were moved to its ends, and make panels of no width.
    owner, column = np.nonzero(ends[:, 1:] > ends[:, :-1])
    w, mass = gauss(
        ends[owner, column],
        ends[owner, column + 1],
        _ORDER,
    )
    value, slope = evaluate(phi, x[owner][:, None] + width * w)
    mass = mass * bell(w)
    mean = functools.partial(expectation, mass=mass, owner=owner, count=len(x))
    center = mean(value)
    variance = mean((value - center[owner][:, None]) ** 2)
    return np.stack([center, variance, mean(value**2), mean(slope), mean(slope**2)])


@functools.lru_cache(maxsize=4096)
def slope_squares(
    phi: Activation,
    q: float,
    q_other: float,
    correlation: float,
) -> float:
    """Compute E phi'(u1)² phi'(u2)² for Gaussians of two variances.

    Args:
        phi: The activation.
        q: The variance of u1.
        q_other: The variance of u2.
        correlation: Their correlation.
    """
    reach = _REACHES[0]
    correlation = float(np.clip(correlation, -1.0, 1.0))
    scale, scale_other = math.sqrt(q), math.sqrt(q_other)
    width = math.sqrt((1 - correlation) * (1 + correlation))
    octave = octave_of(1.5 * reach * max(scale, scale_other))
    cut = pieces(phi, octave)
    # Given z of u2, u1 is correlation z + width w; both are cut where phi is.
    left, right = _outer_panels(
        cut,
        scale,
        share=abs(correlation),
        width=width,
        reach=reach,
    )
    own = np.abs(cut.edges / scale_other)
    half = np.union1d(np.abs(np.append(left, right)), own[own <= reach])
    edges = np.union1d(-half, half)
    z, mass = (f.ravel() for f in gauss(edges[:-1], edges[1:], order=_ORDER))
    smoothed = _smoothed(
        phi,
        cut.edges,
        scale * correlation * z,
        width=scale * width,
        reach=reach,
    )
    _, slope = evaluate(phi, scale_other * z)
    return float(np.sum(mass * bell(z) * slope**2 * smoothed[4]))
