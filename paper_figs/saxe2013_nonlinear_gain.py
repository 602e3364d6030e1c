"""Errors in orthogonal tanh networks vanish below a gain of 1, and spread above it.

Saxe, McClelland, Ganguli (2014), arXiv:1312.6120, Fig. 7.

Singular values of the Jacobian of x → g W tanh(x), 99 times over, for gains g and
inputs of different mean squares; W is orthogonal, and another one in each layer. Below
g = 1 all of them decay: as tanh' is at most 1, ln s is at most 99 ln g, exactly. Above
it the largest grow, and the smallest do not follow. At g = 1 they do neither, and yet
there is no isometry: the median is below 1, the more so the larger the input. A little
above g = 1 the median is nearer to 1, but the values lie wider apart.

Lines are where mean field puts the mean of s², Π g² E tanh'(√q_l z)² with the variances
q_l of the length map. Networks of this depth scatter about it: their mean lies within
its t interval plus 2/N. The paper shows single networks of width 1000; here the width N
is 200, and marks, side by side, are means over draws with 5 % to 95 % of the values.
Numbers are float64.
"""

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import xarray
from jaxtyping import Float

from isometry import theory
from isometry._internal.types import Key
from paper_figs import _draws, _style
from paper_figs._check import Compared, largest, least, settled, t_bound
from paper_figs._ensembles import Estimate, mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Vector: TypeAlias = Float[np.ndarray, " width"]
_Weights: TypeAlias = Float[np.ndarray, "layer width width"]


class Size(NamedTuple):
    """How large the figure is.

    Attributes:
        width: Units of each layer.
        gains: The gains, 1 among them.
        inputs: Mean squares of inputs.
        draws: Networks, each with all gains and inputs.
    """

    width: int
    gains: tuple[float, ...]
    inputs: tuple[float, ...]
    draws: int


PRESETS = {
    "full": Size(
        width=200,
        gains=(0.9, 0.95, 1.0, 1.05, 1.1),
        inputs=(0.2, 1.0, 4.0),
        draws=10,
    ),
    "smoke": Size(
        width=50,
        gains=(0.9, 1.0, 1.1),
        inputs=(0.2, 1.0),
        draws=10,
    ),
}

# The paper's depth of 100, without the layer of the input.
LAYERS = 99
# Units over which rounding adds up, at most: those of the largest preset.
LARGEST_WIDTH = 200
# What finite width N adds to the mean of s² over mean field, times N. Over 600 networks
# of width 25 it is at most 1.1 ± 0.3. With 20, a network of a layer less could pass.
FINITE_WIDTH = 2.0
# Of singular values, drawn as a bar and the mark on it. The least and the largest value
# depend on the width, and these do not.
SHARES = (0.05, 0.5, 0.95)


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure the singular values of networks at every gain and input.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        Over (gain, input, draw): `log_s`, quantiles of ln s; `largest`, the largest;
        and `mean_square`, ln of the mean of s². `law`: what mean field says of it.
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    shape = (len(size.gains), len(size.inputs))
    log_s = np.empty((*shape, size.draws, size.width))
    law = np.empty(shape)
    # All gains and inputs share their networks, so that differences fluctuate less.
    for draw in range(size.draws):
        weights = _draws.square(rng, "orthogonal", LAYERS, n=size.width)
        direction = rng.standard_normal(size.width)
        for i, j in np.ndindex(shape):
            gain = size.gains[i]
            x = _scaled(direction, size.inputs[j])
            log_s[i, j, draw] = _log_values(weights, gain, x)
    for i, j in np.ndindex(shape):
        gain = size.gains[i]
        law[i, j] = _mean_field(gain, size.inputs[j])
    # Quantiles come first.
    quantiles = np.quantile(log_s, SHARES, axis=-1)
    quantiles = np.moveaxis(quantiles, 0, -1)
    squares = np.exp(2 * log_s)
    names = ("gain", "input", "draw")
    return xarray.Dataset(
        {
            "log_s": ((*names, "share"), quantiles),
            "largest": (names, log_s.max(-1)),
            "mean_square": (names, np.log(squares.mean(-1))),
            "law": (("gain", "input"), law),
        },
        {
            "gain": list(size.gains),
            "input": list(size.inputs),
            "share": list(SHARES),
        },
        {"width": size.width},
    )


def _scaled(direction: _Vector, mean_square: float) -> _Vector:
    """Return an input of this mean square."""
    return direction * np.sqrt(mean_square / np.mean(direction**2))


def _log_values(weights: _Weights, gain: float, x: _Vector) -> _Vector:
    """Return ln s of the Jacobian at an input."""
    jacobian = np.eye(len(x))
    for weight in weights:
        h = np.tanh(x)
        slope = 1 - h**2
        jacobian = gain * weight @ (slope[:, None] * jacobian)
        x = gain * weight @ h
    return _draws.log_values(jacobian)


def _mean_field(gain: float, mean_square: float) -> float:
    """Return ln of the mean of s² at infinite width."""
    log_chi = 0.0
    q = mean_square
    for _ in range(LAYERS):
        log_chi += np.log(theory.chi("tanh", q, gain))
        q = theory.q_map("tanh", q, gain, sigma_b=0.0)
    return log_chi


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare decay below a gain of 1 with growth above it, and both with theory.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    return settled([*_largest(data), *_spread(data), *_theory(data)])


def _largest(data: xarray.Dataset) -> list[Compared]:
    """Compare the largest singular values with what bounds them."""
    low, high = _outer_gains(data)
    # Each layer rounds once in the product with a matrix and once in that with slopes.
    epsilon = np.finfo(np.float64).eps
    rounding = 2 * LAYERS * epsilon * LARGEST_WIDTH
    below = data.largest.sel(gain=low).max()
    decay = LAYERS * np.log(low)
    at_one = data.largest.sel(gain=1).max()
    above = data.largest.sel(gain=high).min()
    return [
        Compared(
            f"g = {low:g}: largest ln s less {LAYERS} ln g",
            float(below - decay),
            high=rounding,
        ),
        Compared("g = 1: largest ln s", float(at_one), high=rounding),
        Compared(
            f"g = {high:g}: largest ln s, least over nets",
            float(above),
            low=0,
        ),
    ]


def _outer_gains(data: xarray.Dataset) -> tuple[float, float]:
    """Return the least and the largest gain."""
    return least(data.gain), largest(data.gain)


def _spread(data: xarray.Dataset) -> list[Compared]:
    """Compare the spread of singular values at gain 1 with that at other gains."""
    low, high = _outer_gains(data)
    bottom, middle, top = (data.log_s.sel(share=share) for share in SHARES)
    spread = top - bottom
    bound = t_bound(data.sizes["input"], data.sizes["draw"])
    nearer = middle.sel(gain=1) - middle.sel(gain=low)
    wider = spread.sel(gain=high) - spread.sel(gain=1)
    at_one = middle.sel(gain=1)
    above = data.gain[data.gain > 1].min()
    closer = abs(at_one) - abs(middle.sel(gain=above))
    # Each input less the next larger one.
    falling = -at_one.diff("input")
    return [
        Compared(
            f"median of ln s, g = 1 less g = {low:g}: standard errors",
            _least_significance(nearer),
            low=bound,
        ),
        Compared(
            f"ln s from 5 % to 95 %, g = {high:g} less g = 1: standard errors",
            _least_significance(wider),
            low=bound,
        ),
        _no_isometry(data),
        Compared(
            "its fall from an input to the next larger one: standard errors",
            _least_significance(falling),
            low=bound,
        ),
        Compared(
            f"|median of ln s|, g = 1 less g = {float(above):g}: standard errors",
            _least_significance(closer),
            low=bound,
        ),
    ]


def _no_isometry(data: xarray.Dataset) -> Compared:
    """Compare the median of ln s at gain 1 with the largest that E s² allows."""
    median = mean(data.log_s.sel(share=0.5, gain=1))
    bound = t_bound(data.sizes["input"], data.sizes["draw"])
    upper_end = median.value + bound * median.error
    # By Markov's inequality, at most half of the values of s² are above twice their
    # mean, which mean-field theory predicts. At every input this is negative, and an
    # isometry, whose median of ln s is 0, would be above it.
    log_mean_square = data.law.sel(gain=1)
    markov_bound = (log_mean_square + np.log(2)) / 2
    return Compared(
        "median of ln s at g = 1 less ½ ln(2 E s²), upper end of its interval",
        largest(upper_end - markov_bound),
        high=0,
    )


def _least_significance(differences: xarray.DataArray) -> float:
    """Return the mean over its standard error, the least over inputs.

    Gains share their networks, so that differences are of the same draw.
    """
    difference = mean(differences)
    return least(difference.value / difference.error)


def _theory(data: xarray.Dataset) -> list[Compared]:
    """Compare the mean of s² with mean field."""
    ratio = mean(np.exp(data.mean_square - data.law))
    bound = t_bound(data.law.size, data.sizes["draw"])
    interval = bound * ratio.error + FINITE_WIDTH / data.attrs["width"]
    gap = abs(ratio.value - 1) / interval
    return [
        Compared(
            "mean of s² over mean field: largest gap from 1 over its interval",
            largest(gap),
            high=1.0,
        ),
    ]


def plot(data: xarray.Dataset) -> "Figure":
    """Draw singular values against the gain, in a panel for each input.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    num_inputs = data.sizes["input"]
    # Three panels are about as wide as two of a column's width.
    size = {"height": 2.5, "width": 2.3}
    figure, axes = _style.panels(1, num_inputs, sharey=True, **size)
    for ax, mean_square in zip(axes[0], data.input.values, strict=True):
        _draw_values(ax, data.sel(input=mean_square))
        ax.set(xlabel="gain g", title=f"input of mean square {mean_square:g}")
    first = axes[0, 0]
    first.set_ylabel("log$_{10}$ s")
    _style.legend(figure, first, ncols=4)
    return figure


def _draw_values(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the median with a range, the largest and the root mean square."""
    ax.axhline(0, color="0.6", lw=0.7, ls=":")
    digits = data.log_s.mean("draw") / np.log(10)
    bottom, middle, top = (digits.sel(share=share) for share in SHARES)
    bars = [middle - bottom, top - middle]
    # Where values decay together, marks would lie on top of each other.
    aside = 0.007
    left = data.gain - aside
    right = data.gain + aside
    label = "median; 5 % to 95 %"
    _style.dots(ax, left, middle, error=bars, i=0, label=label)
    largest = _digits(data.largest)
    largest.draw(ax, right, 1, label="largest")
    # The root is half of the square, as a logarithm.
    root_mean_square = _digits(data.mean_square / 2)
    root_mean_square.draw(ax, data.gain, 2, label="root mean square")
    predicted = data.law / 2 / np.log(10)
    label = "root mean square, mean field"
    _style.line(ax, data.gain, y=predicted, i=2, label=label)


def _digits(log_values: xarray.DataArray) -> Estimate:
    """Return the mean of log₁₀ s over draws."""
    return mean(log_values / np.log(10))
