"""Signals in wide networks live for a predicted depth, and networks train to that.

Schoenholz et al. (2017), arXiv:1611.01232, Figs. 2 and 5: tanh, sigma_b² = 0.05.

Left: depth scales. Deviations of the length q and of the correlation c of two inputs
from their fixed points fall as exp(−L/xi_q) and exp(−L/xi_c). Marks are the linear
response of networks of width 400 at the fixed point, with two standard errors: of an
input that is a little too long, and of two inputs that are a little off c*, through the
same weights. The rate is −ln of the mean ratio of the deviations after 4 layers to
those before, over 4. A network of width N is off by O(1/N) in each layer, so rates must
lie within their t interval plus 2/N.

Right: training accuracy on 8 × 8 digits after 300 steps of SGD (width 64, rate 0.003,
batches of 64; the paper has MNIST and width 300). The depth of half accuracy grows with
xi_c: of its power of xi_c, which is 1 in the paper, we report a 95 % interval that
resamples seeds, and ask that it lies above 0. Its multiple of xi_c depends on rate and
steps. The paper draws 6, where e⁻⁶ of a signal is left, as the end of what trains; half
accuracy must not lie beyond. Where it lies beyond the deepest networks it is left out.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
import xarray
from jaxtyping import Float, Int
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isometry import data as datasets
from isometry import theory
from isometry._internal.types import Key
from paper_figs import _draws, _style
from paper_figs._check import Compared, largest, least, settled, t_bound
from paper_figs._ensembles import Estimate, mean

PRESETS = {
    "full": {
        "width": 400,
        "draws": 40,
        "seeds": 3,
        "depths": (6, 10, 16, 25, 40, 64, 96),
        "square_w": (1.0, 1.15, 1.3, 1.4, 1.5, 1.7, 2.0, 2.5, 3.0, 3.5, 4.0),
        "grid": 61,
    },
    "smoke": {
        "width": 200,
        "draws": 40,
        "seeds": 2,
        "depths": (6, 12, 24),
        "square_w": (0.7, 1.0, 1.2),
        "grid": 13,
    },
}

ACTIVATION = "tanh"
SIGMA_B = math.sqrt(0.05)

# Values of sigma_w² at which depth scales are measured. At the critical 1.76 the
# deviation of c is not exponential.
RESPONSE = (1.0, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0)

# Layers over which a response is measured. The deviation of q falls to 1 % over them;
# over twice as many it would drown in the fluctuations of the networks.
LAYERS = 4

# The first deviation of q and c. Ten times larger, terms of second order would be seen
# close to the critical line; much smaller, rounding would.
OFF = 1e-4

# Mean rates of 1000 networks of widths 50 and 100 are off by up to 1.3/N, and most by
# less than their noise. With 5/N weights that are 5 % too large would hardly be seen.
FINITE_WIDTH = 2.0

# A mean ratio that noise has made negative counts as this, and the check fails.
LEAST_RATIO = 1e-12

# Training. At this rate networks of all depths stay finite; the steps are those at
# which shallow ones have learned most digits.
STEPS = 300
RATE = 0.003
BATCH = 64
UNITS = 64
# Accuracies of single batches are noisy by 1/√64; twenty of them average.
LAST_BATCHES = 20

# The multiple of xi_c that the paper draws.
MULTIPLE = 6.0

# Resampled sets of seeds. Ten times fewer leave a few in the tails of the interval.
RESAMPLED = 1000

SCALES = ("xi_q", "xi_c")


class _Digits(NamedTuple):
    """Images and their labels."""

    images: Float[np.ndarray, "images pixels"]
    labels: Int[np.ndarray, " images"]


class _Layers(NamedTuple):
    """Weights and biases of many networks, layer by layer."""

    weights: list[Float[np.ndarray, "networks fan_in fan_out"]]
    biases: list[Float[np.ndarray, "networks 1 fan_out"]]


def compute(preset: str, key: Key, data: datasets.Data | None = None) -> xarray.Dataset:
    """Measure depth scales of networks, and train networks of many depths.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.
        data: Inputs and labels to train on. The digits if None.

    Returns:
        `ratio` of deviations over (response, scale, draw); `accuracy` over (depth,
        square_w, seed); and predicted depth scales on a fine grid, `law_xi`, at the
        measured ones, `law_at`, and at the trained ones, `law_trained`.
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    if data is None:
        data = datasets.digits()
    digits = _normalized(data)
    values = size["square_w"]
    fine = np.linspace(min(values), 4.0, size["grid"])
    # Networks of all sigma_w and seeds train side by side.
    of_networks = np.repeat(values, size["seeds"])
    accuracy = [
        _train(rng, digits, of_networks, depth=depth) for depth in size["depths"]
    ]
    shape = (len(size["depths"]), len(values), size["seeds"])
    ratio = [_response(rng, square_w, size) for square_w in RESPONSE]
    return xarray.Dataset(
        {
            "law_xi": (("fine", "scale"), [_xi(value) for value in fine]),
            "law_at": (("response", "scale"), [_xi(value) for value in RESPONSE]),
            "law_trained": (("square_w", "scale"), [_xi(value) for value in values]),
            "ratio": (("response", "scale", "draw"), ratio),
            "accuracy": (
                ("depth", "square_w", "seed"),
                np.array(accuracy).reshape(shape),
            ),
        },
        {
            "fine": fine,
            "response": list(RESPONSE),
            "scale": list(SCALES),
            "square_w": list(values),
            "depth": list(size["depths"]),
        },
        {"width": size["width"], "classes": int(digits.labels.max()) + 1},
    )


def _xi(square_w: float) -> tuple[float, float]:
    """Return the predicted depth scales of q and c."""
    scales = theory.depth_scales(ACTIVATION, math.sqrt(square_w), SIGMA_B)
    return scales.xi_q, scales.xi_c


def _normalized(data: datasets.Data) -> _Digits:
    """Return images whose pixels have mean 0 over images, and mean square 1 in each."""
    images = np.asarray(data.xs, np.float32)
    images = images - images.mean(0)
    squares = np.mean(images**2, axis=1, keepdims=True)
    return _Digits(images / np.sqrt(squares), np.asarray(data.targets))


def _response(
    rng: np.random.Generator, square_w: float, size: dict
) -> Float[np.ndarray, "2 draws"]:
    """Return deviations of q and of c after the layers, over those before."""
    width, num_draws = size["width"], size["draws"]
    sigma_w = math.sqrt(square_w)
    z = _near_fixed_point(rng, sigma_w, size)
    before = _deviations(z)
    for _ in range(LAYERS):
        bias = SIGMA_B * rng.standard_normal((num_draws, width, 1))
        weights = sigma_w * _draws.square(rng, "gaussian", num_draws, n=width)
        z = weights @ np.tanh(z) + bias
    return _deviations(z) / before


def _near_fixed_point(
    rng: np.random.Generator, sigma_w: float, size: dict
) -> Float[np.ndarray, "draws width 4"]:
    """Draw a vector of length q*, a longer one, and two that nearly have c* with it."""
    width, num_draws = size["width"], size["draws"]
    q = theory.q_fixed_point(ACTIVATION, sigma_w, SIGMA_B).value
    c = theory.c_fixed_point(ACTIVATION, sigma_w, SIGMA_B).value
    # In the ordered phase c* is 1, and nothing lies beyond.
    near = np.array([c - OFF, min(c + OFF, 1.0)])
    basis, _ = np.linalg.qr(rng.standard_normal((num_draws, width, 2)))
    along = [1.0, 1 + OFF, *near]
    across = [0.0, 0.0, *np.sqrt(1 - near**2)]
    return basis * np.sqrt(width * q) @ np.array([along, across])


def _deviations(
    z: Float[np.ndarray, "draws width 4"],
) -> Float[np.ndarray, "2 draws"]:
    """Return by how much the longer vector is longer, and the closer one closer."""
    q = np.mean(z**2, axis=1)
    products = np.mean(z[:, :, :1] * z[:, :, 2:], axis=1)
    c = products / np.sqrt(q[:, :1] * q[:, 2:])
    return np.stack([q[:, 1] - q[:, 0], c[:, 1] - c[:, 0]])


def _train(
    rng: np.random.Generator,
    digits: _Digits,
    square_w: Float[np.ndarray, " networks"],
    depth: int,
) -> Float[np.ndarray, " networks"]:
    """Return the accuracies over the last batches; all networks see the same ones."""
    num_images, num_pixels = digits.images.shape
    num_classes = int(digits.labels.max()) + 1
    layers = _initial(rng, square_w, [num_pixels, *[UNITS] * (depth - 1), num_classes])
    targets = np.eye(num_classes, dtype=np.float32)[digits.labels]
    accuracies = []
    for _ in range(STEPS):
        batch = rng.choice(num_images, BATCH, replace=False)
        outputs = _step(layers, digits.images[batch], targets[batch])
        is_right = outputs.argmax(axis=2) == digits.labels[batch]
        accuracies.append(is_right.mean(axis=1))
    return np.mean(accuracies[-LAST_BATCHES:], axis=0)


def _initial(
    rng: np.random.Generator, square_w: Float[np.ndarray, " networks"], sizes: list[int]
) -> _Layers:
    """Draw Gaussian weights and biases of networks with these numbers of units."""
    num_networks = len(square_w)
    sigma_w = np.sqrt(square_w)[:, None, None]
    weights = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        units = rng.standard_normal((num_networks, fan_in, fan_out))
        scaled = sigma_w / fan_in**0.5 * units
        weights.append(scaled.astype(np.float32))
    biases = []
    for fan_out in sizes[1:]:
        bias = SIGMA_B * rng.standard_normal((num_networks, 1, fan_out))
        biases.append(bias.astype(np.float32))
    return _Layers(weights, biases)


def _step(
    layers: _Layers,
    images: Float[np.ndarray, "batch pixels"],
    targets: Float[np.ndarray, "batch classes"],
) -> Float[np.ndarray, "networks batch classes"]:
    """Return the outputs, and change layers by a step of SGD on the cross entropy."""
    weights, biases = layers
    num_networks = len(weights[0])
    activities = [np.broadcast_to(images, (num_networks, *images.shape))]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        activities.append(np.tanh(activities[-1] @ weight + bias))
    outputs = activities[-1] @ weights[-1] + biases[-1]
    # Without the largest output the exponential could overflow.
    powers = np.exp(outputs - outputs.max(axis=2, keepdims=True))
    probabilities = powers / powers.sum(axis=2, keepdims=True)
    backward = (probabilities - targets) / len(images)
    rate = np.float32(RATE)
    for i in reversed(range(len(weights))):
        activity = activities[i]
        gradient = activity.mT @ backward
        bias_gradient = backward.sum(axis=1, keepdims=True)
        backward = (backward @ weights[i].mT) * (1 - activity**2)
        weights[i] -= rate * gradient
        biases[i] -= rate * bias_gradient
    return outputs


def _rates(data: xarray.Dataset) -> Estimate:
    """Return the measured rates, 1/xi, with their standard errors."""
    ratio = mean(data.ratio)
    positive = Estimate(ratio.value.clip(min=LEAST_RATIO), ratio.error)
    growth = positive.log().per(LAYERS)
    return Estimate(-growth.value, growth.error)


def _half_depths(data: xarray.Dataset) -> Float[np.ndarray, " square_w"]:
    """Return where the mean accuracy is half-way from 1 to that of guessing."""
    log_depth = np.log(data.depth.values)
    level = (1 + 1 / data.attrs["classes"]) / 2
    curves = data.accuracy.mean("seed").transpose("square_w", "depth").values
    return np.array([_crossing(curve, log_depth, level) for curve in curves])


def _crossing(
    curve: Float[np.ndarray, " depth"],
    log_depth: Float[np.ndarray, " depth"],
    level: float,
) -> float:
    """Return the depth at which a curve falls below a level, or NaN."""
    is_below = curve < level
    i = int(np.argmax(is_below))
    # The first depth is below the level already, or none is.
    if i == 0:
        return math.nan
    fraction = (curve[i - 1] - level) / (curve[i - 1] - curve[i])
    return np.exp(log_depth[i - 1] + fraction * (log_depth[i] - log_depth[i - 1]))


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare depth scales with theory, and depths of half accuracy with xi_c.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    rate = _rates(data)
    bound = t_bound(rate.value.size, data.sizes["draw"])
    interval = bound * rate.error + FINITE_WIDTH / data.attrs["width"]
    gap = np.abs(rate.value - 1 / data.law_at) / interval
    rows = []
    for scale in SCALES:
        what = f"{scale}: rates, largest gap over its interval"
        rows.append(Compared(what, largest(gap.sel(scale=scale)), high=1.0))
    return settled([*rows, *_trained(data)])


def _trained(data: xarray.Dataset) -> list[Compared]:
    """Compare depths of half accuracy with xi_c."""
    multiples = _half_depths(data) / data.law_trained.sel(scale="xi_c").values
    # NaN is where half accuracy lies beyond the deepest networks, which is left out.
    measured = multiples[np.isfinite(multiples)]
    greatest, lowest = math.nan, math.nan
    if len(measured):
        greatest, lowest = largest(measured), least(measured)
    low, high = _interval_of_power(data)
    return [
        Compared(
            f"depth of half accuracy over xi_c, largest (least: {lowest:.2f})",
            greatest,
            high=MULTIPLE,
        ),
        Compared("its power of xi_c (the paper: 1)", _power(data)),
        Compared(f"lower end of its 95 % interval (upper: {high:.2f})", low, low=0.0),
    ]


def _power(data: xarray.Dataset) -> float:
    """Return the power of xi_c with which the depth of half accuracy grows, or NaN."""
    depth = _half_depths(data)
    is_measured = np.isfinite(depth)
    # A power needs two depths; NaN fails the check.
    if is_measured.sum() < 2:
        return math.nan
    log_xi = np.log(data.law_trained.sel(scale="xi_c").values[is_measured])
    return float(np.polyfit(log_xi, np.log(depth[is_measured]), 1)[0])


def _interval_of_power(data: xarray.Dataset) -> tuple[float, float]:
    """Return the ends of the power's interval under resampling of the seeds."""
    rng = np.random.default_rng(0)
    num_seeds = data.sizes["seed"]
    powers = []
    for _ in range(RESAMPLED):
        # Networks of all depths and sigma_w² are drawn independently.
        shape = data.accuracy.transpose("depth", "square_w", "seed").shape
        drawn = xarray.DataArray(
            rng.integers(num_seeds, size=shape), dims=("depth", "square_w", "seed")
        )
        accuracy = data.accuracy.isel(seed=drawn.rename(seed="of"))
        resampled = accuracy.rename(of="seed")
        powers.append(_power(data.drop_vars("accuracy").assign(accuracy=resampled)))
    low, high = np.quantile(powers, [0.025, 0.975])
    return float(low), float(high)


def plot(data: xarray.Dataset) -> Figure:
    """Draw depth scales, and accuracies with 6 xi_c.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(1, 2, height=2.6)
    left, right = axes[0]
    _draw_scales(left, data)
    _draw_accuracy(right, data)
    handles, labels = left.get_legend_handles_labels()
    more_handles, more_labels = right.get_legend_handles_labels()
    figure.legend(
        [*handles, *more_handles],
        [*labels, *more_labels],
        loc="outside upper center",
        ncols=3,
    )
    return figure


def _draw_scales(ax: Axes, data: xarray.Dataset) -> None:
    """Draw measured and predicted depth scales."""
    rate = _rates(data)
    names = {"xi_q": r"$\xi_q$", "xi_c": r"$\xi_c$"}
    for i, (scale, name) in enumerate(names.items()):
        part = rate.at(scale=scale)
        # A rate that could be 0 has no depth scale.
        is_measured = part.value > 2 * part.error
        value, error = part.value[is_measured], part.error[is_measured]
        xi = Estimate(1 / value, error / value**2)
        xi.draw(ax, value.response, i, label=f"{name}, networks")
        predicted = data.law_xi.sel(scale=scale)
        _style.line(ax, data.fine, y=predicted, i=i, label=f"{name}, theory")
    ax.set(
        xlabel=r"$\sigma_w^2$",
        ylabel="depth scale (layers)",
        title="Depth scales",
        yscale="log",
        ylim=(0.6, 1000),
    )
    ax.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])


def _draw_accuracy(ax: Axes, data: xarray.Dataset) -> None:
    """Draw accuracies over sigma_w² and depth, where they are a half, and 6 xi_c."""
    accuracy = data.accuracy.mean("seed")
    colours = ax.pcolormesh(
        data.square_w,
        data.depth,
        accuracy,
        shading="nearest",
        cmap="cividis",
        vmin=0,
        vmax=1,
    )
    ax.figure.colorbar(colours, ax=ax, label="training accuracy")
    # A white rim shows both on dark and on bright squares.
    rim = [patheffects.withStroke(linewidth=3, foreground="white")]
    ax.plot(
        data.fine,
        MULTIPLE * data.law_xi.sel(scale="xi_c"),
        color="black",
        path_effects=rim,
        label=rf"{MULTIPLE:g} $\xi_c$, theory",
    )
    ax.plot(
        data.square_w,
        _half_depths(data),
        "D",
        ms=4.5,
        color="black",
        mec="white",
        label="half accuracy, networks",
    )
    _limit(ax, data)


def _limit(ax: Axes, data: xarray.Dataset) -> None:
    """Give the axes of accuracies their names, ends and ticks."""
    depths = data.depth.values
    # Squares reach half-way to the next depth on the logarithmic scale.
    lowest = depths[0] ** 1.5 / depths[1] ** 0.5
    highest = depths[-1] ** 1.5 / depths[-2] ** 0.5
    ax.set(
        xlabel=r"$\sigma_w^2$",
        ylabel="depth (layers)",
        title="Trained on digits",
        yscale="log",
        xlim=(float(data.square_w[0]) - 0.08, float(data.square_w[-1]) + 0.12),
        ylim=(lowest, highest),
    )
    ax.set_yticks(depths, [str(depth) for depth in depths])
    ax.minorticks_off()
