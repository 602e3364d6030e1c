"""What the figures share that hold ensembles of networks against theory."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy import stats

import isometry
from isometry import Comparison, Spectrum
from isometry._internal.types import Key
from isometry.networks import Network
from paper_figs import _style
from paper_figs._check import Compared, largest

# Variables of a dataset by name, each with its dimensions.
Variables: TypeAlias = dict[str, tuple[str | tuple[str, ...], ArrayLike]]


class Estimate(NamedTuple):
    """A number with its standard error, or an array of them.

    Attributes:
        value: The numbers.
        error: Their standard errors.
    """

    value: xarray.DataArray
    error: xarray.DataArray

    def at(self, **where: str | float) -> "Estimate":
        """Return the part with these labels.

        Args:
            **where: The label on each axis.
        """
        return Estimate(self.value.sel(where), self.error.sel(where))

    def part(self, **where: int | list[int] | slice) -> "Estimate":
        """Return the part with these indices.

        Args:
            **where: The index on each axis, or several.
        """
        return Estimate(self.value.isel(where), self.error.isel(where))

    def log(self) -> "Estimate":
        """Return the logarithm; to first order its error is the relative error."""
        log = xarray.apply_ufunc(np.log, self.value)
        return Estimate(log, self.error / self.value)

    def exp(self) -> "Estimate":
        """Return the exponential, the inverse of `log`."""
        value = xarray.apply_ufunc(np.exp, self.value)
        return Estimate(value, value * self.error)

    def per(self, count: float) -> "Estimate":
        """Return the numbers over a count or a scale.

        Args:
            count: What they are divided by.
        """
        return Estimate(self.value / count, self.error / count)

    def gap(self, wanted: ArrayLike | xarray.DataArray) -> xarray.DataArray:
        """Return how many standard errors the numbers are off.

        Args:
            wanted: What they should be.
        """
        return abs(self.value - wanted) / self.error

    def extrapolated(self) -> "Estimate":
        """Return the numbers at infinite width, of those at widths N and 2N.

        What is left of order 1/N cancels in 2 v(2N) − v(N). The two widths are the axis
        "scale".
        """
        narrow = self.part(scale=0)
        wide = self.part(scale=1)
        value = 2 * wide.value - narrow.value
        square = 4 * wide.error**2 + narrow.error**2
        return Estimate(value, square**0.5)

    def draw(
        self,
        ax: Axes,
        x: ArrayLike,
        i: int,
        *,
        label: str,
        **style: str | float,
    ) -> None:
        """Draw the numbers as marks with bars of two standard errors.

        Args:
            ax: The axes.
            x: The x coordinates.
            i: The number of the series, which chooses its mark and colour.
            label: The name of the series in the legend.
            **style: Passed to `Axes.errorbar`, over what is chosen here.
        """
        bars = 2 * self.error
        _style.dots(ax, x, self.value, error=bars, i=i, label=label, **style)

    def draw_with_line(
        self,
        ax: Axes,
        x: ArrayLike,
        i: int,
        *,
        predicted: ArrayLike | xarray.DataArray,
        label: str,
    ) -> None:
        """Draw the numbers as marks, and the prediction as a line of the same colour.

        Args:
            ax: The axes.
            x: The x coordinates.
            i: The number of the series, which chooses its mark and colour.
            predicted: The prediction at `x`.
            label: The name of the series in the legend.
        """
        self.draw(ax, x, i, label=label)
        _style.line(ax, x, predicted, i=i)


def mean(values: xarray.DataArray, axis: str = "draw") -> Estimate:
    """Return means over draws.

    Args:
        values: Numbers of single draws.
        axis: The axis of the draws.
    """
    # A draw that is NaN makes the mean NaN: skipped, a network that diverged would be
    # overlooked.
    deviation = values.std(axis, ddof=1, skipna=False)
    error = deviation / math.sqrt(values.sizes[axis])
    return Estimate(values.mean(axis, skipna=False), error)


def log_ratio(first: xarray.DataArray, second: xarray.DataArray) -> Estimate:
    """Return the logarithm of the ratio of two means over the same draws.

    Args:
        first: Numbers of single draws.
        second: Other numbers of the same draws.
    """
    first_mean = first.mean("draw", skipna=False)
    second_mean = second.mean("draw", skipna=False)
    ratio = first_mean / second_mean
    log = xarray.apply_ufunc(np.log, ratio)
    # To first order it moves with the mean of these deviations, which vanishes. Draws
    # with a large first number have a large second one, so that errors do not add.
    relative = first / first_mean - second / second_mean
    return Estimate(log, mean(relative).error)


def typical_input(width: int, scale: float = 1.0) -> Float[np.ndarray, "1 width"]:
    """Return one input whose entries are equally spaced quantiles of a Gaussian.

    A random draw would have an imbalance of signs of order 1/√width. All networks of an
    ensemble would share it, so that averages over them would not remove it.

    Args:
        width: The number of entries, which are in ascending order.
        scale: Their root mean square.
    """
    ranks = (np.arange(width) + 0.5) / width
    units = stats.norm.ppf(ranks)
    units = units * scale / np.sqrt(np.mean(units**2))
    return units[None].astype(np.float32)


def squared_values(sp: Spectrum) -> Float[np.ndarray, "draw rank"]:
    """Return s² of single draws at one input, the largest first.

    Args:
        sp: A spectrum over draws and one input.
    """
    log_values = np.asarray(sp.log_values, np.float64)
    return np.exp(2 * log_values[:, 0])


def largest_excess(comparison: Comparison) -> float:
    """Return the largest gap between a spectrum and a law over its band.

    Args:
        comparison: What `isometry.compare` returned.

    Returns:
        Up to 1 where they are consistent.
    """
    excesses = []
    for name, gap in comparison.gaps.items():
        band = comparison.band[name]
        excesses.append(band.excess(gap))
    return max(excesses)


def rows_of_gaps(gaps: xarray.DataArray, axis: str, what: str) -> list[Compared]:
    """Return a comparison for each label of an axis: its largest gap is at most 1.

    Args:
        gaps: How far measured numbers are from theory, over what is allowed.
        axis: The axis of the kinds of networks.
        what: What is measured.
    """
    rows = []
    # A gap of 1 is as far as chance takes the largest of them all.
    for name in gaps[axis].values:
        gap = largest(gaps.sel({axis: name}))
        words = f"{name}: {what}, largest gap over its interval"
        rows.append(Compared(words, gap, high=1.0))
    return rows


def power(log_values: ArrayLike, depths: tuple[int, int]) -> float:
    """Return the exponent p of a quantity ∝ depth^p, from two depths.

    Args:
        log_values: Natural logarithms of the quantity at the two depths.
        depths: The depths.
    """
    shallow, deep = np.asarray(log_values)
    log_depth_ratio = math.log(depths[1] / depths[0])
    return float((deep - shallow) / log_depth_ratio)


def behind_blocks(count: int) -> list[str]:
    """Return the names of the stream behind each block of a residual network.

    Args:
        count: The number of blocks.
    """
    return [f"blocks/first[{block}]:sum" for block in range(count)]


def squared_gradients(
    net: Network,
    keys: Key,
    xs: ArrayLike,
    *,
    names: Sequence[str],
) -> Float[np.ndarray, "draw point"]:
    """Measure |∂output/∂h|² over the outputs at points of single draws.

    Args:
        net: The network.
        keys: A key for each draw.
        xs: One input, or one batch of a network in training.
        names: The points.
    """
    signals = isometry.signals(net, keys, xs)
    # Over (draw, input); there is one input.
    by_point = [signals.at(name).apjn[:, 0] for name in names]
    return np.array(by_point, np.float64).T


def three_panels(height: float, width: float) -> tuple[Figure, Axes, Axes, Axes]:
    """Return a figure of three panels in a row, which is as wide as a page.

    Args:
        height: Inches of the figure.
        width: Inches of a panel.
    """
    figure, axes = _style.panels(1, 3, height=height, width=width)
    left, middle, right = axes[0]
    return figure, left, middle, right


def marked_heights(ax: Axes, heights: Sequence[float]) -> None:
    """Name these values on a logarithmic y axis, and no others.

    Args:
        ax: The axes.
        heights: The values.
    """
    ax.set_yticks(heights, [f"{height:g}" for height in heights])
    ax.minorticks_off()
