"""Factorizations of matrices and batches, no two of which ever wait for each other.

On a CPU, jaxlib up to 0.11.0 cuts a batched LAPACK call into tasks for XLA's pool of
threads and waits for them. The call itself runs in a thread of that pool wherever
something ran in parallel before it. As many such calls at a time as the pool has
threads, in one program or in several, wait for ever: none of them leaves a thread for
its tasks. On two cores two calls are enough, on four cores a network of twenty layers.
A call with a single matrix makes no tasks and waits for nothing.

So with those versions batches are factorized on a CPU one matrix at a time, whether the
batch is an axis of the argument or comes from `jax.vmap`. On any other platform, and
with jaxlib 0.11.1 and later, which take the matrices in turn, a batch is one call.
Whatever factorizes matrices in this package is made by `one_at_a_time`.
"""

import functools
import importlib.metadata
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int, PyTree

from isometry._internal import precision, randomness

Kernel = Callable[..., PyTree[Array]]


def _batches_wait(jaxlib_version: str) -> bool:
    """Tell whether a batched LAPACK call of this jaxlib waits for tasks of its own."""
    release = re.match(r"(\d+)\.(\d+)\.(\d+)", jaxlib_version)
    assert release is not None, "every version of jaxlib has three numbers"
    major, minor, patch = map(int, release.groups())
    return (major, minor, patch) < (0, 11, 1)


BATCHES_WAIT = _batches_wait(importlib.metadata.version("jaxlib"))


class ThinSvd(NamedTuple):
    """Matrices u · diag(s) · vt with min(m, n) singular values, descending.

    Of complex matrices `vt` is the conjugate transpose of V.
    """

    u: Inexact[Array, "*batch m k"]
    s: Float[Array, "*batch k"]
    vt: Inexact[Array, "*batch k n"]


def one_at_a_time(
    kernel: Kernel,
    *,
    on_gpu: Kernel | None = None,
) -> Kernel:
    """Make a function of matrices whose batches never wait for one another.

    Where batched LAPACK calls could, on a CPU, it sees one matrix of each at a time.

    Args:
        kernel: A function of one or several arrays. Their last two axes are matrices,
            their leading axes, the same for all, a batch. It need not have derivatives.
        on_gpu: What takes its place in a program that is lowered for a GPU.

    Returns:
        The same function, under `jax.vmap` as well. It has no transpose: reverse-mode
        differentiation needs a rule of its own, as `qr` and `thin_svd` have.
    """

    def looped(*matrices: Array) -> PyTree[Array]:
        return _looped(kernel, matrices)

    def single(*matrices: Array) -> PyTree[Array]:
        return _by_platform(kernel, matrices, on_cpu=kernel, on_gpu=on_gpu)

    def batched(*matrices: Array) -> PyTree[Array]:
        # A GPU or TPU has one stream of work, where a batch at once is what is fast.
        on_cpu = looped if BATCHES_WAIT else kernel
        return _by_platform(kernel, matrices, on_cpu=on_cpu, on_gpu=on_gpu)

    @jax.custom_batching.custom_vmap
    def factorized(*matrices: Array) -> PyTree[Array]:
        """Apply the kernel to one matrix, or to a batch, which may be sharded."""
        num_batch_axes = matrices[0].ndim - 2
        if num_batch_axes == 0:
            return single(*matrices)
        return _on_each_device(batched, matrices, num_batch_axes)

    @factorized.def_vmap
    def _(
        axis_size: int,
        in_batched: list[bool],
        *matrices: Array,
    ) -> tuple[PyTree[Array], PyTree[bool]]:
        # What `jax.vmap` does with it: the mapped axis becomes one more of the batch,
        # so that nested ones make one loop.
        stacked = list(matrices)
        for i, matrix in enumerate(matrices):
            # A matrix that is the same for all is repeated along the new axis.
            if not in_batched[i]:
                shape = (axis_size, *matrix.shape)
                stacked[i] = jnp.broadcast_to(matrix, shape)
        results = factorized(*stacked)
        return results, jax.tree.map(lambda _: True, results)

    # Outside of a program the rule would be traced at every call: 160 microseconds for
    # a small matrix, 80 with this.
    return jax.jit(factorized, inline=True)


def _looped(kernel: Kernel, matrices: Sequence[Array]) -> PyTree[Array]:
    """Apply a kernel to a batch, one matrix after the other."""
    batch = matrices[0].shape[:-2]
    # Not -1, which a batch of no matrices would leave undetermined.
    count = math.prod(batch)

    def flattened(matrix: Array) -> Array:
        return matrix.reshape(count, *matrix.shape[-2:])

    def in_batch(result: Array) -> Array:
        return result.reshape(*batch, *result.shape[1:])

    flat = list(map(flattened, matrices))
    results = jax.lax.map(lambda single: kernel(*single), flat)
    return jax.tree.map(in_batch, results)


def _by_platform(
    kernel: Kernel,
    matrices: Sequence[Array],
    *,
    on_cpu: Kernel,
    on_gpu: Kernel | None,
) -> PyTree[Array]:
    """Apply a kernel, or what takes its place on the platform of the program."""
    ways = {}
    if on_cpu is not kernel:
        ways["cpu"] = on_cpu
    if on_gpu is not None:
        ways |= {"cuda": on_gpu, "rocm": on_gpu}
    if not ways:
        return kernel(*matrices)
    return jax.lax.platform_dependent(*matrices, default=kernel, **ways)


def _on_each_device(
    batched: Kernel,
    matrices: Sequence[Array],
    num_batch_axes: int,
) -> PyTree[Array]:
    """Apply a function of batches, on each device to the matrices that it holds."""
    # For each axis of the batch the axis of the mesh over which it is sharded, or None.
    sharding = jax.typeof(matrices[0]).sharding
    axes_of_batch = sharding.spec[:num_batch_axes]
    if all(axis is None for axis in axes_of_batch):
        return batched(*matrices)
    # On a mesh with explicit axes a loop cannot run over a sharded axis.
    spec = jax.sharding.PartitionSpec(*axes_of_batch)
    local = [jax.sharding.reshard(matrix, spec) for matrix in matrices]
    per_device = jax.shard_map(
        batched,
        mesh=sharding.mesh,
        in_specs=spec,
        out_specs=spec,
    )
    return per_device(*local)


# --- QR


@one_at_a_time
def _qr(a: Array) -> tuple[Array, Array]:
    q, r = jnp.linalg.qr(a)
    return q, r


@jax.custom_jvp
def qr(
    a: Float[Array, "*batch m n"],
) -> tuple[Float[Array, "*batch m n"], Float[Array, "*batch n n"]]:
    """Factorize A = Q R, Q with orthonormal columns and R upper triangular.

    Args:
        a: Matrices with m >= n.

    Returns:
        Q and R, those of `jnp.linalg.qr`. Differentiable where A has full rank.
    """
    return _qr(a)


@qr.defjvp
def _qr_jvp(
    primals: tuple[Array],
    tangents: tuple[Array],
):
    """Differentiate Q R = A with QᵀQ = I (Walter et al., 2010, arXiv:1001.1654)."""
    q, r = qr(*primals)
    with precision.full():
        ratio = _divided(tangents[0], r)
        inside = q.mT @ ratio
        below = jnp.tril(inside, -1)
        turn = below - below.mT
        dq = ratio - q @ (inside - turn)
        dr = (inside - turn) @ r
    return (q, r), (dq, dr)


@one_at_a_time
def _solved(r: Array, b: Array) -> Array:
    return jax.lax.linalg.triangular_solve(
        r,
        b,
        left_side=False,
    )


@one_at_a_time
def _solved_transposed(r: Array, b: Array) -> Array:
    return jax.lax.linalg.triangular_solve(
        r,
        b,
        left_side=False,
        transpose_a=True,
    )


def _divided(b: Array, r: Array) -> Array:
    """Return B R⁻¹ for upper triangular R, differentiable in both."""

    def times(x: Array) -> Array:
        return x @ r

    return jax.lax.custom_linear_solve(
        times,
        b,
        solve=lambda _, b: _solved(r, b),
        transpose_solve=lambda _, b: _solved_transposed(r, b),
    )


# --- Cholesky and triangular systems, without derivatives


@one_at_a_time
def cholesky(a: Array) -> Array:
    """Factorize a symmetric A = L Lᵀ; NaN where A is not positive definite."""
    return jax.lax.linalg.cholesky(a, symmetrize_input=False)


@one_at_a_time
def solved_lower(lower: Array, b: Array) -> Array:
    """Return L⁻¹ B for lower triangular L."""
    return jax.lax.linalg.triangular_solve(lower, b, left_side=True, lower=True)


@one_at_a_time
def solved_lower_transposed(lower: Array, b: Array) -> Array:
    """Return L⁻ᵀ B for lower triangular L."""
    return jax.lax.linalg.triangular_solve(
        lower, b, left_side=True, lower=True, transpose_a=True
    )


# --- Singular values


def _values_of_svd(a: Array) -> Array:
    # LAPACK takes 20 to 30 % longer for a matrix of more columns than rows than for its
    # transpose: 320 of 64 × 128 in float32 took 58 ms of one core, transposed 48 ms.
    m, n = a.shape[-2:]
    if m < n:
        a = a.mT
    # Not full: even if U and V are not asked for there is room made for them, and U
    # would be m × m.
    return jax.lax.linalg.svd(
        a,
        full_matrices=False,
        compute_uv=False,
    )


# Sides up to this ratio are nearly square. Beyond it the eigenproblem, of order m + n,
# is mostly about zeros. Measured only at ratio 1, where it was 10 to 170 times as fast
# at orders up to 256 and 2 to 3 times at 1000, and at 2, where it was 6 times as fast.
_NEARLY_SQUARE = 4


def _values_on_gpu(a: Array) -> Array:
    shorter, longer = sorted(a.shape[-2:])
    if longer <= _NEARLY_SQUARE * shorter:
        return _positive_eigenvalues(a)
    return jax.lax.linalg.svd(
        a,
        full_matrices=False,
        compute_uv=False,
        algorithm=_GPU_ALGORITHM,
    )


# On a GPU XLA would choose Jacobi iterations, which end at an error of two floors:
# 1.4e-5, 4e-5 and 1.7e-4 of s_max at orders 64, 256 and 1000 in float32, where QR
# iterations end at 1e-7 (H200, jaxlib 0.11).
_GPU_ALGORITHM = jax.lax.linalg.SvdAlgorithm.QR


def _positive_eigenvalues(a: Array) -> Array:
    """Find singular values as the positive eigenvalues of [[0, A], [Aᵀ, 0]].

    They are off by 0.01 to 0.3 floors. A GPU solves a batch of eigenproblems at once,
    where it factorizes one matrix after another: on an H200 in float32 2.4 ms instead
    of 107 (256 of order 64), 20 instead of 345 (32 of order 256), 225 instead of 508 (8
    of order 1000).
    """
    *batch, m, n = a.shape
    size = min(m, n)
    above = jnp.zeros_like(a, shape=(*batch, m, m))
    below = jnp.zeros_like(a, shape=(*batch, n, n))
    upper = jnp.concatenate([above, a], -1)
    lower = jnp.concatenate([_adjoint(a), below], -1)
    whole = jnp.concatenate([upper, lower], -2)
    largest = _eigenvalues(whole)[..., -size:]
    values = -jnp.sort(-jnp.abs(largest), -1)
    # Zeros come out as rounding of either sign, which is no exact zero; those of zero
    # rows and columns are exact.
    is_row = jnp.any(a != 0, -1)
    is_column = jnp.any(a != 0, -2)
    num_rows = jnp.sum(is_row, -1, keepdims=True)
    num_columns = jnp.sum(is_column, -1, keepdims=True)
    rank = jnp.minimum(num_rows, num_columns)
    last = values.ndim - 1
    index = jax.lax.broadcasted_iota(int, values.shape, last)
    return jnp.where(index < rank, values, 0)


def _eigenvalues(a: Array) -> Array:
    # Up to order 32 XLA would choose Jacobi iterations on a GPU, which end at an error
    # twice as large as a singular value's resolution.
    _, eigenvalues = jax.lax.linalg.eigh(
        a,
        symmetrize_input=False,
        implementation=jax.lax.linalg.EighImplementation.QR,
    )
    return eigenvalues


_singular_values = one_at_a_time(_values_of_svd, on_gpu=_values_on_gpu)


@jax.custom_jvp
def singular_values(a: Inexact[Array, "*batch m n"]) -> Float[Array, "*batch k"]:
    """Compute the min(m, n) singular values of each matrix, descending.

    Args:
        a: Finite matrices, real or complex.

    Returns:
        The singular values. Their gradient takes the vectors of `thin_svd`.
    """
    return _singular_values(a)


@singular_values.defjvp
def _singular_values_jvp(
    primals: tuple[Array],
    tangents: tuple[Array],
) -> tuple[Array, Array]:
    """Compute ds = diag(Uᵀ dA V)."""
    u, s, vt = thin_svd(*primals)
    with precision.full():
        image = tangents[0] @ _adjoint(vt)
        ds = jnp.sum(u.conj() * image, -2)
    return s, ds.real


def _factors_of_svd(a: Array) -> PyTree[Array]:
    return jax.lax.linalg.svd(a, full_matrices=False)


def _factors_on_gpu(a: Array) -> PyTree[Array]:
    return jax.lax.linalg.svd(
        a,
        full_matrices=False,
        algorithm=_GPU_ALGORITHM,
    )


_thin_svd = one_at_a_time(_factors_of_svd, on_gpu=_factors_on_gpu)


@jax.custom_jvp
def thin_svd(a: Inexact[Array, "*batch m n"]) -> ThinSvd:
    """Factorize A = U diag(s) Vᴴ with min(m, n) singular values.

    Args:
        a: Finite matrices, real or complex.

    Returns:
        U, s descending, and Vᴴ. Where two singular values are equal, U and V are not
        unique, and their derivatives are NaN or infinite. Where a singular value is
        zero, so are those of U if m > n, and those of V if n > m.
    """
    return ThinSvd(*_thin_svd(a))


@thin_svd.defjvp
def _thin_svd_jvp(
    primals: tuple[Array],
    tangents: tuple[Array],
) -> tuple[ThinSvd, ThinSvd]:
    """Differentiate U diag(s) Vᵀ = A (Giles, 2008, Oxford report NA-08/01, 3.2)."""
    factors = thin_svd(*primals)
    u, s, vt = factors
    da = tangents[0]
    with precision.full():
        inner = _adjoint(u) @ da @ _adjoint(vt)
        diagonal = jnp.diagonal(inner, axis1=-2, axis2=-1)
        ds = diagonal.real
        row = s[..., None, :]
        column = s[..., :, None]
        gap = (row + column) * (row - column)
        identity = jnp.eye(s.shape[-1], dtype=s.dtype)
        identity = jnp.broadcast_to(identity, gap.shape)
        # A vector does not turn toward itself: the diagonal is 1/1 - 1.
        inverse_gap = 1 / (gap + identity) - identity
        # Where A is complex these are the real factors of complex matrices.
        row, column, inverse_gap = (
            factor.astype(da.dtype) for factor in (row, column, inverse_gap)
        )
        adjoint = _adjoint(inner)
        turn_u = inverse_gap * (row * inner + column * adjoint)
        turn_v = inverse_gap * (column * inner + row * adjoint)
        du = u @ turn_u
        dv = _adjoint(vt) @ turn_v
        if jnp.iscomplexobj(da):
            # A pair of vectors may turn by a common phase. Here V keeps its own.
            angle = diagonal.imag / s
            phase = jax.lax.complex(jnp.zeros_like(s), angle)
            du = du + u * phase[..., None, :]
        m, n = da.shape[-2:]
        if m > n:
            image = da @ _adjoint(vt)
            outside = image - u @ (_adjoint(u) @ image)
            du = du + outside / row
        if n > m:
            image = _adjoint(da) @ u
            outside = image - _adjoint(vt) @ (vt @ image)
            dv = dv + outside / row
    return factors, ThinSvd(du, ds, _adjoint(dv))


def _adjoint(a: Array) -> Array:
    return a.mT.conj()


# --- Elimination


@one_at_a_time
def _row_order(a: Array) -> Array:
    return jax.lax.linalg.lu(a)[2]


def row_order(a: Float[Array, "*batch m n"]) -> Int[Array, "*batch m"]:
    """Return the order of the rows in which an elimination takes its pivots."""
    return _row_order(jax.lax.stop_gradient(a))


# --- Random orthogonal matrices


# Without jit a draw would be a dozen tiny programs. Inlined, it changes no program that
# it is a part of.
@functools.partial(
    jax.jit,
    static_argnames=("rows", "columns", "dtype", "batch"),
    inline=True,
)
def haar_orthogonal(
    key: Array,
    rows: int,
    columns: int,
    dtype: jnp.dtype,
    *,
    batch: tuple[int, ...] = (),
) -> Float[Array, "*batch rows columns"]:
    """Draw Haar orthogonal matrices, bit for bit those of `jax.random.orthogonal`.

    LAPACK chooses the signs on the diagonal of R by the matrix. They are moved into Q,
    which is Haar distributed only then (Mezzadri, 2007, arXiv:math-ph/0609050).

    Args:
        key: A random key.
        rows: Rows of each matrix.
        columns: Columns of each matrix. Whichever are fewer, rows or columns, are
            orthonormal.
        dtype: float32 or float64.
        batch: Leading axes, all drawn from the one key.

    Returns:
        What `jax.random.orthogonal(key, rows, batch, dtype, columns)` returns.
    """
    shape = (*batch, max(rows, columns), min(rows, columns))
    gaussian = randomness.normal(key, shape, dtype)
    q, r = qr(gaussian)
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)
    q = q * jnp.sign(diagonal)[..., None, :]
    if rows < columns:
        return q.mT
    return q
