"""Kernels are built as (*window, in, out), stacked and laid out as asked; which tap of a window is the live one."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks
from isometry.initializers._fans import Layout, parts
from isometry.initializers._protocol import Draw, Initializer, arguments, magnitude

WINDOW = "a convolution kernel, (*window, in, out), has at least three. For a dense layer use orthogonal()."

Kernel = Callable[[Any, tuple[int, ...], int, int, Any], jax.Array]


def initializer_of_kernels(
    name: str,
    written: dict[str, Any],
    layout: Layout,
    kernel: Kernel,
    *,
    axes: tuple[int, float],
    why: str,
    largest: Any = 1.0,
    random: bool = True,
) -> Initializer:
    """The initializer whose kernels (*window, in, out) are `kernel(key, window, n_in, n_out, dtype)`.

    A kernel has as many axes as `axes` allows, from least to most, not counting the batch; `why` says so. `largest`: no
    smaller than any entry's magnitude. The key goes to a single kernel as it is; those of a stack are independent, each
    from a key split off it.
    """
    draw = _draw(name, layout, kernel, axes, why, random)
    named = arguments(**written, **layout.changed())
    reach = lambda shape: magnitude(largest)  # noqa: E731
    return Initializer(name, named, draw, random=random, least_axes=axes[0], why=why, largest=reach)


def _draw(call: str, layout: Layout, kernel: Kernel, axes: tuple[int, float], why: str, random: bool) -> Draw:
    def draw(key, shape, dtype):
        batch, window, n_in, n_out = split_axes(call, shape, layout)
        count = len(shape) - len(batch)
        if not axes[0] <= count <= axes[1]:
            beside = f" beside batch_axis={layout.batch_axis}" if batch else ""
            raise _checks.InputError(f"{call}(): shape={shape} has {count} axes{beside}; {why}")

        def one(key):
            return kernel(key, tuple(shape[a] for a in window), shape[n_in], shape[n_out], dtype)

        stack = _stack(one, key, tuple(shape[a] for a in batch), random)
        return jnp.moveaxis(stack, range(len(shape)), (*batch, *window, n_in, n_out))

    return draw


def _stack(one: Callable[[Any], Array], key: Any, sizes: tuple[int, ...], random: bool) -> Array:
    if not sizes:
        return one(key)
    if not random:
        single = one(key)
        return jnp.broadcast_to(single, sizes + single.shape)
    drawn = jax.vmap(one)(jax.random.split(key, math.prod(sizes)))
    return drawn.reshape(sizes + drawn.shape[1:])


def split_axes(call: str, shape: tuple[int, ...], layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...], int, int]:
    """Batch, window, input and output axes of a stack of kernels: one for inputs, one for outputs."""
    inputs, outputs, batch = parts(call, shape, layout.in_axis, layout.out_axis, layout.batch_axis)
    if len(inputs) != 1 or len(outputs) != 1:
        raise _checks.InputError(
            f"{call}(): in_axis={layout.in_axis} and out_axis={layout.out_axis} must be one axis each of shape={shape}."
        )
    window = tuple(a for a in range(len(shape)) if a not in batch + inputs + outputs)
    return batch, window, inputs[0], outputs[0]


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
