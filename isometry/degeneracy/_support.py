"""What no step of training can reach: zeros of activations, signals and gradients that follow from zeros of weights.

Supports are upper bounds: what is outside is exactly zero, in floating point too, for every input, loss and step, and
for every update that maps a history of zero gradients on a zero weight to zero (SGD, momentum, Adam, decay of any kind).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Support:
    """Of a chain of layers, when nothing new is reached any more.

    - `activation`: of units 0 … depth (inputs and outputs included), whether it can ever be other than zero.
    - `signal`: whether the back-propagated loss gradient at the pre-activation can.
    - `first_gradient`: of each layer's weights, the first step at which a gradient can arrive (1 is the first); or None.
    """

    activation: tuple[np.ndarray, ...]
    signal: tuple[np.ndarray, ...]
    first_gradient: tuple[int | None, ...]

    def rank_bound(self, layer: int) -> int:
        """Of Σ g and of the change of W_layer (1 is the first): it lies in these rows and columns."""
        return int(min(self.activation[layer - 1].sum(), self.signal[layer].sum()))


def propagate(
    weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], zero_at_zero: bool, slope_at_zero: bool
) -> Support:
    """Iterate supports over the steps of training to their fixed point.

    **Arguments**
    - `weights`: boolean (fan_in, fan_out), where W_l(0) is not zero; `biases`: (fan_out,), or None without a bias.
    - `zero_at_zero`: phi(0) = 0; otherwise every activation is live.
    - `slope_at_zero`: phi'(0) ≠ 0: a unit whose pre-activation is zero for every input passes signal on.

    At a step, activations are pushed forward and signals back through supp W; gradients fill (activation × signal), and
    the next W is supported on what it was and on what they fill. All three grow, so those boxes are nested and only the
    latest is kept. Cost: a pass over the weights a step, at most 2·depth steps and one if everything is live at once.
    """
    depth = len(weights)
    activation = [np.zeros(w.shape[0], bool) for w in weights] + [np.zeros(weights[-1].shape[1], bool)]
    signal = [np.zeros_like(a) for a in activation]
    first: list[int | None] = [None] * depth
    step = 0
    while True:
        step += 1
        old_activation, old_signal = activation, signal
        activation, moved = [np.ones_like(old_activation[0])], [False] * depth
        driven = [activation[0]]
        for i, w in enumerate(weights):
            moved[i] = bool(old_activation[i].any())
            reached = w[activation[i]].any(0) | (old_signal[i + 1] if moved[i] else False)
            if biases[i] is not None:
                reached = reached | biases[i] | old_signal[i + 1]  # a bias gets the signal itself
            driven.append(reached)
            activation.append(reached if zero_at_zero or i == depth - 1 else np.ones_like(reached))
        signal = [np.ones_like(activation[-1])]
        for i in range(depth - 1, 0, -1):
            back = weights[i][:, signal[0]].any(1) | (old_activation[i] if old_signal[i + 1].any() else False)
            signal.insert(0, back & (driven[i] | slope_at_zero))
        signal.insert(0, np.zeros_like(activation[0]))
        for i in range(depth):
            if first[i] is None and activation[i].any() and signal[i + 1].any():
                first[i] = step
        if all(map(np.array_equal, activation, old_activation)) and all(map(np.array_equal, signal, old_signal)):
            return Support(tuple(activation), tuple(signal), tuple(first))
        if all(a.all() for a in activation[:-1]) and all(s.all() for s in signal[1:]):
            return Support(tuple(activation), tuple(signal), tuple(first))
