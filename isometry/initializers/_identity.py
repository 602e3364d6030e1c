"""Identity weights, square and rectangular."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks
from isometry._internal.errors import NotDefined, public
from isometry._internal.types import Axes, DTypeLike, Key
from isometry.initializers._catalogue import register
from isometry.initializers._initializer import Initializer
from isometry.initializers._kernels import (
    KernelShape,
    Ranks,
    at_tap,
    kernel_initializer,
    middle_tap,
)
from isometry.initializers._layout import Layout

_RANKS = Ranks(least=2, most=None, why="an identity matrix has two.")


@register(
    law="gain on the diagonal, 0 elsewhere: all singular values |gain|",
    citation="Le, Jaitly, Hinton (2015), arXiv:1504.00941",
    isometric="square",
    aliases=("Keras Identity",),
)
@public("identity")
def identity(
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Fill with the identity times gain; square shapes only.

    A kernel with a window is the identity at its centre tap and zero elsewhere, which
    makes a convolution with SAME or circular padding gain times the identity. All
    singular values are |gain|. The recurrent weights of IRNNs start from it (Le, Jaitly
    and Hinton, 2015).

    Args:
        gain: The entries of the diagonal. A finite number.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
        groups: Number of blocks of outputs that read inputs of their own; the weight
            then has the shape (*window, in/groups, out), and each block is the
            identity.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes (*window, n, n), which needs no key.

    Raises:
        NotDefined: The shape is not square; `partial_identity` takes any rectangle.
        InputError: `gain` is not a finite number; `layout` is not known, or given
            beside axes. When the initializer is called: axes or groups do not fit the
            shape; `gain` is too large for the dtype.

    Example:
        >>> from isometry import initializers
        >>> initializers.identity(2.0)(None, (2, 2))
        Array([[2., 0.],
               [0., 2.]], dtype=float32)
    """
    gain = checks.number("gain", gain)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)

    def draw(key: Key | None, shape: KernelShape, dtype: np.dtype) -> Array:
        # A rectangle loses some channels, so it must be asked for by another name.
        if shape.num_inputs != shape.num_outputs:
            # The shape that the user wrote holds a window, groups and a batch as well.
            of_group = " of a group" if axes.groups > 1 else ""
            raise NotDefined(
                f"shape is not square: {shape.num_inputs} inputs and "
                f"{shape.num_outputs} outputs{of_group}. For a rectangle use "
                "partial_identity()."
            )
        matrix = diagonal(gain, shape, dtype)
        # The tap that SAME padding in JAX aligns, so that the pixel itself is read.
        return at_tap(matrix, shape.window, middle_tap(shape.window))

    return kernel_initializer(
        "identity",
        draw,
        axes,
        arguments={"gain": gain},
        ranks=_RANKS,
        largest=gain,
        random=False,
        dtype=dtype,
    )


@register(
    law="gain on the main diagonal, 0 elsewhere: all min(m, n) singular values |gain|",
    citation="Zhao, Schäfer, Anandkumar (2022), arXiv:2110.12661",
    isometric="every shape, but training stays in max(n_in, n_out) dimensions however "
    "wide the layers",
    aliases=("torch eye_", "eye"),
)
@public("partial_identity")
def partial_identity(
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Fill with gain on the main diagonal of a rectangle, 0 elsewhere (torch's `eye_`).

    A kernel with a window holds the rectangle at its centre tap and is zero elsewhere;
    for an even window k that is the tap (k - 1)//2, where `dirac` has torch's k//2.

    All min(inputs, outputs) singular values are |gain|. A network of these is an
    isometry at initialization and trains degenerately: units beyond the input and
    output dimension have zero incoming and outgoing weights and stay at zero for ever,
    whatever the hidden width (Zhao, Schäfer and Anandkumar, 2022).

    Args:
        gain: The entries of the diagonal. A finite number.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
        groups: Number of blocks of outputs that read inputs of their own; the weight
            then has the shape (*window, in/groups, out), and each block is a partial
            identity.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes (*window, in/groups, out), which needs no key.

    Raises:
        InputError: `gain` is not a finite number; `layout` is not known, or given
            beside axes. When the initializer is called: the shape has fewer than two
            axes; axes or groups do not fit the shape; `gain` is too large for the
            dtype.

    Example:
        >>> from isometry import initializers
        >>> initializers.partial_identity()(None, (2, 3))
        Array([[1., 0., 0.],
               [0., 1., 0.]], dtype=float32)
    """
    gain = checks.number("gain", gain)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)

    def draw(key: Key | None, shape: KernelShape, dtype: np.dtype) -> Array:
        matrix = diagonal(gain, shape, dtype)
        # The tap that SAME padding in JAX aligns, so that the pixel itself is read.
        return at_tap(matrix, shape.window, middle_tap(shape.window))

    return kernel_initializer(
        "partial_identity",
        draw,
        axes,
        arguments={"gain": gain},
        ranks=_RANKS,
        largest=gain,
        random=False,
        dtype=dtype,
    )


# torch's name of it.
eye = partial_identity


def diagonal(
    value: float, shape: KernelShape, dtype: np.dtype
) -> Float[Array, "inputs outputs"]:
    """Return the matrix of this shape with `value` on its main diagonal."""
    ones = jnp.eye(shape.num_inputs, shape.num_outputs, dtype=dtype)
    return jnp.asarray(value, dtype) * ones
