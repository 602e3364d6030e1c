"""From partial identity networks of any width train in a subspace of the input's size.

Zhao, Schäfer, Anandkumar (2022), arXiv:2110.12661 (ZerO), Theorem 1 and Fig. 3, left.

A ReLU network without biases, N_x → N_x → h → h → 10, learns digits by plain SGD (rate
0.1, batches of 64) from W = I, or as much of I as fits. The rank of W₃ − I is that of
its singular values above 1e-4, as a number and not as a share. Inputs are digits pooled
to 4 × 4, N_x = 16, or those of a data set of your own. Left: while training. Right:
after it, against h. Networks wider than N_x go through the same states, in float64 up
to the order of sums; their marks take turns. The rank falls where a singular value
crosses 1e-4. The paper learns MNIST, and its plateaus lie at about 155, 375, 572 and
572 for h = 256, 512, 1024 and 2048. Full: 60 epochs.
"""

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray

from isometry import data as datasets
from isometry._internal.types import Key
from paper_figs import _style, _zero
from paper_figs._check import Compared, largest, least, settled, within

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Size(NamedTuple):
    """How large the figure is.

    Attributes:
        factors: Widths over the dimension of the input, the largest last.
        schedule: How long networks learn.
    """

    factors: tuple[float, ...]
    schedule: _zero.Schedule


PRESETS = {
    "full": Size(
        factors=(0.5, 1, 2, 4, 8),
        schedule=_zero.Schedule(epochs=60, every=20),
    ),
    "smoke": Size(
        factors=(0.5, 1, 2, 4),
        schedule=_zero.Schedule(epochs=12, every=25),
    ),
}

# Summation in another order leaves 2e-15. What gradients move is above 1e-4.
ROUNDING = 1e-9
# Guessing the most frequent digit gives 0.1, and these networks reach 0.9.
LEARNED = 0.3


def compute(preset: str, key: Key, data: datasets.Data | None = None) -> xarray.Dataset:
    """Train networks of all widths, and follow the rank of W₃ − I.

    Args:
        preset: "full" or "smoke".
        key: The key of the batches and of what is held out.
        data: A data set to learn instead of digits.

    Returns:
        `rank` over (width, step); over width, at the end: `accuracy`; `apart`, how far
        W₃ is from that of the widest network in the block of the input; and `outside`,
        how far W₃ − I is from zero outside of it.
    """
    size = PRESETS[preset]
    split = _zero.split(data, key)
    num_inputs = split.num_inputs
    widths = [int(factor * num_inputs) for factor in size.factors]
    histories, thirds, accuracies = [], [], []
    # All learn the same batches.
    for width in widths:
        weights = _identities(split.sizes(width))
        history = _zero.train(weights, split, size.schedule, key=key)
        histories.append(history)
        thirds.append(weights[2])
        accuracies.append(_zero.accuracy(weights, split))
    ranks = [history.ranks for history in histories]
    widest = thirds[-1]
    return xarray.Dataset(
        {
            "rank": (("width", "step"), np.array(ranks, float)),
            "accuracy": ("width", accuracies),
            "apart": ("width", [_apart(w, widest, num_inputs) for w in thirds]),
            "outside": ("width", [_outside(w, num_inputs) for w in thirds]),
        },
        {"width": widths, "step": histories[0].steps},
        {"inputs": num_inputs, "classes": split.num_classes},
    )


def _identities(sizes: list[int]) -> _zero.Weights:
    """Return as much of the identity as fits in each layer."""
    return [np.eye(rows, columns) for rows, columns in itertools.pairwise(sizes)]


def _apart(weight: _zero.Array, widest: _zero.Array, num_inputs: int) -> float:
    """Return the largest difference in the block of the input."""
    block = weight[:num_inputs, :num_inputs]
    # Narrower networks are others, and nothing is claimed of them.
    if len(block) < num_inputs:
        return 0.0
    difference = block - widest[:num_inputs, :num_inputs]
    return largest(np.abs(difference))


def _outside(weight: _zero.Array, num_inputs: int) -> float:
    """Return the largest change outside of the block of the input."""
    change = np.abs(weight - np.eye(len(weight)))
    change[:num_inputs, :num_inputs] = 0
    return largest(change)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare ranks with their bound, and networks of different widths to each other.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    num_inputs = data.attrs["inputs"]
    # Narrower ones have no room for the input.
    wide = data.sel(width=data.width >= num_inputs)
    return settled([*_ranks(data, wide), *_states(data, wide)])


def _ranks(data: xarray.Dataset, wide: xarray.Dataset) -> list[Compared]:
    """Compare ranks with the dimension of the input."""
    num_inputs = data.attrs["inputs"]
    last = wide["rank"].isel(step=-1)
    first = wide["rank"].sel(step=1)
    return [
        Compared(
            "rank(W₃ − I), largest at any step and width",
            largest(data["rank"]),
            low=1,
            high=num_inputs,
        ),
        Compared(
            "rank at the end, h ≥ N_x, least",
            least(last),
            low=num_inputs / 2,
            high=num_inputs,
        ),
        # The gradient of the first step has a direction for each class.
        Compared(
            "rank after one step: at most the classes",
            largest(first),
            low=1,
            high=data.attrs["classes"],
        ),
    ]


def _states(data: xarray.Dataset, wide: xarray.Dataset) -> list[Compared]:
    """Compare networks that are as wide as the input with wider ones."""
    ranks = wide["rank"]
    spread = ranks.max("width") - ranks.min("width")
    return [
        within(
            "ranks of all h ≥ N_x, largest difference at a step",
            largest(spread),
            0.0,
            tolerance=0.0,
        ),
        within(
            "W₃ of all h ≥ N_x, largest difference",
            largest(wide.apart),
            0.0,
            tolerance=ROUNDING,
        ),
        within(
            "W₃ − I outside the N_x block, largest entry",
            largest(data.outside),
            0.0,
            tolerance=0.0,
        ),
        Compared(
            "accuracy on held-out digits, least",
            least(wide.accuracy),
            low=LEARNED,
            high=1.0,
        ),
    ]


def plot(data: xarray.Dataset) -> "Figure":
    """Draw the rank against the step, and at the end against the width.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(1, 2, height=2.5)
    left, right = axes[0]
    _draw_history(left, data)
    _draw_end(right, data)
    return figure


def _draw_history(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the rank while networks learn."""
    num_inputs = data.attrs["inputs"]
    num_widths = data.sizes["width"]
    ax.axhline(num_inputs, color="black", lw=0.9, label="N$_x$")
    for i, width in enumerate(data.width.values):
        # Lines of wide networks coincide, and their marks take turns: four of each.
        stride = max(data.sizes["step"] // (4 * num_widths), 1)
        ax.plot(
            data.step,
            data["rank"].sel(width=width),
            color=_style.COLOURS[i],
            marker=_style.MARKS[i],
            markevery=(i * stride, num_widths * stride),
            label=f"h = {width}",
        )
    ax.set(
        xlabel="step of SGD",
        ylabel="rank(W$_3$ − I)",
        title="While training",
        ylim=(0, 1.1 * num_inputs),
    )
    ax.legend(loc="lower right")


def _draw_end(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the rank at the end of training against the width."""
    num_inputs = data.attrs["inputs"]
    widths = data.width.values
    end = data["rank"].isel(step=-1)
    ax.axhline(num_inputs, color="black", lw=0.9, label="N$_x$")
    ax.plot(widths, widths, color="0.4", lw=0.9, ls=":", label="h")
    # Marks are above both lines, on which they lie.
    _style.dots(ax, widths, end, error=None, i=0, label="measured", zorder=4)
    _style.ticks(ax, widths)
    ax.set(
        xlabel="width h",
        ylabel="rank(W$_3$ − I)",
        title="End of training",
        ylim=(0, 2 * num_inputs),
    )
    ax.legend(loc="upper left")
