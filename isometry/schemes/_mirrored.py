"""Looks-linear weights: a ReLU network that starts as a linear one of half its width.

Let the units before an activation be (u, -u), and let phi(u) - phi(-u) = u, as for
ReLU, GELU, SiLU and softplus. Then the block [[B, -B], [-B, B]] maps their activations
to (u B, -u B), which has the same form. The stem [B, -B] makes the first such pair, and
the head [B; -B] maps the last one to u B.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isometry._internal.errors import NotDefined
from isometry._internal.types import Initializer as Init
from isometry._internal.types import Key
from isometry.initializers import Initializer, delta_orthogonal, normal, orthogonal
from isometry.schemes import _scales
from isometry.schemes._layer import ATTENTION, Layer
from isometry.schemes._scheme import Choose, Scheme
from isometry.structure import Anatomy, WeightLayer

# Activations with phi(u) - phi(-u) = u.
_SPLITTING = ("relu", "gelu", "gelu_tanh", "silu", "softplus")

# Linear steps that act on both units of a pair alike, so phi(u) - phi(-u) stays u.
_LINEAR_STEPS = ("average", "average pool", "sum")

# The shape of a block B: that of its weight, with half the inputs and outputs where
# these come in pairs.
Half: TypeAlias = tuple[int, ...]


def _halves(role: str, shape: tuple[int, ...], reads: bool, writes: bool) -> Half:
    """Return the shape of the block B of a weight.

    Args:
        role: The role of the layer, for messages.
        shape: The shape of the weight.
        reads: Whether inputs come in pairs. Their number is then halved.
        writes: Whether outputs come in pairs, likewise.

    Raises:
        NotDefined: A number to be halved is odd.
    """
    for axis, halved, what in ((-2, reads, "inputs"), (-1, writes, "outputs")):
        if halved and shape[axis] % 2:
            raise NotDefined(
                f"the {role} of shape={shape} has {shape[axis]} {what}; hidden widths "
                "must be even, for its units come in pairs."
            )
    return (*shape[:-2], shape[-2] // (1 + reads), shape[-1] // (1 + writes))


def _paired(name: str, base: Callable[[Half], Init]) -> Choose:
    """Return the rule for a scheme whose weights are made of blocks B and -B.

    They are [B, -B] in the stem, [[B, -B], [-B, B]] in hidden layers, [B; -B] in the
    head, and B in a network of one layer.

    Args:
        name: The name of the scheme.
        base: A function from the shape of B to the initializer of B.
    """

    def choose(layer: Layer, sigma_w: float) -> Init:
        # The scheme is not free, so `sigma_w` has nothing to scale.
        del sigma_w
        if layer.role in (*ATTENTION, "recurrent"):
            raise NotDefined(
                f"role={layer.role!r} is no layer between activations; nothing to pair."
            )
        # The first layer reads inputs, which come without their negatives.
        reads = layer.index > 0 and layer.role not in ("stem", "embedding")
        writes = layer.role != "head"

        def draw(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Array:
            half = _halves(layer.role, shape, reads, writes=writes)
            block = base(half)(key, half, dtype)
            # The first and the second half of the channels are the units u and -u.
            if writes:
                block = jnp.concatenate([block, -block], -1)
            if reads:
                block = jnp.concatenate([block, -block], -2)
            return block

        return Initializer(
            name,
            repr(layer.role),
            draw,
            least_axes=2,
            why="a mirrored weight has at least two.",
        )

    return choose


def _isometry(shape: Half) -> Init:
    """Return the initializer of a block B that is an isometry."""
    # A kernel that is orthogonal as a flattened matrix is no isometry; one that is
    # orthogonal at its centre tap is.
    has_window = len(shape) > len(("in", "out"))
    return delta_orthogonal() if has_window else orthogonal()


def _gaussian(shape: Half) -> Init:
    """Return the initializer of a Gaussian block B, of variance 1/rows."""
    return normal(std=math.prod(shape[:-1]) ** -0.5)


def _require_pairs(anatomy: Anatomy) -> None:
    """Require that all layers but stems and embeddings read pairs (phi(u), phi(-u)).

    Raises:
        NotDefined: A layer reads something else.
    """
    by_name = {layer.name: layer for layer in anatomy.layers}
    for layer in anatomy.layers:
        # Embeddings and stems read no activations, so their inputs form no pairs.
        if layer.kind == "embedding" or layer.role == "stem":
            continue
        reason = _unpaired(layer, by_name)
        if layer.index > 0 and reason:
            raise NotDefined(
                f"layer {layer.name!r}: mirrored layers read pairs phi(u), phi(-u) "
                f"with phi(u) - phi(-u) = u, and {reason}."
            )


def _unpaired(layer: WeightLayer, by_name: dict[str, WeightLayer]) -> str:
    """Return why the inputs of a layer are not pairs, or "" if they are."""
    activation = _scales.precedes(layer, by_name)
    if layer.groups > 1:
        return "the channels of a pair are in different groups"
    if activation not in _SPLITTING:
        return f"this one reads {activation or 'no activation'}"
    source = _scales.source(layer, by_name)
    if source is None:
        return "where its inputs come from cannot be read"
    # Besides the activation, only linear steps may stand in between: a norm, for
    # example, treats the two units of a pair differently.
    steps = (*source.then, *layer.before)
    others = [step for step in steps if step.replace(" ", "_") != activation]
    strange = [step for step in others if step not in _LINEAR_STEPS]
    if strange:
        return f"before it comes {strange[0]}"
    # Flattening pixels interleaves the two halves of the channels, and concatenation
    # adds other values. Both change the number of inputs.
    outputs = math.prod(source.shape[axis] for axis in source.out_axes)
    inputs = math.prod(layer.shape[axis] for axis in layer.in_axes)
    if inputs != outputs:
        return f"it reads {inputs} values of a layer with {outputs} outputs"
    return ""


SCHEMES = (
    Scheme(
        "looks_linear",
        _paired("looks_linear", _isometry),
        "ReLU layers paired with their negatives, so that the network is an orthogonal "
        "linear one at the start",
        law="stem [B, -B], hidden [[B, -B], [-B, B]], head [B; -B], B Haar orthogonal "
        "of half the width (of a kernel: at the centre tap); half of the singular "
        "values of hidden weights are 2, half 0, yet the network is the product of the "
        "B; for ReLU, GELU, SiLU and softplus",
        isometric="end to end, even hidden widths whose halves run monotonically from "
        "inputs to outputs; between hidden layers half of the singular values are √2, "
        "half 0",
        citation="Balduzzi et al. (2017), arXiv:1702.08591",
        suits=_require_pairs,
        # Only whether the index is 0 counts, and layers in a row share that.
        alike=True,
    ),
    Scheme(
        "mirrored",
        _paired("mirrored", _gaussian),
        "ReLU layers paired with their negatives, so that the network is a Gaussian "
        "linear one at the start",
        law="as looks_linear, but B_ij ~ N(0, 1/rows of B), in hidden layers 2/fan_in: "
        "units keep their variance; end to end a product of Gaussian matrices",
        citation="Burkholz and Dubatovka (2019), arXiv:1806.06362",
        aliases=("GSM",),
        suits=_require_pairs,
        # Only whether the index is 0 counts, and layers in a row share that.
        alike=True,
    ),
)
