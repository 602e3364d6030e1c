"""Haar orthogonal weights."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks
from isometry._internal.errors import public
from isometry._internal.types import Axes, DTypeLike, Key
from isometry.initializers._catalogue import SAME_BITS, register
from isometry.initializers._initializer import (
    Initializer,
    for_any_shape,
    format_arguments,
    magnitude,
)
from isometry.initializers._kernels import lay_out
from isometry.initializers._layout import Layout, size, sizes
from isometry.linalg._factorizations import haar_orthogonal

NEEDS_MATRIX = (
    "an orthogonal matrix needs at least two. For a bias use initializers.zeros()."
)


@register(
    law="Haar: all min(m, n) singular values of the flattened matrix equal gain; "
    "variance gain²/max(m, n)",
    citation="Saxe et al. (2014), arXiv:1312.6120; "
    "Mezzadri (2007), arXiv:math-ph/0609050",
    isometric="every dense shape, with groups= every grouped dense shape; not a "
    "windowed convolution (use delta_orthogonal)",
    aliases=("torch orthogonal_", "jax orthogonal", "Keras Orthogonal"),
    differs="jax.nn.initializers.orthogonal() is orthogonal(), " + SAME_BITS,
)
@public("orthogonal")
def orthogonal(
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw Haar-distributed orthogonal matrices times gain.

    W is gain·Q with QᵀQ = I or QQᵀ = I, whichever is smaller, so all min(m, n) singular
    values are gain and the entries have variance gain²/max(m, n). All axes but
    `out_axis` and `batch_axis` are flattened into the inputs, as in torch and JAX,
    whichever of them `in_axis` names: the law does not depend on their order. A
    convolution with such a kernel is not an isometry; see `delta_orthogonal`.

    Q comes from the QR factorization of a Gaussian matrix. The signs of R's diagonal
    are moved into Q, without which the law is not Haar (Mezzadri, 2007, section 5).
    With the default axes the draw is bit for bit that of
    `jax.nn.initializers.orthogonal` from the same key, in float32 and float64. JAX
    refuses bfloat16 and float16; here they are the float32 draw, rounded once.

    The weight of a grouped layer looks like that of an ungrouped one, so without
    `groups` it is drawn as one matrix, and its groups are no isometries.

    Cost: one QR, O(m n min(m, n)), for each matrix.

    Args:
        gain: All singular values are |gain|. A finite number.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
        groups: Number of groups (Flax's `feature_group_count`). The out/groups outputs
            of each group take a Haar matrix of their own.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes.

    Raises:
        InputError: `gain` is not a finite number; `layout` is not known, or given
            beside axes. When the initializer is called: the shape has fewer than two
            axes; axes or groups do not fit the shape; `gain` is too large for the
            dtype.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from isometry import initializers
        >>> w = initializers.orthogonal(2.0)(jax.random.key(0), (8, 6))
        >>> np.linalg.svd(w, compute_uv=False).round(5)
        array([2., 2., 2., 2., 2., 2.], dtype=float32)

        An attention kernel, (d, heads, head_dim), is a matrix of d inputs. (Flax
        flattens it before it draws; there the defaults are right.)

        >>> init = initializers.orthogonal(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (8, 2, 3))
        >>> np.linalg.svd(w.reshape(8, 6), compute_uv=False).round(5)
        array([1., 1., 1., 1., 1., 1.], dtype=float32)
    """
    gain = checks.number("gain", gain)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    return orthogonal_matrices(
        "orthogonal", gain, axes, arguments={"gain": gain}, dtype=dtype
    )


def orthogonal_matrices(
    name: str,
    gain: float,
    axes: Layout,
    *,
    arguments: dict[str, object],
    dtype: DTypeLike | None,
) -> Initializer:
    """Return an initializer of Haar matrices times gain.

    Args:
        name: The name of the factory, for messages and the repr.
        gain: The singular values.
        axes: The axes and groups.
        arguments: The arguments of the factory, for the repr; without axes and groups.
        dtype: The dtype if a call names none.
    """

    def draw(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Float[Array, "..."]:
        parts = axes.parts(shape)
        # A kernel is drawn as a matrix with a row for each input at each tap of the
        # window. As in JAX the rows are in the order of the axes.
        row_axes = tuple(sorted(parts.inputs + parts.window))
        matrices = haar_orthogonal(
            key,
            rows=size(shape, row_axes),
            columns=axes.outputs_per_group(shape),
            dtype=dtype,
            # As in JAX a batch is drawn from one key, and so are groups.
            batch=(*sizes(shape, parts.batch), axes.groups),
        )
        as_matrix = parts._replace(window=(), inputs=row_axes)
        if not checks.is_traced(gain) and gain == 1:
            return lay_out(matrices, shape, as_matrix)
        return lay_out(matrices, shape, as_matrix, gain=jnp.asarray(gain, dtype))

    return Initializer(
        name,
        format_arguments(arguments | axes.changed(), dtype),
        draw,
        least_axes=2,
        why=NEEDS_MATRIX,
        largest=for_any_shape(magnitude(gain)),
        dtype=dtype,
        layout=axes,
    )
