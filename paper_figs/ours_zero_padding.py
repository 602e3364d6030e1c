"""Zero padding makes He weights lose variance in every layer; circular does not.

Our own figure: the rate follows from `theory.same_padding_moments`.

A kernel of three taps at the margin of an image reads one zero for each axis, so the
mean of lam = s² over a ReLU network of L layers is 1ᵀA^L 1/n, where A averages over the
window inside the image. Per axis and layer that falls by the largest eigenvalue of A,
(1 + 2 cos(π/(n + 1)))/3, for n positions: an image of 8 × 8 loses 8 % of the variance
in each layer. Left: E lam at n = 8 against depth, with two standard errors. The loss is
only one of scale: weights divided by the root of the factor keep E lam, which tends to
2 cot²(π/(2(n + 1)))/(n(n + 1)), and delta-orthogonal kernels lose nothing. Middle: the
loss per layer against n, from inputs whose variances follow the eigenvector sin(πα/(n +
1)) of A, so that every layer loses the same. Circular networks of the same weights
serve as control: at finite width the fluctuations of both are almost the same, and
those of the ratio small. Right: variances of the signals by position, from a uniform
input: the margins fade. All expectations hold at any number of channels, because
flipping the sign of a kernel complements its mask.
"""

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float

import isometry
from isometry import networks, theory
from isometry._internal.types import Key
from paper_figs import _style
from paper_figs._check import Compared, largest, settled, t_bound, within
from paper_figs._ensembles import mean, three_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {
        "seeds": 512,
        "channels": 64,
        "layers": 24,
        "sizes": ((2,), (4,), (8,), (16,), (32,), (2, 2), (4, 4), (8, 8)),
        "depths": (1, 4, 16),
    },
    "smoke": {
        "seeds": 128,
        "channels": 32,
        "layers": 12,
        "sizes": ((8,), (4, 4)),
        "depths": (1, 6),
    },
}

# He: a ReLU passes half of the variance.
SIGMA_W = 2**0.5
ACTIVATION = "relu"
POSITIONS = 8
TAPS = 3

# Layers over which the loss per layer is measured. With twice as many the variance of
# ln q, about 5 L/c, would make means over seeds unreliable; with half, small losses
# would drown in the error.
LOSING = 12

# At this depth modes other than the slowest are below rounding for 8 positions: the
# next one falls by 0.84/0.96 of it in each layer.
DEEP = 400


class _Variant(NamedTuple):
    """A network of the left panel.

    Attributes:
        padding: "same" or "circular".
        scheme: The scheme of the weights.
        sigma_w: Their scale.
        label: What the legend says.
    """

    padding: str
    scheme: str
    sigma_w: float
    label: str


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure E s² over depth, the variance left after layers, and that by position.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `lam` over (variant, seed, layers), with the mean that theory predicts,
        `law_lam`; `lost` over (padding, image, seed): the variance left after `LOSING`
        layers; and `variance` over (depth, seed, position), with `law_variance`.
    """
    size = PRESETS[preset]
    # Networks with other padding have the same weights; variants have their own.
    seed_keys = jax.random.split(key, size["seeds"])
    layers = np.arange(1, size["layers"] + 1)
    variants = _variants()
    lam = []
    for i, variant in enumerate(variants):
        own_key = jax.random.fold_in(key, i)
        keys = jax.random.split(own_key, size["seeds"])
        lam.append(_lam(variant, keys, size))
    predicted = [
        [_law(variant, int(depth)) for depth in layers] for variant in variants
    ]
    paddings = ["same", "circular"]
    lost = [
        [_lost(image, padding, seed_keys) for image in size["sizes"]]
        for padding in paddings
    ]
    depths = list(size["depths"])
    uniform = np.ones(POSITIONS)
    variances = []
    for depth in depths:
        net = _he((POSITIONS,), depth, padding="same", channels=size["channels"])
        variances.append(_squares(net, seed_keys, uniform))
    through = [np.linalg.matrix_power(_average(), depth) for depth in depths]
    images = [_label(image) for image in size["sizes"]]
    return xarray.Dataset(
        {
            "lam": (("variant", "seed", "layers"), lam),
            "law_lam": (("variant", "layers"), predicted),
            "lost": (("padding", "image", "seed"), lost),
            "variance": (("depth", "seed", "position"), variances),
            "law_variance": (
                ("depth", "position"),
                [SIGMA_W**2 * power @ uniform for power in through],
            ),
            "law_deep": ("deep", [_law(variants[0], DEEP + i) for i in range(2)]),
            "law_kept": _law(variants[2], DEEP),
        },
        {
            "variant": [variant.label for variant in variants],
            "layers": layers,
            "padding": paddings,
            "image": images,
            "side": ("image", [image[0] for image in size["sizes"]]),
            "axes": ("image", [len(image) for image in size["sizes"]]),
            "depth": depths,
            "position": np.arange(1, POSITIONS + 1),
        },
    )


def _variants() -> tuple[_Variant, ...]:
    """Return the networks of the left panel."""
    kept = SIGMA_W / math.sqrt(_factor(POSITIONS, axes=1))
    he_with_zeros = _Variant(
        padding="same", scheme="gaussian", sigma_w=SIGMA_W, label="He, zeros"
    )
    return (
        he_with_zeros,
        he_with_zeros._replace(padding="circular", label="He, circular"),
        he_with_zeros._replace(sigma_w=kept, label="He over √factor, zeros"),
        he_with_zeros._replace(
            scheme="delta_orthogonal", label="delta-orthogonal, zeros"
        ),
    )


def _label(image: tuple[int, ...]) -> str:
    """Return the size of an image in words: "4 × 4"."""
    return " × ".join(map(str, image))


def _factor(positions: int, axes: int) -> float:
    """Return the claim: what a layer leaves of the variance."""
    per_axis = (1 + 2 * math.cos(math.pi / (positions + 1))) / TAPS
    return per_axis**axes


def _average() -> Float[np.ndarray, "positions positions"]:
    """Return A: the mean over the window, in which zeros stand outside the image."""
    near = [np.eye(POSITIONS, k=offset) for offset in (-1, 0, 1)]
    return np.sum(near, axis=0) / TAPS


def _law(variant: _Variant, depth: int) -> float:
    """Return E lam of a network as the library predicts it."""
    # Zeros change nothing for kernels of one tap, nor does a circle have margins: both
    # lose what a dense layer loses, and that is nothing at the critical scale.
    if variant.padding == "circular" or variant.scheme == "delta_orthogonal":
        law = theory.jacobian_law(ACTIVATION, depth=depth, q=1.0)
        return float(law.moment(1))
    moments = theory.same_padding_moments(
        ACTIVATION, depth, TAPS, size=(POSITIONS,), sigma_w=variant.sigma_w
    )
    return moments.mean


def _lam(variant: _Variant, keys: Key, size: dict) -> Float[np.ndarray, "seeds layers"]:
    """Measure the mean of lam from each layer to the output, nearest layer first."""
    # One channel at the end makes exact norms cheap: a reverse pass for each position.
    channels = [size["channels"]] * (size["layers"] + 1) + [1]
    net = networks.cnn(
        channels,
        (POSITIONS,),
        TAPS,
        activation=ACTIVATION,
        scheme=variant.scheme,
        padding=variant.padding,
        sigma_w=variant.sigma_w,
        bias=False,
    )
    xs = jnp.ones((1, POSITIONS, size["channels"]))
    signals = isometry.signals(net, keys, xs)
    before_output = [signals.at(name).apjn[:, 0] for name in _hidden(signals)]
    return np.stack(before_output[::-1], axis=1)


def _hidden(signals: isometry.Signals) -> list[str]:
    """Return the names of the pre-activations before the output."""
    return [
        name
        for name in signals.points
        if name.startswith("layers/") and ":" not in name
    ][:-1]


def _lost(
    image: tuple[int, ...], padding: str, keys: Key
) -> Float[np.ndarray, " seeds"]:
    """Measure what is left of the variance after `LOSING` layers."""
    # The eigenvector of A, axis by axis: inputs with its variances fall by the same
    # factor in all layers.
    profile = np.ones(())
    for positions in image:
        position = np.arange(1, positions + 1)
        wave = np.sin(np.pi * position / (positions + 1))
        profile = np.multiply.outer(profile, wave / wave.mean())
    # In two dimensions there are nine taps a channel, and more positions to average.
    channels = {1: 64, 2: 32}[len(image)]
    net = _he(image, LOSING, padding=padding, channels=channels)
    squares = _squares(net, keys, profile)
    # The first layer reads x itself, which no ReLU has halved.
    return squares.reshape(len(keys), -1).mean(axis=1) / SIGMA_W**2


def _he(
    image: tuple[int, ...], layers: int, *, padding: str, channels: int
) -> networks.Network:
    """Return a network with He weights."""
    return networks.cnn(
        [channels] * (layers + 1),
        image,
        TAPS,
        activation=ACTIVATION,
        scheme="gaussian",
        padding=padding,
        sigma_w=SIGMA_W,
        bias=False,
    )


def _squares(
    net: networks.Network, keys: Key, variances: Float[np.ndarray, "*image"]
) -> Float[np.ndarray, "seeds *image"]:
    """Measure the mean square of the output at each position.

    Args:
        net: A convolutional network.
        keys: One for each draw of it.
        variances: The squares of the input, the same in all channels.
    """
    x = jnp.sqrt(jnp.asarray(variances, jnp.float32))
    x = jnp.broadcast_to(x[..., None], net.example.shape)

    def by_position(key: Key) -> Float[Array, "*image"]:
        output = net(net.init(key), x)
        return jnp.mean(output**2, axis=-1)

    # One network at a time: a batch of kernels is a grouped convolution, which takes
    # ten times as long on CPUs.
    for_all = jax.jit(functools.partial(jax.lax.map, by_position))
    return np.asarray(for_all(keys))


def _loss(data: xarray.Dataset) -> tuple[xarray.DataArray, xarray.DataArray]:
    """Return the share that is lost in a layer, and its standard error."""
    same = data.lost.sel(padding="same")
    circular = data.lost.sel(padding="circular")
    ratio = same.mean("seed") / circular.mean("seed")
    # The error of a ratio of means of the same networks, to first order.
    residual = (same - ratio * circular).std("seed", ddof=1)
    root = math.sqrt(data.sizes["seed"])
    error = residual / circular.mean("seed") / root
    # The geometric mean over the layers.
    factor = ratio ** (1 / LOSING)
    return 1 - factor, factor * error / ratio / LOSING


def _off(measured: xarray.DataArray, expected: xarray.DataArray) -> xarray.DataArray:
    """Return how many standard errors means over seeds are off."""
    return mean(measured, axis="seed").gap(expected)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare networks with theory, and theory with closed forms.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    seeds = data.sizes["seed"]
    # Depths share their networks, so that Bonferroni over all of them is cautious.
    num_means = data.law_lam.size
    of_layers = _off(data.lam, data.law_lam)
    off = of_layers.max("layers")
    rows = [
        Compared(
            f"E lam, {variant}: off theory, standard errors",
            float(off.sel(variant=variant)),
            high=t_bound(num_means, seeds),
        )
        for variant in data.variant.values
    ]
    rows += _losses(data)
    at_margin = _off(data.variance, data.law_variance)
    rows.append(
        Compared(
            "variance by position: off A^L 1, standard errors",
            largest(at_margin),
            high=t_bound(at_margin.size, seeds),
        )
    )
    return settled([*rows, *_closed_forms(data)])


def _losses(data: xarray.Dataset) -> list[Compared]:
    """Compare the factors per layer with the claim."""
    loss, error = _loss(data)
    bound = t_bound(loss.size, data.sizes["seed"])
    rows = []
    for image, side, axes in zip(
        data.image.values, data.side.values, data.axes.values, strict=True
    ):
        expected = _factor(int(side), axes=int(axes))
        found = 1 - float(loss.sel(image=image))
        tolerance = bound * float(error.sel(image=image))
        rows.append(
            within(
                f"left by a layer, {image} positions",
                found,
                expected,
                tolerance=tolerance,
            )
        )
    return rows


def _closed_forms(data: xarray.Dataset) -> list[Compared]:
    """Compare theory at great depth with the closed forms."""
    factor = float(data.law_deep[1] / data.law_deep[0])
    # Rounding of DEEP factors.
    rounding = DEEP * float(np.finfo(float).eps)
    half_angle = math.pi / (2 * (POSITIONS + 1))
    kept = 2 / math.tan(half_angle) ** 2 / (POSITIONS * (POSITIONS + 1))
    average = _average()
    expected = []
    for depth in data.layers.values:
        power = np.linalg.matrix_power(average, int(depth))
        expected.append(power.sum() / POSITIONS)
    relative = data.law_lam[0] / np.array(expected)
    off = largest(abs(relative - 1))
    return [
        within(
            "theory: 1ᵀA^L 1/n, largest relative difference",
            off,
            0.0,
            tolerance=rounding,
        ),
        within(
            f"theory: factor of layer {DEEP + 1}",
            factor,
            _factor(POSITIONS, axes=1),
            tolerance=rounding,
        ),
        within(
            f"theory: E lam kept at depth {DEEP}, rescaled",
            float(data.law_kept),
            kept,
            tolerance=rounding,
        ),
    ]


def plot(data: xarray.Dataset) -> "Figure":
    """Draw E lam over depth, the loss over the side, and variances by position.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, left, middle, right = three_panels(height=2.5, width=2.7)
    _draw_lam(left, data)
    _draw_loss(middle, data)
    _draw_variances(right, data)
    _style.legend(figure, left, ncols=4)
    return figure


def _draw_lam(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw E lam against depth."""
    lam = mean(data.lam, axis="seed")
    num_variants = data.sizes["variant"]
    for i, variant in enumerate(data.variant.values):
        # Each has depths of its own, so that no mark hides another.
        shown = slice(i, None, num_variants)
        some = lam.at(variant=variant).part(layers=shown)
        some.draw(ax, data.layers[shown], i, label=variant)
        dashes = ("-", "-", "-", (0, (4, 3)))[i]
        predicted = data.law_lam.sel(variant=variant)
        _style.line(ax, data.layers, y=predicted, i=i, ls=dashes)
    ax.set(
        xlabel="layers",
        ylabel="mean of λ",
        title=f"ReLU, {POSITIONS} positions (lines: theory)",
        ylim=(0, None),
    )


def _draw_loss(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the loss per layer against the number of positions along an axis."""
    loss, error = _loss(data)
    sides = np.geomspace(1.7, 40, 100)
    for axes, name in enumerate(("n", "n × n"), start=1):
        # Colours that the left panel does not use.
        i = 3 + axes
        some = data.axes == axes
        _style.dots(
            ax,
            data.side[some],
            loss[some],
            error=2 * error[some],
            i=i,
            label=f"{name} positions",
        )
        expected = [1 - _factor(side, axes=axes) for side in sides]
        _style.line(ax, sides, y=expected, i=i)
    # Images of one and of two axes share their sides.
    _style.ticks(ax, np.unique(data.side))
    ax.set(
        xlabel="positions along an axis, n",
        ylabel="variance lost in a layer",
        title="He, zeros (lines: closed form)",
        yscale="log",
    )
    ax.legend(loc="lower left")


def _draw_variances(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the variance of signals by position, over that of the input."""
    scale = SIGMA_W**2
    variance = mean(data.variance, axis="seed").per(scale)
    for i, depth in enumerate(data.depth.values):
        variance.at(depth=depth).draw_with_line(
            ax,
            data.position,
            i,
            predicted=data.law_variance.sel(depth=depth) / scale,
            label=f"layer {depth}",
        )
    ax.set(
        xlabel="position",
        ylabel="variance over that of the input",
        title="He, zeros (lines: $A^L 1$)",
        ylim=(0, 1.35),
    )
    ax.legend(loc="upper center", ncols=len(data.depth))
