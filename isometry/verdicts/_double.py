"""Gradients in float64, of networks whose own dtype takes them for zero."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float, PyTree

from isometry import structure
from isometry._internal import jaxprs, precision
from isometry._internal.types import Key, Params
from isometry.measure._draws import row_shapes
from isometry.measure._leaves import is_floating
from isometry.structure import Anatomy
from isometry.structure._tapping import tapped
from isometry.verdicts import _weights
from isometry.verdicts._objective import LIFT, Objective, Split
from isometry.verdicts._steepness import Run, as_steep_as
from isometry.verdicts._subject import Subject
from isometry.verdicts._weights import Weight

# Signals below the square root of the smallest number of float64: the product of one
# with a gradient as small, which is the gradient of a weight, is no number any more.
_LEAST_SIGNAL = math.sqrt(float(np.finfo(np.float64).tiny))


def log_norms(
    objective: Objective,
    weights: tuple[Weight, ...],
    subject: Subject,
    *,
    params: Params,
    xs: PyTree[Array],
    targets: PyTree[Array],
    key: Key,
) -> tuple[Float[np.ndarray, "seeds inputs layers"] | None, str]:
    """Return ln of the norm of the gradient of each weight, computed in float64.

    The gradient at the output is brought to size 1 first. Units that are flat in the
    dtype of the network, as a saturated tanh is, are flat here too.

    Args:
        objective: The loss.
        weights: The weights.
        subject: The network.
        params: Parameters of all seeds, in the dtype that the network is measured in.
        xs: Examples, likewise.
        targets: Their targets.
        key: What training draws with.

    Returns:
        The logarithms, or None if the network does not compute in float64; and why the
        zeros that are left may be no zeros, or "".
    """
    num_seeds = jax.tree.leaves(params)[0].shape[0]
    num_inputs = jax.tree.leaves(xs)[0].shape[0]
    dtype = Split.floating(params)[0].dtype
    cotangents, log_scale = _at_output(objective, params, xs, targets, key)
    with jax.enable_x64(True), precision.full():
        params, xs = precision.cast((params, xs), jnp.float64)
        one = jax.tree.map(lambda leaf: leaf[0], params)
        try:
            program = _traced(objective, one, xs, key)
        # A user's f may insist on its dtype, and raise anything.
        except Exception as error:
            return None, f"f does not run in float64 ({type(error).__name__})"
        if _is_coarse(program):
            return None, "f computes in float32 whatever its parameters are"
        run = as_steep_as(program, dtype)
        pull = jax.jit(functools.partial(_pulled, run, weights))
        log_norm = np.empty((num_seeds, num_inputs, len(_weights.names_of(weights))))
        for seed in range(num_seeds):
            of_seed = jax.tree.map(lambda leaf, i=seed: leaf[i], params)
            found = pull(of_seed, xs, key, cotangents[seed])
            log_norm[seed] = np.asarray(found) + log_scale[seed][:, None]
        lost = _lost(subject, params, xs)
    return log_norm, lost


def _at_output(
    objective: Objective,
    params: Params,
    xs: PyTree[Array],
    targets: PyTree[Array],
    key: Key,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the gradients of the losses at the outputs, of size 1, and their logs."""

    def of_seed(params: Params) -> Array:
        outputs = objective.outputs(params, xs, key)
        return jax.vmap(jax.grad(lifted))(outputs, targets)

    def lifted(output: Array, target: PyTree[Array]) -> Array:
        return LIFT * objective.loss(output, target)

    cotangents, logs = [], []
    with jax.numpy_dtype_promotion("standard"), precision.full():
        gradients = np.asarray(jax.jit(lambda p: jax.lax.map(of_seed, p))(params))
    for gradient in gradients.astype(float):
        peak = np.abs(gradient).reshape(len(gradient), -1).max(1)
        safe = np.where(peak > 0, peak, 1)
        cotangents.append(gradient / safe.reshape(-1, *[1] * (gradient.ndim - 1)))
        logs.append(np.where(peak > 0, np.log(safe), -np.inf) - math.log(LIFT))
    return cotangents, logs


def _traced(
    objective: Objective, params: Params, xs: PyTree[Array], key: Key
) -> core.ClosedJaxpr:
    """Return the program of the outputs of a batch, in float64."""

    def outputs(params: Params, xs: PyTree[Array], key: Key) -> Array:
        return objective.outputs(params, xs, key)

    return jax.make_jaxpr(outputs)(params, xs, key)


def _is_coarse(program: core.ClosedJaxpr) -> bool:
    """Tell whether a program has a floating value of less than 64 bits."""
    for eqn in jaxprs.equations(program.jaxpr):
        for var in eqn.outvars:
            dtype = getattr(var.aval, "dtype", None)
            if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
                continue
            if jnp.finfo(dtype).bits < 64:
                return True
    return False


def _pulled(
    run: Run,
    weights: tuple[Weight, ...],
    params: Params,
    xs: PyTree[Array],
    key: Key,
    cotangents: Array,
) -> Float[Array, "inputs layers"]:
    """Return ln of the norm of each weight's gradient, for the loss of each example."""
    split = Split(params)

    def outputs(floating: list[Array]) -> Array:
        (out,) = run(*jax.tree.leaves((split.joined(floating), xs, key)))
        return out

    _, pull = jax.vjp(outputs, split.floating(params))

    def of_one(i: Array) -> Float[Array, " layers"]:
        is_row = jnp.arange(len(cotangents)) == i
        mask = is_row.reshape(-1, *[1] * (cotangents.ndim - 1))
        (gradient,) = pull(jnp.where(mask, cotangents, 0.0))
        return _weights.log_norms(weights, gradient)

    return jax.lax.map(of_one, jnp.arange(len(cotangents)))


def _lost(subject: Subject, params: Params, xs: PyTree[Array]) -> str:
    """Return which signal leaves even the range of float64, in words; or ""."""
    one = jax.tree.map(lambda leaf: leaf[0], params)
    anatomy = structure.anatomy(subject.f, one, row_shapes(xs))
    sizes = _sizes(anatomy, params, xs)
    for name, size in sizes.items():
        is_tiny = (size > 0) & (size < _LEAST_SIGNAL)
        if is_tiny.any():
            return f"the signal at {name!r} underflows float64 too"
    return ""


def _sizes(
    anatomy: Anatomy, params: Params, xs: PyTree[Array]
) -> dict[str, Float[np.ndarray, "seeds inputs"]]:
    """Return the largest modulus at every point, in the order of the computation."""
    places = {name: anatomy.place(name) for name in anatomy.points}
    program = tapped(anatomy.closed, places)

    def of_one(params: Params, x: PyTree[Array]) -> dict[str, Array]:
        _, readings = program(jax.tree.leaves((params, x)), {})
        floating = {
            name: value for name, value in readings.items() if is_floating(value)
        }
        return {
            name: jnp.max(jnp.abs(value), initial=0) for name, value in floating.items()
        }

    of_seeds = jax.vmap(jax.vmap(of_one, (None, 0)), (0, None))
    return jax.tree.map(np.asarray, jax.jit(of_seeds)(params, xs))
