"""Images as random fields: how values at different positions are correlated.

Behind a convolution with many channels, the values of all positions and all inputs are
jointly Gaussian over channels, with the covariance

    E h_α h_α' = σ² Σ_β v_β E x_{α+β} x_{α'+β} + σ_b²

(Xiao et al., 2018): taps shift both positions together. Pooling needs it, while a
variance map alone does not. Rows and columns of a covariance are inputs and positions,
inputs first.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from isometry.activations import Activation
from isometry.theory.mean_field._host import evaluate
from isometry.theory.mean_field._products import activated
from isometry.theory.mean_field._sites import Averaging, Size

Gram = Float[np.ndarray, "values values"]
Samples = Float[np.ndarray, "channels values"]
Images = Float[np.ndarray, "inputs *size"]
Windows = Int[np.ndarray, "pooled window"]
Positions = Int[np.ndarray, " positions"]

# Values up to which all pairs are integrated, in a second or two a layer. Beyond, 16384
# channels are drawn, and a product is right to 1 %. Twice as many values take four
# times as long.
_INTEGRATED = 128
_CHANNELS = 2**14

# Values up to which a field is followed. The root of its covariance takes a second, and
# with twice as many eight.
LARGEST = 1024

# Channels drawn at once: 30 MB of values.
_TOGETHER = 4096


@dataclass(frozen=True)
class Field:
    """Values of some images at all positions.

    Attributes:
        gram: Mean products over channels of any two values.
        num_inputs: The number of images.
        size: The positions along each axis.
    """

    gram: Gram
    num_inputs: int
    size: Size

    @classmethod
    def of_values(cls, images: Float[np.ndarray, "inputs *size channels"]) -> "Field":
        """Return the field of images that are known."""
        num_inputs, *size, num_channels = images.shape
        rows = images.reshape(-1, num_channels)
        gram = rows @ rows.T / num_channels
        return cls(gram, num_inputs, tuple(size))

    @property
    def num_positions(self) -> int:
        """The number of positions of an image."""
        return math.prod(self.size)

    def over_inputs(self) -> Float[np.ndarray, "inputs positions inputs positions"]:
        """Return the products with an axis for each input and position."""
        num_inputs = self.num_inputs
        shape = (num_inputs, self.num_positions)
        return self.gram.reshape(*shape, *shape)

    def mean(self) -> Float[np.ndarray, "inputs inputs"]:
        """Return the products of means over positions, for any two inputs."""
        products = self.over_inputs()
        return products.mean(axis=(1, 3))

    def convolved(self, averaging: Averaging, square: float, bias: float) -> "Field":
        """Return the pre-activations of a convolution.

        Args:
            averaging: Which positions its taps read.
            square: fan_in · Var W.
            bias: The variance of its biases.
        """
        size_out = averaging.size_out
        num_positions = math.prod(size_out)
        num_inputs = self.num_inputs
        shape = (num_inputs, num_positions)
        old = self.over_inputs()
        new = np.zeros((*shape, *shape))
        for variance, out, read in averaging.taps:
            # The tap reads these positions, and puts them there.
            of = _flat(read, self.size)
            to = _flat(out, size_out)
            # All pairs of inputs at once.
            source = _pairs_of(num_inputs, of)
            target = _pairs_of(num_inputs, to)
            new[target] += variance * old[source]
        num_values = math.prod(shape)
        new = new.reshape(num_values, num_values)
        # One bias for all positions and inputs, so it adds to every product.
        gram = square * new + bias
        return Field(gram, num_inputs, size_out)

    def activated(self, phi: Activation) -> "Field":
        """Return what an activation makes of a Gaussian field."""
        old = self.gram
        if len(old) <= _INTEGRATED:
            new = activated(phi, old).gram
        else:
            total = np.zeros_like(old)
            for u in _drawn(old):
                value, _ = evaluate(phi, u)
                total += value.T @ value
            new = total / _CHANNELS
        return Field(new, self.num_inputs, self.size)

    def averaged(self, window: int) -> "Field":
        """Return averages over windows that do not overlap.

        Args:
            window: The side of the windows along each axis.
        """
        num_inputs = self.num_inputs
        size_out, windows = _windows(self.size, window)
        # Each of the two axes of positions becomes one of windows and one within them.
        products = self.over_inputs()
        first = products[:, windows]
        products = first.mean(axis=2)
        second = products[:, :, :, windows]
        products = second.mean(axis=4)
        num_values = num_inputs * len(windows)
        gram = products.reshape(num_values, num_values)
        return Field(gram, num_inputs, size_out)


class Largest(NamedTuple):
    """The largest values of windows.

    Attributes:
        field: Their field.
        passed: At each position, how much of a squared gradient at the result comes to
            the pre-activation: E phi'² where it is the largest.
    """

    field: Field
    passed: Images


def largest_of_gaussian(phi: Activation, before: Field, window: int) -> Largest:
    """Return moments of the largest activation in windows of a Gaussian field.

    They are means over drawn channels, right to 1 %.

    Args:
        phi: The activation.
        before: The field of pre-activations.
        window: The side of the windows along each axis.
    """
    found = _Sums(before, window)
    for u in _drawn(before.gram):
        value, slope = evaluate(phi, u)
        found.add(value, slope**2)
    return found.mean()


class _Sums:
    """Sums over channels of what `Largest` consists of."""

    def __init__(self, before: Field, window: int):
        size_out, windows = _windows(before.size, window)
        shape = (before.num_inputs, before.num_positions)
        self.before = before
        self.size_out = size_out
        self.windows = windows
        self.gram = 0.0
        self.passed = np.zeros(shape)
        self.count = 0

    def add(self, value: Samples, slope: Samples) -> None:
        """Add the values of some channels, and their squared slopes."""
        in_windows = self._in_windows(value)
        num_channels = len(value)
        place = in_windows.argmax(axis=-1)
        place = place[..., None]
        largest = in_windows.max(axis=-1)
        rows = largest.reshape(num_channels, -1)
        products = rows.T @ rows
        self.gram = self.gram + products
        # A gradient passes to the largest of a window alone.
        window = np.arange(in_windows.shape[-1])
        is_largest = window == place
        slopes = self._in_windows(slope)
        passed = np.where(is_largest, slopes, 0.0)
        over_channels = passed.sum(axis=0)
        self.passed[:, self.windows] += over_channels
        self.count += num_channels

    def _in_windows(self, value: Samples) -> Float[np.ndarray, "channels inputs ..."]:
        """Return the values of each window along a last axis."""
        before = self.before
        shape = (
            len(value),
            before.num_inputs,
            before.num_positions,
        )
        by_position = value.reshape(shape)
        return by_position[:, :, self.windows]

    def mean(self) -> Largest:
        """Return the means over all channels."""
        before = self.before
        gram = np.asarray(self.gram) / self.count
        field = Field(
            gram,
            before.num_inputs,
            self.size_out,
        )
        passed = self.passed / self.count
        shape = (before.num_inputs, *before.size)
        return Largest(field, passed.reshape(shape))


def _flat(axes: list[Positions], size: Size) -> Positions:
    """Return the numbers of the positions that have these coordinates on each axis."""
    grid = np.ix_(*axes)
    numbers = np.ravel_multi_index(grid, size)
    return numbers.ravel()


def _pairs_of(num_inputs: int, positions: Positions) -> tuple[np.ndarray, ...]:
    """Return the index of all pairs of inputs at pairs of these positions."""
    of_input = (np.arange(num_inputs), positions)
    return np.ix_(*of_input, *of_input)


def _windows(size: Size, window: int) -> tuple[Size, Windows]:
    """Return how many windows there are along each axis, and their positions."""
    # What is left at the end of an axis fills no window, and is not read.
    size_out = tuple(n // window for n in size)
    rows = []
    within = np.arange(window)
    for corner in np.ndindex(size_out):
        axes = [window * place + within for place in corner]
        positions = _flat(axes, size)
        rows.append(positions)
    return size_out, np.array(rows)


def _drawn(gram: Gram) -> Iterator[Samples]:
    """Draw channels of a Gaussian field, some at a time."""
    squares, vectors = np.linalg.eigh(gram)
    # Rounding may leave values below zero.
    squares = np.maximum(squares, 0.0)
    scales = np.sqrt(squares)
    root = vectors * scales
    rng = np.random.default_rng(0)
    shape = (_TOGETHER, len(gram))
    for _ in range(_CHANNELS // _TOGETHER):
        normal = rng.standard_normal(shape)
        yield normal @ root.T
