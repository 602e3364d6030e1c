"""Whether what an optimizer's decay leaves of W(0) can be told from what it makes of gradients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

STEPS = 20  # compared; a decay that a schedule switches on later is not seen
_SPREAD = 8.0  # decades of the entries of the trial gradients, so that some are small beside any decay
_NONE = "W(t) − γ_t W(0) has no meaning: this optimizer's decay of the weights depends on their gradients"


def no_separate_decay(optimizer: Any, params: Any) -> str:
    """Why W(t) − γ_t W(0) is not what gradients made of W(0); empty if it is, γ_t from the optimizer run without any.

    Decay must leave a multiple of each matrix, and what trial gradients add to it must point the same way from W(0) as
    from zero. That holds of SGD and momentum with L2, of decoupled decay (AdamW) and of trust ratios without decay; not
    of LAMB's and LARS's decay, whose γ is the ratio's, nor of L2 under Adam. `params`: of one seed.
    """
    noise = [np.random.default_rng(i) for i, _ in enumerate(jax.tree.leaves(params))]
    leaves, tree = jax.tree.flatten(params)
    trial = [
        jnp.asarray(rng.choice([-1, 1], a.shape) * 10 ** rng.uniform(-_SPREAD, 0, a.shape), a.dtype)
        for rng, a in zip(noise, leaves, strict=True)
    ]
    grads = jax.tree.unflatten(tree, trial)
    nothing = functools.partial(jax.tree.map, jnp.zeros_like)
    after = functools.partial(_after, optimizer.init, optimizer.update)
    idle, still = after(params, nothing(params)), after(nothing(params), nothing(params))
    moved, free = after(params, grads), after(nothing(params), grads)
    for before, a, b, c, d in zip(*(t["layers"] for t in (params, idle, still, moved, free)), strict=True):
        before, a, b, c, d = (np.asarray(run["w"], float) for run in (before, a, b, c, d))
        unit = STEPS * 32 * float(jnp.finfo(leaves[0].dtype).eps)  # rounding of sums of STEPS terms, few each
        size = sum(np.linalg.norm(m, axis=(-2, -1)) for m in (before, c, d))
        with np.errstate(over="ignore", invalid="ignore"):  # of steps that diverge nothing can be told
            if not ((_off(a, before) <= unit * size) & (_off(c - a, d - b) <= unit * size)).all():
                return _NONE
    return ""


@functools.partial(jax.jit, static_argnames=("init", "update"))
def _after(init: Callable[..., Any], update: Callable[..., Any], params: Any, grads: Any) -> Any:
    """Parameters after `STEPS` steps with the same gradients."""

    def step(_: Any, carry: Any) -> Any:
        params, state = carry
        updates, state = update(grads, state, params)
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):
        return jax.lax.fori_loop(0, STEPS, step, (params, init(params)))[0]


def _off(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Norm of what of each matrix `a` is no multiple of `b`."""
    along = (a * b).sum((-2, -1), keepdims=True)
    square = (b * b).sum((-2, -1), keepdims=True)
    return np.linalg.norm(a - np.where(square > 0, along / np.where(square > 0, square, 1), 0) * b, axis=(-2, -1))
