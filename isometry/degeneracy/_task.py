"""What the probe trains on: examples and targets, loss, optimizer, batches; and what can be wrong with them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from isometry import _checks
from isometry._internal import randomness
from isometry.measure import _refusals
from isometry.networks._mlp import Mlp as Network

DEFAULT_STEPS = 200
BATCH = 32
SGD = {rate: optax.sgd(rate) for rate in (0.1, 0.01, 0.001)}
"""The ZerO paper's learning rate, and what is taken instead where it overflows."""


class Task(NamedTuple):
    """What is trained on: `loss(output, target)` of one example is a scalar. Hashable parts are compiled in."""

    loss: Callable[[Any, Any], Any]
    optimizer: Any
    xs: Any
    targets: Any
    batches: Any  # (steps, batch) indices


def make_task(
    net: Network, xs: Any, targets: Any, loss: Any, optimizer: Any, steps: int, key: Any
) -> tuple[Task, bool]:
    """The training task, and whether its targets are synthetic.

    **Raises** `ValueError`: targets of the wrong length, shape or type; a loss that fails, has no gradient, is not a
    real scalar or draws from chance; not an optimizer, or one whose state does not match or that draws from chance.
    """
    key_targets, key_batches = jax.random.split(key)
    params = jax.eval_shape(net.init, jax.random.key(0))
    out = _output(net, params, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype))
    synthetic = targets is None
    targets = _synthetic(key_targets, xs, out.shape[-1]) if synthetic else _checked(targets, len(xs))
    chosen = loss if loss is not None else _default(targets, out)
    _check_loss(chosen, out, jax.ShapeDtypeStruct(targets.shape[1:], targets.dtype))
    opt = SGD[0.1] if optimizer is None else optimizer
    if not (callable(getattr(opt, "init", None)) and callable(getattr(opt, "update", None))):
        raise _checks.InputError(
            f"audit(): optimizer={_checks.show(opt)} is not an optax optimizer; write optax.sgd(0.1)."
        )
    _check_optimizer(opt, params)
    return Task(chosen, opt, xs, targets, make_batches(key_batches, len(xs), max(steps, 1))), synthetic


@functools.partial(jax.jit, static_argnames=("examples", "steps"))
def make_batches(key: Any, examples: int, steps: int) -> Any:
    """(steps, batch) indices: shuffled epochs, one after another."""
    size = min(BATCH, examples)
    epochs = -(-steps * size // (examples // size * size))
    orders = jax.vmap(lambda k: jax.random.permutation(k, examples))(jax.random.split(key, epochs))
    return orders[:, : examples // size * size].reshape(-1, size)[:steps]


def array(name: str, value: Any) -> Any:
    """`value` as a real array."""
    try:
        found = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _checks.InputError(
            f"audit(): {name}={_checks.show(value)} is not an array of numbers: {error}. Write rows of equal length."
        ) from error
    _checks.real("audit", **{name: found})
    return found


def _output(net: Network, params: Any, x: Any) -> Any:
    """What the network returns for one example, as a shape; its activation must have slopes."""
    try:
        net.activation.slope(jnp.zeros((), x.dtype))  # evaluated, as custom_vjp lets itself be traced
        return jax.eval_shape(net.function, params, x)
    except Exception as error:  # whatever the user's own activation raises
        raise _checks.InputError(
            f"audit(): the slope of {net.activation.name} cannot be taken, {type(error).__name__}: {error}. Write an "
            "elementwise function with a forward derivative (jax.custom_jvp, not jax.custom_vjp)."
        ) from error


def _traced(f: Callable[..., Any], *shapes: Any) -> Any:
    """The jaxpr of f and what it returns, as shapes; afresh each time, as JAX remembers the traces of a function."""
    return jax.make_jaxpr(lambda *args: f(*args), return_shape=True)(*shapes)


def _check_loss(loss: Any, out: Any, target: Any) -> None:
    """Whether `loss` is a real scalar with a gradient, of one example (shapes), and the same at every trace."""
    where = f"of an output of shape {out.shape} and a target of shape {target.shape}"
    try:
        with jax.numpy_dtype_promotion("standard"):
            once, value = _traced(loss, out, target)
            again, _ = _traced(loss, out, target)
    except Exception as error:  # whatever the user's own code raises
        said = f"{type(error).__name__}: {error}"
        raise _checks.InputError(f"audit(): loss(output, target) fails on one example, {where}: {said}") from error
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise _checks.InputError(f"audit(): loss returns {value} {where}; it must be a scalar, real and floating.")
    with _checks.named("audit"):
        _refusals.refuse_chance("loss", once, again)
    try:
        with jax.numpy_dtype_promotion("standard"):
            jax.eval_shape(jax.grad(loss), out, target)
    except Exception as error:
        raise _checks.InputError(f"audit(): loss has no gradient {where}, {type(error).__name__}: {error}") from error


def _check_optimizer(optimizer: Any, params: Any) -> None:
    """Whether `update` takes the state that `init` makes for `params` (shapes), returns the like of both, and does the
    same at every trace."""

    def step(params: Any) -> tuple[Any, Any]:
        state = optimizer.init(params)
        return (params, state), optimizer.update(params, state, params)

    try:
        with jax.numpy_dtype_promotion("standard"):
            once, (before, after) = _traced(step, params)
            again, _ = _traced(step, params)
    except Exception as error:  # whatever the user's own code raises
        raise _checks.InputError(f"audit(): optimizer.update fails on the state of optimizer.init: {error}") from error
    like = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
    for what, a, b in zip(("updates", "state"), before, after, strict=True):
        if jax.tree.structure(a) != jax.tree.structure(b) or like(a) != like(b):
            raise _checks.InputError(
                f"audit(): optimizer.update returns {what} of another structure, shape or dtype than it is given; "
                "the state must match the one that optimizer.init makes."
            )
    with _checks.named("audit"):
        _refusals.refuse_chance("optimizer", once, again)


def _cross_entropy(output: Any, label: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(output, label)


def _square(output: Any, target: Any) -> Any:
    return jnp.mean((output - target.astype(output.dtype)) ** 2)


def _synthetic(key: Any, xs: Any, outputs: int) -> Any:
    """The largest of `outputs` random linear scores of the input; with one output, the score itself."""
    flat = xs.reshape(len(xs), -1)
    scores = flat @ randomness.normal(key, (flat.shape[1], outputs), flat.dtype)
    return scores if outputs == 1 else jnp.argmax(scores, -1).astype(jnp.int32)


def _checked(targets: Any, examples: int) -> Any:
    targets = array("targets", targets)
    if targets.ndim < 1 or len(targets) != examples:
        raise _checks.InputError(f"audit(): targets have shape {targets.shape} for {examples} examples in xs.")
    _checks.all_finite("audit", targets=targets)
    return targets


def _default(targets: Any, out: Any) -> Callable[[Any, Any], Any]:
    """The loss for such targets; only the user's own may take others."""
    if targets.shape[1:] == out.shape and not jnp.issubdtype(targets.dtype, jnp.integer):
        return _square
    if targets.ndim != 1 or not jnp.issubdtype(targets.dtype, jnp.integer):
        n = len(targets)
        raise _checks.InputError(
            f"audit(): targets are {targets.dtype} of shape {targets.shape}; the default loss takes floating ones of "
            f"shape {(n, *out.shape)} or integer labels of shape {(n,)}. For others write loss=..."
        )
    labels = np.asarray(targets)
    if not 0 <= int(labels.min()) <= int(labels.max()) < out.shape[-1]:
        raise _checks.InputError(
            f"audit(): targets are labels {int(labels.min())} to {int(labels.max())}, but the network has "
            f"{out.shape[-1]} outputs; labels run from 0 to {out.shape[-1] - 1}. For counts write loss=..."
        )
    return _cross_entropy
