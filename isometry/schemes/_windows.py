"""Initializers changed for the convolution that uses their kernels: tap and gain.

An initializer sees the shape of a kernel, not how its window meets the image:

- A matrix at one tap moves the image by the distance of this tap from the one that
  reads the pixel itself. An even window has no centre, and which of its two middle taps
  keeps all pixels depends on the padding.
- A transposed convolution of stride s puts zeros between the pixels, so an output meets
  one in s of the taps of an axis, on average. Its fan_in counts them all.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isometry._internal.errors import NotDefined
from isometry._internal.types import Initializer as Init
from isometry._internal.types import Key
from isometry.initializers import Initializer
from isometry.initializers._kernels import middle_tap, upper_tap
from isometry.structure import WeightLayer
from isometry.structure._convolutions import Convolution
from isometry.structure._usage import Usage

# Initializers with one matrix at one tap, and which tap of a window they take.
_TAPS: dict[str, Callable[[Sequence[int]], tuple[int, ...]]] = {
    "dirac": upper_tap,
    "zer_o": upper_tap,
    "delta_orthogonal": middle_tap,
    "hadamard": middle_tap,
    "identity": middle_tap,
    "looks_linear": middle_tap,
    "partial_identity": middle_tap,
}

# Initializers that leave most taps of each output at zero.
_NOT_SPREAD = frozenset((*_TAPS, "idinit"))

# Initializers whose scale is the user's own, or a framework's. A gain would change what
# was asked for.
_AS_THEY_ARE = frozenset(
    ("constant", "normal", "ones", "torch_default", "truncated_normal", "uniform")
)


class Fitted(NamedTuple):
    """An initializer for one layer.

    Attributes:
        init: The initializer.
        note: How it was changed for this layer, for the table of an assignment; "" if
            there is nothing to say.
    """

    init: Init
    note: str = ""


def fitted(init: Init, source: WeightLayer, usage: Usage, *, scheme: str) -> Fitted:
    """Return an initializer changed for the convolution that uses its kernels.

    Args:
        init: The initializer that a scheme chose.
        source: The layer for which it was chosen.
        usage: What the network does with its weight.
        scheme: The name of the scheme.

    Returns:
        The initializer. Where the convolution asks for it, a kernel that is a matrix at
        one tap has it at another tap, or all kernels are multiplied by a gain.

    Raises:
        NotDefined: The kernels leave most taps at zero, as a matrix at one tap does,
            and the convolution is transposed.
    """
    if source.kind != "conv":
        return Fitted(init)
    name = getattr(init, "name", "")
    if source.spread:
        return _of_transposed(init, source, usage, scheme=scheme, name=name)
    if name in _TAPS and isinstance(init, Initializer):
        return _at_best_tap(init, source, usage, name=name)
    return Fitted(init)


def _window(source: WeightLayer) -> tuple[int, ...]:
    """Return the number of taps of a kernel along each axis."""
    return tuple(source.shape[axis] for axis in source.window_axes)


# --- One tap


def _at_best_tap(
    init: Initializer, source: WeightLayer, usage: Usage, *, name: str
) -> Fitted:
    """Move the matrix of a kernel to the tap that reads the most pixels of the image.

    Of several such taps it is the one nearest to the tap of the initializer.

    Args:
        init: The initializer, with one matrix at one tap.
        source: The layer.
        usage: What the network does with its weight.
        name: The name of the initializer, a key of `_TAPS`.
    """
    window = _window(source)
    own = _TAPS[name](window)
    is_even = any(taps % 2 == 0 for taps in window)
    convolution = usage.convolution
    # Reversed taps are counted from the other end, which matters off the centre.
    if convolution is None or (usage.is_reversed and is_even):
        note = f"at tap {_written(own)}, which may shift the image"
        return Fitted(init, note if is_even else "")
    # On a circle no pixel is lost.
    if isinstance(convolution.padding, str):
        return Fitted(init)
    best = []
    is_whole = True
    for axis, taps in enumerate(window):
        kept = [_num_kept(convolution, axis, taps, tap=tap) for tap in range(taps)]
        # Ties go to the tap of the initializer, or the one nearest to it.
        distance = [abs(tap - own[axis]) for tap in range(taps)]
        tap = max(range(taps), key=lambda tap: (kept[tap], -distance[tap]))
        best.append(tap)
        steps = convolution.strides[axis]
        num_wanted = math.ceil(convolution.size[axis] / steps)
        num_outputs = _num_outputs(convolution, axis, taps)
        is_whole &= kept[tap] >= min(num_wanted, num_outputs)
    notes = []
    moved = init
    if tuple(best) != own:
        shift = [to - old for to, old in zip(best, own, strict=True)]
        moved = _changed(init, shift=shift)
        notes.append(f"at tap {_written(best)}, which reads the pixel itself")
    if not is_whole:
        notes.append(f"tap {_written(best)} loses pixels at the border")
    return Fitted(moved, ", ".join(notes))


def _num_outputs(convolution: Convolution, axis: int, taps: int) -> int:
    """Return the number of pixels of the result along an axis."""
    width = (taps - 1) * convolution.dilation[axis] + 1
    num_read = convolution.size[axis] + sum(_zeros(convolution, axis))
    return (num_read - width) // convolution.strides[axis] + 1


def _num_kept(convolution: Convolution, axis: int, taps: int, *, tap: int) -> int:
    """Return the number of outputs for which a tap reads a pixel, and not padding.

    Args:
        convolution: The convolution.
        axis: The axis of the image.
        taps: The number of taps along this axis.
        tap: The index of the tap along this axis.
    """
    before, _ = _zeros(convolution, axis)
    starts = np.arange(_num_outputs(convolution, axis, taps))
    first = tap * convolution.dilation[axis] - before
    pixels = starts * convolution.strides[axis] + first
    return int(np.sum((pixels >= 0) & (pixels < convolution.size[axis])))


def _zeros(convolution: Convolution, axis: int) -> tuple[int, int]:
    """Return the numbers of zeros before and behind the image along an axis."""
    padding = convolution.padding
    assert not isinstance(padding, str), "circular padding adds no zeros"
    return padding[axis]


def _written(tap: Sequence[int]) -> str:
    """Return the indices of a tap in its window as text: "(1, 1)"."""
    return "(" + ", ".join(map(str, tap)) + ")"


# --- Transposed


def _of_transposed(
    init: Init, source: WeightLayer, usage: Usage, *, scheme: str, name: str
) -> Fitted:
    """Multiply an initializer for a transposed convolution by √(product of strides).

    On average over pixels, outputs then have the variance of a usual convolution.

    Args:
        init: The initializer.
        source: The layer.
        usage: What the network does with its weight.
        scheme: The name of the scheme.
        name: The name of the initializer.

    Raises:
        NotDefined: The initializer leaves most taps at zero.
    """
    stride = "×".join(map(str, source.spread))
    num_phases = math.prod(source.spread)
    if name in _NOT_SPREAD:
        raise NotDefined(
            f"layer {source.name!r}: scheme {scheme!r} fills one tap of the window for "
            f"each output, and the transposed convolution of stride {stride} meets a "
            f"tap at one in {num_phases} of its outputs: the others would be zero. "
            "Take a scheme that fills the whole window, such as kaiming or orthogonal."
        )
    if name == "zeros":
        return Fitted(init)
    met = _taps_met(source, usage)
    # A scheme that is a plain initializer has its name. Gaussian weights that a scheme
    # scales by fan_in do not.
    is_own = name in _AS_THEY_ARE and name == scheme
    if is_own or not isinstance(init, Initializer):
        return Fitted(init, f"{met} meet an output")
    gain = num_phases**0.5
    note = f"times √{num_phases}, as {met} meet an output"
    return Fitted(_changed(init, gain=gain), note)


def _taps_met(source: WeightLayer, usage: Usage) -> str:
    """Return how many taps of a transposed convolution reach one output, in words.

    It depends on the output: "1 to 4 of 9 taps".
    """
    window = _window(source)
    num_taps = math.prod(window)
    convolution = usage.convolution
    if convolution is None:
        return f"1 in {math.prod(source.spread)} of {num_taps} taps"
    per_axis = []
    for axis, taps in enumerate(window):
        # An output meets the taps whose positions leave one remainder, modulo the
        # stride; the next output meets those of the next remainder.
        positions = np.arange(taps) * convolution.dilation[axis]
        step = convolution.spread[axis]
        per_axis.append(np.bincount(positions % step, minlength=step).tolist())
    counts = [math.prod(combined) for combined in itertools.product(*per_axis)]
    least, most = min(counts), max(counts)
    number = f"{most}" if least == most else f"{least} to {most}"
    return f"{number} of {num_taps} taps"


def _changed(
    init: Initializer, *, gain: float = 1.0, shift: Sequence[int] = ()
) -> Initializer:
    """Return an initializer with kernels that are multiplied, and moved in the window.

    Args:
        init: The initializer.
        gain: The factor.
        shift: The number of taps along each axis; () for none.
    """

    def draw(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        kernel = init.draw(key, shape, dtype)
        if shift:
            # Only taps that are zero roll over the end of the window.
            kernel = jnp.roll(kernel, shift, init.layout.parts(shape).window)
        if gain != 1.0:
            kernel = gain * kernel
        return kernel

    def largest(shape: tuple[int, ...]) -> float:
        return gain * init.largest(shape)

    return dataclasses.replace(init, draw=draw, largest=largest)
