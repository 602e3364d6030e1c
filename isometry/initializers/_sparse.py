"""Sparse weights: torch's, with a fixed number of zeros per input, and exactly orthogonal ones."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._fans import Axes, Layout
from isometry.initializers._layout import at_tap, initializer_of_kernels, middle_tap
from isometry.initializers._protocol import Initializer, magnitude
from isometry.initializers._random import NORMAL_REACH


@register(
    law="of the out weights of each input ⌈sparsity·out⌉ are 0, chosen uniformly; the others independent N(0, std²)",
    citation="Martens (2010), ICML; torch.nn.init.sparse_",
    aliases=("torch sparse_",),
    needs=("sparsity",),
)
def sparse(
    sparsity: float, std: float = 0.01, *, in_axis: int = -2, out_axis: int = -1, batch_axis: Axes = ()
) -> Initializer:
    """Gaussian weights of standard deviation std, a fixed number of them zero for each input.

    `std` is that of the others; `sparsity` is the fraction of zeros in each column of torch's (out, in) matrix, the
    weights that leave one input, rounded up: ⌈sparsity·out⌉ of out, which is all of them if sparsity > 1 - 1/out.
    torch's layout is `in_axis=1, out_axis=0`.

    **Raises** `ValueError`: sparsity outside [0, 1); std negative or not finite; a shape that does not have two axes;
    axes that do not fit it. `TypeError`: traced sparsity. Cost: one sort for each input.
    """
    _checks.concrete("sparse", sparsity=sparsity)
    _checks.number("sparse", sparsity=sparsity)
    _checks.number("sparse", low=0.0, std=std)
    if not 0 <= sparsity < 1:
        raise _checks.InputError(
            f"sparse(): sparsity={_checks.show(sparsity)} is not in [0, 1); it is the fraction of zeros."
        )

    def kernel(key, window, n_in, n_out, dtype):
        noise_key, order_key = jax.random.split(key)
        weights = jnp.asarray(std, dtype) * jax.random.normal(noise_key, (n_in, n_out), dtype)
        ranks = jnp.broadcast_to(jnp.arange(n_out)[None, :], (n_in, n_out))
        order = jax.random.permutation(order_key, ranks, axis=1, independent=True)
        return jnp.where(order < math.ceil(float(sparsity) * n_out), jnp.zeros((), dtype), weights)

    layout, written = Layout(in_axis, out_axis, batch_axis), {"sparsity": sparsity, "std": std}
    reach = NORMAL_REACH * magnitude(std)
    return initializer_of_kernels(
        "sparse", written, layout, kernel, axes=(2, 2), why="a sparse matrix has two.", largest=reach
    )


@register(
    law="a product of random Givens rotations, of the attainable density nearest to the one asked for: "
    "all min(m, n) singular values gain; not Haar",
    citation="Nowak, Gniecki, Szatkowski, Tabor (2024), arXiv:2406.01755",
    isometric="every dense shape; with a window as delta_orthogonal",
    needs=("density",),
)
def sparse_orthogonal(
    density: float, gain: float = 1.0, *, in_axis: int = -2, out_axis: int = -1, batch_axis: Axes = ()
) -> Initializer:
    """Exactly orthogonal matrices times gain with about density·m·n non-zero entries, made of random Givens rotations.

    Starting from the partial identity, whose density 1/max(m, n) is the least there is, two of the max(m, n)
    coordinates are picked uniformly and rotated by a uniform angle until the fraction of non-zero entries reaches
    `density`; the last rotation is taken back if that comes closer. Orthonormal rows or columns, whichever are fewer.
    With a window the matrix is the middle tap, as in `delta_orthogonal`, and density is the tap's.

    **Raises** `ValueError`: density outside (0, 1], or below 1/max(m, n) for the shape; gain not a finite number; a
    shape of fewer than two axes; axes that do not fit it. `TypeError`: traced density.
    Cost: about n log n rotations of two rows of min(m, n), n = max(m, n); 100×100 to density 0.5 takes 249 or so. Under
    vmap, and in a stack, every matrix waits for the slowest.
    """
    _checks.concrete("sparse_orthogonal", density=density)
    _checks.number("sparse_orthogonal", low=0.0, high=1.0, open_low=True, density=density)
    _checks.number("sparse_orthogonal", gain=gain)

    def kernel(key, window, n_in, n_out, dtype):
        few, many = sorted((n_in, n_out))
        if density * many < 1 and not math.isclose(density * many, 1):
            raise _checks.InputError(
                f"sparse_orthogonal(): density={density} is below 1/{many}, the least an orthogonal matrix can have "
                f"with {n_in} inputs and {n_out} outputs."
            )
        wanted = float(density) * few * many
        columns, _ = givens_product(key, math.ceil(wanted), math.floor(2 * wanted), few, many, dtype)
        matrix = jnp.asarray(gain, dtype) * (columns.T if n_in <= n_out else columns)
        return at_tap(matrix, window, middle_tap(window))

    layout, written = Layout(in_axis, out_axis, batch_axis), {"density": density, "gain": gain}
    why = "an orthogonal matrix needs at least two. For a bias use initializers.zeros()."
    return initializer_of_kernels(
        "sparse_orthogonal", written, layout, kernel, axes=(2, math.inf), why=why, largest=gain
    )


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def givens_product(
    key, goal: int, twice: int, few: int, many: int, dtype
) -> tuple[Float[Array, "many few"], Int[Array, ""]]:
    """Orthonormal columns with at least `goal` non-zero entries, and how many rotations it took to get there.

    The last rotation is taken back if the last two counts sum to more than `twice`, twice the number wanted: then the
    earlier one is nearer. For that the state holds the two rows replaced, not a second matrix; the count is kept by
    what each rotation adds, O(few) a step.
    """
    limit = 32 * many * many.bit_length()  # a full matrix takes about 1.5 n ln n; beyond this something is wrong

    def unfinished(state):
        step, count, *_ = state
        return (count < goal) & (step < limit)

    def rotate(state):
        step, count, _, matrix, _, _ = state
        i_key, j_key, angle_key = jax.random.split(jax.random.fold_in(key, step), 3)
        i = jax.random.randint(i_key, (), 0, many)
        pair = jnp.stack([i, (i + jax.random.randint(j_key, (), 1, many)) % many])
        angle = jax.random.uniform(angle_key, (), dtype, maxval=2 * math.pi)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        old = matrix[pair]
        new = jnp.stack([cos * old[0] + sin * old[1], cos * old[1] - sin * old[0]])
        added = jnp.count_nonzero(new) - jnp.count_nonzero(old)
        return step + 1, count + added, count, matrix.at[pair].set(new), pair, old

    # 0 from the key: under shard_map a loop's state must vary over the mesh from the start if it does later
    nought = jax.random.bits(jax.random.fold_in(key, limit)).astype(int) * 0
    start = jnp.eye(many, few, dtype=dtype) + nought.astype(dtype)
    pair, count = jnp.zeros(2, int) + nought, jnp.asarray(few, int) + nought
    state = (jnp.zeros((), int), count, count, start, pair, start[pair])
    step, count, before, matrix, pair, old = jax.lax.while_loop(unfinished, rotate, state)
    back = before + count > twice
    return matrix.at[pair].set(jnp.where(back, old, matrix[pair])), step
