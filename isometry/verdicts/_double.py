"""Gradients in float64, where they underflow to zero in the dtype of the network."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float, PyTree

from isometry import structure
from isometry._internal import jaxprs, kinds, precision
from isometry._internal.types import Key, Params
from isometry.certificates._programs import REFUSALS
from isometry.measure._draws import row_shapes
from isometry.structure import Anatomy
from isometry.structure._tapping import tapped
from isometry.verdicts import _weights
from isometry.verdicts._objective import LIFT, Batch, Objective, Split
from isometry.verdicts._steepness import Run, as_steep_as
from isometry.verdicts._subject import Subject
from isometry.verdicts._weights import Weight

# The gradient of a weight is a product of a signal and a gradient. If both are below
# the square root of the smallest normal number, their product underflows.
_LEAST_SIGNAL = math.sqrt(float(np.finfo(np.float64).tiny))


class Again(NamedTuple):
    """What the computation in float64 shows.

    Attributes:
        log_norm: ln of the norm of the gradient of each weight; None if the network
            does not compute in float64.
        lost: Why gradients that are zero in float64 too may not be zero in exact
            arithmetic, in words; or "".
    """

    log_norm: Float[np.ndarray, "seeds inputs layers"] | None
    lost: str


def log_norms(
    objective: Objective,
    weights: tuple[Weight, ...],
    subject: Subject,
    *,
    batch: Batch,
) -> Again:
    """Return ln of the norm of the gradient of each weight, computed in float64.

    The gradient at the output is brought to size 1 first. Units that are flat in the
    dtype of the network, as a saturated tanh is, are flat here too.

    Args:
        objective: The loss.
        weights: The weights.
        subject: The network.
        batch: Parameters of all seeds and examples, in the dtype that they are measured
            in.
    """
    dtype = Split.floating(batch.params)[0].dtype
    cotangents, log_scale = _at_output(objective, batch)
    with jax.enable_x64(True), precision.full():
        params, xs = precision.cast((batch.params, batch.xs), jnp.float64)
        batch = batch._replace(params=params, xs=xs)
        try:
            program = _traced(objective, _first_seed(batch))
        except REFUSALS as error:
            return Again(None, f"f does not run in float64 ({type(error).__name__})")
        if _is_coarse(program):
            return Again(None, "f computes in float32 whatever its parameters are")
        # A unit whose slope rounds to zero in the dtype of the network passes no
        # gradient in training, so it must pass none here.
        run = as_steep_as(program, dtype)

        def of_seed(seed: tuple[Params, Array]) -> Float[Array, "inputs layers"]:
            params, cotangent = seed
            own = batch._replace(params=params)
            return _pulled(run, weights, own, cotangents=cotangent)

        def of_seeds(seeds: tuple[Params, Array]) -> Array:
            return jax.lax.map(of_seed, seeds)

        seeds = (params, jnp.asarray(cotangents))
        log_norm = np.asarray(jax.jit(of_seeds)(seeds))
        lost = _lost(subject, batch)
    # The size of the gradient at the output is put back.
    return Again(log_norm + log_scale[..., None], lost)


def _first_seed(batch: Batch) -> Batch:
    return batch._replace(params=jax.tree.map(lambda leaf: leaf[0], batch.params))


def _at_output(
    objective: Objective,
    batch: Batch,
) -> tuple[Float[np.ndarray, "seeds inputs ..."], Float[np.ndarray, "seeds inputs"]]:
    """Return the gradients of the losses at the outputs, scaled to size 1.

    Second, ln of the factor that gives back the size.
    """

    def lifted(
        output: Array,
        target: PyTree[Array],
    ) -> Array:
        return LIFT * objective.loss(output, target)

    def of_seed(params: Params) -> Array:
        outputs = objective.outputs(params, batch.xs, batch.key)
        return jax.vmap(jax.grad(lifted))(outputs, batch.targets)

    def of_seeds(params: Params) -> Array:
        return jax.lax.map(of_seed, params)

    with jax.numpy_dtype_promotion("standard"), precision.full():
        gradients = np.asarray(jax.jit(of_seeds)(batch.params), float)
    # Without signal the gradient may be tiny, so it is scaled, and its size is kept as
    # a logarithm. Factors that are powers of two do not round, so that sums which
    # cancel exactly still do.
    axes = tuple(range(2, gradients.ndim))
    peak = np.abs(gradients).max(axes, keepdims=True)
    exponents = np.frexp(peak)[1]
    log_size = math.log(2) * exponents.reshape(peak.shape[:2])
    return np.ldexp(gradients, -exponents), log_size - math.log(LIFT)


def _traced(
    objective: Objective,
    batch: Batch,
) -> core.ClosedJaxpr:
    """Return the program of the outputs of a batch, in float64."""

    def outputs(
        params: Params,
        xs: PyTree[Array],
        key: Key,
    ) -> Array:
        return objective.outputs(params, xs, key)

    return jax.make_jaxpr(outputs)(batch.params, batch.xs, batch.key)


def _is_coarse(program: core.ClosedJaxpr) -> bool:
    """Tell whether a program has a floating value of less than 64 bits."""
    for eqn in jaxprs.equations(program.jaxpr):
        for var in eqn.outvars:
            aval: Any = var.aval
            if kinds.is_floating(aval) and jnp.finfo(aval.dtype).bits < 64:
                return True
    return False


def _pulled(
    run: Run,
    weights: tuple[Weight, ...],
    batch: Batch,
    cotangents: Array,
) -> Float[Array, "inputs layers"]:
    """Return ln of the norm of each weight's gradient, for the loss of each example."""
    split = Split(batch.params)

    def outputs(floating: list[Array]) -> Array:
        arguments = (split.joined(floating), batch.xs, batch.key)
        (out,) = run(*jax.tree.leaves(arguments))
        return out

    _, pull = jax.vjp(outputs, split.floating(batch.params))
    num_inputs = cotangents.shape[0]

    def of_one(i: Array) -> Float[Array, " layers"]:
        alone = jnp.zeros_like(cotangents).at[i].set(cotangents[i])
        (gradient,) = pull(alone)
        return _weights.log_norms(weights, gradient)

    return jax.lax.map(of_one, jnp.arange(num_inputs))


def _lost(
    subject: Subject,
    batch: Batch,
) -> str:
    """Return, in words, the first signal that underflows in float64 too; or "".

    Zeros alone may be exact, as behind dead units. A signal that underflows does so
    gradually: no layer with parameters in float32 multiplies by less than 1e-45, so
    that a tiny value comes before the zeros.
    """
    params = _first_seed(batch).params
    anatomy = structure.anatomy(subject.f, params, row_shapes(batch.xs))
    for name, size in _sizes(anatomy, batch).items():
        is_tiny = (size > 0) & (size < _LEAST_SIGNAL)
        if is_tiny.any():
            return f"the signal at {name!r} underflows float64 too"
    return ""


def _sizes(
    anatomy: Anatomy,
    batch: Batch,
) -> dict[str, Float[np.ndarray, "seeds inputs"]]:
    """Return the largest modulus at every point, in the order of the computation."""
    # In inference mode, one example at a time, whose points have names.
    places = {name: anatomy.place(name) for name in anatomy.points}
    program = tapped(anatomy.closed, places)

    def of_one(
        params: Params,
        x: PyTree[Array],
    ) -> dict[str, Array]:
        _, readings = program(jax.tree.leaves((params, x)), {})
        sizes = {}
        for name, value in readings.items():
            if kinds.is_floating(value):
                sizes[name] = jnp.max(jnp.abs(value), initial=0)
        return sizes

    of_seeds = jax.vmap(jax.vmap(of_one, (None, 0)), (0, None))
    sizes = jax.tree.map(np.asarray, jax.jit(of_seeds)(batch.params, batch.xs))
    # A compiled program returns a dict in the order of its keys.
    return {name: sizes[name] for name in anatomy.points if name in sizes}
