"""Layers that get no gradient: zero_gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _precision
from isometry.degeneracy._flag import CLEAR, RAISED, Flag
from isometry.degeneracy._probe import Probe, Task, weights_of
from isometry.networks import Network

_LIFT = 2.0**60  # the loss is scaled by this before differentiation, so that a small gradient is not a zero one
_REMEDY = (
    "a layer before or after it is exactly zero: give it small random weights, or keep it zero only next to a skip"
)


@functools.partial(jax.jit, static_argnames=("function", "loss"))
def _largest(function: Any, loss: Any, params: Any, xs: Any, targets: Any) -> Any:
    """(layers,) per run, of every seed: whether any entry of the layer's gradient is not zero for any one input."""

    def of_seed(params: Any) -> Any:
        def visit(found: Any, example: Any) -> Any:
            x, target = example
            grads = jax.grad(lambda p: _LIFT * loss(function(p, x), target))(params)
            alive = tuple(jnp.any(g != 0, (1, 2)) for g in weights_of(grads))
            return jax.tree.map(jnp.logical_or, found, alive), None

        nothing = tuple(jnp.zeros(w.shape[0], bool) for w in weights_of(params))
        return jax.lax.scan(visit, nothing, (xs, targets))[0]

    with _precision.full():
        return jax.vmap(of_seed)(params)


def zero_gradient(net: Network, task: Task, params: Any, inputs: int, probe: Probe | None) -> Flag:
    """Raised where the loss gradient of a layer's weights is bitwise zero at every input, in every seed.

    Underflow is not zero: the loss is scaled by 2^60 first. A probe tells whether signal arrives during training.
    """
    alive = _largest(net.function, task.loss, params, task.xs[:inputs], task.targets[:inputs])
    zero = ~np.concatenate([np.asarray(a) for a in alive], 1)
    layers = np.flatnonzero(zero.all(0))
    evidence: dict[str, Any] = {"layers": layers, "inputs": inputs, "seeds": len(zero)}
    if not len(layers):
        return Flag("zero_gradient", CLEAR, "every layer gets a gradient", _REMEDY, 0, None, 0, "exact", evidence)
    reason = f"{', '.join(f'W_{i + 1}' for i in layers)} get{'s' if len(layers) == 1 else ''} no gradient at all"
    if probe is not None:
        first = probe.first_signal[:, layers]
        evidence["first_signal"] = first
        if (first > 0).all():
            reason += f"; recovering, signal arrives by step {first.max()}"
        else:
            reason += f"; none arrived within {probe.steps[-1]} steps"
    return Flag("zero_gradient", RAISED, reason, _REMEDY, len(layers), None, 0, "exact", evidence)
