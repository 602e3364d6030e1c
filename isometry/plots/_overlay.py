"""Picture `overlay`: a measured spectrum with the predicted density."""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import public
from isometry.comparison._atoms import at_atoms, mass_below_floor, window
from isometry.comparison._matching import require_match
from isometry.measure._record import Spectrum
from isometry.plots._atoms import separate
from isometry.plots._axis import LEAST_RANGE, Axis, log_floor, smooth_density
from isometry.plots._style import (
    COLOURS,
    LEGEND_ABOVE,
    SMALL,
    Edges,
    Line,
    axes_of_its_own,
    require_bins,
)
from isometry.theory import Law

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Share of the mass at the low end that may be left of the axis. With ten times more the
# lower edge of the support would be cut off; with ten times less a few small values
# would push all others into a corner.
TAIL = 1e-3

# In units of the length of the axis: the width of the bar of an atom, and the distance
# from the lowest bin to the bars of the atom at zero.
_BAR = 0.022
_ZERO_BAR = 0.07

# The distance between two pairs of bars left of the bins, in units of the width of a
# bar: enough for a line of text.
_PAIR = 4.5

# In ln s: far above the rounding of an atom's place, far below the width of a bin.
_ROUNDING = 1e-9

# Empty space beside the data, in units of its length: enough for the bars of an atom at
# its end.
_MARGIN = 0.05

# Points of a line: more than a screen has across a figure.
_POINTS = 801


@public("plots.overlay")
def overlay(
    spectrum: Spectrum,
    law: Law,
    ax: "Axes | None" = None,
    *,
    variable: str = "s",
    scale: str = "log",
    bins: int | ArrayLike = 40,
) -> "Axes":
    """Draw a measured spectrum (bars) and the predicted density (line).

    Both are densities of total mass 1; all matrices of the spectrum are pooled. Atoms
    are pairs of bars, measured and predicted, whose height is their mass on a second
    axis at the right. The atom at 0 is left of the dashed line, and includes all values
    that the measurement does not resolve. Further left is a pair for all that is
    resolved but outside the bins, below or above, if it is more than a thousandth of
    the mass. Bins start at the highest floor of any matrix, below which others may
    resolve more. Dotted lines are the edges of the support. What is below that floor
    is shaded.

    For a quadrature ("lanczos") its smooth density is drawn instead of bars, with the
    95 % band over probes. It cannot separate atoms, so only predicted ones are drawn.

    Args:
        spectrum: What was measured.
        law: The law, of the same span and number of pairs.
        ax: The Axes to draw on; None for one in a new figure, `ax.figure`.
        variable: "s" or "lam".
        scale: "log", density over log10, or "linear".
        bins: The number of bins, or their edges in the units of the axis.

    Returns:
        The Axes.

    Raises:
        InputError: The spectrum and the law are not of the same span; `variable`,
            `scale` or `bins` is not one of these.
        MissingExtra: matplotlib is not installed.
        TypeError: The spectrum is traced.

    Example:
        >>> net = networks.mlp([32] * 6, "tanh", "orthogonal")
        >>> xs = data.gaussian(jax.random.key(1), 3, 32).xs
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> sp = isometry.ensemble(net, keys, xs, span="hidden")
        >>> ax = plots.overlay(sp, net.law("hidden", xs))
        >>> ax.get_ylabel()
        'density'
    """
    checks.on_host("spectrum", spectrum)
    require_bins(bins)
    require_match(spectrum, law)
    checks.one_of("variable", variable, ("s", "lam"))
    checks.one_of("scale", scale, ("log", "linear"))
    ax = axes_of_its_own(ax)
    axis = Axis(variable, scale)
    edges = np.asarray(bins, float)
    if np.ndim(bins) == 0:
        edges = _edges(spectrum, law, axis=axis, bins=int(edges))
    if spectrum.quadrature is None:
        tallest = _draw_values(ax, spectrum, law, axis=axis, edges=edges)
    else:
        tallest = _draw_quadrature(ax, spectrum, axis=axis, edges=edges)
    _draw_law(ax, law, axis, edges=edges, tallest=tallest)
    _shade_floor(ax, spectrum, axis=axis, edges=edges)
    _draw_atoms(ax, spectrum, law, axis=axis, edges=edges)
    ax.set_xlabel(axis.label)
    ax.set_ylabel("density")
    # Last, when everything has its label.
    ax.legend(ncols=2, fontsize=7, **LEGEND_ABOVE)
    return ax


def _edges(sp: Spectrum, law: Law, *, axis: Axis, bins: int) -> Edges:
    """Return the edges of bins over all resolved values and the support of the law.

    The lowest thousandth of the values, and of the law's mass, is left out.
    """
    resolved = np.asarray(sp.log_values)[np.asarray(sp.resolved)]
    nonzero_mass = 1 - sum(atom.mass for atom in law.atoms if atom.lam == 0)
    lowest_level = 1 - nonzero_mass + TAIL * nonzero_mass
    ends = np.asarray(law.quantile([lowest_level, 1.0], "log_s")).tolist()
    if resolved.size:
        # Interpolation would exclude the smallest value where there are few.
        ends.append(float(np.quantile(resolved, TAIL, method="lower")))
        ends.append(float(resolved.max()))
    low = axis.place(max(min(ends), log_floor(sp)))
    high = axis.place(max(ends))
    if not axis.is_log:
        return np.linspace(0.0, (1 + _MARGIN) * high, bins + 1)
    margin = _MARGIN * (high - low)
    # Of an isometry all values are the same, up to rounding.
    if high - low < LEAST_RANGE:
        margin = 0.1
    return np.linspace(low - margin, high + margin, bins + 1)


def _inside(edges: Edges) -> Line:
    """Return x between the first and the last edge of bins, for the curves."""
    points = np.linspace(edges[0], edges[-1], _POINTS)
    return points[1:-1]


def _off_atoms(sp: Spectrum, law: Law, axis: Axis) -> tuple[Line, Line]:
    """Return the resolved values outside atoms, on the axis, and the mass of each."""
    is_off = np.asarray(sp.resolved) & ~at_atoms(sp, law)
    x = axis.place(np.asarray(sp.log_values, float)[is_off])
    count = math.prod(sp.log_values.shape[:-1])
    return x, np.asarray(sp.weights, float)[is_off] / count


def _draw_values(
    ax: "Axes",
    sp: Spectrum,
    law: Law,
    *,
    axis: Axis,
    edges: Edges,
) -> float:
    """Draw a histogram of the resolved values outside atoms.

    Returns:
        The height of its highest bar.
    """
    x, mass = _off_atoms(sp, law, axis)
    # Each bar is a density: its mass over its width.
    in_bins = np.histogram(x, edges, weights=mass)[0]
    heights = in_bins / np.diff(edges)
    ax.stairs(heights, edges, fill=True, color=COLOURS[5], alpha=0.6, label="measured")
    return float(heights.max(initial=0))


def _draw_quadrature(
    ax: "Axes",
    sp: Spectrum,
    *,
    axis: Axis,
    edges: Edges,
) -> float:
    """Draw the smooth density above the floor.

    Returns:
        A height that 98 % of the density stays below.
    """
    x = _inside(edges)
    # Below the floor, only the total mass of the density means something.
    x = x[x >= axis.place(log_floor(sp))]
    band = smooth_density(sp, axis, x)
    ax.plot(x, band.mean, color=COLOURS[0], lw=1.2, label="measured, smooth")
    ax.fill_between(
        x,
        band.low,
        band.high,
        color=COLOURS[5],
        alpha=0.6,
        lw=0,
        label="95 % over probes",
    )
    # An atom becomes a narrow bump, which would flatten everything else.
    return float(np.quantile(band.high, 0.98))


def _draw_law(
    ax: "Axes",
    law: Law,
    axis: Axis,
    *,
    edges: Edges,
    tallest: float,
) -> None:
    """Draw the density of the law, and the edges of its support.

    Args:
        ax: The Axes.
        law: The law.
        axis: Its horizontal axis.
        edges: The bins of the measured spectrum.
        tallest: The height of what is drawn of the measured spectrum.
    """
    x = _inside(edges)
    line = axis.law_density(law, x)
    ax.plot(x, line, color="black", lw=1.2, label="predicted")
    # A density that diverges at an edge would flatten everything else.
    top = max(tallest, float(np.quantile(line, 0.98)))
    # If nothing is drawn, the axis needs a height nevertheless.
    ax.set_ylim(0, 1.1 * top or 1.0)
    ax.set_xlim(edges[0], edges[-1])
    ends = np.array([end for band in law.support for end in band])
    with np.errstate(divide="ignore"):
        places = axis.place(np.log(ends) / 2)
    is_inside = (places > edges[0]) & (places < edges[-1])
    # One entry in the legend serves all lines.
    label = "edge of the support"
    for place in places[is_inside]:
        ax.axvline(place, color="black", ls=":", lw=0.8, label=label)
        label = None


def _shade_floor(
    ax: "Axes",
    sp: Spectrum,
    *,
    axis: Axis,
    edges: Edges,
) -> None:
    """Shade the singular values below the highest rounding floor of any matrix.

    For a quadrature, those below the resolution of its smooth density. Nothing is
    shaded if the axis does not reach so far down.
    """
    floor = float(axis.place(log_floor(sp)))
    label = "below the floor"
    if sp.quadrature is not None:
        label = "not resolved"
    length = edges[-1] - edges[0]
    # A narrower band would be hidden by the frame.
    if floor > edges[0] + 0.005 * length:
        ax.axvspan(edges[0], floor, color="0.85", lw=0, zorder=0, label=label)


def _atoms(sp: Spectrum, law: Law) -> tuple[dict[float, float], dict[float, float]]:
    """Return the masses of atoms by their λ: the measured and the predicted ones."""
    predicted = {atom.lam: atom.mass for atom in law.atoms}
    if sp.quadrature is not None:
        return {}, predicted
    measured_at_zero = float(np.mean(np.asarray(sp.zero_fraction())))
    # What is not resolved counts as zero, in the law as in the measurement.
    predicted_at_zero = float(np.mean(mass_below_floor(sp, law)))
    # An atom has at least the mass of half a singular value.
    if not predicted and max(measured_at_zero, predicted_at_zero) < 0.5 / sp.size:
        return {}, {}
    predicted[0.0] = predicted_at_zero
    measured = {0.0: measured_at_zero}
    weights = np.asarray(sp.weights, float)
    log_lam = 2 * np.asarray(sp.log_values, float)
    log_lam = np.where(at_atoms(sp, law), log_lam, np.nan)
    for lam in predicted:
        if lam > 0:
            is_near = np.abs(log_lam - math.log(lam)) <= window(sp, law)
            mass = np.sum(weights, -1, where=is_near)
            measured[lam] = float(mass.mean())
    return measured, predicted


def _draw_atoms(
    ax: "Axes",
    sp: Spectrum,
    law: Law,
    *,
    axis: Axis,
    edges: Edges,
) -> None:
    """Draw masses of atoms, and outside the bins, measured beside predicted."""
    by_lam = _atoms(sp, law)
    at_zero = max(masses.get(0.0, 0.0) for masses in by_lam)
    measured, predicted = (_by_place(masses, axis, edges) for masses in by_lam)
    outside = _outside(sp, law, axis=axis, edges=edges)
    is_outside_drawn = max(outside) > TAIL
    width = _BAR * float(edges[-1] - edges[0])
    zero = _place_of_zero(edges)
    place_outside = zero
    if at_zero > 0:
        place_outside -= _PAIR * width
    if is_outside_drawn:
        measured[place_outside], predicted[place_outside] = outside
    if not predicted:
        return
    right = ax.twinx()
    right.set_ylabel("mass of atoms")
    highest = max(*measured.values(), *predicted.values(), 1e-3)
    right.set_ylim(0, 1.15 * highest)
    bars = (
        (measured, -0.5, COLOURS[0], "atom, measured"),
        (predicted, 0.5, COLOURS[1], "atom, predicted"),
    )
    for masses, side, colour, label in bars:
        # A quadrature measures no atoms.
        if not masses:
            continue
        x = [place + side * width for place in masses]
        right.bar(x, list(masses.values()), width, color=colour)
        # An empty bar for the legend, which must belong to the axes on the left.
        ax.bar(0, 0, 0, color=colour, label=label)
    if at_zero > 0:
        ax.set_xlim(left=zero - 3 * width)
        right.text(zero, at_zero, "0", ha="center", va="bottom", fontsize=8)
    if is_outside_drawn:
        ax.set_xlim(left=place_outside - _PAIR * width)
        _label_outside(right, place_outside - 1.3 * width)
    if at_zero > 0 or is_outside_drawn:
        separate(right, (zero + width + edges[0]) / 2)


def _label_outside(ax: "Axes", place: float) -> None:
    """Label the pair of bars that shows the mass outside the bins."""
    # These bars also count mass that is not in atoms.
    ax.set_ylabel("mass")
    ax.text(
        place,
        0.03,
        "outside the bins",
        transform=ax.get_xaxis_transform(),
        fontsize=SMALL,
        rotation=90,
        ha="right",
        va="bottom",
    )


def _by_place(
    masses: dict[float, float], axis: Axis, edges: Edges
) -> dict[float, float]:
    """Return the masses of the atoms in the bins, and at zero, by where they are."""
    by_place = {}
    for lam, mass in masses.items():
        if lam == 0:
            by_place[_place_of_zero(edges)] = mass
        elif _is_in_bins(lam, axis, edges):
            by_place[float(axis.place(math.log(lam) / 2))] = mass
    return by_place


def _place_of_zero(edges: Edges) -> float:
    """Return where the bars of the atom at zero are."""
    return float(edges[0] - _ZERO_BAR * (edges[-1] - edges[0]))


def _outside(
    sp: Spectrum,
    law: Law,
    *,
    axis: Axis,
    edges: Edges,
) -> tuple[float, float]:
    """Return the resolved mass outside the bins: the measured and the predicted one.

    Of a quadrature it is not known, and 0 is returned.
    """
    if sp.quadrature is not None:
        return 0.0, 0.0
    x, mass = _off_atoms(sp, law, axis)
    is_outside = (x < edges[0]) | (x > edges[-1])
    measured = float(mass.sum(where=is_outside))
    measured_atoms, _ = _atoms(sp, law)
    for lam, mass_of_atom in measured_atoms.items():
        if lam > 0 and not _is_in_bins(lam, axis, edges):
            measured += mass_of_atom
    # An atom at an edge is in the bins, whatever rounding did to its place.
    low, high = axis.log_s(edges[[0, -1]]) + np.array([-1, 1]) * _ROUNDING
    below_floor = mass_below_floor(sp, law)
    # What is below the floor of a matrix counts as zero, wherever the bins are.
    below_bins = np.maximum(law.cdf(low, "log_s") - below_floor, 0)
    above_bins = np.minimum(law.survival(high, "log_s"), 1 - below_floor)
    return measured, float(np.mean(below_bins + above_bins))


def _is_in_bins(lam: float, axis: Axis, edges: Edges) -> bool:
    """Tell whether an atom is between the first and the last edge."""
    low, high = axis.log_s(edges[[0, -1]])
    return bool(low - _ROUNDING <= math.log(lam) / 2 <= high + _ROUNDING)
