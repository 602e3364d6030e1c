"""The recurrent part of the zoo: sequences of 8 steps."""

import functools
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.zoo import _plants
from benchmarks.zoo._case import Weights
from benchmarks.zoo._family import Family
from benchmarks.zoo._plants import Find, Units, view
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
    return networks.rnn(8, 3, 4, cell="minimal")


@functools.cache
def _gru() -> Network:
    """Build a gated recurrent unit."""
    return networks.rnn(8, 3, 4, cell="gru")


@functools.cache
def _lstm() -> Network:
    """Build a long short-term memory with open forget gates."""
    return networks.rnn(8, 3, 4, cell="lstm", gate_bias={"forget": 1.0})


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


def _units(gates: Sequence[str]) -> Find:
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


_STATE = _units(["state"])
_GRU_UNITS = _units(["update", "reset", "candidate"])
_LSTM_UNITS = _units(["input", "forget", "output", "cell"])

# Steps far back have gradients that fall or grow; how far over 8 steps of so few units
# is not known without a measurement.
_OPEN = "rank_constrained_training"

VANILLA = Family("recurrent-vanilla", _vanilla, _SEQUENCE)
MINIMAL = Family("recurrent-minimal", _minimal, _SEQUENCE)
GRU = Family("recurrent-gru", _gru, _SEQUENCE)
LSTM = Family("recurrent-lstm", _lstm, _SEQUENCE)
FLAX = Family("recurrent-flax-gru", _flax, _SEQUENCE)

CASES = (
    VANILLA.healthy(unasked=_OPEN),
    VANILLA.constant("locked_symmetry rank_constrained_training"),
    # Equal weights in, out and between: both states are equal at every step.
    *VANILLA.pairs(_STATE, "twin opposite near_twin"),
    # tanh(0) = 0, and a recurrence of zeros passes nothing from step to step.
    VANILLA.cut_off(_STATE, unasked=""),
    VANILLA.zero_head("head/w"),
    # The last step alone reaches the output, and its weights have a gradient.
    VANILLA.zeroed("no_memory", ["state/recurrent"], ""),
    VANILLA.broken("tiny", partial(_plants.scale, factor=1e-3), "vanishing"),
    # Recurrent sums of saturated states move some units back: it need not vanish.
    VANILLA.broken(
        "saturated", partial(_plants.saturate, name="state/b"), "saturated_units"
    ),
    MINIMAL.healthy(unasked=_OPEN),
    MINIMAL.zero_head("head/w"),
    GRU.healthy(unasked=_OPEN),
    # All gates of all units see the same, and so do all units.
    GRU.constant(),
    *GRU.pairs(_GRU_UNITS, "twin near_twin"),
    GRU.zero_head("head/w"),
    LSTM.healthy(unasked=_OPEN),
    *LSTM.pairs(_LSTM_UNITS, "twin near_twin"),
    LSTM.zero_head("head/w"),
    FLAX.healthy(unasked=_OPEN),
    *FLAX.pairs(_flax_units, "twin near_twin"),
    FLAX.zero_head("params/head/kernel"),
)
