"""Checks of arguments that several kinds of networks share."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Array, PyTree

from isometry import activations
from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry._internal.types import Params
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
    x = checks.array("x", x)
    if x.shape != shape:
        raise InputError(
            f"x has shape {x.shape}; this network takes one {kind} of shape "
            f"{shape}{layout}. For a batch write jax.vmap(net, (None, 0))(params, xs)."
        )
    # After the shape, because a wrong shape is the more frequent mistake. JAX would
    # drop the imaginary part with a warning.
    checks.real("x", x)
    return x.astype(dtype)


def boolean(name: str, value: object) -> bool:
    """Return True or False; refuse any other value, as a string would count as True."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name}={checks.show(value)} is neither True nor False.")
    return bool(value)


def shapes_by_path(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Return the shape of every leaf by its key path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}


def require_like(params: Params, shapes: Params) -> None:
    """Refuse parameters whose leaves are not those of a network, by path and shape."""
    require_shapes("params", shapes_by_path(params), shapes_by_path(shapes))


def require_shapes(
    where: str,
    given: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
) -> None:
    """Refuse parameters whose leaves are not those of a network.

    Those of another network may fit as well, and would give its outputs in silence.

    Args:
        where: The name of the parameters in messages.
        given: The shapes of their leaves, as `shapes_by_path` returns them.
        wanted: The shapes of the leaves of the network.

    Raises:
        InputError: They differ. The first difference is named.
    """
    # A single leaf has an empty path.
    if "" in given and "" not in wanted:
        raise InputError(
            f"{where} is a number or an array, not a network's parameters; write "
            "net.init(key)."
        )
    # Shorter names come first, because as a string "[10]" would come before "[2]".
    names = wanted.keys() | given.keys()
    for name in sorted(names, key=lambda name: (len(name), name)):
        if wanted.get(name) == given.get(name):
            continue
        wanted_words = "is not there"
        if name in wanted:
            wanted_words = f"is of shape {wanted[name]}"
        given_words = "lacks it"
        if name in given:
            given_words = f"has {given[name]}"
        raise InputError(
            f"{where}{name} {wanted_words} in this network, and {where} "
            f"{given_words}; write net.init(key), or one seed of stacked "
            "parameters, jax.tree.map(lambda a: a[0], params)."
        )
