"""The residual part of the zoo: dense and convolutional blocks."""

import functools
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.zoo import _plants
from benchmarks.zoo._case import NOT_OF_CHOSEN, Case, Plant, Weights
from benchmarks.zoo._plants import NEAR, Units, view
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


_FIRST_STEP = "zero_gradient"
_BRANCH = ("blocks/first/w", "blocks/second/w")


def _case(
    name: str,
    build: Callable[[], Network],
    plant: Plant | None = None,
    raised: str = "",
    *,
    unasked: str = "",
    also_clear: str = "",
) -> Case:
    """Return a case of vectors."""
    return Case(
        f"residual-{name}",
        build,
        _VECTOR,
        plant=plant,
        raised=raised,
        unasked=unasked,
        also_clear=also_clear,
    )


def _image_case(
    name: str,
    plant: Plant | None = None,
    raised: str = "",
    *,
    unasked: str = "",
    also_clear: str = "",
) -> Case:
    """Return a case of images."""
    name = f"residual-images{name}"
    return Case(
        name,
        _images,
        _IMAGE,
        plant=plant,
        raised=raised,
        unasked=unasked,
        also_clear=also_clear,
    )


CASES = (
    _case("dense", _dense),
    _case("dense-constant", _dense, _plants.constant, "locked_symmetry"),
    # The last layer of each branch at zero: the first has no gradient in one step.
    _case(
        "dense-zero_second",
        _dense,
        partial(_plants.zero, names=("blocks/second/w",)),
        _FIRST_STEP,
        also_clear="vanishing rank_collapse",
    ),
    # The first and the last at zero: each waits for the other.
    _case(
        "dense-zero_branch",
        _dense,
        partial(_plants.zero, names=_BRANCH),
        "zero_gradient dead_branch locked_symmetry",
        unasked="dead_units",
        also_clear="vanishing rank_collapse",
    ),
    # The multiplier at zero: weights have no gradient in one step, it has.
    _case(
        "dense-rezero",
        _dense,
        partial(_plants.zero, names=("blocks/branch",)),
        _FIRST_STEP,
        also_clear="vanishing rank_collapse",
    ),
    # The multiplier and the last layer at zero: each waits for the other.
    _case(
        "dense-rezero_zero_second",
        _dense,
        partial(_plants.zero, names=("blocks/branch", "blocks/second/w")),
        "zero_gradient dead_branch",
        unasked="locked_symmetry",
        also_clear="vanishing rank_collapse",
    ),
    # Equal blocks read different values, so that training parts them.
    _case(
        "dense-equal_blocks",
        _dense,
        partial(_plants.equal_blocks, prefix="blocks/"),
        "duplicate_blocks",
    ),
    _case(
        "dense-near_equal_blocks",
        _dense,
        partial(_plants.equal_blocks, prefix="blocks/", near=NEAR),
    ),
    _case("dense-twin", _dense, partial(_plants.twin, find=_hidden), "locked_symmetry"),
    _case("dense-near_twin", _dense, partial(_plants.twin, find=_hidden, near=NEAR)),
    # A bias of -100 keeps relu at zero for all inputs there are, but locks nothing: an
    # input that is large enough would wake it.
    _case(
        "dense-dead",
        _dense,
        partial(_plants.kill, name="blocks/first/b", count=6, index=1),
        "dead_units",
        unasked="locked_symmetry",
    ),
    _case(
        "dense-zero_head",
        _dense,
        partial(_plants.zero, names=("head/w",)),
        "zero_gradient vanishing",
    ),
    # The head is zero as well, and with it the whole Jacobian.
    _case(
        "fixup",
        _fixup,
        raised="zero_gradient vanishing",
        unasked="rank_constrained_training rank_collapse ordered_phase below_floor",
    ),
    _case("flax", _flax),
    # Gamma of the last norm is zero: the branch waits one step, as with a last layer.
    _case(
        "flax-zero_gamma",
        _flax,
        partial(
            _plants.zero,
            names=("params/gamma_0/scale", "params/gamma_1/scale"),
        ),
        _FIRST_STEP,
        also_clear="vanishing rank_collapse",
    ),
    # Gamma and the last layer at zero: each waits for the other.
    _case(
        "flax-zero_gamma_second",
        _flax,
        partial(
            _plants.zero,
            names=("params/gamma_0/scale", "params/second_0/kernel"),
        ),
        "zero_gradient dead_branch",
        unasked="locked_symmetry dead_units",
    ),
    # Its blocks are equal bit for bit, by design and not by a key that is used twice.
    _case("zer_o", _zer_o, unasked=NOT_OF_CHOSEN),
    _case("pre_norm", _pre_norm),
    _case(
        "pre_norm-equal_blocks",
        _pre_norm,
        partial(_plants.equal_blocks, prefix="blocks/"),
        "duplicate_blocks",
    ),
    _case(
        "pre_norm-opposite",
        _pre_norm,
        partial(_plants.twin, find=_hidden, sign=-1.0),
        "locked_symmetry",
    ),
    _case(
        "pre_norm-saturated",
        _pre_norm,
        partial(_plants.saturate, name="blocks/first/b", index=1),
        "saturated_units",
    ),
    _case("post_norm", _post_norm),
    _case(
        "post_norm-twin",
        _post_norm,
        partial(_plants.twin, find=_hidden),
        "locked_symmetry",
    ),
    # ln s grows by ln(2)/2 a block, 13.9 in all; scaled, by 0.5 in all.
    _case(
        "deep",
        _deep,
        raised="exploding chaotic_phase",
        unasked="below_floor rank_collapse rank_constrained_training",
    ),
    _case(
        "deep_scaled",
        _deep_scaled,
        unasked="below_floor rank_collapse rank_constrained_training",
    ),
    Case("residual-linear", _linear, (16,), also_clear="outlier_dominated"),
    Case(
        "residual-linear-outlier",
        _linear,
        (16,),
        plant=_outlier,
        raised="outlier_dominated",
    ),
    Case("residual-wide", _wide, (24,), also_clear="outlier_dominated"),
    Case(
        "residual-wide-outlier",
        _wide,
        (24,),
        plant=_outlier,
        raised="outlier_dominated",
    ),
    # The branch, of squared gain 1/4, gets a hundred times the scale in two factors:
    # ln s grows by 3.9 a block.
    Case(
        "residual-wide-large",
        _wide,
        (24,),
        plant=partial(_plants.scale, factor=10.0),
        raised="exploding chaotic_phase",
    ),
    _image_case(""),
    _image_case("-twin", partial(_plants.twin, find=_hidden), "locked_symmetry"),
    _image_case("-near_twin", partial(_plants.twin, find=_hidden, near=NEAR)),
    _image_case(
        "-equal_blocks",
        partial(_plants.equal_blocks, prefix="params/blocks/"),
        "duplicate_blocks",
    ),
    # The norm before the branch puts out zeros, at which relu has no slope.
    _image_case(
        "-zero_norm",
        partial(_plants.zero, names=("params/blocks/norm/scale",)),
        "zero_gradient dead_branch",
        unasked="locked_symmetry dead_units",
    ),
    _image_case(
        "-zero_second",
        partial(_plants.zero, names=("params/blocks/second/w",)),
        _FIRST_STEP,
    ),
    _image_case(
        "-zero_head",
        partial(_plants.zero, names=("params/head/w",)),
        "zero_gradient vanishing",
    ),
)
