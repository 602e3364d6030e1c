"""Hadamard and ZerO initializers: deterministic weights made of zeros, ones and a power of two."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._fans import axes_of
from isometry.initializers._protocol import Initializer, arguments

_ZERO = "Zhao, Schäfer, Anandkumar (2022), Algorithms 1 and 2, arXiv:2110.12661"


def hadamard_block(rows: int, cols: int, dtype) -> Float[Array, "rows cols"]:
    """Top-left block of the Sylvester-Hadamard matrix, H[i, j] = (-1)**popcount(i & j).

    One elementwise expression instead of log2(n) Kronecker products: it fuses, and needs no padding.
    """
    i, j = jnp.arange(rows, dtype=jnp.uint32), jnp.arange(cols, dtype=jnp.uint32)
    odd = jax.lax.population_count(i[:, None] & j[None, :]) & 1
    return 1 - 2 * odd.astype(dtype)


def _ceil_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@register(
    law="±gain/√p with p = 2^⌈log2 max(m, n)⌉: all singular values gain where max(m, n) is a power of two",
    citation="Sylvester (1867); " + _ZERO,
    isometric="shapes whose longer side is a power of two",
)
def hadamard(gain: float = 1.0) -> Initializer:
    """gain/√p times the top-left block of the Sylvester-Hadamard matrix of order p, the next power of two.

    **Raises** `ValueError`: gain not finite; a shape that does not have two axes.
    """
    _checks.number("hadamard", gain=gain)

    def draw(key, shape, dtype):
        if len(shape) != 2:
            raise _checks.InputError(f"hadamard(): shape={shape} has {len(shape)} axes; a Hadamard block has two.")
        scale = math.sqrt(1 / _ceil_power_of_two(max(shape)))
        return jnp.asarray(gain * scale, dtype) * hadamard_block(*shape, dtype)

    return Initializer("hadamard", arguments(gain=gain), draw, random=False)


@register(
    law="identity, or partial identity, or ±c with c = 2^{-m/2} (code) or 2^{-(m-1)/2} (paper), m = ⌈log2 out⌉, "
    "where out > in; zero off the centre tap",
    citation=_ZERO,
    isometric='out <= in, or out a power of two with scale="code"',
)
def zer_o(scale: str = "code", *, in_axis: int = -2, out_axis: int = -1) -> Initializer:
    """ZerO: identity where a layer does not widen, a scaled Hadamard block where it does.

    With n outputs for fewer inputs and p = 2^⌈log2 n⌉ the weight is c H[:n, :in] with c = p^{-1/2} for `scale="code"`
    (the authors' notebook) and (p/2)^{-1/2} for `scale="paper"` (Algorithm 1): the two differ by √2. Kernels with a
    window are zero but for the tap k // 2, the centre of an odd window (the paper treats odd ones only).

    If n is not a power of two the block is a truncated orthogonal matrix: its singular values are at most the scale's
    and not all equal.

    **Raises** `ValueError`: unknown scale; a shape of fewer than two axes; axes that do not fit it.
    """
    _checks.one_of("zer_o", among=("code", "paper"), scale=scale)

    def draw(key, shape, dtype):
        (i,), (o,) = (axes_of("zer_o", a, len(shape), n) for a, n in ((in_axis, "in_axis"), (out_axis, "out_axis")))
        if i == o:
            raise _checks.InputError(
                f"zer_o(): in_axis={in_axis} and out_axis={out_axis} are one axis of shape={shape}."
            )
        n_in, n_out = shape[i], shape[o]
        if n_out > n_in:
            c = math.sqrt((1 if scale == "code" else 2) / _ceil_power_of_two(n_out))
            matrix = jnp.asarray(c, dtype) * hadamard_block(n_in, n_out, dtype)
        else:
            matrix = jnp.eye(n_in, n_out, dtype=dtype)
        centre = tuple(slice(None) if a in (i, o) else n // 2 for a, n in enumerate(shape))
        return jnp.zeros(shape, dtype).at[centre].set(matrix if i < o else matrix.T)

    return Initializer(
        "zer_o", arguments(scale=scale), draw, random=False, least_axes=2, why="ZerO needs at least two."
    )
