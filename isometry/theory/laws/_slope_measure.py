"""The law of phi'(√q z)², z ~ N(0, 1), for any activation, on a contour where its transforms are accurate.

phi' can be evaluated on the real axis only (a user's callable, autodiff). So it is first represented there by Chebyshev
series on panels, each fitted a quarter beyond its ends; a tenth of a panel off the axis they still hold to rounding.
Between the extrema of phi'² the contour is then moved to the side on which phi'² lies below the real axis.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from isometry import _checks, activations
from isometry.theory.mean_field import _pieces
from isometry.theory.mean_field._host import evaluate
from typing import Any as Array
from isometry.theory.laws._measure import Measure, discrete

_REACH = 9.5  # standard deviations; the mass beyond is 2e-21
_DEGREE = 23  # of a panel's series
_NOISE = 4e-15  # relative to the largest slope: what autodiff resolves of it
_NOISE_OFF_AXIS = 250 * _NOISE  # a tenth of a panel away a series of so many terms multiplies its rounding
_NARROWEST = 1e-12  # a panel this narrow that is still rough is a kink nobody named
_MOST_ROUGH, _MOST_UNDER = 1e-3, 6e-7  # of the mass: where phi' is rounding, where its square underflows
_SEEN = 6.5  # standard deviations; the mass beyond, 8e-11, is not resolved on a scale of log phi'²
_STEEPEST = 1e-3  # width of the narrowest panel made for a phi' that falls, as that of erf does, through many decades
_LEVELS = 15  # bisections of the contour towards an extremum or a kink
_LEVELS_AT_ZERO = 30  # towards a zero of phi', where λ^½ of mass lies below λ
_ORDER = 18  # Gauss-Legendre nodes a segment of the contour


@dataclass(frozen=True)
class _Series:
    """phi'(√q z) on neighbouring panels of one smooth stretch: edges, fitted intervals and coefficients."""

    edges: Array  # (panels + 1,)
    low: Array  # (panels,)
    high: Array
    coefficients: Array  # (degree + 1, panels)

    def __call__(self, z: Array, derivative: bool = False) -> Array:
        at = np.clip(np.searchsorted(self.edges, z.real, side="right") - 1, 0, len(self.low) - 1)
        half = (self.high[at] - self.low[at]) / 2
        t = (z - (self.high[at] + self.low[at]) / 2) / half
        if derivative:
            return chebyshev.chebval(t, chebyshev.chebder(self.coefficients)[:, at], tensor=False) / half
        return chebyshev.chebval(t, self.coefficients[:, at], tensor=False)

    @property
    def widths(self) -> Array:
        """(panels,): the narrowest of a panel and its neighbours."""
        w = np.diff(self.edges)
        padded = np.r_[w[:1], w, w[-1:]]
        return np.minimum(np.minimum(padded[:-2], padded[2:]), w)


@functools.lru_cache(maxsize=256)
def slope_measure(phi: activations.Activation, q: float) -> Measure:
    """The law of phi'(√q z)²; at q = 0 the limit q → 0+.

    **Raises** `NotDefined`: phi' is unbounded.
    """
    scale = float(np.sqrt(max(q, 1e-40)))

    def slope(z: Array) -> Array:
        return evaluate(phi, scale * z)[1]

    kinks = _pieces.pieces(phi, _pieces.octave_of(_REACH * scale)).kinks / scale
    even = _is_even(slope, kinks)
    cuts = np.unique(np.r_[0.0 if even else -_REACH, _REACH, kinks[np.abs(kinks) < _REACH]])
    stretches, lost = _stretches(slope, cuts[cuts >= 0] if even else cuts)
    if lost > 1:
        raise _checks.NotDefined(
            f"theory: at q={q:g} phi' of {phi.name} is lost in the rounding of its autodiff, or its square in "
            "underflow, for too many units to know its law; there is one at a smaller q."
        )
    atoms, masses, nodes, weights, pieces, corners = [], [], [], [], [], []
    size = max(np.abs(s.coefficients[0]).max() for s in stretches)
    for series in stretches:
        variation = np.abs(series.coefficients[1:]).sum(0).max() + np.ptp(series.coefficients[0])
        if variation <= 1e-13 * size:
            atoms.append(float(slope(np.array([(series.edges[0] + series.edges[1]) / 2]))[0]) ** 2)
            masses.append(_normal_mass(series.edges[0], series.edges[-1]))
            continue
        d, w, values = _contour(series, size)
        values = [*values, *_beyond(phi, slope, series)]
        nodes.append(d)
        weights.append(w)
        corners.extend(values)
        pieces.append((min(values), max(values)))
    double = 2.0 if even else 1.0
    lumps = discrete(_snapped(np.array(atoms)), double * np.array(masses))
    if not nodes:
        return lumps
    weights = double * np.concatenate(weights)
    weights *= (1 - lumps.masses.sum()) / weights.sum()  # to the last digit: many layers multiply what is missing
    return Measure(
        lumps.atoms, lumps.masses, np.concatenate(nodes), weights, tuple(pieces), tuple(sorted(set(corners)))
    )


def steep_measure(phi: activations.Activation, q: float) -> Measure:
    """`slope_measure` of a phi that is not flat wherever there is mass to speak of.

    **Raises** `NotDefined`: one that is; and as `slope_measure`.
    """
    measure = slope_measure(phi, q)
    if measure.moment(1) == 0:
        raise _checks.NotDefined(f"theory: {phi.name} is flat at q={q:g}: J is 0, and has no law off zero.")
    return measure


def _normal_mass(low: float, high: float) -> float:
    """P(low < z < high); the outermost panels reach to infinity."""
    from scipy.special import ndtr

    low, high = (-np.inf if low <= -_REACH else low), (np.inf if high >= _REACH else high)
    return float(ndtr(-low) - ndtr(-high)) if low > 0 else float(ndtr(high) - ndtr(low))


def _snapped(values: Array) -> Array:
    """Values equal to rounding made equal."""
    order = np.sort(values)
    first = np.r_[True, np.diff(order) > 1e-12 * np.abs(order[1:])] if len(order) else np.zeros(0, bool)
    return order[first][np.searchsorted(order[first], values * (1 + 1e-12), side="right") - 1] if len(order) else values


def _is_even(slope: Callable, kinks: Array) -> bool:
    """Whether phi'² takes equal values at ±z, judged by its kinks and at a thousand points."""
    if not np.allclose(np.sort(kinks), np.sort(-kinks), rtol=1e-14, atol=0):
        return False
    z = _REACH * (np.arange(1000) + 0.382) / 1000
    left, right = slope(-z) ** 2, slope(z) ** 2
    return bool(np.all(np.abs(left - right) <= 1e-14 * np.max(right)))


def _stretches(slope: Callable, cuts: Array) -> tuple[list[_Series], float]:
    """phi' as Chebyshev series on panels, stretch by stretch between its kinks, also those that were not named.

    And the mass where it is rounding, or its square underflows, over what that may be.
    """
    nodes = np.cos(np.pi * (np.arange(_DEGREE + 1) + 0.5) / (_DEGREE + 1))
    to_series = np.linalg.inv(chebyshev.chebvander(nodes, _DEGREE)).T
    edges = np.unique(
        np.concatenate([np.linspace(a, b, 1 + int(np.ceil((b - a) / 2))) for a, b in itertools.pairwise(cuts)])
    )
    left, right, done = edges[:-1], edges[1:], []
    lost, size, parent = 0.0, 0.0, np.full(len(left), np.inf)  # tails of halves that stay as large are rounding
    while len(left):
        bound = np.searchsorted(cuts, (left + right) / 2)
        low = np.maximum(cuts[bound - 1], left - (right - left) / 4)
        high = np.minimum(cuts[bound], right + (right - left) / 4)
        z = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * nodes
        f = slope(z)
        series = f @ to_series
        size = max(size, float(np.abs(series[:, 0]).max()))
        tail, top = np.abs(series[:, -4:]).max(1), np.abs(series).max(1)
        narrow = right - left < _NARROWEST
        resolved = tail <= 2e-15 * top
        rounding = (tail <= _NOISE / 4 * size) | (tail <= _NOISE_OFF_AXIS * size) & (tail > 0.3 * parent)
        seen = (right - left > _STEEPEST) & (np.minimum(np.abs(left), np.abs(right)) < _SEEN)
        small = (top < 1e-20 * size) & (top > 1e-290) & (tail > 1e-10 * top)  # below any rounding of a sum
        more = seen & np.where(resolved, _is_steep(f), (tail < 0.01 * parent) | small)
        fine = (resolved | rounding) & ~more | narrow
        smooth = ~narrow
        rough = smooth & (top <= 1e-9 * size) & (tail > 1e-6 * top)
        for most, panels in ((_MOST_ROUGH, fine & rough), (_MOST_UNDER, fine & (top > 0) & (top < 1e-150))):
            lost += sum(_normal_mass(left[i], right[i]) for i in np.flatnonzero(panels)) / most
        done += [(left[i], right[i], low[i], high[i], series[i], smooth[i]) for i in np.flatnonzero(fine)]
        middle = (left + right)[~fine] / 2
        left, right, parent = np.r_[left[~fine], middle], np.r_[middle, right[~fine]], np.tile(tail[~fine], 2)
    return _joined(sorted(done, key=lambda panel: panel[0]), cuts), lost


def _is_steep(f: Array) -> Array:
    """Panels on which phi' falls a thousandfold without a zero: log phi'² would not be resolved, nor off the axis."""
    least, most = np.abs(f).min(1), np.abs(f).max(1)
    return (most > 1e3 * least) & (least > 0) & (np.abs(np.sign(f).sum(1)) == f.shape[1])


def _joined(panels: list[tuple], cuts: Array) -> list[_Series]:
    """Neighbouring panels between two kinks as one series; a panel that stayed rough is a kink."""
    runs, run = [], []
    for panel in panels:
        if run and (panel[0] in cuts or not panel[5]):
            runs.append(run)
            run = []
        if panel[5]:
            run.append(panel)
    runs = [r for r in [*runs, run] if r]
    out = []
    for r in runs:
        left, right, low, high, series, _ = zip(*r, strict=True)
        out.append(_Series(np.array([*left, right[-1]]), np.array(low), np.array(high), np.array(series).T))
    return out


def _contour(series: _Series, size: float) -> tuple[Array, Array, list[float]]:
    """d and weights on the contour of one stretch, and d at its ends and extrema."""
    ends = [series.edges[0], *_extrema(series, size), series.edges[-1]]
    gauss, mass = np.polynomial.legendre.leggauss(_ORDER)
    nodes, weights, values = [], [], []
    for a, b in itertools.pairwise(ends):
        left, right = series(np.array([a, b])) ** 2  # monotone between; a slope inside might be rounding
        falling = right < left
        x, y = _vertices(series, a, b, size, open_ends=(a <= -_REACH, b >= _REACH))
        v = x + 1j * (y if falling else -y)
        z = (v[1:] + v[:-1])[:, None] / 2 + (v[1:] - v[:-1])[:, None] / 2 * gauss
        f = series(z.ravel())
        nodes.append(_below_axis(f, size))
        weights.append((((v[1:] - v[:-1]) / 2)[:, None] * mass * np.exp(-(z**2) / 2)).ravel() / np.sqrt(2 * np.pi))
    f = series(np.array(ends))
    values = [float(x) for x in np.where(np.abs(f) < _NOISE * size, 0.0, f) ** 2]
    return np.concatenate(nodes), np.concatenate(weights), values


def _below_axis(f: Array, size: float) -> Array:
    """f², moved to the lower side of the axis where but for rounding it is on it, as where phi' nears its limit."""
    d = f**2
    d.imag[(d.imag >= 0) & (d.imag <= _NOISE_OFF_AXIS * size * np.abs(f))] = -0.0
    return d


def _extrema(series: _Series, size: float) -> list[float]:
    """Where phi'² has an extremum inside the stretch: zeros of phi' and of phi''."""
    from scipy.optimize import brentq

    a, b = series.edges[:-1], series.edges[1:]
    x = (a[:, None] + (b - a)[:, None] * (np.arange(48) + 0.5) / 48).ravel()
    found = []
    for derivative in (False, True):
        y = series(x, derivative=derivative)
        level = _NOISE * size * (1 if not derivative else _DEGREE / np.repeat(b - a, 48))
        sign = np.sign(np.where(np.abs(y) > level, y, 0.0))
        x_clear, sign = x[sign != 0], sign[sign != 0]
        found += [
            brentq(lambda t, d=derivative: float(series(np.array([t]), d)[0]), x_clear[i], x_clear[i + 1])
            for i in np.flatnonzero(sign[:-1] * sign[1:] < 0)
        ]
    return sorted(found)


def _vertices(series: _Series, a: float, b: float, size: float, open_ends: tuple[bool, bool]) -> tuple[Array, Array]:
    """Abscissae and heights of the contour between two extrema, graded towards them; an end at the cut-off is open."""

    def march(start: float, stop: float, sign: int, is_open: bool) -> list[float]:
        is_zero = abs(float(series(np.array([start]))[0])) < 1e-9 * size
        least = abs(stop - start) * 2.0 ** -(
            _LEVELS // 3 if abs(start) > 7 else _LEVELS_AT_ZERO if is_zero else _LEVELS
        )
        points, x = [start], start
        while sign * (stop - x) > 0:
            at = np.clip(
                np.searchsorted(series.edges, x, side="right" if sign > 0 else "left") - 1, 0, len(series.low) - 1
            )
            step = 0.2 * series.widths[at]
            x += sign * (step if is_open else min(step, max(abs(x - start), least)))
            points.append(x)
        points[-1] = stop
        return points

    middle = b if open_ends[1] else a if open_ends[0] else (a + b) / 2
    forward = march(a, middle, 1, open_ends[0]) if middle > a else [a]
    backward = march(b, middle, -1, open_ends[1]) if middle < b else [b]
    inner = series.edges[(series.edges > a) & (series.edges < b)]
    x = np.unique(np.r_[forward, backward, inner])
    at = np.searchsorted(series.edges, x, side="right")
    widths = series.widths
    cap = 0.1 * np.minimum(widths[np.clip(at - 1, 0, len(widths) - 1)], widths[np.clip(at - 2, 0, len(widths) - 1)])
    from_a, from_b = (np.inf if open_ends[0] else 0.5 * (x - a)), (np.inf if open_ends[1] else 0.5 * (b - x))
    return x, np.minimum(np.minimum(from_a, from_b), cap)


def _beyond(phi: activations.Activation, slope: Callable, series: _Series) -> list[float]:
    """Least and largest phi'² beyond the cut-off, where there is no mass to speak of but the support ends."""
    far = _REACH * 2.0 ** np.arange(0, 40, 0.25)
    top, found = float(np.max(np.abs(series.coefficients).sum(0) ** 2)), []
    for sign, end in ((-1, series.edges[0]), (1, series.edges[-1])):
        if abs(end) < _REACH:
            continue
        with np.errstate(over="ignore"):
            f = slope(sign * far)
            d = f**2
        if not d[-1] < 1.1 * d[-5] + top:  # an octave later
            raise _checks.NotDefined(
                f"theory: phi' of {phi.name} is unbounded, so its law has no top edge; laws are given for bounded phi' "
                "only. theory.variance_coefficient gives the variance where that is finite."
            )
        passes = d.min() < 1e-12 * top or f.min() < 0 < f.max()  # through zero
        found += [0.0 if passes else float(d.min()), float(d.max())]
    return found
