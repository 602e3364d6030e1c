"""IDInit: the identity tiled along the longer side."""

import math

import jax.numpy as jnp

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._fans import Axes, Layout
from isometry.initializers._layout import initializer_of_kernels
from isometry.initializers._protocol import Initializer


@register(
    law="τ where i ≡ j mod n, 0 elsewhere: of the n singular values of the flattened (in·window, out) matrix of "
    "longer side N, N mod n are τ√⌈N/n⌉, the others τ√⌊N/n⌋",
    citation="Pan et al. (2025), ICLR, arXiv:2503.04626",
    isometric="square dense shapes",
)
def idinit(tau: float = 1.0, *, in_axis: int = -2, out_axis: int = -1, batch_axis: Axes = ()) -> Initializer:
    """The identity times tau, tiled along the longer side: w[i, j] = tau where i ≡ j mod min(m, n), 0 elsewhere.

    `tau` is any finite number. Full rank, and unlike `partial_identity` every input and output is used: N = max(m, n)
    entries on n = min(m, n) mutually orthogonal rows (or columns), of which N mod n have ⌈N/n⌉ entries and the others
    ⌊N/n⌋. So the singular values are tau √⌈N/n⌉ and tau √⌊N/n⌋, that many times: all tau on square matrices only.

    A kernel with a window is this matrix on its patches, in the order (in, *window) of torch's reshape: neighbouring
    outputs read neighbouring pixels. The convolution is not an isometry.

    From the paper (its abstract, the caption of its Fig. 3 and published summaries; the equations were not at hand):
    an identity-like matrix padded so that its rank is full; IDI_τ with τ = 1 for layers on the main path; IDIZ_ε with
    ε = 1e-6 at the end of a residual branch, "specific elements" small instead of zero so that no unit is dead;
    convolutions by "patch-maintain", on the whole patch instead of the centre tap; a "loosened" identity. Our reading,
    not checked against the equations or the authors' code: the padding is the tiling above; IDIZ_ε is that pattern,
    `idinit(1e-6)`; the order of the patch is torch's. Left out: the noise of the loosened identity.

    **Raises** `ValueError`: tau not a finite number; a shape of fewer than two axes; axes that do not fit it.
    """
    _checks.number("idinit", tau=tau)

    def kernel(key, window, n_in, n_out, dtype):
        patch = n_in * math.prod(window)
        few = min(patch, n_out)
        row, column = jnp.arange(patch) % few, jnp.arange(n_out) % few
        matrix = jnp.where(row[:, None] == column[None, :], jnp.asarray(tau, dtype), jnp.zeros((), dtype))
        return jnp.moveaxis(matrix.reshape(n_in, *window, n_out), 0, -2)

    layout, why = Layout(in_axis, out_axis, batch_axis), "IDInit needs at least two."
    return initializer_of_kernels(
        "idinit", {"tau": tau}, layout, kernel, axes=(2, math.inf), why=why, largest=tau, random=False
    )
