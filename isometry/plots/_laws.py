"""Picture `laws`: predicted densities beside each other."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from isometry._internal.errors import public
from isometry.plots._axis import Axis
from isometry.plots._overlay import TAIL
from isometry.plots._style import (
    LEGEND_ABOVE,
    colour,
    literal,
    mark,
    new_figure,
    require_named,
)
from isometry.theory import Law

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", "--", "-.")

# The fields of a law that are drawn.
_FIELDS = ("density", "quantile", "atoms", "zero_mass")

# Points of a line: more than a screen has across the figure.
_POINTS = 600


@public("plots.laws")
def laws(named: Mapping[str, Law]) -> "Figure":
    """Draw predicted densities of log10 s, a line for each law.

    Atoms are stems, as high as their mass on a second axis at the right. The lowest
    thousandth of the mass of each continuous part is left out.

    Args:
        named: Laws by the name of their line.

    Returns:
        A figure.

    Raises:
        InputError: `named` is empty, or holds something that is not a law.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> figure = plots.laws({"one layer": theory.fuss_catalan(1)})
        >>> figure.axes[0].get_ylabel()
        'density'
    """
    require_named("named", named, kind="Law", fields=_FIELDS)
    figure = new_figure((4.4, 3.0))
    ax = figure.add_subplot()
    axis = Axis("s", "log")
    # The mass of an atom is no density, so atoms get an axis of their own.
    stems = []
    for index, (name, law) in enumerate(named.items()):
        rank = 1 - law.zero_mass
        label = literal(name)
        if rank < 1:
            label = f"{label} (at 0: {1 - rank:.3g})"
        ends = np.asarray(law.quantile([1 - rank * (1 - TAIL), 1.0], "log_s"))
        x = np.linspace(axis.place(ends[0]), axis.place(ends[1]), _POINTS)
        ax.plot(
            x,
            axis.law_density(law, x),
            color=colour(index),
            lw=1.3,
            ls=_DASHES[index % len(_DASHES)],
            label=label,
        )
        for atom in law.atoms:
            if atom.lam > 0:
                place = axis.place(math.log(atom.lam) / 2)
                stems.append((place, atom.mass, index))
    if stems:
        _draw_stems(ax, stems)
    ax.set_xlabel(axis.label)
    ax.set_ylabel("density")
    ax.set_ylim(bottom=0)
    ax.legend(ncols=2, fontsize=8, **LEGEND_ABOVE)
    return figure


def _draw_stems(ax: "Axes", stems: list[tuple[float, float, int]]) -> None:
    """Draw (place, mass, index of the law) of each atom."""
    right = ax.twinx()
    right.set_ylabel("mass of atoms")
    right.set_ylim(0, 1.15 * max(mass for _, mass, _ in stems))
    for place, mass, index in stems:
        right.plot(
            [place, place],
            [0, mass],
            color=colour(index),
            lw=2,
            marker=mark(index),
            markevery=[1],
        )
