"""Kernels whose convolution is an isometry: delta- and block-orthogonal, dirac."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from isometry._internal import checks, precision
from isometry._internal.errors import public
from isometry._internal.types import Axes, DTypeLike, Key
from isometry.initializers._catalogue import SAME_BITS, register
from isometry.initializers._identity import diagonal
from isometry.initializers._initializer import Initializer
from isometry.initializers._kernels import (
    CONVOLUTION,
    KernelShape,
    Ranks,
    at_tap,
    kernel_initializer,
    middle_tap,
    upper_tap,
)
from isometry.initializers._layout import Layout
from isometry.linalg._factorizations import haar_orthogonal

_XIAO = "Xiao et al. (2018), arXiv:1806.05393"


@register(
    law="Haar at the tap (k − 1)//2, 0 elsewhere: all singular values of the "
    "convolution gain, circular or SAME; of a grouped convolution with groups= only",
    citation=f"{_XIAO}, Algorithm 2",
    isometric="every window and every channel count, stride 1, circular or SAME zero "
    "padding; a grouped convolution with groups= only",
    aliases=("jax delta_orthogonal",),
    differs="jax.nn.initializers.delta_orthogonal() is delta_orthogonal() for "
    "in <= out, " + SAME_BITS,
)
@public("delta_orthogonal")
def delta_orthogonal(
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw kernels that are zero but for a Haar orthogonal matrix at the middle tap.

    The convolution is that matrix times gain at every pixel, so with circular or SAME
    padding all its singular values are gain: an isometry for in <= out, a co-isometry
    for in > out, which JAX refuses (Xiao et al., 2018, Algorithm 2). For in <= out the
    draw is bit for bit that of `jax.nn.initializers.delta_orthogonal` from the same
    key, in float32 and float64; bfloat16 and float16 are the float32 draw, rounded
    once.

    The middle tap is (k - 1)//2 as in JAX, which SAME padding aligns for odd and even
    k. `dirac` and `zer_o` use k//2, as torch and the ZerO authors do: another one for
    even k.

    The kernel of a grouped or depthwise convolution looks like that of an ungrouped
    one. Without `groups` it is drawn as one matrix of shape (in/groups, out), and the
    convolution is no isometry.

    Cost: one QR of the channels of each group.

    Args:
        gain: All singular values are |gain|. A finite number.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent kernels, such as stacked layers or experts.
        groups: Number of groups (Flax's `feature_group_count`), each with a Haar matrix
            of its own. Depthwise: the number of channels, shape (*window, 1, channels).
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes (*window, in/groups, out).

    Raises:
        InputError: `gain` is not a finite number; `layout` is not known, or given
            beside axes. When the initializer is called: the shape has no window; axes
            or groups do not fit the shape; `gain` is too large for the dtype.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from isometry import initializers
        >>> init = initializers.delta_orthogonal()
        >>> w = init(jax.random.key(0), (3, 3, 4, 4))
        >>> np.linalg.svd(w[1, 1], compute_uv=False).round(5)
        array([1., 1., 1., 1.], dtype=float32)

        Depthwise, each channel is multiplied by 1 or -1:

        >>> init = initializers.delta_orthogonal(groups=4)
        >>> abs(init(jax.random.key(0), (3, 1, 4))[1])
        Array([[1., 1., 1., 1.]], dtype=float32)
    """
    gain = checks.number("gain", gain)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)

    def draw(key: Key, shape: KernelShape, dtype: np.dtype) -> Array:
        matrix = haar_orthogonal(
            key, rows=shape.num_inputs, columns=shape.num_outputs, dtype=dtype
        )
        scaled = jnp.asarray(gain, dtype) * matrix
        # Where SAME padding in JAX is uneven it pads less in front, so for even k this
        # tap is the one that reads the pixel itself.
        return at_tap(scaled, shape.window, middle_tap(shape.window))

    return kernel_initializer(
        "delta_orthogonal",
        draw,
        axes,
        arguments={"gain": gain},
        ranks=CONVOLUTION,
        largest=gain,
        dtype=dtype,
    )


@register(
    law="a product of Haar projections P + (I − P)x per tap and axis, and a Haar "
    "matrix: all singular values of the circular convolution gain; with SAME zero "
    "padding at most gain; of a grouped convolution with groups= only",
    citation=f"{_XIAO}, Algorithm 1",
    isometric="every window and every channel count, stride 1, circular padding; a "
    "grouped convolution with groups= only",
)
@public("block_orthogonal")
def block_orthogonal(
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw kernels that use their whole window and whose convolution is orthogonal.

    The kernel is gain·H Π (P + (I - P) x_a), where x_a is the shift along axis a and
    every axis of the window, of length k_a, has k_a - 1 factors. H is Haar. The P of
    each factor is fresh: the orthogonal projection onto a random half of a Haar basis,
    each direction with probability 1/2. Where |x| = 1 every factor is unitary, so all
    singular values of the circular convolution are gain, in any number of dimensions
    and for windows of unequal sides. Algorithm 1 of Xiao et al. (2018) is the square
    case in two dimensions. An isometry for in <= out, a co-isometry for in > out.

    Zero padding cuts the operator. Fully padded (k - 1 on each side) it is still an
    isometry if in <= out, unpadded a co-isometry if in >= out. With SAME its singular
    values are at most gain and in general not all equal.

    The kernel of a grouped or depthwise convolution looks like that of an ungrouped
    one. Without `groups` it is drawn for in/groups inputs and all outputs, and the
    convolution is no isometry.

    Cost: 1 + Σ(k_a - 1) QRs of max(in, out) channels and as many products with the
    kernel, for each group.

    Args:
        gain: All singular values are |gain|. A finite number.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent kernels, such as stacked layers or experts.
        groups: Number of groups (Flax's `feature_group_count`), each with an orthogonal
            kernel of its own. Depthwise: the number of channels, shape
            (*window, 1, channels).
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes (*window, in/groups, out).

    Raises:
        InputError: `gain` is not a finite number; `layout` is not known, or given
            beside axes. When the initializer is called: the shape has no window; axes
            or groups do not fit the shape; `gain` is too large for the dtype.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from isometry import initializers
        >>> init = initializers.block_orthogonal()
        >>> w = init(jax.random.key(0), (3, 4, 4))
        >>> transfer = np.fft.fft(w, n=8, axis=0)  # a circle of 8 pixels
        >>> s = np.linalg.svd(transfer, compute_uv=False)
        >>> float(abs(s - 1).max()) < 1e-5
        True
    """
    gain = checks.number("gain", gain)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)

    def draw(key: Key, shape: KernelShape, dtype: np.dtype) -> Array:
        few, many = sorted((shape.num_inputs, shape.num_outputs))
        kernel = _orthogonal_polynomial(
            key, shape.window, few=few, many=many, dtype=dtype
        )
        # K(x) = Σ_t K_t x^t, with t and x multi-indices over the window, has
        # orthonormal rows wherever every |x_i| = 1. Transposing each K_t transposes
        # K(x), which then has orthonormal columns.
        if shape.num_inputs > shape.num_outputs:
            kernel = kernel.mT
        return jnp.asarray(gain, dtype) * kernel

    return kernel_initializer(
        "block_orthogonal",
        draw,
        axes,
        arguments={"gain": gain},
        ranks=CONVOLUTION,
        largest=gain,
        dtype=dtype,
    )


# Compiled as a whole: the kernel grows by one tap a factor, and op by op XLA would
# compile every length on the way.
@functools.partial(jax.jit, static_argnames=("window", "few", "many", "dtype"))
def _orthogonal_polynomial(
    key: Key, window: tuple[int, ...], *, few: int, many: int, dtype: np.dtype
) -> Float[Array, "*window few many"]:
    """Draw the coefficients of H Π (P + (I - P) x_a), with H of shape (few, many)."""
    axis_of_factor = [
        axis
        for step in range(1, max(window))
        for axis, side in enumerate(window)
        if step < side
    ]
    num_factors = len(axis_of_factor)
    basis_key, subset_key = jax.random.split(key)
    # Products in TF32 or bfloat16 passes, some platforms' default, would leave the
    # operator orthogonal to 1e-3 only.
    with precision.full():
        head, *bases = haar_orthogonal(
            basis_key, rows=many, columns=many, dtype=dtype, batch=(1 + num_factors,)
        )
        # A fair coin for each direction: the rank of P is Binomial(many, 1/2), as of a
        # projection that treats P and I - P alike.
        kept = jax.random.bernoulli(subset_key, 0.5, (num_factors, many))
        # Rows of a Haar matrix are Haar among orthonormal rows.
        kernel = head[:few].reshape((1,) * len(window) + (few, many))
        for axis, basis, is_kept in zip(axis_of_factor, bases, kept, strict=True):
            kernel = _times_factor(kernel, basis, is_kept, axis=axis)
    return kernel


def _times_factor(
    kernel: Float[Array, "*window few many"],
    basis: Float[Array, "many many"],
    is_kept: Bool[Array, " many"],
    *,
    axis: int,
) -> Float[Array, "*longer few many"]:
    """Return the kernel times P + (I - P) x, where x shifts by one tap along `axis`.

    Args:
        kernel: The kernel.
        basis: An orthogonal matrix.
        is_kept: Which of its columns span the range of the projection P.
        axis: The axis of the window; it grows by one.
    """
    directions = basis * is_kept[None, :].astype(basis.dtype)
    projection = directions @ directions.T
    stays = jnp.tensordot(kernel, projection, 1)
    moves = kernel - stays
    # Multiplying by x moves every tap by one, so the window grows by one.
    empty_tap = jnp.zeros_like(jax.lax.slice_in_dim(kernel, 0, 1, axis=axis))
    unmoved = jnp.concatenate([stays, empty_tap], axis)
    moved = jnp.concatenate([empty_tap, moves], axis)
    return unmoved + moved


@register(
    law="gain at the tap k//2 for output d of each group and input d, "
    "d < min(out/groups, in), 0 elsewhere: all min(out/groups, in)·groups "
    "non-structural singular values of the grouped convolution gain, circular padding",
    citation="torch.nn.init.dirac_",
    isometric="every channel count, circular padding; SAME zero padding if every side "
    "of the window is odd; a grouped convolution with groups= only",
    aliases=("torch dirac_",),
)
@public("dirac")
def dirac(
    groups: int = 1,
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Fill kernels with gain times a partial identity per group, at the tap k//2.

    This is torch's `dirac_` with a gain. In each group output channel i copies input
    channel i; outputs beyond the inputs are zero. For an even window k under SAME
    padding in JAX, the tap k//2 shifts the image by one pixel and so drops a border
    row; `delta_orthogonal` uses (k - 1)//2, which does not. As the scheme of a network,
    whose padding is known, it takes the tap that drops none.

    A kernel's shape does not show whether its convolution is grouped, so pass `groups`.
    If it is left out, only the outputs of the first group are not zero.

    Args:
        groups: Number of groups (Flax's `feature_group_count`).
        gain: The entries that are not zero. A finite number.
        in_axis: Axis or axes of the inputs of one group.
        out_axis: Axis or axes of the outputs of all groups.
        batch_axis: Axes over independent kernels, such as stacked layers or experts.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes (*window, in/groups, out) with one to three axes of the
        window, which needs no key.

    Raises:
        InputError: `gain` is not a finite number; `layout` is not known, or given
            beside axes. When the initializer is called: the shape does not have three,
            four or five axes; axes or groups do not fit the shape; `gain` is too large
            for the dtype.

    Example:
        >>> from isometry import initializers
        >>> initializers.dirac()(None, (3, 2, 2))[1]
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
        >>> initializers.dirac(groups=2)(None, (3, 2, 4))[1]
        Array([[1., 0., 1., 0.],
               [0., 1., 0., 1.]], dtype=float32)
    """
    checks.integer("groups", groups, low=1)
    gain = checks.number("gain", gain)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)

    def draw(key: Key | None, shape: KernelShape, dtype: np.dtype) -> Array:
        matrix = diagonal(gain, shape, dtype)
        # torch's tap, for even k another one than `delta_orthogonal`'s.
        return at_tap(matrix, shape.window, upper_tap(shape.window))

    return kernel_initializer(
        "dirac",
        draw,
        axes,
        arguments={"gain": gain},
        # torch's limits: one to three dimensions of space.
        ranks=Ranks(
            least=3,
            most=5,
            why="Like torch's dirac_ it needs three to five, (*window, in, out). "
            "For a dense layer use partial_identity().",
        ),
        largest=gain,
        random=False,
        dtype=dtype,
    )
