"""Faults that are put into drawn weights."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.zoo._case import Weights

# Difference of a near miss, relative to the weights: a hundred times the rounding of
# float32, so that it is no lock, and far too little to be seen in any spectrum.
NEAR = 1e-6

# A bias at which relu and gelu are zero at every input.
DEAD = -100.0

# A bias at which the slope of tanh is 0.0013, below the line of saturation.
SATURATED = 4.0


# What the leaves of weights are called: of our networks, of Flax, and of `_experts`.
_KERNELS = ("w", "kernel", "input", "recurrent", "gate", "first", "second", "head")


class Units(NamedTuple):
    """Views of the weights of units (channels, heads, experts), units along axis 0.

    Attributes:
        into: Weights and biases that make the units.
        out: Weights that read them.
        gates: Weights on which the units depend evenly: those of queries and keys.
    """

    into: Sequence[np.ndarray]
    out: Sequence[np.ndarray]
    gates: Sequence[np.ndarray] = ()


Find = Callable[[Weights], Units]


def view(array: np.ndarray, axis: int) -> np.ndarray:
    """Return a view with an axis in front; what is written there is in the array."""
    return np.moveaxis(array, axis, 0)


def twin(weights: Weights, find: Find, sign: float = 1.0, near: float = 0.0) -> None:
    """Make unit 1 a copy of unit 0, up to sign: with equal weights in and out.

    Args:
        weights: Changed in place.
        find: Returns the units.
        sign: -1 makes the copy opposite.
        near: Relative difference that is left between the two.
    """
    units = find(weights)
    for part in units.gates:
        part[1] = part[0]
    # Of a recurrence columns first, then rows: the order does not matter, because both
    # leave the four entries between the two units alike.
    for part in (*units.into, *units.out):
        part[1] = sign * part[0]
    if near:
        for part in (*units.into, *units.out):
            part[1] *= _close_to_one(near, part[1])


def _close_to_one(near: float, like: np.ndarray) -> np.ndarray:
    """Return random factors 1 + O(near), one for each entry of an array."""
    random = np.random.default_rng(0)
    noise = random.normal(size=like.shape)
    return (1 + near * noise).astype(like.dtype)


def cut_off(weights: Weights, find: Find, count: int) -> None:
    """Set the weights into and out of the first units to zero."""
    units = find(weights)
    for part in (*units.into, *units.out, *units.gates):
        part[:count] = 0


def constant(weights: Weights, window: int = 1) -> None:
    """Make all weights of each layer equal, so that all its units are.

    Args:
        weights: Changed in place.
        window: Pixels of a kernel, by which weights are divided as well.
    """
    for name, array in weights.items():
        if _is_kernel(name):
            array[...] = 1 / (array.shape[-2] * window)


def _is_kernel(name: str) -> bool:
    """Tell whether a leaf is a weight, and no bias, norm, multiplier or statistic."""
    last = name.rsplit("/", 1)[-1]
    return last in _KERNELS


def scale(weights: Weights, factor: float) -> None:
    """Multiply all weights, and no biases, by a factor."""
    for name, array in weights.items():
        if _is_kernel(name):
            array *= factor


def zero(weights: Weights, names: Sequence[str]) -> None:
    """Set leaves to zero."""
    for name in names:
        weights[name][...] = 0


def kill(weights: Weights, name: str, count: int, index: int | None = None) -> None:
    """Give the first units a bias at which their activation is zero everywhere."""
    bias = _slice_of(weights[name], index)
    bias[:count] = DEAD


def saturate(weights: Weights, name: str, index: int | None = None) -> None:
    """Give a layer a bias at which tanh has almost no slope."""
    bias = _slice_of(weights[name], index)
    bias[...] = SATURATED


def _slice_of(stacked: np.ndarray, index: int | None) -> np.ndarray:
    """Return a view of one layer of a stack, or the whole of a single layer."""
    if index is None:
        return stacked
    return stacked[index]


def equal_blocks(weights: Weights, prefix: str, near: float = 0.0) -> None:
    """Give all blocks of a stack the weights of the first."""
    for name, array in weights.items():
        if not name.startswith(prefix):
            continue
        array[1:] = array[:1]
        if near:
            array[1:] *= _close_to_one(near, array[1:])
