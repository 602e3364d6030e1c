"""Hadamard and ZerO initializers: weights of zeros, ones and a power of two."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks
from isometry._internal.errors import public
from isometry._internal.types import Axes, DTypeLike, Key
from isometry.initializers._catalogue import register
from isometry.initializers._identity import diagonal
from isometry.initializers._initializer import Initializer
from isometry.initializers._kernels import (
    KernelShape,
    Ranks,
    at_tap,
    kernel_initializer,
    middle_tap,
    upper_tap,
)
from isometry.initializers._layout import Layout

_ZERO = "Zhao, Schäfer, Anandkumar (2022), Algorithms 1 and 2, arXiv:2110.12661"

# The square of c √p in the authors' code and in their paper; c differs by √2.
_SQUARED_SCALES = {"code": 1, "paper": 2}


@register(
    law="±gain/√p with p = 2^⌈log2 max(m, n)⌉: max(0, m + n − p) singular values gain, "
    "the others in [gain/√p, gain)",
    citation="Sylvester (1867); " + _ZERO,
    isometric="shapes whose longer side is a power of two",
)
@public("hadamard")
def hadamard(
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Fill with gain/√p times the top-left block of the Hadamard matrix of order p.

    p is the least power of two that is not below the longer side, and the matrix is
    Sylvester's. With n the shorter and N the longer side, the p - N missing columns
    take a matrix of rank min(n, p - N) off the Gram matrix of orthogonal rows. So
    max(0, n + N - p) singular values are |gain|, the others smaller but at least
    |gain|/√p. A kernel with a window holds the block at its centre tap, (k - 1)//2, and
    is zero elsewhere.

    Args:
        gain: Its magnitude is the largest singular value. A finite number.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
        groups: Number of blocks of outputs that read inputs of their own; the weight
            then has the shape (*window, in/groups, out), and each block is a Hadamard
            block.
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
        >>> initializers.hadamard(2.0)(None, (2, 4))
        Array([[ 1.,  1.,  1.,  1.],
               [ 1., -1.,  1., -1.]], dtype=float32)
    """
    gain = checks.number("gain", gain)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)

    def draw(key: Key | None, shape: KernelShape, dtype: np.dtype) -> Array:
        # math.sqrt rounds correctly, which makes the entries of order 4, 16, … exact.
        order = _ceil_power_of_two(max(shape.num_inputs, shape.num_outputs))
        matrix = _scaled_hadamard_block(gain * math.sqrt(1 / order), shape, dtype)
        # The tap that SAME padding in JAX aligns, so that the pixel itself is read.
        return at_tap(matrix, shape.window, middle_tap(shape.window))

    return kernel_initializer(
        "hadamard",
        draw,
        axes,
        arguments={"gain": gain},
        ranks=Ranks(least=2, most=None, why="a Hadamard block has two."),
        largest=gain,
        random=False,
        dtype=dtype,
    )


@register(
    law="identity, or partial identity, or ±c with c = 2^{-m/2} (code) or 2^{-(m-1)/2} "
    "(paper), m = ⌈log2 out⌉, where out > in; zero off the tap k//2; of a grouped "
    "convolution each group, with groups= only",
    citation=_ZERO,
    isometric='out <= in, or out a power of two with scale="code"; circular padding, '
    "or SAME and an odd window; a grouped convolution with groups= only",
)
@public("zer_o")
def zer_o(
    scale: str = "code",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Fill with ZerO: a partial identity, or a Hadamard block where a layer widens.

    With N outputs for n < N inputs and p = 2^⌈log2 N⌉ the weight is c H[:n, :N], where
    H is Sylvester's Hadamard matrix of order p and c = p^{-1/2} for `scale="code"` (the
    authors' notebook) and (p/2)^{-1/2} for `scale="paper"` (Zhao, Schäfer and
    Anandkumar, 2022, Algorithm 1): the two differ by √2. Kernels with a window are zero
    but for the tap k//2, the centre of an odd window (the paper treats odd ones only).
    Under SAME padding in JAX that tap of an even window shifts the image by one pixel,
    and its first row and column are lost. As the scheme of a network, whose padding is
    known, ZerO takes the tap that loses no pixel.

    Singular values of the block, in units of c√p (1 for "code", √2 for "paper"):

    - max(0, n + N - p) of the n are exactly 1 (all, if N is a power of two); the others
      lie in [√(2/p), 1), and in [√½, 1) if n <= p/2. The p - N missing columns take a
      matrix of rank min(n, p - N) off the Gram matrix.
    - If n is a power of two, N mod n of them are √(n⌈N/n⌉/p), the others √(n⌊N/n⌋/p).

    The kernel of a grouped or depthwise convolution looks like that of a layer that
    widens. Without `groups` it is filled as one.

    Args:
        scale: "code" or "paper".
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent kernels, such as stacked layers or experts.
        groups: Number of groups (Flax's `feature_group_count`), each filled as a layer
            of in/groups inputs and out/groups outputs.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes (*window, in/groups, out), which needs no key.

    Raises:
        InputError: `scale` is not known; `layout` is not known, or given beside axes.
            When the initializer is called: the shape has fewer than two axes; axes or
            groups do not fit the shape.

    Example:
        >>> from isometry import initializers
        >>> initializers.zer_o()(None, (2, 4))
        Array([[ 0.5,  0.5,  0.5,  0.5],
               [ 0.5, -0.5,  0.5, -0.5]], dtype=float32)
        >>> initializers.zer_o(groups=2)(None, (2, 4))
        Array([[1., 0., 1., 0.],
               [0., 1., 0., 1.]], dtype=float32)
    """
    checks.one_of("scale", scale, _SQUARED_SCALES)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)

    def draw(key: Key | None, shape: KernelShape, dtype: np.dtype) -> Array:
        # Algorithm 2: only a layer that widens needs the Hadamard block, which keeps
        # its units from being copies of each other; elsewhere the identity has full
        # rank.
        if shape.num_outputs > shape.num_inputs:
            order = _ceil_power_of_two(shape.num_outputs)
            entry = math.sqrt(_SQUARED_SCALES[scale] / order)
            matrix = _scaled_hadamard_block(entry, shape, dtype)
        else:
            matrix = diagonal(1.0, shape, dtype)
        # The authors' tap, the centre of an odd window; for even k not `middle_tap`.
        return at_tap(matrix, shape.window, upper_tap(shape.window))

    return kernel_initializer(
        "zer_o",
        draw,
        axes,
        arguments={"scale": scale},
        ranks=Ranks(least=2, most=None, why="ZerO needs at least two."),
        random=False,
        dtype=dtype,
    )


def _scaled_hadamard_block(
    scale: float, shape: KernelShape, dtype: np.dtype
) -> Float[Array, "inputs outputs"]:
    """Return `scale` times the top-left inputs × outputs block of a Hadamard matrix.

    Sylvester's matrices of order 2**m are nested, so that m does not matter. ZerO uses
    the block where a layer widens.
    """
    # H[i, j] = (-1)**popcount(i & j): one elementwise expression instead of log2(n)
    # Kronecker products, and no padding to a power of two.
    row = jnp.arange(shape.num_inputs, dtype=jnp.uint32)
    column = jnp.arange(shape.num_outputs, dtype=jnp.uint32)
    num_common_bits = jax.lax.population_count(row[:, None] & column[None, :])
    is_odd = (num_common_bits & 1).astype(dtype)
    return jnp.asarray(scale, dtype) * (1 - 2 * is_odd)


def _ceil_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
