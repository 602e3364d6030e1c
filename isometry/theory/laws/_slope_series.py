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
Places = Float[np.ndarray, " places"]
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

# The initial panels are at most this wide. What their nodes step over in two standard
# deviations is seen at the places where phi' must be met.
_WIDEST = 2.0

# A series is off phi' by less than this share of the largest slope. Rounding is a
# hundred thousandth of it; a thousand times as much would be seen in quantiles.
_MET = 1e-9


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
        of_derivative = chebyshev.chebder(self.coefficients)
        by_t = chebyshev.chebval(
            t,
            of_derivative[:, panel],
            tensor=False,
        )
        return by_t / half

    def _places(
        self, z: AnyPoints
    ) -> tuple[np.ndarray, AnyPoints, Float[np.ndarray, " points"]]:
        """Return the panel of each point, the place in it, and half its width."""
        behind = np.searchsorted(self.edges, z.real, side="right")
        last = len(self.low) - 1
        panel = np.clip(behind - 1, 0, last)
        low, high = self.low[panel], self.high[panel]
        half = (high - low) / 2
        middle = (high + low) / 2
        return panel, (z - middle) / half, half

    @cached_property
    def widths(self) -> Panels:
        """The narrowest of each panel and its neighbours."""
        width = np.diff(self.edges)
        # The panels at both ends have one neighbour.
        padded = np.pad(width, 1, mode="edge")
        before, after = padded[:-2], padded[2:]
        beside = np.minimum(before, after)
        return np.minimum(beside, width)

    @property
    def variation(self) -> float:
        """A bound of how much phi' varies."""
        # Of one panel all terms but the constant, and between panels the constants.
        constants = self.coefficients[0]
        others = np.abs(self.coefficients[1:])
        inside = others.sum(axis=0).max()
        return float(inside + np.ptp(constants))


class _Panel(NamedTuple):
    """A panel, its fitted interval and series; one that is not smooth is a kink.

    Where phi' is rounding, or its square underflows, `most` is the mass that may be
    lost in this way; elsewhere it is inf.
    """

    left: float
    right: float
    low: float
    high: float
    coefficients: Float[np.ndarray, " terms"]
    is_smooth: bool
    most: float

    @property
    def is_zero(self) -> bool:
        """Whether phi' is exactly zero."""
        return not self.coefficients.any()


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


def panel_series(
    slope: Slope,
    cuts: Points,
    places: Places,
) -> tuple[list[Series], bool]:
    """Represent phi' on panels, stretch by stretch between its kinks.

    Args:
        slope: phi'(√q z).
        cuts: The known kinks, and both ends.
        places: Points at which the series must meet phi', ascending: some where phi'
            is large or bends on a scale of its own, which nodes might step over.

    Returns:
        The series of each stretch, divided also at kinks that were not named; and
        whether there is too much mass where phi' cannot be told from rounding, or its
        square underflows.
    """
    nodes, to_series = _interpolation()
    edges = _initial_edges(cuts)
    left, right = edges[:-1], edges[1:]
    at_places = slope(places)
    room = _MET * np.abs(at_places).max(initial=0.0)
    done: list[_Panel] = []
    # The largest |phi'| that was seen, in proportion to which it is rounded.
    size = 0.0
    # The tail of the series of the panel of which each panel is a half.
    parent = np.full(len(left), np.inf)
    # All panels that are left are fitted together; those that are not resolved are
    # halved for the next round.
    while len(left):
        low, high = _fitted_intervals(left, right, cuts)
        middle, half = (low + high) / 2, (high - low) / 2
        z = middle[:, None] + half[:, None] * nodes
        f = slope(z)
        series = f @ to_series
        coefficients = np.abs(series)
        largest_constant = float(coefficients[:, 0].max())
        size = max(size, largest_constant)
        tail = coefficients[:, -4:].max(axis=1)
        top = coefficients.max(axis=1)
        is_narrow = right - left < _NARROWEST
        is_fine = _is_fine(f, left, right, tail=tail, top=top, size=size, parent=parent)
        first, last = np.searchsorted(places, left), np.searchsorted(places, right)
        for i in np.flatnonzero(is_fine & (first < last)):
            inside = slice(first[i], last[i])
            t = (places[inside] - middle[i]) / half[i]
            error = np.abs(chebyshev.chebval(t, series[i]) - at_places[inside])
            is_fine[i] = error.max() <= room
        is_fine |= is_narrow
        # A small phi' whose series does not converge is rounding.
        is_small = top <= 1e-9 * size
        is_rough = is_small & ~is_narrow & (tail > 1e-6 * top)
        # Squared it is below 1e-300, next to the least float64.
        is_underflown = (top > 0) & (top < 1e-150)
        most = np.full(len(left), np.inf)
        most[is_rough] = _MOST_ROUGH
        most[is_underflown] = _MOST_UNDERFLOWN
        for i in np.flatnonzero(is_fine):
            panel = _Panel(
                left=left[i],
                right=right[i],
                low=low[i],
                high=high[i],
                coefficients=series[i],
                is_smooth=not is_narrow[i],
                most=most[i],
            )
            done.append(panel)
        is_left = ~is_fine
        left, right = left[is_left], right[is_left]
        halved_at = (left + right) / 2
        left = np.concatenate([left, halved_at])
        right = np.concatenate([halved_at, right])
        parent = np.tile(tail[is_left], 2)
    done.sort(key=lambda panel: panel.left)
    runs = _runs(done, cuts)
    lost = sum(_lost(run) for run in runs)
    return _joined(runs), lost > 1


def _interpolation() -> tuple[Points, Float[np.ndarray, "terms points"]]:
    """Return the Chebyshev nodes of [-1, 1], and the matrix from values to series."""
    num_nodes = _DEGREE + 1
    degrees = np.arange(num_nodes)
    nodes = np.cos(np.pi * (degrees + 0.5) / num_nodes)
    to_values = chebyshev.chebvander(nodes, _DEGREE)
    return nodes, np.linalg.inv(to_values).T


def _initial_edges(cuts: Points) -> Float[np.ndarray, " edges"]:
    """Cut every stretch between two kinks into equal panels of at most `_WIDEST`."""
    stretches = []
    for a, b in itertools.pairwise(cuts):
        num_panels = int(np.ceil((b - a) / _WIDEST))
        stretches.append(np.linspace(a, b, 1 + num_panels))
    return np.unique(np.concatenate(stretches))


def _fitted_intervals(
    left: Panels, right: Panels, cuts: Points
) -> tuple[Panels, Panels]:
    """Return the ends of the intervals on which the series of panels are fitted.

    They reach a quarter beyond the panel, so that its ends are well inside, where a
    series may be continued off the axis; but not over a kink.
    """
    stretch = np.searchsorted(cuts, (left + right) / 2)
    quarter = (right - left) / 4
    low = np.maximum(cuts[stretch - 1], left - quarter)
    high = np.minimum(cuts[stretch], right + quarter)
    return low, high


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
    is_wide = right - left > _STEEPEST
    is_seen = is_wide & (nearest < _SEEN)
    # Below any rounding of a sum, yet far from underflow.
    is_between = (top < 1e-20 * size) & (top > 1e-290)
    is_small = is_between & (tail > 1e-10 * top)
    improves = (tail < 0.01 * parent) | is_small
    needs_more = is_seen & np.where(is_resolved, _is_steep(f), improves)
    return (is_resolved | is_rounding) & ~needs_more


def _is_steep(f: Float[np.ndarray, "panels nodes"]) -> Bool[np.ndarray, " panels"]:
    """Tell on which panels phi' falls a thousandfold without a zero.

    There log phi'² would not be resolved, nor phi' off the axis.
    """
    size = np.abs(f)
    least, most = size.min(axis=1), size.max(axis=1)
    num_nodes = f.shape[1]
    signs = np.sign(f).sum(axis=1)
    has_one_sign = np.abs(signs) == num_nodes
    falls = most > 1e3 * least
    return falls & (least > 0) & has_one_sign


def _runs(panels: list[_Panel], cuts: Points) -> list[list[_Panel]]:
    """Return the smooth panels, ascending, in runs between two kinks."""
    runs: list[list[_Panel]] = [[]]
    for panel in panels:
        if panel.left in cuts or not panel.is_smooth:
            runs.append([])
        if panel.is_smooth:
            runs[-1].append(panel)
    return runs


def _lost(run: list[_Panel]) -> float:
    """Return the mass of useless panels, as a share of what may be lost."""
    most = [panel.most for panel in run]
    # What falls through rounding or underflow to zero is no zero of phi' behind it.
    for order in (range(1, len(run)), range(len(run) - 2, -1, -1)):
        step = order.step
        for i in order:
            if run[i].is_zero:
                most[i] = min(most[i], most[i - step])
    masses = [normal_mass(panel.left, panel.right) for panel in run]
    return sum(mass / limit for mass, limit in zip(masses, most, strict=True))


def _joined(runs: list[list[_Panel]]) -> list[Series]:
    """Join the panels of each run."""
    found = []
    for run in runs:
        if not run:
            continue
        edges = [panel.left for panel in run]
        edges.append(run[-1].right)
        low = [panel.low for panel in run]
        high = [panel.high for panel in run]
        rows = [panel.coefficients for panel in run]
        series = Series(
            edges=np.array(edges),
            low=np.array(low),
            high=np.array(high),
            coefficients=np.array(rows).T,
        )
        found.append(series)
    return found
