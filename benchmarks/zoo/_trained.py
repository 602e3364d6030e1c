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
        moved: How far training moved a weight of unit 0.
    """

    before: float
    after: float
    moved: float


def parting(case: Case, seed: int = 0) -> Parting | None:
    """Train a planted network, and compare the units that were made equal.

    Full gradient descent on random targets, in float64 if the model can be computed in
    it, and in inference mode: averages of batch norm are kept as they are drawn.

    Args:
        case: The network.
        seed: Of its weights, inputs and targets.

    Returns:
        None of a network whose plant is of no units.
    """
    plant = case.plant
    if not isinstance(plant, partial) or "find" not in plant.keywords:
        return None
    # Built outside of the 64-bit mode, in which a model may refuse its example.
    case.build()
    try:
        with jax.enable_x64(True):
            before, after = _train(case, seed)
    # Some models insist on float32, such as a scan whose state begins in it.
    except TypeError:
        before, after = _train(case, seed)
    find = plant.keywords["find"]
    old, new = find(before), find(after)
    is_dead = plant.func is _plants.cut_off
    sign = plant.keywords.get("sign", 1.0)
    return Parting(
        before=_distance(old, sign, is_dead=is_dead),
        after=_distance(new, sign, is_dead=is_dead),
        moved=_moved(old, new),
    )


def _parts(units: Units) -> list[np.ndarray]:
    """Return all weights of the units."""
    return [*units.into, *units.out, *units.gates]


def _moved(before: Units, after: Units) -> float:
    """Return the largest change of a weight of unit 0."""
    largest = 0.0
    for old, new in zip(_parts(before), _parts(after), strict=True):
        largest = max(largest, _largest(new[0] - old[0]))
    return largest


def _distance(units: Units, sign: float, *, is_dead: bool) -> float:
    """Return how far unit 0 is from unit 1, or from zero, relative to its size.

    The size of a dead unit is that of the last one, which is alive.
    """
    parts = _parts(units)
    if is_dead:
        size = max(_largest(part[-1]) for part in parts)
        return max(_largest(part[0]) for part in parts) / size
    size = max(_largest(part[0]) for part in parts)
    distance = 0.0
    for part in units.gates:
        distance = max(distance, _largest(part[1] - part[0]))
    for part in (*units.into, *units.out):
        distance = max(distance, _largest(part[1] - sign * part[0]))
    return distance / size


def _largest(values: np.ndarray) -> float:
    """Return the largest magnitude."""
    return float(np.abs(values).max())


def _train(case: Case, seed: int) -> tuple[Weights, Weights]:
    """Return the weights of a case before and after training."""
    keys = jax.random.split(jax.random.key(seed), 3)
    stacked = case.planted(keys[:1])
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], float), stacked)
    xs = case.draw_inputs(keys[1], _EXAMPLES)
    outputs = jax.vmap(case.build().function, (None, 0))
    shape = jax.eval_shape(outputs, params, xs).shape
    targets = jax.random.normal(keys[2], shape)

    def loss(params: dict) -> Array:
        errors = outputs(params, xs) - targets
        return jnp.mean(errors**2)

    def step(params: dict, _: None) -> tuple[dict, None]:
        gradients = jax.grad(loss)(params)
        return jax.tree.map_with_path(_updated, params, gradients), None

    @jax.jit
    def train(params: dict) -> dict:
        after, _ = jax.lax.scan(step, params, length=_STEPS)
        return after

    return _by_path(params), _by_path(train(params))


def _updated(path: tuple, leaf: Array, gradient: Array) -> Array:
    """Return a leaf after a step; averages of batch norm are not trained."""
    is_average = path_name(path).startswith("batch_stats")
    return leaf if is_average else leaf - _RATE * gradient


def _by_path(params: dict) -> Weights:
    """Return weights on the host by their path."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): np.array(leaf) for path, leaf in paths}
