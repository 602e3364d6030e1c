"""The zoo: what each configuration is, what is broken in it on purpose, and what is known of it without any theory.

Sixteen inputs, ten outputs (digits pooled to 4×4), equal hidden layers. Shapes are few, for each compiles anew.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp

from isometry import initializers, networks, schemes

N_IN, N_OUT = 16, 10
Truth = Mapping[str, bool]


@dataclass(frozen=True)
class Config:
    """One network of the zoo.

    - `scheme`, `activation`, `depth`, `width`, `sigma_w`, `sigma_b`: as in `networks.mlp`.
    - `plant`: the name of what is broken in the drawn parameters, a key of `PLANTS`.
    - `known`: flag → whether it must be raised, where construction alone decides that.
    - `typical`: whether mean field theory still holds for the layers, to decide the other flags.
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
        """Unique, and a file's name."""
        sigmas = [f"{k}{v:g}" for k, v in (("w", self.sigma_w), ("b", self.sigma_b)) if v is not None]
        return "-".join(
            [self.activation, f"{self.depth}x{self.width}", self.scheme, *sigmas, *([self.plant] if self.plant else [])]
        )

    @property
    def quoted(self) -> bool:
        """Whether it is in the half that figures are quoted on; a bit of its name's hash decides."""
        return bool(hashlib.sha256(self.name.encode()).digest()[0] & 1)

    def net(self) -> Any:
        """The network."""
        sizes = [N_IN, *[self.width] * (self.depth - 1), N_OUT]
        chosen = initializers.constant(1 / self.width) if self.scheme == "constant" else self.scheme
        scheme = schemes.get(chosen)
        if self.plant:
            scheme = replace(scheme, fit=PLANTS[self.plant])
        return networks.mlp(sizes, self.activation, scheme, self.sigma_w, self.sigma_b)


# --- what is broken on purpose: fit(net, params, xs) -> params ------------------------------------------------------


def _planted(change: Callable[[list[Any]], list[Any]]) -> Callable[[Any, Any, Any], Any]:
    return lambda net, params, xs: net.with_layers(params, change(list(net.layers(params))))


def _twin(sign: float, layers: list[Any]) -> list[Any]:
    """Unit 1 of z_2 made a copy of unit 0, up to sign: same incoming and same outgoing weights."""
    into, out = layers[1], layers[2]
    w, b = into.w.at[:, 1].set(sign * into.w[:, 0]), into.b.at[1].set(sign * into.b[0])
    layers[1:3] = replace(into, w=w, b=b), replace(out, w=out.w.at[1].set(sign * out.w[0]))
    return layers


def _halves(layers: list[Any]) -> list[Any]:
    """Every hidden unit of the second half a copy of one of the first; /√2 keeps the variance of what they sum to."""

    def copied(w: Any, axis: int) -> Any:
        first = jnp.split(w, 2, axis)[0]
        return jnp.concatenate([first, first], axis)

    made = []
    for i, layer in enumerate(layers):
        w, b = layer.w, layer.b
        w = copied(w, 0) / 2**0.5 if i else w
        w, b = (copied(w, 1), copied(b, 0)) if i + 1 < len(layers) else (w, b)
        made.append(replace(layer, w=w, b=b))
    return made


def _biased(value: float, share: int, layers: list[Any]) -> list[Any]:
    """Biases of `value` for the first 1/share of the units of the middle layer."""
    i = len(layers) // 2
    layers[i] = replace(layers[i], b=layers[i].b.at[: layers[i].fan_out // share].set(value))
    return layers


def _zero(index: int, layers: list[Any]) -> list[Any]:
    layers[index] = replace(layers[index], w=jnp.zeros_like(layers[index].w))
    return layers


def _equal_layers(layers: list[Any]) -> list[Any]:
    """All square layers with the weights of the first of them, as one key for all gives."""
    hidden = layers[1:-1]
    layers[1:-1] = [replace(layer, w=hidden[0].w) for layer in hidden]
    return layers


def _outlier(layers: list[Any]) -> list[Any]:
    """3 u uᵀ in each square layer, u of equal entries: a value of 3 a layer next to those of about 1."""
    hidden = layers[1:-1]
    layers[1:-1] = [replace(layer, w=layer.w + 3 / layer.fan_out) for layer in hidden]
    return layers


PLANTS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "twin": _planted(functools.partial(_twin, 1.0)),
    "mirror_twin": _planted(functools.partial(_twin, -1.0)),
    "halves": _planted(_halves),
    "dead_layer": _planted(functools.partial(_biased, -100.0, 1)),
    "dead_half": _planted(functools.partial(_biased, -100.0, 2)),
    "flat_layer": _planted(functools.partial(_biased, 4.0, 1)),  # tanh'(4) = 0.0013
    "equal_layers": _planted(_equal_layers),
    "outlier": _planted(_outlier),
    "zero_head": _planted(functools.partial(_zero, -1)),
    "zero_layer": _planted(functools.partial(_zero, 2)),
}

# --- what construction alone decides --------------------------------------------------------------------------------


def _flags(raised: str = "", clear: str = "") -> dict[str, bool]:
    """Flag → whether it must be raised, from the two lists."""
    return {**dict.fromkeys(raised.split(), True), **dict.fromkeys(clear.split(), False)}


_RANDOM = _flags(clear="locked_symmetry zero_gradient dead_units")  # almost surely
# orthonormal maps of 16 small inputs
_APART = "zero_gradient vanishing exploding rank_collapse saturated_units ordered_phase chaotic_phase below_floor"
_SQUARE_IDENTITY = _flags(clear=f"{_APART} locked_symmetry dead_units rank_constrained_training")
# units 16, 17, … have neither incoming nor outgoing weights (arXiv:2110.12661, Theorem 1)
_EXTRA = "locked_symmetry dead_units rank_constrained_training"
_PARTIAL = _flags(_EXTRA, _APART)
_PARTIAL_RELU = _flags(_EXTRA, "exploding")
_ZER_O = _flags("locked_symmetry", f"{_APART} dead_units")  # rows i ≡ j mod 16 of its Hadamard layer
# one class a layer, and a Jacobian of rank one: v = n − 1
_CONSTANT = _flags(
    "locked_symmetry rank_constrained_training anisometric outlier_dominated",
    "zero_gradient dead_units saturated_units exploding",
)
_TWIN = {**_RANDOM, **_flags("locked_symmetry")}
_HALVES = {**_RANDOM, **_flags("locked_symmetry rank_constrained_training", "saturated_units")}  # 16 classes
# a layer that passes nothing on: J = 0, layers without gradient, all inputs one
_SILENT = _flags("vanishing zero_gradient rank_collapse", "exploding below_floor saturated_units")
_ZERO_LAYER = {**_SILENT, **_flags(clear="locked_symmetry")}
# no gradient passes a ReLU at zero, at any step
_ZERO_LAYER_RELU = {**_SILENT, **_flags("locked_symmetry")}
_DEAD_LAYER = {**_SILENT, **_flags("dead_units", "locked_symmetry")}
_ZEROS = {**_SILENT, **_flags("dead_units locked_symmetry", "rank_constrained_training")}
_WIDE_ZEROS = {**_ZEROS, **_flags("rank_constrained_training")}
_DEAD_HALF = {**_RANDOM, **_flags("dead_units")}
_FLAT = {**_RANDOM, **_flags("saturated_units vanishing", "exploding")}  # ln tanh'(4) = −6.6
_EQUAL_LAYERS = {**_RANDOM, **_flags("duplicate_blocks")}
# one map again and again turns all inputs to its first direction, at which some units of every layer are dead
_EQUAL_LAYERS_RELU = _flags("duplicate_blocks", "locked_symmetry zero_gradient")
_OUTLIER = {**_RANDOM, **_flags("outlier_dominated")}
_ZERO_HEAD = {**_RANDOM, **_flags("zero_gradient vanishing", "exploding")}
_LSUV = {**_RANDOM, **_flags(clear="vanishing rank_collapse saturated_units ordered_phase")}
_PRODUCT = "vanishing exploding rank_collapse below_floor ordered_phase chaotic_phase"
_LOOKS_LINEAR = {**_RANDOM, **_flags(clear=_PRODUCT)}
_MIRRORED = {**_LOOKS_LINEAR, **_flags("anisometric")}


def _random(
    scheme: str,
    activation: str,
    depth: int,
    width: int,
    sigma_w: float | None = None,
    sigma_b: float | None = None,
    plant: str = "",
    known: Truth = _RANDOM,
) -> Config:
    return Config(scheme, activation, depth, width, sigma_w, sigma_b, plant, known)


def _by_hand(scheme: str, activation: str, depth: int, width: int, known: Truth, plant: str = "") -> Config:
    return Config(scheme, activation, depth, width, plant=plant, known=known, typical=False)


ZOO: tuple[Config, ...] = (
    # short tanh networks
    _random("orthogonal", "tanh", 4, 32),
    _random("gaussian", "tanh", 4, 32),
    _random("xavier", "tanh", 4, 32),
    _random("gaussian", "tanh", 4, 32, 0.05),
    _by_hand("partial_identity", "tanh", 4, 32, _PARTIAL),
    _by_hand("zer_o", "tanh", 4, 32, {**_ZER_O, **_flags(clear="rank_constrained_training")}),
    _by_hand("constant", "tanh", 4, 32, _CONSTANT),
    _by_hand("zeros", "tanh", 4, 32, _WIDE_ZEROS),
    _by_hand("orthogonal", "tanh", 4, 32, _HALVES, "halves"),
    # tanh, eight layers
    _random("orthogonal", "tanh", 8, 32),
    _random("scaled_orthogonal", "tanh", 8, 32),
    _random("scaled_orthogonal", "tanh", 8, 32, 0.9),
    _random("gaussian", "tanh", 8, 32),
    _random("kaiming", "tanh", 8, 32),
    _random("gaussian", "tanh", 8, 32, 0.3, 0.3),
    _random("gaussian", "tanh", 8, 32, 8.0),
    _random("gaussian", "tanh", 8, 32, plant="twin", known=_TWIN),
    _random("orthogonal", "tanh", 8, 32, plant="mirror_twin", known=_TWIN),
    _random("orthogonal", "tanh", 8, 32, plant="zero_head", known=_ZERO_HEAD),
    _random("gaussian", "tanh", 8, 32, plant="zero_head", known=_ZERO_HEAD),
    _by_hand("orthogonal", "tanh", 8, 32, _ZERO_LAYER, "zero_layer"),
    _by_hand("gaussian", "tanh", 8, 32, _HALVES, "halves"),
    _by_hand("orthogonal", "tanh", 8, 32, _FLAT, "flat_layer"),
    _by_hand("gaussian", "tanh", 8, 32, _FLAT, "flat_layer"),
    _by_hand("orthogonal", "tanh", 8, 32, _EQUAL_LAYERS, "equal_layers"),
    # tanh, deep
    _random("orthogonal", "tanh", 32, 32),
    _random("gaussian", "tanh", 32, 32),
    _random("gaussian", "tanh", 32, 32, 0.7, 0.3),
    _random("orthogonal", "tanh", 32, 32, 0.7, 0.3),
    _random("gaussian", "tanh", 32, 32, 1.14, 0.2236),
    _random("gaussian", "tanh", 32, 32, 3.0),
    _random("orthogonal", "tanh", 32, 32, 3.0),
    _random("orthogonal", "tanh", 32, 32, 10.0),
    # tanh, as wide as its inputs, and four times that
    _random("orthogonal", "tanh", 8, 16),
    _by_hand("identity", "tanh", 8, 16, _SQUARE_IDENTITY),
    _by_hand("partial_identity", "tanh", 8, 16, _SQUARE_IDENTITY),
    _by_hand("zeros", "tanh", 8, 16, _ZEROS),
    _by_hand("lsuv", "tanh", 8, 16, _LSUV),
    _random("orthogonal", "tanh", 8, 16, 0.9),
    _random("orthogonal", "tanh", 8, 64),
    _random("scaled_orthogonal", "tanh", 8, 64),
    _random("gaussian", "tanh", 8, 64),
    _random("xavier", "tanh", 8, 64),
    _by_hand("gaussian", "tanh", 8, 64, _EQUAL_LAYERS, "equal_layers"),
    _by_hand("partial_identity", "tanh", 8, 64, _PARTIAL),
    _by_hand("zer_o", "tanh", 8, 64, _ZER_O),
    # other bounded activations
    _random("orthogonal", "erf", 16, 32),
    _random("gaussian", "erf", 16, 32),
    _random("gaussian", "erf", 16, 32, 0.4, 0.3),
    _random("orthogonal", "hard_tanh", 8, 32),
    _random("gaussian", "hard_tanh", 8, 32),
    _random("gaussian", "hard_tanh", 8, 32, 6.0),
    _random("orthogonal", "hard_tanh", 8, 32, 6.0),
    _random("xavier", "sigmoid", 8, 32),
    _random("gaussian", "sigmoid", 8, 32, 2.0),
    # ReLU and its like
    _random("kaiming", "relu", 8, 32),
    _random("orthogonal", "relu", 8, 32),
    _random("gaussian", "relu", 8, 32, 0.2),
    _random("kaiming", "relu", 8, 32, plant="twin", known=_TWIN),
    _random("kaiming", "relu", 8, 32, plant="dead_half", known=_DEAD_HALF),
    _random("orthogonal", "relu", 8, 32, plant="dead_half", known=_DEAD_HALF),
    _by_hand("kaiming", "relu", 8, 32, _DEAD_LAYER, "dead_layer"),
    _by_hand("kaiming", "relu", 8, 32, _ZERO_LAYER_RELU, "zero_layer"),
    _by_hand("kaiming", "relu", 8, 32, _EQUAL_LAYERS_RELU, "equal_layers"),
    _by_hand("looks_linear", "relu", 8, 32, _LOOKS_LINEAR),
    _by_hand("mirrored", "relu", 8, 32, _MIRRORED),
    _by_hand("partial_identity", "relu", 8, 32, _PARTIAL_RELU),
    _random("kaiming", "relu", 24, 64),
    _random("orthogonal", "relu", 24, 64),
    _random("gaussian", "relu", 24, 64, 0.5),
    _random("gaussian", "relu", 24, 64, 4.0),
    _random("gaussian", "leaky_relu", 16, 32),
    _random("orthogonal", "leaky_relu", 16, 32),
    _random("orthogonal", "leaky_relu", 16, 32, 4.0),
    _random("he_normal", "gelu", 8, 32),
    _random("gaussian", "gelu", 8, 32, 2.0),
    # linear: everything in closed form
    _random("gaussian", "linear", 8, 32),
    _random("orthogonal", "linear", 8, 32),
    _random("scaled_orthogonal", "linear", 8, 32),
    _random("orthogonal", "linear", 8, 32, 0.9),
    _random("orthogonal", "linear", 8, 32, 1.1),
    _random("orthogonal", "linear", 8, 32, 4.0),
    _random("scaled_orthogonal", "linear", 8, 32, 0.9),
    _random("scaled_orthogonal", "linear", 8, 32, 1.1),
    _by_hand("gaussian", "linear", 8, 32, _OUTLIER, "outlier"),
    _by_hand("orthogonal", "linear", 8, 32, _OUTLIER, "outlier"),
    _random("glorot_uniform", "linear", 8, 32),
    _random("gaussian", "linear", 8, 32, 0.1),
    _random("gaussian", "linear", 8, 32, 10.0),
    _random("orthogonal", "linear", 32, 32),
    _random("gaussian", "linear", 32, 32),
    _random("gaussian", "linear", 32, 32, 0.5),
    _random("gaussian", "linear", 32, 32, 2.0),
    _random("orthogonal", "linear", 32, 32, 2.0),
    _random("orthogonal", "linear", 32, 32, 0.5),
    _random("scaled_orthogonal", "linear", 32, 32),
    _random("orthogonal", "linear", 96, 32),
    _random("gaussian", "linear", 96, 32),
    _random("xavier", "linear", 96, 32),
    _random("lecun_normal", "linear", 96, 32),
    _random("glorot_uniform", "linear", 96, 32),
    _random("glorot_normal", "linear", 96, 32),
    _random("he_normal", "linear", 96, 32),
    _random("orthogonal", "linear", 96, 32, 1.05),
)
