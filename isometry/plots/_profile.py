"""Picture `profile`: how the spectrum builds up with depth."""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from isometry._internal.errors import public
from isometry.plots._axis import LN10
from isometry.plots._style import (
    COLOURS,
    LEGEND_ABOVE,
    name_points,
    new_figure,
    require_fields,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from isometry.measure._profile import Profile
    from isometry.measure._record import Spectrum

# The fields of a profile that are drawn.
_FIELDS = ("points", "toward", "spectra")

# Levels of the quantiles that are drawn: two bands of 90 and 50 %, and the median.
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)

_TITLES = {
    "output": "from each point to the output",
    "input": "from the input to each point",
    "next": "from each point to the next",
}


@public("plots.profile")
def profile(profile: "Profile") -> "Figure":
    """Draw the spectra of a network from point to point.

    The abscissa of both panels is the points in order. The upper panel has quantiles of
    log10 s over the resolved values of all seeds and inputs (bands of 90 and 50 %, and
    the median), the largest value, and the root mean square of all values. The lower
    panel has the share of zeros, exact or too small to tell from zero. Statistics that
    a spectrum does not determine ("lanczos") are left out.

    Args:
        profile: What `isometry.profile` measured: `points`, `toward`, and `spectra` by
            the name of the point.

    Returns:
        A figure.

    Raises:
        InputError: `profile` lacks one of these fields.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> from types import SimpleNamespace
        >>> names = ("layers/0", "layers/1")
        >>> spectra = {
        ...     name: isometry.Spectrum.of_jacobians(np.diag([scale, 1.0, 0.0]))
        ...     for name, scale in zip(names, (4.0, 2.0))}
        >>> measured = SimpleNamespace(points=names, toward="output", spectra=spectra)
        >>> above, below = plots.profile(measured).axes
        >>> below.get_ylabel()
        'zeros, %'
    """
    require_fields("profile", profile, kind="Profile", fields=_FIELDS)
    points = list(profile.points)
    spectra = [profile.spectra[name] for name in points]
    figure = new_figure((6.4, 4.6))
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    _draw_values(above, spectra)
    _draw_zeros(below, spectra)
    name_points(below, points)
    below.set_xlabel(_TITLES.get(profile.toward, profile.toward))
    return figure


def _draw_values(ax: "Axes", spectra: list["Spectrum"]) -> None:
    """Draw quantiles, the largest value and the root mean square at each point."""
    x = np.arange(len(spectra))
    quantiles = np.stack([_quantiles(sp) for sp in spectra], -1)
    # A quadrature has no quantiles.
    if np.isfinite(quantiles).any():
        lowest, low, median, high, highest = quantiles
        band = {"color": COLOURS[0], "lw": 0}
        ax.fill_between(x, lowest, highest, alpha=0.15, label="90 %", **band)
        ax.fill_between(x, low, high, alpha=0.3, label="50 %", **band)
        ax.plot(
            x,
            median,
            color=COLOURS[0],
            marker="o",
            ms=3,
            lw=1.4,
            label="median",
        )
    largest = [_mean(sp.quantile(1.0, "log_s")) / LN10 for sp in spectra]
    ax.plot(
        x,
        largest,
        color=COLOURS[1],
        marker="^",
        ms=3,
        lw=1,
        label="largest",
    )
    root_mean_square = [_log_root_mean_square(sp) for sp in spectra]
    ax.plot(
        x,
        root_mean_square,
        color="black",
        marker="s",
        ms=3,
        lw=1,
        ls="--",
        label="root mean square",
    )
    # Isometry, s = 1.
    ax.axhline(0, color="0.4", ls=":", lw=0.9)
    ax.set_ylabel("log$_{10}$ s")
    ax.legend(ncols=5, fontsize=7, **LEGEND_ABOVE)


def _draw_zeros(ax: "Axes", spectra: list["Spectrum"]) -> None:
    """Draw the share of zeros at each point: of all, and of those that are exact."""
    x = np.arange(len(spectra))
    # Narrow bars in front of wide ones, because exact zeros are a part of all zeros.
    zeros = [100 * _mean(sp.zero_fraction()) for sp in spectra]
    exact = [100 * _mean(sp.zero_fraction(exact=True)) for sp in spectra]
    if not np.isfinite(zeros).any():
        ax.text(0.5, 0.5, "not known", transform=ax.transAxes, ha="center")
    ax.bar(x, zeros, 0.7, color=COLOURS[5], label="not resolved or zero")
    ax.bar(x, exact, 0.4, color=COLOURS[0], label="exactly zero")
    ax.set_ylabel("zeros, %")
    highest = np.nanmax([*zeros, 0.0])
    # Room for the legend above the bars.
    ax.set_ylim(0, max(1.6 * highest, 1.0))
    ax.legend(ncols=2, fontsize=7, loc="upper left", frameon=False)


def _mean(values: ArrayLike) -> float:
    """Return the mean over all matrices."""
    return float(np.mean(np.asarray(values, float)))


def _quantiles(sp: "Spectrum") -> np.ndarray:
    """Return quantiles of log10 s over the resolved values of all matrices.

    They are NaN if there are none.
    """
    # The nodes of a quadrature are not singular values.
    if sp.quadrature is not None:
        return np.full(len(_LEVELS), np.nan)
    is_resolved = np.asarray(sp.resolved)
    logs = np.asarray(sp.log_values, float)[is_resolved]
    if not logs.size:
        return np.full(len(_LEVELS), np.nan)
    return np.quantile(logs, _LEVELS) / LN10


def _log_root_mean_square(sp: "Spectrum") -> float:
    """Return log10 of √E s² over all matrices, without overflow at any depth."""
    # Relative to the largest, so that no power overflows.
    logs = np.asarray(sp.log_values, float)
    top = logs.max()
    if not math.isfinite(top):
        return math.nan
    weights = np.asarray(sp.weights, float)
    relative = np.exp(2 * (logs - top))
    mean_square = np.sum(weights * relative, -1).mean()
    log_root = top + np.log(mean_square) / 2
    return float(log_root / LN10)
