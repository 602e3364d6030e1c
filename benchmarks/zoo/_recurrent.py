"""The recurrent part of the zoo: sequences of 8 steps."""

import functools
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.zoo import _plants
from benchmarks.zoo._case import Case, Plant, Weights
from benchmarks.zoo._plants import NEAR, Find, Units, view
from isometry import networks
from isometry.networks import Network

_SEQUENCE = (8, 3)


@functools.cache
def _vanilla() -> Network:
    """Build a tanh network with an orthogonal recurrence."""
    return networks.rnn(8, 3, 4)


@functools.cache
def _minimal() -> Network:
    """Build a minimal gated network."""
    return networks.rnn(8, 3, 4, "minimal")


@functools.cache
def _gru() -> Network:
    """Build a gated recurrent unit."""
    return networks.rnn(8, 3, 4, "gru")


@functools.cache
def _lstm() -> Network:
    """Build a long short-term memory with open forget gates."""
    return networks.rnn(8, 3, 4, "lstm", gate_bias={"forget": 1.0})


class _LastState(nn.Module):
    """A GRU over a sequence, and a dense readout of its last state."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        states = jnp.asarray(nn.RNN(nn.GRUCell(8), name="rnn")(x))
        last = jnp.take(states, -1, axis=-2)
        return nn.Dense(4, name="head")(last)


@functools.cache
def _flax() -> Network:
    """Build a Flax GRU."""
    return networks.flax(_LastState(), jnp.zeros(_SEQUENCE))


def _units(*gates: str) -> Find:
    """Return a function that finds the units of all gates of a cell."""

    def find(weights: Weights) -> Units:
        into, out = [], [view(weights["head/w"], -2)]
        for gate in gates:
            into.append(weights[f"{gate}/b"])
            into.append(view(weights[f"{gate}/input"], -1))
            recurrent = weights.get(f"{gate}/recurrent")
            if recurrent is not None:
                into.append(view(recurrent, -1))
                out.append(view(recurrent, -2))
        return Units(into=into, out=out)

    return find


def _flax_units(weights: Weights) -> Units:
    """Return the units of the GRU of Flax."""
    into, out = [], []
    for name, array in weights.items():
        is_head = name.startswith("params/head")
        is_recurrent = name.split("/")[-2] in ("hr", "hz", "hn")
        is_kernel = name.endswith("kernel")
        if not is_head:
            into.append(view(array, -1))
        if is_kernel and (is_head or is_recurrent):
            out.append(view(array, -2))
    return Units(into=into, out=out)


def _case(
    name: str,
    build: Callable[[], Network],
    plant: Plant | None = None,
    raised: str = "",
    *,
    unasked: str = "",
    also_clear: str = "",
) -> Case:
    """Return a case of short sequences."""
    name = f"recurrent-{name}"
    return Case(
        name,
        build,
        _SEQUENCE,
        plant=plant,
        raised=raised,
        unasked=unasked,
        also_clear=also_clear,
    )


_STATE = _units("state")
_GRU = _units("update", "reset", "candidate")
_LSTM = _units("input", "forget", "output", "cell")
_HEAD = partial(_plants.zero, names=("head/w",))
_ZERO_HEAD = "zero_gradient vanishing"

# Steps far back have gradients that fall or grow; how far over 8 steps of so few units
# is not known without a measurement.
_OPEN = "rank_constrained_training"

CASES = (
    _case("vanilla", _vanilla, unasked=_OPEN),
    _case(
        "vanilla-constant",
        _vanilla,
        _plants.constant,
        "locked_symmetry rank_constrained_training",
        # Equal columns of the head leave nothing of the gradient of a cross-entropy.
        unasked="zero_gradient",
    ),
    # Equal weights in, out and between: both states are equal at every step.
    _case(
        "vanilla-twin", _vanilla, partial(_plants.twin, find=_STATE), "locked_symmetry"
    ),
    _case(
        "vanilla-opposite",
        _vanilla,
        partial(_plants.twin, find=_STATE, sign=-1.0),
        "locked_symmetry",
    ),
    _case("vanilla-near_twin", _vanilla, partial(_plants.twin, find=_STATE, near=NEAR)),
    # tanh(0) = 0: nothing reaches three of the units, and nothing reads them.
    _case(
        "vanilla-dead",
        _vanilla,
        partial(_plants.cut_off, find=_STATE, count=3),
        "locked_symmetry dead_units",
    ),
    _case("vanilla-zero_head", _vanilla, _HEAD, _ZERO_HEAD),
    # The last step alone reaches the output, and its weights have a gradient.
    _case(
        "vanilla-no_memory",
        _vanilla,
        partial(_plants.zero, names=("state/recurrent",)),
    ),
    _case("vanilla-tiny", _vanilla, partial(_plants.scale, factor=1e-3), "vanishing"),
    # Recurrent sums of saturated states move some units back: it need not vanish.
    _case(
        "vanilla-saturated",
        _vanilla,
        partial(_plants.saturate, name="state/b"),
        "saturated_units",
    ),
    _case("minimal", _minimal, unasked=_OPEN),
    _case("minimal-zero_head", _minimal, _HEAD, _ZERO_HEAD),
    _case("gru", _gru, unasked=_OPEN),
    # All gates of all units see the same, and so do all units.
    _case("gru-constant", _gru, _plants.constant, "locked_symmetry"),
    _case("gru-twin", _gru, partial(_plants.twin, find=_GRU), "locked_symmetry"),
    _case("gru-near_twin", _gru, partial(_plants.twin, find=_GRU, near=NEAR)),
    _case("gru-zero_head", _gru, _HEAD, _ZERO_HEAD),
    _case("lstm", _lstm, unasked=_OPEN),
    _case("lstm-twin", _lstm, partial(_plants.twin, find=_LSTM), "locked_symmetry"),
    _case("lstm-near_twin", _lstm, partial(_plants.twin, find=_LSTM, near=NEAR)),
    _case("lstm-zero_head", _lstm, _HEAD, _ZERO_HEAD),
    _case("flax-gru", _flax, unasked=_OPEN),
    _case(
        "flax-gru-twin",
        _flax,
        partial(_plants.twin, find=_flax_units),
        "locked_symmetry",
    ),
    _case(
        "flax-gru-near_twin", _flax, partial(_plants.twin, find=_flax_units, near=NEAR)
    ),
    _case(
        "flax-gru-zero_head",
        _flax,
        partial(_plants.zero, names=("params/head/kernel",)),
        _ZERO_HEAD,
    ),
)
