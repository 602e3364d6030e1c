"""What a notebook shows of a law: edges, atoms and moments, and its density."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from isometry._internal import numerals, svg
from isometry._internal.html import Html, element, note, notebook, table
from isometry.theory.laws._product import NotConverged

if TYPE_CHECKING:
    from isometry.theory.laws._law import Law

_LN10 = math.log(10)

# Points of the density: as many as half of the pixels across the picture.
_POINTS = 160

# The lowest quantile of s that is drawn, for a density that reaches zero. With ten
# times less, its lower end takes most of the panel.
_LOWEST = 0.01

# Decades beside the density.
_MARGIN = 0.1

# The height of the panel, in units of this quantile of the density. It may diverge at
# an edge, and the panel is to show the rest of it.
_HIGH = 0.98


def show(law: "Law") -> str:
    """Return the HTML of a law."""
    rows = [
        ("density of λ = s² on", _or_why(lambda: _intervals(law))),
        ("atoms", _or_why(lambda: _atoms(law))),
        ("largest s", _or_why(lambda: f"{law.s_max:.6g}")),
        ("E λ", _or_why(lambda: f"{law.moment(1):.6g}")),
        ("Var λ", _or_why(lambda: f"{law.variance:.6g}")),
        ("E ln λ", _or_why(lambda: f"{law.mean_log_lam:.6g}")),
    ]
    try:
        drawn = picture(law)
    except NotConverged as error:
        drawn = note(f"not drawn: {error}")
    return notebook(f"Law: {law.name}", table((), rows), drawn)


def _intervals(law: "Law") -> str:
    intervals = [f"[{low:.6g}, {high:.6g}]" for low, high in law.support]
    return ", ".join(intervals) or "no interval"


def _atoms(law: "Law") -> str:
    atoms = [f"{atom.mass:.6g} at λ = {atom.lam:.6g}" for atom in law.atoms]
    return ", ".join(atoms) or "none"


def _or_why(compute: Callable[[], str]) -> str:
    """Return what is computed, or why it could not be."""
    try:
        return compute()
    except NotConverged as error:
        return f"unknown: {error}"


def picture(law: "Law") -> Html:
    """Return the density of log10 s, with a stem for each atom off zero.

    Raises:
        NotConverged: The law misses its residual.
    """
    places = [math.log10(atom.lam) / 2 for atom in law.atoms if atom.lam > 0]
    low = float(np.asarray(law.quantile(law.zero_mass + _LOWEST, "log_s"))) / _LN10
    high = -math.inf
    if law.s_max > 0:
        high = math.log10(law.s_max)
    is_drawable = math.isfinite(low) and math.isfinite(high)
    if not is_drawable:
        return note("no picture: the law leaves the range of float64")
    low, high = min([low, *places]) - _MARGIN, max([high, *places]) + _MARGIN
    x = np.linspace(low, high, _POINTS)
    density = np.asarray(law.density(x * _LN10, "log_s")) * _LN10
    top = max(1.05 * float(np.quantile(density, _HIGH)), 1e-9)
    panel = svg.Panel(x=(low, high), y=(0.0, top), masses=zeros(law, svg.colour(0)))
    stems = [
        panel.stem(place, top, stroke=svg.colour(1), stroke_width="2")
        for place in places
    ]
    drawn = panel.drawn(
        panel.line(x, density, stroke=svg.colour(0), stroke_width="1.5"),
        panel.beyond(x, density > top),
        *stems,
        title="density of the law, over a logarithmic axis",
        x_label="s",
        x_ticks=svg.decades(low, high),
    )
    return element("div", drawn)


def zeros(law: "Law", colour: str) -> tuple[svg.Mass, ...]:
    """Return a bar of the mass at zero, if there is any."""
    if not law.zero_mass:
        return ()
    words = f"zeros {numerals.percent(law.zero_mass)}"
    return (svg.Mass(words, share=law.zero_mass, colour=colour, is_solid=True),)
