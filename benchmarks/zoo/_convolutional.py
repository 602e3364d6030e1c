"""The convolutional part of the zoo: 8x8 images, 8 channels, and smaller ones."""

import functools
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.zoo import _plants
from benchmarks.zoo._case import NOT_OF_CHOSEN, Weights
from benchmarks.zoo._family import Family
from benchmarks.zoo._plants import Units, view
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


# The head puts out nothing: all inputs are one.
_SILENT = "zero_gradient vanishing rank_collapse"
_EQUAL = "locked_symmetry rank_constrained_training"
_ISOMETRY = "anisometric outlier_dominated"
# By chance one of few values vanishes, or all inputs become one.
_NOT_OF_DEEP = (
    "vanishing ordered_phase rank_collapse rank_constrained_training zero_gradient"
)

CIRCULAR = Family("conv-circular", _circular, _IMAGE)
SAME = Family("conv-same", _same, _IMAGE)
DEPTHWISE = Family("conv-depthwise", _depthwise, _IMAGE)
LINEAR = Family("conv-linear", _linear, (4, 4, 4))
GAUSSIAN = Family("conv-linear-gaussian", _gaussian, (2, 2, 4))
BATCH_NORM = Family("conv-flax-batch_norm", _batch_norm, _IMAGE)

_OF_CIRCULAR = (
    CIRCULAR.healthy(),
    CIRCULAR.constant(_EQUAL, window=9),
    # Channels 4 to 7 have no weights in and none out, and tanh(0) = 0.
    CIRCULAR.broken("dirac", _dirac, "locked_symmetry dead_units"),
    CIRCULAR.zero_head("head/w"),
    CIRCULAR.cut_off(_channels),
    *CIRCULAR.pairs(_channels, "twin opposite near_twin"),
    CIRCULAR.broken(
        "saturated",
        partial(_plants.saturate, name="layers/1/b", index=0),
        "saturated_units vanishing",
    ),
    # Slopes of 1 at most and weights of 0.02: ln s falls by 3.9 a layer.
    CIRCULAR.broken(
        "tiny", partial(_plants.scale, factor=0.02), "vanishing ordered_phase"
    ),
    Family("conv-circular-zer_o", _zer_o, _IMAGE).healthy(unasked=NOT_OF_CHOSEN),
)

_OF_SAME = (
    SAME.healthy(),
    SAME.constant(_EQUAL, window=9),
    SAME.broken(
        "half_dead",
        partial(_plants.kill, name="layers/1/b", count=4, index=1),
        "dead_units",
        unasked="locked_symmetry",
    ),
    SAME.broken(
        "dead_layer",
        partial(_plants.kill, name="layers/1/b", count=8, index=1),
        f"{_SILENT} dead_units",
        unasked="locked_symmetry",
    ),
    # relu has no slope at 0, so that no gradient passes the zeros, at any step.
    SAME.broken(
        "zero_layer",
        _zero_middle,
        f"{_SILENT} locked_symmetry",
        unasked="dead_units",
    ),
    SAME.zero_head("head/w"),
    SAME.broken("large", partial(_plants.scale, factor=10.0), "exploding"),
    SAME.broken("tiny", partial(_plants.scale, factor=0.1), "vanishing ordered_phase"),
    *SAME.pairs(_channels, "twin near_twin"),
    SAME.cut_off(_channels),
)

_OF_SMALL_IMAGES = (
    Family("conv-small-same", _small_same, (2, 2, 6)).healthy(
        raised="vanishing ordered_phase",
        unasked="rank_collapse below_floor rank_constrained_training dead_units",
    ),
    Family("conv-small-circular", _small_circular, (2, 2, 6)).healthy(),
)

_OF_DEPTHWISE = (
    DEPTHWISE.healthy(),
    *DEPTHWISE.pairs(_depthwise_channels, "twin near_twin"),
    DEPTHWISE.broken("opposite", _opposite_depthwise, "locked_symmetry"),
    DEPTHWISE.cut_off(_depthwise_channels),
    DEPTHWISE.zeroed("zero_layer", ["layers/1/w"], _SILENT, unasked="dead_units"),
)

# Isometries exactly, up to their scale.
_OF_LINEAR = (
    LINEAR.healthy(also_clear=_ISOMETRY),
    LINEAR.broken(
        "large",
        partial(_plants.scale, factor=10.0),
        "exploding chaotic_phase",
        also_clear=f"{_ISOMETRY} below_floor rank_collapse",
    ),
    LINEAR.broken(
        "tiny",
        partial(_plants.scale, factor=0.1),
        "vanishing ordered_phase",
        also_clear=f"{_ISOMETRY} below_floor",
    ),
    Family("conv-deep_linear", _deep_linear, (4, 4, 4)).healthy(also_clear=_ISOMETRY),
)

# Means of s^2 stay at 1, and one value of each block carries them.
_OF_GAUSSIAN = (
    GAUSSIAN.healthy(
        raised="anisometric",
        unasked="vanishing rank_collapse rank_constrained_training below_floor",
    ),
    Family("conv-linear-deep_gaussian", _deep_gaussian, (2, 2, 4)).healthy(
        raised="anisometric below_floor", unasked=_NOT_OF_DEEP
    ),
    Family("conv-line-deep_gaussian", _deep_line, (2, 4)).healthy(
        raised="anisometric below_floor", unasked=_NOT_OF_DEEP
    ),
)

_OF_BATCH_NORM = (
    BATCH_NORM.healthy(),
    BATCH_NORM.zero_head("params/head/kernel"),
    BATCH_NORM.constant(window=9),
    BATCH_NORM.cut_off(_normed_channels),
    *BATCH_NORM.pairs(_normed_channels, "twin near_twin"),
)

CASES = (
    *_OF_CIRCULAR,
    *_OF_SAME,
    *_OF_SMALL_IMAGES,
    *_OF_DEPTHWISE,
    *_OF_LINEAR,
    *_OF_GAUSSIAN,
    *_OF_BATCH_NORM,
)
