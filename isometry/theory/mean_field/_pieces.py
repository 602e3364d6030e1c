"""Where an activation is smooth: its kinks and jumps, and panels that resolve it.

With a kink that is not known, plain quadrature is off by 1e-3. So phi and phi' are
sampled densely, octave by octave of |u|. Where they are not resolved, a zoom follows
the largest step of phi and phi' down to neighbouring floats; what jumps there is a kink
(or a jump of phi), and a panel ends there. Panels are then halved until all integrands
are resolved.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from isometry._internal.errors import InputError
from isometry.activations import Activation
from isometry.theory.mean_field._host import evaluate
from isometry.theory.mean_field._quadrature import bisected, gauss

Points = Float[np.ndarray, " points"]
Panels = Float[np.ndarray, " panels"]
Edges = Float[np.ndarray, " edges"]
Fewer = Float[np.ndarray, " fewer"]
Integrals = Float[np.ndarray, "panels integrands"]
Integrate = Callable[[Panels, Panels], Integrals]
Excuse = Callable[[Panels, Panels, Integrals], Integrals]

# Octaves end at _BASE 2^k: not where people put kinks.
_BASE = 1.0937261342

# Beyond the last octave, fourteen standard deviations at q = 1.7e12, phi is taken to go
# on as in its last octave.
_OCTAVES = 24

# The first octave begins here; what lies between is one panel.
_INNERMOST = 1e-6

# Nodes of the rule that must resolve phi², phi'² and phi'^4. Integrals use order 20
# later, so that they are right to rounding.
_ORDER = 12

# Panels a half octave in which kinks are looked for. With half as many, two kinks a
# hundredth apart are taken for one; twice as many cost twice the time of a new
# activation, which is half a second.
_SAMPLES = 24

# More kinks or panels an octave are noise, or an oscillation that no rule follows.
_MOST_KINKS = 64
_MOST_PANELS = 1024

# A step of phi or phi' by this share of its size, over 1e-9 of u, is a jump. A smooth
# phi would need a slope a thousand times its size to be taken for one.
_STEP = 1e-6
_STEP_WIDTH = 1e-9

# Below this size, 1e-3, points are compared over 1e-12 at least: closer ones are
# rounding of u + d.
_LEAST_PLACE = 1e-3

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Pieces:
    """Panels of phi on |u| <= reach.

    Attributes:
        edges: The ends of the panels.
        kinks: Where phi or phi' jumps.
        jumps: Where phi jumps.
        limit: Beyond, phi is too rough to integrate; inf if it is smooth there.
    """

    edges: Edges
    kinks: Points
    jumps: Float[np.ndarray, " jumps"]
    limit: float


@functools.lru_cache(maxsize=512)
def pieces(phi: Activation, octave: int = 4) -> Pieces:
    """Return the pieces on |u| <= _BASE 2^octave; the default is what q <= 1.4 sees."""
    octave = min(max(octave, 0), _OCTAVES)
    sides: list[Pieces] = []
    for k in range(octave + 1):
        both = [_side(phi, k, sign) for sign in (-1, 1)]
        sides += both
        # Beyond an octave that is not resolved, nothing is integrated.
        limits = [side.limit for side in both]
        if min(limits) < np.inf:
            break
    # Not at its middle, where a kink would be at a node.
    around_zero = np.array([-0.87, 0.93]) * _INNERMOST
    near_zero = _kinks_between(phi, around_zero, octave=0)
    reach = _BASE * 2.0**octave
    named = [kink for kink in phi.kinks if abs(kink) <= reach]
    kinks, edges, limits = [near_zero, named], [[0.0], near_zero], []
    for side in sides:
        kinks.append(side.kinks)
        edges.append(side.edges)
        limits.append(side.limit)
    kinks = np.unique(np.concatenate(kinks))
    edges = np.unique(np.concatenate(edges))
    jumps = []
    for kink in kinks:
        value_jumps, _ = _steps(phi, kink, octave)
        if value_jumps:
            jumps.append(kink)
    return Pieces(
        edges,
        kinks,
        jumps=np.array(jumps),
        limit=min(limits),
    )


def octave_of(u: float) -> int:
    """Return the octave in which |u| lies."""
    above = np.ceil(np.log2(max(u / _BASE, 1.0)))
    return int(np.clip(above, 0, _OCTAVES))


def limit(phi: Activation) -> float:
    """Return the largest |u| up to which phi can be integrated.

    It is inf but for endless oscillation or endless kinks.
    """
    return pieces(phi, _OCTAVES).limit


@functools.lru_cache(maxsize=4096)
def _side(
    phi: Activation,
    octave: int,
    sign: int,
) -> Pieces:
    """Return the pieces of one octave of one sign."""
    high = _BASE * 2.0**octave
    low = high / 2
    count = 2 * _SAMPLES
    if octave == 0:
        low = _INNERMOST
        count = 8 * _SAMPLES
    # Evenly in log |u|.
    shares = np.arange(count + 1) / count
    fine = sign * low * (high / low) ** shares
    named = [kink for kink in phi.kinks if low < sign * kink < high]
    found = _kinks_between(
        phi,
        np.unique(np.concatenate([fine, named])),
        octave,
    )
    fine = np.concatenate([fine, found, named])
    if octave == 0:
        fine = np.append(fine, 0.0)
    fine = np.unique(fine)
    none = np.zeros(0)
    if len(found) > _MOST_KINKS:
        rough = Pieces(
            fine[[0, -1]],
            kinks=none,
            jumps=none,
            limit=low,
        )
        return _or_refuse(phi, octave, rough)
    kinks = np.concatenate([found, named])
    panels, is_resolved = _refined(
        phi,
        fine,
        kinks,
        octave=octave,
    )
    limit = np.inf if is_resolved else low
    side = Pieces(
        panels,
        kinks=found,
        jumps=none,
        limit=limit,
    )
    return _or_refuse(phi, octave, side)


def _or_refuse(
    phi: Activation,
    octave: int,
    side: Pieces,
) -> Pieces:
    """Return the side, but refuse a phi that is not resolved on |u| <= 4.4.

    Farther out a limit is enough: what smaller variances need is still integrated.

    Raises:
        InputError: phi is not resolved there.
    """
    if octave <= 2 and side.limit < np.inf:
        raise InputError(
            f"{phi.name} is not resolved in float64 for |u| around {side.limit:g}: it "
            "is too rough, has too many kinks, an unbounded slope, computes in a lower "
            "precision, or is flat there but for rounding."
        )
    return side


@functools.lru_cache(maxsize=512)
def _noise(phi: Activation, octave: int) -> Float[np.ndarray, " 2"]:
    """Return the rounding in phi and phi' for |u| <= _BASE 2^octave.

    Values round by a share of their own size, and u by a share of its own, which moves
    them by that times their slope.
    """
    reach = _BASE * 2.0**octave
    half = np.geomspace(_INNERMOST, reach, 400)
    u = np.concatenate([-half[::-1], half])
    with np.errstate(over="ignore", invalid="ignore"):
        value, slope = (np.abs(np.nan_to_num(f)) for f in evaluate(phi, u))
        # Nine tenths of the way up: the largest differences are at kinks.
        bends = np.abs(np.diff(slope) / np.diff(u))
        bend = np.quantile(bends, 0.9)
        largest_slope = slope.max()
        # A rounding of u moves phi by slope · u, and phi' by bend · u.
        of_value = value.max() + reach * largest_slope
        of_slope = largest_slope + reach * bend
        return 8 * _EPS * np.array([of_value, of_slope])


def _refined(
    phi: Activation,
    fine: Edges,
    kinks: Points,
    *,
    octave: int,
) -> tuple[Fewer, bool]:
    """Return panels that resolve phi², phi'² and phi'^4, and whether they do."""
    noise = _noise(phi, octave)[[0, 1, 1]]
    powers = np.array([2.0, 2.0, 4.0])

    def integrate(left: Panels, right: Panels) -> Integrals:
        u, mass = gauss(left, right, _ORDER)
        value, slope = evaluate(phi, u)
        with np.errstate(over="ignore", invalid="ignore"):
            squares = [value**2, slope**2, slope**4]
            integrands = np.stack(squares, axis=1)
            weighted = mass[:, None] * integrands
            return weighted.sum(axis=2)

    def excuse(
        left: Panels,
        right: Panels,
        whole: Integrals,
    ) -> Integrals:
        width = (right - left)[:, None]
        with np.errstate(invalid="ignore", over="ignore"):
            size = np.abs(whole / width) ** (1 / powers)
            of_noise = powers * noise * (size + noise) ** (powers - 1)
            room = 1e-14 * np.abs(whole) + width * of_noise
        return np.where(np.isfinite(whole), room, np.inf)

    coarse = _thinned(integrate, excuse, fine)
    edges = np.unique(np.concatenate([coarse, kinks]))
    (left, right), _, is_resolved = bisected(
        integrate,
        excuse,
        edges,
        most=_MOST_PANELS,
    )
    return np.union1d(left, right), is_resolved


def _thinned(
    integrate: Integrate,
    excuse: Excuse,
    fine: Edges,
) -> Fewer:
    """Keep only as many of the fine edges as the same integrals need.

    It begins from fine panels, so that nothing narrow and steep is stepped over.
    """
    parts = integrate(fine[:-1], fine[1:])
    # The integrals from the first edge to each edge.
    running = np.cumsum(parts, axis=0)
    below = np.vstack([np.zeros(3), running])
    first = np.array([0])
    last = np.array([len(fine) - 1])
    kept = [first, last]
    while len(first):
        left, right = fine[first], fine[last]
        whole = integrate(left, right)
        with np.errstate(invalid="ignore"):
            # The running sum rounds, too.
            to_first, to_last = below[first], below[last]
            rounding = 4 * _EPS * np.maximum(to_last, to_first)
            room = excuse(left, right, whole) + rounding
            error = np.abs(to_last - to_first - whole)
            is_off = (error > room).any(axis=1)
            is_wrong = is_off & (last > first + 1)
        first, last = first[is_wrong], last[is_wrong]
        middle = (first + last) // 2
        kept.append(middle)
        first = np.concatenate([first, middle])
        last = np.concatenate([middle, last])
    indices = np.unique(np.concatenate(kept))
    return fine[indices]


def _kinks_between(
    phi: Activation,
    edges: Edges,
    octave: int,
) -> Points:
    """Find kinks and jumps inside panels.

    Each pass finds at most one in a panel, and splits the panel there.
    """
    found = np.zeros(0)
    left, right = edges[:-1], edges[1:]
    while len(left) and len(found) <= _MOST_KINKS:
        is_rough = _is_rough(
            phi,
            left,
            right,
            octave=octave,
        )
        left, right = left[is_rough], right[is_rough]
        at = _zoom(phi, left, right)
        is_kink = np.array([any(_steps(phi, u, octave)) for u in at], bool)
        is_inside = is_kink & (at > left) & (at < right)
        at = at[is_inside]
        left, right = left[is_inside], right[is_inside]
        found = np.union1d(found, at)
        # On either side of a kink there may be another one.
        left = np.concatenate([left, at])
        right = np.concatenate([at, right])
    return found


def _is_rough(
    phi: Activation,
    left: Panels,
    right: Panels,
    *,
    octave: int,
) -> Bool[np.ndarray, " panels"]:
    """Tell on which panels the rule does not resolve phi or phi'."""
    middle = (left + right) / 2

    def integrate(a: Panels, b: Panels) -> Integrals:
        u, mass = gauss(a, b, _ORDER)
        value, slope = evaluate(phi, u)
        sums = [(mass * f).sum(axis=1) for f in (value, slope)]
        return np.stack(sums, axis=1)

    with np.errstate(invalid="ignore", over="ignore"):
        whole = integrate(left, right)
        halves = integrate(left, middle) + integrate(middle, right)
        width = (right - left)[:, None]
        noise = _noise(phi, octave) * width
        room = 1e-10 * np.abs(whole) + noise
        error = np.abs(whole - halves)
        return np.any(error > room, axis=1)


def _zoom(
    phi: Activation,
    left: Panels,
    right: Panels,
) -> Points:
    """Return where phi and phi' take their largest step in each panel.

    The step is followed down to neighbouring floats. Its size is counted from the
    median of those in the panel, so that a steep but smooth phi has none.
    """
    left, right = left.copy(), right.copy()
    rows = np.arange(len(left))
    # Each round narrows the panel by 24, so that twenty reach neighbouring floats.
    for _ in range(20):
        if not len(left):
            break
        width = (right - left)[:, None]
        u = left[:, None] + width * np.linspace(0, 1, 25)
        total = 0.0
        for f in evaluate(phi, u):
            steps = np.diff(f, axis=1)
            # A smooth function has steps that are all alike.
            with np.errstate(invalid="ignore"):
                usual = np.median(steps, axis=1, keepdims=True)
                total = total + np.abs(steps - usual)
        largest = np.argmax(np.nan_to_num(total), axis=1)
        left = u[rows, largest]
        right = u[rows, largest + 1]
    # Floats around zero are so dense that it is never reached; so close is zero.
    is_zero = (left <= 0) & (right >= 0) | (np.abs(right) < 1e-22)
    return np.where(is_zero, 0.0, right)


def _steps(
    phi: Activation,
    at: float,
    octave: int,
) -> tuple[bool, bool]:
    """Tell whether phi jumps at a point, and whether phi' does.

    A jump is large against their size, and against their change on either side.
    """
    d = _STEP_WIDTH * max(abs(at), _LEAST_PLACE)
    around = at + d * np.array([-2.0, -1.0, 1.0, 2.0])
    value, slope = evaluate(phi, around)
    of_value, of_slope = _noise(phi, octave)
    largest_slope = np.abs(slope).max()
    size = np.abs(value).max() + largest_slope * d
    value_jumps = _jumps(value, size, of_value)
    slope_jumps = _jumps(slope, largest_slope, of_slope)
    return value_jumps, slope_jumps


def _jumps(
    f: Float[np.ndarray, " 4"],
    size: float,
    noise: float,
) -> bool:
    with np.errstate(invalid="ignore"):
        before, across, after = np.abs(np.diff(f))
        # A steep slope makes steps beside the point as large as the one across it.
        room = _STEP * size + 8 * (before + after) + 100 * noise
        return bool(across > room)
