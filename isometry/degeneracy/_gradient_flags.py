"""Layers that get no gradient: zero_gradient."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _precision
from isometry.degeneracy._flag import CLEAR, RAISED, Flag
from isometry.degeneracy._probe import Probe, Task, weights_of
from isometry.networks import Network

_LIFT = 2.0**60  # the loss is scaled by this before differentiation, so that a small gradient is not a zero one
_LOG_LIFT = 60 * math.log(2)
_REMEDY = (
    "a layer before or after it is exactly zero: give it small random weights, or keep it zero only next to a skip"
)


@functools.partial(jax.jit, static_argnames=("function", "loss"))
def _log_norms(function: Any, loss: Any, params: Any, xs: Any, targets: Any) -> Any:
    """(seeds, inputs, layers) per run: ln ‖∂loss/∂W_l‖_F of one example, −inf only where it is bitwise zero."""

    def of_seed(params: Any) -> Any:
        def visit(_: None, example: Any) -> Any:
            x, target = example
            grads = jax.grad(lambda p: _LIFT * loss(function(p, x), target))(params)
            return None, tuple(_log_norm(g) for g in weights_of(grads))

        return jax.lax.scan(visit, None, (xs, targets))[1]

    with _precision.full():
        return jax.vmap(of_seed)(params)


def _log_norm(lifted: Any) -> Any:
    """ln of the Frobenius norm of each matrix before it was lifted; relative to its largest entry, so no square rounds
    to zero or overflows."""
    peak = jnp.max(jnp.abs(lifted), (1, 2))
    safe = jnp.where(peak == 0, 1, peak)
    squares = jnp.sum((lifted / safe[:, None, None]) ** 2, (1, 2))
    return jnp.where(peak == 0, -jnp.inf, jnp.log(safe) + jnp.log(jnp.where(peak == 0, 1, squares)) / 2 - _LOG_LIFT)


def zero_gradient(net: Network, task: Task, params: Any, inputs: int, probe: Probe | None) -> Flag:
    """Raised where the loss gradient of a layer's weights is bitwise zero at every input, in every seed.

    Underflow is not zero: the loss is scaled by 2^60 first. A probe tells whether signal arrives during training.
    Evidence holds `log_gradient_norm`, layer by layer the median over seeds and inputs of ln ‖∂loss/∂W_l‖_F.
    """
    found = _log_norms(net.function, task.loss, params, task.xs[:inputs], task.targets[:inputs])
    norms = np.concatenate([np.asarray(a, float) for a in found], 2)
    layers = np.flatnonzero(np.isneginf(norms).all((0, 1)))
    typical = np.quantile(np.nan_to_num(norms, nan=np.inf, posinf=np.inf, neginf=-np.inf), 0.5, (0, 1), method="lower")
    evidence: dict[str, Any] = {
        "layers": layers,
        "inputs": inputs,
        "seeds": len(norms),
        "log_gradient_norm": typical,
    }
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
