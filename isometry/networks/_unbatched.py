"""From a model that takes batches to f(params, x) of one example."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from isometry._internal import checks, kinds, precision
from isometry._internal.errors import InputError, public
from isometry._internal.types import Params

Apply = Callable[[Params, Array], Array]


@public("unbatched")
def unbatched(apply: Apply, params: Params, xs: ArrayLike) -> Apply:
    """Turn a model that takes batches into f(params, x) of one example.

    The Jacobian df/dx is that of one example. With batch normalization in training mode
    there is none, because the output for an example depends on the other examples of
    its batch. So the model is tried first: its outputs for a batch must be those for
    the examples one by one. The tolerance is √eps times the largest output.

    Args:
        apply: apply(params, xs) -> (examples, ...), of a whole batch.
        params: Parameters of the model, with which it is tried.
        xs: Two examples or more along a first axis, on which it is tried.

    Returns:
        f(params, x) = apply(params, x[None])[0].

    Raises:
        InputError: Fewer than two examples; outputs that are not floating, or not one
            row for each example; outputs that depend on the other examples; outputs
            that change from call to call, as with dropout.

    Example:
        >>> def apply(w, xs):
        ...     return jnp.tanh(xs @ w)
        >>> w = jnp.eye(3)
        >>> f = networks.unbatched(apply, w, jnp.eye(3)[:2])
        >>> isometry.spectrum(f, w, jnp.zeros(3)).values
        Array([1., 1., 1.], dtype=float32)
    """
    checks.on_host("params", params)
    xs = checks.on_host("xs", jnp.asarray(xs))
    if xs.ndim < 1 or len(xs) < 2:
        raise InputError(
            f"xs has shape {xs.shape}; write at least two examples, one a row."
        )

    def f(params: Params, x: Array) -> Array:
        return apply(params, x[None])[0]

    # A lower precision would hide an interaction among its rounding.
    with precision.full():
        together = np.asarray(apply(params, xs))
        again = np.asarray(apply(params, xs))
        if together.ndim < 1 or len(together) != len(xs):
            raise InputError(
                f"apply returns shape {together.shape} for {len(xs)} examples; write "
                "one row each."
            )
        if not kinds.is_floating(together):
            raise InputError(
                f"apply returns {together.dtype}; it must return real floating "
                "numbers, which have a derivative."
            )
        alone = np.stack([np.asarray(f(params, x)) for x in xs])
    # Checked first: with dropout, examples would seem to depend on one another.
    if not np.array_equal(together, again, equal_nan=True):
        raise InputError(
            "apply is not deterministic: two calls differ. Switch dropout off, or fix "
            "its key."
        )
    # XLA may sum a batch in another order than one example. A tolerance of eps would
    # refuse that; ten times the root would let weak batch normalization pass.
    tolerance = float(jnp.finfo(together.dtype).eps) ** 0.5
    difference = np.abs(together - alone)
    if not np.all(difference <= tolerance * float(np.max(np.abs(together)))):
        raise InputError(
            "examples interact: beside others an example comes out differently than "
            f"alone, by {np.max(difference):.3g}. Put batch normalization into "
            "evaluation mode (running averages), or measure a model that normalizes "
            "each example (LayerNorm)."
        )
    return f
