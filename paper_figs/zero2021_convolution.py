"""From Dirac and ZerO kernels, networks train below a rank in every tap, however wide.

Zhao, Schäfer, Anandkumar (2022), arXiv:2110.12661 (ZerO), Algorithm 2. The paper shows
ranks of dense layers; the ceilings of convolutions are ours.

ReLU networks of three 3 × 3 convolutions without biases, a mean over positions and a
dense head learn digits by Adam in float64; an image is 4 × 4 positions with the 4
pixels of each as channels. Kernels of every scheme but the random one are zero outside
the central tap. They do not stay so: all taps move, but as matrices from channels to
channels their updates keep the symmetry of the initial weights, tap by tap. From Dirac
kernels, and an identity as head, only the n channels of the input ever act behind a
ReLU, whose slope at 0 is 0; with tanh the N_y channels that the head reads move too. In
ZerO's stem the Hadamard signs repeat after P, the power of two from n on, and only N_y
channels have an outgoing weight of their own, so P + N_y classes of channels are left.
`isometry.certify` finds these ceilings from the weights alone. Left: singular values of
the update of each tap. Middle: ranks, largest over taps and layers; they reach their
ceilings within ten steps. Right: accuracies; from Dirac kernels networks of all widths
go through the same states. Full: 300 steps.
"""

import functools
import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jaxtyping import Array, Float, Int

import isometry
from isometry import data as datasets
from isometry import networks
from isometry._internal.types import Key, Params
from paper_figs import _style
from paper_figs._check import Compared, largest, least, settled, within
from paper_figs._ensembles import three_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {
        "widths": (16, 24, 32),
        "steps": 300,
        "records": 30,
        "batch": 32,
    },
    "smoke": {
        "widths": (16,),
        "steps": 64,
        "records": 8,
        "batch": 32,
    },
}

RATE = 3e-3
EPS = float(np.finfo(float).eps)
NUM_IMAGES = 1797
SIDE = 4
CHANNELS_IN = 4
CLASSES = 10
# Singular values below this share of the largest count as zero. Rounding of all steps
# leaves less than 1e-13, and what gradients moved was above 1e-7.
ZERO = 1e-12


# Parameters and the moments of Adam.
_State: TypeAlias = tuple[Params, optax.OptState]

# Guessing the most frequent digit gives 0.1: networks below their ceilings do learn.
LEARNED = 0.15


class _Run(NamedTuple):
    """A kind of network.

    Attributes:
        scheme: How it is drawn.
        activation: Its activation.
    """

    scheme: str
    activation: str


RUNS = {
    "random": _Run(scheme="kaiming_normal", activation="relu"),
    "Dirac": _Run(scheme="dirac", activation="relu"),
    "Dirac, tanh": _Run(scheme="dirac", activation="tanh"),
    "ZerO": _Run(scheme="zer_o", activation="relu"),
}


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Train networks of all kinds and widths, and follow the ranks of their updates.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `rank` over (run, width, step), largest over taps and layers; `least`, the least
        at the end; `value` over (run, tap, index): singular values of the update of the
        last kernel at the end, of the widest network; `beyond`: the first singular
        value beyond the certified ceiling, over the largest; `ceiling`; `accuracy`.
    """
    size = PRESETS[preset]
    every = size["steps"] // size["records"]
    widths = size["widths"]
    trained = [
        _trained(run, width, size, key=key) for run in RUNS.values() for width in widths
    ]

    def gathered(name: str) -> np.ndarray:
        values = np.array([getattr(one, name) for one in trained], float)
        by_run = (len(RUNS), len(widths))
        return values.reshape(*by_run, *values.shape[1:])

    by_width = ("run", "width")
    # Singular values of different widths do not fit in one array.
    num_widths = len(widths)
    widest = [one.values for one in trained[num_widths - 1 :: num_widths]]
    return xarray.Dataset(
        {
            "rank": ((*by_width, "step"), gathered("ranks")),
            "least": (by_width, gathered("least")),
            "beyond": (by_width, gathered("beyond")),
            "ceiling": (by_width, gathered("ceiling")),
            "accuracy": (by_width, gathered("accuracy")),
            "value": (
                ("run", "tap", "index"),
                np.array(widest),
            ),
        },
        {
            "run": list(RUNS),
            "width": list(size["widths"]),
            "step": every * np.arange(1, size["records"] + 1),
            "index": np.arange(1, size["widths"][-1] + 1),
        },
        {"steps": size["steps"]},
    )


class _Digits(NamedTuple):
    """Images and their labels."""

    images: Float[np.ndarray, "images side side 4"]
    labels: Int[np.ndarray, " images"]


class _Trained(NamedTuple):
    """A network after training.

    Attributes:
        ranks: At each record, the largest rank over taps and layers.
        least: The least rank over taps and layers at the end.
        ceiling: The certified ceiling.
        beyond: The first singular value beyond it, over the largest of its tap.
        values: Singular values of the last kernel's update, by tap.
        accuracy: On the training set.
    """

    ranks: Int[np.ndarray, " records"]
    least: int
    ceiling: int
    beyond: float
    values: Float[np.ndarray, "taps index"]
    accuracy: float


def _trained(run: _Run, width: int, size: dict, *, key: Key) -> _Trained:
    """Certify a network, train it, and measure the updates of its square kernels."""
    digits = _images()
    # Ranks are counted to 1e-12, which float32 does not resolve.
    with jax.enable_x64(True):
        net = networks.cnn(
            [CHANNELS_IN, width, width, width],
            (SIDE, SIDE),
            activation=run.activation,
            scheme=run.scheme,
            head=CLASSES,
            bias=False,
            dtype=jnp.float64,
        )
        params = net.init(key)
        ceiling = _ceiling(net, params)
        batches = _batches(key, len(digits.images), size)
        snapshots, last = _train(net, params, batches, digits=digits)
        outputs = jax.vmap(net, in_axes=(None, 0))(last, digits.images)
    guesses = np.argmax(outputs, axis=-1)
    accuracy = np.mean(guesses == digits.labels)
    # Over (record, layer, row, column, in, out); then a matrix for each of nine taps.
    initial = np.asarray(params["layers"][1]["w"])
    updates = np.asarray(snapshots) - initial
    num_records, num_layers = updates.shape[:2]
    matrices = updates.reshape(num_records, num_layers, 9, width, width)
    values = np.linalg.svd(matrices, compute_uv=False)
    largest = values[..., :1]
    ranks = np.sum(values > ZERO * largest, axis=-1)
    # Nothing is beyond a ceiling of the width itself.
    beyond = 0.0
    if ceiling < width:
        relative = values[-1, ..., ceiling] / values[-1, ..., 0]
        beyond = relative.max()
    return _Trained(
        ranks=ranks.max(axis=(1, 2)),
        least=int(ranks[-1].min()),
        ceiling=ceiling,
        beyond=float(beyond),
        values=values[-1, -1],
        accuracy=float(accuracy),
    )


def _images() -> _Digits:
    """Return the digits, with the pixels of 2 × 2 squares as channels."""
    xs, labels = datasets.digits()
    pixels = np.asarray(xs, np.float64)
    squares = pixels.reshape(-1, SIDE, 2, SIDE, 2)
    # The two axes within a square come last, and become channels.
    squares = np.moveaxis(squares, 2, 3)
    images = squares.reshape(-1, SIDE, SIDE, CHANNELS_IN)
    root_mean_square = np.sqrt(np.mean(images**2))
    return _Digits(images / root_mean_square, np.asarray(labels))


def _ceiling(net: networks.Network, params: Params) -> int:
    """Return the certified ceiling of the rank in each tap of the square kernels."""
    cert = isometry.certify(net, params)
    # Between the stem and the head. Of (height, width, in, out) the classes of channels
    # bound the rank of a tap.
    square = cert.layers[1:-1]
    return min(min(layer.distinct[-2:]) for layer in square)


def _batches(
    key: Key, num_images: int, size: dict
) -> Int[Array, "records every batch"]:
    """Return the images of each step, step by step between records."""
    every = size["steps"] // size["records"]
    shape = (size["records"], every, size["batch"])
    return jax.random.randint(key, shape, 0, maxval=num_images)


def _train(
    net: networks.Network,
    params: Params,
    batches: Int[Array, "records every batch"],
    *,
    digits: _Digits,
) -> tuple[Float[Array, "records layers 3 3 width width"], Params]:
    """Train by Adam; return the square kernels at each record, and the last weights."""
    images = jnp.asarray(digits.images)
    labels = jnp.asarray(digits.labels)
    adam = optax.adam(RATE)
    of_images = jax.vmap(net, in_axes=(None, 0))

    def loss(params: Params, batch: Int[Array, " batch"]) -> Float[Array, ""]:
        outputs = of_images(params, images[batch])
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels[batch])
        return losses.mean()

    def step(state: _State, batch: Int[Array, " batch"]) -> tuple[_State, None]:
        params, moments = state
        gradient = jax.grad(loss)(params, batch)
        change, moments = adam.update(gradient, moments)
        return (optax.apply_updates(params, change), moments), None

    def record(
        state: _State, batches: Int[Array, "every batch"]
    ) -> tuple[_State, Float[Array, "..."]]:
        state, _ = jax.lax.scan(step, state, batches)
        params, _ = state
        return state, params["layers"][1]["w"]

    run = jax.jit(functools.partial(jax.lax.scan, record))
    first = (params, adam.init(params))
    (last, _), snapshots = run(first, batches)
    return snapshots, last


def _period(channels: int) -> int:
    """Return after how many rows the first columns of a Hadamard matrix repeat."""
    return 2 ** math.ceil(math.log2(channels))


def _claimed(run: str, width: int) -> int:
    """Return the claim: how many classes of channels training can part."""
    ceilings = {
        "random": width,
        "Dirac": CHANNELS_IN,
        "Dirac, tanh": max(CHANNELS_IN, CLASSES),
        "ZerO": _period(CHANNELS_IN) + CLASSES,
    }
    return min(ceilings[run], width)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare certified ceilings with their formulas, and ranks with ceilings.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    rounding = data.attrs["steps"] * EPS
    rows = []
    for run in RUNS:
        for width in data.width.values:
            rows += _ranks(data.sel(run=run, width=width))
    beyond = largest(data.beyond)
    excess = data["rank"].max("step") - data.ceiling
    # From Dirac kernels, wider networks go through the same states; sums in another
    # order may change the label of an image or two.
    by_width = data.accuracy.sel(run=["Dirac", "Dirac, tanh"])
    apart = by_width.max("width") - by_width.min("width")
    rows += [
        Compared(
            "rank at any step beyond the ceiling, largest",
            largest(excess),
            high=0.0,
        ),
        Compared(
            "first singular value beyond it, of the largest",
            beyond,
            low=0.0,
            high=rounding,
        ),
        Compared(
            "Dirac: accuracies of all widths, largest difference",
            largest(apart),
            high=2 / NUM_IMAGES,
        ),
        Compared("accuracy, least", least(data.accuracy), low=LEARNED),
    ]
    return settled(rows)


def _ranks(data: xarray.Dataset) -> list[Compared]:
    """Compare ceiling and ranks of one network with the claim."""
    run = str(data.run.values)
    width = int(data.width)
    numbers = {
        "certified": data.ceiling,
        # What is certified is reached, in every tap.
        "largest rank of a tap": data["rank"].isel(step=-1),
        "least rank of a tap": data.least,
    }
    claimed = _claimed(run, width)
    return [
        within(
            f"{run}, {width} channels: {what}", float(number), claimed, tolerance=0.0
        )
        for what, number in numbers.items()
    ]


def plot(data: xarray.Dataset) -> "Figure":
    """Draw ranks over steps, singular values by tap, and ranks over the width.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, left, middle, right = three_panels(height=2.5, width=2.7)
    _draw_values(left, data)
    _draw_ranks(middle, data)
    _draw_accuracies(right, data)
    _style.legend(figure, middle, ncols=len(RUNS) + 1)
    return figure


def _draw_values(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the singular values of the update of each tap at the end."""
    for i, run in enumerate(RUNS):
        values = data.value.sel(run=run)
        is_zero = values == 0
        # Exact zeros have no place on a logarithmic axis; they are counted instead.
        shown = values.where(~is_zero)
        # Runs stand side by side, not on top of each other.
        places = data.index + (i - 1.5) / 6
        colour = _style.COLOURS[i]
        style = {
            "color": colour,
            "marker": _style.MARKS[i],
            "ls": "none",
            "ms": 1.8,
        }
        for tap in range(data.sizes["tap"]):
            ax.plot(places, shown.isel(tap=tap), **style)
        count = int(is_zero.sum("index").min())
        if count:
            total = data.sizes["index"]
            label = f"{run}: {count} of {total} are exactly 0"
            # Between what moved and what is rounding.
            height = 10.0 ** (-5.5 - 1.7 * i)
            ax.text(1, height, s=label, color=colour, fontsize=6)
    rounding = data.attrs["steps"] * EPS
    ax.axhline(rounding, color="0.4", lw=0.9, ls=":")
    ax.text(1, 2 * rounding, s="steps × eps", color="0.4", fontsize=6)
    ax.set(
        xlabel="index",
        ylabel="singular values, all 9 taps",
        title=f"Update of the third kernel, {int(data.width[-1])} channels",
        yscale="log",
        ylim=(1e-20, 30),
    )


def _draw_ranks(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the rank at the end, its ceiling and the claim against the width."""
    end = data["rank"].isel(step=-1)
    widths = data.width.values
    certified = {
        "color": "black",
        "marker": "_",
        "ls": "none",
        "ms": 11,
    }
    for i, run in enumerate(RUNS):
        ax.plot(widths, data.ceiling.sel(run=run), **certified)
        reached = end.sel(run=run)
        _style.dots(ax, widths, reached, error=None, i=i, label=run)
        claimed = [_claimed(run, int(width)) for width in widths]
        _style.line(ax, widths, y=claimed, i=i, zorder=1)
    # One entry of the legend for all of them.
    ax.plot([], [], label="certified ceiling", **certified)
    _style.ticks(ax, widths)
    ax.set(
        xlabel="channels",
        ylabel="rank of the update, a tap",
        title="End of training (lines: the claim)",
        ylim=(0, 1.1 * widths[-1]),
    )


def _draw_accuracies(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the accuracy at the end against the width."""
    widths = data.width.values
    for i, run in enumerate(RUNS):
        accuracy = data.accuracy.sel(run=run)
        _style.dots(ax, widths, accuracy, error=None, i=i, ls="-")
    _style.ticks(ax, widths)
    ax.set(
        xlabel="channels",
        ylabel="accuracy on the training set",
        title=f"After {data.attrs['steps']} steps of Adam",
        ylim=(0, 1),
    )
