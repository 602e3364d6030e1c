"""Where a product has mass: its atoms, and the intervals of log λ with a density.

Outside the support ψ is real, so a few inversions tell where the gaps are, and the mass
above a gap tells whether something lies between two of them. An edge is then cornered
between a point with a density and one without; where the curve turns there, dλ/dψ = 0,
the turning point is solved for.
"""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from isometry.theory.laws._inversion import PATIENT, QUICK, Ways, attempt
from isometry.theory.laws._product import NotConverged, Product, State

RealPoints = Float[np.ndarray, " points"]

# Distances from log E λ at which gaps are looked for, in log λ: from the narrowest
# laws, of relative width 1e-9, to those of depth 1e5.
_OFFSETS = 8.0 ** np.arange(-10, 4)
_OFFSETS_BELOW = 4.0 ** np.arange(-15, 6)

# How far below log E λ a gap at zero is looked for first, and where there is none, at
# all.
_DEEP = 64.0

# Points between the outermost gaps. A gap narrower than their distance is not reported
# (the density there is zero all the same); ten times more points cost as much as ten
# densities.
_SCAN = 48

# How far beside an atom, in log λ, a gap around it is looked for. A density there of
# less than a hundred thousandth of the atom's mass would be taken for one if this were
# ten times smaller; ten times larger, more gaps are missed.
_BESIDE_ATOM = 0.02

# The same above a place where an atom has just vanished. At s² of a residual block the
# gap has a relative width of at least (a²σ²/s²)²/432: from a²σ² = s²/500 it is found.
_BESIDE_LIMIT = _BESIDE_ATOM * 8.0 ** -np.arange(8)

# −Im ψ below this share of ψ (or of rank + ψ) is no density. At an edge the density
# vanishes as a root, so it is found to the square of this share, and rounding in ψ,
# which at an edge is the root of float64's, stays below it.
_FLAT = 1e-7

# Masses that differ by less are one. Above the rounding of a hundred layers, below
# anything that is resolved near a zero of the slope.
_SAME_MASS = 1e-9

# No law that is known takes so many points to find its bands: with more, bisection
# follows rounding.
_MOST_PROBES = 1000

# Atoms of less mass are rounding.
_LEAST_ATOM = 1e-13

# An edge this close to an atom, in log λ, is at the atom.
_AT_ATOM = 1e-9

# A turning point is solved to this share of x = 1/ψ. Its log λ is right to the square.
_SETTLED = 1e-8

# Where rank + ψ is below this share of ψ, it is what a turning point is looked for in.
# At a tenth of it ψ would still resolve the point to 1e-14; at ten times, (rank + ψ)/ψ
# has values near one, where 1/ψ is the better variable.
_NEAR_ZERO = 0.1

# How near to infinite ψ a turning point is looked at, as a share of x: log λ is right
# to the cube of this.
_BESIDE_INFINITY = 1e-5

# A slope's imaginary part below this share of the slope before is rounding. Ten times
# more of it was never seen at a turning point that was one.
_REAL = 1e-6

# dlog λ/dlog ψ of at least this at an edge says that the curve does not turn there.
_TURNS = 1e-3

# Rounds in which a bracket is divided by five; it starts below a thousand.
_ROUNDS = 22
_PARTS = 5

# A gap at zero is not believed where positive values of a factor come arbitrarily
# close to zero, unless it holds back more than this mass: the contour resolves no less.
_UNRESOLVED = 1e-6


class LawAtom(NamedTuple):
    """A point mass off zero.

    Attributes:
        t: log λ.
        mass: Its mass. At 0 it is no atom: the density is infinite there.
        above: P(log x > t).
    """

    t: float
    mass: float
    above: float


@dataclass(frozen=True)
class Interval:
    """An interval of log λ with a density.

    Attributes:
        low: Its lower end; −inf where the density reaches down to zero.
        high: Its upper end.
        above_low: The mass above the lower end; an atom at that end does not count.
        above_high: The mass above the upper end; an atom at that end counts, so that
            the difference of the two is the mass of the density.
    """

    low: float
    high: float
    above_low: float
    above_high: float


@dataclass
class _Probes:
    """Points where the law was inverted, ascending.

    Attributes:
        t: log λ.
        is_gap: Whether there is no density.
        above: P(x > λ).
        state: The solutions.
    """

    t: RealPoints
    is_gap: Bool[np.ndarray, " points"]
    above: RealPoints
    state: State


def find_atoms(product: Product) -> list[LawAtom]:
    """Return the atoms off zero, ascending.

    At a product of values with masses w_k there is one of mass 1 − Σ (1 − w_k), if that
    is positive (Belinschi, 2003, for two factors). At the limit of none, w = 0 for one
    factor and 1 for all others, no solution is found nearby, but masses are known.
    """
    found: dict[tuple[tuple[int, int], ...], tuple[float, float, float]]
    found = {(): (0.0, 1.0, 0.0)}
    for number, (factor, times) in enumerate(product.factors):
        for _ in range(math.ceil(times)):
            grown = {}
            for path, (t, mass, above) in found.items():
                for i, atom in enumerate(factor.atoms):
                    left = mass - atom.lost
                    is_limit = max(abs(left), abs(atom.lost - 1)) <= _LEAST_ATOM
                    if is_limit:
                        left = 0.0
                    if is_limit or left > _LEAST_ATOM:
                        key = (*path, (number, i))
                        grown[key] = (
                            t + atom.log_value,
                            left,
                            above + atom.above,
                        )
            # The order of equal factors does not matter.
            found = {tuple(sorted(path)): value for path, value in grown.items()}
    atoms = []
    for t, mass, above in found.values():
        atoms.append(LawAtom(t, mass, above=above if above > _LEAST_ATOM else 0.0))
    return sorted(atoms)


def find_intervals(product: Product, atoms: list[LawAtom]) -> list[Interval]:
    """Return the intervals with a density, ascending.

    Raises:
        NotConverged: An edge is not resolved in float64.
    """
    sole = product.sole_diagonal
    if sole is not None:
        logs = [_scaled(product, low, high) for low, high in sole.measure.intervals()]
        found = [_interval_of_measure(product, low, high) for low, high in logs]
        return _cut_at_atoms(found, atoms)
    probes = _probe_everywhere(product, atoms)
    gaps = np.flatnonzero(probes.is_gap).tolist()
    found = []
    # A band lies wherever a point is missing among those of gaps.
    if gaps[0] > 0:
        found.append(_band(product, atoms, probes, below=None, above=gaps[0]))
    for below, above in itertools.pairwise(gaps):
        if above > below + 1:
            found.append(_band(product, atoms, probes, below=below, above=above))
    return _cut_at_atoms(found, atoms)


def _band(
    product: Product,
    atoms: list[LawAtom],
    probes: _Probes,
    *,
    below: int | None,
    above: int,
) -> Interval:
    """Return the interval of the support between two gaps.

    Args:
        product: The product.
        atoms: Its atoms.
        probes: Points where it was inverted.
        below: The index of the last probe in the gap below; None if there is none.
        above: The index of the first probe in the gap above.
    """
    high = _edge(product, atoms, probes, inside=above - 1, outside=above)
    t = float(probes.t[above])
    # Atoms at an edge are outside the interval: above it at the high edge.
    at_edge = _mass_between(atoms, high - _AT_ATOM, t)
    above_high = float(probes.above[above]) + at_edge
    if below is None:
        return Interval(-math.inf, high, product.rank, above_high=above_high)
    low = _edge(product, atoms, probes, inside=below + 1, outside=below)
    t = float(probes.t[below])
    # At the low edge they are below it.
    at_edge = _mass_between(atoms, t, low + _AT_ATOM)
    above_low = float(probes.above[below]) - at_edge
    return Interval(low, high, above_low, above_high=above_high)


def _scaled(
    product: Product,
    low: float,
    high: float,
) -> tuple[float, float]:
    scale = product.log_scale
    log_low = -math.inf
    if low > 0:
        log_low = math.log(low) + scale
    return log_low, math.log(high) + scale


def _interval_of_measure(
    product: Product,
    low: float,
    high: float,
) -> Interval:
    """Return an interval of a law that is the measure of its only factor.

    Args:
        product: The product, whose `sole_diagonal` that factor is.
        low: The lower end, as log λ.
        high: The upper end.
    """
    sole = product.sole_diagonal
    assert sole is not None
    logs = np.array([low, high]) - product.log_scale
    ends = np.exp(logs) + 0j
    above_low, above_high = sole.measure.angle(ends, below=False)
    if low == -math.inf:
        above_low = product.rank
    masses = zip(
        sole.measure.atoms,
        sole.measure.masses,
        strict=True,
    )
    # On an atom the angle counts half of it; an `Interval` leaves out all of an atom at
    # the lower end, and includes all of one at the upper end.
    for place, mass in masses:
        # Zero is the end of no interval in log λ.
        if place == 0:
            continue
        t = math.log(place) + product.log_scale
        if abs(t - low) <= _AT_ATOM:
            above_low -= mass / 2
        if abs(t - high) <= _AT_ATOM:
            above_high += mass / 2
    return Interval(
        low,
        high,
        float(above_low),
        above_high=float(above_high),
    )


def _probe(
    product: Product,
    atoms: list[LawAtom],
    t: RealPoints,
    distance: RealPoints,
    *,
    ways: Ways = PATIENT,
) -> _Probes:
    """Invert at some points; those where that fails are left out."""
    # At an atom ψ is infinite.
    is_apart = np.ones(len(t), bool)
    for atom in atoms:
        is_apart &= np.abs(t - atom.t) > _AT_ATOM
    t, distance = t[is_apart], distance[is_apart]
    state, is_solved = attempt(
        product,
        t,
        distance,
        ways=ways,
    )
    state, t = state.take(is_solved), t[is_solved]
    size = np.minimum(np.abs(state.psi), np.abs(state.above_zero))
    # Beside an atom, where ψ is large and λ(ψ) flat, ψ may be off by more than that.
    with np.errstate(divide="ignore"):
        rounding = product.rounding / np.abs(state.slope)
    is_gap = -state.psi.imag <= np.maximum(_FLAT * size, rounding)
    # Far above the support ψ may be less than its own rounding, and its imaginary part
    # tells nothing. Kept as a band, such a point would hide the end of the support.
    is_known = is_gap | (np.abs(state.psi) > product.rounding)
    state, t, is_gap = state.take(is_known), t[is_known], is_gap[is_known]
    above = np.empty(len(t))
    above[is_gap] = product.mass_above_gap(state.take(is_gap), t[is_gap])
    above[~is_gap] = product.mass(state.take(~is_gap), t[~is_gap])
    return _Probes(
        t,
        is_gap,
        above=above,
        state=state,
    )


def _joined(*parts: _Probes) -> _Probes:
    order = np.argsort(np.concatenate([part.t for part in parts]))
    fields = zip(*(part.state for part in parts), strict=True)
    state = State(*(np.concatenate(field, axis=-1) for field in fields))
    return _Probes(
        t=np.concatenate([part.t for part in parts])[order],
        is_gap=np.concatenate([part.is_gap for part in parts])[order],
        above=np.concatenate([part.above for part in parts])[order],
        state=state.take(order),
    )


def _probe_everywhere(product: Product, atoms: list[LawAtom]) -> _Probes:
    """Invert at points that tell gaps from bands."""
    middle = product.log_mean
    probes = _probe(
        product,
        atoms,
        middle + _OFFSETS,
        distance=_OFFSETS / 8,
        ways=QUICK,
    )
    if not (product.touches_zero and product.is_connected):
        probes = _joined(_probe_below(product, atoms), probes)
    low, high = _range(product, probes)
    if not product.is_connected:
        scanned = _probe_between(product, atoms, low, high=high)
        probes = _joined(probes, scanned)
    probes = _without_false_gaps(product, probes)
    return _with_hidden_bands(product, atoms, probes)


def _probe_below(product: Product, atoms: list[LawAtom]) -> _Probes:
    """Invert at points below the mean, deep enough to show a gap at zero."""
    middle = product.log_mean
    # Deep points cost most, and tell something only where a gap at zero lies so deep.
    near = _OFFSETS_BELOW[_OFFSETS_BELOW <= _DEEP][::-1]
    lower = _probe(
        product,
        atoms,
        middle - near,
        distance=near / 8,
        ways=QUICK if product.touches_zero else PATIENT,
    )
    has_gap = np.any(lower.is_gap & (lower.above > product.rank - _SAME_MASS))
    if has_gap or product.touches_zero:
        return lower
    every = _OFFSETS_BELOW[::-1]
    return _probe(product, atoms, middle - every, distance=every / 8)


def _probe_between(
    product: Product,
    atoms: list[LawAtom],
    low: float,
    *,
    high: float,
) -> _Probes:
    """Invert at points spread evenly between two log λ, and beside atoms."""
    evenly = np.linspace(low, high, _SCAN + 2)[1:-1]
    beside = [atom.t + sign * _BESIDE_ATOM for atom in atoms for sign in (-1, 1)]
    for atom in atoms:
        if atom.mass == 0:
            beside.extend(atom.t + _BESIDE_LIMIT)
    scan = np.union1d(evenly, beside)
    return _probe(
        product,
        atoms,
        scan,
        distance=np.full(len(scan), (high - low) / (8 * _SCAN)),
        ways=QUICK,
    )


def _with_hidden_bands(
    product: Product,
    atoms: list[LawAtom],
    probes: _Probes,
) -> _Probes:
    """Add points until one lies in every band: between gaps of unequal mass is one.

    Raises:
        NotConverged: Bisection does not find a band.
    """
    for _ in range(60):
        left = _hidden(probes, atoms)
        if not len(left):
            return probes
        t = (probes.t[left] + probes.t[left + 1]) / 2
        width = probes.t[left + 1] - probes.t[left]
        if np.any(width < 1e-13 * (1 + np.abs(t))) or len(probes.t) > _MOST_PROBES:
            break
        more = _probe(
            product,
            atoms,
            t,
            distance=width / 8,
        )
        if not len(more.t):
            break
        probes = _joined(probes, more)
    raise NotConverged(
        "an edge of the law is not resolved in float64; the values of a factor lie too "
        "far apart."
    )


def _range(product: Product, probes: _Probes) -> tuple[float, float]:
    """Return the lower and the upper log λ between which edges are looked for."""
    # The probes above the support end the list: no mass is above them. The lowest of
    # them bounds all edges from above.
    is_top = probes.is_gap & (probes.above < _SAME_MASS)
    num_top = int(np.argmin(np.append(is_top[::-1], False)))
    if num_top == 0:
        raise NotConverged("no point above the support could be inverted.")
    high = probes.t[len(is_top) - num_top]
    # Those of a gap at zero begin it: all mass off zero is above them.
    is_bottom = probes.is_gap & (probes.above > product.rank - _SAME_MASS)
    num_bottom = int(np.argmin(np.append(is_bottom, False)))
    if num_bottom and not product.touches_zero:
        return float(probes.t[num_bottom - 1]), float(high)
    # Without a gap at zero, the range ends where a thousandth of the mass lies below.
    is_low = probes.above > product.rank - 1e-3
    lows = np.flatnonzero(is_low & (probes.t < high))
    low = probes.t[lows[-1]] if len(lows) else probes.t[0]
    return float(low), float(high)


def _without_false_gaps(product: Product, probes: _Probes) -> _Probes:
    """Leave out gaps next to zero in which the contour does not see the mass."""
    if not product.touches_zero:
        return probes
    is_false = probes.is_gap & (probes.above > product.rank - _UNRESOLVED)
    keep = np.flatnonzero(~is_false)
    # What lies below a false gap is not resolved either.
    if is_false.any():
        keep = keep[keep > np.flatnonzero(is_false)[-1]]
    return _Probes(
        t=probes.t[keep],
        is_gap=probes.is_gap[keep],
        above=probes.above[keep],
        state=probes.state.take(keep),
    )


def _hidden(probes: _Probes, atoms: list[LawAtom]) -> np.ndarray:
    """Find neighbouring points of gaps with a band between them that no point has hit.

    There, the mass above falls by more than the atoms between the points explain.

    Returns:
        The indices of the lower points.
    """
    both = probes.is_gap[:-1] & probes.is_gap[1:]
    found = []
    for i in np.flatnonzero(both):
        known = _mass_between(
            atoms,
            probes.t[i],
            probes.t[i + 1],
        )
        if abs(probes.above[i] - probes.above[i + 1] - known) > _SAME_MASS:
            found.append(i)
    return np.array(found, int)


def _mass_between(
    atoms: list[LawAtom],
    low: float,
    high: float,
) -> float:
    return math.fsum(atom.mass for atom in atoms if low < atom.t <= high)


def _edge(
    product: Product,
    atoms: list[LawAtom],
    probes: _Probes,
    *,
    inside: int,
    outside: int,
) -> float:
    """Find the edge between two neighbouring points.

    Args:
        product: The product.
        atoms: Its atoms.
        probes: Points where it was inverted.
        inside: The index of the point with a density.
        outside: The index of the point without one.
    """
    band, gap = float(probes.t[inside]), float(probes.t[outside])
    limit = gap
    state = probes.state.take(np.array([inside]))
    turning = _turning_point(product, state, band=band, limit=limit)
    if turning is not None:
        return turning
    for _ in range(_ROUNDS):
        t = band + (gap - band) * np.arange(1, _PARTS) / _PARTS
        width = abs(gap - band)
        if width <= 4e-15 * (1 + abs(gap)):
            break
        found = _probe(
            product,
            atoms,
            t,
            distance=np.full(len(t), width / (4 * _PARTS)),
        )
        order = np.argsort(np.abs(found.t - band))
        is_gap = found.is_gap[order]
        if not len(is_gap):
            break
        num_inside = int(np.argmax(np.append(is_gap, True)))
        if num_inside < len(order):
            gap = float(found.t[order[num_inside]])
        if num_inside > 0:
            last = order[num_inside - 1]
            band = float(found.t[last])
            state = found.state.take(np.array([last]))
            turning = _turning_point(product, state, band=band, limit=limit)
            if turning is not None:
                return turning
    # A density that is too thin to be seen may reach beyond the last point that has
    # one: up to the next point of the gap, or for ever where nothing lies beyond.
    farther = int(np.clip(2 * outside - inside, 0, len(probes.t) - 1))
    if probes.is_gap[farther]:
        limit = float(probes.t[farther])
    if outside > inside and abs(probes.above[outside]) < _SAME_MASS:
        limit = math.inf
    if outside < inside and product.rank - probes.above[outside] < _SAME_MASS:
        limit = -math.inf
    edge = float((band + gap) / 2)
    turning = _turning_point(product, state, band=band, limit=limit, is_thin=True)
    if turning is not None:
        return turning
    return _end_of_thin_tail(product, state, edge, limit=limit)


def _end_of_thin_tail(
    product: Product,
    state: State,
    edge: float,
    *,
    limit: float,
) -> float:
    """Return where a density ends that is too thin to be seen, or the edge as found.

    The tail of softplus' slope, say, is Gaussian. There the curve does not turn, and
    goes on, real to rounding, until an unknown is at the end of its factor's support.

    Args:
        product: The product.
        state: The last one inside.
        edge: Where the density was last seen.
        limit: Where the gap is known to be.
    """
    if abs(state.slope[0] * state.psi[0]) < _TURNS:
        return edge
    outward = np.sign(limit - edge)
    found = []
    row = 0
    for curve, _ in product.curves:
        speed = (state.tangent[row, 0] / state.slope[0]).real
        here = state.w[row, 0].real
        ahead = [end for end in curve.ends if (end - here) * speed * outward > 0]
        if ahead:
            end = min(ahead, key=lambda end: abs(end - here))
            found.append(_where_unknown_is(product, state, edge, row=row, end=end))
        row += curve.num_unknowns
    most = abs(limit - edge)
    inside = [t for t in found if 0 < (t - edge) * outward < most]
    return min(inside, key=lambda t: abs(t - edge), default=edge)


def _where_unknown_is(
    product: Product,
    state: State,
    t: float,
    *,
    row: int,
    end: float,
) -> float:
    """Return log λ where an unknown takes a given real value."""
    for _ in range(30):
        here = state.w[row, 0].real
        with np.errstate(all="ignore"):
            speed = (state.tangent[row, 0] / state.slope[0]).real
        # Nine tenths of the way, because at the end itself the transform is singular.
        step = 0.9 * (end - here) / speed
        if not np.isfinite(step) or abs(step) <= 1e-13 * (1 + abs(t)):
            break
        t += step
        state = product.newton(state.w, np.array([t + 0j]), rounds=12)
    return t


def _turning_point(
    product: Product,
    state: State,
    *,
    band: float,
    limit: float,
    is_thin: bool = False,
) -> float | None:
    """Solve dλ/dψ = 0 from a state inside the band; None if that leads elsewhere.

    It is solved in x = 1/ψ, because the curve may turn at ψ = ∞, where the density is
    infinite; or, near ψ = −rank, in x = (rank + ψ)/ψ, whose small values float64
    resolves. Around the turning point dlog λ/dx is linear, and real at real x, so its
    value at one complex x tells where the point is, and a secant finishes. Elsewhere is
    anything that is not between `band`, where the state is, and `limit`.
    """
    psi, above_zero = state.psi[0], state.above_zero[0]
    rank = product.rank
    is_near_zero = abs(above_zero) < _NEAR_ZERO * abs(psi)
    # −dψ/dx is ψ² times this.
    per_x = 1 / rank if is_near_zero else 1.0
    x = above_zero / psi if is_near_zero else 1 / psi
    slope = -state.slope[0] * psi**2 * per_x
    bend = slope.imag / x.imag
    if not np.isfinite(bend) or bend == 0:
        return None
    step = slope.real / bend
    # Nearby x − x_edge is imaginary; if not, it is tried again from a nearer state. A
    # thin density is real to rounding, however far the edge.
    if abs(step) > abs(x.imag) and not is_thin:
        return None
    before = x, slope
    here = x.real - step
    # At ψ = ∞ itself nothing is finite, so the parabola is read off beside it.
    least = _BESIDE_INFINITY * abs(x)
    w = state.w
    for _ in range(12):
        if abs(here) < least:
            here = math.copysign(least, here)
        if is_near_zero:
            psi = rank / (here - 1)
            above_zero = here * psi
        else:
            psi = 1 / here
            above_zero = rank + psi
        at = product.follow(
            w,
            np.array([psi + 0j]),
            above_zero=np.array([above_zero + 0j]),
        )
        w = at.w
        slope = -at.slope[0] * at.psi[0] ** 2 * per_x
        if not np.isfinite(slope) or at.mismatch[0] > 1e-9 * abs(at.psi[0]):
            return None
        # At real ψ all is real on the sheet of the law.
        if abs(slope.imag) > max(0.1 * abs(slope.real), _REAL * abs(before[1])):
            return None
        bend = (slope - before[1]) / (here - before[0])
        step = slope / bend
        if not np.isfinite(step) or abs(step) > 2 * abs(x):
            return None
        before = here, slope
        ahead = (here - step).real
        is_beside = abs(here) == least and abs(ahead) < least
        if is_beside or abs(step) <= _SETTLED * abs(x):
            break
        here = ahead
    else:
        return None
    log_lam = at.log_lam[0] - slope * step / 2
    is_between = min(band, limit) < log_lam.real < max(band, limit)
    is_real = abs(log_lam.imag) < 1e-9
    return float(log_lam.real) if is_between and is_real else None


def _cut_at_atoms(intervals: list[Interval], atoms: list[LawAtom]) -> list[Interval]:
    """Divide intervals at atoms inside them; an edge at an atom is the atom's place."""
    found = []
    for interval in intervals:
        low, above = interval.low, interval.above_low
        high = interval.high
        for atom in atoms:
            if abs(atom.t - low) <= _AT_ATOM:
                low = atom.t
            elif abs(atom.t - high) <= _AT_ATOM:
                high = atom.t
            elif low < atom.t < high:
                with_atom = atom.above + atom.mass
                found.append(Interval(low, atom.t, above, above_high=with_atom))
                low, above = atom.t, atom.above
        found.append(Interval(low, high, above, above_high=interval.above_high))
    return found
