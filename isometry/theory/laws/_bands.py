"""An interval of log λ with a density: densities, masses and quantiles inside.

Queries start from a table of states, interpolated in a variable in which square-root
edges are smooth, with the derivatives that every state knows. So each point costs a few
Newton steps, and not a continuation.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float

from isometry.theory.laws._inversion import GUESS_ONLY, QUICK, Ways, attempt, solve
from isometry.theory.laws._product import NotConverged, Product, State
from isometry.theory.laws._types import Numbers

RealPoints = Float[np.ndarray, " points"]
Found = Bool[np.ndarray, " points"]

# The nearest to an edge that anything is evaluated, in log λ: nearer, the root is
# rounding.
_BESIDE = 2e-14

# A probability this close to that of an edge is that of the edge.
_ROUNDING = 4e-15

# Mass below the lowest node of a table. Near a zero of the slope the contour resolves
# not much less; with more, small quantiles would start from far away.
_LEAST_BELOW = 1e-8

# Mass below the lowest log λ that is inverted; where more is left nothing is said. It
# is what a cdf may be wrong by.
_MOST_LOST = 1e-6

# Masses below ever deeper points fall, but for their rounding, which is 5e-14 for 16
# factors. On another sheet of the solution they are off by a share of the mass.
_FALLING = 1 + 1e-9

# How far below the top a band without lower edge is tabulated, in log λ.
_DEPTHS = 0.25 * 2.0 ** np.arange(18)

# Nodes of a table. With half as many, Newton takes a step more from each guess.
_NODES = 64


class Table(NamedTuple):
    """States at the nodes of a band.

    Attributes:
        t: Nodes in log λ, ascending.
        state: The states there.
    """

    t: RealPoints
    state: State


class Reach(NamedTuple):
    """How far down a band without lower edge is followed.

    Attributes:
        depth: The depth below the top, in log λ.
        left: The mass below it.
    """

    depth: float
    left: float


class _Rung(NamedTuple):
    """A point on the way down a band without lower edge.

    Attributes:
        t: Its log λ, alone in an array.
        state: The state there.
        is_solved: Whether it was found.
        left: The mass of the band below it.
    """

    t: RealPoints
    state: State
    is_solved: bool
    left: float


@dataclass(frozen=True, eq=False)
class Band:
    """An interval of log λ with a density.

    Attributes:
        product: The product whose law it belongs to.
        low: Its lower end, −inf where there is none.
        high: Its upper end.
        above_low: P(x > λ) at the lower end, an atom there left out.
        above_high: P(x > λ) at the upper end, an atom there included.
    """

    product: Product
    low: float
    high: float
    above_low: float
    above_high: float

    def density(self, t: RealPoints) -> RealPoints:
        """Compute the density of log λ inside.

        It is 0 far below what can be inverted, where at most 1e-6 of mass is left.
        """
        value = np.zeros(len(t))
        at, is_found = self._reached(t)
        density = -at.psi.imag / np.pi
        # Rounding may make it negative where it vanishes.
        value[is_found] = np.maximum(density, 0.0)
        return value

    def masses(self, t: RealPoints) -> tuple[RealPoints, RealPoints]:
        """Compute P(x > e^t) and P(x ≤ e^t) inside, the smaller one accurately."""
        above = np.full(len(t), self.above_low)
        below = np.full(len(t), 1 - self.above_low)
        at, is_found = self._reached(t)
        above[is_found], below[is_found] = masses(
            self.product,
            at,
            t[is_found],
        )
        low = min(self.above_high, self.above_low)
        high = self.above_low
        above = np.clip(above, low, high)
        below = np.clip(below, 1 - high, 1 - low)
        return above, below

    def solve(self, t: RealPoints) -> State:
        """Find the states at t, where points on an edge are moved just inside the band.

        Raises:
            NotConverged: The product could not be inverted.
        """
        if self.low > -np.inf:
            room = _BESIDE * (1 + abs(self.low))
            t = np.maximum(t, self.low + room)
        room = _BESIDE * (1 + abs(self.high))
        t = np.minimum(t, self.high - room)
        table = self._table
        guess = self._interpolated(t, table.t, table.state)
        return solve(
            self.product,
            t,
            self._distance(t),
            guess=guess,
        )

    def _reached(self, t: RealPoints) -> tuple[State, Found]:
        """Find the states where they can be found: far below the table, not everywhere.

        Returns:
            The states of the points that were found, and which points these are.
        """
        deepest = self._deepest_sure(t)
        is_far = t < deepest.t
        if not is_far.any():
            return self.solve(t), ~is_far
        table = self._table
        far = t[is_far]
        guess = self._interpolated(
            far,
            table.t,
            table.state,
        )
        deep, is_solved = attempt(
            self.product,
            far,
            self._distance(far),
            guess=guess,
        )
        # Where more mass is left than at that node, it is another sheet.
        is_solved &= self._left(deep, far) <= deepest.left
        is_found = ~is_far
        is_found[is_far] = is_solved
        near = self.solve(t[~is_far])
        deep = deep.take(is_solved)
        # Both parts come one after the other, and go back to the order of t.
        near_places = np.flatnonzero(~is_far)
        deep_places = np.flatnonzero(is_far)[is_solved]
        places = np.concatenate([near_places, deep_places])
        order = np.argsort(places)
        return _joined(near, deep).take(order), is_found

    def _deepest_sure(self, t: RealPoints) -> "_Sure":
        """Return the deepest node above which every point must be found.

        Below it no more mass is left than may be lost. It lies at −∞ where none of the
        points is that deep, or there is no such node.
        """
        everywhere = _Sure(-np.inf, 0.0)
        if self.low > -np.inf or not len(t):
            return everywhere
        # Masses are not cheap: that below the next node mostly tells enough.
        nodes = self._table.t
        next_below = np.searchsorted(nodes, t.min(), side="right") - 1
        if next_below >= 0:
            here = self._table.state.take(np.array([next_below]))
            if self._left(here, nodes[[next_below]])[0] > _MOST_LOST:
                return everywhere
        lost = self._below - (1 - self.above_low)
        if lost[0] > _MOST_LOST:
            return everywhere
        first = int(np.argmax(lost > _MOST_LOST))
        return _Sure(float(nodes[first]), float(lost[first]))

    def invert(self, p: RealPoints) -> RealPoints:
        """Find t with P(x ≤ e^t) = p: Newton inside a bracket that only shrinks."""
        if not len(p):
            return p
        table = self._table
        lowest = self.low
        if lowest == -np.inf:
            deepest = table.t[0]
            lowest = deepest - 64 * (self.high - deepest)
        ends = np.concatenate([[lowest], table.t, [self.high]])
        least, most = 1 - self.above_low, 1 - self.above_high
        mass_below = np.concatenate([[least], self._below, [most]])
        at = np.searchsorted(self._below, p)
        low, high = ends[at].copy(), ends[at + 1].copy()
        mass = np.maximum(mass_below[at + 1] - mass_below[at], 1e-300)
        share = np.clip((p - mass_below[at]) / mass, 0.01, 0.99)
        if self.low == -np.inf:
            # Below the table the cdf is convex, so that Newton from the upper end of
            # the bracket never overshoots.
            share[at == 0] = 1 - 1e-9
        t = low + share * (high - low)
        # At the upper edge the density vanishes, and Newton would divide by it.
        is_at_edge = np.abs(1 - self.above_high - p) <= _ROUNDING
        t[is_at_edge] = self.high
        active = np.flatnonzero(~is_at_edge)
        for _ in range(80):
            if not len(active):
                break
            here = t[active]
            state = self.solve(here)
            lack = self._lack(state, here, p[active])
            is_below = lack > 0
            left = np.where(
                is_below,
                here,
                low[active],
            )
            right = np.where(
                is_below,
                high[active],
                here,
            )
            low[active], high[active] = left, right
            density = np.maximum(-state.psi.imag, 1e-300) / np.pi
            ahead = here + lack / density
            is_outside = (ahead <= left) | (ahead >= right)
            middle = (left + right) / 2
            ahead = np.where(is_outside, middle, ahead)
            rounding = 2e-14 * (1 + np.abs(ahead))
            is_done = np.abs(ahead - here) <= rounding
            t[active] = ahead
            active = active[~is_done]
        return t

    def _lack(
        self,
        at: State,
        t: RealPoints,
        p: RealPoints,
    ) -> RealPoints:
        """Return p − P(x ≤ e^t), from the smaller masses."""
        above, below = masses(self.product, at, t)
        return np.where(
            below < above,
            p - below,
            above - (1 - p),
        )

    def _left(self, at: State, t: RealPoints) -> RealPoints:
        """Return the mass of the band below t."""
        below = self.product.mass(at, t, below=True)
        return np.abs(below - (1 - self.above_low))

    def reach(self, least: float = _LEAST_BELOW) -> Reach:
        """Return a depth below the top, in log λ, under which hardly any mass is left.

        It is for bands without a lower edge.

        Args:
            least: The mass that may be left.

        Raises:
            NotConverged: The product cannot be inverted where more than 1e-6 is left.
        """
        depth, left = float(_DEPTHS[0]) / 2, 1.0
        for number, deeper in enumerate(_DEPTHS):
            # Where little mass is left, only an integral is worth a continuation.
            is_enough = least >= _LEAST_BELOW and left <= _MOST_LOST
            rung = self._rung(number, ways=GUESS_ONLY if is_enough else QUICK)
            # Below what the contour resolves, the mass that was left is a bound.
            if not rung.is_solved or rung.left > left * _FALLING:
                if left <= _MOST_LOST:
                    return Reach(depth, left)
                return self._deepest(depth, left)
            depth = float(deeper)
            # A mass that no longer falls is what the contour resolves.
            has_settled = 0.9 * left < rung.left < _MOST_LOST
            left = rung.left
            if left <= least or has_settled:
                break
        return Reach(depth, left)

    def _rung(self, number: int, ways: Ways) -> _Rung:
        """Return the point at one of the depths.

        Args:
            number: Which depth; those above it have been found.
            ways: The continuations tried where no guess leads to the solution.
        """
        rungs = self._rungs
        if number < len(rungs):
            return rungs[number]
        t = np.array([self.high - _DEPTHS[number]])
        guess = None
        if rungs:
            # Far down, every unknown is linear in log λ.
            last = rungs[-1].state
            slope = last.tangent / last.slope
            guess = last.w + slope * (t - rungs[-1].t)
        state, is_solved = attempt(
            self.product,
            t,
            self.high - t,
            guess=guess,
            ways=ways,
        )
        left = float(self._left(state, t)[0])
        rung = _Rung(t, state, bool(is_solved[0]), left=left)
        if rung.is_solved:
            rungs.append(rung)
        return rung

    @cached_property
    def _rungs(self) -> list[_Rung]:
        """The points found so far on the way down."""
        return []

    def _deepest(self, depth: float, left: float) -> Reach:
        """Return the deepest that can be inverted, up to twice as deep as `depth`."""
        depths = depth * 2.0 ** (np.arange(1, 16) / 16)
        t = self.high - depths
        at, is_solved = attempt(self.product, t, depths, ways=QUICK)
        below = self._left(at, t)
        before = np.concatenate([[left], below[:-1]])
        falls = is_solved & (below <= before * _FALLING)
        num_good = int(np.argmin(np.append(falls, False)))
        if num_good == 0 or below[num_good - 1] > _MOST_LOST:
            deepest = t[min(num_good, len(t) - 1)]
            raise NotConverged(
                f"the law could not be inverted at log lam = {deepest:.6g}."
            )
        last = num_good - 1
        # Where the next one fails, points just above the last may fail as well.
        if last > 0 and below[last - 1] <= _MOST_LOST:
            last -= 1
        return Reach(float(depths[last]), float(below[last]))

    @cached_property
    def _table(self) -> Table:
        """The states at the nodes.

        Newton steps solve all nodes, from guesses interpolated between a few of them.
        """
        t = self._nodes()
        few, at = self._few(t)
        if len(few) > 1:
            guess = self._interpolated(t, few, at)
            at, is_solved = attempt(
                self.product,
                t,
                self._distance(t),
                guess=guess,
            )
            # The deepest nodes may fail: arbitrarily close to zero, the contour of a
            # factor's measure resolves nothing.
            t, at = t[is_solved], at.take(is_solved)
        else:
            t = few
        if not len(t):
            raise NotConverged(
                "the law could not be inverted between "
                f"log lam = {self.low:g} and {self.high:g}."
            )
        return Table(t, at)

    def _few(self, t: RealPoints) -> tuple[Float[np.ndarray, " few"], State]:
        """Return some points, ascending, and the states there.

        Continuation is slow. So it is left out where a guess solves most of the points:
        the others are guessed from these.
        """
        # What lies deeper than the nodes was not believed.
        deepest = t[0] - _BESIDE
        ascending = self._rungs[::-1]
        rungs = [rung for rung in ascending if rung.t[0] >= deepest]
        # The points on the way down do, unless the first has passed most of the mass.
        if rungs and rungs[-1].left > 0.5:
            places = np.concatenate([rung.t for rung in rungs])
            return places, _joined(*(rung.state for rung in rungs))
        every_fifth = np.append(t[::5], t[-1])
        few = np.unique(every_fifth)
        distance = self._distance(few)
        at, is_solved = attempt(self.product, few, distance, ways=GUESS_ONLY)
        if 2 * is_solved.sum() < len(few):
            at, is_solved = attempt(self.product, few, distance)
        return few[is_solved], at.take(is_solved)

    @cached_property
    def _below(self) -> RealPoints:
        """P(x ≤ λ) at the nodes of the table."""
        _, below = masses(self.product, self._table.state, self._table.t)
        return below

    def _nodes(self) -> RealPoints:
        if self.low > -np.inf:
            angles = np.pi / 2 * np.arange(1, _NODES) / _NODES
            width = self.high - self.low
            return self.low + width * np.sin(angles) ** 2
        reach = self.reach().depth
        near_top = np.geomspace(
            1e-5,
            reach,
            3 * _NODES // 4,
        )
        evenly = np.linspace(
            reach / 32,
            reach,
            3 * _NODES // 8,
        )
        return np.unique(self.high - np.concatenate([near_top, evenly]))

    def _interpolated(
        self,
        t: RealPoints,
        nodes: Float[np.ndarray, " nodes"],
        at: State,
    ) -> Complex[Numbers, "unknowns points"]:
        """Interpolate the unknowns from states at nodes, by cubic Hermite pieces."""
        from scipy.interpolate import CubicHermiteSpline

        x, t_per_x = self._smooth(nodes)
        slope = t_per_x * at.tangent / at.slope
        order = np.argsort(x)
        high = np.pi / 2
        if self.low == -np.inf:
            high = x.max()
        spline = CubicHermiteSpline(
            x[order],
            at.w[:, order],
            slope[:, order],
            axis=1,
        )
        wanted, _ = self._smooth(t)
        return spline(np.clip(wanted, 0.0, high))

    def _smooth(self, t: RealPoints) -> tuple[RealPoints, RealPoints]:
        """Return a variable x in which the unknowns are smooth up to edges, and dt/dx.

        At an edge they go as a square root of the distance. So x is the root of the
        depth below the top, or, between two edges, t = low + (high − low) sin² x.
        """
        if self.low == -np.inf:
            x = np.sqrt(np.maximum(self.high - t, 0.0))
            return x, -2 * x
        width = self.high - self.low
        share = np.clip((t - self.low) / width, 0, 1)
        x = np.arcsin(np.sqrt(share))
        return x, width * np.sin(2 * x)

    def _distance(self, t: RealPoints) -> RealPoints:
        return np.minimum(t - self.low, self.high - t)


class _Sure(NamedTuple):
    """A point above which every point of a band must be found.

    Attributes:
        t: Its log λ.
        left: The mass of the band below it.
    """

    t: float
    left: float


def _joined(*states: State) -> State:
    """Return the states of several groups of points, one after another."""
    fields = zip(*states, strict=True)
    return State(*(np.concatenate(field, axis=-1) for field in fields))


def masses(
    product: Product,
    at: State,
    t: RealPoints,
) -> tuple[RealPoints, RealPoints]:
    """Compute P(x > e^t) and P(x ≤ e^t), the smaller one to relative accuracy."""
    above = product.mass(at, t)
    below = 1 - above
    lower = np.flatnonzero(above > 0.5)
    if len(lower):
        below[lower] = product.mass(
            at.take(lower),
            t[lower],
            below=True,
        )
        above[lower] = 1 - below[lower]
    return above, below
