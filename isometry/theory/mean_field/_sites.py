"""Averages over the positions of an image, as independent taps of a kernel take them.

h_α = Σ_β W(β) x_{sα+β} with independent W(β) of variance sigma_w² v_β/c_in, Σ v_β = 1.
What is averaged over channels, the variance of h for one, is then averaged over the
positions of a window: q_α = sigma_w² Σ_β v_β E x²_{sα+β}. Positions outside the image
are zero or, on a circle, those of the other side.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Inexact, Int
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError

# The size of an image or a window along each axis.
Size: TypeAlias = tuple[int, ...]

# A number for all axes, one for each axis, or the variances of the taps.
KernelLike: TypeAlias = int | Sequence[int] | ArrayLike

Variances = Float[np.ndarray, "*window"]
Image = Float[np.ndarray, "*size"]
Result = Float[np.ndarray, "*size_out"]
Positions = Int[np.ndarray, " _"]

# More axes than images have.
_MOST_AXES = 3

# The largest image: a pass over it for each tap takes a tenth of a second.
_MOST_POSITIONS = 10**7

# Variances whose sum is off by more were not meant to sum to one. Those of float32 are
# off by 1e-7, and are divided by their sum.
_OFF = 1e-6


def checked_size(name: str, size: Sequence[int]) -> Size:
    """Return a size; require a sequence of one to three positive whole numbers."""
    is_sequence = isinstance(size, (Sequence, np.ndarray)) and not isinstance(size, str)
    if not is_sequence or not 1 <= len(size) <= _MOST_AXES:
        raise InputError(
            f"{name}={checks.show(size)} is not the size of an image; write (n,) or "
            "(h, w)."
        )
    sides = []
    for i, side in enumerate(size):
        sides.append(checks.integer(f"{name}[{i}]", side, low=1))
    checks.integer(
        f"the positions of {name}",
        math.prod(sides),
        low=1,
        high=_MOST_POSITIONS,
    )
    return tuple(sides)


def checked_kernel(kernel: KernelLike, num_axes: int) -> Variances:
    """Return the variances of the taps, which sum to 1.

    Args:
        kernel: A number of taps for all axes, or whole numbers of taps, one for each
            axis: uniform variances. Otherwise an array of the variances, with an axis
            for each axis of the image.
        num_axes: The number of axes of the image.

    Raises:
        InputError: It is none of these.
    """
    checks.on_host("kernel", kernel)
    sides = _sides(kernel, num_axes)
    if sides is not None:
        window = tuple(checks.integer("kernel", side, low=1) for side in sides)
        num_taps = math.prod(window)
        return np.full(window, 1 / num_taps)
    try:
        variances = np.asarray(kernel, np.float64)
    except (TypeError, ValueError):
        variances = np.full(1, np.nan)
    total = float(variances.sum())
    is_sound = variances.ndim == num_axes and bool(np.all(variances >= 0))
    if not is_sound or not abs(total - 1) <= _OFF:
        raise InputError(
            f"kernel={checks.show(kernel)} is no kernel of {num_axes} axes; write a "
            "number of taps, one for each axis, or an array of variances, not "
            "negative, that sum to 1."
        )
    return variances / total


def _sides(kernel: KernelLike, num_axes: int) -> Sequence[int] | None:
    """Return the taps of each axis, if the kernel says them; None for variances."""
    if isinstance(kernel, (int, np.integer)):
        return (int(kernel),) * num_axes
    if not isinstance(kernel, (tuple, list)) or len(kernel) != num_axes:
        return None
    if all(isinstance(side, (int, np.integer)) for side in kernel):
        return kernel  # pyright: ignore[reportReturnType]
    return None


@dataclass(frozen=True, eq=False)
class Averaging:
    """a_α → Σ_β v_β a_{sα+β}, for every position α of the result.

    Attributes:
        variances: v_β, an axis for each axis of the image.
        size: The size of the image that is read.
        padding: "circular", "same" (zeros, placed as XLA does) or "valid".
        strides: s, the step along each axis.
    """

    variances: Variances
    size: Size
    padding: str = "circular"
    strides: Size | None = None

    @property
    def steps(self) -> Size:
        """The step along each axis."""
        if self.strides is None:
            return (1,) * len(self.size)
        return self.strides

    @property
    def size_out(self) -> Size:
        """The size of the result."""
        read = self.size
        if self.padding == "valid":
            window = self.variances.shape
            read = tuple(n - k + 1 for n, k in zip(read, window, strict=True))
        axes = zip(read, self.steps, strict=True)
        return tuple(math.ceil(n / s) for n, s in axes)

    @property
    def front(self) -> Size:
        """How many positions the first window begins before the image, on each axis."""
        if self.padding == "valid":
            return (0,) * len(self.size)
        axes = zip(
            self.size,
            self.variances.shape,
            self.steps,
            self.size_out,
            strict=True,
        )
        margins = []
        for n, k, s, out in axes:
            total = k - 1
            if self.padding == "same":
                # XLA pads what the last window misses, less than half of it in front.
                total = max((out - 1) * s + k - n, 0)
            margins.append(total // 2)
        return tuple(margins)

    def forward(self, values: Image) -> Result:
        """Return the averages of the values of the image."""
        averages = np.zeros(self.size_out)
        for variance, out, read in self.taps:
            source = values[np.ix_(*read)]
            averages[np.ix_(*out)] += variance * source
        return averages

    def backward(self, values: Result) -> Image:
        """Apply the transposed map, to values of the result."""
        sums = np.zeros(self.size)
        for variance, out, read in self.taps:
            source = values[np.ix_(*out)]
            # No position is read twice by one tap, so none is lost.
            sums[np.ix_(*read)] += variance * source
        return sums

    @functools.cached_property
    def taps(self) -> list[tuple[float, list[Positions], list[Positions]]]:
        """For each tap its variance, and on each axis which positions read which."""
        taps = []
        for tap in itertools.product(*map(range, self.variances.shape)):
            if self.variances[tap] == 0:
                continue
            out, read = [], []
            for axis, offset in enumerate(tap):
                positions = np.arange(self.size_out[axis])
                source = self.steps[axis] * positions + offset - self.front[axis]
                n = self.size[axis]
                # A circle goes on at its other side.
                if self.padding == "circular":
                    source = source % n
                is_inside = (source >= 0) & (source < n)
                out.append(positions[is_inside])
                read.append(source[is_inside])
            variance = float(self.variances[tap])
            taps.append((variance, out, read))
        return taps


def frequencies(size: Size) -> Float[np.ndarray, "*size axes"]:
    """Return the frequencies 2π m/n of a circle along each axis, m in [0, n)."""
    axes = [2 * np.pi * np.arange(n) / n for n in size]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def transfer(
    variances: Variances,
    at: Float[np.ndarray, "*size axes"],
) -> Inexact[np.ndarray, "*size"]:
    """Evaluate A(f) = Σ_β v_β e^{iβ·f}; it is real for a symmetric kernel.

    The tap (k − 1)//2 of each axis is the one that reads the position itself.
    """
    total = np.zeros(at.shape[:-1], complex)
    front = [(k - 1) // 2 for k in variances.shape]
    for tap in np.ndindex(variances.shape):
        offset = np.subtract(tap, front)
        phase = at @ offset
        total += variances[tap] * np.exp(1j * phase)
    mirrored = np.flip(variances)
    is_odd = all(k % 2 for k in variances.shape)
    if is_odd and np.array_equal(variances, mirrored):
        return np.real(total)
    return total
