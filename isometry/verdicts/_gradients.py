"""Norms of the loss gradient of every weight, told from underflow."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from isometry._internal import compilation, precision
from isometry._internal.types import Key, Params
from isometry.certificates import Certificate
from isometry.measure import _draws
from isometry.verdicts import _double, _weights
from isometry.verdicts._objective import LIFT, Objective, Split, objective_of
from isometry.verdicts._subject import Subject
from isometry.verdicts._task import Task
from isometry.verdicts._weights import Weight

_LOG_LIFT = math.log(LIFT)


@dataclass(frozen=True, eq=False)
class Gradients:
    """How large the loss gradient of every weight is.

    Attributes:
        layers: The names of the weights, each slice of a stacked one by itself.
        log_norm: ln of the Frobenius norm of the gradient of the loss of one example;
            -inf only where it is bitwise zero, and NaN where it is not finite.
        underflows: Names of the weights whose gradient is zero in the dtype of the
            network, and is not in float64.
        lost: Why the zeros that are left may be no zeros, in words; or "".
        mode: "training" if it is the gradient of the network as it is trained.
    """

    layers: tuple[str, ...]
    log_norm: Float[np.ndarray, "seeds inputs layers"]
    underflows: tuple[str, ...]
    lost: str
    mode: str

    @property
    def is_zero(self) -> Bool[np.ndarray, " layers"]:
        """Whether the gradient is zero at every input in every seed."""
        return np.isneginf(self.log_norm).all((0, 1))

    @property
    def zeros(self) -> tuple[str, ...]:
        """The names of the weights whose gradient is zero everywhere."""
        return tuple(np.array(self.layers, object)[self.is_zero])


def gradients(
    subject: Subject, task: Task, certificates: Sequence[Certificate] = ()
) -> Gradients:
    """Measure the gradient of every weight, at the few examples.

    In training mode the batch is that of the few examples, and the gradient that of the
    loss of one of them.

    The loss is scaled by 2^60 first. A weight at zero whose certificate lets a gradient
    arrive at the first step is measured once more in float64, from a gradient at the
    output of size 1.

    Args:
        subject: The network.
        task: Its loss and targets.
        certificates: Of some seeds; without any, nothing is measured again.
    """
    num_inputs = jax.tree.leaves(subject.few)[0].shape[0]
    targets = jax.tree.map(lambda leaf: _draws.spaced(leaf, num_inputs), task.targets)
    weights = _weights.weights_of(subject.anatomy, subject.params_of(0))
    objective = objective_of(task)
    # 16 bits hold neither the lift nor the sums.
    dtype = precision.measuring_dtype(None, subject.params)
    params, xs = precision.cast((subject.params, subject.few), dtype)
    key = jax.random.key(0)
    with precision.full(), jax.numpy_dtype_promotion("standard"):
        log_norm = _log_norms(objective, weights, params, xs, targets, key)
    result = Gradients(
        layers=_weights.names_of(weights),
        log_norm=np.asarray(log_norm, float),
        underflows=(),
        lost="",
        mode="training" if objective.in_training else "inference",
    )
    is_allowed = _may_start_at_once(result.layers, certificates)
    if not (result.is_zero & is_allowed).any():
        return result
    again, lost = _double.log_norms(
        objective, weights, subject, params=params, xs=xs, targets=targets, key=key
    )
    if again is None:
        return _replaced(result, result.log_norm, lost)
    # Zeros that are certified are left alone: sums that cancel in exact arithmetic
    # leave a rest in float64.
    is_taken = np.isneginf(result.log_norm) & is_allowed
    return _replaced(result, np.where(is_taken, again, result.log_norm), lost)


def _replaced(first: Gradients, log_norm: np.ndarray, lost: str) -> Gradients:
    """Return the record with what float64 shows."""
    is_found = first.is_zero & ~np.isneginf(log_norm).all((0, 1))
    return Gradients(
        layers=first.layers,
        log_norm=log_norm,
        underflows=tuple(np.array(first.layers, object)[is_found]),
        lost=lost,
        mode=first.mode,
    )


def _may_start_at_once(
    names: Sequence[str], certificates: Sequence[Certificate]
) -> Bool[np.ndarray, " layers"]:
    """Tell which weights may have a gradient at the first step, in some seed."""
    starting = {
        layer.name
        for certificate in certificates
        for layer in certificate.layers
        if layer.first_gradient == 1
    }
    return np.array([name in starting for name in names], bool)


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _log_norms(
    objective: Objective,
    weights: tuple[Weight, ...],
    params: Params,
    xs: PyTree[Array],
    targets: PyTree[Array],
    key: Key,
) -> Float[Array, "seeds inputs layers"]:
    """Return ln of the norm of the gradient of each weight, by seed and example."""

    def of_seed(params: Params) -> Float[Array, "inputs layers"]:
        if objective.in_training:
            return _in_training(objective, weights, params, xs, targets, key)
        of_one = functools.partial(_of_example, objective, weights, params)
        return jax.lax.map(of_one, (xs, targets))

    # One seed after another: kernels that differ by seed would make a convolution one
    # with groups, which is slow.
    return jax.lax.map(of_seed, params)


def _of_example(
    objective: Objective,
    weights: tuple[Weight, ...],
    params: Params,
    example: tuple[PyTree[Array], PyTree[Array]],
) -> Float[Array, " layers"]:
    """Return what one example gives to each weight."""
    x, target = example
    split = Split(params)

    def lifted(floating: list[Array]) -> Array:
        output = objective.output(split.joined(floating), x)
        return LIFT * objective.loss(output, target)

    gradient = jax.grad(lifted)(split.floating(params))
    return _weights.log_norms(weights, gradient) - _LOG_LIFT


def _in_training(
    objective: Objective,
    weights: tuple[Weight, ...],
    params: Params,
    xs: PyTree[Array],
    targets: PyTree[Array],
    key: Key,
) -> Float[Array, "inputs layers"]:
    """Return what the loss of each example of a batch gives to each weight."""
    split = Split(params)

    def lifted(floating: list[Array]) -> Float[Array, " inputs"]:
        outputs = objective.outputs(split.joined(floating), xs, key)
        return LIFT * objective.losses(outputs, targets)

    losses, pull = jax.vjp(lifted, split.floating(params))

    def of_one(cotangent: Array) -> Float[Array, " layers"]:
        (gradient,) = pull(cotangent)
        return _weights.log_norms(weights, gradient) - _LOG_LIFT

    return jax.lax.map(of_one, jnp.eye(losses.shape[0], dtype=losses.dtype))
