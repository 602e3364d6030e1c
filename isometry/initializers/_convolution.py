"""Kernels whose convolution is an isometry: delta-orthogonal, block-orthogonal, dirac."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks
from isometry._internal import precision
from isometry.initializers._catalogue import register
from isometry.initializers._fans import Axes, Layout
from isometry.initializers._layout import WINDOW, at_tap, initializer_of_kernels, middle_tap, upper_tap
from isometry.initializers._protocol import Initializer
from isometry.linalg._factorizations import haar_orthogonal

_XIAO = "Xiao et al. (2018), arXiv:1806.05393"


@register(
    law="Haar at the tap (k − 1)//2, 0 elsewhere: all singular values of the convolution gain, circular or SAME",
    citation=f"{_XIAO}, Algorithm 2",
    isometric="every window and every channel count, stride 1, circular or SAME zero padding",
    aliases=("jax delta_orthogonal",),
)
def delta_orthogonal(gain: float = 1.0, *, in_axis: int = -2, out_axis: int = -1, batch_axis: Axes = ()) -> Initializer:
    """Convolution kernels that are zero but for a Haar orthogonal matrix times gain at the middle tap.

    The convolution is that matrix at every pixel, so with circular or SAME padding all its singular values are gain: an
    isometry for in <= out, a co-isometry for in > out, which JAX refuses. Otherwise bit for bit
    `jax.nn.initializers.delta_orthogonal` from the same key. The middle tap is (k - 1)//2 as in JAX, which SAME padding
    aligns for odd and even k; `dirac` and `zer_o` use k//2, as torch and the ZerO authors do: another one for even k.

    **Raises** `ValueError`: gain not a finite number; a shape without a window; axes that do not fit it.
    Cost: one QR of the channels.
    """
    _checks.number("delta_orthogonal", gain=gain)

    def kernel(key, window, n_in, n_out, dtype):
        matrix = jnp.asarray(gain, dtype) * haar_orthogonal(key, n_in, n_out, dtype)
        return at_tap(matrix, window, middle_tap(window))

    layout = Layout(in_axis, out_axis, batch_axis)
    return initializer_of_kernels(
        "delta_orthogonal", {"gain": gain}, layout, kernel, axes=(3, math.inf), why=WINDOW, largest=gain
    )


@register(
    law="a product of Haar projections P + (I − P)x per tap and axis, and a Haar matrix: all singular values of the "
    "circular convolution gain; with SAME zero padding at most gain",
    citation=f"{_XIAO}, Algorithm 1",
    isometric="every window and every channel count, stride 1, circular padding",
)
def block_orthogonal(gain: float = 1.0, *, in_axis: int = -2, out_axis: int = -1, batch_axis: Axes = ()) -> Initializer:
    """Convolution kernels that use their whole window and whose circular convolution is orthogonal, times gain.

    With x_a the shift along axis a, the kernel is H Π (P + (I - P) x_a): k_a - 1 factors for each axis a of the window,
    each with a fresh projection P = Pᵀ = P² onto the span of a random half (each direction with probability 1/2) of a
    Haar basis, and H Haar. Where |x| = 1 every factor is unitary, so all singular values of the circular convolution
    are gain, in any number of dimensions and for windows of unequal sides; Algorithm 1 is the square 2-d case. An
    isometry for in <= out, a co-isometry for in > out.

    Zero padding cuts the operator: fully padded (k - 1 on each side) it is still an isometry if in <= out, unpadded a
    co-isometry if in >= out; with SAME its singular values are at most gain and in general not all equal.

    **Raises** `ValueError`: gain not a finite number; a shape without a window; axes that do not fit it.
    Cost: 1 + Σ(k_a - 1) QRs of max(in, out) channels and as many products with the kernel.
    """
    _checks.number("block_orthogonal", gain=gain)

    def kernel(key, window, n_in, n_out, dtype):
        taps = _orthogonal_polynomial(key, window, *sorted((n_in, n_out)), dtype)
        # P is symmetric: transposing every tap reverses the product, and an isometry becomes a co-isometry
        return jnp.asarray(gain, dtype) * (taps if n_in <= n_out else taps.mT)

    layout = Layout(in_axis, out_axis, batch_axis)
    return initializer_of_kernels(
        "block_orthogonal", {"gain": gain}, layout, kernel, axes=(3, math.inf), why=WINDOW, largest=gain
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))  # one compilation instead of one for every length on the way
def _orthogonal_polynomial(
    key, window: tuple[int, ...], few: int, many: int, dtype
) -> Float[Array, "*window few many"]:
    """H Π (P + (I - P) x_a): an orthogonal matrix wherever |x| = 1, as an array of its coefficients."""
    factors = [axis for step in range(1, max(window)) for axis, k in enumerate(window) if step < k]
    basis_key, subset_key = jax.random.split(key)
    with precision.full():
        first, *bases = haar_orthogonal(basis_key, many, many, dtype, batch=(1 + len(factors),))
        kept = jax.random.bernoulli(subset_key, 0.5, (len(factors), many))  # the rank of P is Binomial(many, 1/2)
        kernel = first[:few].reshape((1,) * len(window) + (few, many))
        for axis, basis, columns in zip(factors, bases, kept, strict=True):
            half = basis * columns[None, :].astype(dtype)
            stays = jnp.tensordot(kernel, half @ half.T, 1)
            empty = jnp.zeros_like(jax.lax.slice_in_dim(kernel, 0, 1, axis=axis))
            kernel = jnp.concatenate([stays, empty], axis) + jnp.concatenate([empty, kernel - stays], axis)
    return kernel


@register(
    law="gain at the tap k//2 for output d of each group and input d, d < min(out/groups, in), 0 elsewhere: "
    "all min(out/groups, in)·groups non-structural singular values of the grouped convolution gain, circular padding",
    citation="torch.nn.init.dirac_",
    isometric="every channel count, circular padding; SAME zero padding if every side of the window is odd",
    aliases=("torch dirac_",),
)
def dirac(
    groups: int = 1, gain: float = 1.0, *, in_axis: int = -2, out_axis: int = -1, batch_axis: Axes = ()
) -> Initializer:
    """Convolution kernels that pass their inputs on: gain times a partial identity at the tap k//2, in every group.

    torch's `dirac_` (there gain is 1), which preserves as many channels of each group as fit; `in` counts the inputs of
    one group, as kernels of grouped convolutions do. torch's layout is `in_axis=1, out_axis=0`. Under SAME padding in
    JAX the tap k//2 of an even window shifts the image by one pixel and loses one; `delta_orthogonal` uses (k - 1)//2.

    **Raises** `ValueError`: gain not a finite number; groups that do not divide the outputs; a shape that does not have
    three, four or five axes; axes that do not fit it.
    """
    _checks.integer("dirac", low=1, groups=groups)
    _checks.number("dirac", gain=gain)

    def kernel(key, window, n_in, n_out, dtype):
        if n_out % groups:
            raise _checks.InputError(f"dirac(): groups={groups} does not divide the {n_out} outputs.")
        matrix = jnp.tile(jnp.asarray(gain, dtype) * jnp.eye(n_in, n_out // groups, dtype=dtype), (1, groups))
        return at_tap(matrix, window, upper_tap(window))

    why = "torch's dirac_ has three to five, (*window, in, out) here. For a dense layer use partial_identity()."
    layout, written = Layout(in_axis, out_axis, batch_axis), {"groups": groups, "gain": gain}
    return initializer_of_kernels("dirac", written, layout, kernel, axes=(3, 5), why=why, largest=gain, random=False)
