"""Norms of the loss gradient of every weight, with zeros told from underflow."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from isometry._internal import compilation, precision
from isometry._internal.types import Params
from isometry.certificates import Certificate
from isometry.measure import _draws
from isometry.verdicts import _double, _weights
from isometry.verdicts._objective import LIFT, Batch, Objective, Split, objective_of
from isometry.verdicts._subject import Subject
from isometry.verdicts._task import Task
from isometry.verdicts._weights import Weight

_LOG_LIFT = math.log(LIFT)

# The least number of examples in a batch in training mode. A batch norm turns a batch
# of one example into zeros, through which no gradient passes.
_LEAST_BATCH = 8


@dataclass(frozen=True, eq=False)
class Gradients:
    """How large the loss gradient of every weight is.

    Attributes:
        layers: The names of the weights; a stacked weight has one for each slice.
        log_norm: ln of the Frobenius norm of the gradient of the loss of one example;
            -inf only where it is bitwise zero, and NaN where it is not finite.
        underflows: Names of the weights whose gradient is zero in the dtype of the
            network, and is not in float64.
        lost: Why gradients that are zero in float64 too may not be zero in exact
            arithmetic, in words; or "".
        mode: "training" if gradients are those of the training mode, else "inference".
    """

    layers: tuple[str, ...]
    log_norm: Float[np.ndarray, "seeds inputs layers"]
    underflows: tuple[str, ...]
    lost: str
    mode: str

    @property
    def is_zero(self) -> Bool[np.ndarray, " layers"]:
        """Whether the gradient is zero at every input in every seed."""
        return np.asarray(np.isneginf(self.log_norm).all((0, 1)))

    @property
    def zeros(self) -> tuple[str, ...]:
        """The names of the weights whose gradient is zero, at all inputs and seeds."""
        return self.named(self.is_zero)

    def named(self, is_meant: Bool[np.ndarray, " layers"]) -> tuple[str, ...]:
        """Return the names of the weights for which `is_meant` is True."""
        pairs = zip(self.layers, is_meant, strict=True)
        return tuple(name for name, flag in pairs if flag)


def gradients(
    subject: Subject,
    task: Task,
    certificates: Sequence[Certificate] = (),
) -> Gradients:
    """Measure the gradient of every weight, at the few examples.

    In training mode these examples are one batch, and each gradient is that of the loss
    of one of them.

    The loss is multiplied by 2^60 against underflow. If the gradient of a weight is
    zero nevertheless, while a certificate says that it has one at the first step, it is
    measured once more in float64, with the gradient at the output scaled to size 1.

    Args:
        subject: The network.
        task: Its loss and targets.
        certificates: Certificates of some seeds; without any, nothing is measured
            again.
    """
    weights = _weights.weights_of(subject.anatomy, subject.params_of(0))
    objective = objective_of(task)
    # Dtypes of 16 bits overflow or round at the factor 2^60, so they are widened.
    dtype = precision.measuring_dtype(None, subject.params)
    size = subject.num_inputs
    if objective.in_training:
        size = max(size, _LEAST_BATCH)
    xs, targets = jax.tree.map(
        lambda leaf: _draws.spaced(leaf, size), (subject.xs, task.targets)
    )
    params, xs = precision.cast((subject.params, xs), dtype)
    batch = Batch(params, xs, targets, key=jax.random.key(0))
    with precision.full(), jax.numpy_dtype_promotion("standard"):
        log_norm = _log_norms(objective, weights, batch)[:, : subject.num_inputs]
    first = Gradients(
        layers=_weights.names_of(weights),
        log_norm=np.asarray(log_norm, float),
        underflows=(),
        lost="",
        mode="training" if objective.in_training else "inference",
    )
    is_allowed = _may_start_at_once(first.layers, certificates)
    if not (first.is_zero & is_allowed).any():
        return first
    again = _double.log_norms(objective, weights, subject, batch=batch)
    if again.log_norm is None:
        return replace(first, lost=again.lost)
    # Zeros that are certified stay: sums that cancel in exact arithmetic may leave
    # rounding errors in float64.
    is_taken = np.isneginf(first.log_norm) & is_allowed
    in_float64 = again.log_norm[:, : subject.num_inputs]
    log_norm = np.where(is_taken, in_float64, first.log_norm)
    second = replace(first, log_norm=log_norm, lost=again.lost)
    return replace(second, underflows=first.named(first.is_zero & ~second.is_zero))


def _may_start_at_once(
    names: Sequence[str],
    certificates: Sequence[Certificate],
) -> Bool[np.ndarray, " layers"]:
    """Tell for which weights some certificate allows a gradient at the first step."""
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
    batch: Batch,
) -> Float[Array, "seeds inputs layers"]:
    """Return ln of the norm of the gradient of each weight, by seed and example."""

    def of_seed(params: Params) -> Float[Array, "inputs layers"]:
        of_one_seed = batch._replace(params=params)
        if objective.in_training:
            return _in_training(objective, weights, of_one_seed)
        return _in_inference(objective, weights, of_one_seed)

    # One seed after another, because under vmap over kernels XLA runs a convolution as
    # a grouped one, which is slow.
    return jax.lax.map(of_seed, batch.params)


def _in_inference(
    objective: Objective,
    weights: tuple[Weight, ...],
    batch: Batch,
) -> Float[Array, "inputs layers"]:
    """Return ln of the gradient norms, of the loss of each example by itself."""
    split = Split(batch.params)

    def of_example(example: tuple[PyTree[Array], PyTree[Array]]) -> Array:
        x, target = example

        def lifted(floating: list[Array]) -> Array:
            output = objective.output(split.joined(floating), x)
            return LIFT * objective.loss(output, target)

        gradient = jax.grad(lifted)(split.floating(batch.params))
        return _weights.log_norms(weights, gradient) - _LOG_LIFT

    return jax.lax.map(of_example, (batch.xs, batch.targets))


def _in_training(
    objective: Objective,
    weights: tuple[Weight, ...],
    batch: Batch,
) -> Float[Array, "inputs layers"]:
    """Return ln of the gradient norms, of the loss of each example in one batch."""
    split = Split(batch.params)

    def lifted(floating: list[Array]) -> Float[Array, " inputs"]:
        params = split.joined(floating)
        outputs = objective.outputs(params, batch.xs, batch.key)
        return LIFT * objective.losses(outputs, batch.targets)

    # Examples of a batch may depend on each other, so the whole batch is pulled back
    # for each of them.
    losses, pull = jax.vjp(lifted, split.floating(batch.params))

    def of_one(cotangent: Array) -> Float[Array, " layers"]:
        (gradient,) = pull(cotangent)
        return _weights.log_norms(weights, gradient) - _LOG_LIFT

    return jax.lax.map(of_one, jnp.eye(losses.shape[0], dtype=losses.dtype))
