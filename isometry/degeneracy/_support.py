"""What no step of training can reach: zeros of activations, signals and gradients that follow from zeros of weights.

Supports are upper bounds: what is outside is exactly zero, in floating point too, for every input, loss and step,
and for every update that leaves a zero weight alone whose gradients have all been zero (SGD, momentum, Adam, decay).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Support:
    """Of a chain of layers, when nothing new is reached any more.

    - `activation`: of units 0 … depth (inputs and outputs included), whether it can ever be other than zero.
    - `signal`: whether the back-propagated loss gradient at the pre-activation can.
    - `first_gradient`: of each layer's weights, the first step (from 1) at which a gradient can arrive; None for never.
    """

    activation: tuple[np.ndarray, ...]
    signal: tuple[np.ndarray, ...]
    first_gradient: tuple[int | None, ...]

    def rank_bound(self, layer: int) -> int:
        """Of Σ g and of the change of W_layer (1 is the first): it lies in these rows and columns."""
        return int(min(self.activation[layer - 1].sum(), self.signal[layer].sum()))


def propagate(
    weights: Sequence[np.ndarray],
    biases: Sequence[np.ndarray | None],
    zero_at_zero: Sequence[bool],
    slope_at_zero: Sequence[bool],
) -> Support:
    """Iterate supports over the steps of training to their fixed point.

    **Arguments**
    - `weights`: boolean (fan_in, fan_out), where W_l(0) is not zero; `biases`: (fan_out,), or None without a bias.
    - `zero_at_zero`: of each hidden layer, phi(0) = 0; otherwise every activation is live.
    - `slope_at_zero`: phi'(0) ≠ 0: a unit whose pre-activation is zero for every input passes signal on.

    At a step, activations are pushed forward and signals back through supp W; gradients fill (activation × signal), and
    the next W is supported on what it was and on what they fill. All three grow, so those boxes are nested and only the
    latest is kept. Cost: a pass over the weights a step, at most 2·depth steps and one if everything is live at once.
    """
    depth = len(weights)
    driven_only = [True, *zero_at_zero, True]  # inputs and outputs are what they are
    activation = [np.zeros(w.shape[0], bool) for w in weights] + [np.zeros(weights[-1].shape[1], bool)]
    signal = [np.zeros_like(a) for a in activation]
    first: list[int | None] = [None] * depth
    for step in itertools.count(1):
        before = activation, signal
        driven = _forward(weights, biases, before, driven_only)
        activation = [d if zero else np.ones_like(d) for d, zero in zip(driven, driven_only, strict=True)]
        slope = [d | at_zero for d, at_zero in zip(driven[1:-1], slope_at_zero, strict=True)]
        signal = _backward(weights, before, slope)
        arrives = [bool(activation[i].any() and signal[i + 1].any()) for i in range(depth)]
        first = [step if f is None and now else f for f, now in zip(first, arrives, strict=True)]
        live = all(a.all() for a in activation[:-1]) and all(s.all() for s in signal[1:])
        if live or all(map(np.array_equal, activation + signal, before[0] + before[1])):
            break
    return Support(tuple(activation), tuple(signal), tuple(first))


Live = list[np.ndarray]


def _forward(
    weights: Sequence[np.ndarray], biases: Sequence[Any], before: tuple[Live, Live], driven_only: Sequence[bool]
) -> Live:
    """Of each node, the units whose pre-activation can be other than zero; `before`: live at the step before."""
    activation, signal = before
    driven = [np.ones_like(activation[0])]
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        pushed = driven[-1] if driven_only[i] else np.ones_like(driven[-1])
        reached = w[pushed].any(0)
        if activation[i].any():
            reached = reached | signal[i + 1]
        if b is not None:
            reached = reached | b | signal[i + 1]  # the gradient of a bias is the signal itself
        driven.append(np.asarray(reached))
    return driven


def _backward(weights: Sequence[np.ndarray], before: tuple[Live, Live], slope: Live) -> Live:
    """Of each node, the units whose pre-activation can get a signal; `slope`: of hidden ones, where phi' can be other
    than zero."""
    activation, signal = before
    found = [np.ones_like(signal[-1])]
    for i in range(len(weights) - 1, 0, -1):
        back = weights[i][:, found[0]].any(1)
        if signal[i + 1].any():
            back = back | activation[i]
        found.insert(0, back & slope[i - 1])
    return [np.zeros_like(signal[0]), *found]
