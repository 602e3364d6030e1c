"""Haar orthogonal weights."""

import math

import jax.numpy as jnp

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._fans import Axes, Layout, parts
from isometry.initializers._protocol import Initializer, arguments, magnitude
from isometry.linalg._factorizations import haar_orthogonal

_TWO_AXES = "an orthogonal matrix needs at least two. For a bias use initializers.zeros()."


@register(
    law="Haar: all min(m, n) singular values of the flattened matrix equal gain; variance gain²/max(m, n)",
    citation="Saxe et al. (2014), arXiv:1312.6120; Mezzadri (2007), arXiv:math-ph/0609050",
    isometric="every dense shape; not a windowed convolution (use delta_orthogonal)",
    aliases=("torch orthogonal_", "jax orthogonal", "Keras Orthogonal"),
)
def orthogonal(gain: float = 1.0, *, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()) -> Initializer:
    """Haar-distributed orthogonal matrices times gain; orthonormal rows or columns, whichever are fewer.

    All axes but `out_axis` and `batch_axis` are flattened into the inputs, as in torch and JAX, whichever of them
    `in_axis` names: the law is invariant under their order. A convolution with such a kernel is not an isometry.

    Drawn by QR of a Gaussian with the signs of R's diagonal moved into Q, without which the law is not Haar (Mezzadri).
    With the default axes bit for bit `jax.nn.initializers.orthogonal` from the same key; bfloat16 and float16, which
    JAX refuses, are that float32 matrix rounded. Cost: one QR, O(m n min(m, n)), for each matrix of the batch.

    **Raises** `ValueError`: gain not a finite number; a shape of fewer than two axes; axes that do not fit it.
    """
    _checks.number("orthogonal", gain=gain)

    def draw(key, shape, dtype):
        _, out, batch = parts("orthogonal", shape, in_axis, out_axis, batch_axis)
        inputs = tuple(a for a in range(len(shape)) if a not in batch + out)
        order = batch + inputs + out
        rows, columns = math.prod(shape[a] for a in inputs), math.prod(shape[a] for a in out)
        q = haar_orthogonal(key, rows, columns, dtype, batch=tuple(shape[a] for a in batch))
        q = q.reshape(tuple(shape[a] for a in order))
        return jnp.asarray(gain, dtype) * jnp.transpose(q, tuple(order.index(a) for a in range(len(shape))))

    written = arguments(gain=gain, **Layout(in_axis, out_axis, batch_axis).changed())
    return Initializer("orthogonal", written, draw, least_axes=2, why=_TWO_AXES, largest=lambda shape: magnitude(gain))
