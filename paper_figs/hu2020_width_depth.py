"""Gaussian deep linear nets train to depths in proportion to width, orthogonal to any.

Hu, Xiao, Pennington (2020), arXiv:2001.05992, Fig. 1, at smaller widths and depths.

Full-batch gradient descent from f = W_L … W_1 x √(m/d_y) with weights of unit scale.
Inputs are whitened (x runs over the 16 unit vectors), the target is a random linear map
to d_y = 4 outputs, and the rate is 0.2 d_y/L in the paper's scale. The maps show log₁₀
of the loss over that of f = 0 after training, the median over seeds; divergence counts
as 1. L* is the depth at which this ratio passes 0.1, interpolated for each seed on
logarithmic scales. Marks are its mean with two standard errors, beside a line of
slope 1.

The check fits the slope of ln L* against ln m for Gaussian weights, over all seeds
whose L* lies inside the grid; it counts the others. With orthogonal weights the largest
loss at any width, depth and seed stays below 0.1, so that L* is beyond the deepest
network tried. Before training their loss is 2 in the mean, because signals are of unit
scale.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray
from jaxtyping import Float
from scipy import stats

from isometry._internal.types import Key
from paper_figs import _draws, _style
from paper_figs._check import Compared, largest, settled, within

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

PRESETS = {
    "full": {
        "widths": (16, 24, 32, 48, 64),
        "depths": (8, 16, 32, 64, 128),
        "seeds": 5,
        "steps": 200,
    },
    "smoke": {
        "widths": (16, 32),
        "depths": (8, 16, 32, 64),
        "seeds": 4,
        "steps": 150,
    },
}

LAWS = ("gaussian", "orthogonal")
# No width is below the number of inputs, which would bound the rank.
INPUTS = 16
OUTPUTS = 4
# In the paper's scale. At ten times this rate Gaussian networks of all depths diverge;
# at a tenth of it not even shallow ones are trained after so few steps.
RATE = 0.2
# A network counts as trained below this share of the loss of f = 0. A tenth of it would
# ask for more steps; ten times as much is no training at all.
PASSED = 0.1
# Losses below are drawn in the darkest colour.
LEAST_DRAWN = 1e-6


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Train networks of all widths and depths.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        Over (weights, width, depth, seed), as shares of the loss of f = 0: `initial`,
        the loss before training, and `loss`, that after it.
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    losses = []
    for law in LAWS:
        for width in size["widths"]:
            for depth in size["depths"]:
                task = _start(rng, law, width, depth=depth, seeds=size["seeds"])
                losses.append(_train(task, size["steps"]))
    shape = (len(LAWS), len(size["widths"]), len(size["depths"]), size["seeds"])
    initial, final = np.swapaxes(np.array(losses), 0, 1)
    where = ("weights", "width", "depth", "seed")
    return xarray.Dataset(
        {
            "initial": (where, initial.reshape(shape)),
            "loss": (where, final.reshape(shape)),
        },
        {
            "weights": list(LAWS),
            "width": list(size["widths"]),
            "depth": list(size["depths"]),
        },
        {"steps": size["steps"]},
    )


class _Task(NamedTuple):
    """Networks before training, and what they are to learn.

    Attributes:
        weights: The weights of each layer, with seeds as their first axis.
        target: The outputs asked for at every input, in columns.
        gain: What the product of the weights is multiplied by.
        rate: The rate of gradient descent.
    """

    weights: list[Float[np.ndarray, "seeds out in"]]
    target: Float[np.ndarray, "seeds outputs inputs"]
    gain: float
    rate: float


def _start(
    rng: np.random.Generator,
    law: str,
    width: int,
    *,
    depth: int,
    seeds: int,
) -> _Task:
    """Draw weights and targets."""
    weights = [_draws.square(rng, law, count=seeds, n=width) for _ in range(depth)]
    # The first layer reads the inputs, and the last gives the outputs.
    weights[0] = weights[0][:, :, :INPUTS]
    weights[-1] = weights[-1][:, :OUTPUTS]
    target = rng.standard_normal((seeds, OUTPUTS, INPUTS))
    # So scaled, the loss of f = 0 is 1.
    square = np.sum(target**2, axis=(1, 2), keepdims=True)
    target *= np.sqrt(INPUTS / square)
    return _Task(
        weights=weights,
        target=target,
        gain=np.sqrt(width / OUTPUTS),
        rate=RATE * OUTPUTS / (width * depth),
    )


def _train(task: _Task, steps: int) -> Float[np.ndarray, "2 seeds"]:
    """Train in place; return the losses before and after."""
    # Some networks diverge.
    with np.errstate(over="ignore", invalid="ignore"):
        initial = _loss(task)
        for _ in range(steps):
            _step(task)
        final = _loss(task)
    is_finite = np.isfinite(final)
    return np.stack([initial, np.where(is_finite, np.minimum(final, 1.0), 1.0)])


def _signals(task: _Task) -> list[Float[np.ndarray, "seeds units inputs"]]:
    """Return the units of each layer, for every unit vector as input."""
    signals = [task.weights[0]]
    for weights in task.weights[1:]:
        signals.append(weights @ signals[-1])
    return signals


def _loss(task: _Task) -> Float[np.ndarray, " seeds"]:
    """Return the loss over that of f = 0."""
    residual = task.gain * _signals(task)[-1] - task.target
    return np.sum(residual**2, axis=(1, 2)) / INPUTS


def _step(task: _Task) -> None:
    """Take a step of gradient descent, in place."""
    signals = _signals(task)
    residual = task.gain * signals[-1] - task.target
    # From the last layer to the first.
    delta = task.gain * residual
    for i in reversed(range(len(signals))):
        gradient = delta
        # The first layer reads unit vectors.
        if i > 0:
            gradient = delta @ signals[i - 1].mT
        delta = task.weights[i].mT @ delta
        task.weights[i] -= task.rate * gradient


def _frontier(data: xarray.Dataset) -> Float[np.ndarray, "width seed"]:
    """Return L* of Gaussian weights: inf if all depths train, 0 if none does."""
    loss = data.loss.sel(weights="gaussian").transpose("width", "seed", "depth").values
    # A loss of zero has no logarithm.
    log_loss = np.log(np.maximum(loss, 1e-300))
    log_depth = np.log(data.depth.values)
    frontier = np.zeros(log_loss.shape[:2])
    for at in np.ndindex(frontier.shape):
        frontier[at] = _passes(log_depth, log_loss[at])
    return frontier


def _passes(
    log_depth: Float[np.ndarray, " depth"],
    log_loss: Float[np.ndarray, " depth"],
) -> float:
    """Return the depth at which the loss of one seed first passes the level."""
    level = math.log(PASSED)
    if np.all(log_loss < level):
        return math.inf
    if log_loss[0] >= level:
        return 0.0
    i = int(np.argmax(log_loss >= level))
    share = (level - log_loss[i - 1]) / (log_loss[i] - log_loss[i - 1])
    return math.exp(log_depth[i - 1] + share * (log_depth[i] - log_depth[i - 1]))


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare L* of Gaussian weights with width, and the losses of orthogonal ones.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    orthogonal = data.sel(weights="orthogonal")
    initial = orthogonal.initial.values.ravel()
    deviation = initial.std(ddof=1) / math.sqrt(initial.size)
    # A true mean lies outside by chance once in a thousand times.
    error = float(stats.t.ppf(0.9995, initial.size - 1) * deviation)
    return settled(
        [
            _slope(data),
            within(
                "orthogonal, before training: mean loss over that of f = 0",
                float(initial.mean()),
                2.0,
                tolerance=error,
            ),
            Compared(
                f"orthogonal: largest loss to L = {int(data.depth.max())}",
                largest(orthogonal.loss),
                high=PASSED,
            ),
        ]
    )


def _slope(data: xarray.Dataset) -> Compared:
    """Compare the slope of ln L* against ln m with 1."""
    frontier = _frontier(data)
    is_inside = _is_inside(frontier)
    widths = np.broadcast_to(data.width.values[:, None], frontier.shape)[is_inside]
    slope = half = math.nan
    # One width has no slope.
    if len(np.unique(widths)) > 1:
        log_frontier = np.log(frontier[is_inside])
        # SciPy's annotations do not know the fields of what it returns.
        fit: Any = stats.linregress(np.log(widths), log_frontier)
        slope = float(fit.slope)
        half = float(stats.t.ppf(0.975, len(widths) - 2) * fit.stderr)
    num_censored = int(np.sum(~is_inside))
    counted = f"{num_censored} of {is_inside.size} censored"
    return Compared(
        f"Gaussian: slope of ln L* on ln m (± {half:.2g} at 95 %; {counted})",
        slope,
        low=0.65,
        high=1.35,
        words="1 ± 0.35",
    )


def _is_inside(frontier: Float[np.ndarray, "width seed"]) -> np.ndarray:
    """Return which L* lie inside the grid of depths."""
    return (frontier > 0) & np.isfinite(frontier)


def plot(data: xarray.Dataset) -> "Figure":
    """Draw a map of the loss for each law of the weights, and L* of Gaussian ones.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(1, 2, height=2.6, width=2.6, sharey=True)
    left, right = axes[0]
    _draw_map(right, data, "orthogonal")
    colours = _draw_map(left, data, "gaussian")
    left.set_ylabel("depth L (layers)")
    _draw_frontier(left, data)
    figure.colorbar(
        colours,
        ax=axes,
        extend="min",
        label="log$_{10}$ of loss over that of f = 0",
    )
    # On grey, because the line is white.
    _style.legend(figure, left, ncols=2, facecolor="0.6", frameon=True)
    return figure


def _places(data: xarray.Dataset) -> np.ndarray:
    """Return where the widths are drawn: columns are equally wide."""
    return np.arange(data.sizes["width"])


def _draw_map(ax: "Axes", data: xarray.Dataset, law: str) -> "QuadMesh":
    """Draw the median loss of each width and depth; return its colours."""
    median = data.loss.sel(weights=law).median("seed").transpose("depth", "width")
    log_loss = np.log10(np.maximum(median.values, LEAST_DRAWN))
    log_depth = np.log2(data.depth.values)
    colours = ax.pcolormesh(
        _places(data),
        log_depth,
        log_loss,
        shading="nearest",
        cmap="cividis",
        vmin=math.log10(LEAST_DRAWN),
        vmax=0,
    )
    ax.set_xticks(_places(data), list(map(str, data.width.values)))
    ax.set_yticks(log_depth, list(map(str, data.depth.values)))
    ax.set(xlabel="width m", title=f"{law.capitalize()} weights")
    return colours


def _draw_frontier(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw L* of Gaussian weights, and a line of slope 1."""
    frontier = _frontier(data)
    log_frontier = np.log2(np.where(_is_inside(frontier), frontier, np.nan))
    middle = np.nanmean(log_frontier, axis=1)
    root = math.sqrt(log_frontier.shape[1])
    error = 2 * np.nanstd(log_frontier, axis=1, ddof=1) / root
    _style.dots(
        ax,
        _places(data),
        middle,
        error=error,
        i=1,
        label="L*, two standard errors",
        mec="white",
        ms=4,
    )
    log_width = np.log2(data.width.values)
    line = log_width + np.nanmean(middle - log_width)
    ax.plot(_places(data), line, color="white", lw=1.4, label="L* ∝ m")
