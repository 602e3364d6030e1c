"""The perceptrons of the zoo: what each is, what is broken in it, what is known of it.

All have sixteen inputs, ten outputs (digits pooled to 4x4) and equal hidden layers. The
shapes are few, because each compiles its own programs.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from benchmarks.zoo._plants import DEAD, SATURATED
from isometry import initializers, networks, schemes
from isometry._internal.types import Params
from isometry.networks import Network, WeightedLayer
from isometry.networks._layered import LayeredNetwork
from isometry.schemes._scheme import Fit

N_IN, N_OUT = 16, 10

# The singular value of the outlier in each layer, next to values of about 1.
_OUTLYING = 3

# Whether each flag must be raised.
Truth = Mapping[str, bool]
Layers = list[WeightedLayer]


@dataclass(frozen=True)
class Config:
    """One perceptron of the zoo.

    Attributes:
        scheme: As in `networks.mlp`; or "constant", 1/width everywhere.
        activation: As in `networks.mlp`.
        depth: The number of weight layers.
        width: Units of each hidden layer.
        sigma_w: As in `networks.mlp`.
        sigma_b: As in `networks.mlp`.
        plant: The name of what is broken in the drawn parameters, a key of `PLANTS`.
        known: Whether a flag must be raised, where construction alone decides it.
        typical: Whether mean-field theory still holds, to decide the other flags.
    """

    scheme: str
    activation: str
    depth: int
    width: int
    sigma_w: float | None = None
    sigma_b: float | None = None
    plant: str = ""
    known: Truth = field(default_factory=dict, hash=False)
    typical: bool = True

    @property
    def name(self) -> str:
        """Unique, and the name of a file."""
        parts = [self.activation, f"{self.depth}x{self.width}", self.scheme]
        if self.sigma_w is not None:
            parts.append(f"w{self.sigma_w:g}")
        if self.sigma_b is not None:
            parts.append(f"b{self.sigma_b:g}")
        if self.plant:
            parts.append(self.plant)
        return "-".join(parts)

    @property
    def quoted(self) -> bool:
        """Whether figures are quoted on it; a bit of the hash of its name decides."""
        return bool(hashlib.sha256(self.name.encode()).digest()[0] & 1)

    def net(self) -> Network:
        """Build the network, whose scheme plants what is broken."""
        hidden = [self.width] * (self.depth - 1)
        if self.scheme == "constant":
            scheme = schemes.get(initializers.constant(1 / self.width))
        else:
            scheme = schemes.get(self.scheme)
        if self.plant:
            scheme = replace(scheme, fit=PLANTS[self.plant])
        return networks.mlp(
            [N_IN, *hidden, N_OUT],
            self.activation,
            scheme,
            sigma_w=self.sigma_w,
            sigma_b=self.sigma_b,
        )


# What is broken on purpose.


def _planted(change: Callable[[Layers], Layers]) -> Fit:
    """Return the fit of a scheme that changes drawn layers, whatever the inputs are."""

    def fit(
        net: Callable[[Params, PyTree], PyTree], params: Params, xs: PyTree
    ) -> Params:
        assert isinstance(net, LayeredNetwork)
        layers = change(list(net.layers(params)))
        return net.with_layers(params, layers)

    return fit


def _biases(layer: WeightedLayer) -> Array:
    """Return the biases of a layer; all networks of the zoo have them."""
    assert layer.b is not None
    return layer.b


def _twin(layers: Layers, *, sign: float) -> Layers:
    """Make unit 1 of z_2 a copy of unit 0, up to sign: equal weights in and out."""
    into, out = layers[1], layers[2]
    b = _biases(into)
    layers[1] = replace(
        into,
        w=into.w.at[:, 1].set(sign * into.w[:, 0]),
        b=b.at[1].set(sign * b[0]),
    )
    layers[2] = replace(out, w=out.w.at[1].set(sign * out.w[0]))
    return layers


def _halves(layers: Layers) -> Layers:
    """Make every hidden unit of the second half a copy of one of the first."""

    def doubled(array: Array, axis: int) -> Array:
        first, _ = jnp.split(array, 2, axis)
        return jnp.concatenate([first, first], axis)

    last = len(layers) - 1
    changed = []
    for i, layer in enumerate(layers):
        w, b = layer.w, _biases(layer)
        if i > 0:
            # What reads the copies sums everything twice; its variance stays.
            w = doubled(w, 0) / 2**0.5
        if i < last:
            w = doubled(w, 1)
            b = doubled(b, 0)
        changed.append(replace(layer, w=w, b=b))
    return changed


def _biased(layers: Layers, *, value: float, share: int = 1) -> Layers:
    """Set the biases of the first 1/share of the units of the middle layer."""
    middle = len(layers) // 2
    layer = layers[middle]
    count = layer.fan_out // share
    layers[middle] = replace(layer, b=_biases(layer).at[:count].set(value))
    return layers


def _zero(layers: Layers, *, index: int) -> Layers:
    """Set the weights of a layer to zero."""
    layer = layers[index]
    layers[index] = replace(layer, w=jnp.zeros_like(layer.w))
    return layers


def _equal_layers(layers: Layers) -> Layers:
    """Give all square layers the weights of the first, as a key used for all does."""
    hidden = layers[1:-1]
    layers[1:-1] = [replace(layer, w=hidden[0].w) for layer in hidden]
    return layers


def _outlier(layers: Layers) -> Layers:
    """Add 3 u u^T to each square layer; u has equal entries, and norm 1."""
    hidden = layers[1:-1]
    layers[1:-1] = [
        replace(layer, w=layer.w + _OUTLYING / layer.fan_out) for layer in hidden
    ]
    return layers


PLANTS: dict[str, Fit] = {
    "twin": _planted(partial(_twin, sign=1.0)),
    "mirror_twin": _planted(partial(_twin, sign=-1.0)),
    "halves": _planted(_halves),
    "dead_layer": _planted(partial(_biased, value=DEAD)),
    "dead_half": _planted(partial(_biased, value=DEAD, share=2)),
    "flat_layer": _planted(partial(_biased, value=SATURATED)),
    "equal_layers": _planted(_equal_layers),
    "outlier": _planted(_outlier),
    "zero_head": _planted(partial(_zero, index=-1)),
    "zero_layer": _planted(partial(_zero, index=2)),
}


# What construction alone decides.


def _flags(raised: str = "", clear: str = "") -> dict[str, bool]:
    """Return whether each flag must be raised, from the names of both kinds."""
    return {
        **dict.fromkeys(raised.split(), True),
        **dict.fromkeys(clear.split(), False),
    }


# Random weights: almost surely no two units are equal, and none is without gradient.
_RANDOM = _flags(clear="locked_symmetry zero_gradient dead_units")

# Orthonormal maps of sixteen small inputs.
_APART = (
    "zero_gradient vanishing exploding rank_collapse saturated_units ordered_phase "
    "chaotic_phase below_floor"
)
_SQUARE_IDENTITY = _flags(
    clear=f"{_APART} locked_symmetry dead_units rank_constrained_training"
)

# Units 16, 17, ... have neither incoming nor outgoing weights (Zhao et al.,
# arXiv:2110.12661, Theorem 1).
_EXTRA = "locked_symmetry dead_units rank_constrained_training"
_PARTIAL = _flags(_EXTRA, _APART)
_PARTIAL_RELU = _flags(_EXTRA, "exploding")

# In the Hadamard layer of ZerO, rows whose indices are equal modulo 16 are equal.
_ZER_O = _flags("locked_symmetry", f"{_APART} dead_units")
_SHORT_ZER_O = {**_ZER_O, **_flags(clear="rank_constrained_training")}

# All units of a layer are one, and the Jacobian has rank one: the variance of s^2 is
# width - 1 times its squared mean.
_CONSTANT = _flags(
    "locked_symmetry rank_constrained_training anisometric outlier_dominated",
    "zero_gradient dead_units saturated_units exploding",
)

_TWIN = {**_RANDOM, **_flags("locked_symmetry")}

# Sixteen different units remain of thirty-two.
_HALVES = {
    **_RANDOM,
    **_flags("locked_symmetry rank_constrained_training", "saturated_units"),
}

# A layer passes nothing on: the Jacobian is zero, layers have no gradient, and all
# inputs become one.
_SILENT = _flags(
    "vanishing zero_gradient rank_collapse", "exploding below_floor saturated_units"
)
_ZERO_LAYER = {**_SILENT, **_flags(clear="locked_symmetry")}

# relu has no slope at 0, so that no gradient passes the zeros, at any step.
_ZERO_LAYER_RELU = {**_SILENT, **_flags("locked_symmetry")}

_DEAD_LAYER = {**_SILENT, **_flags("dead_units", "locked_symmetry")}
_ZEROS = {
    **_SILENT,
    **_flags("dead_units locked_symmetry", "rank_constrained_training"),
}

# Wider than the inputs, so that there is a rank to constrain.
_WIDE_ZEROS = {**_ZEROS, **_flags("rank_constrained_training")}

_DEAD_HALF = {**_RANDOM, **_flags("dead_units")}

# ln s falls by 6.6 in the layer of slopes 0.0013.
_FLAT = {**_RANDOM, **_flags("saturated_units vanishing", "exploding")}

_EQUAL_LAYERS = {**_RANDOM, **_flags("duplicate_blocks")}

# One map again and again turns all inputs to its first direction, at which some units
# of every layer are dead.
_EQUAL_LAYERS_RELU = _flags("duplicate_blocks", "locked_symmetry zero_gradient")

_OUTLIER = {**_RANDOM, **_flags("outlier_dominated")}
_ZERO_HEAD = {**_RANDOM, **_flags("zero_gradient vanishing", "exploding")}
_LSUV = {
    **_RANDOM,
    **_flags(clear="vanishing rank_collapse saturated_units ordered_phase"),
}
_LOOKS_LINEAR = {
    **_RANDOM,
    **_flags(
        clear="vanishing exploding rank_collapse below_floor ordered_phase "
        "chaotic_phase"
    ),
}
_MIRRORED = {**_LOOKS_LINEAR, **_flags("anisometric")}


def _random(
    scheme: str,
    activation: str,
    shape: tuple[int, int],
    *,
    sigma_w: float | None = None,
    sigma_b: float | None = None,
    plant: str = "",
    known: Truth = _RANDOM,
) -> Config:
    """Return a network of random weights, of which theory speaks.

    Args:
        scheme: As in `Config`.
        activation: As in `Config`.
        shape: Depth and width.
        sigma_w: As in `Config`.
        sigma_b: As in `Config`.
        plant: As in `Config`.
        known: As in `Config`.
    """
    depth, width = shape
    return Config(
        scheme=scheme,
        activation=activation,
        depth=depth,
        width=width,
        sigma_w=sigma_w,
        sigma_b=sigma_b,
        plant=plant,
        known=known,
    )


def _by_hand(
    scheme: str,
    activation: str,
    shape: tuple[int, int],
    *,
    known: Truth,
    plant: str = "",
) -> Config:
    """Return a network of which nothing is known but by construction."""
    depth, width = shape
    return Config(
        scheme=scheme,
        activation=activation,
        depth=depth,
        width=width,
        plant=plant,
        known=known,
        typical=False,
    )


_SHORT_TANH = (
    _random("orthogonal", "tanh", (4, 32)),
    _random("gaussian", "tanh", (4, 32)),
    _random("xavier", "tanh", (4, 32)),
    _random("gaussian", "tanh", (4, 32), sigma_w=0.05),
    _by_hand("partial_identity", "tanh", (4, 32), known=_PARTIAL),
    _by_hand("zer_o", "tanh", (4, 32), known=_SHORT_ZER_O),
    _by_hand("constant", "tanh", (4, 32), known=_CONSTANT),
    _by_hand("zeros", "tanh", (4, 32), known=_WIDE_ZEROS),
    _by_hand("orthogonal", "tanh", (4, 32), known=_HALVES, plant="halves"),
)

_TANH = (
    _random("orthogonal", "tanh", (8, 32)),
    _random("scaled_orthogonal", "tanh", (8, 32)),
    _random("scaled_orthogonal", "tanh", (8, 32), sigma_w=0.9),
    _random("gaussian", "tanh", (8, 32)),
    _random("kaiming", "tanh", (8, 32)),
    _random("gaussian", "tanh", (8, 32), sigma_w=0.3, sigma_b=0.3),
    _random("gaussian", "tanh", (8, 32), sigma_w=8.0),
    _random("gaussian", "tanh", (8, 32), plant="twin", known=_TWIN),
    _random("orthogonal", "tanh", (8, 32), plant="mirror_twin", known=_TWIN),
    _random("orthogonal", "tanh", (8, 32), plant="zero_head", known=_ZERO_HEAD),
    _random("gaussian", "tanh", (8, 32), plant="zero_head", known=_ZERO_HEAD),
    _by_hand("orthogonal", "tanh", (8, 32), known=_ZERO_LAYER, plant="zero_layer"),
    _by_hand("gaussian", "tanh", (8, 32), known=_HALVES, plant="halves"),
    _by_hand("orthogonal", "tanh", (8, 32), known=_FLAT, plant="flat_layer"),
    _by_hand("gaussian", "tanh", (8, 32), known=_FLAT, plant="flat_layer"),
    _by_hand("orthogonal", "tanh", (8, 32), known=_EQUAL_LAYERS, plant="equal_layers"),
)

_DEEP_TANH = (
    _random("orthogonal", "tanh", (32, 32)),
    _random("gaussian", "tanh", (32, 32)),
    _random("gaussian", "tanh", (32, 32), sigma_w=0.7, sigma_b=0.3),
    _random("orthogonal", "tanh", (32, 32), sigma_w=0.7, sigma_b=0.3),
    _random("gaussian", "tanh", (32, 32), sigma_w=1.14, sigma_b=0.2236),
    _random("gaussian", "tanh", (32, 32), sigma_w=3.0),
    _random("orthogonal", "tanh", (32, 32), sigma_w=3.0),
    _random("orthogonal", "tanh", (32, 32), sigma_w=10.0),
)

# As wide as the inputs, and four times that.
_NARROW_AND_WIDE_TANH = (
    _random("orthogonal", "tanh", (8, 16)),
    _by_hand("identity", "tanh", (8, 16), known=_SQUARE_IDENTITY),
    _by_hand("partial_identity", "tanh", (8, 16), known=_SQUARE_IDENTITY),
    _by_hand("zeros", "tanh", (8, 16), known=_ZEROS),
    _by_hand("lsuv", "tanh", (8, 16), known=_LSUV),
    _random("orthogonal", "tanh", (8, 16), sigma_w=0.9),
    _random("orthogonal", "tanh", (8, 64)),
    _random("scaled_orthogonal", "tanh", (8, 64)),
    _random("gaussian", "tanh", (8, 64)),
    _random("xavier", "tanh", (8, 64)),
    _by_hand("gaussian", "tanh", (8, 64), known=_EQUAL_LAYERS, plant="equal_layers"),
    _by_hand("partial_identity", "tanh", (8, 64), known=_PARTIAL),
    _by_hand("zer_o", "tanh", (8, 64), known=_ZER_O),
)

_BOUNDED = (
    _random("orthogonal", "erf", (16, 32)),
    _random("gaussian", "erf", (16, 32)),
    _random("gaussian", "erf", (16, 32), sigma_w=0.4, sigma_b=0.3),
    _random("orthogonal", "hard_tanh", (8, 32)),
    _random("gaussian", "hard_tanh", (8, 32)),
    _random("gaussian", "hard_tanh", (8, 32), sigma_w=6.0),
    _random("orthogonal", "hard_tanh", (8, 32), sigma_w=6.0),
    _random("xavier", "sigmoid", (8, 32)),
    _random("gaussian", "sigmoid", (8, 32), sigma_w=2.0),
)

_RELU = (
    _random("kaiming", "relu", (8, 32)),
    _random("orthogonal", "relu", (8, 32)),
    _random("gaussian", "relu", (8, 32), sigma_w=0.2),
    _random("kaiming", "relu", (8, 32), plant="twin", known=_TWIN),
    _random("kaiming", "relu", (8, 32), plant="dead_half", known=_DEAD_HALF),
    _random("orthogonal", "relu", (8, 32), plant="dead_half", known=_DEAD_HALF),
    _by_hand("kaiming", "relu", (8, 32), known=_DEAD_LAYER, plant="dead_layer"),
    _by_hand("kaiming", "relu", (8, 32), known=_ZERO_LAYER_RELU, plant="zero_layer"),
    _by_hand(
        "kaiming", "relu", (8, 32), known=_EQUAL_LAYERS_RELU, plant="equal_layers"
    ),
    _by_hand("looks_linear", "relu", (8, 32), known=_LOOKS_LINEAR),
    _by_hand("mirrored", "relu", (8, 32), known=_MIRRORED),
    _by_hand("partial_identity", "relu", (8, 32), known=_PARTIAL_RELU),
    _random("kaiming", "relu", (24, 64)),
    _random("orthogonal", "relu", (24, 64)),
    _random("gaussian", "relu", (24, 64), sigma_w=0.5),
    _random("gaussian", "relu", (24, 64), sigma_w=4.0),
    _random("gaussian", "leaky_relu", (16, 32)),
    _random("orthogonal", "leaky_relu", (16, 32)),
    _random("orthogonal", "leaky_relu", (16, 32), sigma_w=4.0),
    _random("he_normal", "gelu", (8, 32)),
    _random("gaussian", "gelu", (8, 32), sigma_w=2.0),
)

# Everything is known in closed form.
_LINEAR = (
    _random("gaussian", "linear", (8, 32)),
    _random("orthogonal", "linear", (8, 32)),
    _random("scaled_orthogonal", "linear", (8, 32)),
    _random("orthogonal", "linear", (8, 32), sigma_w=0.9),
    _random("orthogonal", "linear", (8, 32), sigma_w=1.1),
    _random("orthogonal", "linear", (8, 32), sigma_w=4.0),
    _random("scaled_orthogonal", "linear", (8, 32), sigma_w=0.9),
    _random("scaled_orthogonal", "linear", (8, 32), sigma_w=1.1),
    _by_hand("gaussian", "linear", (8, 32), known=_OUTLIER, plant="outlier"),
    _by_hand("orthogonal", "linear", (8, 32), known=_OUTLIER, plant="outlier"),
    _random("glorot_uniform", "linear", (8, 32)),
    _random("gaussian", "linear", (8, 32), sigma_w=0.1),
    _random("gaussian", "linear", (8, 32), sigma_w=10.0),
    _random("orthogonal", "linear", (32, 32)),
    _random("gaussian", "linear", (32, 32)),
    _random("gaussian", "linear", (32, 32), sigma_w=0.5),
    _random("gaussian", "linear", (32, 32), sigma_w=2.0),
    _random("orthogonal", "linear", (32, 32), sigma_w=2.0),
    _random("orthogonal", "linear", (32, 32), sigma_w=0.5),
    _random("scaled_orthogonal", "linear", (32, 32)),
    _random("orthogonal", "linear", (96, 32)),
    _random("gaussian", "linear", (96, 32)),
    _random("xavier", "linear", (96, 32)),
    _random("lecun_normal", "linear", (96, 32)),
    _random("glorot_uniform", "linear", (96, 32)),
    _random("glorot_normal", "linear", (96, 32)),
    _random("he_normal", "linear", (96, 32)),
    _random("orthogonal", "linear", (96, 32), sigma_w=1.05),
)

ZOO: tuple[Config, ...] = (
    *_SHORT_TANH,
    *_TANH,
    *_DEEP_TANH,
    *_NARROW_AND_WIDE_TANH,
    *_BOUNDED,
    *_RELU,
    *_LINEAR,
)
