"""IDInit: the identity tiled along the longer side."""

import math

import jax.numpy as jnp

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._layout import lay_out, split_axes
from isometry.initializers._protocol import Initializer, arguments


@register(
    law="τ where i ≡ j mod n, 0 elsewhere: of the n singular values of the flattened (in·window, out) matrix of "
    "longer side N, N mod n are τ√⌈N/n⌉, the others τ√⌊N/n⌋",
    citation="Pan et al. (2025), ICLR, arXiv:2503.04626",
    isometric="square dense shapes",
)
def idinit(tau: float = 1.0, *, in_axis: int = -2, out_axis: int = -1) -> Initializer:
    """The identity times tau, tiled along the longer side: w[i, j] = tau where i ≡ j mod min(m, n), 0 elsewhere.

    Full rank, and unlike `partial_identity` every input and output is used: N = max(m, n) entries on n = min(m, n)
    mutually orthogonal rows (or columns), of which N mod n have ⌈N/n⌉ entries and the others ⌊N/n⌋. So the singular
    values are tau √⌈N/n⌉ and tau √⌊N/n⌋, that many times: all tau on square matrices only.

    IDI_τ is `idinit(tau)`; the zero-preserving IDIZ_ε that ends a residual branch is the same matrix with a small tau,
    `idinit(1e-6)`. A kernel with a window is this matrix on its patches (the paper's patch-maintain reshape), in the
    order (in, *window) of torch's reshape: neighbouring outputs read neighbouring pixels. The convolution is not an
    isometry.

    **Raises** `ValueError`: tau not a finite number; a shape of fewer than two axes; axes that do not fit it.
    """
    _checks.number("idinit", tau=tau)

    def draw(key, shape, dtype):
        window, n_in, n_out = split_axes("idinit", shape, in_axis, out_axis)
        patch = n_in * math.prod(window)
        few = min(patch, n_out)
        row, column = jnp.arange(patch) % few, jnp.arange(n_out) % few
        matrix = jnp.where(row[:, None] == column[None, :], jnp.asarray(tau, dtype), jnp.zeros((), dtype))
        return lay_out(jnp.moveaxis(matrix.reshape(n_in, *window, n_out), 0, -2), in_axis, out_axis)

    return Initializer("idinit", arguments(tau=tau), draw, random=False, least_axes=2, why="IDInit needs at least two.")
