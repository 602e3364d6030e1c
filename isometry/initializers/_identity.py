"""Identity weights, square and rectangular."""

import jax.numpy as jnp

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._protocol import Initializer, arguments


def _eye(name, gain, square):
    _checks.number(name, gain=gain)

    def draw(key, shape, dtype):
        if len(shape) != 2:
            raise _checks.InputError(f"{name}(): shape={shape} has {len(shape)} axes; an identity matrix has two.")
        if square and shape[0] != shape[1]:
            raise _checks.InputError(
                f"identity(): shape={shape} is not square. For a rectangle use partial_identity()."
            )
        return jnp.asarray(gain, dtype) * jnp.eye(*shape, dtype=dtype)

    return Initializer(name, arguments(gain=gain), draw, random=False)


@register(
    law="gain on the diagonal, 0 elsewhere: all singular values gain",
    citation="Le, Jaitly, Hinton (2015), arXiv:1504.00941",
    isometric="square",
    aliases=("Keras Identity",),
)
def identity(gain: float = 1.0) -> Initializer:
    """gain times the identity; square shapes only.

    **Raises** `ValueError`: gain not finite; a shape that is not square (`partial_identity` takes any rectangle).
    """
    return _eye("identity", gain, square=True)


@register(
    law="gain on the main diagonal, 0 elsewhere: all min(m, n) singular values gain",
    citation="Zhao, Schäfer, Anandkumar (2022), arXiv:2110.12661",
    isometric="every shape, but training stays in max(n_in, n_out) dimensions however wide the layers",
    aliases=("torch eye_", "eye"),
)
def partial_identity(gain: float = 1.0) -> Initializer:
    """gain on the main diagonal of a rectangle, zeros elsewhere (torch's `eye_`).

    A network of these is an isometry at initialization and trains degenerately: units beyond the input and output
    dimension have zero incoming and outgoing weights and stay silent for ever, whatever the hidden width.

    **Raises** `ValueError`: gain not finite; a shape that does not have two axes.
    """
    return _eye("partial_identity", gain, square=False)


eye = partial_identity
