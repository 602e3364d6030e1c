"""Layers that get no gradient: zero_gradient."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _precision
from isometry.degeneracy._certify import Certificate
from isometry.degeneracy._flag import CLEAR, RAISED, Flag
from isometry.degeneracy._probe import Probe, weights_of
from isometry.degeneracy._task import Task
from isometry.networks import Network

_LIFT = 2.0**60  # the loss is scaled by this before differentiation, so that a small gradient is not a zero one
_LOG_LIFT = 60 * math.log(2)
_REMEDY = {
    "recovering": "none is needed: a last layer of zeros (Fixup, ZerO) lets the others train from the next steps on",
    "permanent": "random weights in the layers before and after it, as it is cut off by exact zeros",
    "unknown": "weights and biases that leave some unit of every layer with a slope (see dead_units)",
}
_ALIVE = "random weights in the layers before and after it"


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


def zero_gradient(
    net: Network, task: Task, params: Any, inputs: int, probe: Probe | None, certificates: Sequence[Certificate]
) -> Flag:
    """Raised where the loss gradient of a layer's weights is bitwise zero at every input, in every seed.

    Underflow is not zero: the loss is scaled by 2^60 first. Evidence holds `log_gradient_norm`, layer by layer the
    median over seeds and inputs of ln ‖∂loss/∂W_l‖_F, and for the layers at zero

    - `first_gradient`, the earliest step at which their certificates let a gradient arrive, 0 for never;
    - `first_signal`, (seeds, layers) the step at which it did arrive in the probe, −1 for not yet;
    - `kind`: "recovering" if the signal of all of them has arrived, or is certified to be on its way after the first
      step; "permanent" if it never can; "unknown" where the weights let it through and the data do not.
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
        return Flag("zero_gradient", CLEAR, "every layer gets a gradient", _ALIVE, 0, None, 0, "exact", evidence)
    earliest = np.array([[c.bounds[i].first_gradient or 0 for i in layers] for c in certificates])
    arrived = np.zeros_like(earliest) if probe is None else probe.first_signal[:, layers]
    kind, words = _outlook(earliest, arrived, 0 if probe is None else int(probe.steps[-1]))
    evidence |= {"first_gradient": earliest, "kind": kind} | ({} if probe is None else {"first_signal": arrived})
    names = ", ".join(f"W_{i + 1}" for i in layers)
    reason = f"{names} get{'s' if len(layers) == 1 else ''} no gradient at all; {kind}: {words}"
    return Flag("zero_gradient", RAISED, reason, _REMEDY[kind], len(layers), None, 0, "exact", evidence)


def _outlook(earliest: np.ndarray, arrived: np.ndarray, steps: int) -> tuple[str, str]:
    """What becomes of layers without gradient, of seeds × layers, and how that is known."""
    if (arrived > 0).all():
        return "recovering", f"signal arrives by step {arrived.max()}"
    if ((earliest == 0) & (arrived <= 0)).any():
        return "permanent", "certified, no signal arrives at any step"
    seen = f"none arrived within {steps} steps" if steps else "no probe was run"
    if (earliest > 1).all() and not steps:
        return "recovering", f"by certificate, signal can arrive from step {earliest.max()}"
    return "unknown", f"the weights let signal through from step {earliest.max()}, {seen}"
