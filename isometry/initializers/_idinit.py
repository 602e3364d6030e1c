"""IDInit: the identity tiled along the longer side."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks
from isometry._internal.errors import public
from isometry._internal.types import Axes, DTypeLike, Key
from isometry.initializers._catalogue import register
from isometry.initializers._initializer import Initializer
from isometry.initializers._kernels import KernelShape, Ranks, kernel_initializer
from isometry.initializers._layout import Layout


@register(
    law="τ where i ≡ j mod n, 0 elsewhere: of the n singular values of the flattened "
    "(in·window, out) matrix of longer side N, N mod n are τ√⌈N/n⌉, the others "
    "τ√⌊N/n⌋; with groups= of each group",
    citation="Pan et al. (2025), ICLR, arXiv:2503.04626",
    isometric="square dense shapes",
)
@public("idinit")
def idinit(
    tau: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Fill with the identity times tau, tiled along the longer side.

    w[i, j] = tau where i ≡ j mod min(m, n), 0 elsewhere. The matrix has full rank, and
    unlike with `partial_identity` every input and output is used: N = max(m, n) entries
    stand on n = min(m, n) mutually orthogonal rows (or columns), of which N mod n have
    ⌈N/n⌉ entries and the others ⌊N/n⌋. So the singular values are tau √⌈N/n⌉ and
    tau √⌊N/n⌋, that many times: all tau on square matrices only.

    A kernel with a window is this matrix on its patches, in the order (in, *window) of
    torch's reshape: neighbouring outputs read neighbouring pixels. The convolution is
    not an isometry.

    Source: Pan et al. (2025), arXiv:2503.04626, from its abstract, the caption of its
    figure 3 and published summaries; the equations were not at hand. They say: an
    identity-like matrix padded so that its rank is full; IDI_τ with τ = 1 for layers on
    the main path; IDIZ_ε with ε = 1e-6 at the end of a residual branch, "specific
    elements" small instead of zero so that no unit is dead; convolutions by
    "patch-maintain", on the whole patch instead of the centre tap; a "loosened"
    identity. Our reading, not checked against the equations or the authors' code: the
    padding is the tiling above; IDIZ_ε is that pattern, `idinit(1e-6)`; the order of
    the patch is torch's. Left out: the noise of the loosened identity.

    Args:
        tau: The entries that are not zero. A finite number.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent kernels, such as stacked layers or experts.
        groups: Number of groups (Flax's `feature_group_count`), each with this matrix
            of its own. Without it a grouped kernel is tiled over the outputs of all
            groups.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes (*window, in/groups, out), which needs no key.

    Raises:
        InputError: `tau` is not a finite number; `layout` is not known, or given beside
            axes. When the initializer is called: the shape has fewer than two axes;
            axes or groups do not fit the shape; `tau` is too large for the dtype.

    Example:
        >>> from isometry import initializers
        >>> initializers.idinit()(None, (2, 5))
        Array([[1., 0., 1., 0., 1.],
               [0., 1., 0., 1., 0.]], dtype=float32)
    """
    tau = checks.number("tau", tau)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)

    def draw(
        key: Key | None, shape: KernelShape, dtype: np.dtype
    ) -> Float[Array, "*window inputs outputs"]:
        patch = shape.num_inputs * math.prod(shape.window)
        period = min(patch, shape.num_outputs)
        # On the shorter side the remainder is the index, so one test serves wide and
        # tall.
        row = jnp.arange(patch) % period
        column = jnp.arange(shape.num_outputs) % period
        is_same = row[:, None] == column[None, :]
        tau_in_dtype = jnp.asarray(tau, dtype)
        matrix = jnp.where(is_same, tau_in_dtype, jnp.zeros((), dtype))
        # The rows are ordered as torch reshapes a kernel, (in, *window).
        inputs_first = matrix.reshape(
            shape.num_inputs, *shape.window, shape.num_outputs
        )
        return jnp.moveaxis(inputs_first, 0, -2)

    return kernel_initializer(
        "idinit",
        draw,
        axes,
        arguments={"tau": tau},
        ranks=Ranks(least=2, most=None, why="IDInit needs at least two."),
        largest=tau,
        random=False,
        dtype=dtype,
    )
