"""phi'(√q z) as Chebyshev series on panels, which continue it off the real axis."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num
from numpy.polynomial import chebyshev

from isometry.theory.laws._types import Numbers

Points = Float[np.ndarray, " points"]
Panels = Float[np.ndarray, " panels"]
AnyPoints = Num[Numbers, " points"]

# phi'(√q z) at real z.
Slope = Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]

# Standard deviations; the mass beyond is 2e-21.
REACH = 9.5

# What autodiff resolves of phi', relative to its largest value.
NOISE = 4e-15

# The degree of a panel's series. A lower one needs more panels; a higher one multiplies
# its rounding off the axis.
_DEGREE = 23

# A tenth of a panel off the axis, a series of so many terms multiplies its rounding by
# this.
_OFF_AXIS_GROWTH = 250

# A panel this narrow that is still rough is a kink that nobody named.
_NARROWEST = 1e-12

# Mass where phi' may be rounding, and where its square may underflow: what the law
# promises to resolve.
_MOST_ROUGH = 1e-3
_MOST_UNDERFLOWN = 6e-7

# Standard deviations; the mass beyond, 8e-11, is not resolved on a scale of log phi'².
_SEEN = 6.5

# Width of the narrowest panel made for a phi' that falls, as that of erf does, through
# many decades.
_STEEPEST = 1e-3

# A tail of the coefficients below this share of the largest one is resolved.
_RESOLVED = 2e-15

# The initial panels are at most this wide; two standard deviations hold no detail that
# bisection would miss.
_WIDEST = 2.0


@dataclass(frozen=True)
class Series:
    """phi'(√q z) on neighbouring panels of one smooth stretch.

    Attributes:
        edges: The ends of the panels.
        low: Where each fitted interval begins.
        high: Where it ends.
        coefficients: The Chebyshev coefficients of each panel.
    """

    edges: Float[np.ndarray, " edges"]
    low: Panels
    high: Panels
    coefficients: Float[np.ndarray, "terms panels"]

    def __call__(self, z: AnyPoints) -> AnyPoints:
        """Evaluate phi' near the real axis."""
        panel, t, _ = self._places(z)
        return chebyshev.chebval(
            t,
            self.coefficients[:, panel],
            tensor=False,
        )

    def derivative(self, z: AnyPoints) -> AnyPoints:
        """Evaluate its derivative in z."""
        panel, t, half = self._places(z)
        coefficients = chebyshev.chebder(self.coefficients)[:, panel]
        return chebyshev.chebval(t, coefficients, tensor=False) / half

    def _places(
        self, z: AnyPoints
    ) -> tuple[np.ndarray, AnyPoints, Float[np.ndarray, " points"]]:
        """Return the panel of each point, the place in it, and half its width."""
        panel = np.searchsorted(self.edges, z.real, side="right") - 1
        panel = np.clip(panel, 0, len(self.low) - 1)
        half = (self.high[panel] - self.low[panel]) / 2
        middle = (self.high[panel] + self.low[panel]) / 2
        return panel, (z - middle) / half, half

    @cached_property
    def widths(self) -> Panels:
        """The narrowest of each panel and its neighbours."""
        width = np.diff(self.edges)
        padded = np.concatenate([width[:1], width, width[-1:]])
        beside = np.minimum(padded[:-2], padded[2:])
        return np.minimum(beside, width)

    @property
    def variation(self) -> float:
        """A bound of how much phi' varies."""
        inside = np.abs(self.coefficients[1:]).sum(axis=0).max()
        return float(inside + np.ptp(self.coefficients[0]))


class _Panel(NamedTuple):
    """A panel, its fitted interval and series; one that is not smooth is a kink."""

    left: float
    right: float
    low: float
    high: float
    coefficients: Float[np.ndarray, " terms"]
    is_smooth: bool


def noise_off_axis(size: float) -> float:
    """Return the rounding of a series a tenth of a panel off the axis."""
    return _OFF_AXIS_GROWTH * NOISE * size


def normal_mass(low: float, high: float) -> float:
    """Return P(low < z < high); the outermost panels reach to infinity."""
    from scipy.special import ndtr

    low = -np.inf if low <= -REACH else low
    high = np.inf if high >= REACH else high
    # In the upper tail from above, where nothing cancels.
    if low > 0:
        return float(ndtr(-low) - ndtr(-high))
    return float(ndtr(high) - ndtr(low))


def panel_series(slope: Slope, cuts: Points) -> tuple[list[Series], bool]:
    """Represent phi' on panels, stretch by stretch between its kinks.

    Args:
        slope: phi'(√q z).
        cuts: The known kinks, and both ends.

    Returns:
        The series of each stretch, divided also at kinks that were not named; and
        whether phi' is rounding, or its square underflows, for too much mass.
    """
    degrees = np.arange(_DEGREE + 1)
    nodes = np.cos(np.pi * (degrees + 0.5) / (_DEGREE + 1))
    to_series = np.linalg.inv(chebyshev.chebvander(nodes, _DEGREE)).T
    stretches = []
    for a, b in itertools.pairwise(cuts):
        stretches.append(np.linspace(a, b, 1 + int(np.ceil((b - a) / _WIDEST))))
    edges = np.unique(np.concatenate(stretches))
    left, right = edges[:-1], edges[1:]
    done: list[_Panel] = []
    size = 0.0
    lost = 0.0
    # The tail of the panel of which each is a half.
    parent = np.full(len(left), np.inf)
    while len(left):
        stretch = np.searchsorted(cuts, (left + right) / 2)
        quarter = (right - left) / 4
        low = np.maximum(cuts[stretch - 1], left - quarter)
        high = np.minimum(cuts[stretch], right + quarter)
        z = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * nodes
        f = slope(z)
        series = f @ to_series
        size = max(size, float(np.abs(series[:, 0]).max()))
        tail = np.abs(series[:, -4:]).max(axis=1)
        top = np.abs(series).max(axis=1)
        is_narrow = right - left < _NARROWEST
        is_fine = _is_fine(
            f,
            left,
            right,
            tail=tail,
            top=top,
            size=size,
            parent=parent,
        )
        is_fine |= is_narrow
        is_rough = ~is_narrow & (top <= 1e-9 * size) & (tail > 1e-6 * top)
        is_underflown = (top > 0) & (top < 1e-150)
        for most, is_bad in (
            (_MOST_ROUGH, is_rough),
            (_MOST_UNDERFLOWN, is_underflown),
        ):
            for i in np.flatnonzero(is_fine & is_bad):
                lost += normal_mass(left[i], right[i]) / most
        for i in np.flatnonzero(is_fine):
            ends = left[i], right[i], low[i], high[i]
            done.append(_Panel(*ends, series[i], is_smooth=not is_narrow[i]))
        middle = (left + right)[~is_fine] / 2
        left = np.concatenate([left[~is_fine], middle])
        right = np.concatenate([middle, right[~is_fine]])
        parent = np.tile(tail[~is_fine], 2)
    done.sort(key=lambda panel: panel.left)
    return _joined(done, cuts), lost > 1


def _is_fine(
    f: Float[np.ndarray, "panels nodes"],
    left: Panels,
    right: Panels,
    *,
    tail: Panels,
    top: Panels,
    size: float,
    parent: Panels,
) -> Bool[np.ndarray, " panels"]:
    """Tell which panels need not be halved.

    Args:
        f: phi' at their nodes.
        left: Where they begin.
        right: Where they end.
        tail: The largest of the last coefficients.
        top: The largest coefficient.
        size: The largest |phi'|.
        parent: The tail of the panel of which each is a half.
    """
    is_resolved = tail <= _RESOLVED * top
    # A tail that stays as large when the panel is halved is rounding.
    stays = (tail <= noise_off_axis(size)) & (tail > 0.3 * parent)
    is_rounding = (tail <= NOISE / 4 * size) | stays
    nearest = np.minimum(np.abs(left), np.abs(right))
    is_seen = (right - left > _STEEPEST) & (nearest < _SEEN)
    # Below any rounding of a sum, yet far from underflow.
    is_small = (top < 1e-20 * size) & (top > 1e-290) & (tail > 1e-10 * top)
    improves = (tail < 0.01 * parent) | is_small
    needs_more = is_seen & np.where(is_resolved, _is_steep(f), improves)
    return (is_resolved | is_rounding) & ~needs_more


def _is_steep(f: Float[np.ndarray, "panels nodes"]) -> Bool[np.ndarray, " panels"]:
    """Tell on which panels phi' falls a thousandfold without a zero.

    There log phi'² would not be resolved, nor phi' off the axis.
    """
    least, most = np.abs(f).min(axis=1), np.abs(f).max(axis=1)
    has_one_sign = np.abs(np.sign(f).sum(axis=1)) == f.shape[1]
    return (most > 1e3 * least) & (least > 0) & has_one_sign


def _joined(panels: list[_Panel], cuts: Points) -> list[Series]:
    """Join neighbouring panels between two kinks."""
    runs: list[list[_Panel]] = [[]]
    for panel in panels:
        if panel.left in cuts or not panel.is_smooth:
            runs.append([])
        if panel.is_smooth:
            runs[-1].append(panel)
    found = []
    for run in runs:
        if not run:
            continue
        lefts = [panel.left for panel in run]
        series = Series(
            np.array([*lefts, run[-1].right]),
            low=np.array([panel.low for panel in run]),
            high=np.array([panel.high for panel in run]),
            coefficients=np.array([panel.coefficients for panel in run]).T,
        )
        found.append(series)
    return found
