"""What the factories of networks, and their functions, check alike."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isometry import activations
from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry.activations import Activation


def elementwise(activation: str | Activation | Callable[[Array], Array]) -> Activation:
    """Return an activation; refuse one that mixes its entries.

    Every theory takes the Jacobian of the activation to be diagonal, which is wrong for
    such a one.
    """
    phi = activations.get(activation)
    # Named activations are known to be elementwise.
    if not phi.named:
        checks.elementwise(f"activation={phi.name}", phi)
    return phi


def require_bias(sigma_b: float | None, *, bias: bool) -> None:
    """Refuse a scale of biases for layers that have none."""
    if not bias and sigma_b:
        raise InputError(f"sigma_b={sigma_b} with bias=False; drop one of the two.")


def number(name: str, value: float) -> float:
    """Return a finite number as Python's."""
    return float(checks.number(name, value))


def positive(name: str, value: int) -> int:
    """Return a whole number of at least 1."""
    return checks.integer(name, value, low=1)


def one_example(
    x: Array,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    kind: str = "example",
    layout: str = "",
) -> Array:
    """Return x in the dtype of the parameters; refuse another shape, as of a batch.

    A batch would pass through products without an error, and its Jacobian would be a
    block matrix; through convolutions the message of XLA would speak of axes that the
    user never wrote.

    Args:
        x: What the network is called on.
        shape: The shape of one example.
        dtype: The dtype of the arithmetic, whatever that of x is.
        kind: What the message calls an example.
        layout: What the message says of the axes.
    """
    if jnp.shape(x) != shape:
        raise InputError(
            f"x has shape {jnp.shape(x)}; this network takes one {kind} of shape "
            f"{shape}{layout}. For a batch write jax.vmap(net, (None, 0))(params, xs)."
        )
    checks.real("x", x)
    return jnp.asarray(x, dtype)
