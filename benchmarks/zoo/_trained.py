"""The truth of locks by training to the end: do planted units ever part?"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.zoo import _plants
from benchmarks.zoo._case import Case, Weights, path_name
from benchmarks.zoo._plants import Units

# Steps of gradient descent: near misses of 1e-6 grow by their own gradients, and locks
# have had the time to be broken by rounding. In ten times as many nothing changes.
_STEPS = 200

# The rate is small enough for all architectures, and moves every weight by percents.
_RATE = 0.05

_EXAMPLES = 16


class Parting(NamedTuple):
    """How far planted units are apart, relative to units that are unrelated.

    Attributes:
        before: As they are planted.
        after: After training.
        moved: How far training moved them.
    """

    before: float
    after: float
    moved: float


def parting(case: Case, seed: int = 0) -> Parting | None:
    """Train a planted network, in float64 if it can, and compare the units that were made equal.

    Full gradient descent on random targets, in inference mode: averages of batch norm
    are kept as they are drawn.

    Args:
        case: The network.
        seed: Of its weights, inputs and targets.

    Returns:
        None of a network whose plant is of no units.
    """
    plant = case.plant
    if not isinstance(plant, partial) or "find" not in plant.keywords:
        return None
    find = plant.keywords["find"]
    try:
        with jax.enable_x64(True):
            before, after = _train(case, seed)
    # Some models insist on float32, such as a scan whose state begins in it.
    except TypeError:
        before, after = _train(case, seed)
    units_before, units_after = find(before), find(after)
    pairs = zip(_parts(units_before), _parts(units_after), strict=True)
    moved = max(np.abs(old[0] - new[0]).max() for old, new in pairs)
    distance = _distance_of_dead if plant.func is _plants.cut_off else _distance
    sign = plant.keywords.get("sign", 1.0)
    return Parting(distance(units_before, sign), distance(units_after, sign), moved)


def _parts(units: Units) -> list[np.ndarray]:
    """Return all weights of the units."""
    return [*units.into, *units.out, *units.gates]


def _distance(units: Units, sign: float) -> float:
    """Return how far units 0 and 1 are apart, relative to units 0 and 2 or to 0."""
    signed = [*units.into, *units.out]
    near = [np.abs(part[1] - sign * part[0]).max() for part in signed]
    near += [np.abs(part[1] - part[0]).max() for part in units.gates]
    sizes = [np.abs(part[0]).max() for part in _parts(units)]
    return float(max(near) / max(sizes))


def _distance_of_dead(units: Units, sign: float) -> float:
    """Return the largest weight of unit 0, relative to the last one's."""
    del sign
    parts = _parts(units)
    largest = max(np.abs(part[-1]).max() for part in parts)
    return float(max(np.abs(part[0]).max() for part in parts) / largest)


def _train(case: Case, seed: int) -> tuple[Weights, Weights]:
    """Return the weights of a case before and after training."""
    key_params, key_xs, key_targets = jax.random.split(jax.random.key(seed), 3)
    stacked = case.planted(key_params[None])
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], float), stacked)
    xs = case.draw_inputs(key_xs, _EXAMPLES)
    function = case.build().function
    outputs = jax.vmap(function, (None, 0))
    shape = jax.eval_shape(outputs, params, xs).shape
    targets = jax.random.normal(key_targets, shape)

    def loss(params: dict) -> Array:
        return jnp.mean((outputs(params, xs) - targets) ** 2)

    def step(params: dict, _: None) -> tuple[dict, None]:
        gradients = jax.grad(loss)(params)
        return jax.tree.map_with_path(_updated, params, gradients), None

    train = jax.jit(lambda params: jax.lax.scan(step, params, length=_STEPS)[0])
    return _by_path(params), _by_path(train(params))


def _updated(path: tuple, leaf: Array, gradient: Array) -> Array:
    """Return a leaf after a step; averages of batch norm are not trained."""
    is_average = path_name(path).startswith("batch_stats")
    return leaf if is_average else leaf - _RATE * gradient


def _by_path(params: dict) -> Weights:
    """Return weights on the host by their path."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): np.array(leaf) for path, leaf in paths}
