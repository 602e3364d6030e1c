"""Identity weights, square and rectangular."""

import jax.numpy as jnp

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._fans import Axes, Layout
from isometry.initializers._layout import initializer_of_kernels
from isometry.initializers._protocol import Initializer


def _eye(name: str, gain: float, layout: Layout, square: bool) -> Initializer:
    _checks.number(name, gain=gain)

    def kernel(key, window, n_in, n_out, dtype):
        if square and n_in != n_out:
            raise _checks.NotDefined(
                f"identity(): shape={(n_in, n_out)} is not square. For a rectangle use partial_identity()."
            )
        return jnp.asarray(gain, dtype) * jnp.eye(n_in, n_out, dtype=dtype)

    why = "an identity matrix has two."
    return initializer_of_kernels(
        name, {"gain": gain}, layout, kernel, axes=(2, 2), why=why, largest=gain, random=False
    )


@register(
    law="gain on the diagonal, 0 elsewhere: all singular values gain",
    citation="Le, Jaitly, Hinton (2015), arXiv:1504.00941",
    isometric="square",
    aliases=("Keras Identity",),
)
def identity(gain: float = 1.0, *, in_axis: int = -2, out_axis: int = -1, batch_axis: Axes = ()) -> Initializer:
    """gain times the identity; square shapes only.

    **Raises** `ValueError`: gain not finite; a shape that is not square (`partial_identity` takes any rectangle).
    """
    return _eye("identity", gain, Layout(in_axis, out_axis, batch_axis), square=True)


@register(
    law="gain on the main diagonal, 0 elsewhere: all min(m, n) singular values gain",
    citation="Zhao, Schäfer, Anandkumar (2022), arXiv:2110.12661",
    isometric="every shape, but training stays in max(n_in, n_out) dimensions however wide the layers",
    aliases=("torch eye_", "eye"),
)
def partial_identity(gain: float = 1.0, *, in_axis: int = -2, out_axis: int = -1, batch_axis: Axes = ()) -> Initializer:
    """gain on the main diagonal of a rectangle, zeros elsewhere (torch's `eye_`).

    A network of these is an isometry at initialization and trains degenerately: units beyond the input and output
    dimension have zero incoming and outgoing weights and stay silent for ever, whatever the hidden width.

    **Raises** `ValueError`: gain not finite; a shape that does not have two axes.
    """
    return _eye("partial_identity", gain, Layout(in_axis, out_axis, batch_axis), square=False)


eye = partial_identity
