"""Random members of the spaces that training may reach."""

import numpy as np
from jaxtyping import Float

from isometry.certificates._gradients import Space
from isometry.certificates._partition import Partition, Vector

# The kinds of points, in the order in which they are tried.
NEAR, FRESH, STACKED, SPREAD, TINY = range(5)
NUM_KINDS = 5

# Gain of the weights of a fresh point. At 1 a tanh network of 100 layers is saturated
# or chaotic; at 0.1 the signal of 300 layers underflows float64.
_GAIN = 0.5

# Leaves of a spread point are smaller by up to 2^10: units of tanh(1000 w x) are then
# not saturated. Those of a tiny point are smaller by 2^40, for steeper units; of many
# leaves by less, so that their product does not underflow, which it does at 2^1074.
_LOG2_SPREAD = 10.0
_LOG2_TINY, _LOG2_OF_ALL = 40.0, 600.0


def exact_point(
    space: Space,
    partition: Partition,
    kind: int,
    *,
    rng: np.random.Generator,
) -> Vector:
    """Draw a random vector whose entries are equal, or zero, where those of theta are.

    Entries of a class of the partition are equal up to their signs.

    Args:
        space: The parameters.
        partition: The classes, which `space.theta` has too.
        kind: `NEAR` keeps the magnitudes of theta, where a result depends on its scale.
            `FRESH` draws new magnitudes that keep signals near 1: at the scale of theta
            units may be saturated, or signals underflow. `STACKED` does so for arrays
            whose leading axes are a stack of layers. `SPREAD` makes some leaves small,
            and `TINY` all, for units that are steep by themselves.
        rng: The source of randomness.

    Returns:
        The vector.
    """
    scales, of_classes = _scales(space, partition, is_stacked=kind == STACKED)
    if kind in (SPREAD, TINY):
        factors = 2.0 ** rng.uniform(-_LOG2_SPREAD, 0.0, len(scales))
        if kind == TINY:
            factors *= 2.0 ** -min(_LOG2_TINY, _LOG2_OF_ALL / len(scales))
        scales = scales * factors
        of_classes = of_classes * factors[space.leaf[partition.first_members]]
    vector = rng.standard_normal(space.size)
    vector *= scales[space.leaf]
    of_classes *= rng.standard_normal(len(of_classes))
    if kind == NEAR:
        near = space.theta * rng.uniform(0.75, 1.25, space.size)
        np.copyto(vector, near, where=space.theta != 0)
        first = partition.first_members
        magnitude = np.abs(space.theta[first])
        near_classes = magnitude * rng.uniform(0.75, 1.25, len(first))
        # Entries that have left the class of zeros have no magnitude in theta.
        of_classes = np.where(magnitude > 0, near_classes, of_classes)
    partition.spread(vector, of_classes)
    return vector


def positive_point(
    space: Space,
    partition: Partition,
    rng: np.random.Generator,
) -> Vector:
    """Draw a random vector that keeps a partition and the signs of theta.

    It is for functions that are not defined at other signs: the root of a variance.
    """
    vector = space.theta * np.exp(rng.uniform(-1.0, 1.0, space.size))
    first = partition.first_members
    of_classes = np.abs(vector[first])
    partition.spread(vector, of_classes)
    return vector


def affine_point(
    space: Space,
    partition: Partition,
    gammas: Float[np.ndarray, " leaves"],
    *,
    rng: np.random.Generator,
) -> Vector:
    """Draw a random point that training may reach from theta.

    It is theta, shrunk leaf by leaf, plus a random vector that keeps a partition.

    Args:
        space: The parameters.
        partition: The classes of entries of the update.
        gammas: The factor by which weight decay multiplies each leaf.
        rng: The source of randomness.

    Returns:
        The vector.
    """
    decayed = gammas[space.leaf] * space.theta
    # Before the first step nothing has been added.
    if len(partition.zeros) == partition.size:
        return decayed
    scales, of_classes = _scales(space, partition, is_stacked=False)
    added = rng.standard_normal(space.size)
    added *= scales[space.leaf]
    of_classes *= rng.standard_normal(len(of_classes))
    partition.spread(added, of_classes)
    return decayed + added


def _scales(
    space: Space,
    partition: Partition,
    is_stacked: bool,
) -> tuple[Float[np.ndarray, " leaves"], Float[np.ndarray, " classes"]]:
    """Return the scales of entries that are alone, by leaf, and those of classes.

    They keep the sum over a column, the weights of one unit, near the gain. Entries
    that are alone add up like independent numbers, to sqrt(fan_in) times their scale.
    Entries of one class are equal and add up in full, to their number in the column
    times their scale.

    Args:
        space: The parameters.
        partition: The classes.
        is_stacked: Whether all axes but the last two are layers of a stack, which are
            no part of the fan-in, instead of the window of a kernel, which is.
    """
    matrices = [_as_matrix(shape) for shape in space.shapes]
    fan_ins = np.array([np.prod(shape[:-1]) for shape in matrices], float)
    num_columns = np.array([shape[-1] for shape in matrices], float)
    leaf = space.leaf[partition.first_members]
    num_in_column = partition.sizes / num_columns[leaf]
    alone = _GAIN / np.sqrt(np.maximum(fan_ins, 1))
    shared = _GAIN / np.maximum(np.sqrt(fan_ins[leaf]), num_in_column)
    if not is_stacked:
        return alone, shared
    num_rows = np.array([shape[-2] for shape in matrices], float)
    num_layers = fan_ins / np.maximum(num_rows, 1)
    # Gain 1 instead of one half, so that a deep stack does not lose the signal.
    factor = np.sqrt(num_layers) / _GAIN
    return alone * factor, shared * factor[leaf]


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a weight; (1, 1) for a bias, whose entries are not summed."""
    return shape if len(shape) > 1 else (1, 1)
