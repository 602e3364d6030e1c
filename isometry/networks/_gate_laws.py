"""The distributions of the parameters of a recurrent network, gate by gate."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry import initializers
from isometry._internal import checks, randomness
from isometry._internal.errors import InputError, public
from isometry._internal.types import Initializer, Key
from isometry.networks._cells import Cell
from isometry.theory.mean_field import _gates
from isometry.theory.mean_field._gates import PerGate

# The distributions of recurrent weights. The scale of each is sigma_w.
RECURRENT = ("orthogonal", "gaussian", "identity")


@dataclasses.dataclass(frozen=True)
class Chrono:
    """The distribution of the biases of gates that `chrono` returns.

    Attributes:
        longest: The longest memory in steps, T_max.
    """

    longest: int

    def draw(
        self,
        key: Key,
        units: int,
        dtype: np.dtype,
    ) -> Float[Array, " units"]:
        """Draw one bias for each unit: log u, with u uniform on [1, longest - 1)."""
        steps = jax.random.uniform(
            key, (units,), dtype, minval=1.0, maxval=self.longest - 1.0
        )
        return jnp.log(steps)


@public("networks.chrono")
def chrono(longest: int) -> Chrono:
    """Return a distribution of gate biases, for memories of up to `longest` steps.

    A gate of value f keeps a state for about 1/(1 - f) steps. The gate that keeps the
    state is forget in an LSTM, and update in a GRU and a minimal RNN. Its biases are
    b = log u, with u uniform on [1, longest - 1): while h and x are 0, the units keep
    their states for times that are uniform on [2, longest). The input gate of an LSTM
    has the biases -b, and all other biases are 0 (Tallec and Ollivier, 2018, section
    2).

    Args:
        longest: The longest memory in steps, T_max; at least 3.

    Returns:
        A value for the argument `gate_bias` of `networks.rnn`.

    Raises:
        InputError: `longest` is no whole number, at least 3.

    Example:
        >>> bias = networks.chrono(100)
        >>> net = networks.rnn(16, 3, 2, cell="lstm", gate_bias=bias)
        >>> params = net.init(jax.random.key(0))
        >>> bool(jnp.all(params["input"]["b"] == -params["forget"]["b"]))
        True
    """
    return Chrono(checks.integer("longest", longest, low=3))


GateBias: TypeAlias = PerGate | Chrono

# Pairs of the name of a gate and its number. Unlike a dict, they are hashable.
Numbers: TypeAlias = tuple[tuple[str, float], ...]


def per_gate(
    name: str,
    value: PerGate,
    gates: Sequence[str],
    *,
    default: float,
    low: float = 0.0,
) -> Numbers:
    """Return pairs (gate, number), one for each gate: see `_gates.per_gate`."""
    numbers = _gates.per_gate(name, value, gates, default=default, low=low)
    return tuple(numbers.items())


def gate_biases(
    value: GateBias,
    cell: Cell,
    kind: str,
) -> Numbers | Chrono:
    """Return the mean of the biases of each gate, from an argument of `networks.rnn`.

    Args:
        value: The argument `gate_bias`: a number for the gates in `cell.switches`, a
            mapping from gates to numbers, or a `Chrono`.
        cell: The cell.
        kind: The name of the cell, for messages.

    Returns:
        Pairs (gate, mean); a `Chrono` as it is, because its biases are drawn with the
        parameters.

    Raises:
        InputError: The cell has no gates for such a bias, or a number is not finite.
    """
    if isinstance(value, Chrono):
        # Chrono sets the bias of the gate that keeps the state.
        if cell.remembering is None:
            raise InputError(
                f"gate_bias={value!r}: a {kind} cell has no gate that keeps its state; "
                'write cell="minimal", "gru" or "lstm".'
            )
        return value
    if isinstance(value, Mapping):
        return per_gate("gate_bias", value, cell.gates, default=0.0, low=-np.inf)
    number = float(checks.number("gate_bias", value))
    if number != 0.0 and not cell.switches:
        raise InputError(
            f"gate_bias={number:g}: a {kind} cell has no gates; write sigma_b for "
            "random biases, or another cell."
        )
    # A bias decides how far a gate with a logistic function is open. The other gates,
    # such as the candidate of a GRU, keep biases of mean 0.
    of_switches = [(gate, number) for gate in cell.switches]
    of_contents = [(gate, 0.0) for gate in cell.contents]
    return (*of_switches, *of_contents)


@dataclasses.dataclass(frozen=True)
class GateLaws:
    """The distributions of all parameters of the gates.

    Attributes:
        recurrent: The distribution of the recurrent weights, one of `RECURRENT`.
        sigma_w: The scale of each gate's recurrent weight.
        sigma_v: The scale of each gate's input weight.
        sigma_b: The standard deviation of each gate's biases.
        gate_bias: The mean of each gate's biases, or `Chrono`.
    """

    recurrent: str
    sigma_w: Numbers
    sigma_v: Numbers
    sigma_b: Numbers
    gate_bias: Numbers | Chrono

    def recurrent_weight(
        self,
        gate: str,
        units: int,
    ) -> Initializer:
        """Return the initializer of a gate's recurrent weight, (units, units)."""
        # `sigma_w` is a tuple of pairs, because this record must be hashable.
        sigma = dict(self.sigma_w)[gate]
        if self.recurrent == "orthogonal":
            return initializers.orthogonal(sigma)
        if self.recurrent == "identity":
            return initializers.identity(sigma)
        return gaussian(sigma, units)

    def input_weight(
        self,
        gate: str,
        fan_in: int,
    ) -> Initializer:
        """Return the initializer of a gate's input weight, (fan_in, units)."""
        return gaussian(dict(self.sigma_v)[gate], fan_in)

    def biases(
        self,
        key: Key,
        cell: Cell,
        units: int,
        *,
        dtype: np.dtype,
    ) -> dict[str, Float[Array, " units"]]:
        """Draw the biases of all gates, by the names of the gates.

        Args:
            key: A random key.
            cell: The cell.
            units: The number of biases of each gate.
            dtype: The dtype of the biases.
        """
        key, key_mean = randomness.split(key)
        means = {gate: jnp.zeros(units, dtype) for gate in cell.gates}
        if isinstance(self.gate_bias, Chrono):
            # Opposite biases from one draw: the input gate is as far closed as the
            # forget gate is open, so a long memory is not overwritten.
            mean = self.gate_bias.draw(key_mean, units, dtype)
            if cell.remembering is not None:
                means[cell.remembering] = mean
            if cell.writing is not None:
                means[cell.writing] = -mean
        else:
            for gate, number in self.gate_bias:
                means[gate] = jnp.full(units, number, dtype)
        # Keys are split for all gates, even where sigma is 0: the biases of one gate do
        # not depend on the scale of another.
        keys = randomness.split(key, len(cell.gates))
        biases = {}
        for gate_key, (gate, sigma) in zip(keys, self.sigma_b, strict=True):
            noise = initializers.normal(std=sigma)(gate_key, (units,), dtype)
            biases[gate] = means[gate] + noise
        return biases


def gaussian(sigma: float, fan_in: int) -> Initializer:
    """Return the initializer of Gaussian weights of variance sigma**2 / fan_in."""
    return initializers.normal(std=sigma / fan_in**0.5)
