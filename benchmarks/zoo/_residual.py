"""The residual part of the zoo: dense and convolutional blocks."""

import functools
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.zoo import _plants
from benchmarks.zoo._case import NOT_OF_CHOSEN, Weights
from benchmarks.zoo._family import Family
from benchmarks.zoo._plants import Units, view
from isometry import networks
from isometry.networks import Network

_VECTOR, _IMAGE = (8,), (4, 4, 3)


@functools.cache
def _dense() -> Network:
    """Build three blocks of two layers, relu, between a stem and a head."""
    return networks.resnet(12, 3, n_in=8, n_out=4, branch=0.5)


@functools.cache
def _fixup() -> Network:
    """Build the same by Fixup: the last layer of each block, and the head, are zero."""
    return networks.resnet(12, 3, n_in=8, n_out=4, scheme="fixup")


@functools.cache
def _zer_o() -> Network:
    """Build `_dense` by ZerO: equal blocks by design, of few different entries."""
    return _dense().with_scheme("zer_o")


class _Blocks(nn.Module):
    """Two dense blocks with batch norm behind each layer, and a dense head."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        for i in range(2):
            h = nn.Dense(8, name=f"first_{i}")(x)
            norm = nn.BatchNorm(use_running_average=not train, name=f"norm_{i}")
            h = nn.relu(norm(h))
            h = nn.Dense(8, name=f"second_{i}")(h)
            norm = nn.BatchNorm(use_running_average=not train, name=f"gamma_{i}")
            x = x + norm(h)
        return nn.Dense(4, name="head")(x)


@functools.cache
def _flax() -> Network:
    """Build residual blocks of Flax."""
    return networks.flax(_Blocks(), jnp.zeros(_VECTOR))


@functools.cache
def _pre_norm() -> Network:
    """Build blocks that normalize what their branch reads, tanh."""
    return networks.resnet(12, 3, "tanh", n_in=8, n_out=4, norm="layer", branch=0.5)


@functools.cache
def _post_norm() -> Network:
    """Build blocks that normalize the sum."""
    return networks.resnet(12, 3, n_in=8, n_out=4, norm="layer", norm_at="post")


@functools.cache
def _deep() -> Network:
    """Build forty blocks with branches as large as the skips: E s^2 is about 2^40."""
    return networks.resnet(12, 40, n_in=8, n_out=4)


@functools.cache
def _deep_scaled() -> Network:
    """Build forty blocks whose branches have 1/40 of the square of the skips."""
    return networks.resnet(12, 40, n_in=8, n_out=4, branch=40**-0.5)


@functools.cache
def _linear() -> Network:
    """Build three linear blocks without stem or head."""
    return networks.resnet(16, 3, "linear", branch=0.5)


@functools.cache
def _wide() -> Network:
    """Build the same of 24 units."""
    return networks.resnet(24, 3, "linear", branch=0.5)


@functools.cache
def _images() -> Network:
    """Build three convolutional blocks with batch norm."""
    return networks.resnet(8, 3, n_in=3, n_out=4, size=(4, 4), norm="batch", branch=0.5)


def _hidden(weights: Weights) -> Units:
    """Return the hidden units of the second block."""
    prefix = "params/blocks" if "params/blocks/first/w" in weights else "blocks"
    return Units(
        into=[
            view(weights[f"{prefix}/first/w"][1], -1),
            weights[f"{prefix}/first/b"][1],
        ],
        out=[view(weights[f"{prefix}/second/w"][1], -2)],
    )


def _outlier(weights: Weights) -> None:
    """Add to each block 2 u u^T: a value of about 3 a block, apart from the bulk.

    One value of sixteen of 3^3 = 27 has a mean square of 46; the others, of about
    (1 + 1/4)^3, have 2. One of twenty-four has 30.
    """
    size = weights["blocks/first/w"].shape[-1]
    direction = np.ones(size, np.float32) / np.sqrt(np.float32(size))
    for first, second in zip(
        weights["blocks/first/w"], weights["blocks/second/w"], strict=True
    ):
        # The branch is 0.5 x first second; inverting `first` makes its part u u^T.
        read = np.linalg.solve(first, direction)
        second += 4 * np.outer(read, direction)


# Weights that wait for one step are no dead branch; the skips pass the signal on.
_FIRST_STEP = "zero_gradient"
_PASSED_ON = "vanishing rank_collapse"
_DEEP = "below_floor rank_collapse rank_constrained_training"
_FIRST, _SECOND, _BRANCH = "blocks/first/w", "blocks/second/w", "blocks/branch"

DENSE = Family("residual-dense", _dense, _VECTOR)
FLAX = Family("residual-flax", _flax, _VECTOR)
PRE_NORM = Family("residual-pre_norm", _pre_norm, _VECTOR)
POST_NORM = Family("residual-post_norm", _post_norm, _VECTOR)
LINEAR = Family("residual-linear", _linear, (16,))
WIDE = Family("residual-wide", _wide, (24,))
IMAGES = Family("residual-images", _images, _IMAGE)

_OF_DENSE = (
    DENSE.healthy(),
    DENSE.constant(),
    # The last layer of each branch at zero: the first has no gradient in one step.
    DENSE.zeroed("zero_second", [_SECOND], _FIRST_STEP, also_clear=_PASSED_ON),
    # The first and the last at zero: each waits for the other.
    DENSE.zeroed(
        "zero_branch",
        [_FIRST, _SECOND],
        "zero_gradient dead_branch locked_symmetry",
        unasked="dead_units",
        also_clear=_PASSED_ON,
    ),
    # The multiplier at zero: weights have no gradient in one step, it has.
    DENSE.zeroed("rezero", [_BRANCH], _FIRST_STEP, also_clear=_PASSED_ON),
    # The multiplier and the last layer at zero: each waits for the other.
    DENSE.zeroed(
        "rezero_zero_second",
        [_BRANCH, _SECOND],
        "zero_gradient dead_branch",
        unasked="locked_symmetry",
        also_clear=_PASSED_ON,
    ),
    DENSE.equal_blocks("blocks/"),
    DENSE.near_equal_blocks("blocks/"),
    *DENSE.pairs(_hidden, "twin near_twin"),
    # A bias of -100 keeps relu at zero for all inputs there are, but locks nothing: an
    # input that is large enough would wake it.
    DENSE.broken(
        "dead",
        partial(_plants.kill, name="blocks/first/b", count=6, index=1),
        "dead_units",
        unasked="locked_symmetry",
    ),
    DENSE.zero_head("head/w"),
)

_OF_CHOSEN = (
    # The head is zero as well, and with it the whole Jacobian.
    Family("residual-fixup", _fixup, _VECTOR).healthy(
        raised="zero_gradient vanishing",
        unasked="rank_constrained_training rank_collapse ordered_phase below_floor",
    ),
    # Its blocks are equal bit for bit, by design and not by a key that is used twice.
    Family("residual-zer_o", _zer_o, _VECTOR).healthy(unasked=NOT_OF_CHOSEN),
)

_OF_NORMS = (
    FLAX.healthy(),
    # Gamma of the last norm is zero: the branch waits one step, as with a last layer.
    FLAX.zeroed(
        "zero_gamma",
        ["params/gamma_0/scale", "params/gamma_1/scale"],
        _FIRST_STEP,
        also_clear=_PASSED_ON,
    ),
    # Gamma and the last layer at zero: each waits for the other.
    FLAX.zeroed(
        "zero_gamma_second",
        ["params/gamma_0/scale", "params/second_0/kernel"],
        "zero_gradient dead_branch",
        unasked="locked_symmetry dead_units",
    ),
    PRE_NORM.healthy(),
    PRE_NORM.equal_blocks("blocks/"),
    *PRE_NORM.pairs(_hidden, "opposite"),
    PRE_NORM.broken(
        "saturated",
        partial(_plants.saturate, name="blocks/first/b", index=1),
        "saturated_units",
    ),
    POST_NORM.healthy(),
    *POST_NORM.pairs(_hidden, "twin"),
)

# ln s grows by ln(2)/2 a block, 13.9 in all; scaled, by 0.5 in all.
_OF_DEPTH = (
    Family("residual-deep", _deep, _VECTOR).healthy(
        raised="exploding chaotic_phase", unasked=_DEEP
    ),
    Family("residual-deep_scaled", _deep_scaled, _VECTOR).healthy(unasked=_DEEP),
)

_OF_LINEAR = (
    LINEAR.healthy(also_clear="outlier_dominated"),
    LINEAR.broken("outlier", _outlier, "outlier_dominated"),
    WIDE.healthy(also_clear="outlier_dominated"),
    WIDE.broken("outlier", _outlier, "outlier_dominated"),
    # The branch, of squared gain 1/4, gets a hundred times the scale in two factors:
    # ln s grows by 3.9 a block.
    WIDE.broken(
        "large", partial(_plants.scale, factor=10.0), "exploding chaotic_phase"
    ),
)

_OF_IMAGES = (
    IMAGES.healthy(),
    *IMAGES.pairs(_hidden, "twin near_twin"),
    IMAGES.equal_blocks("params/blocks/"),
    # The norm before the branch puts out zeros, at which relu has no slope.
    IMAGES.zeroed(
        "zero_norm",
        ["params/blocks/norm/scale"],
        "zero_gradient dead_branch",
        unasked="locked_symmetry dead_units",
    ),
    IMAGES.zeroed("zero_second", ["params/blocks/second/w"], _FIRST_STEP),
    IMAGES.zero_head("params/head/w"),
)

CASES = (
    *_OF_DENSE,
    *_OF_CHOSEN,
    *_OF_NORMS,
    *_OF_DEPTH,
    *_OF_LINEAR,
    *_OF_IMAGES,
)
