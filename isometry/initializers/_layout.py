"""Kernels are built as (*window, in, out) and laid out as asked; where a window has one live tap, which one."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks
from isometry.initializers._fans import axes_of

WINDOW = "a convolution kernel, (*window, in, out), has at least three. For a dense layer use orthogonal()."


def split_axes(call: str, shape: tuple[int, ...], in_axis: int, out_axis: int) -> tuple[tuple[int, ...], int, int]:
    """(window, inputs, outputs) of a kernel: one axis each for inputs and outputs, all others the window."""
    single = [axes_of(call, a, len(shape), n) for a, n in ((in_axis, "in_axis"), (out_axis, "out_axis"))]
    if any(len(axes) != 1 for axes in single) or single[0] == single[1]:
        raise _checks.InputError(
            f"{call}(): in_axis={in_axis} and out_axis={out_axis} must be two different axes of shape={shape}."
        )
    (i,), (o,) = single
    return tuple(n for a, n in enumerate(shape) if a not in (i, o)), shape[i], shape[o]


def lay_out(kernel: Array, in_axis: int, out_axis: int) -> Array:
    """A kernel (*window, in, out) with its inputs at `in_axis` and its outputs at `out_axis`."""
    return jnp.moveaxis(kernel, (-2, -1), (in_axis, out_axis))


def at_tap(matrix: Float[Array, "n m"], window: Sequence[int], tap: Sequence[int]) -> Float[Array, "*window n m"]:
    """A kernel that is `matrix` at one tap of the window and zero at the others."""
    if not window:
        return matrix
    return jnp.zeros((*window, *matrix.shape), matrix.dtype).at[tuple(tap)].set(matrix)


def middle_tap(window: Sequence[int]) -> tuple[int, ...]:
    """(k - 1)//2 on every axis: the tap that SAME padding in JAX aligns with its output, for odd and even k."""
    return tuple((k - 1) // 2 for k in window)


def upper_tap(window: Sequence[int]) -> tuple[int, ...]:
    """k//2 on every axis, as torch counts: for even k one beyond `middle_tap`, a shift by one pixel under SAME."""
    return tuple(k // 2 for k in window)


def matrix_shape(call: str, shape: tuple[int, ...], what: str) -> tuple[int, int]:
    """A shape of exactly two axes."""
    if len(shape) != 2:
        count = {0: "no axis", 1: "one axis"}.get(len(shape), f"{len(shape)} axes")
        raise _checks.InputError(f"{call}(): shape={shape} has {count}; {what} has two.")
    return shape[0], shape[1]
