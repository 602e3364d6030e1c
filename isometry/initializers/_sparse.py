"""Sparse weights: Gaussian with a fixed number of zeros an input, and orthogonal."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Axes, DTypeLike, Key
from isometry.initializers._catalogue import register
from isometry.initializers._initializer import Initializer, magnitude
from isometry.initializers._kernels import (
    KernelShape,
    Ranks,
    at_tap,
    kernel_initializer,
    middle_tap,
)
from isometry.initializers._layout import Layout
from isometry.initializers._orthogonal import NEEDS_MATRIX
from isometry.initializers._random import NORMAL_REACH


@register(
    law="of the out weights of each input ⌈sparsity·out⌉ are 0, chosen uniformly; the "
    "others independent N(0, std²); with groups= of the out/groups",
    citation="Martens (2010), ICML; torch.nn.init.sparse_",
    aliases=("torch sparse_",),
    needs=("sparsity",),
)
@public("sparse")
def sparse(
    sparsity: float,
    std: float = 0.01,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw Gaussian weights, a fixed number of them zero for each input.

    torch's `sparse_` (Martens, 2010). Of the `out` weights that leave one input, a
    column of torch's (out, in) matrix, ⌈sparsity·out⌉ are zero: all of them if
    sparsity > 1 - 1/out.

    Cost: one sort for each input.

    Args:
        sparsity: Fraction of zeros, in [0, 1]. Not traced.
        std: Standard deviation of the other weights. Finite and non-negative.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
        groups: Number of blocks of outputs that read inputs of their own; the weight
            then has the shape (in/groups, out), and each block is drawn like a weight
            of its own.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of matrices.

    Raises:
        InputError: `sparsity` is outside [0, 1]; `std` is negative or not finite;
            `layout` is not known, or given beside axes. When the initializer is called:
            the shape does not have one axis of inputs and one of outputs; axes or
            groups do not fit the shape; `std` is too large for the dtype.
        TypeError: `sparsity` is traced.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> w = initializers.sparse(0.7)(jax.random.key(0), (3, 10))
        >>> (w == 0).sum(axis=1)
        Array([7, 7, 7], dtype=int32)
    """
    checks.on_host("sparsity", sparsity)
    sparsity = checks.number("sparsity", sparsity, low=0.0, high=1.0)
    std = checks.number("std", std, low=0.0)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)

    def draw(
        key: Key, shape: KernelShape, dtype: np.dtype
    ) -> Float[Array, "inputs outputs"]:
        num_zeros = math.ceil(float(sparsity) * shape.num_outputs)
        matrix_shape = (shape.num_inputs, shape.num_outputs)
        return _gaussian_with_zeros(
            key, jnp.asarray(std, dtype), num_zeros, shape=matrix_shape
        )

    return kernel_initializer(
        "sparse",
        draw,
        axes,
        arguments={"sparsity": sparsity, "std": std},
        ranks=Ranks(least=2, most=2, why="a sparse matrix has two."),
        largest=NORMAL_REACH * magnitude(std),
        dtype=dtype,
    )


@functools.partial(jax.jit, static_argnames="shape", inline=True)
def _gaussian_with_zeros(
    key: Key,
    std: Float[Array, ""],
    num_zeros: Int[ArrayLike, ""],
    *,
    shape: tuple[int, int],
) -> Float[Array, "inputs outputs"]:
    """Draw Gaussian weights, and zeros in `num_zeros` random places of each input."""
    noise_key, order_key = jax.random.split(key)
    weights = std * jax.random.normal(noise_key, shape, std.dtype)
    # Each input shuffles its outputs, and the first places are zero: the number of
    # zeros is exact, which a coin for each weight would let vary.
    ranks = jnp.broadcast_to(jnp.arange(shape[1])[None, :], shape)
    shuffled = jax.random.permutation(order_key, ranks, axis=1, independent=True)
    return jnp.where(shuffled < num_zeros, jnp.zeros((), std.dtype), weights)


@register(
    law="a product of random Givens rotations, of the attainable density nearest to "
    "the one asked for: all min(m, n) singular values gain; not Haar",
    citation="Nowak, Gniecki, Szatkowski, Tabor (2024), arXiv:2406.01755",
    isometric="every dense shape; with a window as delta_orthogonal; a grouped layer "
    "with groups= only",
    needs=("density",),
)
@public("sparse_orthogonal")
def sparse_orthogonal(
    density: float,
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw orthogonal m×n matrices times gain with about density·m·n non-zeros.

    Starting from the partial identity, whose density 1/max(m, n) is the least there is,
    two of the max(m, n) coordinates are picked uniformly and rotated by a uniform angle
    until the fraction of non-zero entries reaches `density`. The last rotation is taken
    back if that comes closer. All min(m, n) singular values are |gain|. With a window
    the matrix is the middle tap, as in `delta_orthogonal`, and density is the tap's
    (Nowak et al., 2024).

    Cost: of the order of k log k rotations of two rows of min(m, n) entries, where k is
    max(m, n); 100×100 to density 0.5 takes 249 or so. Under vmap, and in a batch, every
    matrix waits for the slowest.

    Args:
        density: Fraction of entries that are not zero, in (0, 1] and at least
            1/max(m, n). Not traced.
        gain: All singular values are |gain|. A finite number.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
        groups: Number of groups (Flax's `feature_group_count`), each with an orthogonal
            matrix of its own. Without it a grouped weight is drawn as one matrix, and
            its groups are no isometries.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes (*window, in/groups, out).

    Raises:
        InputError: `density` is outside (0, 1]; `gain` is not a finite number; `layout`
            is not known, or given beside axes. When the initializer is called:
            `density` is below 1/max(m, n); the shape has fewer than two axes; axes or
            groups do not fit the shape; `gain` is too large for the dtype.
        TypeError: `density` is traced.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from isometry import initializers
        >>> init = initializers.sparse_orthogonal(0.4)
        >>> w = init(jax.random.key(0), (5, 8))
        >>> int((w != 0).sum())  # of 40
        15
        >>> np.linalg.svd(w, compute_uv=False).round(5)
        array([1., 1., 1., 1., 1.], dtype=float32)
    """
    checks.on_host("density", density)
    density = checks.number("density", density, high=1.0, above=0.0)
    gain = checks.number("gain", gain)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)

    def draw(key: Key, shape: KernelShape, dtype: np.dtype) -> Array:
        few, many = sorted((shape.num_inputs, shape.num_outputs))
        # density=1/49, say, is the least density up to its own rounding.
        if density * many < 1 and not math.isclose(density * many, 1):
            raise InputError(
                f"density={density} is below 1/{many}, the least an orthogonal matrix "
                f"can have with {shape.num_inputs} inputs and {shape.num_outputs} "
                "outputs."
            )
        # Not rounded to a whole number: of the counts before and after the last
        # rotation the nearer to this one is kept.
        num_nonzero = float(density) * few * many
        matrix, _ = givens_product(
            key,
            math.ceil(num_nonzero),
            math.floor(2 * num_nonzero),
            few=few,
            many=many,
            dtype=dtype,
        )
        if shape.num_inputs <= shape.num_outputs:
            matrix = matrix.T
        scaled = jnp.asarray(gain, dtype) * matrix
        # The same tap as `delta_orthogonal`'s, so that the two can replace each other.
        return at_tap(scaled, shape.window, middle_tap(shape.window))

    return kernel_initializer(
        "sparse_orthogonal",
        draw,
        axes,
        arguments={"density": density, "gain": gain},
        ranks=Ranks(least=2, most=None, why=NEEDS_MATRIX),
        largest=gain,
        dtype=dtype,
    )


class _Rotated(NamedTuple):
    """The state of `givens_product` after `step` rotations."""

    step: Int[Array, ""]
    num_nonzero: Int[Array, ""]
    matrix: Float[Array, "many few"]
    # What the last rotation replaced, to take it back: two rows, not a second matrix.
    previous_num_nonzero: Int[Array, ""]
    rotated_rows: Int[Array, " 2"]
    previous_values: Float[Array, "2 few"]


@functools.partial(jax.jit, static_argnames=("few", "many", "dtype"))
def givens_product(
    key: Key,
    goal: int | Int[Array, ""],
    twice: int | Int[Array, ""],
    *,
    few: int,
    many: int,
    dtype: np.dtype,
) -> tuple[Float[Array, "many few"], Int[Array, ""]]:
    """Rotate orthonormal columns until at least `goal` entries are not zero.

    Args:
        key: A random key.
        goal: The number of entries that are wanted, rounded up.
        twice: Twice the number that is wanted, rounded down. If the counts before and
            after the last rotation sum to more, the count before is nearer, and the
            rotation is taken back.
        few: The number of columns.
        many: The number of rows, at least `few`.
        dtype: The dtype of the matrix.

    Returns:
        The matrix, and the number of rotations that were made.
    """
    # A full matrix takes about 1.5 n ln n rotations. Beyond twenty times that something
    # is wrong, and the loop must end.
    limit = 32 * many * many.bit_length()

    def is_unfinished(state: _Rotated) -> Array:
        return (state.num_nonzero < goal) & (state.step < limit)

    def rotate(state: _Rotated) -> _Rotated:
        step_key = jax.random.fold_in(key, state.step)
        i_key, j_key, angle_key = jax.random.split(step_key, 3)
        i = jax.random.randint(i_key, (), minval=0, maxval=many)
        # Any row but i, each with the same probability.
        j = (i + jax.random.randint(j_key, (), minval=1, maxval=many)) % many
        rows = jnp.stack([i, j])
        angle = jax.random.uniform(angle_key, (), dtype, maxval=2 * math.pi)
        cos = jnp.cos(angle)
        sin = jnp.sin(angle)
        before = state.matrix[rows]
        first, second = before
        after = jnp.stack([cos * first + sin * second, cos * second - sin * first])
        # Counting what changed costs O(few) a step, counting all O(few·many).
        num_added = jnp.count_nonzero(after) - jnp.count_nonzero(before)
        return _Rotated(
            step=state.step + 1,
            num_nonzero=state.num_nonzero + num_added,
            matrix=state.matrix.at[rows].set(after),
            previous_num_nonzero=state.num_nonzero,
            rotated_rows=rows,
            previous_values=before,
        )

    # A zero that depends on the key: under shard_map the state of a loop must vary over
    # the mesh from the start if it does later.
    zero = jax.random.bits(jax.random.fold_in(key, limit)).astype(int) * 0
    partial_identity = jnp.eye(many, few, dtype=dtype) + zero.astype(dtype)
    rows = jnp.zeros(2, int) + zero
    start = _Rotated(
        step=zero,
        num_nonzero=few + zero,
        matrix=partial_identity,
        previous_num_nonzero=few + zero,
        rotated_rows=rows,
        previous_values=partial_identity[rows],
    )
    end = jax.lax.while_loop(is_unfinished, rotate, start)
    is_earlier_nearer = end.previous_num_nonzero + end.num_nonzero > twice
    last_values = end.matrix[end.rotated_rows]
    values = jnp.where(is_earlier_nearer, end.previous_values, last_values)
    return end.matrix.at[end.rotated_rows].set(values), end.step
