"""From a model that takes batches to f(params, x) of one example, if its examples do not interact."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from isometry import _checks
from isometry._internal import precision


def unbatched(apply: Callable[[Any, Any], Any], params: Any, xs: Any) -> Callable[[Any, Any], Any]:
    """f(params, x) = apply(params, x[None])[0], after making sure that no example depends on the others.

    **Arguments**
    - `apply`: apply(params, xs) → (examples, ...), of a whole batch.
    - `xs`: (examples, *x.shape), at least two, at which the batch is compared with its examples one by one: alike to
      the root of eps of the largest output.

    A Jacobian ∂f/∂x is that of one example. Batch normalization in training mode, or a loss over the batch, has none:
    what it makes of x depends on what stands beside it. Host only; cost: two evaluations of the batch, and one of each
    example: a few examples will do.

    **Raises** `ValueError`: fewer than two examples; outputs that are not floating, or not one of each example;
    examples that interact; outputs that change from call to call (dropout).
    """
    xs = jnp.asarray(xs)
    _checks.concrete("unbatched", params=params, xs=xs)
    if xs.ndim < 1 or len(xs) < 2:
        raise _checks.InputError(f"unbatched(): xs has shape {xs.shape}; write at least two examples, one a row.")

    def f(params: Any, x: Any) -> Any:
        return apply(params, x[None])[0]

    with precision.full():
        together, again = np.asarray(apply(params, xs)), np.asarray(apply(params, xs))
        if together.ndim < 1 or len(together) != len(xs):
            raise _checks.InputError(
                f"unbatched(): apply returns shape {together.shape} for {len(xs)} examples; write one row each."
            )
        if not jnp.issubdtype(together.dtype, jnp.floating):
            raise _checks.InputError(
                f"unbatched(): apply returns {together.dtype}; it must return real floating numbers, which have a "
                "derivative."
            )
        alone = np.stack([np.asarray(f(params, x)) for x in xs])
    scale = float(jnp.finfo(together.dtype).eps) ** 0.5 * float(np.max(np.abs(together)))
    if not np.array_equal(together, again, equal_nan=True):
        raise _checks.InputError(
            "unbatched(): apply is not deterministic: two calls differ. Switch dropout off, or fix its key."
        )
    apart = np.abs(together - alone)
    if not np.all(apart <= scale):
        raise _checks.InputError(
            "unbatched(): examples interact: beside others an example comes out differently than alone, by "
            f"{np.max(apart):.3g}. Put batch normalization into evaluation mode (running "
            "averages), or measure a model that normalizes each example (LayerNorm)."
        )
    return f
