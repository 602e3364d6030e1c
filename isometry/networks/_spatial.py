"""Convolution and pooling of one image, (*size, channels), in one or two dimensions."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks
from isometry._internal.errors import InputError

T = TypeVar("T")

Size: TypeAlias = tuple[int, ...]

# (n, channels) or (h, w, channels).
Image: TypeAlias = Float[Array, "... _"]
Kernel: TypeAlias = Float[Array, "... _ _"]

# How XLA names the axes of images and kernels, by the number of spatial axes.
_AXES = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}

# The side of a window of pooling, and the step from one window to the next, in pixels.
POOL = 2


def convolve(
    kernel: Kernel, x: Image, *, strides: Size, padding: str, groups: int = 1
) -> Image:
    """Convolve one image with a kernel.

    Args:
        kernel: Weights of shape (*window, in/groups, out).
        x: The image, of shape (*size, in).
        strides: Pixels from one window to the next, one number per axis.
        padding: "circular", "same" or "valid".
        groups: The number of groups of channels that do not mix.

    Returns:
        An image of shape (*`size_after`, out).
    """
    window = kernel.shape[:-2]
    # XLA has no circular padding. The image is continued as far as windows reach, and
    # then needs no padding.
    if padding == "circular":
        x = _wrapped(x, window)
        padding = "valid"
    batch = jax.lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=strides,
        padding=padding.upper(),
        dimension_numbers=_AXES[len(window)],
        feature_group_count=groups,
    )
    return batch[0]


def _wrapped(x: Image, window: Size) -> Image:
    """Return an image with circular margins, for windows that reach beyond its edges.

    Each margin holds the pixels of the opposite edge.
    """
    # The margins are those of "same" at stride 1, so that each tap of a kernel acts on
    # the same pixel with both paddings.
    margins = [((side - 1) // 2, side // 2) for side in window]
    return jnp.pad(x, [*margins, (0, 0)], mode="wrap")


def size_after(size: Size, window: Size, strides: Size, padding: str) -> Size:
    """Return the size of the image that a convolution returns.

    Args:
        size: The pixels of the image that it reads, along each axis.
        window: The taps along each axis.
        strides: The stride along each axis.
        padding: "circular", "same" or "valid".
    """
    if padding == "valid":
        size = tuple(n - k + 1 for n, k in zip(size, window, strict=True))
    return tuple(math.ceil(n / s) for n, s in zip(size, strides, strict=True))


def pool(x: Image, pooling: str) -> Image:
    """Return the mean or the largest value of each window of `POOL` pixels per axis.

    Windows do not overlap. A last row that fills no window is left out.

    Args:
        x: The image.
        pooling: "average" or "max".
    """
    sides = (POOL,) * (x.ndim - 1) + (1,)
    if pooling == "max":
        return jax.lax.reduce_window(
            x,
            -jnp.inf,
            jax.lax.max,
            window_dimensions=sides,
            window_strides=sides,
            padding="VALID",
        )
    total = jax.lax.reduce_window(
        x,
        0.0,
        jax.lax.add,
        window_dimensions=sides,
        window_strides=sides,
        padding="VALID",
    )
    return total / math.prod(sides)


def pixel_mean(x: Image) -> Float[Array, " channels"]:
    """Return the mean of each channel over all pixels; a vector as it is."""
    pixels = tuple(range(x.ndim - 1))
    # A mean over no axes would add a division by 1 to every program.
    if not pixels:
        return x
    return jnp.mean(x, axis=pixels)


def plus_bias(z: Image, layer: dict[str, Array]) -> Image:
    """Return z plus the bias of a layer, `layer["b"]`; z itself if there is none."""
    if "b" not in layer:
        return z
    # With as many axes as z: under strict rank promotion a vector would be refused.
    return z + layer["b"].reshape((1,) * (z.ndim - 1) + layer["b"].shape)


def checked_size(size: Sequence[int]) -> Size:
    """Return the size of an image; require one or two positive whole numbers."""
    is_sequence = isinstance(size, Sequence) and not isinstance(size, str)
    if not is_sequence or len(size) not in _AXES:
        raise InputError(
            f"size={checks.show(size)} is not the size of an image; write (n,) or "
            "(h, w)."
        )
    return tuple(checks.integer(f"size[{i}]", n, low=1) for i, n in enumerate(size))


def one_per_axis(name: str, value: int | Sequence[int], num_axes: int) -> Size:
    """Return one positive whole number for each axis of an image.

    Args:
        name: The name of the argument, for messages.
        value: One number for all axes, or a sequence with one per axis.
        num_axes: The number of axes.

    Raises:
        InputError: Another number of entries, or an entry below 1.
    """
    if not isinstance(value, Sequence):
        return (checks.integer(name, value, low=1),) * num_axes
    if len(value) != num_axes:
        raise InputError(
            f"{name}={checks.show(value)} has {len(value)} entries for {num_axes} "
            "axes; write a number, or one per axis."
        )
    return tuple(checks.integer(f"{name}[{i}]", n, low=1) for i, n in enumerate(value))


def one_each(
    name: str,
    value: object,
    count: int,
    *,
    of: str,
    check: Callable[[str, Any], T],
) -> tuple[T, ...]:
    """Return one checked value for each layer or block.

    Args:
        name: The name of the argument, for messages.
        value: One value for all, or a sequence or an array with one value for each.
        count: The number of layers or blocks.
        of: The word for a layer or block in messages.
        check: `check(name, value)` returns the checked value for one layer or block.

    Raises:
        InputError: Another number of values, or what `check` refuses.
    """
    # Multipliers often come from np.linspace. `tolist` makes a number of a scalar
    # array.
    if isinstance(value, (np.ndarray, jax.Array)):
        value = value.tolist()
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (check(name, value),) * count
    if len(value) != count:
        raise InputError(
            f"{name}={checks.show(value)} has {len(value)} entries; write one for all, "
            f"or one per {of}, {count} of them."
        )
    return tuple(check(f"{name}[{i}]", entry) for i, entry in enumerate(value))
