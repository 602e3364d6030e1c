"""Weights with a structure: each kernel is built as (*window, in, out), then laid out.

A factory says how one kernel of one group is drawn. This module draws one for each
group and each member of a batch, and moves the axes to where the user wants them. A tap
is one position of the window: at it the kernel is a matrix of inputs and outputs.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal.errors import InputError
from isometry._internal.types import DTypeLike, Key
from isometry.initializers._initializer import (
    Initializer,
    for_any_shape,
    format_arguments,
    magnitude,
)
from isometry.initializers._layout import Layout, Parts, size, sizes


class KernelShape(NamedTuple):
    """The shape of one kernel of one group."""

    window: tuple[int, ...]
    num_inputs: int
    num_outputs: int


DrawKernel: TypeAlias = Callable[[Key, KernelShape, np.dtype], Array]


@dataclass(frozen=True)
class Ranks:
    """How many axes a weight may have, batch axes not counted.

    Attributes:
        least: The least number.
        most: The greatest number; None for any.
        why: The end of the message about other numbers.
    """

    least: int
    most: int | None
    why: str

    def allows(self, rank: int) -> bool:
        """Tell whether a weight may have `rank` axes, batch axes not counted."""
        is_too_many = self.most is not None and rank > self.most
        return rank >= self.least and not is_too_many


CONVOLUTION = Ranks(
    least=3,
    most=None,
    why="a convolution kernel, (*window, in, out), has at least three. "
    "For a dense layer use orthogonal().",
)


def kernel_initializer(
    name: str,
    draw_kernel: DrawKernel,
    layout: Layout,
    *,
    arguments: dict[str, object],
    ranks: Ranks,
    largest: float = 1.0,
    random: bool = True,
    dtype: DTypeLike | None,
) -> Initializer:
    """Return an initializer whose kernels are drawn by `draw_kernel`.

    One kernel alone is drawn from the key itself. Otherwise the key is split, into one
    for each group of each member of the batch.

    Args:
        name: The name of the factory, for messages and the repr.
        draw_kernel: `draw_kernel(key, kernel_shape, dtype)` draws the kernel of one
            group, of shape (*window, inputs, outputs).
        layout: The axes and groups.
        arguments: The arguments of the factory, for the repr; without axes and groups.
        ranks: How many axes a weight may have.
        largest: A bound on the magnitude of all entries.
        random: Whether `draw_kernel` uses the key. If not, all kernels are equal.
        dtype: The dtype if a call names none.
    """

    def draw(key: Key, shape: tuple[int, ...], draw_dtype: np.dtype) -> Array:
        parts = layout.parts(shape)
        _check_rank(shape, parts, ranks=ranks, layout=layout)
        kernel_shape = KernelShape(
            window=sizes(shape, parts.window),
            num_inputs=size(shape, parts.inputs),
            num_outputs=layout.outputs_per_group(shape),
        )

        def draw_one(key: Key) -> Array:
            return draw_kernel(key, kernel_shape, draw_dtype)

        stack_shape = (*sizes(shape, parts.batch), layout.groups)
        # Most weights are one kernel, with the axes as it is drawn. What would change
        # nothing is left out, as it is a program outside of jit.
        if stack_shape == (1,) and is_in_order(parts, shape):
            return draw_one(key)
        if random:
            kernels = _stack(draw_one, key, stack_shape)
        else:
            # Without randomness all kernels are equal, so one is built.
            kernel = draw_one(key)
            kernels = jnp.broadcast_to(kernel, stack_shape + kernel.shape)
        return lay_out(kernels, shape, parts)

    return Initializer(
        name,
        format_arguments(arguments | layout.changed(), dtype),
        draw,
        random=random,
        least_axes=ranks.least,
        why=ranks.why,
        largest=for_any_shape(magnitude(largest)),
        dtype=dtype,
        layout=layout,
    )


def _check_rank(
    shape: tuple[int, ...], parts: Parts, *, ranks: Ranks, layout: Layout
) -> None:
    # Several input axes act as one, and so do several output axes.
    rank = len(parts.window) + 2
    if ranks.allows(rank):
        return
    beside = ""
    if parts.batch:
        beside += f" beside batch_axis={layout.batch_axis}"
    if len(parts.inputs) != 1 or len(parts.outputs) != 1:
        beside += ", inputs and outputs counted as one each"
    raise InputError(f"shape={shape} has {rank} axes{beside}; {ranks.why}")


def _stack(
    draw_one: Callable[[Key], Array], key: Key, stack_shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """Draw independent kernels; return an array of shape (*stack_shape, *kernel)."""
    # One kernel alone takes the key itself, so that its bits are JAX's. A batch axis of
    # size one is a batch, so that its size does not decide how keys are used.
    if stack_shape == (1,):
        return draw_one(key)[None]
    keys = jax.random.split(key, math.prod(stack_shape))
    kernels = jax.vmap(draw_one)(keys)
    return kernels.reshape(stack_shape + kernels.shape[1:])


# One program for each shape, not one for each of the operations.
@functools.partial(jax.jit, static_argnames=("shape", "parts"))
def lay_out(
    kernels: Float[Array, "..."],
    shape: tuple[int, ...],
    parts: Parts,
    gain: Float[Array, ""] | None = None,
) -> Float[Array, "..."]:
    """Return kernels (*batch, groups, *window, in, out/groups) as one weight.

    Args:
        kernels: The kernels of all groups and members of the batch.
        shape: The shape of the weight.
        parts: The axes of the weight.
        gain: What the weight is multiplied by; None is 1.
    """
    # Along the outputs, the groups follow each other.
    grouped = jnp.moveaxis(kernels, len(parts.batch), -2)
    order = parts.batch + parts.window + parts.inputs + parts.outputs
    ordered = grouped.reshape(sizes(shape, order))
    laid_out = jnp.moveaxis(ordered, range(len(shape)), order)
    if gain is None:
        return laid_out
    return gain * laid_out


def is_in_order(parts: Parts, shape: tuple[int, ...]) -> bool:
    """Tell whether a weight is one kernel (*window, in, out) with its axes in order.

    Its outputs may be those of several groups.
    """
    order = parts.batch + parts.window + parts.inputs + parts.outputs
    num_axes = len(shape)
    is_single = len(parts.inputs) == len(parts.outputs) == 1
    return not parts.batch and is_single and order == tuple(range(num_axes))


# One program for each shape, as above.
@functools.partial(jax.jit, static_argnames=("window", "tap"))
def at_tap(
    matrix: Float[Array, "inputs outputs"],
    window: tuple[int, ...],
    tap: tuple[int, ...],
) -> Float[Array, "*window inputs outputs"]:
    """Return the kernel that is `matrix` at one tap and zero elsewhere."""
    # Without a window this is the matrix itself.
    kernel = jnp.zeros((*window, *matrix.shape), matrix.dtype)
    return kernel.at[tap].set(matrix)


def middle_tap(window: Sequence[int]) -> tuple[int, ...]:
    """Return (k - 1)//2 on every axis, the tap that SAME padding in JAX aligns."""
    return tuple((k - 1) // 2 for k in window)


def upper_tap(window: Sequence[int]) -> tuple[int, ...]:
    """Return k//2 on every axis, as torch counts.

    For even k this is one tap beyond `middle_tap`, a shift by one pixel under SAME.
    """
    return tuple(k // 2 for k in window)
