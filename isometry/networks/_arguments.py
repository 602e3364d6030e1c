"""Checks of arguments that several kinds of networks share."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isometry import activations
from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry.activations import Activation


def elementwise(activation: str | Activation | Callable[[Array], Array]) -> Activation:
    """Look up an activation; refuse one that is not elementwise.

    Theory takes the Jacobian of the activation to be diagonal. That of a softmax, for
    example, is not.

    Raises:
        InputError: An unknown name, or a function that mixes the entries of its input.
    """
    phi = activations.get(activation)
    # Named activations are known to be elementwise.
    if not phi.named:
        checks.elementwise(f"activation={phi.name}", phi)
    return phi


def require_bias(sigma_b: float | None, *, bias: bool) -> None:
    """Refuse a positive sigma_b for layers that have no biases."""
    if not bias and sigma_b:
        raise InputError(f"sigma_b={sigma_b} with bias=False; drop one of the two.")


def number(name: str, value: float) -> float:
    """Return a finite number as a Python float; refuse any other value."""
    return float(checks.number(name, value))


def positive(name: str, value: int) -> int:
    """Return a whole number of at least 1; refuse any other value."""
    return checks.integer(name, value, low=1)


def one_example(
    x: Array,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    kind: str = "example",
    layout: str = "",
) -> Array:
    """Return x in the dtype of the parameters; refuse x of another shape.

    A batch, for example, would pass through matrix products without an error, and its
    Jacobian would be a block matrix.

    Args:
        x: What the user calls the network on.
        shape: The shape of one example.
        dtype: The dtype of the parameters.
        kind: The word for an example in messages: "example", "image", "sequence".
        layout: A note on the order of the axes, for messages.

    Returns:
        x, of this shape and dtype.

    Raises:
        InputError: x has another shape, or is not real.
    """
    if jnp.shape(x) != shape:
        raise InputError(
            f"x has shape {jnp.shape(x)}; this network takes one {kind} of shape "
            f"{shape}{layout}. For a batch write jax.vmap(net, (None, 0))(params, xs)."
        )
    checks.real("x", x)
    return jnp.asarray(x, dtype)
