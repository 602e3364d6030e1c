"""Layers that get no gradient: zero_gradient."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry._internal import compilation, precision
from isometry.degeneracy import _underflow
from isometry.degeneracy._certify import IN_EXACT_ARITHMETIC, Certificate
from isometry.degeneracy._flag import CLEAR, RAISED, UNDECIDED, Flag
from isometry.degeneracy._probe import Probe
from isometry.degeneracy._task import Task
from isometry.degeneracy._underflow import LIFT, LOG_LIFT
from isometry.networks._mlp import Mlp as Network

_REMEDY = {
    "recovering": "none is needed: a last layer of zeros (Fixup, ZerO) lets the others train from the next steps on",
    "permanent": "random weights in the layers before and after it, as it is cut off by exact zeros",
    "unknown": "weights and biases that leave some unit of every layer with a slope (see dead_units)",
}
_ALIVE = "random weights in the layers before and after it"


@functools.partial(compilation.jit, static_argnames=("function", "loss", "inputs"))
def _log_norms(function: Any, loss: Any, params: Any, xs: Any, targets: Any, inputs: int) -> Any:
    """(seeds, inputs, layers) per run: ln ‖∂loss/∂W_l‖_F of one example, −inf only where it is bitwise zero."""

    def of_seed(params: Any) -> Any:
        def visit(_: None, example: Any) -> Any:
            x, target = example
            grads = jax.grad(lambda p: LIFT * loss(function(p, x), target))(params)
            return None, tuple(_log_norm(g) for g in function.weights(grads))

        return jax.lax.scan(visit, None, (xs[:inputs], targets[:inputs]))[1]

    with precision.full(), jax.numpy_dtype_promotion("standard"):
        return jax.vmap(of_seed)(params)


def _log_norm(lifted: Any) -> Any:
    """ln of the Frobenius norm of each matrix before it was lifted; relative to its largest entry, so no square rounds
    to zero or overflows."""
    peak = jnp.max(jnp.abs(lifted), (1, 2))
    safe = jnp.where(peak == 0, 1, peak)
    squares = jnp.sum((lifted / safe[:, None, None]) ** 2, (1, 2))
    return jnp.where(peak == 0, -jnp.inf, jnp.log(safe) + jnp.log(jnp.where(peak == 0, 1, squares)) / 2 - LOG_LIFT)


def zero_gradient(
    net: Network, task: Task, params: Any, inputs: int, probe: Probe | None, certificates: Sequence[Certificate]
) -> Flag:
    """Raised where the loss gradient of a layer's weights is bitwise zero at every input, in every seed.

    Underflow is not zero: the loss is scaled by 2^60 first, and a layer at zero whose certificate lets a gradient
    arrive at step 1 is taken once more in float64, from a gradient at the output brought to size 1. What is
    not zero then, `underflows`, is a matter of vanishing; undecided where signals leave float64 too. Evidence holds
    `log_gradient_norm`, layer by layer the median over seeds and inputs of ln ‖∂loss/∂W_l‖_F, and of layers at zero

    - `first_gradient`, the earliest step at which their certificates let a gradient arrive, 0 for never;
    - `first_signal`, (seeds, layers) the step at which it did arrive in the probe, −1 for not yet;
    - `kind`: "recovering" if the signal of all of them has arrived, or is certified to be on its way after the first
      step; "permanent" if it never can; "unknown" where the weights let it through and the data do not.
    """
    found = _log_norms(net.function, task.loss, params, task.xs, task.targets, inputs=inputs)
    norms = np.concatenate([np.asarray(a, float) for a in found], 2)
    norms, low, lost = _without_underflow(net, task, params, inputs, norms, certificates)
    layers = np.flatnonzero(np.isneginf(norms).all((0, 1)))
    typical = np.quantile(np.nan_to_num(norms, nan=np.inf, posinf=np.inf, neginf=-np.inf), 0.5, (0, 1), method="lower")
    evidence: dict[str, Any] = {
        "layers": layers,
        "inputs": inputs,
        "seeds": len(norms),
        "log_gradient_norm": typical,
        "underflows": low,
    }
    if not len(layers):
        reason = "every layer gets a gradient"
        reason += f", though that of {_names(low)} underflows {_dtype(params)}: see vanishing" if len(low) else ""
        return Flag("zero_gradient", CLEAR, reason, _ALIVE, 0, None, 0, "exact", evidence)
    earliest, exact = (
        np.array([[getattr(c.bounds[i], name) or 0 for i in layers] for c in certificates])
        for name in ("first_gradient", "exact_first_gradient")
    )
    arrived = np.zeros_like(earliest) if probe is None else probe.first_signal[:, layers]
    kind, words = _outlook(earliest, arrived, 0 if probe is None else int(probe.steps[-1]))
    words += "" if kind != "permanent" or not exact[earliest == 0].any() else f" {IN_EXACT_ARITHMETIC}"
    evidence |= {"first_gradient": earliest, "kind": kind} | ({} if probe is None else {"first_signal": arrived})
    if lost and kind == "unknown":
        reason = f"{_names(layers)}: no gradient is seen, but z_{lost} underflows float64 too"
        return Flag("zero_gradient", UNDECIDED, reason, _ALIVE, len(layers), None, 0, "exact", evidence)
    reason = f"{_names(layers)} get{'s' if len(layers) == 1 else ''} no gradient at all; {kind}: {words}"
    return Flag("zero_gradient", RAISED, reason, _REMEDY[kind], len(layers), None, 0, "exact", evidence)


def _without_underflow(
    net: Network, task: Task, params: Any, inputs: int, norms: np.ndarray, certificates: Sequence[Certificate]
) -> tuple[np.ndarray, np.ndarray, int]:
    """(`norms` with what underflow took from them, layers that are zero in the dtype only, the layer lost, 0 for
    none)."""
    allowed = np.array([[b.first_gradient == 1 for b in c.bounds] for c in certificates], bool)
    allowed = allowed.reshape(-1, norms.shape[2])  # (seeds, layers)
    zero = np.isneginf(norms).all((0, 1))
    if not (zero & allowed).any():
        return norms, np.zeros(0, int), 0
    again, lost = _underflow.log_gradients(net, task.loss, params, task.xs[:inputs], task.targets[:inputs])
    better = np.where(np.isneginf(norms) & allowed[:, None], again, norms)
    return better, np.flatnonzero(zero & ~np.isneginf(better).all((0, 1))), lost


def _names(layers: np.ndarray) -> str:
    """In words, the ends alone of many in a row."""
    ends = layers[[0, -1]] if len(layers) > 3 and layers[-1] - layers[0] + 1 == len(layers) else layers
    return (" to " if len(ends) < len(layers) else ", ").join(f"W_{i + 1}" for i in ends)


def _dtype(params: Any) -> str:
    return str(jax.tree.leaves(params)[0].dtype)


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
