"""The measure of phi'(√q z)², on a contour where its transforms are accurate.

phi' can be evaluated on the real axis only (a user's callable, autodiff). So it is
first represented there by Chebyshev series on panels, each fitted a quarter beyond its
ends; a tenth of a panel off the axis they still hold to rounding. Between the extrema
of phi'² the contour is then moved to the side on which phi'² lies below the real axis.
`_slope_series` makes the series, this file the contour.
"""

import bisect
import functools
import itertools

import numpy as np
from jaxtyping import Complex, Float

from isometry._internal.errors import NotDefined
from isometry.activations import Activation
from isometry.theory.laws._measure import RULE_NODES, Measure, discrete
from isometry.theory.laws._slope_series import (
    NOISE,
    REACH,
    Series,
    Slope,
    noise_off_axis,
    normal_mass,
    panel_series,
)
from isometry.theory.laws._types import Numbers
from isometry.theory.mean_field._host import evaluate
from isometry.theory.mean_field._pieces import octave_of, pieces
from isometry.theory.mean_field._quadrature import Rule, bell, gauss, gauss_rule

Points = Float[np.ndarray, " points"]
Kinks = Float[np.ndarray, " kinks"]
Places = Float[np.ndarray, " places"]
ComplexPoints = Complex[Numbers, " points"]

# Bisections of the contour towards an extremum or a kink; towards a zero of phi', where
# λ^½ of mass lies below λ; and out where there is no mass to speak of. Ten fewer lose
# quantiles of 1e-4 near a zero; ten more only cost nodes.
_LEVELS = 15
_LEVELS_AT_ZERO = 30
_LEVELS_FAR_OUT = 5
_FAR_OUT = 7.0

# Gauss-Legendre nodes a segment of the contour.
_ORDER = 18

# Gauss-Legendre nodes a panel of the series, for polynomials in phi'² of degree 64.
# With half as many these are wrong.
_ORDER_OF_RULE = 64

# A segment is at most this share of a panel long, and half of it off the axis: there
# the series hold to rounding.
_SEGMENT = 0.2
_OFF_AXIS = 0.1

# Points a panel at which signs of phi' and phi'' are looked at. An extremum and its
# neighbour closer than a fiftieth of a panel would not be resolved by the series.
_SIGNS = 48

# A slope that varies by less over a stretch, relative to its size, is a constant.
_CONSTANT = 1e-13

# Values of phi'² that agree to this are one atom.
_SAME_VALUE = 1e-12

# Points at which phi'² is looked at beyond the cut-off, where only the end of the
# support is of interest: four an octave, for forty octaves.
_BEYOND = REACH * 2.0 ** np.arange(0, 40, 0.25)

# phi'² that still grows by a tenth in an octave has no top edge.
_UNBOUNDED = 1.1

# Closer to a kink than this a point may lie on either side of it by rounding.
_BESIDE_KINK = 1e-9

# A slope that falls below this share of its size, squared, passes zero.
_PASSES_ZERO = 1e-12


@functools.lru_cache(maxsize=256)
def slope_measure(phi: Activation, q: float) -> Measure:
    """Return the measure of phi'(√q z)²; at q = 0 that of the limit q → 0+.

    Raises:
        NotDefined: phi' is unbounded, or lost in rounding or underflow.
    """
    # A variance of zero is the limit: phi' right and left of zero.
    scale = float(np.sqrt(max(q, 1e-40)))

    def slope(z: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        _, derivative = evaluate(phi, scale * z)
        return derivative

    found = pieces(phi, octave_of(REACH * scale))
    kinks = found.kinks / scale
    places = _places(found.edges / scale, kinks)
    is_even = _is_even(slope, kinks, places)
    inner = kinks[np.abs(kinks) < REACH]
    cuts = np.union1d([-REACH, REACH], inner)
    # One half is enough, with twice the mass.
    if is_even:
        positive = inner[inner > 0]
        cuts = np.union1d([0.0, REACH], positive)
        places = places[places > 0]
    stretches, is_lost = panel_series(slope, cuts, places)
    if is_lost:
        raise NotDefined(
            f"at q={q:g} phi' of {phi.name} is lost in the rounding of its autodiff, "
            "or its square in underflow, for too many units to know its law; there is "
            "one at a smaller q. Where a derivative of phi jumps, kinks= of "
            "activations.Activation says so."
        )
    atoms, masses = [], []
    nodes, weights = [], []
    intervals = []
    size = max(np.abs(series.coefficients[0]).max() for series in stretches)
    for series in stretches:
        if series.variation <= _CONSTANT * size:
            first, second, *_ = series.edges
            middle = (first + second) / 2
            value = slope(np.array([middle]))
            atoms.append(float(value[0]) ** 2)
            masses.append(normal_mass(first, series.edges[-1]))
            continue
        values, mass, ends = _contour(series, size)
        ends = [*ends, *_ends_beyond(phi, slope, series)]
        nodes.append(values)
        weights.append(mass)
        intervals.append((min(ends), max(ends)))
    sides = 2.0 if is_even else 1.0
    lumps = discrete(_snapped(np.array(atoms)), sides * np.array(masses))
    if not nodes:
        return lumps
    continuous = [series for series in stretches if series.variation > _CONSTANT * size]
    total = sides * np.concatenate(weights)
    # Masses are made to sum to 1 to the last digit, because many layers multiply what
    # is missing.
    total *= (1 - lumps.masses.sum()) / total.sum()
    return Measure(
        lumps.atoms,
        lumps.masses,
        nodes=np.concatenate(nodes),
        weights=total,
        pieces=tuple(intervals),
        rule=_rule(continuous, 1 - lumps.masses.sum()),
    )


def steep_measure(phi: Activation, q: float) -> Measure:
    """Return `slope_measure`, but refuse a phi that is flat wherever there is mass.

    Raises:
        NotDefined: It is flat; and as `slope_measure`.
    """
    measure = slope_measure(phi, q)
    if measure.moment(1) == 0:
        raise NotDefined(
            f"{phi.name} is flat at q={q:g}: J is 0, and has no law off zero."
        )
    return measure


def _snapped(values: Points) -> Points:
    """Make values equal that are equal but for rounding."""
    if not len(values):
        return values
    order = np.sort(values)
    steps = np.diff(order, prepend=-np.inf)
    is_first = steps > _SAME_VALUE * np.abs(order)
    distinct = order[is_first]
    place = np.searchsorted(
        distinct,
        values * (1 + _SAME_VALUE),
        side="right",
    )
    return distinct[place - 1]


def _places(edges: Points, kinks: Kinks) -> Places:
    """Return the middles of the panels that resolve phi, but those beside a kink."""
    middles = (edges[:-1] + edges[1:]) / 2
    far = np.abs(middles[:, None] - kinks).min(axis=1, initial=np.inf)
    return middles[(np.abs(middles) < REACH) & (far > _BESIDE_KINK)]


def _is_even(slope: Slope, kinks: Kinks, places: Places) -> bool:
    """Tell whether phi'² takes equal values at ±z: by its kinks, and at many points.

    Args:
        slope: phi'(√q z).
        kinks: Its kinks.
        places: Points beside 1000 others, where it may bend on a scale of its own.
    """
    if not np.allclose(np.sort(kinks), np.sort(-kinks), rtol=1e-14, atol=0):
        return False
    # Not at places where people put kinks.
    z = REACH * (np.arange(1000) + 0.382) / 1000
    z = np.concatenate([z, places])
    left, right = slope(-z) ** 2, slope(z) ** 2
    difference = np.abs(left - right)
    return bool(np.all(difference <= 1e-14 * right.max()))


def _contour(
    series: Series, size: float
) -> tuple[ComplexPoints, ComplexPoints, list[float]]:
    """Return phi'² and weights on the contour of one stretch, and phi'² at its ends.

    Args:
        series: phi' on the stretch.
        size: The largest |phi'| of all stretches.
    """
    ends = np.array([series.edges[0], *_extrema(series, size), series.edges[-1]])
    abscissae, mass = np.polynomial.legendre.leggauss(_ORDER)
    nodes, weights = [], []
    for a, b in itertools.pairwise(ends):
        # phi'² is monotone between extrema, and its values there say which way it goes;
        # a derivative inside might be rounding.
        left, right = series(np.array([a, b])) ** 2
        is_open = (bool(a <= -REACH), bool(b >= REACH))
        x, height = _vertices(
            series,
            a,
            b,
            size=size,
            is_open=is_open,
        )
        vertices = x + 1j * (height if right < left else -height)
        column = vertices[:, None]
        start, stop = column[:-1], column[1:]
        middle = (stop + start) / 2
        half = (stop - start) / 2
        z = middle + half * abscissae
        nodes.append(_square_below_axis(series(z.ravel()), size))
        bell = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        weights.append((half * mass * bell).ravel())
    at_ends = series(ends)
    is_zero = np.abs(at_ends) < NOISE * size
    squares = np.where(is_zero, 0.0, at_ends) ** 2
    return np.concatenate(nodes), np.concatenate(weights), squares.tolist()


def _rule(stretches: list[Series], mass: float) -> Rule:
    """Return the Gauss rule of the continuous part, from nodes on the real axis.

    Args:
        stretches: phi' where it is not constant.
        mass: The mass of that part.
    """
    values, weights = [], []
    for series in stretches:
        z, inside = gauss(series.edges[:-1], series.edges[1:], order=_ORDER_OF_RULE)
        values.append(series(z.ravel()) ** 2)
        weights.append((inside * bell(z)).ravel())
    weight = np.concatenate(weights)
    weight *= mass / weight.sum()
    return gauss_rule(np.concatenate(values), weight, RULE_NODES)


def _square_below_axis(f: ComplexPoints, size: float) -> ComplexPoints:
    """Return f², on the lower side of the axis where rounding put it on the other.

    Where phi' nears its limit, f² is on the axis but for rounding.
    """
    square = f**2
    room = noise_off_axis(size) * np.abs(f)
    is_rounding = (square.imag >= 0) & (square.imag <= room)
    square.imag[is_rounding] = -0.0
    return square


def _extrema(series: Series, size: float) -> list[float]:
    """Return where phi'² has an extremum inside: zeros of phi' and of phi''."""
    from scipy.optimize import brentq

    left, width = series.edges[:-1], np.diff(series.edges)
    shares = (np.arange(_SIGNS) + 0.5) / _SIGNS
    x = (left[:, None] + width[:, None] * shares).ravel()
    of_slope = np.full(len(x), NOISE * size)
    # The derivative of a series multiplies its rounding by its degree.
    degree = len(series.coefficients) - 1
    of_bend = of_slope * degree / np.repeat(width, _SIGNS)
    found = []
    for f, noise in ((series, of_slope), (series.derivative, of_bend)):
        value = f(x)
        is_clear = np.abs(value) > noise
        places, sign = x[is_clear], np.sign(value[is_clear])
        for i in np.flatnonzero(sign[:-1] * sign[1:] < 0):
            root = brentq(
                lambda t, f=f: float(f(np.array([t]))[0]),
                places[i],
                places[i + 1],
            )
            found.append(float(root))  # pyright: ignore[reportArgumentType]
    return sorted(found)


def _vertices(
    series: Series,
    a: float,
    b: float,
    *,
    size: float,
    is_open: tuple[bool, bool],
) -> tuple[Points, Points]:
    """Return abscissae and heights of the contour between two extrema.

    They are graded towards the extrema; an end at the cut-off is open, and needs none.
    """
    is_open_a, is_open_b = is_open
    middle = (a + b) / 2
    if is_open_a:
        middle = a
    if is_open_b:
        middle = b
    forward, backward = [a], [b]
    if middle > a:
        forward = _graded(
            series,
            a,
            middle,
            size=size,
            is_open=is_open_a,
        )
    if middle < b:
        backward = _graded(
            series,
            b,
            middle,
            size=size,
            is_open=is_open_b,
        )
    is_inner = (series.edges > a) & (series.edges < b)
    x = np.unique(np.concatenate([forward, backward, series.edges[is_inner]]))
    widths = series.widths
    panel = np.searchsorted(series.edges, x, side="right")
    right = widths[np.clip(panel - 1, 0, len(widths) - 1)]
    left = widths[np.clip(panel - 2, 0, len(widths) - 1)]
    height = _OFF_AXIS * np.minimum(left, right)
    # At 45 degrees away from an extremum, so that phi'² leaves the axis.
    if not is_open_a:
        height = np.minimum(height, 0.5 * (x - a))
    if not is_open_b:
        height = np.minimum(height, 0.5 * (b - x))
    return x, height


def _graded(
    series: Series,
    start: float,
    stop: float,
    *,
    size: float,
    is_open: bool,
) -> list[float]:
    """Return points from an extremum outward, their distances doubling."""
    sign = 1 if stop > start else -1
    is_zero = abs(float(series(np.array([start]))[0])) < 1e-9 * size
    levels = _LEVELS_AT_ZERO if is_zero else _LEVELS
    if abs(start) > _FAR_OUT:
        levels = _LEVELS_FAR_OUT
    least = abs(stop - start) * 2.0**-levels
    # Lists and `bisect`, because a point at a time NumPy takes ten times as long.
    edges, widths = series.edges.tolist(), series.widths.tolist()
    search = bisect.bisect_right if sign > 0 else bisect.bisect_left
    points = [start]
    x = start
    while sign * (stop - x) > 0:
        panel = search(edges, x) - 1
        panel = min(max(panel, 0), len(widths) - 1)
        step = _SEGMENT * widths[panel]
        if not is_open:
            step = min(step, max(abs(x - start), least))
        x += sign * step
        points.append(x)
    points[-1] = stop
    return points


def _ends_beyond(
    phi: Activation,
    slope: Slope,
    series: Series,
) -> list[float]:
    """Return the least and largest phi'² beyond the cut-off.

    There is no mass to speak of, but the support ends there.

    Raises:
        NotDefined: phi' is unbounded.
    """
    top = float(np.max(np.abs(series.coefficients).sum(axis=0) ** 2))
    found = []
    for sign, end in ((-1, series.edges[0]), (1, series.edges[-1])):
        if abs(end) < REACH:
            continue
        with np.errstate(over="ignore"):
            f = slope(sign * _BEYOND)
            square = f**2
        # The last value is compared with that an octave before.
        if not square[-1] < _UNBOUNDED * square[-5] + top:
            raise NotDefined(
                f"phi' of {phi.name} is unbounded, so its law has no top edge; laws "
                "are given for bounded phi' only. theory.variance_coefficient gives "
                "the variance where that is finite."
            )
        changes_sign = f.min() < 0 < f.max()
        least = float(square.min())
        if changes_sign or least < _PASSES_ZERO * top:
            least = 0.0
        found += [least, float(square.max())]
    return found
