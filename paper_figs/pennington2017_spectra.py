"""At criticality free probability gives the whole spectrum of Jacobians at any depth.

Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, Fig. 2.

Densities of log₁₀ s at q* = 1/4 and depths from 2 to 128. Lines are the laws, marks are
histograms of networks of finite width, with two standard errors over draws. A triangle
is a point mass of the law, at the height that it has in the histogram. The numbers on
the left are the mass to the left of the axis in networks and by the law. It includes
zeros, which are half of the values with ReLU and orthogonal weights, and whatever
float64 does not resolve of a deep product. The paper shows each activation with both
kinds of weights; here each has one.

The check holds each spectrum against its law: every gap that `isometry.compare` judges
must lie within its 95 % interval over draws plus its term for finite width. Full: width
256, 10 draws.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import xarray
from jaxtyping import Float

import isometry
from isometry import theory
from isometry._internal.types import Key
from paper_figs import _densities, _draws, _style
from paper_figs._check import Compared, settled
from paper_figs._ensembles import largest_excess

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {"depths": (2, 8, 32, 128), "width": 256, "seeds": 10},
    "smoke": {"depths": (2, 8), "width": 64, "seeds": 10},
}

# An activation and the law of the weights, and the title of their panel.
TITLES = {
    "linear gaussian": "linear, Gaussian weights",
    "relu orthogonal": "ReLU, orthogonal weights",
    "hard_tanh orthogonal": "hard tanh, orthogonal weights",
    "tanh orthogonal": "tanh, orthogonal weights",
}
CASES = tuple(TITLES)
Q = 0.25

LOWEST, HIGHEST = -3, 1.5
# Bins ten times wider would hide the edges of the spectra; in bins ten times narrower
# there would be less than one value a draw.
EDGES = np.linspace(LOWEST, HIGHEST, 61)
# Where densities of the laws are computed: ten points a bin.
FINE = np.linspace(LOWEST, HIGHEST, 601)


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure ln s of networks, and compute the laws.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `log_s` over (case, depth, seed, index); `law_density`, the density of log₁₀ s
        by the law; and `law_atom`, the topmost point mass of the law as (lam, mass),
        of mass 0 where there is none.
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    depths = size["depths"]
    measured = [_measured(case, size, rng=rng) for case in CASES]
    laws = [[_law(case, depth) for depth in depths] for case in CASES]
    densities = [[_density(law) for law in row] for row in laws]
    atoms = [[_top_atom(law) for law in row] for row in laws]
    by_case = ("case", "depth")
    return xarray.Dataset(
        {
            "log_s": ((*by_case, "seed", "index"), np.array(measured)),
            "law_density": ((*by_case, "log10_s"), np.array(densities)),
            "law_atom": ((*by_case, "of_atom"), np.array(atoms)),
        },
        {
            "case": list(CASES),
            "depth": list(depths),
            "log10_s": FINE,
            "of_atom": ["lam", "mass"],
        },
    )


def _law(case: str, depth: int) -> theory.Law:
    """Return the law of as many layers."""
    activation, weights = case.split()
    return theory.jacobian_law(activation, depth, q=Q, weights=weights)


def _density(law: theory.Law) -> Float[np.ndarray, " grid"]:
    """Return the density of log₁₀ s."""
    # From one of ln s, which is the library's variable.
    per_decade = math.log(10)
    return np.asarray(law.density(FINE * per_decade, "log_s")) * per_decade


def _top_atom(law: theory.Law) -> tuple[float, float]:
    """Return the topmost point mass as (lam, mass); its mass is 0 if there is none."""
    # A point mass at zero has no place on a logarithmic axis.
    if law.atoms and law.atoms[-1].lam > 0:
        return law.atoms[-1]
    return (1.0, 0.0)


def _measured(
    case: str,
    size: dict,
    *,
    rng: np.random.Generator,
) -> Float[np.ndarray, "depths seeds n"]:
    """Return ln s of networks at every depth."""
    activation, weights = case.split()
    net = _draws.Critical(rng, activation, Q, count=size["seeds"], n=size["width"])
    by_net = _draws.at_depths(
        [net],
        weights,
        size["depths"],
        statistic=_draws.log_values,
    )
    return by_net[0]


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare spectra with their laws, and one with the law of other weights.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    depths = data.depth.values.tolist()
    rows = []
    for case in CASES:
        for depth in depths:
            worst = _worst(data, case, _law(case, depth))
            what = f"{case}, L = {depth}: largest gap over its band"
            rows.append(Compared(what, worst, high=1.0))
    # Orthogonal weights differ from Gaussian ones at each depth.
    of_gaussian = [
        _worst(data, "relu orthogonal", _law("relu gaussian", depth))
        for depth in depths
    ]
    what = "relu orthogonal against the Gaussian law: the same"
    rows.append(Compared(what, min(of_gaussian), low=1.0))
    return settled(rows)


def _worst(data: xarray.Dataset, case: str, law: theory.Law) -> float:
    """Return the largest gap to a law over its band."""
    depth = law.pairs
    assert depth is not None
    log_s = data.log_s.sel(case=case, depth=depth).values
    comparison = isometry.compare(_draws.spectrum(log_s, depth), law)
    return largest_excess(comparison)


def plot(data: xarray.Dataset) -> "Figure":
    """Draw densities at all depths, a panel for each case.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(2, 2, height=2.2, width=3.2, sharex=True, sharey=True)
    for ax, case in zip(axes.ravel(), CASES, strict=True):
        _draw_case(ax, data.sel(case=case), case)
    for ax in axes[-1]:
        ax.set_xlabel("log$_{10}$ s")
    for ax in axes[:, 0]:
        ax.set_ylabel("density of log$_{10}$ s")
    _style.legend(figure, axes[0, 0], ncols=4)
    return figure


def _draw_case(ax: "Axes", data: xarray.Dataset, case: str) -> None:
    """Draw the densities of one case at all depths."""
    for i, depth in enumerate(data.depth.values.tolist()):
        part = data.sel(depth=depth)
        log10_s = part.log_s.values / math.log(10)
        _densities.draw_values(ax, log10_s, EDGES, i=i, label=f"L = {depth}")
        _densities.draw_law(ax, FINE, part.law_density.values, i=i)
        lam, mass = part.law_atom.values
        if mass > 0:
            place = np.log10(lam) / 2
            _densities.draw_atom(ax, place, mass, edges=EDGES, i=i)
        _draw_mass_below(ax, log10_s, _law(case, depth), i=i)
    ax.set(
        title=TITLES[case],
        yscale="log",
        ylim=(0.005, 60),
        xlim=(LOWEST, HIGHEST),
    )
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)


def _draw_mass_below(
    ax: "Axes",
    log10_s: Float[np.ndarray, "seeds n"],
    law: theory.Law,
    *,
    i: int,
) -> None:
    """Write the mass to the left of the axis, in networks and by the law."""
    # What float64 does not resolve of a product lies below 1e-9, and so is counted
    # here.
    measured = np.mean(log10_s < LOWEST)
    predicted = law.cdf(LOWEST * math.log(10), "log_s")
    ax.text(
        0.02,
        0.94 - 0.08 * i,
        f"◂ {measured:.3f}, law {predicted:.3f}",
        color=_style.COLOURS[i],
        fontsize=6,
        va="center",
        transform=ax.transAxes,
    )
