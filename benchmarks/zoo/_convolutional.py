"""The convolutional part of the zoo: 8x8 images, 8 channels, and smaller ones."""

import functools
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.zoo import _plants
from benchmarks.zoo._case import NOT_OF_CHOSEN, Case, Plant, Weights
from benchmarks.zoo._plants import NEAR, Units, view
from isometry import networks
from isometry.networks import Network

_IMAGE = (8, 8, 3)


@functools.cache
def _circular() -> Network:
    """Build three delta-orthogonal convolutions around the circle, tanh, and a head."""
    return networks.cnn([3, 8, 8, 8], (8, 8), head=4)


@functools.cache
def _same() -> Network:
    """Build four padded convolutions with relu and He weights; and a head."""
    return networks.cnn(
        [3, 8, 8, 8, 8],
        (8, 8),
        activation="relu",
        scheme="kaiming",
        padding="same",
        head=4,
    )


@functools.cache
def _zer_o() -> Network:
    """Build `_circular` by ZerO: kernels that pass channels on, or mix their signs."""
    return _circular().with_scheme("zer_o")


@functools.cache
def _depthwise() -> Network:
    """Build a convolution, a depthwise one, one of a single pixel, and a head."""
    return networks.cnn(
        [3, 8, 8, 8],
        (8, 8),
        kernel=[3, 3, 1],
        scheme="gaussian",
        groups=[1, 8, 1],
        head=4,
    )


@functools.cache
def _linear() -> Network:
    """Build a linear isometry: delta-orthogonal kernels around the circle, no head."""
    return networks.cnn([4] * 5, (4, 4), activation="linear", sigma_w=1.0)


@functools.cache
def _gaussian() -> Network:
    """Build thirteen linear Gaussian convolutions of 2x2 pixels.

    The law of each frequency is that of a product of 4x4 Gaussian matrices: the
    variance of s^2 grows by its squared mean a layer, to at most 15, its value of one
    in sixteen.
    """
    return networks.cnn(
        [4] * 14, (2, 2), activation="linear", scheme="gaussian", sigma_w=1.0
    )


@functools.cache
def _deep_gaussian() -> Network:
    """Build one hundred and ninety-two of them.

    Lyapunov exponents of the first and the second value of a 4x4 block differ by
    (psi(2) - psi(3/2))/2 = 0.19 a layer (Newman, 1986): the second falls by e^-37, and
    three values of four are below the floor of e^-12.
    """
    return networks.cnn(
        [4] * 193, (2, 2), activation="linear", scheme="gaussian", sigma_w=1.0
    )


@functools.cache
def _deep_line() -> Network:
    """Build as many of a line of two pixels."""
    return networks.cnn(
        [4] * 193, (2,), activation="linear", scheme="gaussian", sigma_w=1.0
    )


@functools.cache
def _deep_linear() -> Network:
    """Build twelve delta-orthogonal kernels, an isometry too."""
    return networks.cnn([4] * 13, (4, 4), activation="linear", sigma_w=1.0)


@functools.cache
def _small_same() -> Network:
    """Build eighteen padded convolutions of an image of 2x2 pixels, with He weights.

    Of the nine pixels of a window four lie in the image, so that each layer keeps 4/9
    of the mean square: ln s falls by 0.41 a layer, 7.3 in all, and E|dz|^2 by 13.8.
    """
    return networks.cnn(
        [6] * 19, (2, 2), activation="relu", scheme="kaiming", padding="same"
    )


@functools.cache
def _small_circular() -> Network:
    """Build six convolutions around the circle of an image of 2x2 pixels."""
    return networks.cnn([6] * 7, (2, 2))


class _Classifier(nn.Module):
    """Two convolutions with batch norm, a global average, and a dense head."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        for i in range(2):
            x = nn.Conv(8, (3, 3), name=f"conv_{i}", use_bias=False)(x)
            norm = nn.BatchNorm(use_running_average=not train, name=f"norm_{i}")
            x = nn.relu(norm(x))
        return nn.Dense(4, name="head")(x.mean((-3, -2)))


@functools.cache
def _batch_norm() -> Network:
    """Build a Flax CNN with batch norm."""
    return networks.flax(_Classifier(), jnp.zeros(_IMAGE))


def _channels(weights: Weights) -> Units:
    """Return the channels of the second layer of `_circular` and of `_same`."""
    stacked, biases = weights["layers/1/w"], weights["layers/1/b"]
    return Units(into=[view(stacked[0], -1), biases[0]], out=[view(stacked[1], -2)])


def _depthwise_channels(weights: Weights) -> Units:
    """Return channels from the first layer to behind the depthwise one."""
    return Units(
        into=[
            view(weights["layers/0/w"], -1),
            weights["layers/0/b"],
            view(weights["layers/1/w"], -1),
            weights["layers/1/b"],
        ],
        out=[view(weights["layers/2/w"], -2)],
    )


def _opposite_depthwise(weights: Weights) -> None:
    """Make a channel opposite to another: its first layer and its reader negated."""
    for name, axis in (("layers/0/w", -1), ("layers/0/b", -1), ("layers/2/w", -2)):
        part = view(weights[name], axis)
        part[1] = -part[0]
    # The depthwise kernel passes the sign on.
    for name in ("layers/1/w", "layers/1/b"):
        part = view(weights[name], -1)
        part[1] = part[0]


def _normed_channels(weights: Weights) -> Units:
    """Return the channels of the first layer of `_batch_norm`, with their norm."""
    return Units(
        into=[
            view(weights["params/conv_0/kernel"], -1),
            weights["params/norm_0/scale"],
            weights["params/norm_0/bias"],
        ],
        out=[view(weights["params/conv_1/kernel"], -2)],
    )


def _dirac(weights: Weights) -> None:
    """Make kernels pass channels on as they are, and the head read the first four."""
    for name in ("layers/0/w", "layers/1/w"):
        kernels = weights[name]
        size = min(kernels.shape[-2:])
        kernels[...] = 0
        for channel in range(size):
            kernels[..., 1, 1, channel, channel] = 1
    head = weights["head/w"]
    head[...] = 0
    for output in range(head.shape[1]):
        head[output, output] = 1


def _zero_middle(weights: Weights) -> None:
    """Set the kernel of the third convolution to zero."""
    weights["layers/1/w"][1] = 0


_HEAD = "zero_gradient vanishing"
_SILENT = "zero_gradient vanishing rank_collapse"


def _case(
    name: str,
    build: Callable[[], Network],
    plant: Plant | None = None,
    raised: str = "",
    *,
    unasked: str = "",
    also_clear: str = "",
) -> Case:
    """Return a case of 8x8 images."""
    return Case(
        f"conv-{name}",
        build,
        _IMAGE,
        plant=plant,
        raised=raised,
        unasked=unasked,
        also_clear=also_clear,
    )


CASES = (
    # Around the circle, tanh.
    _case("circular", _circular),
    _case(
        "circular-constant",
        _circular,
        partial(_plants.constant, window=9),
        "locked_symmetry rank_constrained_training",
    ),
    # Channels 4 to 7 have no weights in and none out, and tanh(0) = 0.
    _case("circular-dirac", _circular, _dirac, "locked_symmetry dead_units"),
    _case(
        "circular-zero_head",
        _circular,
        partial(_plants.zero, names=("head/w",)),
        _HEAD,
    ),
    _case(
        "circular-dead",
        _circular,
        partial(_plants.cut_off, find=_channels, count=3),
        "locked_symmetry dead_units",
        unasked="zero_gradient",
    ),
    _case(
        "circular-twin",
        _circular,
        partial(_plants.twin, find=_channels),
        "locked_symmetry",
    ),
    _case(
        "circular-opposite",
        _circular,
        partial(_plants.twin, find=_channels, sign=-1.0),
        "locked_symmetry",
    ),
    _case(
        "circular-near_twin",
        _circular,
        partial(_plants.twin, find=_channels, near=NEAR),
    ),
    _case(
        "circular-saturated",
        _circular,
        partial(_plants.saturate, name="layers/1/b", index=0),
        "saturated_units vanishing",
    ),
    # Slopes of 1 at most and weights of 0.02: ln s falls by 3.9 a layer.
    _case(
        "circular-tiny",
        _circular,
        partial(_plants.scale, factor=0.02),
        "vanishing ordered_phase",
    ),
    _case("circular-zer_o", _zer_o, unasked=NOT_OF_CHOSEN),
    # Padded, relu.
    _case("same", _same),
    _case(
        "same-constant",
        _same,
        partial(_plants.constant, window=9),
        "locked_symmetry rank_constrained_training",
    ),
    _case(
        "same-half_dead",
        _same,
        partial(_plants.kill, name="layers/1/b", count=4, index=1),
        "dead_units",
        unasked="locked_symmetry",
    ),
    _case(
        "same-dead_layer",
        _same,
        partial(_plants.kill, name="layers/1/b", count=8, index=1),
        f"{_SILENT} dead_units",
        unasked="locked_symmetry",
    ),
    # relu has no slope at 0, so that no gradient passes the zeros, at any step.
    _case(
        "same-zero_layer",
        _same,
        _zero_middle,
        f"{_SILENT} locked_symmetry",
        unasked="dead_units",
    ),
    _case("same-zero_head", _same, partial(_plants.zero, names=("head/w",)), _HEAD),
    _case("same-large", _same, partial(_plants.scale, factor=10.0), "exploding"),
    _case(
        "same-tiny",
        _same,
        partial(_plants.scale, factor=0.1),
        "vanishing ordered_phase",
    ),
    _case("same-twin", _same, partial(_plants.twin, find=_channels), "locked_symmetry"),
    _case("same-near_twin", _same, partial(_plants.twin, find=_channels, near=NEAR)),
    _case(
        "same-dead",
        _same,
        partial(_plants.cut_off, find=_channels, count=3),
        "locked_symmetry dead_units",
        unasked="zero_gradient",
    ),
    # Small images.
    Case(
        "conv-small-same",
        _small_same,
        (2, 2, 6),
        raised="vanishing ordered_phase",
        unasked="rank_collapse below_floor rank_constrained_training dead_units",
    ),
    Case("conv-small-circular", _small_circular, (2, 2, 6)),
    # Depthwise.
    _case("depthwise", _depthwise),
    _case(
        "depthwise-twin",
        _depthwise,
        partial(_plants.twin, find=_depthwise_channels),
        "locked_symmetry",
    ),
    _case("depthwise-opposite", _depthwise, _opposite_depthwise, "locked_symmetry"),
    _case(
        "depthwise-near_twin",
        _depthwise,
        partial(_plants.twin, find=_depthwise_channels, near=NEAR),
    ),
    _case(
        "depthwise-dead",
        _depthwise,
        partial(_plants.cut_off, find=_depthwise_channels, count=3),
        "locked_symmetry dead_units",
        unasked="zero_gradient",
    ),
    _case(
        "depthwise-zero_layer",
        _depthwise,
        partial(_plants.zero, names=("layers/1/w",)),
        _SILENT,
        unasked="dead_units",
    ),
    # Linear: an isometry exactly.
    Case(
        "conv-linear",
        _linear,
        (4, 4, 4),
        also_clear="anisometric outlier_dominated",
    ),
    Case(
        "conv-linear-large",
        _linear,
        (4, 4, 4),
        partial(_plants.scale, factor=10.0),
        "exploding chaotic_phase",
        also_clear="anisometric outlier_dominated below_floor rank_collapse",
    ),
    Case(
        "conv-linear-tiny",
        _linear,
        (4, 4, 4),
        partial(_plants.scale, factor=0.1),
        "vanishing ordered_phase",
        also_clear="anisometric outlier_dominated below_floor",
    ),
    # Means of s^2 stay at 1, and one value of each block carries them.
    Case(
        "conv-linear-gaussian",
        _gaussian,
        (2, 2, 4),
        raised="anisometric",
        unasked="vanishing rank_collapse rank_constrained_training below_floor",
    ),
    Case(
        "conv-linear-deep_gaussian",
        _deep_gaussian,
        (2, 2, 4),
        raised="anisometric below_floor",
        unasked=(
            "vanishing ordered_phase rank_collapse rank_constrained_training "
            "zero_gradient"
        ),
    ),
    Case(
        "conv-line-deep_gaussian",
        _deep_line,
        (2, 4),
        raised="anisometric below_floor",
        unasked=(
            "vanishing ordered_phase rank_collapse rank_constrained_training "
            "zero_gradient"
        ),
    ),
    Case(
        "conv-deep_linear",
        _deep_linear,
        (4, 4, 4),
        also_clear="anisometric outlier_dominated",
    ),
    # Flax, with batch norm.
    _case("flax-batch_norm", _batch_norm),
    _case(
        "flax-batch_norm-zero_head",
        _batch_norm,
        partial(_plants.zero, names=("params/head/kernel",)),
        _HEAD,
    ),
    _case(
        "flax-batch_norm-constant",
        _batch_norm,
        partial(_plants.constant, window=9),
        "locked_symmetry",
    ),
    _case(
        "flax-batch_norm-dead",
        _batch_norm,
        partial(_plants.cut_off, find=_normed_channels, count=3),
        "locked_symmetry dead_units",
        unasked="zero_gradient",
    ),
    _case(
        "flax-batch_norm-twin",
        _batch_norm,
        partial(_plants.twin, find=_normed_channels),
        "locked_symmetry",
    ),
    _case(
        "flax-batch_norm-near_twin",
        _batch_norm,
        partial(_plants.twin, find=_normed_channels, near=NEAR),
    ),
)
