"""Hadamard and ZerO initializers: deterministic weights made of zeros, ones and a power of two."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._fans import Axes, Layout
from isometry.initializers._layout import at_tap, initializer_of_kernels, upper_tap
from isometry.initializers._protocol import Initializer

_ZERO = "Zhao, Schäfer, Anandkumar (2022), Algorithms 1 and 2, arXiv:2110.12661"


def scaled_hadamard_block(scale, rows: int, cols: int, dtype) -> Float[Array, "rows cols"]:
    """scale times the top-left block of the Sylvester-Hadamard matrix, H[i, j] = (-1)**popcount(i & j).

    One elementwise expression instead of log2(n) Kronecker products: it needs no padding.
    """
    i, j = jnp.arange(rows, dtype=jnp.uint32), jnp.arange(cols, dtype=jnp.uint32)
    odd = jax.lax.population_count(i[:, None] & j[None, :]) & 1
    return jnp.asarray(scale, dtype) * (1 - 2 * odd.astype(dtype))


def _ceil_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@register(
    law="±gain/√p with p = 2^⌈log2 max(m, n)⌉: max(0, m + n − p) singular values gain, the others in [gain/√p, gain)",
    citation="Sylvester (1867); " + _ZERO,
    isometric="shapes whose longer side is a power of two",
)
def hadamard(gain: float = 1.0, *, in_axis: int = -2, out_axis: int = -1, batch_axis: Axes = ()) -> Initializer:
    """gain/√p times the top-left block of the Sylvester-Hadamard matrix of order p, the next power of two.

    With n the shorter and N the longer side, the p - N missing columns take a matrix of rank min(n, p - N) off the Gram
    matrix of orthogonal rows: max(0, n + N - p) singular values are gain, the others smaller but at least gain/√p.

    **Raises** `ValueError`: gain not finite; a shape that does not have two axes.
    """
    _checks.number("hadamard", gain=gain)

    def kernel(key, window, n_in, n_out, dtype):
        return scaled_hadamard_block(gain * math.sqrt(1 / _ceil_power_of_two(max(n_in, n_out))), n_in, n_out, dtype)

    layout, why = Layout(in_axis, out_axis, batch_axis), "a Hadamard block has two."
    return initializer_of_kernels(
        "hadamard", {"gain": gain}, layout, kernel, axes=(2, 2), why=why, largest=gain, random=False
    )


@register(
    law="identity, or partial identity, or ±c with c = 2^{-m/2} (code) or 2^{-(m-1)/2} (paper), m = ⌈log2 out⌉, "
    "where out > in; zero off the tap k//2",
    citation=_ZERO,
    isometric='out <= in, or out a power of two with scale="code"; circular padding, or SAME and an odd window',
)
def zer_o(scale: str = "code", *, in_axis: int = -2, out_axis: int = -1, batch_axis: Axes = ()) -> Initializer:
    """ZerO: identity where a layer does not widen, a scaled Hadamard block where it does.

    With N outputs for n < N inputs and p = 2^⌈log2 N⌉ the weight is c H[:n, :N] with c = p^{-1/2} for `scale="code"`
    (the authors' notebook) and (p/2)^{-1/2} for `scale="paper"` (Algorithm 1): the two differ by √2. Kernels with a
    window are zero but for the tap k//2, the centre of an odd window (the paper treats odd ones only); under SAME
    padding in JAX that tap of an even window shifts the image by one pixel and loses one.

    Singular values of the block, in units of c√p (1 for "code", √2 for "paper"):

    - max(0, n + N - p) of the n are exactly 1 (all, if N is a power of two); the others lie in [√(2/p), 1), and in
      [√½, 1) if n <= p/2. The p - N missing columns take a matrix of rank min(n, p - N) off the Gram matrix.
    - If n is a power of two, N mod n of them are √(n⌈N/n⌉/p), the others √(n⌊N/n⌋/p).

    **Raises** `ValueError`: unknown scale; a shape of fewer than two axes; axes that do not fit it.
    """
    _checks.one_of("zer_o", among=("code", "paper"), scale=scale)

    def kernel(key, window, n_in, n_out, dtype):
        if n_out > n_in:
            square = (1 if scale == "code" else 2) / _ceil_power_of_two(n_out)
            matrix = scaled_hadamard_block(math.sqrt(square), n_in, n_out, dtype)
        else:
            matrix = jnp.eye(n_in, n_out, dtype=dtype)
        return at_tap(matrix, window, upper_tap(window))

    layout, why = Layout(in_axis, out_axis, batch_axis), "ZerO needs at least two."
    return initializer_of_kernels("zer_o", {"scale": scale}, layout, kernel, axes=(2, math.inf), why=why, random=False)
