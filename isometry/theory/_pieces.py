"""Where an activation is smooth: its kinks and jumps found, the real line cut into panels that resolve it.

A kink that nobody named costs plain quadrature 1e-3. So phi and phi' are sampled densely, octave by octave of |u|;
where they are not resolved a zoom follows the largest step of phi and phi' down to neighbouring floats. What jumps
there is a kink (or a jump of phi), and a panel ends there. Panels are then halved until all integrands are resolved.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from isometry import _checks
from isometry.activations import Activation
from isometry.theory._host import evaluate
from isometry.theory._quadrature import bisected, gauss

_BASE = 1.0937261342  # octaves end at _BASE 2**k: not where people put kinks
_OCTAVES = 24  # beyond _BASE 2**24, fourteen standard deviations at q = 1.7e12, phi goes on as in its last octave
_ORDER = 12  # of the rule that must resolve phi², phi'² and phi'^4; integrals then use order 20
_SAMPLES = 24  # panels a half octave in which kinks are looked for
_MOST_KINKS, _MOST_PANELS = 64, 1024
_STEP = 1e-6  # a step of phi or phi' by this share of its size, over 1e-9 of u, is a jump
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Pieces:
    """Panels of phi on |u| ≤ reach. Beyond `limit` phi is too rough to integrate; inf if it is smooth there."""

    edges: np.ndarray
    kinks: np.ndarray
    jumps: np.ndarray
    limit: float


@functools.lru_cache(maxsize=512)
def pieces(phi: Activation, octave: int = 4) -> Pieces:
    """The pieces on |u| ≤ _BASE 2**octave. The default covers what q ≤ 1.4 can see."""
    octave = min(max(octave, 0), _OCTAVES)
    sides: list[Pieces] = []
    for k in range(octave + 1):
        sides += [_side(phi, k, sign) for sign in (-1, 1)]
        if sides[-1].limit < np.inf or sides[-2].limit < np.inf:  # nothing is integrated an octave beyond
            break
    near_zero = _kinks_between(phi, np.array([-0.87e-6, 0.93e-6]), 0)
    named = [k for k in phi.kinks if abs(k) <= _BASE * 2.0**octave]
    kinks = np.unique(np.r_[near_zero, named, *[side.kinks for side in sides]])
    edges = np.unique(np.r_[0.0, near_zero, *[side.edges for side in sides]])
    limit = min(side.limit for side in sides)
    return Pieces(edges, kinks, np.array([k for k in kinks if _steps(phi, k, octave)[0]]), limit)


def octave_of(u: float) -> int:
    """The octave in which |u| lies."""
    return int(np.clip(np.ceil(np.log2(max(u / _BASE, 1.0))), 0, _OCTAVES))


def limit(phi: Activation) -> float:
    """The largest |u| up to which phi can be integrated; inf but for endless oscillation or endless kinks."""
    return pieces(phi, _OCTAVES).limit


@functools.lru_cache(maxsize=4096)
def _side(phi: Activation, octave: int, sign: int) -> Pieces:
    """One octave of one sign."""
    low, high = (1e-6 if octave == 0 else _BASE * 2.0 ** (octave - 1)), _BASE * 2.0**octave
    count = 2 * _SAMPLES if octave else 8 * _SAMPLES
    fine = sign * low * (high / low) ** (np.arange(count + 1) / count)
    named = [k for k in phi.kinks if low < sign * k < high]
    found = _kinks_between(phi, np.unique(np.r_[fine, named]), octave)
    fine = np.unique(np.r_[fine, found, named] if octave else np.r_[fine, found, named, 0.0])
    if len(found) > _MOST_KINKS:
        return _or_refuse(phi, octave, Pieces(fine[[0, -1]], np.zeros(0), np.zeros(0), low))
    panels, resolved = _refined(phi, fine, np.r_[found, named], octave)
    return _or_refuse(phi, octave, Pieces(panels, found, np.zeros(0), np.inf if resolved else low))


def _or_refuse(phi: Activation, octave: int, side: Pieces) -> Pieces:
    if octave <= 2 and side.limit < np.inf:
        raise _checks.InputError(
            f"theory: {phi.name} is not resolved in float64 for |u| around {side.limit:g}: it is too rough, has too "
            "many kinks, an unbounded slope, computes in a lower precision, or is flat there but for rounding."
        )
    return side


@functools.lru_cache(maxsize=512)
def _noise(phi: Activation, octave: int) -> np.ndarray:
    """Rounding in phi and phi' for |u| ≤ _BASE 2**octave: of their own size, and of u times their slope."""
    reach = _BASE * 2.0**octave
    half = np.geomspace(1e-6, reach, 400)
    u = np.r_[-half[::-1], half]
    with np.errstate(over="ignore", invalid="ignore"):
        value, slope = (np.abs(np.nan_to_num(f)) for f in evaluate(phi, u))
        bend = np.quantile(np.abs(np.diff(slope) / np.diff(u)), 0.9)
        return 8 * _EPS * np.array([value.max() + reach * slope.max(), slope.max() + reach * bend])


def _refined(phi: Activation, fine: np.ndarray, kinks: np.ndarray, octave: int) -> tuple[np.ndarray, bool]:
    noise = _noise(phi, octave)[[0, 1, 1]]
    powers = np.array([2.0, 2.0, 4.0])

    def integrate(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        u, mass = gauss(left, right, _ORDER)
        value, slope = evaluate(phi, u)
        with np.errstate(over="ignore", invalid="ignore"):
            return (mass[:, None] * np.stack([value**2, slope**2, slope**4], 1)).sum(2)

    def excuse(left: np.ndarray, right: np.ndarray, whole: np.ndarray) -> np.ndarray:
        width = (right - left)[:, None]
        with np.errstate(invalid="ignore", over="ignore"):
            size = np.abs(whole / width) ** (1 / powers)
            room = 1e-14 * np.abs(whole) + width * powers * noise * (size + noise) ** (powers - 1)
        return np.where(np.isfinite(whole), room, np.inf)

    coarse = _thinned(integrate, excuse, fine)
    (left, right), _, resolved = bisected(integrate, excuse, np.unique(np.r_[coarse, kinks]), _MOST_PANELS)
    return np.unique(np.r_[left, right]), resolved


def _thinned(integrate: Any, excuse: Any, fine: np.ndarray) -> np.ndarray:
    """As few of the fine edges as integrate alike: what is narrow and steep is not stepped over."""
    below = np.vstack([np.zeros(3), np.cumsum(integrate(fine[:-1], fine[1:]), 0)])
    first, last = np.array([0]), np.array([len(fine) - 1])
    kept = [first, last]
    while len(first):
        left, right = fine[first], fine[last]
        whole = integrate(left, right)
        with np.errstate(invalid="ignore"):
            room = excuse(left, right, whole) + 4 * _EPS * np.maximum(below[last], below[first])  # of the running sum
            wrong = (np.abs(below[last] - below[first] - whole) > room).any(1) & (last > first + 1)
        middle = (first[wrong] + last[wrong]) // 2
        kept.append(middle)
        first, last = np.r_[first[wrong], middle], np.r_[middle, last[wrong]]
    return fine[np.unique(np.concatenate(kept))]


def _kinks_between(phi: Activation, edges: np.ndarray, octave: int) -> np.ndarray:
    """Kinks and jumps inside the panels: each pass finds one a panel, and splits there."""
    found = np.zeros(0)
    left, right = edges[:-1], edges[1:]
    while len(left) and len(found) <= _MOST_KINKS:
        rough = _is_rough(phi, left, right, octave)
        left, right = left[rough], right[rough]
        at = _zoom(phi, left, right)
        real = np.array([any(_steps(phi, k, octave)) for k in at], bool)
        inside = real & (at > left) & (at < right)
        at, left, right = at[inside], left[inside], right[inside]
        found = np.unique(np.r_[found, at])
        left, right = np.r_[left, at], np.r_[at, right]
    return found


def _is_rough(phi: Activation, left: np.ndarray, right: np.ndarray, octave: int) -> Any:
    """Panels on which the rule does not resolve phi or phi'."""
    middle = (left + right) / 2

    def integrate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        u, mass = gauss(a, b, _ORDER)
        return np.stack([(mass * f).sum(1) for f in evaluate(phi, u)], 1)

    with np.errstate(invalid="ignore", over="ignore"):
        whole, halves = integrate(left, right), integrate(left, middle) + integrate(middle, right)
        room = 1e-10 * np.abs(whole) + _noise(phi, octave) * (right - left)[:, None]
        return np.any(np.abs(whole - halves) > room, axis=1)


def _zoom(phi: Activation, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each panel, the place that the largest step of phi and phi' narrows down to, to the last float."""
    left, right = left.copy(), right.copy()
    rows = np.arange(len(left))
    for _ in range(20):  # each by 24: from 1 to below 1e-24
        if not len(left):
            break
        u = left[:, None] + (right - left)[:, None] * np.linspace(0, 1, 25)
        value, slope = (np.diff(f, axis=1) for f in evaluate(phi, u))
        with np.errstate(invalid="ignore"):
            step = sum(np.abs(d - np.median(d, axis=1, keepdims=True)) for d in (value, slope))
        i = np.argmax(np.nan_to_num(step), 1)
        left, right = u[rows, i], u[rows, i + 1]
    at = right
    return np.where((left <= 0) & (right >= 0) | (np.abs(at) < 1e-22), 0.0, at)


def _steps(phi: Activation, at: float, octave: int) -> tuple[bool, bool]:
    """Whether phi jumps at this point, and whether phi' does: against their size, and what they do on either side."""
    d = 1e-9 * max(abs(at), 1e-3)
    value, slope = evaluate(phi, at + d * np.array([-2.0, -1.0, 1.0, 2.0]))

    def jumps(f: np.ndarray, size: float, noise: float) -> bool:
        with np.errstate(invalid="ignore"):
            return bool(abs(f[2] - f[1]) > _STEP * size + 8 * (abs(f[1] - f[0]) + abs(f[3] - f[2])) + 100 * noise)

    sizes = np.abs(value).max() + np.abs(slope).max() * d, np.abs(slope).max()
    of_value, of_slope = (jumps(*x) for x in zip((value, slope), sizes, _noise(phi, octave), strict=True))
    return of_value, of_slope
